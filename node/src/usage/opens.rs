//! Which attempts of one spool are open, and where: what may not be trimmed, and what must be carried.
//!
//! Pure. Invariant: an attempt is kept at the position of its last Open or Carry, and forgotten at its Close.

use std::collections::BTreeMap;

use super::recorder::{Attempt, CarryRequest};

/// An Open is repeated at the tail when it is so old.
const CARRY_AFTER_MS: u64 = 60_000;

/// Carries asked for at once; the others are asked for when these are done.
const CARRIES: usize = 256;

/// The open attempts of one spool.
#[derive(Debug, Default)]
pub(crate) struct Opens {
    position: BTreeMap<Attempt, u64>,
    by_position: BTreeMap<u64, Open>,
}

#[derive(Debug)]
struct Open {
    attempt: Attempt,
    /// When it was written or last asked for.
    since_ms: u64,
    version: u8,
    payload: Vec<u8>,
}

// === impl Opens ===

impl Opens {
    /// An Open, or a Carry of an attempt that is known already, stands at `seq`.
    pub(crate) fn opened(
        &mut self,
        (seq, since_ms): (u64, u64),
        attempt: Attempt,
        (version, payload): (u8, &[u8]),
    ) {
        if let Some(before) = self.position.insert(attempt, seq) {
            self.by_position.remove(&before);
        }
        self.by_position.insert(
            seq,
            Open {
                attempt,
                since_ms,
                version,
                payload: payload.to_vec(),
            },
        );
    }

    /// A Close was read.
    pub(crate) fn closed(&mut self, attempt: Attempt) {
        if let Some(seq) = self.position.remove(&attempt) {
            self.by_position.remove(&seq);
        }
    }

    /// The first record that an open attempt needs.
    pub(crate) fn oldest(&self) -> Option<u64> {
        self.by_position.keys().next().copied()
    }

    /// Those that should be carried to the tail, the oldest first; each is named once a minute.
    pub(crate) fn overdue(&mut self, now_ms: u64) -> Vec<CarryRequest> {
        let due = |open: &&mut Open| now_ms.saturating_sub(open.since_ms) > CARRY_AFTER_MS;
        let ask = |open: &mut Open| {
            open.since_ms = now_ms;
            CarryRequest {
                attempt: open.attempt,
                version: open.version,
                payload: open.payload.clone(),
            }
        };
        self.by_position
            .values_mut()
            .filter(due)
            .take(CARRIES)
            .map(ask)
            .collect()
    }

    /// The versions and payloads of all that are open, with their attempts.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Attempt, u8, &[u8])> {
        self.by_position
            .values()
            .map(|open| (open.attempt, open.version, &*open.payload))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::usage::record::CallId;

    const A: Attempt = (CallId([1; 16]), 0);
    const B: Attempt = (CallId([2; 16]), 0);

    #[test]
    fn a_carry_moves_an_attempt_and_a_close_forgets_it() {
        let mut opens = Opens::default();
        opens.opened((1, 0), A, (2, b"a"));
        opens.opened((2, 0), B, (2, b"b"));
        assert_eq!(opens.oldest(), Some(1));
        opens.opened((9, 50_000), A, (2, b"a"));
        assert_eq!(opens.oldest(), Some(2));
        opens.closed(B);
        assert_eq!(opens.oldest(), Some(9));
        opens.closed(A);
        opens.closed(A);
        assert_eq!(opens.oldest(), None);
    }

    #[test]
    fn only_what_is_older_than_a_minute_is_carried() {
        let mut opens = Opens::default();
        opens.opened((1, 1_000), A, (2, b"a"));
        opens.opened((2, 5_000), B, (2, b"b"));
        assert!(opens.overdue(61_000).is_empty());
        let due = opens.overdue(61_001);
        assert_eq!(
            due,
            [CarryRequest {
                attempt: A,
                version: 2,
                payload: b"a".to_vec()
            }]
        );
        assert!(opens.overdue(62_000).is_empty());
    }
}
