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

use mode_envoy_model::ledger::ask::{Ask, AskItem, LeaseId, LeaseUse, PoolKey};
use mode_envoy_model::ledger::view::PoolView;
use mode_envoy_model::limit::Mode;

use self::asks::{Asks, Figures};
use self::demand::Demand;
use self::pool::Pool;
use self::waiting::{Asked, Waiter, Waiting};
use crate::facts::Denied;
use crate::lease::Lease;
use crate::now::Now;
use crate::number::signed;
use crate::pools::Pools;
use crate::refusal::{Reason, Refusal};
use crate::slice::{Slice, Taker};
use crate::taking::{NotTaken, Reservation, take_as};

mod asks;
mod demand;
mod pool;
mod waiting;

pub use self::asks::{ASK_ITEMS, ASKS};
pub use self::waiting::Ticket;

/// How long a call waits for the log.
pub const WAIT_MS: u64 = 30;
/// The same where it asks for one of the last units of a strict limit, which others may have to give back.
pub const TAIL_WAIT_MS: u64 = 150;
/// How many calls wait.
pub const WAITERS: usize = 10_000;
/// While a lease is in use, a batch is composed this often.
const BUSY_EVERY_MS: u64 = 100;
const IDLE_EVERY_MS: u64 = 1_000;
/// While calls wait, what others of this node gave back is looked for this often.
const SERVED_EVERY_MS: u64 = 10;
/// After units that others hold were not given back, that long nobody waits for them.
const HELD_ELSEWHERE_MS: u64 = 100;
/// What a client is told then.
const TRY_AGAIN_MS: u64 = 1_000;

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
    next_plan_ms: u64,
    forgets_ms: u64,
    /// Leases that the log no longer takes returns of, while calls may hold some of them.
    fenced: Vec<Weak<Lease>>,
}

/// What goes into the next batch.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Plan {
    /// Of leases, in the order of their ids.
    pub uses: Vec<LeaseUse>,
    /// To be served in this order.
    pub asks: Vec<Ask>,
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

// === impl Plan ===

impl Plan {
    /// Whether there is nothing to say.
    pub fn is_empty(&self) -> bool {
        self.uses.is_empty() && self.asks.is_empty()
    }
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
            next_plan_ms: 0,
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
        match self.attempt(waiter, Taker::Newcomer, now) {
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

    /// The log has applied something about a pool, in the entry of that index.
    pub fn applied(&mut self, view: &PoolView, index: u64, now: Now) -> Vec<Decision> {
        let known = self.held.contains_key(&view.key);
        if !known && view.lease.is_none() && self.pools.find(&view.key).is_none() {
            return Vec::new();
        }
        // Where no more pools are taken a lease stays unused, and so is nobody's loss but the amount's.
        let Ok(slice) = self.pools.open(&view.key, &view.limit) else {
            return Vec::new();
        };
        let pool = self.pool(&slice, now);
        pool.applied(view, index, now);
        let returns = pool.has_returns();
        if let Some(lease) = view.lease {
            self.leases.insert(lease.id, view.key.clone());
        }
        let decisions = self.serve(&view.key, now);
        let returns = returns || self.gives_up_the_tail(&view.key);
        self.urgent |= returns || self.can_ask(&view.key, now);
        decisions
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
        if let Some(slice) = self.pools.find(key) {
            self.pool(&slice, now).gone();
            self.urgent = true;
        }
        self.serve(key, now)
    }

    /// What goes into the next batch. `spent` is what its records say that leases paid, by lease; those of earlier
    /// incarnations too. It is planned once: the batch is to be sent until the log has answered.
    pub fn plan(&mut self, spent: &BTreeMap<LeaseId, u64>, now: Now) -> Plan {
        self.urgent = false;
        let mut uses: BTreeMap<LeaseId, LeaseUse> = BTreeMap::new();
        for (&lease, &spent) in spent.iter().filter(|(_, spent)| **spent > 0) {
            uses.insert(
                lease,
                LeaseUse {
                    lease,
                    spent,
                    returned: 0,
                },
            );
            if let Some(pool) = self
                .leases
                .get(&lease)
                .and_then(|key| self.held.get_mut(key))
            {
                pool.spent(lease, spent);
            }
        }
        self.hear_the_bell(now);
        let mut more = Vec::new();
        for pool in self.held.values_mut() {
            pool.follow(now);
            pool.uses(now, &mut more);
        }
        for LeaseUse {
            lease,
            spent,
            returned,
        } in more
        {
            let used = uses.entry(lease).or_insert_with(|| LeaseUse {
                lease,
                ..LeaseUse::default()
            });
            used.spent = used.spent.saturating_add(spent);
            used.returned = used.returned.saturating_add(returned);
        }
        let asks = if self.asked.is_none() {
            self.asks(now)
        } else {
            Vec::new()
        };
        if now.boot_ms >= self.forgets_ms {
            self.forget(now);
            self.forgets_ms = now.boot_ms + IDLE_EVERY_MS;
        }
        let busy = self.held.values().any(Pool::is_busy);
        let every = if busy { BUSY_EVERY_MS } else { IDLE_EVERY_MS };
        self.next_plan_ms = now.boot_ms + every;
        Plan {
            uses: uses.into_values().collect(),
            asks,
        }
    }

    /// The log has counted the batch that was planned last, and this node has applied it. `view` says how a pool stands
    /// since: what was denied changed nothing there, so that nobody else tells of it.
    pub fn counted(
        &mut self,
        index: u64,
        mut view: impl FnMut(&PoolKey) -> Option<PoolView>,
        now: Now,
    ) -> Vec<Decision> {
        let (keys, planned_ms) = self.asked.take().unwrap_or((BTreeSet::new(), now.boot_ms));
        self.rtt_ms = now
            .boot_ms
            .saturating_sub(planned_ms)
            .max(self.rtt_ms * 7 / 8);
        self.waiting.mark(Asked::InFlight, Asked::Answered);
        let mut decisions = Vec::new();
        for key in &keys {
            match view(key) {
                Some(view) => decisions.extend(self.applied(&view, index, now)),
                None => decisions.extend(self.gone(key, now)),
            }
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
        for pool in self.held.values_mut() {
            if pool.expires_ms().is_some_and(|due| due <= now.boot_ms) {
                pool.expire(now);
                self.urgent |= pool.has_returns();
            }
        }
        let short: Vec<PoolKey> = self.waiting.queues().cloned().collect();
        let mut decisions: Vec<Decision> = Vec::new();
        for key in &short {
            // Calls that ended here may have given back what others wait for.
            decisions.extend(self.serve(key, now));
            self.urgent |= self.can_ask(key, now);
        }
        while let Some((ticket, waiter)) = self.waiting.overdue(now.boot_ms) {
            match self.give_up(waiter, now) {
                Attempt::Decided(verdict) => decisions.push(Decision { ticket, verdict }),
                Attempt::Short(waiter) => self.waiting.insert(ticket, waiter, true),
            }
        }
        decisions
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
        let expiries = self.held.values().filter_map(Pool::expires_ms);
        let deadlines = self.waiting.next_deadline_ms().into_iter();
        let served = deadlines.clone().map(|_| now.boot_ms + SERVED_EVERY_MS);
        expiries
            .chain(deadlines)
            .chain(served)
            .fold(self.next_plan_ms, u64::min)
    }

    /// Forgets pools that nobody uses: to be called now and then.
    pub fn sweep(&mut self, now: Now) {
        self.forget(now);
        self.pools.sweep(now);
    }

    fn pool(&mut self, slice: &Arc<Slice>, now: Now) -> &mut Pool {
        let new = || Pool::new(Arc::clone(slice), now);
        self.held.entry(slice.key().clone()).or_insert_with(new)
    }

    /// Where so little is left that every call asks for itself, nothing is kept for calls to come.
    fn gives_up_the_tail(&mut self, key: &PoolKey) -> bool {
        let waits = self.waiting.queue_len(key) > 0;
        let tail = |pool: &&mut Pool| !waits && pool.slice.facts().is_central();
        self.held.get_mut(key).filter(tail).is_some_and(|pool| {
            pool.give_all_back();
            pool.has_returns()
        })
    }

    /// Serves a pool's queue from its head, until something lacks.
    fn serve(&mut self, key: &PoolKey, now: Now) -> Vec<Decision> {
        let mut decisions = Vec::new();
        for _ in 0..self.waiting.queue_len(key) {
            let Some((ticket, waiter)) = self.waiting.pop(key) else {
                break;
            };
            match self.attempt(waiter, Taker::Waiter, now) {
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

    fn attempt(&self, mut waiter: Waiter, taker: Taker, now: Now) -> Attempt {
        match take_as(waiter.limits(), taker, now) {
            Ok(taken) => Attempt::Decided(Verdict::Admitted(Box::new(taken))),
            Err(NotTaken::Refused(refusal)) => Attempt::Decided(Verdict::Refused(refusal)),
            Err(NotTaken::TooMany) => {
                Attempt::Decided(refuse(&waiter, Reason::NeverFits, None, now))
            }
            Err(NotTaken::Cold(short)) => {
                waiter.short = short;
                match self.hopeless(&waiter, now) {
                    Some(refusal) => Attempt::Decided(Verdict::Refused(Box::new(refusal))),
                    None => Attempt::Short(waiter),
                }
            }
        }
    }

    /// Nobody holds anything that the call could get: it need not wait, nor need others ask.
    fn hopeless(&self, waiter: &Waiter, now: Now) -> Option<Refusal> {
        let (slice, need) = waiter.short()?;
        let facts = slice.facts();
        facts.seen.as_ref()?;
        let coming = self.held.get(slice.key()).map_or(0, Pool::coming_back);
        let missing = need.saturating_sub(facts.left().saturating_add(coming));
        if facts.queued && facts.left() >= need || missing == 0 || !facts.is_exhausted(missing, now)
        {
            return None;
        }
        let retry_at_ms = facts.refilled_at_ms(missing, now);
        let denied = Denied {
            need,
            reason: Reason::Exhausted,
            until_ms: retry_at_ms.unwrap_or(u64::MAX),
            retry_at_ms,
        };
        slice.publish(|facts| facts.denied = Some(denied));
        let refusal = Refusal::new(slice, &facts, need, Reason::Exhausted, now);
        Some(refusal.retry_at(retry_at_ms).of(waiter.short))
    }

    /// A call has waited too long: the allowance may have something, or it is refused, unless its limit became central
    /// meanwhile and so gives it more time.
    fn give_up(&self, mut waiter: Waiter, now: Now) -> Attempt {
        let deadline = deadline_ms(&waiter, now);
        if deadline > now.boot_ms && !now.is_cut_off() {
            waiter.deadline_ms = deadline;
            return Attempt::Short(waiter);
        }
        if waiter.asked != Asked::Answered {
            return match take_as(waiter.limits(), Taker::Last, now) {
                Ok(taken) => Attempt::Decided(Verdict::Admitted(Box::new(taken))),
                Err(NotTaken::Refused(refusal)) => Attempt::Decided(Verdict::Refused(refusal)),
                Err(NotTaken::Cold(_) | NotTaken::TooMany) => {
                    Attempt::Decided(refuse(&waiter, Reason::Unanswered, None, now))
                }
            };
        }
        let waiter = match self.attempt(waiter, Taker::Waiter, now) {
            Attempt::Short(waiter) => waiter,
            decided @ Attempt::Decided(_) => return decided,
        };
        let soon = now.wall_ms.saturating_add(TRY_AGAIN_MS);
        if let Some((slice, need)) = waiter.short() {
            let denied = Denied {
                need,
                reason: Reason::HeldElsewhere,
                until_ms: now.wall_ms.saturating_add(HELD_ELSEWHERE_MS),
                retry_at_ms: Some(soon),
            };
            slice.publish(|facts| facts.denied = Some(denied));
        }
        Attempt::Decided(refuse(&waiter, Reason::HeldElsewhere, Some(soon), now))
    }

    /// Pools that owe something want to pay, whether or not a call waits.
    fn hear_the_bell(&mut self, now: Now) {
        let rung: BTreeSet<PoolKey> = self.bell.try_iter().collect();
        for key in rung {
            if let Some(slice) = self.pools.find(&key) {
                self.pool(&slice, now);
            }
        }
    }

    fn asks(&mut self, now: Now) -> Vec<Ask> {
        let mut asks = Asks::default();
        for waiter in self.waiting.in_order() {
            asks.add(waiter, &self.held, now);
        }
        for key in std::mem::take(&mut asks.beyond) {
            if let Some(pool) = self.held.get_mut(&key) {
                pool.goes_beyond(now);
            }
        }
        for pool in self.held.values() {
            asks.owed(&pool.slice, owed(&pool.slice, now), now);
        }
        let mut items = Vec::new();
        for (key, pool) in &self.held {
            let want = pool.want(self.rtt_ms, now);
            if want > 0 {
                items.push(item(key, pool, want));
            }
        }
        let mut asks = asks.finish(|key| self.figures(key));
        let room = ASKS.saturating_sub(asks.len());
        asks.extend(asks::wants(items).take(room));
        if asks.is_empty() {
            return asks;
        }
        let keys: BTreeSet<PoolKey> = asks
            .iter()
            .flat_map(|ask| &ask.items)
            .map(|item| item.pool.clone())
            .collect();
        self.waiting.asks_for(&keys);
        self.asked = Some((keys, now.boot_ms));
        asks
    }

    fn figures(&self, key: &PoolKey) -> Figures {
        let demand = self.held.get(key).map(|pool| &pool.demand);
        Figures {
            demand: demand.map_or(0, Demand::per_second),
            typical: demand.map_or(1, Demand::typical),
        }
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

    /// Lets go of pools that hold nothing and that nobody waits for.
    fn forget(&mut self, now: Now) {
        let (waiting, leases) = (&self.waiting, &mut self.leases);
        let kept = |pool: &Pool| {
            let idle = pool.demand.idle_ms(now.boot_ms) > IDLE_EVERY_MS && pool.slice.owed() == 0;
            !(pool.is_empty() && idle && waiting.queue_len(pool.slice.key()) == 0)
        };
        self.held.retain(|_, pool| kept(pool));
        let held = &self.held;
        leases.retain(|lease, key| {
            held.get(key)
                .is_some_and(|pool| pool.leases().any(|id| id == *lease))
        });
    }
}

enum Attempt {
    Decided(Verdict),
    Short(Waiter),
}

fn refuse(waiter: &Waiter, reason: Reason, retry_at_ms: Option<u64>, now: Now) -> Verdict {
    let refusal = waiter.short().map(|(slice, need)| {
        Refusal::new(slice, &slice.facts(), need, reason, now)
            .retry_at(retry_at_ms)
            .of(waiter.short)
    });
    match refusal {
        Some(refusal) => Verdict::Refused(Box::new(refusal)),
        // A call without limits has nothing to be refused by.
        None => Verdict::Admitted(Box::new(Reservation::empty())),
    }
}

/// By when a call is decided on.
fn deadline_ms(waiter: &Waiter, now: Now) -> u64 {
    let denied = waiter.asked == Asked::Answered;
    let tail = waiter.limits().any(|(slice, need)| {
        let facts = slice.facts();
        let scarce = denied || facts.is_central() || facts.free(now) < signed(need);
        scarce && facts.limit.mode == Mode::Strict
    });
    waiter.since_ms + if tail { TAIL_WAIT_MS } else { WAIT_MS }
}

/// What a slice owes and may yet pay: a shadow limit that has nothing to give counts no more than that.
fn owed(slice: &Slice, now: Now) -> u64 {
    let facts = slice.facts();
    if facts.limit.shadow && facts.is_exhausted(1, now) {
        slice.owes_nothing();
    }
    slice.owed()
}

fn item(key: &PoolKey, pool: &Pool, want: u64) -> AskItem {
    AskItem {
        pool: key.clone(),
        need: 0,
        want,
        demand: pool.demand.per_second(),
        typical: pool.demand.typical(),
    }
}
