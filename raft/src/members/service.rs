//! What members ask of each other about leadership. Every call checks its envelope first.

use mode_envoy_proto::peer::v1 as wire;
use tonic::{Request, Response, Status};
use wire::members_server::{Members, MembersServer};

use super::transfer::transfer;
use crate::cluster::Handle;
use crate::peer_server::Door;

/// A question or its answer: an envelope, and a few numbers or a sentence.
const MEMBERS_BYTES_MAX: usize = 16 << 10;

/// Serves `modeenvoy.peer.v1.Members`.
pub(crate) struct MembersService {
    door: Door,
    handle: Handle,
}

// === impl MembersService ===

impl MembersService {
    /// As the peer listener serves it.
    pub(crate) fn server(door: Door, handle: Handle) -> MembersServer<Self> {
        MembersServer::new(Self { door, handle })
            .max_decoding_message_size(MEMBERS_BYTES_MAX)
            .max_encoding_message_size(MEMBERS_BYTES_MAX)
    }
}

#[tonic::async_trait]
impl Members for MembersService {
    async fn transfer_leader(
        &self,
        request: Request<wire::TransferLeaderRequest>,
    ) -> Result<Response<wire::TransferLeaderResponse>, Status> {
        self.door
            .member(&request, request.get_ref().envelope.as_ref())?;
        let target = request.get_ref().target;
        let moved = {
            let changing = &self.handle.leadership().changing;
            let _one_at_a_time = changing.lock().await;
            transfer(&self.handle, target).await
        };
        let leader = self.handle.status().leader;
        Ok(Response::new(wire::TransferLeaderResponse {
            leader: leader.unwrap_or_default(),
            refusal: moved.err().map(|e| e.to_string()).unwrap_or_default(),
        }))
    }

    async fn campaign(
        &self,
        request: Request<wire::CampaignRequest>,
    ) -> Result<Response<wire::CampaignResponse>, Status> {
        let from = self
            .door
            .member(&request, request.get_ref().envelope.as_ref())?;
        let raft = self.handle.raft();
        let (leader, term) = {
            let metrics = raft.metrics();
            let metrics = metrics.borrow();
            (metrics.current_leader, metrics.current_term)
        };
        if leader != Some(from) || term != request.get_ref().term {
            return Err(Status::failed_precondition(format!(
                "node {from} does not lead in term {}, as this node knows",
                request.get_ref().term
            )));
        }
        let asked = raft.trigger().elect().await;
        asked.map_err(|error| Status::unavailable(error.to_string()))?;
        Ok(Response::new(wire::CampaignResponse {}))
    }

    async fn take_secret(
        &self,
        request: Request<wire::TakeSecretRequest>,
    ) -> Result<Response<wire::TakeSecretResponse>, Status> {
        let from = self
            .door
            .member(&request, request.get_ref().envelope.as_ref())?;
        let catalog = self.handle.catalog();
        let rotation = catalog
            .rotation()
            .ok_or_else(|| Status::failed_precondition("no secret is being replaced"))?;
        let members = catalog.members();
        let known = members.joined().any(|node| node.id == from)
            || self.handle.member_addresses().contains_key(&from);
        if members.is_removed(from) || !known {
            return Err(Status::permission_denied(format!(
                "node {from} is no member of the cluster"
            )));
        }
        let cluster_id = self.handle.cluster_id();
        let secret = self.handle.secrets().by_check(&rotation.check, &cluster_id);
        let secret = secret.ok_or_else(|| Status::unavailable("this node does not hold it yet"))?;
        tracing::info!(node = from, "a member takes the new cluster secret");
        Ok(Response::new(wire::TakeSecretResponse {
            secret: secret.to_hex().to_string(),
        }))
    }
}
