//! Why a call was refused: what its client is told, and the facts that explain it later.

use std::sync::Arc;

use mode_envoy_model::ledger::ask::PoolKey;
use mode_envoy_model::limit::{Limit, Mode};

use crate::facts::Facts;
use crate::now::Now;
use crate::slice::Slice;

/// What stood in the way.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reason {
    /// Nothing is left that anybody could give.
    Exhausted,
    /// What is left is held by other nodes, and was not given back in time.
    HeldElsewhere,
    /// The call needs more than the limit can ever give.
    NeverFits,
    /// The node is cut off, and may not decide alone, or has spent what it may.
    NoQuorum,
    /// The log did not answer in time.
    Unanswered,
    /// More calls wait for an answer than may.
    Crowded,
}

/// A refusal.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// Which of the limits of the call, by its place among them.
    pub which: usize,
    /// The limit.
    pub limit: Arc<Limit>,
    /// Whose part of it.
    pub pool: PoolKey,
    /// Why.
    pub reason: Reason,
    /// Unix milliseconds: when it is worth another try; absent where nobody can say.
    pub retry_at_ms: Option<u64>,
    /// When the window began, Unix milliseconds; 0 where there is none.
    pub window_begins_ms: u64,
    /// When it ends.
    pub window_ends_ms: Option<u64>,
    /// What the call needed.
    pub need: u64,
    /// What this node had left.
    pub slice: u64,
    /// What nobody had, as far as this node had applied the log; below 0 where the amount was lowered.
    pub free: i64,
    /// What other nodes held.
    pub elsewhere: u64,
    /// Where in the log that stood; 0 before the node heard of the pool.
    pub applied_index: u64,
}

// === impl Reason ===

impl Reason {
    /// As one word for machines.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Exhausted => "exhausted",
            Self::HeldElsewhere => "held_elsewhere",
            Self::NeverFits => "never_fits",
            Self::NoQuorum => "no_quorum",
            Self::Unanswered => "unanswered",
            Self::Crowded => "crowded",
        }
    }

    /// The limit was reached (429), as opposed to: nobody could say whether it was (503).
    pub const fn is_limited(self) -> bool {
        match self {
            Self::Exhausted | Self::HeldElsewhere | Self::NeverFits => true,
            Self::NoQuorum | Self::Unanswered | Self::Crowded => false,
        }
    }
}

// === impl Refusal ===

impl Refusal {
    pub(crate) fn new(slice: &Slice, facts: &Facts, need: u64, reason: Reason, now: Now) -> Self {
        let (window_begins_ms, window_ends_ms) = facts.window(now);
        let seen = facts.seen.as_deref();
        Self {
            which: 0,
            limit: Arc::clone(&facts.limit),
            pool: slice.key().clone(),
            reason,
            retry_at_ms: None,
            window_begins_ms,
            window_ends_ms,
            need,
            slice: slice.left(facts, now),
            free: seen.map_or(0, |seen| seen.view.free),
            elsewhere: seen.map_or(0, |seen| seen.view.elsewhere),
            applied_index: seen.map_or(0, |seen| seen.applied),
        }
    }

    #[must_use]
    pub(crate) fn retry_at(self, retry_at_ms: Option<u64>) -> Self {
        Self {
            retry_at_ms,
            ..self
        }
    }

    #[must_use]
    pub(crate) fn of(self, which: usize) -> Self {
        Self { which, ..self }
    }

    /// How strictly the limit is kept.
    pub fn mode(&self) -> Mode {
        self.limit.mode
    }

    /// Whole seconds for `Retry-After`, at least 1; absent where nobody can say.
    pub fn retry_after_s(&self, wall_ms: u64) -> Option<u64> {
        let wait = |at: u64| at.saturating_sub(wall_ms).div_ceil(1_000).max(1);
        self.retry_at_ms.map(wait)
    }
}
