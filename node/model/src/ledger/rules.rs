//! The figures that grants go by. They are part of the state, so that replicas of two releases grant the same: a release that
//! wants others brings them with an event, never with its code.

use super::calendar::length_ms;
use crate::limit::{Limit, Per, Unit, Window};

/// The largest amount that a pool has; what a limit says beyond is taken as this.
pub const AMOUNT: u64 = 1_000_000_000_000_000;

/// What grants go by.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Rules {
    /// Of these figures.
    pub version: u32,
    /// A node gets its share by demand of one part in so many of what is free; with 2 or more, never more than half.
    pub share: u64,
    /// Every call asks for itself once no more is left than so many of the largest calls for each node.
    pub central: u64,
    /// Nodes are not told to give back more often than this, of the lease clock.
    pub recall_ms: u64,
    /// For how long a node's demand counts, of the lease clock.
    pub demand_ms: u64,
    /// How much of its demand a node gets with a new window, in time: of a day, a month or a total.
    pub ahead_ms: u64,
    /// The same, of anything shorter.
    pub ahead_short_ms: u64,
    /// For how long a node holds what it got of a bucket, at most.
    pub hold_ms: u64,
    /// The same, in thousandths of the time in which the bucket fills.
    pub hold_permille: u64,
    /// A bucket of which less than this flows in meanwhile is not held at all: every call asks for itself.
    pub hold_units: u64,
    /// After its window a lease is burned; of the wall clock.
    pub kept_ms: u64,
    /// An idle pool without windows goes; of the lease clock.
    pub idle_ms: u64,
}

/// The first figures.
pub const RULES_V1: Rules = Rules {
    version: 1,
    share: 2,
    central: 2,
    recall_ms: 20,
    demand_ms: 10_000,
    ahead_ms: 10_000,
    ahead_short_ms: 5_000,
    hold_ms: 250,
    hold_permille: 250,
    hold_units: 16,
    kept_ms: 48 * 3_600_000,
    idle_ms: 600_000,
};

// === impl Rules ===

impl Rules {
    /// For how long a node may hold what it got of a bucket, in milliseconds; 0: every call asks for itself.
    ///
    /// A node that holds units for D delays the bucket by D, so it holds `rate * D` less ([`Self::cap`]), and the cluster
    /// admits no more than `burst + rate * t` in any time t.
    pub fn hold(&self, limit: &Limit) -> u64 {
        let (Window::Bucket { burst }, Some(per)) = (limit.window, length_ms(limit.per)) else {
            return 0;
        };
        let (amount, burst) = (amount(limit), burst.clamp(1, AMOUNT));
        let fill = u128::from(burst) * u128::from(per) / u128::from(amount);
        let part = fill * u128::from(self.hold_permille) / 1_000;
        let hold = u64::try_from(part).unwrap_or(u64::MAX).min(self.hold_ms);
        if inflow(amount, hold, per) < u128::from(self.hold_units) {
            return 0;
        }
        hold
    }

    /// What a pool of a limit has at first; for a bucket, what it holds at most.
    pub fn cap(&self, limit: &Limit) -> u64 {
        let (Window::Bucket { burst }, Some(per)) = (limit.window, length_ms(limit.per)) else {
            return amount(limit);
        };
        let held = inflow(amount(limit), self.hold(limit), per);
        let held = u64::try_from(held).unwrap_or(u64::MAX);
        burst.clamp(1, AMOUNT).saturating_sub(held).max(1)
    }

    /// How much of its demand a node gets with a new window, in milliseconds.
    pub(super) const fn ahead(&self, per: Per) -> u64 {
        match per {
            Per::Day | Per::Month | Per::Total => self.ahead_ms,
            Per::Second | Per::Minute | Per::Hour => self.ahead_short_ms,
        }
    }
}

impl Default for Rules {
    fn default() -> Self {
        RULES_V1
    }
}

/// Whether units flow in bit by bit.
pub(super) const fn is_bucket(limit: &Limit) -> bool {
    matches!(limit.window, Window::Bucket { .. }) && !matches!(limit.unit, Unit::Concurrent)
}

/// What a limit allows, within what the books take.
pub(super) fn amount(limit: &Limit) -> u64 {
    limit.amount.clamp(1, AMOUNT)
}

/// What flows into a bucket in some time, rounded up.
fn inflow(amount: u64, time_ms: u64, per_ms: u64) -> u128 {
    (u128::from(amount) * u128::from(time_ms)).div_ceil(u128::from(per_ms))
}
