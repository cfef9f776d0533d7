//! When this node last knew itself connected to the quorum.
//!
//! - A leader knows when a quorum has acknowledged it.
//! - A follower or learner knows it from each message of the current leader that it accepted, and counts from when that
//!   leader last had a quorum: a leader that is cut off together with some followers must not keep them fresh.
//!
//! Times are of `CLOCK_BOOTTIME`, which goes on while the machine sleeps and which no one can set. The consensus library
//! counts by the monotonic clock, which stands still meanwhile: [`Acks`] translates. What comes out of a socket after the
//! process, or the machine, stood still may have come before: [`Contact::ticks`] notices.
//!
//! Invariant: the moment of last contact never goes back, and is never later than the contact was.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::machine;

/// On the wire: the leader has not had a quorum yet.
const NEVER: u64 = u64::MAX;

/// A moment of this machine's run, in milliseconds since it booted.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct BootMs(pub u64);

/// Two looks at the clocks that are further apart: between them this node stood still.
const STOOD_STILL: Duration = Duration::from_secs(2);
/// So long after it stood still, messages may be from before.
const CATCHES_UP: Duration = Duration::from_secs(1);
/// The monotonic clock and the one of the boot are read one after the other, and in whole milliseconds.
const READING_MS: u64 = 50;

/// When this node last knew itself connected to the quorum. A cheap clone of the same.
#[derive(Clone, Debug, Default)]
pub struct Contact {
    /// Milliseconds since boot, plus one; zero is never.
    last: Arc<AtomicU64>,
    awake: Arc<Mutex<Awake>>,
}

/// Whether this node has stood still.
#[derive(Clone, Copy, Debug, Default)]
struct Awake {
    /// The last time it was seen to run; none where nobody looks.
    ticked: Option<BootMs>,
    /// Since when it stood still, and until when messages may be from before.
    still: Option<(BootMs, BootMs)>,
}

/// One look at both clocks.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Look {
    /// The monotonic clock, since any fixed moment; milliseconds.
    pub(crate) monotonic: u64,
    pub(crate) boot: BootMs,
}

/// When a quorum acknowledged this node, which leads, from what the consensus library reports of that.
#[derive(Debug)]
pub(crate) struct Acks {
    before: Look,
    /// By how much the clock of the boot is ahead: what the machine has slept.
    ahead: u64,
    /// Monotonic: the machine has not slept since.
    awake_since: u64,
}

// === impl BootMs ===

impl BootMs {
    /// This moment.
    pub fn now() -> Self {
        Self(machine::boot_ms())
    }

    /// How long it has been since `earlier`.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    fn plus(self, time: Duration) -> Self {
        let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(millis))
    }
}

// === impl Contact ===

impl Contact {
    /// The last contact in this process's life.
    pub fn last(&self) -> Option<BootMs> {
        self.last.load(Ordering::Acquire).checked_sub(1).map(BootMs)
    }

    /// There was contact at `moment`.
    pub fn reached(&self, moment: BootMs) {
        self.last
            .fetch_max(moment.0.saturating_add(1), Ordering::AcqRel);
    }

    /// This node runs at this moment. Told again and again, this shows when it did not.
    pub(crate) fn ticks(&self, now: BootMs) {
        let mut awake = self.awake();
        if let Some(ticked) = awake.ticked
            && now.since(ticked) > STOOD_STILL
        {
            tracing::info!(
                millis = u64::try_from(now.since(ticked).as_millis()).unwrap_or(u64::MAX),
                "this node stood still: what was on its way to it meanwhile is no news"
            );
            awake.still = Some((ticked, now.plus(CATCHES_UP)));
        }
        awake.ticked = Some(now);
    }

    /// When a message that is taken up at `arrived` came, at the earliest.
    fn came(&self, arrived: BootMs) -> BootMs {
        let awake = *self.awake();
        match awake {
            Awake {
                ticked: Some(ticked),
                ..
            } if arrived.since(ticked) > STOOD_STILL => ticked,
            Awake {
                still: Some((since, until)),
                ..
            } if arrived < until => since,
            Awake { .. } => arrived,
        }
    }

    fn awake(&self) -> MutexGuard<'_, Awake> {
        self.awake.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a leader tells of itself with each message.
    pub(crate) fn to_wire(&self) -> u64 {
        self.last().map_or(NEVER, |last| {
            u64::try_from(BootMs::now().since(last).as_millis()).unwrap_or(NEVER)
        })
    }

    /// A message of the current leader was accepted that came at `arrived`, with what the leader told of itself.
    pub(crate) fn heard(&self, arrived: BootMs, told: Option<u64>) {
        let arrived = self.came(arrived);
        match told {
            Some(NEVER) => {}
            // The message may have been on its way, and a contact before this machine booted says nothing here.
            Some(ago) if ago > arrived.0 => {}
            Some(ago) => self.reached(BootMs(arrived.0 - ago)),
            // A leader of a build that does not tell.
            None => self.reached(arrived),
        }
    }
}

// === impl Acks ===

impl Acks {
    /// From now on.
    pub(crate) const fn begin(now: Look) -> Self {
        Self {
            before: now,
            ahead: now.boot.0.saturating_sub(now.monotonic),
            awake_since: 0,
        }
    }

    /// What is reported now: that a quorum acknowledged this node so long before the report, by the monotonic clock. The
    /// report was made after the last look and lay there for no one knows how long, so it counts from that look.
    pub(crate) fn reported(&mut self, now: Look, millis_ago: Option<u64>) -> Option<BootMs> {
        let before = std::mem::replace(&mut self.before, now);
        let ahead = now.boot.0.saturating_sub(now.monotonic);
        // What was acknowledged before the machine slept is as old as the sleep was long.
        let awake =
            millis_ago.filter(|ago| self.awake_since <= before.monotonic.saturating_sub(*ago));
        if ahead > self.ahead.saturating_add(READING_MS) {
            self.awake_since = now.monotonic;
            self.ahead = ahead;
        }
        self.ahead = self.ahead.min(ahead);
        awake.map(|ago| BootMs(before.boot.0.saturating_sub(ago)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contact_never_goes_back() {
        let contact = Contact::default();
        assert_eq!(contact.last(), None);
        contact.reached(BootMs(0));
        assert_eq!(contact.last(), Some(BootMs(0)));
        contact.reached(BootMs(70));
        contact.reached(BootMs(50));
        assert_eq!(contact.last(), Some(BootMs(70)));
    }

    #[test]
    fn a_follower_is_as_fresh_as_its_leader_and_no_fresher() {
        let contact = Contact::default();
        contact.heard(BootMs(1_000), Some(NEVER));
        assert_eq!(contact.last(), None);
        contact.heard(BootMs(1_000), Some(400));
        assert_eq!(contact.last(), Some(BootMs(600)));
        contact.heard(BootMs(2_000), Some(1_400));
        assert_eq!(contact.last(), Some(BootMs(600)));
        contact.heard(BootMs(2_000), Some(2_001));
        assert_eq!(contact.last(), Some(BootMs(600)));
        contact.heard(BootMs(2_000), None);
        assert_eq!(contact.last(), Some(BootMs(2_000)));
    }

    #[test]
    fn a_leader_tells_how_long_ago_it_had_a_quorum() {
        let contact = Contact::default();
        assert_eq!(contact.to_wire(), NEVER);
        contact.reached(BootMs(BootMs::now().0.saturating_sub(5_000)));
        assert!((5_000..65_000).contains(&contact.to_wire()));
    }

    fn look(monotonic: u64, boot: u64) -> Look {
        Look {
            monotonic,
            boot: BootMs(boot),
        }
    }

    #[test]
    fn an_acknowledgement_counts_from_the_look_before_its_report() {
        let mut acks = Acks::begin(look(100, 5_100));
        assert_eq!(acks.reported(look(400, 5_400), None), None);
        assert_eq!(
            acks.reported(look(700, 5_700), Some(20)),
            Some(BootMs(5_380))
        );
        // The process was stopped for an hour with a report that it had not looked at.
        assert_eq!(
            acks.reported(look(3_600_700, 3_605_700), Some(30)),
            Some(BootMs(5_670))
        );
    }

    #[test]
    fn a_leader_that_slept_is_no_fresher_than_before_until_a_quorum_answers_again() {
        let mut acks = Acks::begin(look(100, 100));
        assert_eq!(acks.reported(look(400, 400), Some(10)), Some(BootMs(90)));
        // An hour in which the monotonic clock stood still.
        let hour = 3_600_000;
        let woken = acks.reported(look(500, 500 + hour), Some(110));
        assert!(woken <= Some(BootMs(390)), "{woken:?}");
        for late in [600, 900, 5_000] {
            let ago = Some(late - 390);
            assert_eq!(acks.reported(look(late, late + hour), ago), None);
        }
        // What a quorum acknowledged afterwards counts.
        assert_eq!(
            acks.reported(look(5_300, 5_300 + hour), Some(100)),
            Some(BootMs(4_900 + hour))
        );
    }

    #[test]
    fn what_comes_out_of_a_socket_after_a_standstill_may_be_from_before() {
        let contact = Contact::default();
        contact.ticks(BootMs(1_000));
        contact.ticks(BootMs(1_250));
        contact.heard(BootMs(1_300), Some(10));
        assert_eq!(contact.last(), Some(BootMs(1_290)));
        // Stopped for a minute: the message is taken up before the tick, and another one after it.
        contact.heard(BootMs(61_300), Some(0));
        assert_eq!(contact.last(), Some(BootMs(1_290)));
        contact.ticks(BootMs(61_310));
        contact.heard(BootMs(61_320), Some(0));
        assert_eq!(contact.last(), Some(BootMs(1_290)));
        for tick in 1..=10 {
            contact.ticks(BootMs(61_310 + tick * 250));
        }
        contact.heard(BootMs(63_900), Some(100));
        assert_eq!(contact.last(), Some(BootMs(63_800)));
    }
}
