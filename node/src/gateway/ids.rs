//! Call ids: 128 bits that nobody can predict, for less than a system call each.
//!
//! BLAKE3 keyed with 256 bits of the operating system's randomness, over a counter.

use std::cell::RefCell;

use bytes::Bytes;
use http::HeaderValue;
use ring::rand::{SecureRandom as _, SystemRandom};

use crate::usage::record::CallId;

/// Ids made at a time.
const BATCH: usize = 16;
const ID_BYTES: usize = 16;

/// Makes ids; one for each worker.
#[derive(Debug)]
pub(crate) struct Ids {
    state: RefCell<State>,
}

struct State {
    seed: [u8; 32],
    counter: u64,
    ready: [[u8; ID_BYTES]; BATCH],
    used: usize,
}

// === impl Ids ===

impl Ids {
    /// `None` if the operating system gives no random bytes.
    pub(crate) fn new() -> Option<Self> {
        let mut seed = [0; 32];
        SystemRandom::new().fill(&mut seed).ok()?;
        let state = State {
            seed,
            counter: 0,
            ready: [[0; ID_BYTES]; BATCH],
            used: BATCH,
        };
        Some(Self {
            state: RefCell::new(state),
        })
    }

    pub(crate) fn next(&self) -> CallId {
        let state = &mut *self.state.borrow_mut();
        if state.used >= BATCH {
            state.refill();
        }
        let id = state.ready.get(state.used).copied().unwrap_or_default();
        state.used += 1;
        CallId(id)
    }
}

impl State {
    fn refill(&mut self) {
        let mut output = blake3::Hasher::new_keyed(&self.seed)
            .update(&self.counter.to_le_bytes())
            .finalize_xof();
        self.counter += 1;
        for id in &mut self.ready {
            output.fill(id);
        }
        self.used = 0;
    }
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("State(redacted)")
    }
}

/// An id as a header carries it: 32 hexadecimal digits.
pub(crate) fn header_value(id: CallId) -> HeaderValue {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| DIGITS.get(usize::from(nibble)).copied().unwrap_or(b'0');
    let mut text = [0; ID_BYTES * 2];
    for (pair, byte) in text.chunks_exact_mut(2).zip(id.0) {
        pair.copy_from_slice(&[digit(byte >> 4), digit(byte & 15)]);
    }
    HeaderValue::from_maybe_shared(Bytes::copy_from_slice(&text))
        .unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_two_ids_are_the_same_across_refills_and_workers() {
        let (one, other) = (Ids::new().unwrap(), Ids::new().unwrap());
        let ids: HashSet<CallId> = (0..BATCH * 4)
            .flat_map(|_| [one.next(), other.next()])
            .collect();
        assert_eq!(ids.len(), BATCH * 8);
    }

    #[test]
    fn an_id_is_32_digits_in_a_header() {
        assert_eq!(
            header_value(CallId([0x0f; ID_BYTES])),
            "0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f"
        );
    }
}
