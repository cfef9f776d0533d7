//! The one who deals with the log for all threads of a node: hears what was applied, and says what goes into the next
//! batch.
//!
//! ```text
//! a call went cold --enqueue--> waits --plan--> asks in a batch --applied--> admitted | refused   (Decision)
//!                                 |                               counted--> what was denied is asked again, or refused
//!                                 +--overdue--> refused, or admitted by the allowance
//! ```
//!
//! Invariants:
//! * one batch is in flight at a time; what is planned is planned once, and its batch is sent until the log answered;
//! * what is returned in a batch can no longer be spent here;
//! * a call that waits is decided on once, at its deadline at the latest.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Weak};

use mode_envoy_model::ledger::ask::{LeaseId, PoolKey};
use mode_envoy_model::ledger::view::PoolView;

use self::decide::{Attempt, attempt, deadline_ms, give_up, refuse};
use self::pool::Pool;
use self::waiting::{Asked, Waiter, Waiting};
use crate::lease::Lease;
use crate::now::Now;
use crate::number::signed;
use crate::pools::Pools;
use crate::refusal::{Reason, Refusal};
use crate::slice::{Slice, Taker};
use crate::taking::Reservation;

mod asks;
mod decide;
mod demand;
mod plan;
mod pool;
mod waiting;

pub use self::asks::{ASK_ITEMS, ASKS, BATCH_ITEMS};
pub use self::decide::{TAIL_WAIT_MS, WAIT_MS};
pub use self::plan::{Plan, USES};
pub use self::waiting::Ticket;

/// How many calls wait.
pub const WAITERS: usize = 10_000;
/// While calls wait, what others of this node gave back is looked for this often.
const SERVED_EVERY_MS: u64 = 10;

/// Deals with the log.
#[derive(Debug)]
pub struct Keeper {
    pools: Arc<Pools>,
    bell: Receiver<PoolKey>,
    held: BTreeMap<PoolKey, Pool>,
    leases: BTreeMap<LeaseId, PoolKey>,
    waiting: Waiting,
    /// Pools that the batch in flight asks for, and when it was planned.
    asked: Option<(BTreeSet<PoolKey>, u64)>,
    rtt_ms: u64,
    /// Something should be said at once.
    urgent: bool,
    /// Pools with news since the last plan: only now and then all are looked at.
    touched: BTreeSet<PoolKey>,
    /// This node is ending: it asks for nothing and keeps nothing.
    leaving: bool,
    /// When all are looked at next, and when the first grant of a bucket is over.
    next_plan_ms: u64,
    next_expiry_ms: u64,
    forgets_ms: u64,
    /// Leases that the log no longer takes returns of, while calls may hold some of them.
    fenced: Vec<Weak<Lease>>,
}

/// What becomes of a call.
#[derive(Debug)]
pub enum Verdict {
    /// It may go on.
    Admitted(Box<Reservation>),
    /// It may not.
    Refused(Box<Refusal>),
}

/// A call that waits no more.
#[derive(Debug)]
pub struct Decision {
    /// Which.
    pub ticket: Ticket,
    /// What becomes of it.
    pub verdict: Verdict,
}

/// What came of asking the keeper.
#[derive(Debug)]
pub enum Enqueued {
    /// There was nothing to wait for.
    Decided(Verdict),
    /// A [`Decision`] with this ticket follows.
    Waits(Ticket),
}

// === impl Keeper ===

impl Keeper {
    /// A keeper, and the pools that threads take from.
    pub fn new() -> (Self, Arc<Pools>) {
        let (pools, bell) = Pools::new();
        let keeper = Self {
            pools: Arc::clone(&pools),
            bell,
            held: BTreeMap::new(),
            leases: BTreeMap::new(),
            waiting: Waiting::default(),
            asked: None,
            rtt_ms: 0,
            urgent: false,
            touched: BTreeSet::new(),
            leaving: false,
            next_plan_ms: 0,
            next_expiry_ms: u64::MAX,
            forgets_ms: 0,
            fenced: Vec::new(),
        };
        (keeper, pools)
    }

    /// A call for which a limit was cold. Each of `limits` comes with what the call needs of it.
    pub fn enqueue(&mut self, limits: &[(&Arc<Slice>, u64)], now: Now) -> Enqueued {
        for (slice, need) in limits {
            self.pool(slice, now).demand.needed(*need, now.boot_ms);
        }
        let limits = limits
            .iter()
            .map(|(slice, need)| (Arc::clone(slice), *need))
            .collect();
        let waiter = Waiter {
            limits,
            since_ms: now.boot_ms,
            deadline_ms: 0,
            short: 0,
            asked: Asked::Not,
        };
        match attempt(&self.held, waiter, Taker::Newcomer, now) {
            Attempt::Decided(verdict) => Enqueued::Decided(verdict),
            Attempt::Short(waiter) if self.waiting.len() >= WAITERS => {
                Enqueued::Decided(refuse(&waiter, Reason::Crowded, None, now))
            }
            Attempt::Short(mut waiter) => {
                waiter.deadline_ms = deadline_ms(&waiter, now);
                self.urgent = true;
                Enqueued::Waits(self.waiting.add(waiter))
            }
        }
    }

    /// The client of a call that waits has left.
    pub fn leave(&mut self, ticket: Ticket) {
        self.waiting.remove(ticket);
    }

    /// The log has applied something about these pools, in the entry of that index: all of them at once, since a call may
    /// wait for several.
    pub fn applied(&mut self, views: &[PoolView], index: u64, now: Now) -> Vec<Decision> {
        let mut keys = Vec::new();
        for view in views {
            if self.takes_over(view, index, now) {
                keys.push(&view.key);
            }
        }
        let mut decisions = Vec::new();
        for key in &keys {
            decisions.extend(self.serve(key, now));
        }
        for key in keys {
            let tail = self.is_tail(key);
            if let Some(pool) = self.held.get_mut(key) {
                pool.give_back(tail);
                self.urgent |= pool.has_returns();
                let expires = pool.expires_ms().unwrap_or(u64::MAX);
                self.next_expiry_ms = self.next_expiry_ms.min(expires);
            }
            self.urgent |= self.can_ask(key, now);
        }
        decisions
    }

    /// Whether a pool is one of this node's.
    fn takes_over(&mut self, view: &PoolView, index: u64, now: Now) -> bool {
        let known = self.held.contains_key(&view.key);
        if !known && view.lease.is_none() && self.pools.find(&view.key).is_none() {
            return false;
        }
        // Where no more pools are taken a lease stays unused, and so is nobody's loss but the amount's.
        let Ok(slice) = self.pools.open(&view.key, &view.limit) else {
            return false;
        };
        self.pool(&slice, now).applied(view, index, now);
        if let Some(lease) = view.lease {
            self.leases.insert(lease.id, view.key.clone());
        }
        true
    }

    /// The pools that it deals with.
    pub fn pools(&self) -> Vec<PoolKey> {
        let in_log = self
            .held
            .iter()
            .filter(|(_, pool)| !pool.slice.facts().is_local());
        in_log.map(|(key, _)| key.clone()).collect()
    }

    /// A limit is no more, and so its pools: whoever waits for them waits for nothing.
    pub fn gone(&mut self, key: &PoolKey, now: Now) -> Vec<Decision> {
        // What every node keeps alone is nothing that the log knows of.
        let slice = self.pools.find(key);
        if let Some(slice) = slice.filter(|slice| !slice.facts().is_local()) {
            self.pool(&slice, now).gone();
            self.urgent = true;
        }
        self.serve(key, now)
    }

    /// The log has counted the batch that was planned last, and this node has applied it. `view` says how a pool stands
    /// since: what was denied changed nothing there, so that nobody else tells of it.
    pub fn counted(
        &mut self,
        index: u64,
        view: impl FnMut(&PoolKey) -> Option<PoolView>,
        now: Now,
    ) -> Vec<Decision> {
        let (keys, planned_ms) = self.asked.take().unwrap_or((BTreeSet::new(), now.boot_ms));
        self.rtt_ms = now
            .boot_ms
            .saturating_sub(planned_ms)
            .max(self.rtt_ms * 7 / 8);
        self.waiting.mark(Asked::InFlight, Asked::Answered);
        let views: Vec<PoolView> = keys.iter().filter_map(view).collect();
        let mut decisions = self.applied(&views, index, now);
        for key in keys
            .iter()
            .filter(|key| views.iter().all(|view| view.key != **key))
        {
            decisions.extend(self.gone(key, now));
        }
        let short: Vec<PoolKey> = self.waiting.queues().cloned().collect();
        self.urgent |= short.iter().any(|key| self.can_ask(key, now));
        decisions
    }

    /// The log no longer takes batches of this incarnation. What it held is settled by its records; the next one is
    /// granted anew.
    pub fn fenced(&mut self) {
        self.asked = None;
        self.leases.clear();
        self.waiting.mark(Asked::InFlight, Asked::Not);
        let leases = self.held.values_mut().flat_map(Pool::fenced);
        self.fenced.extend(leases);
    }

    /// Whether no call holds anything any more of what was fenced: all that was spent of it is recorded.
    pub fn is_rid_of_what_was_fenced(&mut self) -> bool {
        self.fenced.retain(|lease| lease.strong_count() > 0);
        self.fenced.is_empty()
    }

    /// What is due by now without the log: calls that waited too long, and grants whose time is over.
    pub fn overdue(&mut self, now: Now) -> Vec<Decision> {
        if self.next_expiry_ms <= now.boot_ms {
            self.expire(now);
        }
        let short: Vec<PoolKey> = self.waiting.queues().cloned().collect();
        let mut decisions: Vec<Decision> = Vec::new();
        for key in &short {
            // Calls that ended here may have given back what others wait for.
            decisions.extend(self.serve(key, now));
            self.urgent |= self.can_ask(key, now);
        }
        while let Some((ticket, waiter)) = self.waiting.overdue(now.boot_ms) {
            match give_up(&self.held, waiter, now) {
                Attempt::Decided(verdict) => decisions.push(Decision { ticket, verdict }),
                Attempt::Short(waiter) => self.waiting.insert(ticket, waiter, true),
            }
        }
        decisions
    }

    /// This node is ending, and no call takes anything any more: all that it holds goes back with the next batch, and nothing
    /// more is asked for.
    pub fn end(&mut self) {
        self.leaving = true;
        for (key, pool) in &mut self.held {
            pool.give_all_back();
            if pool.has_returns() {
                self.touched.insert(key.clone());
            }
        }
        self.urgent = true;
    }

    /// Whether there is something to give back that no batch has said yet.
    pub fn has_returns(&self) -> bool {
        self.held.values().any(Pool::has_returns)
    }

    /// Whether a batch should be composed at once.
    pub const fn is_urgent(&self) -> bool {
        self.urgent
    }

    /// When to call [`Keeper::overdue`], and [`Keeper::plan`] where nothing is in flight, at the latest; milliseconds since boot.
    pub fn next_due_ms(&self, now: Now) -> u64 {
        if self.urgent && self.asked.is_none() {
            return now.boot_ms;
        }
        let first = self.next_plan_ms.min(self.next_expiry_ms);
        match self.waiting.next_deadline_ms() {
            Some(deadline) => first.min(deadline).min(now.boot_ms + SERVED_EVERY_MS),
            None => first,
        }
    }

    /// The pools that it deals with: a node that jumped in the log tells of each of them anew.
    pub fn held(&self) -> impl Iterator<Item = &PoolKey> {
        self.held.keys()
    }

    /// Forgets pools that nobody uses: to be called now and then.
    pub fn sweep(&mut self, now: Now) {
        self.forget(now);
        self.pools.sweep(now);
    }

    /// What buckets gave out for a time that is over goes back.
    fn expire(&mut self, now: Now) {
        self.next_expiry_ms = u64::MAX;
        for (key, pool) in &mut self.held {
            if pool.expires_ms().is_some_and(|due| due <= now.boot_ms) {
                pool.expire(now);
                if pool.has_returns() {
                    self.touched.insert(key.clone());
                    self.urgent = true;
                }
            }
            let next = pool.expires_ms().unwrap_or(u64::MAX);
            self.next_expiry_ms = self.next_expiry_ms.min(next);
        }
    }

    fn pool(&mut self, slice: &Arc<Slice>, now: Now) -> &mut Pool {
        self.touched.insert(slice.key().clone());
        let new = || Pool::new(Arc::clone(slice), now);
        self.held.entry(slice.key().clone()).or_insert_with(new)
    }

    /// So little is left that every call asks for itself: nothing is kept for calls to come.
    fn is_tail(&self, key: &PoolKey) -> bool {
        let central = |pool: &Pool| {
            let facts = pool.slice.facts();
            facts.is_central() && !facts.is_bucket()
        };
        self.held.get(key).is_some_and(central) && !self.waiting.needs(key)
    }

    /// Serves a pool's queue from its head, until something lacks.
    fn serve(&mut self, key: &PoolKey, now: Now) -> Vec<Decision> {
        let mut decisions = Vec::new();
        for _ in 0..self.waiting.queue_len(key) {
            let Some((ticket, waiter)) = self.waiting.pop(key) else {
                break;
            };
            match attempt(&self.held, waiter, Taker::Waiter, now) {
                Attempt::Decided(verdict) => decisions.push(Decision { ticket, verdict }),
                Attempt::Short(waiter) => {
                    let here = waiter.short().is_some_and(|(slice, _)| slice.key() == key);
                    self.waiting.insert(ticket, waiter, here);
                    if here {
                        break;
                    }
                }
            }
        }
        decisions
    }

    /// Whether asking may help those who wait for a pool.
    fn can_ask(&self, key: &PoolKey, now: Now) -> bool {
        let first = self.waiting.first(key).and_then(Waiter::short);
        first.is_some_and(|(slice, need)| {
            let facts = slice.facts();
            let missing = need.saturating_sub(facts.left());
            let beyond = self
                .held
                .get(key)
                .is_some_and(|pool| pool.may_go_beyond(now));
            facts.free(now) >= signed(missing) || beyond
        })
    }
}
