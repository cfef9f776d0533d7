//! What the threads of the data plane know of one pool: published as a whole, read without a lock.
//!
//! A refusal is remembered here until something may have made it untrue: units came back, another amount, another window
//! (the pool's epoch), or the time that it named.

use std::sync::Arc;

use mode_envoy_model::ledger::view::PoolView;
use mode_envoy_model::limit::{Limit, Mode, Window};

use crate::calendar::{self, length_ms};
use crate::lease::Lease;
use crate::now::Now;
use crate::number::{count, scaled_down, scaled_up, signed};
use crate::refusal::Reason;

/// All that is known of a pool.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) limit: Arc<Limit>,
    /// Absent until the log was heard of.
    pub(crate) seen: Option<Arc<Seen>>,
    /// What may be spent now.
    pub(crate) lease: Option<Arc<Lease>>,
    /// Milliseconds since boot; then what is left of the lease's oldest grant is no longer to be spent.
    pub(crate) spend_until: u64,
    pub(crate) denied: Option<Denied>,
    /// Calls wait for units: who comes later waits behind them.
    pub(crate) queued: bool,
    /// The limit is no more.
    pub(crate) gone: bool,
}

/// A pool as the log has it, and when this node saw it so.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) view: PoolView,
    pub(crate) boot_ms: u64,
    pub(crate) applied: u64,
}

/// A refusal that others need not ask for again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Denied {
    /// Who needs less may have better luck.
    pub(crate) need: u64,
    pub(crate) reason: Reason,
    /// Unix milliseconds: then the log is asked again.
    pub(crate) until_ms: u64,
    /// As it is told.
    pub(crate) retry_at_ms: Option<u64>,
}

// === impl Facts ===

impl Facts {
    pub(crate) fn new(limit: Arc<Limit>) -> Self {
        Self {
            limit,
            seen: None,
            lease: None,
            spend_until: u64::MAX,
            denied: None,
            queued: false,
            gone: false,
        }
    }

    pub(crate) fn is_local(&self) -> bool {
        self.limit.mode == Mode::Local
    }

    pub(crate) fn is_bucket(&self) -> bool {
        matches!(self.limit.window, Window::Bucket { .. })
    }

    pub(crate) fn is_central(&self) -> bool {
        self.seen.as_ref().is_some_and(|seen| seen.view.central)
    }

    /// What this node can spend of its lease.
    pub(crate) fn left(&self) -> u64 {
        self.lease.as_ref().map_or(0, |lease| count(lease.left()))
    }

    /// The most that the pool can ever hold.
    pub(crate) fn cap(&self) -> u64 {
        let whole = match self.limit.window {
            Window::Calendar => self.limit.amount,
            Window::Bucket { burst } => burst,
        };
        self.seen.as_ref().map_or(whole, |seen| seen.view.cap)
    }

    /// What other nodes hold and could give back; a bucket takes nothing back, since it fills meanwhile.
    pub(crate) fn elsewhere(&self) -> u64 {
        let seen = self.seen.as_ref().filter(|_| !self.is_bucket());
        seen.map_or(0, |seen| seen.view.elsewhere)
    }

    /// What nobody has, as far as can be known without asking: a window that is over gives all of it anew, a bucket has
    /// filled since it was seen.
    pub(crate) fn free(&self, now: Now) -> i64 {
        let Some(seen) = &self.seen else {
            return signed(self.cap());
        };
        let view = &seen.view;
        if self.window_is_over(now) {
            return signed(view.cap);
        }
        match length_ms(self.limit.per) {
            Some(length) if self.is_bucket() => {
                let waited = now.boot_ms.saturating_sub(seen.boot_ms);
                let filled = scaled_down(self.limit.amount, waited, length);
                view.free
                    .saturating_add(signed(filled))
                    .min(signed(view.cap))
            }
            _ => view.free,
        }
    }

    /// Neither anybody nor nobody has so much, beside what this node has left.
    pub(crate) fn is_exhausted(&self, missing: u64, now: Now) -> bool {
        self.elsewhere() == 0 && self.free(now) < signed(missing)
    }

    /// The log has yet to say that the window rolled.
    pub(crate) fn window_is_over(&self, now: Now) -> bool {
        let ends = self.seen.as_ref().and_then(|seen| seen.view.ends_ms);
        ends.is_some_and(|ends| ends <= now.wall_ms)
    }

    /// When so many units can be there, if nobody takes them.
    pub(crate) fn refilled_at_ms(&self, units: u64, now: Now) -> Option<u64> {
        if !self.is_bucket() {
            return self.window(now).1;
        }
        let seen = self.seen.as_ref();
        let free = seen.map_or_else(|| signed(self.cap()), |seen| seen.view.free);
        let waited = seen.map_or(0, |seen| now.boot_ms.saturating_sub(seen.boot_ms));
        let missing = count(signed(units).saturating_sub(free));
        let fills = scaled_up(missing, length_ms(self.limit.per)?, self.limit.amount);
        Some(now.wall_ms.saturating_add(fills.saturating_sub(waited)))
    }

    /// When the window began and when it ends, as it is told.
    pub(crate) fn window(&self, now: Now) -> (u64, Option<u64>) {
        match &self.seen {
            Some(seen) if !self.is_local() => (seen.view.window, seen.view.ends_ms),
            _ if self.is_bucket() => (0, None),
            _ => {
                let span = calendar::span(self.limit.per, now.wall_ms);
                (span.begins_ms, span.ends_ms)
            }
        }
    }

    pub(crate) fn denies(&self, need: u64, now: Now) -> Option<Denied> {
        self.denied
            .filter(|denied| need >= denied.need && now.wall_ms < denied.until_ms)
    }
}
