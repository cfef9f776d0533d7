//! Replicas that have applied the same entries have the same state, to the last byte of its checkpoint.

use std::collections::BTreeMap;

use super::{Running, Violation};

/// The hash of the state at each index, and what was checked last.
#[derive(Default)]
pub(crate) struct States {
    hashes: BTreeMap<u64, (u64, u64)>,
    checked: BTreeMap<u64, (u64, u64)>,
}

// === impl States ===

impl States {
    pub(super) fn check(&mut self, running: &Running) -> Result<(), Violation> {
        let (node, at) = (running.node, (running.life, running.probe.applied));
        if self.checked.insert(node, at) == Some(at) || at.1 == 0 {
            return Ok(());
        }
        let wrong = |what| Violation::new("equal indexes, equal states", what);
        let hash = running.member.state_hash();
        let hash = hash.map_err(|why| wrong(format!("the state of n{node}: {why}")))?;
        let (first, by) = *self.hashes.entry(at.1).or_insert((hash, node));
        if first == hash {
            return Ok(());
        }
        Err(wrong(format!("n{by} and n{node} differ at {}", at.1)))
    }
}
