//! The ledger as a person asks for it: what is used, free and leased of every limit, and to whom.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Ledger;
use super::ask::PoolKey;
use super::pool::Pool;
use super::rules::{amount, is_bucket};
use crate::limit::{Limit, LimitId, Mode, Window};

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
    /// Used for good in this window, as far as nodes told; of a bucket, what has not flowed in again.
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

/// Makes reports, as of one moment.
#[derive(Debug)]
pub struct Reporter<'a> {
    ledger: &'a Ledger,
    wall_ms: u64,
    /// Of windows that are over, by pool.
    unsettled: BTreeMap<&'a PoolKey, u64>,
}

// === impl Ledger ===

impl Ledger {
    /// Makes reports as of a moment by the wall clock; a moment that is past is taken as that of the last entry. Until the next entry
    /// windows end and buckets fill in the reports alone.
    pub fn reporter(&self, wall_ms: u64) -> Reporter<'_> {
        let mut unsettled: BTreeMap<&PoolKey, u64> = BTreeMap::new();
        for over in self.over.values() {
            let sum = unsettled.entry(&over.pool).or_default();
            *sum = sum.saturating_add(over.window.outstanding());
        }
        Reporter {
            ledger: self,
            wall_ms: wall_ms.max(self.now.wall_ms),
            unsettled,
        }
    }

    /// Pools by their keys, of one limit or of all, no more than `most`, as of the last entry; a limit without `each` that nobody
    /// asked for is listed all the same.
    pub fn report(&self, of: Option<LimitId>, most: usize) -> Vec<PoolReport> {
        let reporter = self.reporter(self.now.wall_ms);
        let limits = self.limits.iter();
        let limits = limits.filter(|(id, _)| of.is_none_or(|of| of == **id));
        limits
            .flat_map(|(id, limit)| {
                let asked = reporter.of(*id);
                let single = asked.is_empty() && limit.each.is_none();
                asked
                    .into_iter()
                    .chain(single.then(|| reporter.untouched(*id, limit)))
            })
            .take(most)
            .collect()
    }
}

// === impl Reporter ===

impl Reporter<'_> {
    /// The pools of a limit that somebody asked for, by their values.
    pub fn of(&self, id: LimitId) -> Vec<PoolReport> {
        let keys = self.ledger.keys_of(id).into_iter();
        keys.filter_map(|key| self.report(key)).collect()
    }

    /// What of a limit stands where nobody asked for anything: all of it is free.
    pub fn untouched(&self, id: LimitId, limit: &Arc<Limit>) -> PoolReport {
        let pool = Pool::new(0, self.ledger.terms(limit), self.wall_ms);
        let alone = limit.mode == Mode::Local;
        let cap = match limit.window {
            // Nothing is held back of what goes through no log.
            Window::Bucket { burst } if alone => burst,
            Window::Bucket { .. } | Window::Calendar => pool.cap,
        };
        let key = PoolKey {
            limit: id,
            value: "".into(),
        };
        PoolReport {
            unsettled: self.unsettled.get(&key).copied().unwrap_or_default(),
            key,
            limit: Arc::clone(limit),
            window: pool.window.start,
            ends_ms: pool.window.ends,
            cap,
            used: 0,
            free: cap.cast_signed(),
            leased: BTreeMap::new(),
            burned: 0,
            central: pool.central && !alone,
            overshoot: overshoot(limit, self.ledger.nodes()),
        }
    }

    fn report(&self, key: PoolKey) -> Option<PoolReport> {
        let limit = self.ledger.limit_of(&key)?;
        let pool = self.ledger.pools.get(&key)?;
        let unsettled = self.unsettled.get(&key).copied().unwrap_or_default();
        let fresh = self.untouched(key.limit, &limit);
        if pool.window.ends.is_some_and(|ends| ends <= self.wall_ms) {
            let unsettled = unsettled.saturating_add(pool.window.outstanding());
            return Some(PoolReport {
                key,
                unsettled,
                ..fresh
            });
        }
        let mut leased: BTreeMap<u64, u64> = BTreeMap::new();
        for lease in &pool.window.leases {
            let sum = leased.entry(lease.node).or_default();
            *sum = sum.saturating_add(lease.outstanding());
        }
        let waited = self.wall_ms.saturating_sub(self.ledger.now.wall_ms);
        let clock_ms = self.ledger.now.clock_ms.saturating_add(waited);
        let (free, _) = pool.filled(&limit, clock_ms);
        let used = if is_bucket(&limit) {
            missing(pool.cap, free, pool.window.outstanding())
        } else {
            pool.window.settled
        };
        Some(PoolReport {
            key,
            window: pool.window.start,
            ends_ms: pool.window.ends,
            cap: pool.cap,
            used,
            free,
            leased,
            burned: pool.window.burned,
            unsettled,
            central: pool.central,
            ..fresh
        })
    }
}

/// What a bucket lacks that no node has.
fn missing(cap: u64, free: i64, leased: u64) -> u64 {
    let held = i128::from(free) + i128::from(leased);
    u64::try_from(i128::from(cap) - held).unwrap_or_default()
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
