//! The two clocks that a leader stamps into every entry. Pure: what time it is comes in as an argument.
//!
//! - The lease clock starts where the log's last one stands and then advances with this process's monotonic time,
//!   so a gap without a leader is not counted.
//! - The wall clock never goes back. A small step forward is smoothed: it runs at most a tenth faster than the
//!   lease clock until it has caught up. A large one is taken at once: that is a cluster that stood still, or a
//!   machine that slept, and usage must not be filed under a time long past until a slow clock arrives.

use std::time::Duration;

/// A step of the wall clock up to this is smoothed.
const SMOOTHED: Duration = Duration::from_mins(1);

/// What time it is for this process.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Now {
    /// Monotonic, since any fixed moment.
    pub(crate) monotonic: Duration,
    /// Unix milliseconds.
    pub(crate) wall_ms: u64,
}

/// What an entry is stamped with.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Stamp {
    /// Monotone, shared by all leaders.
    pub(crate) lease_clock_ms: u64,
    /// Unix milliseconds, made monotone.
    pub(crate) wall_ms: u64,
}

/// The clocks of one leadership.
#[derive(Clone, Debug)]
pub(crate) struct Clock {
    base_lease_ms: u64,
    began: Duration,
    last: Stamp,
}

// === impl Clock ===

impl Clock {
    /// Begins a leadership: `last` is the newest stamp in the leader's log.
    pub(crate) fn begin(last: Stamp, now: Now) -> Self {
        Self {
            base_lease_ms: last.lease_clock_ms,
            began: now.monotonic,
            last,
        }
    }

    /// The stamp of the next entry.
    pub(crate) fn stamp(&mut self, now: Now) -> Stamp {
        let elapsed = now.monotonic.saturating_sub(self.began);
        let lease_clock_ms = self
            .base_lease_ms
            .saturating_add(millis(elapsed))
            .max(self.last.lease_clock_ms);
        let step = lease_clock_ms - self.last.lease_clock_ms;
        let wall_ms = self.wall(now.wall_ms, step);
        self.last = Stamp {
            lease_clock_ms,
            wall_ms,
        };
        self.last
    }

    fn wall(&self, wall_ms: u64, step: u64) -> u64 {
        let ahead = wall_ms.saturating_sub(self.last.wall_ms);
        let fastest = step.saturating_add(step.div_ceil(10));
        if ahead.saturating_sub(step) > millis(SMOOTHED) {
            return wall_ms;
        }
        self.last.wall_ms.saturating_add(ahead.min(fastest))
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now(monotonic_ms: u64, wall_ms: u64) -> Now {
        Now {
            monotonic: Duration::from_millis(monotonic_ms),
            wall_ms,
        }
    }

    #[test]
    fn the_lease_clock_goes_on_where_the_log_stands_and_does_not_count_the_gap() {
        let last = Stamp {
            lease_clock_ms: 5_000,
            wall_ms: 1_000_000,
        };
        let mut clock = Clock::begin(last, now(70_000, 9_000_000));
        assert_eq!(clock.stamp(now(70_000, 9_000_000)).lease_clock_ms, 5_000);
        assert_eq!(clock.stamp(now(70_250, 9_000_250)).lease_clock_ms, 5_250);
    }

    #[test]
    fn the_wall_clock_never_goes_back() {
        let mut clock = Clock::begin(Stamp::default(), now(0, 10_000_000));
        assert_eq!(clock.stamp(now(0, 10_000_000)).wall_ms, 10_000_000);
        assert_eq!(clock.stamp(now(100, 1_000)).wall_ms, 10_000_000);
        assert_eq!(clock.stamp(now(200, 10_000_050)).wall_ms, 10_000_050);
    }

    #[test]
    fn a_small_step_is_caught_up_at_a_tenth_above_real_time() {
        let last = Stamp {
            lease_clock_ms: 0,
            wall_ms: 1_000_000,
        };
        let mut clock = Clock::begin(last, now(0, 1_030_000));
        assert_eq!(clock.stamp(now(0, 1_030_000)).wall_ms, 1_000_000);
        assert_eq!(clock.stamp(now(1_000, 1_031_000)).wall_ms, 1_001_100);
        let caught_up = clock.stamp(now(400_000, 1_430_000)).wall_ms;
        assert_eq!(caught_up, 1_430_000);
    }

    #[test]
    fn a_cluster_that_stood_still_takes_the_time_of_its_new_leader_at_once() {
        let last = Stamp {
            lease_clock_ms: 40,
            wall_ms: 1_000_000,
        };
        let mut clock = Clock::begin(last, now(0, 90_000_000));
        assert_eq!(clock.stamp(now(10, 90_000_010)).wall_ms, 90_000_010);
    }

    #[test]
    fn real_time_that_passes_between_two_entries_is_never_smoothed() {
        let last = Stamp {
            lease_clock_ms: 0,
            wall_ms: 1_000_000,
        };
        let mut clock = Clock::begin(last, now(0, 1_000_000));
        assert_eq!(clock.stamp(now(50_000, 1_050_000)).wall_ms, 1_050_000);
    }
}
