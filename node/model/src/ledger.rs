//! The ledger: how much of every limit is free, leased to a node, settled or burned.
//!
//! A node spends nothing but what a committed entry moved from `free` to its lease, so that no partition, crash,
//! duplicate or change of leader can make a cluster admit more than the amount (escrow: O'Neil 1986; demarcation:
//! Barbará and Garcia-Molina 1994; bounded counters: Balegas et al. 2015). For every pool and window, after every entry:
//!
//! ```text
//! free + settled + burned + outstanding of all leases = issued       outstanding = granted - returned - settled
//! ```
//!
//! `issued` is the amount; for a bucket, all that ever flowed in. A lease is of one pool, window and incarnation of a node.
//! It ends with nothing outstanding when its window is over, by `Final` (every spool of its incarnation is counted: what is
//! left comes back), or by `Evict`, a removed node or 48 hours after its window (what is left is burned: it may have been used).
//!
//! Integers and ordered maps only. Pools come into being with the first ask and go when they are idle: a pool that is not
//! there has its whole amount free. What can be found again from pools and leases (the indexes) is in no checkpoint.

use std::collections::BTreeSet;
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};

use crate::limit::{Limit, LimitId};
use crate::usage::batch::SpoolUuid;

use ask::{LeaseId, PoolKey};
use pool::Pool;
use rules::Rules;
use window::{Lease, Over, Window};

mod calendar;
mod change;
mod check;
mod grant;
mod incarnation;
mod roll;
mod uses;

pub mod ask;
pub mod parts;
pub mod pool;
pub mod report;
pub mod rules;
pub mod view;
pub mod window;

/// Every pool, window and lease. Cloning shares; only what changes afterwards is copied.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Ledger {
    rules: Rules,
    now: Now,
    /// Those that go through the log, as the catalog has them.
    limits: OrdMap<LimitId, Arc<Limit>>,
    pools: OrdMap<PoolKey, Arc<Pool>>,
    /// Windows that are over and have leases still, by number.
    over: OrdMap<u64, Arc<Over>>,
    /// Incarnations that get no more, and the spools that they had.
    frozen: OrdMap<(u64, u64), Arc<[SpoolUuid]>>,
    last_lease: LeaseId,
    /// What windows, recalls and epochs are numbered by, so that none of them ever goes back.
    counter: u64,
    refused: u64,
    index: Index,
    touched: Touched,
}

/// The clocks of the last entry.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Now {
    clock_ms: u64,
    wall_ms: u64,
}

/// What is found again from the rest.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Index {
    /// The incarnation of every node that is not removed.
    current: OrdMap<u64, u64>,
    /// Which pool and window a lease is of.
    homes: OrdMap<LeaseId, Home>,
    /// Node, incarnation, lease.
    of_node: OrdSet<(u64, u64, LeaseId)>,
    /// When the windows of pools end.
    ends: OrdSet<(u64, PoolKey)>,
    /// When windows that are over are burned.
    burns: OrdSet<(u64, u64)>,
}

/// Where a lease is.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Home {
    pool: PoolKey,
    window: u64,
    node: u64,
    incarnation: u64,
}

/// What the last entry changed for somebody. It is no part of the state: replicas are equal whatever is in it.
#[derive(Clone, Debug, Default)]
struct Touched(BTreeSet<PoolKey>);

// === impl Ledger ===

impl Ledger {
    /// The pools that the last entry changed for somebody; once.
    pub fn take_touched(&mut self) -> BTreeSet<PoolKey> {
        std::mem::take(&mut self.touched.0)
    }

    /// Batches that claimed more of a lease than it had.
    pub const fn refused(&self) -> u64 {
        self.refused
    }

    /// Pools that somebody asked for.
    pub fn pools(&self) -> impl Iterator<Item = (&PoolKey, &Arc<Pool>)> {
        self.pools.iter()
    }

    /// Windows that are over and have leases still.
    pub fn over(&self) -> impl Iterator<Item = &Arc<Over>> {
        self.over.values()
    }

    /// A lease that is not over; whoever composes a batch names no other.
    pub fn lease(&self, id: LeaseId) -> Option<&Lease> {
        self.window_of(id)?.lease(id)
    }

    /// The leases of a node that are not over, of all its incarnations, with their pools and when their windows began.
    pub fn leases_of(&self, node: u64) -> impl Iterator<Item = (&PoolKey, u64, &Lease)> {
        let ids = self
            .index
            .of_node
            .range((node, 0, 0)..=(node, u64::MAX, u64::MAX));
        ids.filter_map(|(_, _, id)| {
            let home = self.index.homes.get(id)?;
            let window = self.window_of(*id)?;
            Some((&home.pool, window.start, window.lease(*id)?))
        })
    }

    /// Old incarnations of a node that have leases still: each waits for its `Final`, with the spools it had.
    pub fn unfinished(&self, node: u64) -> impl Iterator<Item = (u64, &Arc<[SpoolUuid]>)> {
        let current = self.index.current.get(&node).copied();
        let range = self.frozen.range((node, 0)..=(node, u64::MAX));
        range
            .map(|((_, incarnation), spools)| (*incarnation, spools))
            .filter(move |(incarnation, _)| current != Some(*incarnation))
    }

    /// The wall clock at which an entry is due even if nobody has anything to say: a window ends, or is burned.
    pub fn next_due(&self) -> Option<u64> {
        let ends = self.index.ends.get_min().map(|(at, _)| *at);
        let burns = self.index.burns.get_min().map(|(at, _)| *at);
        ends.into_iter().chain(burns).min()
    }

    /// A pool whose books do not balance. There is none, after any entry.
    pub fn violation(&self) -> Option<&PoolKey> {
        let open = self.pools.iter();
        let open = open.map(|(key, pool)| (key, &pool.window));
        let over = self.over.values().map(|over| (&over.pool, &over.window));
        open.chain(over)
            .find(|(_, window)| !window.balances())
            .map(|(key, _)| key)
    }

    /// [`Self::violation`] among what the last entry changed, where looking at everything takes too long.
    pub(crate) fn recent_violation(&self) -> Option<&PoolKey> {
        const FEW: usize = 1_000;
        if self.pools.len().max(self.over.len()) <= FEW {
            return self.violation();
        }
        let touched = self.touched.0.iter();
        touched
            .filter_map(|key| self.pools.get_key_value(key))
            .find(|(_, pool)| !pool.window.balances())
            .map(|(key, _)| key)
    }

    /// How many nodes there are to share with.
    pub fn nodes(&self) -> u64 {
        (self.index.current.len() as u64).max(1)
    }

    /// Another number, larger than any before.
    fn count_up(&mut self) -> u64 {
        self.counter = self.counter.saturating_add(1);
        self.counter
    }

    fn touch(&mut self, key: &PoolKey) {
        if !self.touched.0.contains(key) {
            self.touched.0.insert(key.clone());
        }
    }

    fn pool_mut(&mut self, key: &PoolKey) -> Option<&mut Pool> {
        self.pools.get_mut(key).map(Arc::make_mut)
    }

    fn window_of(&self, lease: LeaseId) -> Option<&Window> {
        let home = self.index.homes.get(&lease)?;
        let open = self.pools.get(&home.pool).map(|pool| &pool.window);
        open.filter(|window| window.number == home.window)
            .or_else(|| self.over.get(&home.window).map(|over| &over.window))
    }

    fn window_of_mut(&mut self, lease: LeaseId) -> Option<&mut Window> {
        let home = self.index.homes.get(&lease)?;
        if let Some(over) = self.over.get_mut(&home.window) {
            return Some(&mut Arc::make_mut(over).window);
        }
        let pool = Arc::make_mut(self.pools.get_mut(&home.pool)?);
        Some(&mut pool.window)
    }
}

// === impl Touched ===

impl PartialEq for Touched {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Touched {}
