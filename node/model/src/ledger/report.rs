//! The ledger as a person asks for it: what is used, free and leased of every limit, and to whom.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Ledger;
use super::ask::PoolKey;
use super::rules::amount;
use crate::limit::{Limit, LimitId, Mode};

/// One pool, and the windows of it that are over and not settled yet.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PoolReport {
    /// Which pool.
    pub key: PoolKey,
    /// Its limit.
    pub limit: Arc<Limit>,
    /// When its window began, Unix milliseconds; 0 where it has none.
    pub window: u64,
    /// When its window ends.
    pub ends_ms: Option<u64>,
    /// The amount; for a bucket, what it holds at most.
    pub cap: u64,
    /// Used for good in this window, as far as nodes told.
    pub used: u64,
    /// What nobody has.
    pub free: i64,
    /// What each node has, or has used and not yet told; of all its lives.
    pub leased: BTreeMap<u64, u64>,
    /// What was lost with a node: it counts as used.
    pub burned: u64,
    /// What is not settled yet of windows that are over.
    pub unsettled: u64,
    /// So little is left that every call asks for itself.
    pub central: bool,
    /// By how much the cluster may exceed the amount in a window, at most; absent where every node keeps its share alone.
    pub overshoot: Option<u64>,
}

// === impl Ledger ===

impl Ledger {
    /// Pools by their keys, of one limit or of all, no more than `most`; a limit without `each` that nobody asked for is
    /// listed all the same.
    pub fn report(&self, of: Option<LimitId>, most: usize) -> Vec<PoolReport> {
        let limits = self.limits.keys().copied();
        let limits = limits.filter(|id| of.is_none_or(|of| of == *id));
        let mut unsettled: BTreeMap<&PoolKey, u64> = BTreeMap::new();
        for over in self.over.values() {
            let sum = unsettled.entry(&over.pool).or_default();
            *sum = sum.saturating_add(over.window.outstanding());
        }
        limits
            .flat_map(|id| self.keys_to_report(id))
            .filter_map(|key| self.report_pool(key, &unsettled))
            .take(most)
            .collect()
    }

    fn keys_to_report(&self, id: LimitId) -> Vec<PoolKey> {
        let keys = self.keys_of(id);
        let single = self
            .limits
            .get(&id)
            .is_some_and(|limit| limit.each.is_none());
        if keys.is_empty() && single {
            let value = "".into();
            return vec![PoolKey { limit: id, value }];
        }
        keys
    }

    fn report_pool(&self, key: PoolKey, unsettled: &BTreeMap<&PoolKey, u64>) -> Option<PoolReport> {
        let view = self.view(&key, 0, 0)?;
        let mut leased: BTreeMap<u64, u64> = BTreeMap::new();
        let window = self.pools.get(&key).map(|pool| &pool.window);
        for lease in window.iter().flat_map(|window| &window.leases) {
            let sum = leased.entry(lease.node).or_default();
            *sum = sum.saturating_add(lease.outstanding());
        }
        Some(PoolReport {
            unsettled: unsettled.get(&key).copied().unwrap_or_default(),
            window: view.window,
            ends_ms: view.ends_ms,
            cap: view.cap,
            used: window.map_or(0, |window| window.settled),
            free: view.free,
            leased,
            burned: window.map_or(0, |window| window.burned),
            central: view.central,
            overshoot: overshoot(&view.limit, self.nodes()),
            limit: view.limit,
            key,
        })
    }
}

/// By how much so many nodes may exceed the amount of a limit in one window, at most.
pub fn overshoot(limit: &Limit, nodes: u64) -> Option<u64> {
    match limit.mode {
        Mode::Strict => Some(0),
        // A node that is cut off may use one call at least.
        Mode::Bounded => Some((amount(limit) / 100).max(1).saturating_mul(nodes)),
        Mode::Local => None,
    }
}
