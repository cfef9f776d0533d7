//! What is known about the members, and what they are asked together.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use mode_envoy_model::history::History;
use mode_envoy_model::limits;
use mode_envoy_proto::peer::v1 as wire;

use super::{About, Handle};
use crate::rotation::RotationReport;
use crate::types::{Member, NodeId};

/// What a member is in consensus.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum MemberRole {
    /// Decides and replicates.
    Leader,
    /// Votes.
    Follower,
    /// Only listens.
    Learner,
}

/// Whether a member is about to end.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Ending {
    /// Not as far as it says.
    #[default]
    No,
    /// It finishes what is in flight, and has usage to flush.
    Draining,
    /// It needs the log no more.
    Settled,
}

/// What a member says of itself. Where it cannot be reached, what the membership says of it, and zeros.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MemberStatus {
    /// Node id.
    pub id: NodeId,
    /// As the asking node sees it.
    pub role: MemberRole,
    /// Whether it answered.
    pub reachable: bool,
    /// Index of the last entry it has applied.
    pub applied_index: u64,
    /// The revision it has applied.
    pub revision: u64,
    /// The revision in force in its data plane.
    pub table_revision: u64,
    /// Where its gateway is reached.
    pub gateway: String,
    /// Where its admin listener is reached.
    pub admin: String,
    /// Where its peer listener is reached.
    pub peer: String,
    /// Its build.
    pub version: String,
    /// The newest version of log messages that it reads.
    pub format_version: u32,
    /// What is wrong there although it serves, a sentence each.
    pub alarms: Vec<String>,
    /// Whether it is about to end.
    pub ending: Ending,
    /// Whether it says that this node was removed from the cluster, and that the membership no longer has it.
    pub asker_removed: bool,
    /// How far it is in the replacement of the cluster secret.
    pub rotation: RotationReport,
    /// What it says of its history.
    pub history: HistoryHead,
}

/// The ends of a member's history.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct HistoryHead {
    /// Revision of its oldest record; 0 where it has none.
    pub since_revision: u64,
    /// Revision of its newest record.
    pub revision: u64,
    /// Hash of its newest record; empty where it said none.
    pub hash: Vec<u8>,
}

/// The cluster as this node sees it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Status {
    /// This node.
    pub node_id: NodeId,
    /// Who leads, if anybody.
    pub leader: Option<NodeId>,
    /// Of the leader, or of the election.
    pub term: u64,
    /// Peer addresses by node id.
    pub members: BTreeMap<NodeId, String>,
    /// Index of the last entry applied here.
    pub applied_index: u64,
    /// The revision applied here.
    pub revision: u64,
}

// === impl MemberRole ===

impl MemberRole {
    /// As the admin API says it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Leader => "leader",
            Self::Follower => "follower",
            Self::Learner => "learner",
        }
    }
}

// === impl About ===

impl About {
    /// What this node answers to the others.
    pub(super) fn answer(&self, asker: NodeId) -> wire::NodeStatusResponse {
        let report = self.rotator.reported();
        wire::NodeStatusResponse {
            draining: self.draining.load(Ordering::Acquire),
            settled: self.settled.load(Ordering::Acquire),
            asker_removed: self.state.has_removed(asker),
            applied_index: self.state.applied_index(),
            revision: self.state.catalog().revision(),
            gateway: self.advertise.gateway.clone(),
            admin: self.advertise.admin.clone(),
            version: self.version.clone(),
            format_version: limits::FORMAT_VERSION,
            table_revision: self.table_revision.load(Ordering::Acquire),
            alarms: (self.alarms)(),
            rotation_phase: report.phase,
            rotation_check: report.check,
            history: Some(self.state.read(|state| history_status(&state.history))),
        }
    }
}

// === impl Handle ===

impl Handle {
    /// The cluster as this node sees it; asks nobody.
    pub fn status(&self) -> Status {
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow();
        let members = metrics.membership_config.nodes();
        Status {
            node_id: self.inner.node_id,
            leader: metrics.current_leader,
            term: metrics.current_term,
            members: members
                .map(|(id, member)| (*id, member.peer.clone()))
                .collect(),
            applied_index: self.applied_index(),
            revision: self.catalog().revision(),
        }
    }

    /// Asks every member what it is, all at once; by id, this node included.
    pub async fn statuses(&self, timeout: Duration) -> Vec<MemberStatus> {
        let asked: Vec<_> = self
            .members()
            .into_iter()
            .map(|(id, role, member)| {
                let handle = self.clone();
                let answer = self.inner.tasks.start("ask for status", async move {
                    handle.ask_status(id, timeout).await
                });
                (id, role, member, answer)
            })
            .collect();
        let mut statuses = Vec::with_capacity(asked.len());
        for (id, role, member, answer) in asked {
            // Where the node is ending, nobody counts as reachable.
            let answer = answer.await.ok().flatten();
            statuses.push(member_status(id, role, member, answer));
        }
        statuses
    }

    /// Has every other member flush its usage, all at once; the members that did not.
    pub async fn flush_others(&self, timeout: Duration) -> Vec<NodeId> {
        let others = self
            .members()
            .into_iter()
            .filter(|(id, ..)| *id != self.inner.node_id);
        let asked: Vec<_> = others
            .map(|(id, ..)| {
                let forwarder = self.inner.forwarder.clone();
                let answer = self.inner.tasks.start("ask for a flush", async move {
                    forwarder.flush_usage(id, timeout).await
                });
                (id, answer)
            })
            .collect();
        let mut missing = Vec::new();
        for (id, answer) in asked {
            match answer.await {
                Ok(Ok(_)) => {}
                Ok(Err(status)) => {
                    tracing::debug!(node = id, %status, "a member did not flush its usage");
                    missing.push(id);
                }
                Err(_) => missing.push(id),
            }
        }
        missing
    }

    async fn ask_status(&self, id: NodeId, timeout: Duration) -> Option<wire::NodeStatusResponse> {
        if id == self.inner.node_id {
            return Some(self.inner.about.answer(id));
        }
        match self.inner.forwarder.status(id, timeout).await {
            Ok(answer) => Some(answer),
            Err(status) => {
                tracing::debug!(node = id, %status, "a member did not say its status");
                None
            }
        }
    }

    fn members(&self) -> Vec<(NodeId, MemberRole, Member)> {
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow();
        let voters: Vec<NodeId> = metrics.membership_config.voter_ids().collect();
        let role = |id: NodeId| {
            if metrics.current_leader == Some(id) {
                MemberRole::Leader
            } else if voters.contains(&id) {
                MemberRole::Follower
            } else {
                MemberRole::Learner
            }
        };
        let nodes = metrics.membership_config.nodes();
        nodes
            .map(|(id, member)| (*id, role(*id), member.clone()))
            .collect()
    }
}

fn member_status(
    id: NodeId,
    role: MemberRole,
    member: Member,
    answer: Option<wire::NodeStatusResponse>,
) -> MemberStatus {
    let reachable = answer.is_some();
    let answer = answer.unwrap_or_default();
    let history = answer.history.unwrap_or_default();
    MemberStatus {
        id,
        role,
        reachable,
        applied_index: answer.applied_index,
        revision: answer.revision,
        table_revision: answer.table_revision,
        gateway: answer.gateway,
        admin: answer.admin,
        peer: member.peer,
        version: answer.version,
        format_version: answer.format_version,
        alarms: answer.alarms,
        ending: match (answer.draining, answer.settled) {
            (false, _) => Ending::No,
            (true, false) => Ending::Draining,
            (true, true) => Ending::Settled,
        },
        asker_removed: answer.asker_removed,
        rotation: RotationReport {
            phase: answer.rotation_phase,
            check: answer.rotation_check,
        },
        history: HistoryHead {
            since_revision: history.since_revision,
            revision: history.revision,
            hash: history.hash,
        },
    }
}

fn history_status(history: &History) -> wire::HistoryStatus {
    wire::HistoryStatus {
        since_revision: history.first().map_or(0, |record| record.revision),
        revision: history.last().map_or(0, |record| record.revision),
        hash: history.head().to_vec(),
    }
}
