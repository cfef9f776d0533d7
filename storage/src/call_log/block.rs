//! A block: some records, compressed together, with what is needed to pass it over unread.
//!
//! ```text
//! payload = | min u64 | max u64 | count u32 | raw u32 | synced u64 | position | bloom | zstd(records) |
//! record  = | length u32 | time u64 | bytes |
//! ```
//!
//! Invariant: a block is read whole or not at all; lengths are bounded before anything is allocated for them.

use crate::bytes_reader::{BytesReader, put_bytes};

use super::{CallEntry, MAX_POSITION_BYTES, MAX_RECORD_BYTES};

/// Records of one block, in bytes, whatever the options say; one more record may be added to that.
pub(super) const MAX_RAW: usize = 256 * 1024;
/// A block's payload is never longer.
pub(super) const MAX_PAYLOAD: usize = 1 << 20;

const RECORD_HEAD: usize = 4 + 8;
const LEVEL: i32 = 3;
const BITS_PER_HASH: usize = 10;
const PROBES: u32 = 7;
const MAX_BLOOM: usize = 256 * 1024;
/// More hashes than this are not remembered; a filter without bits admits everything.
const MAX_HASHES: usize = MAX_BLOOM * 8 / BITS_PER_HASH;

/// Records on their way into a block.
#[derive(Clone, Debug, Default)]
pub(super) struct Pending {
    pub(super) raw: Vec<u8>,
    hashes: Vec<u64>,
    count: u32,
    min_ms: u64,
    max_ms: u64,
}

/// What a block is passed over by.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Zone {
    pub(super) min_ms: u64,
    pub(super) max_ms: u64,
    pub(super) count: u32,
    pub(super) bloom: Vec<u8>,
}

/// A block as it is read back.
#[derive(Clone, Debug)]
pub(super) struct Block<'a> {
    pub(super) zone: Zone,
    /// So much of the file was durable when it was written.
    pub(super) synced: u64,
    pub(super) position: &'a [u8],
    raw_len: usize,
    packed: &'a [u8],
}

// === impl Pending ===

impl Pending {
    pub(super) fn push(&mut self, entry: &CallEntry<'_>) {
        if self.count == 0 {
            (self.min_ms, self.max_ms) = (entry.time_ms, entry.time_ms);
        }
        self.min_ms = self.min_ms.min(entry.time_ms);
        self.max_ms = self.max_ms.max(entry.time_ms);
        self.count += 1;
        self.hashes.extend_from_slice(entry.hashes);
        let len = u32::try_from(entry.bytes.len()).unwrap_or(u32::MAX);
        self.raw.extend_from_slice(&len.to_le_bytes());
        self.raw.extend_from_slice(&entry.time_ms.to_le_bytes());
        self.raw.extend_from_slice(entry.bytes);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(super) fn zone(&self) -> Zone {
        Zone {
            min_ms: self.min_ms,
            max_ms: self.max_ms,
            count: self.count,
            bloom: bloom_of(&self.hashes),
        }
    }

    /// The payload of the block.
    pub(super) fn encode(
        &self,
        zone: &Zone,
        synced: u64,
        position: &[u8],
    ) -> std::io::Result<Vec<u8>> {
        let packed = zstd::bulk::compress(&self.raw, LEVEL)?;
        let raw_len = u32::try_from(self.raw.len()).unwrap_or(u32::MAX);
        let mut out = Vec::with_capacity(64 + position.len() + zone.bloom.len() + packed.len());
        out.extend_from_slice(&zone.min_ms.to_le_bytes());
        out.extend_from_slice(&zone.max_ms.to_le_bytes());
        out.extend_from_slice(&zone.count.to_le_bytes());
        out.extend_from_slice(&raw_len.to_le_bytes());
        out.extend_from_slice(&synced.to_le_bytes());
        put_bytes(&mut out, position);
        put_bytes(&mut out, &zone.bloom);
        out.extend_from_slice(&packed);
        Ok(out)
    }
}

// === impl Zone ===

impl Zone {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.min_ms.to_le_bytes());
        out.extend_from_slice(&self.max_ms.to_le_bytes());
        out.extend_from_slice(&self.count.to_le_bytes());
        put_bytes(out, &self.bloom);
    }

    pub(super) fn decode(reader: &mut BytesReader<'_>) -> Option<Self> {
        Some(Self {
            min_ms: reader.u64()?,
            max_ms: reader.u64()?,
            count: reader.u32()?,
            bloom: reader.bytes(MAX_BLOOM)?.to_vec(),
        })
    }

    /// Whether a record with this hash may be in the block; never `false` for one that is.
    pub(super) fn may_have(&self, hash: u64) -> bool {
        self.bloom.is_empty()
            || probes(hash, self.bloom.len()).all(|bit| {
                self.bloom
                    .get(bit / 8)
                    .is_some_and(|byte| byte & (1 << (bit % 8)) != 0)
            })
    }
}

// === impl Block ===

impl<'a> Block<'a> {
    pub(super) fn decode(payload: &'a [u8]) -> Option<Self> {
        let mut reader = BytesReader::new(payload);
        let (min_ms, max_ms, count) = (reader.u64()?, reader.u64()?, reader.u32()?);
        let raw_len = usize::try_from(reader.u32()?).ok()?;
        let synced = reader.u64()?;
        let position = reader.bytes(MAX_POSITION_BYTES)?;
        let bloom = reader.bytes(MAX_BLOOM)?.to_vec();
        let bounded = raw_len <= MAX_RAW + MAX_RECORD_BYTES + RECORD_HEAD;
        bounded.then_some(Self {
            zone: Zone {
                min_ms,
                max_ms,
                count,
                bloom,
            },
            synced,
            position,
            raw_len,
            packed: reader.rest(),
        })
    }

    /// The records; `None` if they are not what the block says.
    pub(super) fn unpack(&self) -> Option<Vec<u8>> {
        let raw = zstd::bulk::decompress(self.packed, self.raw_len).ok()?;
        let whole = records(&raw).count() == usize::try_from(self.zone.count).ok()?;
        (whole && raw.len() == self.raw_len).then_some(raw)
    }
}

/// The records of a block with their times.
pub(super) fn records(raw: &[u8]) -> impl Iterator<Item = (u64, &[u8])> {
    let mut reader = BytesReader::new(raw);
    std::iter::from_fn(move || {
        let len = usize::try_from(reader.u32()?).ok()?;
        let time_ms = reader.u64()?;
        Some((time_ms, reader.take(len)?))
    })
}

fn bloom_of(hashes: &[u64]) -> Vec<u8> {
    if hashes.len() > MAX_HASHES {
        return Vec::new();
    }
    let mut bloom = vec![0; (hashes.len() * BITS_PER_HASH).div_ceil(8)];
    let len = bloom.len();
    for hash in hashes {
        for bit in probes(*hash, len) {
            if let Some(byte) = bloom.get_mut(bit / 8) {
                *byte |= 1 << (bit % 8);
            }
        }
    }
    bloom
}

/// The bits of a hash in a filter of so many bytes, at least one.
fn probes(hash: u64, bytes: usize) -> impl Iterator<Item = usize> {
    let bits = (bytes as u64 * 8).max(1);
    // Two halves of one hash stand for as many functions as are needed.
    let (start, step) = (hash & 0xffff_ffff, (hash >> 32) | 1);
    (0..u64::from(PROBES)).map(move |i| {
        let bit = start.wrapping_add(i.wrapping_mul(step)) % bits;
        usize::try_from(bit).unwrap_or(0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pending() -> Pending {
        let mut pending = Pending::default();
        for number in 0..500_u64 {
            let bytes = format!("call {number} of a client that says the same again and again");
            pending.push(&CallEntry {
                time_ms: 1_000 + number,
                hashes: &[number.wrapping_mul(0x9e37_79b9_7f4a_7c15)],
                bytes: bytes.as_bytes(),
            });
        }
        pending
    }

    #[test]
    fn a_block_is_read_back_with_its_position_and_is_smaller() {
        let pending = pending();
        let payload = pending.encode(&pending.zone(), 77, b"here").unwrap();
        assert!(payload.len() * 4 < pending.raw.len(), "{}", payload.len());
        let block = Block::decode(&payload).unwrap();
        assert_eq!((block.position, block.synced), (&b"here"[..], 77));
        assert_eq!((block.zone.min_ms, block.zone.max_ms), (1_000, 1_499));
        let raw = block.unpack().unwrap();
        let (time, bytes) = records(&raw).nth(3).unwrap();
        assert_eq!(time, 1_003);
        assert!(bytes.starts_with(b"call 3 of"));
    }

    #[test]
    fn a_filter_admits_what_is_there_and_hardly_anything_else() {
        let zone = pending().zone();
        let hash = |n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        assert!((0..500).all(|n| zone.may_have(hash(n))));
        let wrong = (1_000..11_000).filter(|n| zone.may_have(hash(*n))).count();
        assert!(wrong < 300, "{wrong} of 10000 are taken for others");
    }

    #[test]
    fn a_length_that_is_too_large_is_refused_before_anything_is_allocated() {
        let pending = pending();
        let mut payload = pending.encode(&pending.zone(), 0, b"").unwrap();
        payload[20..24].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(Block::decode(&payload).is_none());
    }
}
