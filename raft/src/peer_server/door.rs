//! Who may ask a member for something: whom the envelope and the certificate name, unless the cluster does without it by now.
//!
//! Invariant: every service between members asks here first, and only what a removed node needs to learn or to hand in on its
//! way out goes by [`Door::anyone`].

use mode_envoy_proto::peer::v1::Envelope;
use tonic::{Request, Status};

use super::envelope::{Local, check_envelope};
use crate::apply::SharedState;
use crate::identity::ClusterId;
use crate::types::NodeId;

/// Judges requests of other nodes. A cheap clone.
#[derive(Clone)]
pub(crate) struct Door {
    local: Local,
    state: SharedState,
}

// === impl Door ===

impl Door {
    /// Of the node that `local` describes, by what `state` says of the others.
    pub(crate) const fn new(local: Local, state: SharedState) -> Self {
        Self { local, state }
    }

    /// The cluster that this node is a member of.
    pub(crate) const fn cluster_id(&self) -> ClusterId {
        self.local.cluster_id
    }

    /// The sender, which the cluster has not done without; see [`check_envelope`].
    pub(crate) fn member<T>(
        &self,
        request: &Request<T>,
        envelope: Option<&Envelope>,
    ) -> Result<NodeId, Status> {
        let from = self.anyone(request, envelope)?;
        self.belongs(from)?;
        Ok(from)
    }

    /// The sender, also one that was removed; see [`check_envelope`].
    pub(crate) fn anyone<T>(
        &self,
        request: &Request<T>,
        envelope: Option<&Envelope>,
    ) -> Result<NodeId, Status> {
        check_envelope(&self.local, request, envelope)
    }

    /// A node that the cluster has done without is heard no more.
    pub(crate) fn belongs(&self, node: NodeId) -> Result<(), Status> {
        if self.state.has_removed(node) {
            return Err(Status::permission_denied(format!(
                "node {node} was removed from the cluster"
            )));
        }
        Ok(())
    }
}
