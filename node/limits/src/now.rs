//! The time, as whoever reads clocks tells it, and what follows from it for a node that may be cut off.
//!
//! Two clocks: the wall names windows, and `CLOCK_BOOTTIME`, which goes on while a machine sleeps and which nobody can
//! set, says how long a lease may be spent without word from the quorum.

/// How long a node that is cut off may spend what it was granted: then it may no longer know the limits.
pub const LEASE_TTL_MS: u64 = 15_000;
/// Of [`LEASE_TTL_MS`], so that a slow clock errs to the safe side.
const TTL_PERCENT: u64 = 98;
/// Without word from the quorum for so long, calls no longer wait for an answer of the log.
pub const CUT_OFF_MS: u64 = 2_000;

/// A moment, and how this node stood with its cluster then.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Now {
    /// Unix milliseconds.
    pub wall_ms: u64,
    /// Milliseconds since this machine booted, sleep included.
    pub boot_ms: u64,
    /// When this node last knew a quorum, in the same milliseconds; never in this run, where absent.
    pub contact_boot_ms: Option<u64>,
    /// How many nodes serve: the share of a limit that every node keeps alone is the amount over it. 0 counts as 1.
    pub nodes: u64,
}

// === impl Now ===

impl Now {
    /// Whether leases may be spent.
    pub(crate) fn may_spend(&self) -> bool {
        self.contact_age_ms() <= LEASE_TTL_MS * TTL_PERCENT / 100
    }

    /// Whether it makes no sense to wait for the log.
    pub(crate) fn is_cut_off(&self) -> bool {
        self.contact_age_ms() > CUT_OFF_MS
    }

    fn contact_age_ms(&self) -> u64 {
        let age = |contact| self.boot_ms.saturating_sub(contact);
        self.contact_boot_ms.map_or(u64::MAX, age)
    }
}
