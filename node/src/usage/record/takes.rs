//! What a call takes of leases of limits, as its records say it: the log settles by them, exactly once.
//!
//! Invariant: a call takes of at most as many leases as it may have limits, so a record's room is known.

use mode_envoy_limits::{LIMITS_PER_CALL, Reservation};
use mode_envoy_model::ledger::ask::LeaseId;
use mode_envoy_storage::codec::{CodecError, compact};

/// Units of leases, in the order of a call's limits.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Takes {
    items: [(LeaseId, u64); LIMITS_PER_CALL],
    count: usize,
}

// === impl Takes ===

impl Takes {
    /// Of no limit.
    pub const NONE: Self = Self {
        items: [(0, 0); LIMITS_PER_CALL],
        count: 0,
    };

    /// What is used for good if the call takes what it reserved; nothing of limits on calls that are open at once.
    pub(crate) fn of(reservation: &Reservation) -> Self {
        let mut takes = Self::default();
        for charge in reservation.charges().filter(|charge| charge.spent() > 0) {
            takes.push((charge.lease, charge.spent()));
        }
        takes
    }

    /// Whether it takes nothing.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Leases, and the units of each.
    pub fn iter(&self) -> impl Iterator<Item = (LeaseId, u64)> {
        self.items.iter().take(self.count).copied()
    }

    fn push(&mut self, take: (LeaseId, u64)) {
        if let Some(place) = self.items.get_mut(self.count) {
            *place = take;
            self.count += 1;
        }
    }

    pub(super) fn encode_into(&self, out: &mut [u8]) -> Result<usize, CodecError> {
        let mut at = compact::encode_into(&u8::try_from(self.count).unwrap_or(u8::MAX), out)?;
        for take in self.iter() {
            at += compact::encode_into(&take, out.get_mut(at..).unwrap_or_default())?;
        }
        Ok(at)
    }

    /// Reads them from the start of some bytes, and says what is behind them.
    pub(super) fn split(bytes: &[u8]) -> Result<(Self, &[u8]), CodecError> {
        let (count, mut rest): (u8, _) = compact::split(bytes)?;
        if usize::from(count) > LIMITS_PER_CALL {
            return Err(CodecError::Decode {
                ty: "what a call takes of limits",
                len: bytes.len(),
                why: format!("{count} leases are more than {LIMITS_PER_CALL}"),
            });
        }
        let mut takes = Self::default();
        for _ in 0..count {
            let (take, behind) = compact::split(rest)?;
            takes.push(take);
            rest = behind;
        }
        Ok((takes, rest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_read_back_and_more_than_a_call_may_have_are_refused() {
        let mut takes = Takes::default();
        (1..=LIMITS_PER_CALL as u64).for_each(|lease| takes.push((lease << 33, u64::MAX)));
        takes.push((7, 7));
        let mut out = [9; 512];
        let len = takes.encode_into(&mut out).unwrap();
        let (read, rest) = Takes::split(&out[..=len]).unwrap();
        assert_eq!((read, rest), (takes, &[9][..]));
        out[0] += 1;
        assert!(Takes::split(&out).is_err());
        assert!(Takes::split(&[1, 5]).is_err());
        let mut none = [0; 1];
        assert_eq!(Takes::default().encode_into(&mut none), Ok(1));
        assert!(Takes::split(&none).unwrap().0.is_empty());
    }
}
