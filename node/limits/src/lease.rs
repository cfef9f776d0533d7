//! What this node may spend of one pool in one window.
//!
//! ```text
//! left = granted (applied) - returned (planned) - taken by calls + given back by calls
//! ```
//!
//! One number for all threads, so it is exact at every interleaving: whoever takes more than is left takes nothing. A
//! lease outlives its window in the calls that took from it: what they give back comes here, and the keeper returns it.

use std::sync::atomic::{AtomicI64, Ordering};

use mode_envoy_model::ledger::ask::LeaseId;
use mode_envoy_model::limit::Unit;

use crate::number::{count, signed};

/// A lease on its own cache line: threads write to it with every call.
#[derive(Debug)]
#[repr(align(64))]
pub(crate) struct Lease {
    pub(crate) id: LeaseId,
    /// When its window began.
    pub(crate) window: u64,
    pub(crate) unit: Unit,
    /// Below 0 only where a call took more than it had reserved.
    left: AtomicI64,
}

// === impl Lease ===

impl Lease {
    pub(crate) const fn new(id: LeaseId, window: u64, unit: Unit, left: i64) -> Self {
        Self {
            id,
            window,
            unit,
            left: AtomicI64::new(left),
        }
    }

    pub(crate) fn left(&self) -> i64 {
        self.left.load(Ordering::Relaxed)
    }

    /// Takes `need`, or nothing.
    pub(crate) fn take(&self, need: u64) -> bool {
        let need = signed(need);
        let rest = |left: i64| (left >= need).then(|| left - need);
        let taken = self
            .left
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, rest);
        taken.is_ok()
    }

    /// More is left, or less.
    pub(crate) fn change(&self, by: i64) {
        self.left.fetch_add(by, Ordering::AcqRel);
    }

    /// Takes what is left beyond `keep`.
    pub(crate) fn drain(&self, keep: u64) -> u64 {
        let keep = signed(keep);
        let before = self
            .left
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, |left| {
                (left > keep).then_some(keep)
            });
        before.map_or(0, |left| count(left - keep))
    }

    /// Takes as much as there is, up to `most`.
    pub(crate) fn take_up_to(&self, most: u64) -> u64 {
        let part = |left: i64| signed(most).min(left);
        let before = self
            .left
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, |left| {
                (part(left) > 0).then(|| left - part(left))
            });
        before.map_or(0, |left| count(part(left)))
    }
}
