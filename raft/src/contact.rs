//! When this node last knew itself connected to the quorum.
//!
//! - A leader knows when a quorum has acknowledged it.
//! - A follower or learner knows it from each message of the current leader that it accepted, and counts from when that
//!   leader last had a quorum: a leader that is cut off together with some followers must not keep them fresh.
//!
//! Times are of `CLOCK_BOOTTIME`, which goes on while the machine sleeps and which no one can set.
//!
//! Invariant: the moment of last contact never goes back, and is never later than the contact was.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::machine;

/// On the wire: the leader has not had a quorum yet.
const NEVER: u64 = u64::MAX;

/// A moment of this machine's run, in milliseconds since it booted.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct BootMs(pub u64);

/// When this node last knew itself connected to the quorum. A cheap clone of the same.
#[derive(Clone, Debug, Default)]
pub struct Contact {
    /// Milliseconds since boot, plus one; zero is never.
    last: Arc<AtomicU64>,
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

    /// A quorum acknowledged this node, which leads, so long ago.
    pub(crate) fn acknowledged(&self, millis_ago: u64) {
        self.reached(BootMs(BootMs::now().0.saturating_sub(millis_ago)));
    }

    /// What a leader tells of itself with each message.
    pub(crate) fn to_wire(&self) -> u64 {
        self.last().map_or(NEVER, |last| {
            u64::try_from(BootMs::now().since(last).as_millis()).unwrap_or(NEVER)
        })
    }

    /// A message of the current leader was accepted that came at `arrived`, with what the leader told of itself.
    pub(crate) fn heard(&self, arrived: BootMs, told: Option<u64>) {
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
        contact.acknowledged(5_000);
        assert!((5_000..65_000).contains(&contact.to_wire()));
    }
}
