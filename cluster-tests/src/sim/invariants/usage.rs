//! Usage is neither lost nor doubled: cells hold exactly what the streams' positions cover, and in the end the
//! positions cover every call that was closed.

use std::collections::BTreeMap;

use mode_envoy_model::state::State;
use mode_envoy_model::usage::cells::Resolution;

use super::{Running, Violation};
use crate::sim::host::Nodes;

const NAME: &str = "every closed call counts once";

/// Only a state that has changed is added up again.
#[derive(Default)]
pub(crate) struct Usage {
    checked: BTreeMap<u64, (u64, u64)>,
}

// === impl Usage ===

impl Usage {
    pub(super) fn check(&mut self, nodes: &Nodes, running: &Running) -> Result<(), Violation> {
        let (node, at) = (running.node, (running.life, running.probe.applied));
        if self.checked.insert(node, at) == Some(at) {
            return Ok(());
        }
        let (cells, positions) = running
            .member
            .state(|_, state| (calls(state), covered(state)));
        if cells != positions.values().sum::<u64>() {
            let what = format!("n{node} counts {cells} calls, its streams stand at {positions:?}");
            return Err(Violation::new(NAME, what));
        }
        let slots = nodes.lock();
        let beyond = |(node, counted): (&u64, &u64)| {
            slots
                .get(node)
                .is_none_or(|slot| *counted > slot.spool.closed)
        };
        if positions.iter().any(beyond) {
            let what = format!("n{node} counts more than was closed: {positions:?}");
            return Err(Violation::new(NAME, what));
        }
        Ok(())
    }
}

/// In the end nothing that a living node has closed is missing.
pub(super) fn check_end(
    nodes: &Nodes,
    running: &Running,
    living: &[Running],
) -> Result<(), Violation> {
    let positions = running.member.state(|_, state| covered(state));
    for other in living {
        let closed = nodes
            .with(other.node, |slot| slot.spool.closed)
            .unwrap_or(0);
        let counted = positions.get(&other.node).copied().unwrap_or(0);
        if counted != closed {
            let (node, by) = (other.node, running.node);
            let what = format!("n{node} closed {closed} calls, n{by} counts {counted} of them");
            return Err(Violation::new(NAME, what));
        }
    }
    Ok(())
}

fn calls(state: &State) -> u64 {
    let buckets = state.usage.cells.buckets(Resolution::Day).values();
    let calls = buckets.map(|bucket| {
        let chunk = bucket.chunk();
        chunk.values().map(|cell| cell.counters.calls).sum::<u64>()
    });
    calls.sum()
}

fn covered(state: &State) -> BTreeMap<u64, u64> {
    let streams = state.usage.streams.iter();
    streams
        .map(|(node, stream)| {
            let records = stream.spools.values().map(|spool| spool.acked_to - 1);
            (node, records.sum())
        })
        .collect()
}
