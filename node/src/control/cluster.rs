//! The cluster itself: its state as this node sees it, and who belongs to it.

use std::time::Duration;

use mode_envoy_model::command::RejectedCode;
use mode_envoy_raft::{MadeJoinToken, MemberStatus, Pending, TransferError, WouldStall};

use super::authorize::{Action, check};
use super::{Control, ControlError, Principal, WRITE_DEADLINE};
use crate::secrets::hex;

/// How long the other members have to answer.
const LOOK: Duration = Duration::from_secs(2);
/// How long moving leadership may take: catching up, a lease of silence, an election.
const TRANSFER: Duration = Duration::from_secs(8);
/// How long a removal waits for the membership to follow; it follows later all the same.
const LEAVE: Duration = Duration::from_secs(7);
/// A join token is valid for so long where nothing else is asked for; the longest, too.
const JOIN_TOKEN_SECONDS: u64 = 3_600;

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
    /// Who comes and who goes.
    pub pending: Pending,
    /// When the join tokens expire that are neither used nor expired; Unix milliseconds.
    pub join_tokens: Vec<u64>,
    /// Whether the cluster secret is being replaced.
    pub rotating: bool,
}

/// What lets a node join, and where.
#[derive(Debug)]
pub struct NewNode {
    /// The token; it is never seen again.
    pub token: MadeJoinToken,
    /// The revision that it is valid from.
    pub revision: u64,
    /// This node's peer address, for `--join`.
    pub peer: String,
}

/// A removal.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Removal {
    /// The revision that says so.
    pub revision: u64,
    /// Whether the membership has followed.
    pub done: bool,
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
            pending: self.handle.pending(),
            join_tokens: self.join_tokens(),
            rotating: self.handle.catalog().rotation().is_some(),
        })
    }

    /// Makes a token that lets one node join.
    ///
    /// # Errors
    ///
    /// The role does not allow it, the time is too long, there are too many tokens, or the cluster cannot decide.
    pub async fn add_node(
        &self,
        who: &Principal,
        valid_seconds: u64,
    ) -> Result<NewNode, ControlError> {
        check(who.role, Action::Members)?;
        let seconds = if valid_seconds == 0 {
            JOIN_TOKEN_SECONDS
        } else {
            valid_seconds
        };
        let valid_ms = seconds.saturating_mul(1_000);
        let caller = self.caller(who)?;
        let secret = self.new_join_secret(who)?;
        let made = self
            .handle
            .make_join_token(&secret, &caller, valid_ms, WRITE_DEADLINE);
        let revision = made.await?.revision;
        let token = self.join_token(who, &secret, revision)?;
        let addresses = self.handle.member_addresses();
        let peer = addresses.get(&self.handle.node_id()).cloned();
        Ok(NewNode {
            token,
            revision,
            peer: peer.unwrap_or_default(),
        })
    }

    /// Removes a node for good, and waits a while for the membership to follow.
    ///
    /// # Errors
    ///
    /// The role does not allow it, there is no such node, it is the last one, those that stay could not decide, or the
    /// cluster cannot decide now.
    pub async fn remove_node(&self, who: &Principal, id: u64) -> Result<Removal, ControlError> {
        check(who.role, Action::Members)?;
        self.up_to_date(who, false).await?;
        if let Some(before) = self.answered_before(who)? {
            return Ok(self.removal(id, before.revision).await);
        }
        let statuses = self.handle.statuses(LOOK).await;
        if statuses.iter().any(|status| status.id == id) {
            let stays = self.handle.check_removal(id, &statuses);
            stays.map_err(|stall| would_stall(id, &stall))?;
        }
        let caller = self.caller(who)?;
        let removing = self.handle.remove_node(id, &caller, WRITE_DEADLINE);
        Ok(self.removal(id, removing.await?.revision).await)
    }

    /// Waits a while for the membership to follow.
    async fn removal(&self, id: u64, revision: u64) -> Removal {
        let done = if id == self.handle.node_id() {
            self.handle.wait_left(LEAVE).await
        } else {
            tokio::time::timeout(LEAVE, self.left(id)).await.is_ok()
        };
        Removal { revision, done }
    }

    /// Moves leadership to a voter.
    ///
    /// # Errors
    ///
    /// The role does not allow it, the node does not vote, or it could not be elected.
    pub async fn transfer_leader(&self, who: &Principal, id: u64) -> Result<(), ControlError> {
        check(who.role, Action::Members)?;
        let moved = self.handle.transfer_leader(id, TRANSFER).await;
        moved.map_err(|error| match error {
            TransferError::NoVoter(_) => {
                ControlError::refused(RejectedCode::NotFound, "id", error.to_string())
            }
            other => ControlError::Unavailable(other.to_string()),
        })
    }

    /// Returns when the membership no longer has a node.
    async fn left(&self, id: u64) {
        let mut applied = self.handle.watch_applied();
        loop {
            let addresses = self.handle.member_addresses();
            if !addresses.contains_key(&id) {
                return;
            }
            if applied.changed().await.is_err() {
                return;
            }
        }
    }

    fn join_tokens(&self) -> Vec<u64> {
        let (catalog, now) = (self.handle.catalog(), self.handle.wall_ms());
        let mut open: Vec<u64> = catalog
            .members()
            .tokens()
            .filter(|token| token.used.is_none() && !token.has_expired(now))
            .map(|token| token.expires_ms)
            .collect();
        open.sort_unstable();
        open
    }
}

fn would_stall(id: u64, stall: &WouldStall) -> ControlError {
    let list = |ids: &std::collections::BTreeSet<u64>| {
        let ids: Vec<String> = ids.iter().map(u64::to_string).collect();
        ids.join(", ")
    };
    let problem = format!(
        "without node {id}, nodes {} would vote, and of these {} do not answer: most must, or the cluster could decide \
         nothing any more; start them, or remove those first that are gone",
        list(&stall.voters),
        list(&stall.silent)
    );
    ControlError::refused(RejectedCode::InUse, "id", problem)
}
