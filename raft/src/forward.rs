//! What this node asks of other members: to propose on the leader, for a read index, to flush usage, for their status.
//!
//! Every call has a deadline. A proposal is only called unsent where it provably did not reach the other node; in every
//! other failure its outcome is unknown.

use std::future::Future;
use std::time::Duration;

use mode_envoy_model::command::Rejected;
use mode_envoy_model::requests::ClientRequest;
use mode_envoy_proto::peer::v1 as wire;
use tonic::{Code, Status};
use zeroize::Zeroizing;

use crate::channels::DialError;
use crate::convert::{Proposal, Wire as _};
use crate::peers::{Peers, request};
use crate::proposal::{Accepted, Caller, ProposeError};
use crate::proposer::{Answer, Refusal, Reply};
use crate::reads::ReadError;
use crate::types::{NodeId, Raft};

/// Asks other members. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Forwarder {
    peers: Peers,
    raft: Raft,
}

// === impl Forwarder ===

impl Forwarder {
    /// Finds addresses in the membership that `raft` knows.
    pub(crate) fn new(peers: Peers, raft: Raft) -> Self {
        Self { peers, raft }
    }

    /// Proposes on `leader`.
    pub(crate) async fn propose(
        &self,
        leader: NodeId,
        proposal: &Proposal,
        caller: &Caller,
        limit: Duration,
    ) -> Answer {
        let address = self.address(leader).ok_or(Refusal::NotLeader(None))?;
        let message = wire::ProposeRequest {
            envelope: Some(self.peers.envelope(leader)),
            proposal: Some(proposal.to_wire()),
            actor: caller.actor.clone(),
            actor_token: caller
                .token_hash
                .map(|hash| hash.to_vec())
                .unwrap_or_default(),
            deadline_ms: u64::try_from(limit.as_millis()).unwrap_or(u64::MAX),
            request: caller.request.as_ref().map(ClientRequest::to_wire),
        };
        let mut client = self.peers.forward(leader, &address);
        let call = client.propose(request(message, limit));
        match tokio::time::timeout(limit, call).await {
            Ok(Ok(response)) => read_answer(response.into_inner()),
            Ok(Err(status)) => Err(propose_failure(leader, &status)),
            Err(_) => Err(Refusal::Final(ProposeError::Timeout)),
        }
    }

    /// The index that a linearizable read must wait for, from `leader`.
    pub(crate) async fn read_index(
        &self,
        leader: NodeId,
        limit: Duration,
    ) -> Result<u64, ReadError> {
        use wire::read_index_response::Result as Answer;
        let address = self.address(leader).ok_or(ReadError::NotLeader(None))?;
        let message = wire::ReadIndexRequest {
            envelope: Some(self.peers.envelope(leader)),
        };
        let mut client = self.peers.forward(leader, &address);
        let call = client.read_index(request(message, limit));
        let status = match tokio::time::timeout(limit, call).await {
            Ok(Ok(response)) => match response.into_inner().result {
                Some(Answer::Index(index)) => return Ok(index),
                Some(Answer::NotLeader(other)) => {
                    return Err(ReadError::NotLeader(known(other.leader)));
                }
                Some(Answer::Unavailable(why)) => return Err(ReadError::Unconfirmed(why.reason)),
                None => Status::internal("an empty answer"),
            },
            Ok(Err(status)) => status,
            Err(_) => Status::deadline_exceeded("no answer in time"),
        };
        Err(ReadError::Unconfirmed(failure(leader, &status)))
    }

    /// Has `node` flush its usage; the index it had applied then.
    pub(crate) async fn flush_usage(&self, node: NodeId, limit: Duration) -> Result<u64, Status> {
        let (address, envelope) = self.reach(node)?;
        let message = wire::FlushUsageRequest {
            envelope: Some(envelope),
        };
        let mut client = self.peers.forward(node, &address);
        let call = client.flush_usage(request(message, limit));
        Ok(within(limit, call).await?.index)
    }

    /// What `node` says of itself.
    pub(crate) async fn status(
        &self,
        node: NodeId,
        limit: Duration,
    ) -> Result<wire::NodeStatusResponse, Status> {
        let (address, envelope) = self.reach(node)?;
        let message = wire::NodeStatusRequest {
            envelope: Some(envelope),
        };
        let mut client = self.peers.forward(node, &address);
        let call = client.node_status(request(message, limit));
        within(limit, call).await
    }

    /// Has `leader` give its leadership to `target`.
    pub(crate) async fn transfer_leader(
        &self,
        leader: NodeId,
        target: NodeId,
        limit: Duration,
    ) -> Result<wire::TransferLeaderResponse, Status> {
        let (address, envelope) = self.reach(leader)?;
        let message = wire::TransferLeaderRequest {
            envelope: Some(envelope),
            target,
        };
        let mut client = self.peers.members(leader, &address);
        within(limit, client.transfer_leader(request(message, limit))).await
    }

    /// Has `node` stand for election now.
    pub(crate) async fn campaign(
        &self,
        node: NodeId,
        term: u64,
        limit: Duration,
    ) -> Result<(), Status> {
        let (address, envelope) = self.reach(node)?;
        let message = wire::CampaignRequest {
            envelope: Some(envelope),
            term,
        };
        let mut client = self.peers.members(node, &address);
        let asked = within(limit, client.campaign(request(message, limit)));
        asked.await.map(drop)
    }

    /// The new cluster secret, from a member that holds it.
    pub(crate) async fn take_secret(
        &self,
        node: NodeId,
        limit: Duration,
    ) -> Result<Zeroizing<String>, Status> {
        let (address, envelope) = self.reach(node)?;
        let message = wire::TakeSecretRequest {
            envelope: Some(envelope),
        };
        let mut client = self.peers.members(node, &address);
        let asked = within(limit, client.take_secret(request(message, limit)));
        Ok(Zeroizing::new(asked.await?.secret))
    }

    /// A page of `node`'s call records.
    pub(crate) async fn query_calls(
        &self,
        node: NodeId,
        mut message: wire::QueryCallsRequest,
        limit: Duration,
    ) -> Result<wire::QueryCallsResponse, Status> {
        let (address, envelope) = self.reach(node)?;
        message.envelope = Some(envelope);
        let mut client = self.peers.calls(node, &address);
        within(limit, client.query_calls(request(message, limit))).await
    }

    /// The call records that have come on `node`.
    pub(crate) async fn tail_calls(
        &self,
        node: NodeId,
        mut message: wire::TailCallsRequest,
        limit: Duration,
    ) -> Result<wire::TailCallsResponse, Status> {
        let (address, envelope) = self.reach(node)?;
        message.envelope = Some(envelope);
        let mut client = self.peers.calls(node, &address);
        within(limit, client.tail_calls(request(message, limit))).await
    }

    fn reach(&self, node: NodeId) -> Result<(String, wire::Envelope), Status> {
        let address = self.address(node);
        let address = address.ok_or_else(|| Status::not_found(format!("node {node} left")))?;
        Ok((address, self.peers.envelope(node)))
    }

    fn address(&self, node: NodeId) -> Option<String> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let member = metrics.membership_config.membership().get_node(&node)?;
        Some(member.peer.clone())
    }
}

async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, Status> {
    match tokio::time::timeout(limit, call).await {
        Ok(answer) => answer.map(tonic::Response::into_inner),
        Err(_) => Err(Status::deadline_exceeded("no answer in time")),
    }
}

fn read_answer(response: wire::ProposeResponse) -> Answer {
    use wire::propose_response::Result as Answer;
    // The answer says that the leader has spoken; only what it said is unreadable then.
    let unreadable = |error: crate::convert::DecodeError| {
        tracing::error!(%error, "the leader's answer cannot be read");
        Refusal::Final(ProposeError::Timeout)
    };
    match response.result {
        Some(Answer::Accepted(accepted)) => Accepted::from_wire(accepted)
            .map(Reply::Accepted)
            .map_err(unreadable),
        Some(Answer::Stream(outcome)) => mode_envoy_model::batch::Outcome::from_wire(outcome)
            .map(Reply::Stream)
            .map_err(unreadable),
        Some(Answer::Rejected(rejected)) => {
            let rejected = Rejected::from_wire(rejected).map_err(unreadable)?;
            Err(Refusal::Final(ProposeError::Rejected(rejected)))
        }
        Some(Answer::NotLeader(other)) => Err(Refusal::NotLeader(known(other.leader))),
        Some(Answer::Unavailable(why)) => Err(Refusal::Unsent(why.reason)),
        None => Err(Refusal::Final(ProposeError::Timeout)),
    }
}

fn propose_failure(leader: NodeId, status: &Status) -> Refusal {
    if DialError::of(status).is_some() {
        return Refusal::Unsent(failure(leader, status));
    }
    match status.code() {
        // Refused before anything was done with it.
        Code::InvalidArgument
        | Code::PermissionDenied
        | Code::Unauthenticated
        | Code::FailedPrecondition
        | Code::OutOfRange => Refusal::Final(ProposeError::Unavailable(failure(leader, status))),
        _ => {
            tracing::debug!(leader, %status, "a forwarded proposal has an unknown outcome");
            Refusal::Final(ProposeError::Timeout)
        }
    }
}

fn failure(node: NodeId, status: &Status) -> String {
    match DialError::of(status) {
        Some(dial) => dial.to_string(),
        None => format!("asking node {node}: {}", status.message()),
    }
}

/// Node ids begin at 1; zero says that none is known.
fn known(leader: u64) -> Option<NodeId> {
    (leader != 0).then_some(leader)
}
