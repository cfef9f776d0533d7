//! What a projection should hold: numbers that change with it in the same atomic batch.
//!
//! sled checks what it reads, but where it finds damage behind a restart it may skip what it cannot read, and an older
//! version of a value comes to light again. The sum over all pieces tells that: it is carried along with every
//! change, and compared with what is there when the projection is opened. And since sled may come back as it was some
//! changes ago, ledger and all, the newest ledger is in a file beside it too, the mark.

use serde::{Deserialize, Serialize};

use crate::codec::CodecError;
use crate::codec::envelope::{self, Kind};

/// Where the ledger stands; keys of pieces begin with another byte.
pub(super) const KEY: [u8; 1] = [0];

const KIND: Kind = Kind {
    type_id: 2,
    version: 1,
    head_bytes: 16 + 3 * 8 + 3 * 8 + 16,
};

/// Frozen, see [`KIND`].
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub(super) struct Ledger {
    pub(super) cluster_id: [u8; 16],
    pub(super) node_id: u64,
    /// Batches since the beginning.
    pub(super) changes: u64,
    /// What the owner said last; 0 if nothing.
    pub(super) applied: u64,
    pub(super) values: u64,
    pub(super) pieces: u64,
    /// Of all keys and pieces.
    pub(super) bytes: u64,
    /// Wraps; the order of the pieces does not matter.
    sum: [u64; 2],
}

// === impl Ledger ===

impl Ledger {
    pub(super) fn new(cluster_id: [u8; 16], node_id: u64) -> Self {
        Self {
            cluster_id,
            node_id,
            changes: 0,
            applied: 0,
            values: 0,
            pieces: 0,
            bytes: 0,
            sum: [0; 2],
        }
    }

    /// The same owner's, of nothing.
    pub(super) fn emptied(&self) -> Self {
        Self::new(self.cluster_id, self.node_id)
    }

    /// Whether it tells of the same pieces.
    pub(super) fn agrees_with(&self, other: &Self) -> bool {
        let content = |ledger: &Self| (ledger.values, ledger.pieces, ledger.bytes, ledger.sum);
        content(self) == content(other)
    }

    /// Whether this may be what is there, where the mark says that.
    pub(super) fn is_not_before(&self, mark: &Self) -> bool {
        self.changes > mark.changes || self == mark
    }

    /// A piece is there now.
    pub(super) fn add(&mut self, key: &[u8], piece: &[u8]) {
        let hash = hash(key, piece);
        self.pieces = self.pieces.wrapping_add(1);
        self.bytes = self.bytes.wrapping_add((key.len() + piece.len()) as u64);
        for (sum, half) in self.sum.iter_mut().zip(hash) {
            *sum = sum.wrapping_add(half);
        }
    }

    /// A piece is gone.
    pub(super) fn remove(&mut self, key: &[u8], piece: &[u8]) {
        let hash = hash(key, piece);
        self.pieces = self.pieces.wrapping_sub(1);
        self.bytes = self.bytes.wrapping_sub((key.len() + piece.len()) as u64);
        for (sum, half) in self.sum.iter_mut().zip(hash) {
            *sum = sum.wrapping_sub(half);
        }
    }

    pub(super) fn encode(&self) -> Result<Vec<u8>, CodecError> {
        envelope::seal(KIND, self, &KEY)
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (ledger, key) = envelope::open(KIND, bytes)?;
        (key == KEY).then_some(ledger)
    }
}

fn hash(key: &[u8], piece: &[u8]) -> [u64; 2] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(key.len() as u64).to_le_bytes());
    hasher.update(key);
    hasher.update(piece);
    let hash = hasher.finalize();
    let half = |at: usize| {
        let bytes = hash.as_bytes()[at..].first_chunk();
        u64::from_le_bytes(bytes.copied().unwrap_or_default())
    };
    [half(0), half(8)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_added_and_removed_in_any_order_leaves_no_trace() {
        let empty = Ledger::new([1; 16], 2);
        let mut ledger = empty;
        ledger.add(b"a", b"1");
        ledger.add(b"b", b"2");
        let both = ledger;
        ledger.remove(b"a", b"1");
        ledger.add(b"a", b"1");
        assert_eq!(ledger, both);
        ledger.remove(b"a", b"1");
        ledger.remove(b"b", b"2");
        assert_eq!(ledger, empty);
    }

    #[test]
    fn an_older_version_of_a_piece_has_another_sum() {
        let (mut new, mut old) = (Ledger::new([1; 16], 2), Ledger::new([1; 16], 2));
        new.add(b"a", b"2");
        old.add(b"a", b"1");
        assert_ne!(new, old);
    }

    #[test]
    fn a_ledger_from_before_the_mark_is_told_from_one_behind_it() {
        let mark = Ledger {
            changes: 5,
            ..Ledger::new([1; 16], 2)
        };
        let of = |changes, applied| Ledger {
            changes,
            applied,
            ..mark
        };
        assert!(mark.is_not_before(&mark) && of(6, 7).is_not_before(&mark));
        assert!(!of(4, 0).is_not_before(&mark) && !of(5, 1).is_not_before(&mark));
    }

    #[test]
    fn it_reads_back_as_it_was_written() {
        let mut ledger = Ledger::new([1; 16], 2);
        ledger.add(b"a", b"1");
        ledger.applied = 9;
        assert_eq!(Ledger::decode(&ledger.encode().unwrap()), Some(ledger));
    }
}
