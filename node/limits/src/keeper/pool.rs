//! One pool as the keeper holds it: its leases, and what of them goes back.
//!
//! Invariants:
//! * what is returned was taken from what is left first, so that no call can spend it;
//! * a lease whose window is over, or that another replaced, is returned as calls give it back, and kept until all of it
//!   is spent or returned.

use std::sync::{Arc, Weak};

use mode_envoy_model::ledger::ask::{LeaseId, LeaseUse};
use mode_envoy_model::ledger::view::{LeaseView, PoolView};
use mode_envoy_model::limit::{Limit, Per, Unit, Window};

use super::demand::{Demand, Expiries};
use crate::calendar::length_ms;
use crate::facts::{Facts, Seen};
use crate::lease::Lease;
use crate::now::Now;
use crate::number::{count, scaled_down, scaled_up, signed};
use crate::slice::Slice;

/// How far ahead a node holds what it will need: of what is for a day or longer, and of the rest.
const LONG_HORIZON_MS: u64 = 10_000;
const SHORT_HORIZON_MS: u64 = 5_000;
/// The same where much more is left than anybody needs.
const PLENTY_HORIZON_MS: u64 = 30_000;
/// Much more: that many seconds of this node's demand, and half of the amount.
const PLENTY_S: u64 = 60;
/// A bucket's grants are to be spent within this, and within a quarter of the time in which its burst fills.
const BUCKET_SPEND_MS: u64 = 250;
/// Where less than this flows in meanwhile, every call asks for itself.
const BUCKET_UNITS: u64 = 16;
/// What a bucket's grants lose of their time, so that they are back before it is over.
const EXPIRES_EARLY_MS: u64 = 10;
/// So much less than this of the last grant is little.
const LOW_PERCENT: u64 = 30;
/// What lasts no longer than this is little.
const LOW_MS: u64 = 250;
/// What only others have is asked for this often.
pub(super) const BEYOND_EVERY_MS: u64 = 50;
/// Of concurrent calls a quarter more than were open of late.
const OPEN_MARGIN: u64 = 4;

/// A pool.
#[derive(Debug)]
pub(super) struct Pool {
    pub(super) slice: Arc<Slice>,
    pub(super) demand: Demand,
    current: Option<Held>,
    retired: Vec<Held>,
    expiries: Expiries,
    last_grant: u64,
    recalls: u64,
    recalled: bool,
    epoch: u64,
    applied: u64,
    /// When units were asked for that only others had.
    beyond_ms: Option<u64>,
}

/// A lease, and what this node knows to have become of it.
#[derive(Debug)]
struct Held {
    lease: Arc<Lease>,
    granted: u64,
    /// Planned.
    returned: u64,
    /// Of that, as far as it is applied.
    returned_applied: u64,
    settled: u64,
    /// Taken from what is left, to be returned.
    pending: u64,
}

// === impl Held ===

impl Held {
    fn new(view: &PoolView, lease: LeaseView) -> Self {
        let outside = lease.returned.saturating_add(lease.settled);
        let left = signed(lease.granted).saturating_sub(signed(outside));
        Self {
            lease: Arc::new(Lease::new(lease.id, view.window, view.limit.unit, left)),
            granted: lease.granted,
            returned: lease.returned,
            returned_applied: lease.returned,
            settled: lease.settled,
            pending: 0,
        }
    }

    fn outstanding(&self) -> u64 {
        self.granted
            .saturating_sub(self.returned)
            .saturating_sub(self.settled)
    }

    /// Outstanding, without what goes back.
    fn in_hand(&self) -> u64 {
        self.outstanding().saturating_sub(self.pending)
    }

    /// Returned or to be returned, but not yet free for all.
    fn coming_back(&self) -> u64 {
        self.pending + self.returned.saturating_sub(self.returned_applied)
    }

    fn put_aside(&mut self, keep: u64) {
        self.pending = self.pending.saturating_add(self.lease.drain(keep));
    }

    /// What goes into the next batch.
    fn returns(&mut self) -> u64 {
        let returned = std::mem::take(&mut self.pending);
        self.returned = self.returned.saturating_add(returned);
        returned
    }
}

// === impl Pool ===

impl Pool {
    pub(super) fn new(slice: Arc<Slice>, now: Now) -> Self {
        Self {
            demand: Demand::new(slice.demanded(), now.boot_ms),
            slice,
            current: None,
            retired: Vec::new(),
            expiries: Expiries::default(),
            last_grant: 0,
            recalls: 0,
            recalled: false,
            epoch: 0,
            applied: 0,
            beyond_ms: None,
        }
    }

    /// Takes over what was applied; an older view than the last changes nothing.
    pub(super) fn applied(&mut self, view: &PoolView, index: u64, now: Now) {
        if index < self.applied {
            return;
        }
        let first = self.applied == 0;
        self.applied = index;
        let seen = self.slice.facts().seen.clone();
        let before = seen.as_ref().map(|seen| seen.view.window);
        let lowered = seen.is_some_and(|seen| view.cap < seen.view.cap);
        if lowered {
            // Nothing more is admitted under the amount before.
            self.give_all_back();
        }
        self.take_over(view, now);
        self.recalled |= !first && view.recalls > self.recalls;
        if before.is_some_and(|window| window != view.window) && view.limit.shadow {
            self.slice.owes_nothing();
        }
        let void = view.epoch != self.epoch;
        (self.recalls, self.epoch) = (view.recalls, view.epoch);
        let seen = Arc::new(Seen {
            view: view.clone(),
            boot_ms: now.boot_ms,
            applied: index,
        });
        self.publish(move |facts| {
            facts.limit = Arc::clone(&seen.view.limit);
            facts.seen = Some(seen);
            facts.gone = false;
            if void {
                facts.denied = None;
            }
        });
    }

    fn take_over(&mut self, view: &PoolView, now: Now) {
        let same = |held: &Held, lease: &LeaseView| held.lease.id == lease.id;
        match (&mut self.current, view.lease) {
            (Some(held), Some(lease)) if same(held, &lease) => {
                held.returned_applied = held.returned_applied.max(lease.returned);
                let more = lease.granted.saturating_sub(held.granted);
                if more > 0 {
                    held.granted = lease.granted;
                    held.lease.change(signed(more));
                    self.granted(view, more, now);
                }
            }
            (current, lease) => {
                let old = std::mem::replace(current, lease.map(|lease| Held::new(view, lease)));
                self.retired.extend(old);
                self.expiries.clear();
                if let Some(lease) = lease {
                    self.granted(view, lease.granted, now);
                }
            }
        }
    }

    fn granted(&mut self, view: &PoolView, units: u64, now: Now) {
        self.last_grant = units.max(1);
        if let Window::Bucket { .. } = view.limit.window {
            let until = now.boot_ms.saturating_add(spend_ms(&view.limit));
            self.expiries.granted(units, until);
        }
    }

    /// What was recalled goes back once those that waited for it are served, and so does the rest of a tail.
    pub(super) fn give_back(&mut self, tail: bool) {
        let recalled = std::mem::take(&mut self.recalled);
        if let Some(held) = self.current.as_mut().filter(|_| recalled || tail) {
            // What was used already is paid with the next batch.
            held.put_aside(self.slice.owed());
        }
    }

    /// Publishes what changed, with the lease as it is.
    fn publish(&self, change: impl FnOnce(&mut Facts)) {
        let lease = self.current.as_ref().map(|held| Arc::clone(&held.lease));
        let spend_until = self.expiries.first().unwrap_or(u64::MAX);
        self.slice.publish(|facts| {
            (facts.lease, facts.spend_until) = (lease, spend_until);
            change(facts);
        });
    }

    /// Nothing that is left may be spent: it goes back with the next batch.
    pub(super) fn give_all_back(&mut self) {
        if let Some(held) = &mut self.current {
            held.put_aside(0);
        }
    }

    /// The limit is no more: what is left goes back.
    pub(super) fn gone(&mut self) {
        self.retired.extend(self.current.take());
        self.expiries.clear();
        // One that every node keeps alone from now on is no more in the log only.
        self.publish(|facts| facts.gone = !facts.is_local());
    }

    /// The log no longer takes returns of what this node held: another incarnation of it will be granted anew. The leases
    /// that calls may hold some of.
    pub(super) fn fenced(&mut self) -> Vec<Weak<Lease>> {
        let held = self.retired.drain(..).chain(self.current.take());
        let leases = held.map(|held| Arc::downgrade(&held.lease)).collect();
        self.expiries.clear();
        self.publish(|_| {});
        leases
    }

    /// What is left of a bucket's oldest grants goes back when their time is over.
    pub(super) fn expire(&mut self, now: Now) {
        let early = now.boot_ms.saturating_add(EXPIRES_EARLY_MS);
        if self.expiries.first().is_none_or(|until| until > early) {
            return;
        }
        let good = self.expiries.expire(early);
        if let Some(held) = &mut self.current {
            held.put_aside(good);
        }
        self.publish(|_| {});
    }

    /// When something of a bucket's grants is to go back.
    pub(super) fn expires_ms(&self) -> Option<u64> {
        let first = self.expiries.first();
        first.map(|until| until.saturating_sub(EXPIRES_EARLY_MS))
    }

    /// So much was spent of a lease, as the records say that go into the next batch.
    pub(super) fn spent(&mut self, lease: LeaseId, units: u64) {
        let mut held = self.retired.iter_mut().chain(&mut self.current);
        if let Some(held) = held.find(|held| held.lease.id == lease) {
            held.settled = held.settled.saturating_add(units);
        }
    }

    pub(super) fn follow(&mut self, now: Now) {
        let open = self.current.as_ref().map_or(0, |held| {
            held.in_hand().saturating_sub(count(held.lease.left()))
        });
        self.demand.follow(self.slice.demanded(), open, now.boot_ms);
    }

    /// What the next batch says of this pool's leases, beside what its records say.
    pub(super) fn uses(&mut self, now: Now, uses: &mut Vec<LeaseUse>) {
        self.expire(now);
        let keep = self.keeps(now);
        if let Some(held) = &mut self.current {
            if let Some(keep) = keep {
                held.put_aside(keep);
            }
            let paid = pay(&self.slice, held);
            push(uses, held, paid);
        }
        for held in &mut self.retired {
            held.put_aside(0);
            push(uses, held, 0);
        }
        self.retired.retain(|held| held.outstanding() > 0);
    }

    /// How much is kept of what is left, where it is not all.
    fn keeps(&self, now: Now) -> Option<u64> {
        if self.slice.facts().is_local() {
            return Some(0);
        }
        let idle = self.demand.idle_ms(now.boot_ms) >= 2 * self.horizon_ms(now);
        idle.then(|| self.demand.typical())
    }

    /// What would be good to have beyond what is left.
    pub(super) fn want(&self, rtt_ms: u64, now: Now) -> u64 {
        let facts = self.slice.facts();
        if facts.is_central() || facts.gone || facts.is_local() || facts.free(now) <= 0 {
            return 0;
        }
        let left = facts.left();
        let target = match facts.limit.unit {
            Unit::Concurrent => {
                let open = self.demand.most_open();
                let held = self.current.as_ref().map_or(0, Held::in_hand);
                let more = if open == 0 { 0 } else { open / OPEN_MARGIN + 1 };
                return if self.is_low(left, more) {
                    (open + more).saturating_sub(held)
                } else {
                    0
                };
            }
            Unit::Requests => self.demand.within(self.horizon_ms(now)),
        };
        let lasts = LOW_MS.max(rtt_ms.saturating_mul(3));
        let lasts = if facts.is_bucket() {
            lasts.min(spend_ms(&facts.limit) / 2)
        } else {
            lasts
        };
        if self.is_low(left, self.demand.within(lasts)) {
            target.saturating_sub(left)
        } else {
            0
        }
    }

    fn is_low(&self, left: u64, soon: u64) -> bool {
        left < scaled_down(self.last_grant, LOW_PERCENT, 100) || left < soon
    }

    fn horizon_ms(&self, now: Now) -> u64 {
        let facts = self.slice.facts();
        if facts.is_bucket() {
            return spend_ms(&facts.limit);
        }
        let (free, cap) = (count(facts.free(now)), facts.cap());
        let plenty = free > cap / 2 && free > self.demand.per_second().saturating_mul(PLENTY_S);
        match facts.limit.per {
            _ if plenty && facts.limit.unit == Unit::Requests => PLENTY_HORIZON_MS,
            Per::Day | Per::Month | Per::Total => LONG_HORIZON_MS,
            Per::Second | Per::Minute | Per::Hour => SHORT_HORIZON_MS,
        }
    }

    /// What will be free for all once it is applied.
    pub(super) fn coming_back(&self) -> u64 {
        self.current.as_ref().map_or(0, Held::coming_back)
    }

    /// Whether to ask for what only others have: not so often that the log is full of it.
    pub(super) fn may_go_beyond(&self, now: Now) -> bool {
        let again = |asked: u64| now.boot_ms.saturating_sub(asked) >= BEYOND_EVERY_MS;
        self.slice.facts().elsewhere() > 0 && self.beyond_ms.is_none_or(again)
    }

    pub(super) fn goes_beyond(&mut self, now: Now) {
        self.beyond_ms = Some(now.boot_ms);
    }

    /// Something goes back for others, or is over.
    pub(super) fn has_returns(&self) -> bool {
        let retired = self
            .retired
            .iter()
            .any(|held| held.pending > 0 || held.lease.left() > 0);
        retired || self.current.as_ref().is_some_and(|held| held.pending > 0)
    }

    /// Its lease is in use, so that there will be something to say before long.
    pub(super) fn is_busy(&self) -> bool {
        self.demand.per_second() > 0 || !self.retired.is_empty()
    }

    /// Nothing is held here.
    pub(super) fn is_empty(&self) -> bool {
        self.current.is_none() && self.retired.is_empty()
    }

    pub(super) fn leases(&self) -> impl Iterator<Item = LeaseId> {
        self.retired
            .iter()
            .chain(&self.current)
            .map(|held| held.lease.id)
    }
}

/// Pays from a lease what was used without one.
fn pay(slice: &Slice, held: &mut Held) -> u64 {
    if held.lease.unit == Unit::Concurrent {
        // Nothing is used for good; what is left now is what was lacking.
        slice.owes_less(count(held.lease.left()));
        return 0;
    }
    let owed = slice.owed();
    let paid = if owed == 0 {
        0
    } else {
        held.lease.take_up_to(owed)
    };
    if paid > 0 {
        slice.owes_less(paid);
        held.settled = held.settled.saturating_add(paid);
    }
    paid
}

fn push(uses: &mut Vec<LeaseUse>, held: &mut Held, spent: u64) {
    let returned = held.returns();
    if spent > 0 || returned > 0 {
        uses.push(LeaseUse {
            lease: held.lease.id,
            spent,
            returned,
        });
    }
}

/// How long a bucket's grants may be spent: 0 where it is so slow that every call asks for itself.
fn spend_ms(limit: &Limit) -> u64 {
    let (Window::Bucket { burst }, Some(length)) = (limit.window, length_ms(limit.per)) else {
        return 0;
    };
    let spend = BUCKET_SPEND_MS.min(scaled_down(burst, length, limit.amount) / 4);
    if scaled_up(limit.amount, spend, length) < BUCKET_UNITS {
        return 0;
    }
    spend
}
