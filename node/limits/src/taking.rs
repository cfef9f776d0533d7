//! All limits of a call, or none of them.
//!
//! ```text
//! take each in order; one has too little --> give back those before it --> Cold | Refused
//! Reservation: settle (as it was taken, or what it turned out to be) | dropped: all of it is given back
//! ```
//!
//! Giving back means that for nanoseconds others may see too little: never too much.

use std::sync::Arc;

use mode_envoy_model::ledger::ask::LeaseId;
use mode_envoy_model::limit::Unit;

use crate::now::Now;
use crate::number::signed;
use crate::refusal::Refusal;
use crate::slice::{Miss, Slice, Source, Taker};

/// How many limits one call may have.
pub const LIMITS_PER_CALL: usize = 16;

/// What a call holds of its limits. Dropped, it gives back all of it.
#[derive(Debug)]
#[must_use = "a reservation that is dropped admits nothing"]
pub struct Reservation {
    parts: [Option<Part>; LIMITS_PER_CALL],
}

#[derive(Debug)]
struct Part {
    slice: Option<Arc<Slice>>,
    source: Source,
    need: u64,
}

/// What a call's record says of one of its limits.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Charge {
    /// The lease that pays.
    pub lease: LeaseId,
    /// When the lease's window began: the window of a call is the one that it was admitted in.
    pub window: u64,
    /// What was reserved.
    pub need: u64,
    /// What is counted.
    pub unit: Unit,
}

/// Why a call has no reservation.
#[derive(Debug)]
pub enum NotTaken {
    /// The limit in this place needs the log: ask the keeper.
    Cold(usize),
    /// A limit says no.
    Refused(Box<Refusal>),
    /// More limits than [`LIMITS_PER_CALL`].
    TooMany,
}

/// Takes what a call needs of every limit, or nothing. In the order of the pools' keys calls stand least in each other's way.
///
/// # Errors
///
/// See [`NotTaken`].
pub fn take_all(limits: &[(&Arc<Slice>, u64)], now: Now) -> Result<Reservation, NotTaken> {
    for (slice, need) in limits {
        slice.is_demanded(*need);
    }
    take_as(limits.iter().copied(), Taker::Newcomer, now)
}

pub(crate) fn take_as<'a>(
    limits: impl ExactSizeIterator<Item = (&'a Arc<Slice>, u64)>,
    taker: Taker,
    now: Now,
) -> Result<Reservation, NotTaken> {
    if limits.len() > LIMITS_PER_CALL {
        return Err(NotTaken::TooMany);
    }
    let mut taken = Reservation::empty();
    for (which, ((slice, need), place)) in limits.zip(&mut taken.parts).enumerate() {
        let facts = slice.facts();
        match slice.take(&facts, need, taker, now) {
            Ok(source) => {
                let leased = matches!(source, Source::Lease(_) | Source::Nothing);
                let slice = (!leased).then(|| Arc::clone(slice));
                *place = Some(Part {
                    slice,
                    source,
                    need,
                });
            }
            Err(Miss::Cold) => return Err(NotTaken::Cold(which)),
            Err(Miss::Refused(refusal)) => {
                return Err(NotTaken::Refused(Box::new(refusal.of(which))));
            }
        }
    }
    Ok(taken)
}

// === impl Reservation ===

impl Reservation {
    pub(crate) const fn empty() -> Self {
        Self {
            parts: [const { None }; LIMITS_PER_CALL],
        }
    }

    /// What is to be recorded before the call goes on, for each limit that a lease pays for.
    pub fn charges(&self) -> impl Iterator<Item = Charge> {
        self.parts.iter().flatten().filter_map(Part::charge)
    }

    /// The places of shadow limits that would have refused the call.
    pub fn exceeded(&self) -> impl Iterator<Item = usize> {
        let over = |part: &Part| matches!(part.source, Source::Shadow { over: true });
        let places = self.parts.iter().enumerate();
        places.filter_map(move |(at, part)| part.as_ref().is_some_and(over).then_some(at))
    }

    /// The call is over, and took what it had reserved: requests are spent, and those that were open at the same time are not.
    pub fn settle(self) {
        self.settle_at(|charge| charge.spent());
    }

    /// The call is over, and took of every leased limit what `actual` says; of the others what it had reserved.
    pub fn settle_at(mut self, mut actual: impl FnMut(Charge) -> u64) {
        for part in self.parts.iter_mut().filter_map(Option::take) {
            let whole = part.spent();
            part.end(part.charge().map_or(whole, &mut actual));
        }
    }

    /// The call took nothing after all.
    pub fn release(self) {
        drop(self);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        for part in self.parts.iter_mut().filter_map(Option::take) {
            part.end(0);
        }
    }
}

// === impl Charge ===

impl Charge {
    /// What is used for good when the call took what it had reserved.
    pub const fn spent(&self) -> u64 {
        spent(self.unit, self.need)
    }
}

// === impl Part ===

impl Part {
    fn charge(&self) -> Option<Charge> {
        let Source::Lease(lease) = &self.source else {
            return None;
        };
        Some(Charge {
            lease: lease.id,
            window: lease.window,
            need: self.need,
            unit: lease.unit,
        })
    }

    /// What is used for good when the call took what it had reserved.
    fn spent(&self) -> u64 {
        let unit = match (&self.source, &self.slice) {
            (Source::Lease(lease), _) => lease.unit,
            (_, Some(slice)) => slice.facts().limit.unit,
            (_, None) => Unit::Requests,
        };
        spent(unit, self.need)
    }

    fn end(&self, actual: u64) {
        match (&self.source, &self.slice) {
            (Source::Lease(lease), _) if self.need != actual => {
                lease.change(signed(self.need).saturating_sub(signed(actual)));
            }
            (source, Some(slice)) if self.need > actual => {
                slice.give_back(source, self.need - actual);
            }
            _ => {}
        }
    }
}

const fn spent(unit: Unit, need: u64) -> u64 {
    match unit {
        Unit::Requests => need,
        Unit::Concurrent => 0,
    }
}
