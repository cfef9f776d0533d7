//! What a sealed segment says of itself at its end: where its blocks are and what may be in them.
//!
//! ```text
//! footer  = | count u32 | (offset u64 | size u32 | zone) ... |        trailer = | footer's offset u64 | min u64 | max u64 |
//! ```
//!
//! The trailer has a fixed length, so it is found from the file's end. Footer and trailer are frames like blocks; where
//! either is damaged, the segment is scanned instead.

use crate::bytes_reader::BytesReader;
use crate::frame;

use super::block::Zone;

pub(super) const BLOCK: u8 = 1;
pub(super) const FOOTER: u8 = 2;
pub(super) const TRAILER: u8 = 3;
pub(super) const MARK: u8 = 4;
pub(super) const VERSION: u8 = 1;

/// A footer is never longer; a segment ends before.
pub(super) const MAX_FOOTER: usize = 16 << 20;
/// Bytes of a trailer's payload.
pub(super) const TRAILER_PAYLOAD: usize = 3 * 8;
/// Bytes of a trailer in the file.
pub(super) const TRAILER_BYTES: usize =
    (frame::HEAD + TRAILER_PAYLOAD).next_multiple_of(frame::ALIGN);

/// Where a block is, and what may be in it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct BlockRef {
    pub(super) offset: u64,
    /// Of its frame.
    pub(super) size: u32,
    pub(super) zone: Zone,
}

/// A segment's last words.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Trailer {
    pub(super) footer: u64,
    pub(super) min_ms: u64,
    pub(super) max_ms: u64,
}

// === impl BlockRef ===

impl BlockRef {
    /// Bytes that it takes in a footer.
    pub(super) fn footer_bytes(&self) -> usize {
        8 + 4 + 8 + 8 + 4 + 4 + self.zone.bloom.len()
    }
}

// === impl Trailer ===

impl Trailer {
    pub(super) fn encode(self) -> [u8; TRAILER_PAYLOAD] {
        let mut out = [0; TRAILER_PAYLOAD];
        for (word, value) in out
            .chunks_exact_mut(8)
            .zip([self.footer, self.min_ms, self.max_ms])
        {
            word.copy_from_slice(&value.to_le_bytes());
        }
        out
    }

    pub(super) fn decode(payload: &[u8]) -> Option<Self> {
        let mut reader = BytesReader::new(payload);
        let trailer = Self {
            footer: reader.u64()?,
            min_ms: reader.u64()?,
            max_ms: reader.u64()?,
        };
        reader.rest().is_empty().then_some(trailer)
    }
}

/// The payload of a footer.
pub(super) fn encode_footer<'a>(blocks: impl ExactSizeIterator<Item = &'a BlockRef>) -> Vec<u8> {
    let count = u32::try_from(blocks.len()).unwrap_or(u32::MAX);
    let mut out = count.to_le_bytes().to_vec();
    for block in blocks {
        out.extend_from_slice(&block.offset.to_le_bytes());
        out.extend_from_slice(&block.size.to_le_bytes());
        block.zone.encode(&mut out);
    }
    out
}

pub(super) fn decode_footer(payload: &[u8]) -> Option<Vec<BlockRef>> {
    let mut reader = BytesReader::new(payload);
    let count = reader.u32()?;
    let mut blocks = Vec::new();
    for _ in 0..count {
        blocks.push(BlockRef {
            offset: reader.u64()?,
            size: reader.u32()?,
            zone: Zone::decode(&mut reader)?,
        });
    }
    reader.rest().is_empty().then_some(blocks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_footer_and_a_trailer_are_read_back() {
        let block = |offset| BlockRef {
            offset,
            size: 640,
            zone: Zone {
                min_ms: 1,
                max_ms: 2,
                count: 3,
                bloom: vec![4; 5],
            },
        };
        let blocks = vec![block(64), block(704)];
        let payload = encode_footer(blocks.iter());
        assert_eq!(payload.len(), 4 + 2 * blocks[0].footer_bytes());
        assert_eq!(decode_footer(&payload), Some(blocks));
        assert_eq!(decode_footer(&payload[..payload.len() - 1]), None);
        let trailer = Trailer {
            footer: 1_344,
            min_ms: 1,
            max_ms: 2,
        };
        assert_eq!(Trailer::decode(&trailer.encode()), Some(trailer));
    }
}
