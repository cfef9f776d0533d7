//! Usage is neither lost nor doubled: what a state has counted of a spool is what the records below its position count,
//! and in the end the positions are behind the last record of every spool.

use std::collections::BTreeMap;

use mode_envoy_model::state::State;
use mode_envoy_model::usage::cells::Resolution;

use super::{Running, Violation};
use crate::sim::host::Nodes;
use crate::sim::usage::{Counted, team_of};

const NAME: &str = "every call counts once";

/// Only a state that has changed is added up again.
#[derive(Default)]
pub(crate) struct Usage {
    checked: BTreeMap<u64, (u64, u64)>,
}

/// What a state says of usage.
struct Said {
    /// What was counted, by the series that each spool has for itself.
    counted: BTreeMap<String, Counted>,
    /// Each spool of the streams: node, worker, identity, the first record that is not counted.
    positions: Vec<(u64, u32, [u8; 16], u64)>,
}

// === impl Usage ===

impl Usage {
    pub(super) fn check(&mut self, nodes: &Nodes, running: &Running) -> Result<(), Violation> {
        let (node, at) = (running.node, (running.life, running.probe.applied));
        if self.checked.insert(node, at) == Some(at) {
            return Ok(());
        }
        let said = running.member.state(|_, state| Said::of(state));
        let by = |what: String| Violation::new(NAME, format!("n{node}: {what}"));
        said.check(nodes).map_err(by)
    }
}

/// What a gateway, a recovery or a flusher met that may not be.
pub(super) fn check_lives(nodes: &Nodes) -> Result<(), Violation> {
    for (node, slot) in nodes.lock().iter() {
        if let Some(fault) = &slot.books.fault {
            return Err(Violation::new(NAME, format!("usage of n{node}: {fault}")));
        }
    }
    Ok(())
}

/// In the end nothing that a living node has recorded is missing.
pub(super) fn check_end(
    nodes: &Nodes,
    running: &Running,
    living: &[Running],
) -> Result<(), Violation> {
    let said = running.member.state(|_, state| Said::of(state));
    let slots = nodes.lock();
    for other in living {
        let Some(slot) = slots.get(&other.node) else {
            continue;
        };
        for (worker, uuid, book) in slot.books.iter() {
            let counted = said.counted_of(worker, uuid);
            if counted != book.whole() {
                let (node, by, whole) = (other.node, running.node, book.whole());
                let what = format!(
                    "worker {worker} of n{node} recorded {whole:?}, n{by} counts {counted:?}"
                );
                return Err(Violation::new(NAME, what));
            }
        }
    }
    Ok(())
}

// === impl Said ===

impl Said {
    fn of(state: &State) -> Self {
        let mut counted: BTreeMap<String, Counted> = BTreeMap::new();
        for bucket in state.usage.cells.buckets(Resolution::Day).values() {
            for (series, cell) in &bucket.chunk() {
                let key = state.usage.series.get(*series);
                let team = key.map_or_else(String::new, |key| key.team.to_string());
                let sum = counted.entry(team).or_default();
                let cell = &cell.counters;
                *sum = sum.plus(Counted {
                    calls: cell.calls,
                    rejected: cell.rejected,
                    presumed: cell.presumed,
                    attempts: cell.attempts,
                    input: cell.input_uncached,
                    output: cell.output,
                });
            }
        }
        let streams = state.usage.streams.iter();
        let positions = streams.flat_map(|(node, stream)| {
            let spools = stream.spools.iter();
            spools.map(move |(worker, spool)| (node, *worker, spool.uuid, spool.acked_to))
        });
        Self {
            positions: positions.collect(),
            counted,
        }
    }

    fn counted_of(&self, worker: u32, uuid: [u8; 16]) -> Counted {
        let counted = self.counted.get(&team_of(worker, uuid));
        counted.copied().unwrap_or_default()
    }

    fn check(&self, nodes: &Nodes) -> Result<(), String> {
        let mut slots = nodes.lock();
        let mut placed = BTreeMap::new();
        for &(node, worker, uuid, acked_to) in &self.positions {
            let Some(slot) = slots.get_mut(&node) else {
                return Err(format!("there is a stream of n{node}"));
            };
            slot.books.counted_below(worker, uuid, acked_to);
            placed.insert((node, worker, uuid), acked_to);
        }
        let mut known = 0;
        for (&node, slot) in slots.iter() {
            for (worker, uuid, book) in slot.books.iter() {
                let counted = self.counted_of(worker, uuid);
                known += counted.attempts + counted.rejected;
                let expected = match placed.remove(&(node, worker, uuid)) {
                    Some(acked_to) => book.below(acked_to),
                    // Its stream is not there yet, or the spool is gone, counted to its end.
                    None if counted == Counted::default() => Some(counted),
                    None => Some(book.whole()),
                };
                if expected != Some(counted) {
                    return Err(format!(
                        "worker {worker} of n{node} is counted as {counted:?}, not as {expected:?}"
                    ));
                }
            }
        }
        let all: u64 = self.counted.values().map(|c| c.attempts + c.rejected).sum();
        if all != known || placed.values().any(|acked_to| *acked_to > 1) {
            return Err(format!(
                "{all} attempts are counted and {known} known; unknown spools: {placed:?}"
            ));
        }
        Ok(())
    }
}
