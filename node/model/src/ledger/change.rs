//! The limits change while leases are out.
//!
//! More is free at once. Less makes `free` negative, so nothing is granted, and every node is told to give back what it holds.
//! A limit that goes, or is kept by every node alone from now on, leaves its leases behind until they are over.

use std::sync::Arc;

use imbl::OrdMap;

use super::Ledger;
use super::ask::PoolKey;
use crate::limit::{Limit, LimitId, Mode};

// === impl Ledger ===

impl Ledger {
    /// Takes over the limits of the catalog, after a change set that changed any. A ledger of a checkpoint has none yet: its
    /// pools are those of these limits already, so nothing else changes.
    pub fn set_limits<'a>(&mut self, limits: impl Iterator<Item = (LimitId, &'a Arc<Limit>)>) {
        let old = std::mem::replace(&mut self.limits, kept_in_log(limits));
        for (id, limit) in &old {
            let new = self.limits.get(id).cloned();
            match new {
                Some(new) if new == *limit => {}
                Some(new) => self.change_limit(*id, limit, &new),
                None => self.end_limit(*id),
            }
        }
    }

    fn change_limit(&mut self, id: LimitId, old: &Limit, new: &Limit) {
        let (cap, clock_ms) = (self.rules.cap(new), self.now.clock_ms);
        for key in self.keys_of(id) {
            let epoch = self.count_up();
            let Some(pool) = self.pool_mut(&key) else {
                continue;
            };
            let lowered = cap < pool.cap;
            pool.fill_up(old, clock_ms);
            pool.set_cap(cap, new);
            pool.epoch = epoch;
            if lowered {
                pool.recalled_ms = None;
                self.recall(&key, new);
            }
            self.look_at_rest(&key, new);
            self.touch(&key);
        }
    }

    fn end_limit(&mut self, id: LimitId) {
        for key in self.keys_of(id) {
            if let Some(pool) = self.take_pool(&key) {
                self.touch(&key);
                self.retire(key, pool.window);
            }
        }
    }

    pub(super) fn keys_of(&self, id: LimitId) -> Vec<PoolKey> {
        let first = PoolKey {
            limit: id,
            value: "".into(),
        };
        let pools = self.pools.range(first..);
        pools
            .take_while(|(key, _)| key.limit == id)
            .map(|(key, _)| key.clone())
            .collect()
    }
}

/// Those that have pools; what every node keeps alone has none.
fn kept_in_log<'a>(
    limits: impl Iterator<Item = (LimitId, &'a Arc<Limit>)>,
) -> OrdMap<LimitId, Arc<Limit>> {
    limits
        .filter(|(_, limit)| limit.mode != Mode::Local)
        .map(|(id, limit)| (id, Arc::clone(limit)))
        .collect()
}
