//! One amount that the cluster shares: its window now, who wants how much of it, and what nodes were told.

use super::calendar::{length_ms, window_at};
use super::rules::{Rules, amount, is_bucket};
use super::window::{MOST, Window};
use crate::limit::{Limit, Unit};

/// Nodes whose demand a pool keeps.
const DEMANDS: usize = 128;

/// One pool.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Pool {
    /// The amount; for a bucket, what it holds at most.
    pub cap: u64,
    /// The books of the window now.
    pub window: Window,
    /// So little is left that every call asks for itself.
    pub central: bool,
    /// Grows when nodes are told to give back what they hold.
    pub recalls: u64,
    /// When they were told last, by the lease clock.
    pub recalled_ms: Option<u64>,
    /// Grows with what may make a refusal untrue.
    pub epoch: u64,
    /// How far a bucket has filled.
    pub fill: Fill,
    /// By node.
    pub demands: Vec<Demand>,
}

/// How far a bucket has filled.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Fill {
    /// By the lease clock.
    pub at_ms: u64,
    /// What has flowed in and is no whole unit yet: milliseconds times amount, less than the time the amount is for.
    pub rest: u64,
}

/// What a node said it needs.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Demand {
    /// Which node.
    pub node: u64,
    /// Units a second.
    pub rate: u64,
    /// What one of its calls takes at most.
    pub typical: u64,
    /// When it said so, by the lease clock.
    pub seen_ms: u64,
}

/// A pool's limit, and what decides about grants beside it.
#[derive(Clone, Copy)]
pub(super) struct Terms<'a> {
    pub(super) limit: &'a Limit,
    pub(super) rules: &'a Rules,
    pub(super) clock_ms: u64,
    pub(super) nodes: u64,
}

// === impl Pool ===

impl Pool {
    /// With everything free.
    pub(super) fn new(number: u64, terms: Terms<'_>, wall_ms: u64) -> Self {
        let cap = terms.rules.cap(terms.limit);
        let span = if is_bucket(terms.limit) || terms.limit.unit == Unit::Concurrent {
            (0, None)
        } else {
            window_at(terms.limit.per, wall_ms)
        };
        let mut pool = Self {
            cap,
            window: Window::new(number, span, cap),
            fill: Fill {
                at_ms: terms.clock_ms,
                rest: 0,
            },
            ..Self::default()
        };
        pool.central = pool.should_be_central(terms);
        pool
    }

    /// What a bucket has by now, and how far it has filled; of anything else, what it has.
    pub(super) fn filled(&self, limit: &Limit, clock_ms: u64) -> (i64, Fill) {
        let (free, fill) = (self.window.free, self.fill);
        let (true, Some(per)) = (is_bucket(limit), length_ms(limit.per)) else {
            return (free, fill);
        };
        let elapsed = clock_ms.saturating_sub(fill.at_ms);
        let flowed = u128::from(elapsed) * u128::from(amount(limit)) + u128::from(fill.rest);
        let (units, rest) = (flowed / u128::from(per), flowed % u128::from(per));
        let at_ms = clock_ms.max(fill.at_ms);
        let most = self.cap.min(MOST.saturating_sub(self.window.issued));
        let most = most.cast_signed();
        let full = i128::from(free).saturating_add(i128::try_from(units).unwrap_or(i128::MAX));
        if full >= i128::from(most) {
            return (free.max(most), Fill { at_ms, rest: 0 });
        }
        let rest = u64::try_from(rest).unwrap_or_default();
        (i64::try_from(full).unwrap_or(free), Fill { at_ms, rest })
    }

    /// Lets a bucket fill up to now.
    pub(super) fn fill_up(&mut self, limit: &Limit, clock_ms: u64) {
        let (free, fill) = self.filled(limit, clock_ms);
        let more = free.saturating_sub(self.window.free);
        self.window.issued = self.window.issued.saturating_add_signed(more);
        self.window.free = free;
        self.fill = fill;
    }

    /// Another amount, from now on.
    pub(super) fn set_cap(&mut self, cap: u64, limit: &Limit) {
        if is_bucket(limit) {
            let beyond = self.window.free.saturating_sub(cap.cast_signed()).max(0);
            self.window.free -= beyond;
            self.window.issued = self.window.issued.saturating_sub(beyond.unsigned_abs());
        } else {
            let by = cap.cast_signed().saturating_sub(self.cap.cast_signed());
            self.window.free = self.window.free.saturating_add(by);
            self.window.issued = self.window.issued.saturating_add_signed(by);
        }
        self.cap = cap;
    }

    /// Notes what a node needs; of too many, the one is forgotten that spoke the longest ago.
    pub(super) fn note(&mut self, demand: Demand) {
        let at = self.demands.binary_search_by_key(&demand.node, |d| d.node);
        match at {
            Ok(at) => self.demands[at] = demand,
            Err(at) => {
                self.demands.insert(at, demand);
                if self.demands.len() > DEMANDS {
                    let oldest = (0..self.demands.len()).min_by_key(|at| self.demands[*at].seen_ms);
                    self.demands.remove(oldest.unwrap_or(at));
                }
            }
        }
    }

    /// Demands that still count.
    pub(super) fn fresh<'a>(
        &'a self,
        rules: &Rules,
        clock_ms: u64,
    ) -> impl Iterator<Item = &'a Demand> {
        let since = clock_ms.saturating_sub(rules.demand_ms);
        self.demands.iter().filter(move |d| d.seen_ms >= since)
    }

    /// A node's share of what is free, by demand.
    pub(super) fn share(&self, node: u64, terms: Terms<'_>) -> u64 {
        let weight = |d: &Demand| u128::from(d.rate.max(1));
        let (mut own, mut all) = (0, 0);
        for demand in self.fresh(terms.rules, terms.clock_ms) {
            all += weight(demand);
            if demand.node == node {
                own = weight(demand);
            }
        }
        let free = u128::from(self.window.free.max(0).unsigned_abs());
        let parts = u128::from(terms.rules.share.max(1)) * all.max(1);
        u64::try_from(free * own / parts).unwrap_or(u64::MAX)
    }

    /// Whether so little is left that every call should ask for itself.
    pub(super) fn should_be_central(&self, terms: Terms<'_>) -> bool {
        let typical = self.fresh(terms.rules, terms.clock_ms).map(|d| d.typical);
        let typical = typical.max().unwrap_or(1).max(1);
        let few = u128::from(terms.rules.central) * u128::from(terms.nodes) * u128::from(typical);
        let few = i128::try_from(few).unwrap_or(i128::MAX);
        if is_bucket(terms.limit) {
            return terms.rules.hold(terms.limit) == 0 || i128::from(self.cap) <= few;
        }
        self.window.left() <= few
    }

    /// Whether dropping it changes nothing for anybody: all is there, and nobody spoke for a while.
    pub(super) fn is_idle(&self, limit: &Limit, rules: &Rules, clock_ms: u64) -> bool {
        let since = clock_ms.saturating_sub(rules.idle_ms);
        let (free, _) = self.filled(limit, clock_ms);
        free >= self.cap.cast_signed()
            && self.window.outstanding() == 0
            && self.demands.iter().all(|d| d.seen_ms < since)
    }
}
