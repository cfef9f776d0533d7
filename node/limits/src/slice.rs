//! One pool as this node holds it: what calls take from, from any thread.
//!
//! Invariants:
//! * taking reads what was published (`facts.rs`) and changes one atomic; the lock is for those who publish;
//! * what a call took is remembered with where it was taken from, so that it is settled there, whatever was published since;
//! * without a lease only two things are admitted: calls of a shadow limit, and the allowance of a bounded limit whose node
//!   is cut off. Both are owed, and paid from the next lease.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use mode_envoy_model::ledger::ask::PoolKey;
use mode_envoy_model::limit::{Limit, Mode, Unit, Window};

use crate::calendar::{length_ms, span};
use crate::facts::Facts;
use crate::lease::Lease;
use crate::local::{Bucket, Pace, Tag, Tally};
use crate::now::Now;
use crate::refusal::{Reason, Refusal};

/// Of the amount, what a node that is cut off may use beyond its lease in each window: one percent, at least 1.
const ALLOWANCE_DIVISOR: u64 = 100;

/// A pool, as this node holds it.
#[derive(Debug)]
pub struct Slice {
    key: PoolKey,
    facts: ArcSwap<Facts>,
    publishing: Mutex<()>,
    /// All that was ever needed here.
    demanded: AtomicU64,
    /// Used without a lease.
    owed: AtomicU64,
    allowance: Tally,
    window: Tally,
    bucket: Bucket,
    /// Tells the keeper once that something is owed.
    bell: Sender<PoolKey>,
    rung: AtomicBool,
}

/// Who takes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Taker {
    /// A call that just came: it does not go before those that wait.
    Newcomer,
    /// A call that waits, when something was applied.
    Waiter,
    /// A call that waited in vain.
    Last,
}

/// Where units were taken from.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    Lease(Arc<Lease>),
    /// Of the slice, from its allowance.
    Allowance(Tag),
    /// Of nobody: the limit only counts. It would have refused where it is `over`.
    Shadow {
        over: bool,
    },
    /// Of the slice, in a window of its own.
    Window(Tag),
    /// Of the slice's own bucket, for so many nanoseconds a unit.
    Bucket(u64),
    /// The limit is no more.
    Nothing,
}

/// Nothing was taken.
#[derive(Debug)]
pub(crate) enum Miss {
    /// The log has to be asked.
    Cold,
    Refused(Box<Refusal>),
}

// === impl Slice ===

impl Slice {
    pub(crate) fn new(key: PoolKey, limit: Arc<Limit>, bell: Sender<PoolKey>) -> Self {
        Self {
            key,
            facts: ArcSwap::from_pointee(Facts::new(limit)),
            publishing: Mutex::new(()),
            demanded: AtomicU64::new(0),
            owed: AtomicU64::new(0),
            allowance: Tally::default(),
            window: Tally::default(),
            bucket: Bucket::default(),
            bell,
            rung: AtomicBool::new(false),
        }
    }

    /// Which pool.
    pub const fn key(&self) -> &PoolKey {
        &self.key
    }

    /// Its limit, as this node knows it.
    pub fn limit(&self) -> Arc<Limit> {
        Arc::clone(&self.facts.load().limit)
    }

    pub(crate) fn facts(&self) -> arc_swap::Guard<Arc<Facts>> {
        self.facts.load()
    }

    /// Publishes other facts.
    pub(crate) fn publish(&self, change: impl FnOnce(&mut Facts)) {
        let lock = self.publishing.lock();
        let _publishing = lock.unwrap_or_else(PoisonError::into_inner);
        let mut facts = Facts::clone(&self.facts.load());
        change(&mut facts);
        self.facts.store(Arc::new(facts));
    }

    /// All that was ever needed here.
    pub(crate) fn demanded(&self) -> u64 {
        self.demanded.load(Ordering::Relaxed)
    }

    pub(crate) fn is_demanded(&self, need: u64) {
        self.demanded.fetch_add(need, Ordering::Relaxed);
    }

    /// What this node could admit at once.
    pub(crate) fn left(&self, facts: &Facts, now: Now) -> u64 {
        if !facts.is_local() {
            return facts.left();
        }
        match Self::pace(facts, now) {
            Some(pace) => self.bucket.left(pace, now.boot_ms),
            None => {
                share(&facts.limit, now).saturating_sub(self.window.used(tag(&facts.limit, now)))
            }
        }
    }

    pub(crate) fn take(
        &self,
        facts: &Facts,
        need: u64,
        taker: Taker,
        now: Now,
    ) -> Result<Source, Miss> {
        if facts.gone {
            return Ok(Source::Nothing);
        }
        let taken = if facts.is_local() {
            self.take_alone(facts, need, now)
        } else {
            if let Some(source) = Self::take_leased(facts, need, taker, now) {
                return Ok(source);
            }
            if facts.limit.shadow {
                Err(Miss::Cold)
            } else {
                self.without_a_lease(facts, need, taker, now)
            }
        };
        match taken {
            Err(_) if facts.limit.shadow => {
                let over = facts.is_local() || facts.is_exhausted(need, now);
                if !facts.is_local() {
                    self.owes(need);
                }
                Ok(Source::Shadow { over })
            }
            taken => taken,
        }
    }

    fn take_leased(facts: &Facts, need: u64, taker: Taker, now: Now) -> Option<Source> {
        let lease = facts.lease.as_ref()?;
        let others_first = facts.queued && taker == Taker::Newcomer;
        let may = !others_first && now.boot_ms <= facts.spend_until && now.may_spend();
        (may && lease.take(need)).then(|| Source::Lease(Arc::clone(lease)))
    }

    fn without_a_lease(
        &self,
        facts: &Facts,
        need: u64,
        taker: Taker,
        now: Now,
    ) -> Result<Source, Miss> {
        let refuse = |reason, retry| {
            Err(Miss::Refused(Box::new(
                Refusal::new(self, facts, need, reason, now).retry_at(retry),
            )))
        };
        if need > facts.cap() {
            return refuse(Reason::NeverFits, None);
        }
        if let Some(denied) = facts.denies(need, now) {
            return refuse(denied.reason, denied.retry_at_ms);
        }
        if !now.is_cut_off() && taker != Taker::Last {
            return Err(Miss::Cold);
        }
        if facts.limit.mode == Mode::Bounded {
            let window = span(facts.limit.per, now.wall_ms);
            let tag = Tag::of(window.index);
            let most = (facts.limit.amount / ALLOWANCE_DIVISOR).max(1);
            if self.allowance.take(tag, need, most) {
                self.owes(need);
                return Ok(Source::Allowance(tag));
            }
        }
        let reason = if now.is_cut_off() {
            Reason::NoQuorum
        } else {
            Reason::Unanswered
        };
        refuse(reason, None)
    }

    fn take_alone(&self, facts: &Facts, need: u64, now: Now) -> Result<Source, Miss> {
        let refuse = |reason, retry| {
            Err(Miss::Refused(Box::new(
                Refusal::new(self, facts, need, reason, now).retry_at(retry),
            )))
        };
        if let Some(pace) = Self::pace(facts, now) {
            return match self.bucket.take(need, pace, now.boot_ms) {
                Ok(()) => Ok(Source::Bucket(pace.unit_ns())),
                Err(Some(wait_ms)) => refuse(Reason::Exhausted, now.wall_ms.checked_add(wait_ms)),
                Err(None) => refuse(Reason::NeverFits, None),
            };
        }
        let (tag, most) = (tag(&facts.limit, now), share(&facts.limit, now));
        if self.window.take(tag, need, most) {
            Ok(Source::Window(tag))
        } else if need > most {
            refuse(Reason::NeverFits, None)
        } else {
            refuse(
                Reason::Exhausted,
                span(facts.limit.per, now.wall_ms).ends_ms,
            )
        }
    }

    /// Gives back what was taken of this slice itself.
    pub(crate) fn give_back(&self, source: &Source, units: u64) {
        match source {
            Source::Window(tag) => self.window.give_back(*tag, units),
            Source::Bucket(unit_ns) => self.bucket.give_back(units, *unit_ns),
            Source::Allowance(tag) => {
                self.allowance.give_back(*tag, units);
                self.owes_less(units);
            }
            Source::Shadow { .. } if !self.facts.load().is_local() => self.owes_less(units),
            Source::Lease(_) | Source::Shadow { .. } | Source::Nothing => {}
        }
    }

    fn owes(&self, units: u64) {
        self.owed.fetch_add(units, Ordering::AcqRel);
        if !self.rung.swap(true, Ordering::AcqRel) {
            // Without a keeper nobody is owed anything.
            let _ = self.bell.send(self.key.clone());
        }
    }

    /// Less is owed; what was already paid stays paid.
    pub(crate) fn owes_less(&self, units: u64) {
        let less = |owed: u64| Some(owed.saturating_sub(units));
        let _ = self
            .owed
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, less);
    }

    /// What is owed; the bell rings again for what comes.
    pub(crate) fn owed(&self) -> u64 {
        self.rung.store(false, Ordering::Release);
        self.owed.load(Ordering::Acquire)
    }

    pub(crate) fn owes_nothing(&self) {
        self.owed.store(0, Ordering::Release);
    }

    /// Forgetting what this slice counts alone changes nothing.
    pub(crate) fn is_blank(&self, facts: &Facts, now: Now) -> bool {
        let current = Tag::of(span(facts.limit.per, now.wall_ms).index);
        self.owed.load(Ordering::Acquire) == 0
            && self.allowance.used(current) == 0
            && self.window.used(tag(&facts.limit, now)) == 0
            && self.bucket.is_full(now.boot_ms)
    }

    /// A bucket's own pace, where the slice is one.
    fn pace(facts: &Facts, now: Now) -> Option<Pace> {
        let Window::Bucket { burst } = facts.limit.window else {
            return None;
        };
        let nodes = now.nodes.max(1);
        Some(Pace {
            amount: facts.limit.amount,
            length_ms: length_ms(facts.limit.per)?,
            nodes,
            burst: (burst / nodes).max(1),
        })
    }
}

/// What one node may use of a limit that every node keeps alone.
pub(crate) fn share(limit: &Limit, now: Now) -> u64 {
    (limit.amount / now.nodes.max(1)).max(1)
}

/// The window that a node which counts alone is in; calls that are open at the same time have none.
fn tag(limit: &Limit, now: Now) -> Tag {
    match limit.unit {
        Unit::Requests => Tag::of(span(limit.per, now.wall_ms).index),
        Unit::Concurrent => Tag::of(0),
    }
}
