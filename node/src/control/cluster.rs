//! The state of the cluster, as this node sees it.

use std::time::Duration;

use mode_envoy_raft::MemberStatus;

use super::authorize::{Action, check};
use super::{Control, ControlError, Principal};
use crate::secrets::hex;

/// How long the other members have to answer.
const LOOK: Duration = Duration::from_secs(2);

/// The state of the cluster.
#[derive(Clone, Debug)]
pub struct ClusterStatus {
    /// Hexadecimal.
    pub cluster_id: String,
    /// `None` while there is none.
    pub leader: Option<u64>,
    /// Revision of this node's catalog.
    pub revision: u64,
    /// By id, this node included.
    pub members: Vec<MemberStatus>,
}

// === impl Control ===

impl Control {
    /// Asks every member. Works without a quorum: that is when it is needed most.
    ///
    /// # Errors
    ///
    /// The role does not allow it.
    pub async fn cluster_status(&self, who: &Principal) -> Result<ClusterStatus, ControlError> {
        check(who.role, Action::ReadCluster)?;
        let members = self.handle.statuses(LOOK).await;
        let status = self.handle.status();
        Ok(ClusterStatus {
            cluster_id: hex(&self.handle.cluster_id()),
            leader: status.leader,
            revision: status.revision,
            members,
        })
    }
}
