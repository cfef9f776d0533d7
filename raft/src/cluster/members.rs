//! What one asks of a member about members: to let a node join, to remove one, to move leadership, and to end in order.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::time::Duration;

use mode_envoy_model::command::Command;
use mode_envoy_storage::wal::Wal;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tonic::Status;
use zeroize::Zeroizing;

use super::{Ending, Handle, MemberRole, MemberStatus};
use crate::apply::SharedState;
use crate::data_dir::DataDirError;
use crate::join::{JoinTokenText, token_hash};
use crate::machine;
use crate::members::{self, Departure, Leadership, TransferError, View};
use crate::proposal::{Accepted, Caller, ProposeError};
use crate::rotation::Rotator;
use crate::types::{NodeId, Raft};

/// How long other members have to say whether they are about to end too.
const LOOK: Duration = Duration::from_millis(500);
/// Between two looks at others that are about to end.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// A join token that was just made.
#[derive(Debug)]
pub struct MadeJoinToken {
    /// Shown once, stored nowhere.
    pub text: Zeroizing<String>,
    /// Unix milliseconds.
    pub expires_ms: u64,
}

/// Changes of the membership that are under way.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Pending {
    /// Let in by a token, and not in the membership yet; with their peer addresses.
    pub joining: Vec<(NodeId, String)>,
    /// Removed, and still in the membership.
    pub leaving: Vec<NodeId>,
}

/// Why a node must not be removed now.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct WouldStall {
    /// Who would vote.
    pub voters: BTreeSet<NodeId>,
    /// Of these, who does not answer.
    pub silent: BTreeSet<NodeId>,
}

// === impl Handle ===

impl Handle {
    /// Makes a token that lets one node join, of a secret that cannot be guessed; [`Handle::join_token`] is its text.
    ///
    /// # Errors
    /// As [`Handle::propose`].
    pub async fn make_join_token(
        &self,
        secret: &[u8; 32],
        caller: &Caller,
        valid_ms: u64,
        timeout: Duration,
    ) -> Result<Accepted, ProposeError> {
        let hash = token_hash(secret);
        let command = Command::CreateJoinToken { hash, valid_ms };
        let accepted = self.propose(command, caller, timeout).await?;
        self.wait_applied(accepted.index, timeout).await?;
        Ok(accepted)
    }

    /// The token of a secret; `None` where the cluster has made none of it, or it has expired since.
    pub fn join_token(&self, secret: &[u8; 32]) -> Option<MadeJoinToken> {
        let catalog = self.catalog();
        let made = catalog.members().token(&token_hash(secret))?;
        let token = JoinTokenText {
            pin: self.rotator().identity().pin(),
            cluster_id: self.inner.cluster_id,
            secret: Zeroizing::new(*secret),
        };
        Some(MadeJoinToken {
            text: token.to_text(),
            expires_ms: made.expires_ms,
        })
    }

    /// Has a node removed; the membership follows.
    ///
    /// # Errors
    /// As [`Handle::propose`].
    pub async fn remove_node(
        &self,
        node: NodeId,
        caller: &Caller,
        timeout: Duration,
    ) -> Result<Accepted, ProposeError> {
        let members = self.member_addresses();
        let command = Command::RemoveNode { node, members };
        self.propose(command, caller, timeout).await
    }

    /// Whether the nodes that would vote without `node` could decide, going by who answers.
    ///
    /// # Errors
    /// [`WouldStall`], where most of them do not answer.
    pub fn check_removal(&self, node: NodeId, statuses: &[MemberStatus]) -> Result<(), WouldStall> {
        let reachable = statuses.iter().filter(|s| s.reachable).map(|s| s.id);
        let mut view = View {
            reachable: reachable.collect(),
            ..self.membership_view()
        };
        view.ready.clone_from(&view.reachable);
        view.removed.insert(node);
        let voters = members::goal(&view);
        let silent: BTreeSet<NodeId> = voters.difference(&view.reachable).copied().collect();
        if silent.len() * 2 < voters.len() || voters.is_empty() {
            Ok(())
        } else {
            Err(WouldStall { voters, silent })
        }
    }

    /// Moves leadership to a voter; nothing where it leads already.
    ///
    /// # Errors
    /// [`TransferError`]; then leadership may have moved elsewhere.
    pub async fn transfer_leader(
        &self,
        target: NodeId,
        timeout: Duration,
    ) -> Result<(), TransferError> {
        let handle = self.clone();
        let work = async move { handle.find_and_transfer(target, timeout).await };
        let ended = || TransferError::Unasked("this node is shutting down".to_owned());
        let done = self.inner.tasks.start("transfer leadership", work).await;
        done.unwrap_or_else(|_| Err(ended()))
    }

    /// What is under way in the membership.
    pub fn pending(&self) -> Pending {
        let view = self.membership_view();
        let joining = view
            .joined
            .iter()
            .filter(|(id, _)| !view.nodes.contains(id));
        Pending {
            joining: joining.map(|(id, peer)| (*id, peer.clone())).collect(),
            leaving: view.nodes.intersection(&view.removed).copied().collect(),
        }
    }

    /// Peer addresses of the members by id, as this node knows them.
    pub fn member_addresses(&self) -> BTreeMap<NodeId, String> {
        self.status().members
    }

    /// Whether this node has joined and has never been as far as the others.
    pub fn is_joining(&self) -> bool {
        self.inner.data_dir.record().joining
    }

    /// Records that this node, which has joined, is as far as the others.
    ///
    /// # Errors
    /// The record could not be written.
    pub async fn caught_up(&self) -> Result<(), DataDirError> {
        let dir = self.inner.data_dir.clone();
        let written = machine::blocking(move || dir.caught_up());
        written.await.unwrap_or(Ok(()))
    }

    /// Says that this node was removed from the cluster, and when it is needed no more.
    pub fn watch_departure(&self) -> watch::Receiver<Departure> {
        self.inner.departure.clone()
    }

    /// Waits until a node that was removed is needed no more, or for so long; whether it is so.
    pub async fn wait_left(&self, limit: Duration) -> bool {
        members::left(self.inner.departure.clone(), limit).await
    }

    /// From now on the others see that this node is about to end.
    pub fn set_draining(&self) {
        self.inner.about.draining.store(true, Ordering::Release);
    }

    /// Ends this node's part: hands leadership over if it leads and somebody stays, and waits, but no longer than `limit`,
    /// for others that are about to end as well and still need the log for their last usage.
    pub async fn settle(&self, limit: Duration) {
        self.inner.about.settled.store(true, Ordering::Release);
        let deadline = Instant::now() + limit;
        let mut statuses = self.statuses(LOOK).await;
        if self.status().leader == Some(self.node_id()) {
            self.hand_over(&statuses).await;
        }
        while statuses.iter().any(|s| s.ending == Ending::Draining) && Instant::now() < deadline {
            sleep(LOOK_AGAIN).await;
            statuses = self.statuses(LOOK).await;
        }
    }

    async fn hand_over(&self, statuses: &[MemberStatus]) {
        let mut heirs: Vec<&MemberStatus> = statuses
            .iter()
            .filter(|s| s.role == MemberRole::Follower && s.reachable)
            .filter(|s| s.ending == Ending::No)
            .collect();
        heirs.sort_by_key(|status| std::cmp::Reverse(status.applied_index));
        // The second has a chance too; a third failure would have other reasons than the heir.
        for heir in heirs.into_iter().take(2) {
            let changing = &self.leadership().changing;
            let moved = {
                let _one_at_a_time = changing.lock().await;
                members::transfer(self, heir.id).await
            };
            match moved {
                Ok(()) | Err(TransferError::NotLeader(_)) => return,
                Err(error) => tracing::warn!(%error, "leadership is not handed over"),
            }
        }
    }

    async fn find_and_transfer(
        &self,
        target: NodeId,
        timeout: Duration,
    ) -> Result<(), TransferError> {
        match self.status().leader {
            None => Err(TransferError::NotLeader(None)),
            Some(leader) if leader == target => Ok(()),
            Some(leader) if leader == self.node_id() => {
                let _one_at_a_time = self.leadership().changing.lock().await;
                members::transfer(self, target).await
            }
            Some(leader) => {
                let asked = self
                    .inner
                    .forwarder
                    .transfer_leader(leader, target, timeout);
                match asked.await {
                    Ok(answer) if answer.refusal.is_empty() => Ok(()),
                    Ok(answer) => Err(TransferError::Unasked(answer.refusal)),
                    Err(status) => Err(TransferError::Unasked(status.message().to_owned())),
                }
            }
        }
    }

    pub(crate) fn leadership(&self) -> &Leadership {
        &self.inner.leadership
    }

    pub(crate) fn state(&self) -> &SharedState {
        &self.inner.state
    }

    pub(crate) fn rotator(&self) -> &Rotator {
        &self.inner.rotator
    }

    pub(crate) async fn take_secret(
        &self,
        node: NodeId,
        limit: Duration,
    ) -> Result<Zeroizing<String>, Status> {
        self.inner.forwarder.take_secret(node, limit).await
    }

    pub(crate) fn wal(&self) -> &Wal {
        &self.inner.wal
    }

    /// Where this node's own peer listener is, as it says itself.
    pub(crate) fn own_peer_address(&self) -> &str {
        &self.inner.about.advertise.peer
    }

    pub(crate) fn raft(&self) -> &Raft {
        &self.inner.raft
    }

    pub(crate) async fn ask_to_campaign(
        &self,
        node: NodeId,
        term: u64,
        limit: Duration,
    ) -> Result<(), Status> {
        self.inner.forwarder.campaign(node, term, limit).await
    }

    /// Whether the membership that this node has applied has this node.
    pub(crate) fn is_applied_member(&self) -> bool {
        let (_, membership) = self.inner.state.position();
        membership.membership().get_node(&self.node_id()).is_some()
    }

    /// Whether another member says that this node was removed.
    pub(crate) async fn was_removed(&self, limit: Duration) -> bool {
        self.statuses(limit).await.iter().any(|s| s.asker_removed)
    }

    pub(crate) async fn remember_removal(&self) -> Result<(), DataDirError> {
        let dir = self.inner.data_dir.clone();
        let written = machine::blocking(move || dir.mark_removed());
        written.await.unwrap_or(Ok(()))
    }
}
