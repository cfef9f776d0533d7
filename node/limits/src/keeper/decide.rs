//! What becomes of calls that wait, one at a time: admitted, refused, or short of something that may yet come.
//!
//! A refusal that others would get as well is remembered with the pool, so that they need not wait for it.

use std::collections::BTreeMap;

use mode_envoy_model::ledger::ask::PoolKey;
use mode_envoy_model::limit::Mode;

use super::Verdict;
use super::pool::Pool;
use super::waiting::{Asked, Waiter};
use crate::facts::Denied;
use crate::now::Now;
use crate::number::signed;
use crate::refusal::{Reason, Refusal};
use crate::slice::{Slice, Taker};
use crate::taking::{NotTaken, Reservation, take_as};

/// How long a call waits for the log.
pub const WAIT_MS: u64 = 30;
/// The same where it asks for one of the last units of a strict limit, which others may have to give back.
pub const TAIL_WAIT_MS: u64 = 150;
/// After units that others hold were not given back, that long nobody waits for them.
const HELD_ELSEWHERE_MS: u64 = 100;
/// What a client is told then.
const TRY_AGAIN_MS: u64 = 1_000;

type Pools = BTreeMap<PoolKey, Pool>;

/// What came of trying.
pub(super) enum Attempt {
    Decided(Verdict),
    Short(Waiter),
}

/// Takes what a call needs, or says which of its limits has too little.
pub(super) fn attempt(pools: &Pools, mut waiter: Waiter, taker: Taker, now: Now) -> Attempt {
    match take_as(waiter.limits(), taker, now) {
        Ok(taken) => Attempt::Decided(Verdict::Admitted(Box::new(taken))),
        Err(NotTaken::Refused(refusal)) => Attempt::Decided(Verdict::Refused(refusal)),
        Err(NotTaken::TooMany) => Attempt::Decided(refuse(&waiter, Reason::NeverFits, None, now)),
        Err(NotTaken::Cold(short)) => {
            waiter.short = short;
            match hopeless(pools, &waiter, now) {
                Some(refusal) => Attempt::Decided(Verdict::Refused(Box::new(refusal))),
                None => Attempt::Short(waiter),
            }
        }
    }
}

/// Nobody holds anything that the call could get of one of its limits, be it the one that it waits for or another: it need not
/// wait, nor need others ask. The log grants all of an ask or nothing, so it would wait in vain for the others.
fn hopeless(pools: &Pools, waiter: &Waiter, now: Now) -> Option<Refusal> {
    let mut limits = waiter.limits().enumerate();
    limits.find_map(|(which, (slice, need))| hopeless_of(pools, slice, need, which, now))
}

fn hopeless_of(pools: &Pools, slice: &Slice, need: u64, which: usize, now: Now) -> Option<Refusal> {
    let facts = slice.facts();
    if facts.limit.shadow || facts.gone || facts.is_local() {
        return None;
    }
    facts.seen.as_ref()?;
    let coming = pools.get(slice.key()).map_or(0, Pool::coming_back);
    let missing = need.saturating_sub(facts.left().saturating_add(coming));
    if facts.queued && facts.left() >= need || missing == 0 || !facts.is_exhausted(missing, now) {
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
    Some(refusal.retry_at(retry_at_ms).of(which))
}

/// A call has waited too long: the allowance may have something, or it is refused, unless its limit became central
/// meanwhile and so gives it more time.
pub(super) fn give_up(pools: &Pools, mut waiter: Waiter, now: Now) -> Attempt {
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
    let waiter = match attempt(pools, waiter, Taker::Waiter, now) {
        Attempt::Short(waiter) => waiter,
        decided @ Attempt::Decided(_) => return decided,
    };
    let elsewhere = waiter
        .short()
        .is_some_and(|(slice, _)| slice.facts().elsewhere() > 0);
    if !elsewhere {
        return Attempt::Decided(refuse(&waiter, Reason::Unanswered, None, now));
    }
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

pub(super) fn refuse(
    waiter: &Waiter,
    reason: Reason,
    retry_at_ms: Option<u64>,
    now: Now,
) -> Verdict {
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
pub(super) fn deadline_ms(waiter: &Waiter, now: Now) -> u64 {
    let denied = waiter.asked == Asked::Answered;
    let tail = waiter.limits().any(|(slice, need)| {
        let facts = slice.facts();
        let scarce = denied || facts.is_central() || facts.free(now) < signed(need);
        scarce && facts.limit.mode == Mode::Strict
    });
    waiter.since_ms + if tail { TAIL_WAIT_MS } else { WAIT_MS }
}
