//! The receiving side of consensus: checks who speaks, then hands the message to the library.

use mode_envoy_proto::peer::v1 as wire;
use openraft::error::RaftError;
use openraft::raft::AppendEntriesResponse;
use tonic::{Request, Response, Status, Streaming};

use crate::contact::{BootMs, Contact};
use crate::convert::{self, DecodeError};
use crate::peer_server::Door;
use crate::snapshot::{Answers, Receiver};
use crate::types::{NodeId, Raft};

/// Serves `modeenvoy.peer.v1.Raft`.
pub(crate) struct RaftService {
    raft: Raft,
    door: Door,
    snapshots: Receiver,
    contact: Contact,
}

// === impl RaftService ===

impl RaftService {
    /// For whom `door` lets in; what it accepts from the leader is `contact` with the quorum.
    pub(crate) fn new(raft: Raft, door: Door, snapshots: Receiver, contact: Contact) -> Self {
        Self {
            raft,
            door,
            snapshots,
            contact,
        }
    }
}

#[tonic::async_trait]
impl wire::raft_server::Raft for RaftService {
    async fn append_entries(
        &self,
        request: Request<wire::AppendEntriesRequest>,
    ) -> Result<Response<wire::AppendEntriesResponse>, Status> {
        let arrived = BootMs::now();
        let from = self
            .door
            .member(&request, request.get_ref().envelope.as_ref())?;
        let told = request.get_ref().quorum_age_ms;
        let rpc = convert::read_append_request(request.into_inner()).map_err(|e| invalid(&e))?;
        speaks_for_itself(from, rpc.vote.leader_id.node_id)?;
        let answer = self
            .raft
            .append_entries(rpc)
            .await
            .map_err(|e| stopped(&e))?;
        if matches!(
            answer,
            AppendEntriesResponse::Success | AppendEntriesResponse::PartialSuccess(_)
        ) {
            self.contact.heard(arrived, told);
        }
        Ok(Response::new(convert::write_append_response(&answer)))
    }

    async fn vote(
        &self,
        request: Request<wire::VoteRequest>,
    ) -> Result<Response<wire::VoteResponse>, Status> {
        let from = self
            .door
            .member(&request, request.get_ref().envelope.as_ref())?;
        let rpc = convert::read_vote_request(request.get_ref()).map_err(|e| invalid(&e))?;
        speaks_for_itself(from, rpc.vote.leader_id.node_id)?;
        let answer = self.raft.vote(rpc).await.map_err(|e| stopped(&e))?;
        Ok(Response::new(convert::write_vote_response(&answer)))
    }

    type InstallSnapshotStream = Answers;

    async fn install_snapshot(
        &self,
        request: Request<Streaming<wire::InstallSnapshotRequest>>,
    ) -> Result<Response<Answers>, Status> {
        Ok(Response::new(self.snapshots.begin(request)))
    }
}

/// Only a leader appends and only a candidate asks for votes, each in its own name.
fn speaks_for_itself(from: NodeId, claimed: NodeId) -> Result<(), Status> {
    if from == claimed {
        return Ok(());
    }
    Err(Status::permission_denied(format!(
        "node {from} speaks in the name of node {claimed}"
    )))
}

fn invalid(error: &DecodeError) -> Status {
    Status::invalid_argument(error.to_string())
}

fn stopped(error: &RaftError<NodeId>) -> Status {
    Status::unavailable(format!("this node's consensus has stopped: {error}"))
}
