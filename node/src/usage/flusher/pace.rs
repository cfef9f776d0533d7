//! How soon the flusher asks the log again, and what it tells of a log that counts nothing.
//!
//! Invariant: only what is counted (or that nothing is left to count) makes it quick again and ends what it tells. A log
//! that answers and counts nothing, such as one at which this node registers again and again, is asked ever more
//! slowly.

use std::time::Duration;

use super::fill::Stuck;
use crate::usage::stream::Meaning;

const FIRST: Duration = Duration::from_millis(50);
const MAX: Duration = Duration::from_secs(1);

/// How soon the log is asked again, and why nothing is counted.
#[derive(Debug)]
pub(super) struct Pace {
    pub(super) wait: Duration,
    pub(super) stuck: Stuck,
}

// === impl Pace ===

impl Pace {
    pub(super) fn new(now_ms: u64) -> Self {
        let stuck = Stuck {
            counted_ms: now_ms,
            ..Stuck::default()
        };
        Self {
            wait: Duration::ZERO,
            stuck,
        }
    }

    /// A batch is counted, or there is nothing to count.
    pub(super) fn counted(&mut self, now_ms: u64) {
        *self = Self::new(now_ms);
    }

    /// Nothing is counted, for this reason.
    pub(super) fn not_counted(&mut self, why: impl Into<String>) {
        self.stuck.why = Some(why.into());
        self.wait = (self.wait * 2).clamp(FIRST, MAX);
    }

    /// The log answered a batch.
    pub(super) fn answered(&mut self, meaning: &Meaning, now_ms: u64) {
        match meaning {
            Meaning::Counted(_) => self.counted(now_ms),
            Meaning::SendAgain => {}
            Meaning::Register => {
                self.not_counted(
                    "the log and this node disagree on what is next; it registers again",
                );
            }
            Meaning::Refused => {
                self.not_counted("the log refuses a batch as malformed");
                self.wait = MAX;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_counted_makes_it_quick_again_and_ends_what_it_tells() {
        let mut pace = Pace::new(7);
        assert_eq!(pace.wait, Duration::ZERO);
        let mut waits = Vec::new();
        for _ in 0..7 {
            pace.not_counted("there is no leader");
            waits.push(pace.wait.as_millis());
        }
        assert_eq!(waits, [50, 100, 200, 400, 800, 1_000, 1_000]);
        assert_eq!(pace.stuck.counted_ms, 7);
        pace.counted(9);
        assert_eq!((pace.wait, pace.stuck.counted_ms), (Duration::ZERO, 9));
        assert_eq!(pace.stuck.why, None);
    }

    #[test]
    fn a_log_that_answers_and_counts_nothing_is_asked_ever_more_slowly() {
        let mut pace = Pace::new(7);
        for wait in [50, 100, 200] {
            pace.answered(&Meaning::Register, 8);
            pace.answered(&Meaning::SendAgain, 8);
            assert_eq!(pace.wait.as_millis(), wait);
        }
        assert_eq!(pace.stuck.counted_ms, 7);
        assert!(pace.stuck.why.as_ref().unwrap().contains("registers again"));
        pace.answered(&Meaning::Refused, 8);
        assert_eq!(pace.wait, MAX);
        assert!(pace.stuck.why.as_ref().unwrap().contains("malformed"));
        pace.answered(&Meaning::Counted(Vec::new()), 9);
        assert_eq!((pace.wait, pace.stuck.counted_ms), (Duration::ZERO, 9));
    }
}
