//! The replicated side as a model: one pool after another by the rules of the ledger, without proto, log or checkpoint.
//!
//! It is strict where a node could do harm: a use that its lease does not cover ends the test.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mode_envoy_limits::Plan;
use mode_envoy_model::ledger::ask::{AskItem, LeaseId, LeaseUse, PoolKey};
use mode_envoy_model::ledger::view::{LeaseView, PoolView};
use mode_envoy_model::limit::{Limit, Per, Unit, Window};

pub(crate) const NODES: usize = 3;
/// What a grant leaves to others: at most one part in so many of a node's share.
const GAMMA: u64 = 2;
const RECALL_AGAIN_MS: u64 = 20;
const DEMAND_LASTS_MS: u64 = 10_000;

#[derive(Debug)]
pub(crate) struct Ledger {
    pools: BTreeMap<PoolKey, Pool>,
    leases: u64,
    pub(crate) index: u64,
}

#[derive(Debug)]
struct Pool {
    limit: Arc<Limit>,
    window: u64,
    ends_ms: Option<u64>,
    cap: u64,
    free: i64,
    central: bool,
    recalls: u64,
    recalled_ms: Option<u64>,
    epoch: u64,
    filled_ms: u64,
    filled_rest: u64,
    leases: BTreeMap<LeaseId, Lease>,
    demand: [(u64, u64); NODES],
}

#[derive(Clone, Copy, Debug)]
struct Lease {
    node: usize,
    window: u64,
    view: LeaseView,
}

impl Lease {
    fn outstanding(&self) -> u64 {
        self.view.granted - self.view.returned - self.view.settled
    }
}

impl Ledger {
    pub(crate) fn new() -> Self {
        Self {
            pools: BTreeMap::new(),
            leases: 0,
            index: 0,
        }
    }

    pub(crate) fn add(&mut self, key: PoolKey, limit: Arc<Limit>, now_ms: u64) {
        let (cap, spend) = match limit.window {
            Window::Calendar => (limit.amount, 0),
            Window::Bucket { burst } => {
                let length = length_ms(limit.per).unwrap();
                let spend = (burst * length / limit.amount / 4).min(250);
                let spend = if limit.amount * spend / length < 16 {
                    0
                } else {
                    spend
                };
                ((burst - limit.amount * spend / length).max(1), spend)
            }
        };
        let bucket = matches!(limit.window, Window::Bucket { .. });
        let length = length_ms(limit.per).filter(|_| !bucket && limit.unit == Unit::Requests);
        let window = length.map_or(0, |length| now_ms / length * length);
        let mut pool = Pool {
            window,
            ends_ms: length.map(|length| window + length),
            cap,
            free: cap as i64,
            central: false,
            recalls: 0,
            recalled_ms: None,
            epoch: 0,
            filled_ms: now_ms,
            filled_rest: 0,
            leases: BTreeMap::new(),
            demand: [(0, 0); NODES],
            limit,
        };
        pool.central = cap <= 2 * NODES as u64 || bucket && spend == 0;
        self.pools.insert(key, pool);
    }

    /// Another amount of the same limit.
    pub(crate) fn change(&mut self, key: &PoolKey, amount: u64) {
        self.index += 1;
        let pool = self.pools.get_mut(key).unwrap();
        let limit = Limit {
            amount,
            ..Limit::clone(&pool.limit)
        };
        pool.free += amount as i64 - pool.cap as i64;
        if amount < pool.cap {
            pool.recalls += 1;
        }
        (pool.cap, pool.limit) = (amount, Arc::new(limit));
        pool.epoch += 1;
    }

    /// Applies a node's batch; says which pools changed.
    pub(crate) fn apply(&mut self, node: usize, plan: &Plan, now_ms: u64) -> BTreeSet<PoolKey> {
        self.index += 1;
        let mut touched = BTreeSet::new();
        for used in &plan.uses {
            self.used(node, used, &mut touched);
        }
        self.tick(now_ms, &mut touched);
        for ask in &plan.asks {
            assert!(
                ask.items.windows(2).all(|pair| pair[0].pool < pair[1].pool),
                "{ask:?}"
            );
            for item in &ask.items {
                assert!(item.typical >= 1 && item.need + item.want > 0, "{item:?}");
                let pool = self.pools.get_mut(&item.pool).unwrap();
                pool.demand[node] = (item.demand, now_ms);
            }
            let fits = |item: &AskItem| self.pools[&item.pool].free >= item.need as i64;
            if ask.items.iter().all(fits) {
                for item in ask.items.iter().filter(|item| item.need > 0) {
                    self.grant(node, &item.pool, item.need, &mut touched);
                }
            } else {
                for item in ask
                    .items
                    .iter()
                    .filter(|item| !fits(item))
                    .cloned()
                    .collect::<Vec<_>>()
                {
                    self.recall(node, &item.pool, now_ms, &mut touched);
                }
            }
            for item in &ask.items {
                self.want(node, item, now_ms, &mut touched);
            }
        }
        self.check();
        touched
    }

    fn used(&mut self, node: usize, used: &LeaseUse, touched: &mut BTreeSet<PoolKey>) {
        let found = self
            .pools
            .iter_mut()
            .find(|(_, pool)| pool.leases.contains_key(&used.lease));
        let (key, pool) = found.unwrap_or_else(|| panic!("no such lease: {used:?}"));
        let lease = pool.leases.get_mut(&used.lease).unwrap();
        assert_eq!(lease.node, node, "another node's lease");
        assert!(
            used.spent == 0 || pool.limit.unit == Unit::Requests,
            "{used:?} of calls that are open"
        );
        assert!(
            used.spent + used.returned <= lease.outstanding(),
            "{used:?} of {lease:?}"
        );
        lease.view.settled += used.spent;
        lease.view.returned += used.returned;
        let bucket = matches!(pool.limit.window, Window::Bucket { .. });
        if lease.window == pool.window && used.returned > 0 && !bucket {
            pool.free = pool.free.saturating_add(used.returned as i64);
            pool.epoch += 1;
        }
        touched.insert(key.clone());
    }

    /// Windows roll and buckets fill.
    fn tick(&mut self, now_ms: u64, touched: &mut BTreeSet<PoolKey>) {
        for (key, pool) in &mut self.pools {
            if pool.ends_ms.is_some_and(|ends| ends <= now_ms) {
                let length = length_ms(pool.limit.per).unwrap();
                pool.window = now_ms / length * length;
                pool.ends_ms = Some(pool.window + length);
                (pool.cap, pool.free) = (pool.limit.amount, pool.limit.amount as i64);
                pool.central = pool.cap <= 2 * NODES as u64;
                pool.epoch += 1;
                touched.insert(key.clone());
            }
            if let Window::Bucket { .. } = pool.limit.window {
                let length = length_ms(pool.limit.per).unwrap();
                let parts = (now_ms - pool.filled_ms) * pool.limit.amount + pool.filled_rest;
                (pool.filled_ms, pool.filled_rest) = (now_ms, parts % length);
                let filled = pool.free + (parts / length) as i64;
                pool.free = filled.min(pool.cap as i64);
            }
        }
    }

    fn grant(&mut self, node: usize, key: &PoolKey, units: u64, touched: &mut BTreeSet<PoolKey>) {
        let pool = self.pools.get_mut(key).unwrap();
        pool.free -= units as i64;
        assert!(pool.free >= 0, "granted what is not there");
        let window = pool.window;
        let own = |lease: &&mut Lease| lease.node == node && lease.window == window;
        if let Some(lease) = pool.leases.values_mut().find(own) {
            lease.view.granted += units;
        } else {
            self.leases += 1;
            let view = LeaseView {
                id: self.leases,
                granted: units,
                returned: 0,
                settled: 0,
            };
            pool.leases
                .insert(self.leases, Lease { node, window, view });
        }
        touched.insert(key.clone());
    }

    fn recall(&mut self, node: usize, key: &PoolKey, now_ms: u64, touched: &mut BTreeSet<PoolKey>) {
        let pool = self.pools.get_mut(key).unwrap();
        let lately = pool
            .recalled_ms
            .is_some_and(|at| now_ms < at + RECALL_AGAIN_MS);
        let bucket = matches!(pool.limit.window, Window::Bucket { .. });
        if !lately && !bucket && pool.elsewhere(node) > 0 {
            (pool.recalls, pool.recalled_ms) = (pool.recalls + 1, Some(now_ms));
            touched.insert(key.clone());
        }
    }

    fn want(&mut self, node: usize, item: &AskItem, now_ms: u64, touched: &mut BTreeSet<PoolKey>) {
        let pool = self.pools.get_mut(&item.pool).unwrap();
        let lately = |(demand, at): &(u64, u64)| {
            if now_ms < at + DEMAND_LASTS_MS {
                *demand
            } else {
                0
            }
        };
        let all: u64 = pool.demand.iter().map(lately).sum();
        if item.want > 0 && !pool.central && pool.free > 0 {
            let part = pool.free as u64 * item.demand.max(1) / (GAMMA * all.max(1));
            let units = item.want.min(part).min(pool.free as u64);
            if units > 0 {
                self.grant(node, &item.pool, units, touched);
            }
        }
        let pool = self.pools.get_mut(&item.pool).unwrap();
        let out: u64 = pool.current().map(|(_, lease)| lease.outstanding()).sum();
        if !pool.central && pool.free + out as i64 <= (2 * NODES as u64 * item.typical) as i64 {
            (pool.central, pool.recalls) = (true, pool.recalls + 1);
            touched.insert(item.pool.clone());
        }
    }

    pub(crate) fn view(&self, key: &PoolKey, node: usize) -> Option<PoolView> {
        let pool = self.pools.get(key)?;
        let own = pool.current().find(|(_, lease)| lease.node == node);
        Some(PoolView {
            key: key.clone(),
            limit: Arc::clone(&pool.limit),
            window: pool.window,
            ends_ms: pool.ends_ms,
            cap: pool.cap,
            free: pool.free,
            elsewhere: pool.elsewhere(node),
            central: pool.central,
            recalls: pool.recalls,
            epoch: pool.epoch,
            lease: own.map(|(_, lease)| lease.view),
        })
    }

    /// Free, settled and outstanding add up to the amount.
    fn check(&self) {
        for (key, pool) in &self.pools {
            if let Window::Calendar = pool.limit.window {
                let held: u64 = pool
                    .current()
                    .map(|(_, lease)| lease.view.granted - lease.view.returned)
                    .sum();
                assert_eq!(
                    pool.free + held as i64,
                    pool.cap as i64,
                    "{key:?}: {pool:?}"
                );
            }
        }
    }

    /// Whether a lease is one of a pool's.
    pub(crate) fn owns(&self, key: &PoolKey, lease: LeaseId) -> bool {
        self.pools[key].leases.contains_key(&lease)
    }

    /// What is neither settled nor returned of a pool's current window.
    pub(crate) fn outstanding(&self, key: &PoolKey) -> u64 {
        self.pools[key]
            .current()
            .map(|(_, lease)| lease.outstanding())
            .sum()
    }
}

impl Pool {
    fn current(&self) -> impl Iterator<Item = (&LeaseId, &Lease)> {
        self.leases
            .iter()
            .filter(|(_, lease)| lease.window == self.window)
    }

    fn elsewhere(&self, node: usize) -> u64 {
        let others = self.current().filter(|(_, lease)| lease.node != node);
        others.map(|(_, lease)| lease.outstanding()).sum()
    }
}

pub(crate) fn length_ms(per: Per) -> Option<u64> {
    Some(match per {
        Per::Second => 1_000,
        Per::Minute => 60_000,
        Per::Hour => 3_600_000,
        Per::Day => 86_400_000,
        Per::Month => 30 * 86_400_000,
        Per::Total => return None,
    })
}
