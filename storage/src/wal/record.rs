//! What the frames of a log segment hold.
//!
//! ```text
//! payload = | batch u64 | term u64 | index u64 | body ... |
//! ```
//!
//! The low 63 bits of the batch word count the syncs of this log; the top bit marks the last record
//! before a sync. So from an intact record alone it is known which batch the next record belongs to,
//! and recovery can tell a write that was torn from bytes that had been synced and were damaged later.
//!
//! Invariant: numbers of kinds and the layout never change; additions take new kinds or versions.

use bytes::Bytes;

use super::Position;
use crate::bytes_reader::{BytesReader, put_bytes};
use crate::frame::{self, Frame};

/// Names a log segment.
pub(super) const MAGIC: [u8; 4] = *b"MEWL";

/// The version of every record kind.
pub(super) const VERSION: u8 = 1;

/// Batch, term and index.
pub(super) const PREFIX: usize = 24;

/// The most bytes one record's payload may have.
pub(super) const MAX_RECORD_BYTES: usize = 8 * 1024 * 1024;

/// The most bytes a vote, a committed position or a purge's opaque part may have.
pub(super) const MAX_OPAQUE_BYTES: usize = 4 * 1024;

/// What a frame's payload may be at most.
pub(super) const MAX_PAYLOAD: usize = PREFIX + MAX_RECORD_BYTES;

/// Bytes of a record without a body.
pub(super) const MARK_SIZE: u64 = (frame::HEAD + PREFIX).next_multiple_of(frame::ALIGN) as u64;

/// What every segment keeps free: room for a mark that ends an open batch, and one that proves it.
pub(super) const MARK_ROOM: u64 = 2 * MARK_SIZE;

const END_OF_BATCH: u64 = 1 << 63;

/// What a record does to the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The body is the vote.
    Vote = 1,
    /// The body is a record of the log.
    Entry = 2,
    /// Removes the records from `index` on.
    Truncate = 3,
    /// Forgets the records up to `index`; the body is opaque.
    Purge = 4,
    /// The body is the committed position.
    Commit = 5,
    /// Ends the batch that recovery found open, or is a batch of its own: proof that the one before was
    /// synced, which nothing else proves of the last one.
    Mark = 6,
}

/// One record as it was read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Decoded<'a> {
    pub(super) kind: Kind,
    pub(super) batch: u64,
    pub(super) ends_batch: bool,
    pub(super) position: Position,
    pub(super) body: &'a [u8],
}

/// What each segment repeats in its header, so that older segments can go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Head {
    /// The last batch that was synced.
    pub(super) batch: u64,
    pub(super) vote: Option<Bytes>,
    pub(super) committed: Option<Bytes>,
    pub(super) purged: Option<(Position, Bytes)>,
}

// === impl Kind ===

impl Kind {
    fn from_u8(kind: u8) -> Option<Self> {
        [
            Self::Vote,
            Self::Entry,
            Self::Truncate,
            Self::Purge,
            Self::Commit,
            Self::Mark,
        ]
        .into_iter()
        .find(|known| *known as u8 == kind)
    }
}

// === impl Decoded ===

impl<'a> Decoded<'a> {
    /// Reads a frame's payload; `None` if this release does not know such records.
    pub(super) fn from_frame(frame: &Frame<'a>) -> Option<Self> {
        let mut reader = BytesReader::new(frame.payload);
        let kind = Kind::from_u8(frame.kind).filter(|_| frame.version == VERSION)?;
        let word = reader.u64()?;
        Some(Self {
            kind,
            batch: word & !END_OF_BATCH,
            ends_batch: word & END_OF_BATCH != 0,
            position: Position {
                term: reader.u64()?,
                index: reader.u64()?,
            },
            body: reader.rest(),
        })
    }

    /// Whether `head`, the first bytes at some place, could start a record of a batch after `batch`.
    /// It spares a scan the checksums of what cannot.
    pub(super) fn could_follow(head: &[u8], batch: u64) -> bool {
        let mut reader = BytesReader::new(head);
        let tag = reader
            .take(frame::HEAD - 2)
            .and_then(|_| Some((reader.u8()?, reader.u8()?)));
        let word = reader.u64().map(|word| word & !END_OF_BATCH);
        let known =
            tag.is_some_and(|(kind, version)| Kind::from_u8(kind).is_some() && version == VERSION);
        known && word.is_some_and(|found| found > batch)
    }
}

/// The three words before a record's body.
pub(super) fn prefix(batch: u64, ends_batch: bool, position: Position) -> [u8; PREFIX] {
    let word = if ends_batch {
        batch | END_OF_BATCH
    } else {
        batch
    };
    let mut out = [0; PREFIX];
    out[..8].copy_from_slice(&word.to_le_bytes());
    out[8..16].copy_from_slice(&position.term.to_le_bytes());
    out[16..].copy_from_slice(&position.index.to_le_bytes());
    out
}

/// The frame of a mark that ends its batch, and the frame's checksum.
pub(super) fn mark(seed: u32, batch: u64) -> (Vec<u8>, u32) {
    let payload = prefix(batch, true, Position { term: 0, index: 0 });
    let mut frame = Vec::new();
    let crc = frame::push(&mut frame, seed, Kind::Mark as u8, VERSION, &payload);
    (frame, crc)
}

// === impl Head ===

impl Head {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = self.batch.to_le_bytes().to_vec();
        for opaque in [&self.vote, &self.committed] {
            out.push(u8::from(opaque.is_some()));
            if let Some(bytes) = opaque {
                put_bytes(&mut out, bytes);
            }
        }
        out.push(u8::from(self.purged.is_some()));
        if let Some((position, opaque)) = &self.purged {
            out.extend_from_slice(&position.term.to_le_bytes());
            out.extend_from_slice(&position.index.to_le_bytes());
            put_bytes(&mut out, opaque);
        }
        out
    }

    pub(super) fn decode(body: &[u8]) -> Option<Self> {
        let mut reader = BytesReader::new(body);
        let mut head = Self {
            batch: reader.u64()?,
            ..Self::default()
        };
        if is_there(&mut reader)? {
            head.vote = Some(opaque(&mut reader)?);
        }
        if is_there(&mut reader)? {
            head.committed = Some(opaque(&mut reader)?);
        }
        if is_there(&mut reader)? {
            let (term, index) = (reader.u64()?, reader.u64()?);
            head.purged = Some((Position { term, index }, opaque(&mut reader)?));
        }
        reader.rest().is_empty().then_some(head)
    }
}

fn opaque(reader: &mut BytesReader<'_>) -> Option<Bytes> {
    reader.bytes(MAX_OPAQUE_BYTES).map(Bytes::copy_from_slice)
}

fn is_there(reader: &mut BytesReader<'_>) -> Option<bool> {
    match reader.u8()? {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::MAX_BODY;

    #[test]
    fn a_head_is_read_back_and_always_fits_a_header() {
        let full = Head {
            batch: 9,
            vote: Some(Bytes::from(vec![1; MAX_OPAQUE_BYTES])),
            committed: Some(Bytes::from(vec![2; MAX_OPAQUE_BYTES])),
            purged: Some((
                Position { term: 3, index: 4 },
                Bytes::from(vec![3; MAX_OPAQUE_BYTES]),
            )),
        };
        assert!(full.encode().len() <= MAX_BODY);
        assert_eq!(Head::decode(&full.encode()), Some(full));
        assert_eq!(
            Head::decode(&Head::default().encode()),
            Some(Head::default())
        );
        assert_eq!(Head::decode(&[0; 7]), None);
        assert_eq!(Head::decode(&[0; 12]), None);
    }

    #[test]
    fn a_record_has_the_documented_bytes() {
        let bytes = prefix(2, true, Position { term: 3, index: 4 });
        assert_eq!(bytes[..8], [2, 0, 0, 0, 0, 0, 0, 0x80]);
        assert_eq!(bytes[8..], [3, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0]);
        let frame = Frame {
            kind: 2,
            version: 1,
            payload: &bytes,
            crc: 0,
        };
        let record = Decoded::from_frame(&frame).unwrap();
        assert_eq!((record.batch, record.ends_batch), (2, true));
        assert_eq!(record.kind, Kind::Entry);
        assert!(Decoded::from_frame(&Frame { kind: 7, ..frame }).is_none());
        assert!(
            Decoded::from_frame(&Frame {
                version: 2,
                ..frame
            })
            .is_none()
        );
    }
}
