//! What one node has applied is committed: every node that applies its place applies the same, and a majority of the
//! voters has it on its disks, whatever a power cut would leave there at that moment.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mode_envoy_raft::sim::{self, LogLine};
use mode_envoy_storage::wal::{Position, WalOptions};

use super::logs::Logs;
use super::{Running, Violation};
use crate::sim::host::{CLUSTER, Nodes, SEGMENT_BYTES};

/// Of a hundred commits, so many are looked for on disks; it costs a recovery on each of them.
const LOOKED_FOR: u64 = 20;

/// What is committed.
#[derive(Default)]
pub(crate) struct Commits {
    lines: BTreeMap<u64, LogLine>,
    applied: BTreeMap<u64, (u64, u64)>,
}

// === impl Commits ===

impl Commits {
    pub(super) fn last(&self) -> u64 {
        self.lines.keys().next_back().copied().unwrap_or(0)
    }

    pub(super) fn check(
        &mut self,
        nodes: &Nodes,
        running: &Running,
        logs: &Logs,
    ) -> Result<(), Violation> {
        let (node, applied) = (running.node, running.probe.applied);
        let (life, done) = self.applied.get(&node).copied().unwrap_or_default();
        let done = if life == running.life { done } else { 0 };
        if applied == done && life == running.life {
            return Ok(());
        }
        if applied < done {
            let what = format!("n{node} went back from {done} to {applied}");
            return Err(Violation::new("what is applied stays applied", what));
        }
        self.applied.insert(node, (running.life, applied));
        let new = applied > self.last();
        for index in done + 1..=applied {
            // What a checkpoint covers may be gone from the log.
            let Some(line) = logs.line(node, index) else {
                continue;
            };
            let first = *self.lines.entry(index).or_insert(*line);
            if first != *line {
                let what = format!("n{node} applied {line:?}, another node {first:?}");
                return Err(Violation::new("what is committed stays", what));
            }
        }
        // Only the leader knows which voters it counts.
        if new && running.probe.leads {
            self.check_quorum(nodes, running, logs)?;
        }
        Ok(())
    }

    /// Whether an index is committed.
    pub(super) fn has(&self, index: u64) -> bool {
        self.lines.contains_key(&index)
    }

    fn check_quorum(&self, nodes: &Nodes, leader: &Running, logs: &Logs) -> Result<(), Violation> {
        let applied = leader.probe.applied;
        let Some(line) = self.lines.get(&applied) else {
            return Ok(());
        };
        // Voters that were named after it had no part in committing it.
        if leader.probe.voters_since > applied {
            return Ok(());
        }
        expect_majorities(leader, line, &logs.holders(line), "logs")?;
        if nodes.world.chance(LOOKED_FOR) {
            expect_majorities(leader, line, &on_disks(nodes, line)?, "disks")?;
        }
        Ok(())
    }
}

fn expect_majorities(
    leader: &Running,
    line: &LogLine,
    holders: &BTreeSet<u64>,
    place: &str,
) -> Result<(), Violation> {
    for voters in &leader.probe.voters {
        if voters.intersection(holders).count() * 2 <= voters.len() {
            let what = format!(
                "n{} committed {line:?}, which of {voters:?} only {holders:?} have in their {place}",
                leader.node
            );
            return Err(Violation::new("a majority has what is committed", what));
        }
    }
    Ok(())
}

/// Who would have an entry after a power cut at this moment.
fn on_disks(nodes: &Nodes, line: &LogLine) -> Result<BTreeSet<u64>, Violation> {
    let wanted = Position {
        term: line.term,
        index: line.index,
    };
    let seed = nodes.world.below(u64::MAX);
    let mut holders = BTreeSet::new();
    for (node, slot) in nodes.lock().iter() {
        let disk = Arc::new(slot.disk.image().crash(seed));
        let mut options = WalOptions::new(slot.dir.join("wal"), CLUSTER, *node);
        options.segment_bytes = SEGMENT_BYTES;
        let checkpoints = slot.dir.join("checkpoint");
        let found = sim::found_on(disk, checkpoints, options).map_err(|why| {
            let what = format!("after a power cut n{node} would refuse to start: {why}");
            Violation::new("a power cut leaves a node that starts", what)
        })?;
        if found.covered >= wanted.index || found.log.contains(&wanted) {
            holders.insert(*node);
        }
    }
    Ok(holders)
}
