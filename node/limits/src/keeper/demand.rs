//! How much of a pool this node uses: the pace of late, and the most at once.
//!
//! The pace follows the last second exponentially, in integers: of a gap of `d` milliseconds the new pace weighs
//! `d / (d + 1000)`.

use std::collections::VecDeque;

use crate::number::scaled_down;

/// The pace is kept in thousandths of a unit, so that slow traffic is not taken for none.
const MILLI: u64 = 1_000;
const FOLLOWS_MS: u64 = 1_000;
/// What was before such a gap is no longer of late.
const FORGETS_MS: u64 = 8_000;
/// The largest need, and the most that was open, are those of the last one to two of these.
const REMEMBERS_MS: u64 = 10_000;

/// What one node uses of one pool.
#[derive(Debug)]
pub(super) struct Demand {
    seen: u64,
    at_ms: u64,
    last_ms: u64,
    milli_per_s: u64,
    typical: Peak,
    open: Peak,
}

/// The largest value of the last while.
#[derive(Debug, Default)]
struct Peak {
    /// Of the while before, and of this one.
    values: [u64; 2],
    since_ms: u64,
}

/// Grants that are to be spent by some time, oldest first.
#[derive(Debug, Default)]
pub(super) struct Expiries(VecDeque<(u64, u64)>);

// === impl Demand ===

impl Demand {
    pub(super) fn new(seen: u64, boot_ms: u64) -> Self {
        Self {
            seen,
            at_ms: boot_ms,
            last_ms: boot_ms,
            milli_per_s: 0,
            typical: Peak::default(),
            open: Peak::default(),
        }
    }

    /// So much was ever needed, and so much of the lease is in use.
    pub(super) fn follow(&mut self, seen: u64, open: u64, boot_ms: u64) {
        let gap = boot_ms.saturating_sub(self.at_ms);
        self.open.saw(open, boot_ms);
        self.typical.saw(0, boot_ms);
        if gap == 0 {
            return;
        }
        let more = seen.saturating_sub(self.seen);
        let pace = scaled_down(more.saturating_mul(MILLI), 1_000, gap);
        let weigh = |value: u64, weight: u64| scaled_down(value, weight, gap + FOLLOWS_MS);
        let before = if gap > FORGETS_MS {
            0
        } else {
            self.milli_per_s
        };
        self.milli_per_s = weigh(pace, gap).saturating_add(weigh(before, FOLLOWS_MS));
        if more > 0 {
            self.last_ms = boot_ms;
        }
        (self.seen, self.at_ms) = (seen, boot_ms);
    }

    pub(super) fn needed(&mut self, need: u64, boot_ms: u64) {
        self.typical.saw(need, boot_ms);
        self.last_ms = self.last_ms.max(boot_ms);
    }

    /// Units a second, rounded up.
    pub(super) fn per_second(&self) -> u64 {
        self.milli_per_s.div_ceil(MILLI)
    }

    /// Units in so many milliseconds, rounded up.
    pub(super) fn within(&self, ms: u64) -> u64 {
        crate::number::scaled_up(self.milli_per_s, ms, MILLI * 1_000)
    }

    /// What one call takes at most; at least 1.
    pub(super) fn typical(&self) -> u64 {
        self.typical.most().max(1)
    }

    /// The most that was in use at once.
    pub(super) fn most_open(&self) -> u64 {
        self.open.most()
    }

    /// Nothing was needed for so long.
    pub(super) fn idle_ms(&self, boot_ms: u64) -> u64 {
        boot_ms.saturating_sub(self.last_ms)
    }
}

// === impl Peak ===

impl Peak {
    fn saw(&mut self, value: u64, boot_ms: u64) {
        let age = boot_ms.saturating_sub(self.since_ms);
        if age >= REMEMBERS_MS {
            let before = if age >= 2 * REMEMBERS_MS {
                0
            } else {
                self.values[1]
            };
            (self.values, self.since_ms) = ([before, 0], boot_ms);
        }
        self.values[1] = self.values[1].max(value);
    }

    fn most(&self) -> u64 {
        self.values[0].max(self.values[1])
    }
}

// === impl Expiries ===

impl Expiries {
    /// So many units more, to be spent by `until`.
    pub(super) fn granted(&mut self, units: u64, until: u64) {
        match self.0.back_mut() {
            Some((last, sum)) if *last == until => *sum = sum.saturating_add(units),
            _ => self.0.push_back((until, units)),
        }
    }

    /// The oldest is spent first: until when is what is left of it good?
    pub(super) fn first(&self) -> Option<u64> {
        self.0.front().map(|(until, _)| *until)
    }

    /// Forgets what is over by `boot_ms`, and says how many units are still good.
    pub(super) fn expire(&mut self, boot_ms: u64) -> u64 {
        while self.first().is_some_and(|until| until <= boot_ms) {
            self.0.pop_front();
        }
        self.0
            .iter()
            .map(|(_, units)| *units)
            .fold(0, u64::saturating_add)
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_pace_is_found_whatever_the_gaps_are() {
        for gap in [7, 20, 100, 500] {
            let mut demand = Demand::new(0, 0);
            for step in 1..=(20_000 / gap) {
                demand.follow(step * gap * 3 / 10, 0, step * gap);
            }
            let found = demand.per_second();
            assert!((285..=315).contains(&found), "{found} at gaps of {gap} ms");
        }
    }

    #[test]
    fn slow_traffic_is_not_taken_for_none() {
        let mut demand = Demand::new(0, 0);
        (1..=600).for_each(|step| demand.follow(step / 20, 0, step * 100));
        assert!((1..=2).contains(&demand.per_second()));
        assert!((1..=12).contains(&demand.within(10_000)));
    }

    #[test]
    fn demand_that_ends_is_forgotten_within_seconds() {
        let mut demand = Demand::new(0, 0);
        (1..=50).for_each(|step| demand.follow(step * 100, 0, step * 100));
        assert!(demand.per_second() > 900);
        (51..=200).for_each(|step| demand.follow(5_000, 0, step * 100));
        assert_eq!((demand.per_second(), demand.within(10_000)), (0, 0));
        assert_eq!(demand.idle_ms(20_000), 15_000);
    }

    #[test]
    fn the_largest_need_of_the_last_while_is_typical() {
        let mut demand = Demand::new(0, 0);
        assert_eq!(demand.typical(), 1);
        demand.needed(40, 1_000);
        demand.needed(3, 12_000);
        assert_eq!(demand.typical(), 40);
        demand.needed(3, 23_000);
        assert_eq!(demand.typical(), 3);
    }

    #[test]
    fn of_grants_the_oldest_expires_first() {
        let mut expiries = Expiries::default();
        expiries.granted(5, 100);
        expiries.granted(2, 100);
        expiries.granted(4, 200);
        assert_eq!(expiries.first(), Some(100));
        assert_eq!(expiries.expire(99), 11);
        assert_eq!(expiries.expire(100), 4);
        assert_eq!(expiries.first(), Some(200));
        assert_eq!(expiries.expire(500), 0);
        assert_eq!(expiries.first(), None);
    }
}
