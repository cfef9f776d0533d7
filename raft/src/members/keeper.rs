//! Keeps the membership as the log asks for it, while this node leads.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use openraft::ChangeMembers;
use openraft::error::{ClientWriteError, RaftError};

use super::plan::{Step, View, plan};
use super::transfer::transfer;
use crate::cluster::{Ending, Handle, MemberStatus};
use crate::types::{Member, NodeId};

/// A learner is looked at again this often, until it has caught up.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// How long the members have to say how far they are.
const ASK: Duration = Duration::from_secs(1);
/// How long one change may take to be committed.
const CHANGE: Duration = Duration::from_secs(10);
/// A learner that lacks no more entries than this has caught up: it gets them in one message.
const LAG: u64 = 64;

/// Why a step was not taken.
type Obstacle = String;

/// Runs for as long as the node does.
pub(crate) async fn keep(handle: Handle) {
    let (mut catalog, mut leader) = (handle.watch_catalog(), handle.watch_leader());
    let mut told = None;
    loop {
        let leads = *leader.borrow_and_update() == Some(handle.node_id());
        let _ = catalog.borrow_and_update();
        let mut busy = false;
        if leads {
            match step(&handle).await {
                Ok(again) => {
                    told = None;
                    if again {
                        continue;
                    }
                }
                Err(obstacle) => {
                    busy = true;
                    if told.as_ref() != Some(&obstacle) {
                        tracing::warn!(reason = obstacle, "the membership cannot be changed yet");
                    }
                    told = Some(obstacle);
                }
            }
        }
        let waiting = leads && (busy || handle.has_learners());
        tokio::select! {
            Ok(()) = catalog.changed() => {}
            Ok(()) = leader.changed() => {}
            () = tokio::time::sleep(LOOK_AGAIN), if waiting => {}
            else => return,
        }
    }
}

/// Takes one step; whether there may be another.
async fn step(handle: &Handle) -> Result<bool, Obstacle> {
    let _one_at_a_time = handle.leadership().changing.lock().await;
    if let Some(member) = moved_alone(handle) {
        let nodes = BTreeMap::from([(handle.node_id(), member)]);
        change(handle, ChangeMembers::SetNodes(nodes)).await?;
    }
    let mut view = handle.membership_view();
    // Nobody is asked where nothing would be done even if everybody answered.
    view.reachable.clone_from(&view.nodes);
    view.ready.clone_from(&view.nodes);
    if plan(&view) == Step::Nothing {
        return Ok(false);
    }
    let statuses = handle.statuses(ASK).await;
    let applied = handle.applied_index();
    let stays = |status: &MemberStatus| status.reachable && status.ending == Ending::No;
    let ids = |of: &dyn Fn(&MemberStatus) -> bool| -> BTreeSet<NodeId> {
        statuses.iter().filter(|s| of(s)).map(|s| s.id).collect()
    };
    view.reachable = ids(&stays);
    view.ready = ids(&|status| stays(status) && status.applied_index + LAG >= applied);
    take(handle, plan(&view)).await
}

/// The only member, where it serves at another address than the membership says: it has moved, or comes from a backup. With
/// others about, two nodes could say so of one id, and nobody would know which of them is the member.
fn moved_alone(handle: &Handle) -> Option<Member> {
    let known = handle.member_addresses();
    let own = handle.own_peer_address();
    let (id, address) = known.first_key_value()?;
    let alone = known.len() == 1 && *id == handle.node_id();
    (alone && address != own).then(|| {
        tracing::info!(
            address = own,
            "this node, which is alone, has another address now"
        );
        Member {
            peer: own.to_owned(),
        }
    })
}

async fn take(handle: &Handle, step: Step) -> Result<bool, Obstacle> {
    match step {
        Step::Nothing => return Ok(false),
        Step::AddLearner(id, peer) => {
            tracing::info!(node = id, peer, "adding a node that joined, as a learner");
            let nodes = BTreeMap::from([(id, Member { peer })]);
            change(handle, ChangeMembers::AddNodes(nodes)).await?;
        }
        Step::SetVoters(voters) => {
            tracing::info!(?voters, "changing who votes");
            change(handle, ChangeMembers::ReplaceAllVoters(voters)).await?;
        }
        Step::RemoveLearners(gone) => {
            tracing::info!(nodes = ?gone, "taking removed nodes out of the membership");
            change(handle, ChangeMembers::RemoveNodes(gone)).await?;
        }
        Step::HandOver(heirs) => {
            tracing::info!(?heirs, "this node was removed and leads: handing over");
            let mut obstacle = String::new();
            for heir in heirs {
                match transfer(handle, heir).await {
                    Ok(()) => return Ok(true),
                    Err(error) => obstacle = error.to_string(),
                }
            }
            return Err(obstacle);
        }
        Step::Wait(voters) => {
            return Err(format!(
                "most of nodes {voters:?} would have to answer, so that they can decide afterwards"
            ));
        }
    }
    Ok(true)
}

async fn change(handle: &Handle, members: ChangeMembers<NodeId, Member>) -> Result<(), Obstacle> {
    let changed = handle.raft().change_membership(members, false);
    match tokio::time::timeout(CHANGE, changed).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_)))) => {
            Err("another node leads now".to_owned())
        }
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("a change of the membership is not committed yet".to_owned()),
    }
}

// === impl Handle ===

impl Handle {
    fn has_learners(&self) -> bool {
        let view = self.membership_view();
        view.nodes.len() > view.voters.len()
    }

    /// What this node knows of the membership, but for who answers.
    pub(crate) fn membership_view(&self) -> View {
        let metrics = self.raft().metrics();
        let (voters, joint, nodes) = {
            let metrics = metrics.borrow();
            let membership = metrics.membership_config.membership();
            let configs = membership.get_joint_config();
            (
                configs.last().cloned().unwrap_or_default(),
                configs.len() > 1,
                membership.nodes().map(|(id, _)| *id).collect(),
            )
        };
        let catalog = self.catalog();
        let members = catalog.members();
        let joined = members.joined();
        View {
            me: self.node_id(),
            voters,
            joint,
            nodes,
            joined: joined
                .map(|node| (node.id, node.peer.to_string()))
                .collect(),
            removed: members.removed().collect(),
            reachable: BTreeSet::new(),
            ready: BTreeSet::new(),
        }
    }
}
