//! The answering side of formation: says how far this node is, and persists the cluster id when the lowest node sends one.
//!
//! Invariants:
//! * An id is accepted only from the lowest id of this node's own list, over a connection whose certificate names that node.
//! * It is on disk before it is confirmed.
//! * Lists of nodes are compared while there is no cluster yet; afterwards the flag means nothing.

use std::collections::BTreeMap;

use mode_envoy_proto::peer::v1::formation_server::{Formation, FormationServer};
use mode_envoy_proto::peer::v1::{FormRequest, FormResponse, NodeState};
use tonic::{Request, Response, Status};

use super::{FORM_BYTES_MAX, initial_cluster_text};
use crate::data_dir::{DataDir, DataDirError, Stage};
use crate::identity::{ClusterId, PeerIdentity};

/// The `Formation` service of one node; made by [`prepare`](super::prepare).
#[derive(Clone, Debug)]
pub struct FormationService {
    node_id: u64,
    data_dir: DataDir,
    members: BTreeMap<u64, String>,
}

// === impl FormationService ===

impl FormationService {
    pub(super) fn new(node_id: u64, data_dir: DataDir, members: BTreeMap<u64, String>) -> Self {
        Self {
            node_id,
            data_dir,
            members,
        }
    }

    /// As the peer listener serves it.
    pub(crate) fn into_server(self) -> FormationServer<Self> {
        FormationServer::new(self)
            .max_decoding_message_size(FORM_BYTES_MAX)
            .max_encoding_message_size(FORM_BYTES_MAX)
    }

    /// Answers, and persists what was sent. Writes to disk.
    fn answer(&self, request: &FormRequest) -> Result<FormResponse, Status> {
        let refusal = match self.refusal(request) {
            Some(refusal) => refusal,
            None if request.cluster_id.is_empty() => String::new(),
            None => self.persist(request)?,
        };
        let record = self.data_dir.record();
        let (state, members) = match record.stage {
            Stage::Fresh => (NodeState::Fresh, Vec::new()),
            Stage::Forming { .. } => (NodeState::Forming, Vec::new()),
            Stage::Member { .. } => (NodeState::Member, self.members.keys().copied().collect()),
        };
        Ok(FormResponse {
            state: state.into(),
            cluster_id: record.cluster_id().map(Vec::from).unwrap_or_default(),
            node_id: self.node_id,
            refusal,
            members,
        })
    }

    /// Why this node does not form a cluster with the one that asks.
    fn refusal(&self, request: &FormRequest) -> Option<String> {
        let is_member = matches!(self.data_dir.record().stage, Stage::Member { .. });
        let ours = initial_cluster_text(&self.members);
        if !is_member && request.initial_cluster != ours {
            return Some(format!(
                "node {} has --initial-cluster {}, node {} has {ours}; it must be the same on all nodes",
                request.from, request.initial_cluster, self.node_id
            ));
        }
        let lowest = self.members.keys().next().copied();
        if !request.cluster_id.is_empty() && lowest != Some(request.from) {
            return Some(format!(
                "only the node with the lowest id sends the cluster's id, not node {}",
                request.from
            ));
        }
        None
    }

    /// Persists the id that was sent; returns a refusal, or nothing.
    fn persist(&self, request: &FormRequest) -> Result<String, Status> {
        let cluster_id = ClusterId::try_from(request.cluster_id.as_slice())
            .map_err(|_| Status::invalid_argument("a cluster id has 16 bytes"))?;
        match self.data_dir.begin_forming(cluster_id, &self.members) {
            Ok(()) => Ok(String::new()),
            Err(error @ DataDirError::OtherCluster { .. }) => Ok(error.to_string()),
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "the cluster's id could not be persisted"
                );
                Err(Status::internal(format!("node {}: {error}", self.node_id)))
            }
        }
    }
}

#[tonic::async_trait]
impl Formation for FormationService {
    async fn form(&self, request: Request<FormRequest>) -> Result<Response<FormResponse>, Status> {
        let peer = request
            .extensions()
            .get::<PeerIdentity>()
            .copied()
            .ok_or_else(|| {
                Status::permission_denied("the connection shows no certificate of a node")
            })?;
        let request = request.into_inner();
        if peer.node_id != request.from {
            return Err(Status::permission_denied(format!(
                "the request says it is from node {}, its certificate is of node {}",
                request.from, peer.node_id
            )));
        }
        if request.to != self.node_id {
            return Err(Status::failed_precondition(format!(
                "the request is for node {}, this is node {}",
                request.to, self.node_id
            )));
        }
        let service = self.clone();
        tokio::task::spawn_blocking(move || service.answer(&request))
            .await
            .map_err(|_| Status::unavailable("the node is stopping"))?
            .map(Response::new)
    }
}
