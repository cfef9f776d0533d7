//! How a value is cut into pieces that sled can keep, and put together again.
//!
//! ```text
//! key of a piece = | 1 | the value's key | number of the piece, u16 big endian |
//! piece          = envelope { pieces u16, crc of the whole value u32, bytes of the key u16 | key of the piece | bytes }
//! ```
//!
//! Keys of pieces of different values differ: they are as long only if the values' keys are.
//!
//! Invariants:
//! * a piece takes at most 4 KiB, so that sled writes no blob files, which it never syncs;
//! * a piece that is damaged, stands under another's key or belongs to another version of the value is refused.

use serde::{Deserialize, Serialize};

use super::{Key, MAX_VALUE_BYTES};
use crate::codec::CodecError;
use crate::codec::envelope::{self, ENVELOPE_BYTES, Kind};

/// What a piece takes at most, its envelope included.
pub(super) const PIECE_BYTES: usize = 4 * 1024;

/// What keys of pieces begin with.
pub(super) const PIECES: u8 = 1;

const KIND: Kind = Kind {
    type_id: 1,
    version: 1,
    head_bytes: 8,
};

/// Bytes of the piece's number.
const NUMBER: usize = 2;

/// Frozen, see [`KIND`].
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
struct PieceV1 {
    pieces: u16,
    whole_crc: u32,
    key_bytes: u16,
}

/// Where a piece stands, and what stands there.
pub(super) type Piece = (Vec<u8>, Vec<u8>);

/// A value in the making.
#[derive(Debug)]
pub(super) struct Whole {
    head: PieceV1,
    bytes: Vec<u8>,
}

/// The key of a value's piece.
pub(super) fn key_of(key: &[u8], number: u16) -> Vec<u8> {
    let mut out = Vec::with_capacity(1 + key.len() + NUMBER);
    out.push(PIECES);
    out.extend_from_slice(key);
    out.extend(number.to_be_bytes());
    out
}

/// The value's key, if this is the key of a first piece.
pub(super) fn value_key(piece_key: &[u8]) -> Option<Key> {
    let (key, number) = piece_key.get(1..)?.split_last_chunk::<NUMBER>()?;
    (*number == [0; NUMBER]).then(|| key.to_vec())
}

/// Cuts a value.
pub(super) fn cut(key: &[u8], value: &[u8]) -> Result<Vec<Piece>, CodecError> {
    let room = PIECE_BYTES - ENVELOPE_BYTES - KIND.head_bytes - (1 + key.len() + NUMBER);
    // An empty value has one empty piece.
    let chunks: Vec<&[u8]> = match value {
        [] => vec![&[]],
        value => value.chunks(room).collect(),
    };
    let pieces = u16::try_from(chunks.len()).unwrap_or(u16::MAX);
    let whole_crc = crc32c::crc32c(value);
    let numbered = (0..pieces).zip(chunks);
    numbered
        .map(|(number, chunk)| {
            let piece_key = key_of(key, number);
            let key_bytes = u16::try_from(piece_key.len()).unwrap_or(u16::MAX);
            let head = PieceV1 {
                pieces,
                whole_crc,
                key_bytes,
            };
            let body = [&piece_key[..], chunk].concat();
            Ok((piece_key, envelope::seal(KIND, &head, &body)?))
        })
        .collect()
}

/// Whether a piece is whole and in its place.
pub(super) fn is_sound(piece_key: &[u8], piece: &[u8]) -> bool {
    parse(piece_key, piece).is_some()
}

fn parse<'a>(piece_key: &[u8], piece: &'a [u8]) -> Option<(PieceV1, &'a [u8])> {
    let (head, body) = envelope::open::<PieceV1>(KIND, piece)?;
    let (key, bytes) = body.split_at_checked(usize::from(head.key_bytes))?;
    (key == piece_key && head.pieces > 0).then_some((head, bytes))
}

// === impl Whole ===

impl Whole {
    /// Begins with a value's first piece.
    pub(super) fn begin(piece_key: &[u8], piece: &[u8]) -> Option<Self> {
        let (head, bytes) = parse(piece_key, piece)?;
        Some(Self {
            head,
            bytes: bytes.to_vec(),
        })
    }

    /// How many pieces there are.
    pub(super) fn pieces(&self) -> u16 {
        self.head.pieces
    }

    /// Adds the next piece; `None` if it is not one of this value.
    pub(super) fn add(&mut self, piece_key: &[u8], piece: &[u8]) -> Option<()> {
        let (head, bytes) = parse(piece_key, piece)?;
        let fits = self.bytes.len() + bytes.len() <= MAX_VALUE_BYTES;
        (head == self.head && fits).then(|| self.bytes.extend_from_slice(bytes))
    }

    /// The value, if its pieces are all there and its own.
    pub(super) fn finish(self) -> Option<Vec<u8>> {
        (crc32c::crc32c(&self.bytes) == self.head.whole_crc).then_some(self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn join(pieces: &[Piece]) -> Option<Vec<u8>> {
        let mut whole = Whole::begin(&pieces[0].0, &pieces[0].1)?;
        for (key, piece) in &pieces[1..] {
            whole.add(key, piece)?;
        }
        whole.finish()
    }

    #[test]
    fn a_value_of_any_size_is_cut_into_pieces_within_the_bound_and_put_together_again() {
        for size in [0, 1, 4_000, 4_096, 8_192, 100_000, MAX_VALUE_BYTES] {
            let value: Vec<u8> = (0..=250_u8).cycle().take(size).collect();
            let pieces = cut(b"a key", &value).unwrap();
            assert!(pieces.iter().all(|(_, piece)| piece.len() <= PIECE_BYTES));
            assert_eq!(join(&pieces).unwrap(), value);
        }
    }

    #[test]
    fn pieces_of_another_value_or_version_are_refused() {
        let value: Vec<u8> = (0..=250).cycle().take(9_000).collect();
        let ours = cut(b"a", &value).unwrap();
        let other_version = cut(b"a", &[2; 9_000]).unwrap();
        let other_key = cut(b"b", &value).unwrap();
        for (place, foreign) in [(1, &other_version), (0, &other_version), (1, &other_key)] {
            let mut mixed = ours.clone();
            mixed[place].1.clone_from(&foreign[place].1);
            assert_eq!(join(&mixed), None);
        }
        let swapped = [ours[0].clone(), ours[2].clone(), ours[1].clone()];
        assert_eq!(join(&swapped), None);
    }

    #[test]
    fn only_the_first_piece_names_its_value() {
        assert_eq!(value_key(&key_of(b"a", 0)), Some(b"a".to_vec()));
        assert_eq!(value_key(&key_of(b"a", 256)), None);
        assert_eq!(value_key(&[0]), None);
    }
}
