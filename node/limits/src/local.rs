//! What a node counts alone: limits that no other node knows of, and the allowance of a node that is cut off.
//!
//! Each is one atomic number, so that taking neither locks nor allocates, not even when a window begins. What is given
//! back after its window is over is given to nobody.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::number::{scaled_down, scaled_up};

/// Bits for what was used; amounts are at most 10^15.
const USED_BITS: u32 = 50;
const USED_MAX: u64 = (1 << USED_BITS) - 1;
const TAG_MAX: u64 = u64::MAX >> USED_BITS;
const NANOS_PER_MS: u64 = 1_000_000;

/// Which window something was taken in; windows are told apart for 16,384 of them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Tag(u16);

/// Counts up to an amount in each window.
#[derive(Debug, Default)]
pub(crate) struct Tally(AtomicU64);

/// A bucket as the generic cell rate algorithm has it: one moment, when all that was taken will have come back.
#[derive(Debug, Default)]
pub(crate) struct Bucket(AtomicU64);

/// How fast a bucket fills, and how much it holds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// Units in `length_ms`, over all nodes.
    pub(crate) amount: u64,
    pub(crate) length_ms: u64,
    /// This node gets one of so many shares.
    pub(crate) nodes: u64,
    /// This node's share of the burst; at least 1.
    pub(crate) burst: u64,
}

// === impl Tag ===

impl Tag {
    pub(crate) fn of(window: u64) -> Self {
        Self(u16::try_from(window & TAG_MAX).unwrap_or(0))
    }
}

// === impl Tally ===

impl Tally {
    /// Takes `need` if no more than `most` is used with it.
    pub(crate) fn take(&self, tag: Tag, need: u64, most: u64) -> bool {
        let fits = |word: u64| {
            let used = used(word, tag).checked_add(need)?;
            (used <= most.min(USED_MAX)).then(|| pack(tag, used))
        };
        self.0
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, fits)
            .is_ok()
    }

    pub(crate) fn give_back(&self, tag: Tag, units: u64) {
        let rest = |word: u64| {
            let same = word >> USED_BITS == u64::from(tag.0);
            same.then(|| pack(tag, (word & USED_MAX).saturating_sub(units)))
        };
        // Of a window that is over there is nothing to give back.
        let _ = self
            .0
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, rest);
    }

    pub(crate) fn used(&self, tag: Tag) -> u64 {
        used(self.0.load(Ordering::Relaxed), tag)
    }
}

// === impl Bucket ===

impl Bucket {
    /// Takes `need`, or says in how many milliseconds it will be there; `None` where it never will.
    pub(crate) fn take(&self, need: u64, pace: Pace, boot_ms: u64) -> Result<(), Option<u64>> {
        let (now, cost, most) = (
            boot_ms.saturating_mul(NANOS_PER_MS),
            pace.cost(need),
            pace.most(),
        );
        if cost > most {
            return Err(None);
        }
        let after = |full_at: u64| full_at.max(now).saturating_add(cost);
        let taken = self
            .0
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, |full_at| {
                (after(full_at) - now <= most).then(|| after(full_at))
            });
        match taken {
            Ok(_) => Ok(()),
            Err(full_at) => Err(Some((after(full_at) - now - most).div_ceil(NANOS_PER_MS))),
        }
    }

    pub(crate) fn give_back(&self, units: u64, unit_ns: u64) {
        let back = units.saturating_mul(unit_ns);
        let sooner = |full_at: u64| Some(full_at.saturating_sub(back));
        let _ = self
            .0
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, sooner);
    }

    /// What could be taken at once.
    pub(crate) fn left(&self, pace: Pace, boot_ms: u64) -> u64 {
        let full_at = self.0.load(Ordering::Relaxed);
        let owed = full_at.saturating_sub(boot_ms.saturating_mul(NANOS_PER_MS));
        pace.most()
            .saturating_sub(owed)
            .checked_div(pace.cost(1))
            .unwrap_or(0)
    }

    pub(crate) fn is_full(&self, boot_ms: u64) -> bool {
        self.0.load(Ordering::Relaxed) <= boot_ms.saturating_mul(NANOS_PER_MS)
    }
}

// === impl Pace ===

impl Pace {
    /// Nanoseconds that one unit gives back at most, rounded against whoever took it.
    pub(crate) fn unit_ns(self) -> u64 {
        let nanos = self.length_ms.saturating_mul(NANOS_PER_MS);
        scaled_down(nanos, self.nodes, self.amount)
    }

    /// Nanoseconds until `units` have come back, rounded against whoever takes them.
    fn cost(self, units: u64) -> u64 {
        let nanos = self
            .length_ms
            .saturating_mul(NANOS_PER_MS)
            .saturating_mul(self.nodes);
        scaled_up(units, nanos, self.amount)
    }

    fn most(self) -> u64 {
        self.cost(1)
            .saturating_mul(self.burst)
            .max(self.cost(self.burst))
    }
}

fn used(word: u64, tag: Tag) -> u64 {
    if word >> USED_BITS == u64::from(tag.0) {
        word & USED_MAX
    } else {
        0
    }
}

fn pack(tag: Tag, used: u64) -> u64 {
    u64::from(tag.0) << USED_BITS | used.min(USED_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEN_A_SECOND: Pace = Pace {
        amount: 10,
        length_ms: 1_000,
        nodes: 1,
        burst: 5,
    };

    #[test]
    fn a_tally_admits_its_amount_in_each_window_and_no_more() {
        let tally = Tally::default();
        for window in [3, 4, 70_000] {
            let tag = Tag::of(window);
            assert_eq!((0..20).filter(|_| tally.take(tag, 1, 7)).count(), 7);
            assert_eq!(tally.used(tag), 7);
        }
    }

    #[test]
    fn what_comes_back_after_its_window_is_given_to_nobody() {
        let (tally, old, new) = (Tally::default(), Tag::of(1), Tag::of(2));
        assert!(tally.take(old, 3, 3));
        assert!(tally.take(new, 3, 3));
        tally.give_back(old, 3);
        assert!(!tally.take(new, 1, 3));
        tally.give_back(new, 2);
        assert!(tally.take(new, 2, 3));
    }

    #[test]
    fn an_amount_that_needs_all_bits_does_not_spill_into_the_window() {
        let (tally, tag) = (Tally::default(), Tag::of(5));
        assert!(tally.take(tag, USED_MAX, u64::MAX));
        assert!(!tally.take(tag, 1, u64::MAX));
        assert!(!tally.take(tag, u64::MAX, u64::MAX));
        assert_eq!(tally.used(tag), USED_MAX);
    }

    #[test]
    fn a_bucket_gives_its_burst_at_once_and_its_pace_after() {
        let bucket = Bucket::default();
        let burst = (0..9)
            .filter(|_| bucket.take(1, TEN_A_SECOND, 1_000_000).is_ok())
            .count();
        assert_eq!(burst, 5);
        assert_eq!(bucket.take(1, TEN_A_SECOND, 1_000_000), Err(Some(100)));
        assert_eq!(bucket.take(1, TEN_A_SECOND, 1_000_099), Err(Some(1)));
        assert_eq!(bucket.take(1, TEN_A_SECOND, 1_000_100), Ok(()));
        assert_eq!(bucket.left(TEN_A_SECOND, 1_000_350), 2);
        let over_ten_seconds =
            (1_000_350..1_010_350).filter(|ms| bucket.take(1, TEN_A_SECOND, *ms).is_ok());
        assert_eq!(over_ten_seconds.count(), 102);
    }

    #[test]
    fn more_than_a_bucket_holds_never_comes() {
        assert_eq!(Bucket::default().take(6, TEN_A_SECOND, 9_000), Err(None));
    }

    #[test]
    fn an_uneven_pace_never_gives_more_than_the_amount() {
        let pace = Pace {
            amount: 7,
            length_ms: 1_000,
            nodes: 3,
            burst: 1,
        };
        let bucket = Bucket::default();
        let taken = (0..30_000)
            .filter(|ms| bucket.take(1, pace, *ms).is_ok())
            .count();
        assert_eq!(taken, 70, "seven thirds a second for thirty seconds");
    }

    #[test]
    fn a_bucket_takes_back_what_was_not_used() {
        let bucket = Bucket::default();
        assert_eq!(bucket.take(5, TEN_A_SECOND, 0), Ok(()));
        bucket.give_back(2, TEN_A_SECOND.unit_ns());
        assert_eq!(bucket.left(TEN_A_SECOND, 0), 2);
        assert!(bucket.is_full(300) && !bucket.is_full(299));
    }
}
