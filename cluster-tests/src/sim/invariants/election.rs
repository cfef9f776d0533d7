//! A leader has the votes of a majority of its voters, and no node's vote ever goes back, whatever crashes.

use std::collections::{BTreeMap, BTreeSet};

use super::{Running, Violation};
use crate::sim::host::Nodes;

/// What is known of votes. A vote is for a term and a node; they are ordered.
#[derive(Default)]
pub(crate) struct Election {
    votes: BTreeMap<u64, (u64, u64)>,
    leaders: BTreeMap<(u64, u64), u64>,
}

// === impl Election ===

impl Election {
    pub(super) const fn votes(&self) -> &BTreeMap<u64, (u64, u64)> {
        &self.votes
    }

    pub(super) fn check(&mut self, nodes: &Nodes, running: &[Running]) -> Result<(), Violation> {
        for Running {
            node, life, probe, ..
        } in running
        {
            let before = self.votes.insert(*node, probe.vote).unwrap_or_default();
            if probe.vote < before {
                let what = format!(
                    "n{node} voted for {before:?} and in its life {life} stands at {:?}",
                    probe.vote
                );
                return Err(Violation::new("a vote never goes back", what));
            }
        }
        for leader in running.iter().filter(|r| r.probe.leads) {
            if self.leaders.contains_key(&leader.probe.vote) {
                self.check_same(leader)?;
            } else {
                self.check_elected(leader)?;
                self.leaders.insert(leader.probe.vote, leader.node);
                let (term, node) = (leader.probe.vote.0, leader.node);
                nodes.world.note(&format!("n{node} leads in term {term}"));
            }
        }
        Ok(())
    }

    fn check_same(&self, leader: &Running) -> Result<(), Violation> {
        let elected = self.leaders.get(&leader.probe.vote);
        if elected == Some(&leader.node) {
            return Ok(());
        }
        let what = format!(
            "{elected:?} and n{} lead by {:?}",
            leader.node, leader.probe.vote
        );
        Err(Violation::new("one leader by one vote", what))
    }

    fn check_elected(&self, leader: &Running) -> Result<(), Violation> {
        let granted = |voter: &&u64| self.votes.get(voter) >= Some(&leader.probe.vote);
        let lacks =
            |voters: &BTreeSet<u64>| voters.iter().filter(granted).count() * 2 <= voters.len();
        match leader.probe.voters.iter().find(|voters| lacks(voters)) {
            None => Ok(()),
            Some(voters) => {
                let what = format!(
                    "n{} leads by {:?} without a majority of {voters:?}; the votes are {:?}",
                    leader.node, leader.probe.vote, self.votes
                );
                Err(Violation::new("a leader is elected by a majority", what))
            }
        }
    }
}
