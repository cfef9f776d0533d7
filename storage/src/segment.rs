//! The header with which every segment file begins, and a window over a segment that is being read.
//!
//! ```text
//! 0            4            8
//! | magic [4]  | format u32 | frame { cluster_id, node_id, number, first, prev_crc, bytes, body } | records ...
//! ```
//!
//! The header's own frame is seeded with magic and format; its checksum seeds all other frames of the file.
//!
//! Invariants: a header is believed only if magic, format, checksum, cluster and node all fit, and
//! each misfit has its own name, because a person must act differently on each. A file has from its first
//! name on the length that its header gives, so one that was cut short is told from one that ends early.

use std::io;
use std::sync::Arc;

use crate::bytes_reader::{BytesReader, put_bytes};
use crate::disk::DiskFile;
use crate::frame::{self, ALIGN, Parsed};

/// The newest file format this build reads, and the one it writes.
pub(crate) const FORMAT_VERSION: u32 = 1;

/// Bytes before a header's frame.
pub(crate) const PREAMBLE: usize = 8;

/// The most bytes a file type may add to its header.
pub(crate) const MAX_BODY: usize = 16 * 1024;

/// No header is longer than this.
pub(crate) const MAX_HEADER: usize = PREAMBLE + frame::HEAD + FIXED + MAX_BODY + ALIGN;

const KIND: u8 = 0xf0;
const VERSION: u8 = 1;

/// Bytes of a header's payload without its body.
pub(crate) const FIXED: usize = 16 + 8 + 8 + 8 + 4 + 8 + 4;

/// Where the records begin in a file whose type adds nothing to its header.
pub(crate) const BARE_END: usize = PREAMBLE + (frame::HEAD + FIXED).next_multiple_of(ALIGN);

/// How much of a file is read at a time.
const WINDOW: usize = 256 * 1024;

/// Whose files these are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) cluster_id: [u8; 16],
    pub(crate) node_id: u64,
}

/// What a segment says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) owner: Owner,
    /// Counts the segments of one directory, without gaps.
    pub(crate) number: u64,
    /// Index or sequence number of the first record that may be here.
    pub(crate) first: u64,
    /// Checksum of the last frame of the segment before.
    pub(crate) prev_crc: u32,
    /// Length of the whole file.
    pub(crate) bytes: u64,
    /// What the type of the file adds.
    pub(crate) body: Vec<u8>,
}

/// A header that was believed.
#[derive(Clone, Debug)]
pub(crate) struct Opened {
    pub(crate) header: Header,
    /// Checksum of the header's frame: where the checksums of this file's records start.
    pub(crate) seed: u32,
    /// Where the first record starts.
    pub(crate) end: usize,
}

/// Why a header was not believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum HeaderError {
    Damaged,
    NewerFormat { found: u32 },
    OtherCluster { found: [u8; 16] },
    OtherNode { found: u64 },
}

/// Reads a segment front to back through a window.
#[derive(Debug)]
pub(crate) struct Window {
    file: Arc<dyn DiskFile>,
    size: u64,
    base: u64,
    buf: Vec<u8>,
}

// === impl Header ===

impl Header {
    /// The bytes of this header, and the seed for the records behind it.
    pub(crate) fn encode(&self, magic: [u8; 4]) -> (Vec<u8>, u32) {
        let mut payload = Vec::with_capacity(FIXED + self.body.len());
        payload.extend_from_slice(&self.owner.cluster_id);
        payload.extend_from_slice(&self.owner.node_id.to_le_bytes());
        payload.extend_from_slice(&self.number.to_le_bytes());
        payload.extend_from_slice(&self.first.to_le_bytes());
        payload.extend_from_slice(&self.prev_crc.to_le_bytes());
        payload.extend_from_slice(&self.bytes.to_le_bytes());
        put_bytes(&mut payload, &self.body);
        encode_preambled(magic, KIND, VERSION, &payload)
    }

    /// Reads the header at the start of `buf` and checks whose it is.
    pub(crate) fn decode(magic: [u8; 4], buf: &[u8], owner: Owner) -> Result<Opened, HeaderError> {
        let frame = decode_preambled(magic, buf, FIXED + MAX_BODY)?;
        let header = Self::from_payload(frame.payload).ok_or(HeaderError::Damaged)?;
        if frame.kind != KIND || frame.version != VERSION {
            return Err(HeaderError::Damaged);
        }
        header.owner.check(owner)?;
        Ok(Opened {
            seed: frame.crc,
            end: PREAMBLE + frame.size(),
            header,
        })
    }

    fn from_payload(payload: &[u8]) -> Option<Self> {
        let mut reader = BytesReader::new(payload);
        let header = Self {
            owner: Owner {
                cluster_id: reader.array()?,
                node_id: reader.u64()?,
            },
            number: reader.u64()?,
            first: reader.u64()?,
            prev_crc: reader.u32()?,
            bytes: reader.u64()?,
            body: reader.bytes(MAX_BODY)?.to_vec(),
        };
        reader.rest().is_empty().then_some(header)
    }
}

// === impl Owner ===

impl Owner {
    /// Refuses what was found in a file unless it is `self`'s equal.
    pub(crate) fn check(self, expected: Self) -> Result<(), HeaderError> {
        if self.cluster_id != expected.cluster_id {
            return Err(HeaderError::OtherCluster {
                found: self.cluster_id,
            });
        }
        if self.node_id != expected.node_id {
            return Err(HeaderError::OtherNode {
                found: self.node_id,
            });
        }
        Ok(())
    }
}

// === impl Window ===

impl Window {
    pub(crate) fn new(file: Arc<dyn DiskFile>) -> io::Result<Self> {
        let size = file.size()?;
        Ok(Self {
            file,
            size,
            base: 0,
            buf: Vec::new(),
        })
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// `len` bytes at `offset`, fewer at the end of the file.
    pub(crate) fn at(&mut self, offset: u64, len: usize) -> io::Result<&[u8]> {
        let left = usize::try_from(self.size.saturating_sub(offset)).unwrap_or(usize::MAX);
        let len = len.min(left);
        if offset < self.base || offset + len as u64 > self.base + self.buf.len() as u64 {
            let wanted = len.max(WINDOW).min(left);
            self.buf.resize(wanted, 0);
            let read = self.file.read_at(&mut self.buf, offset)?;
            self.buf.truncate(read);
            self.base = offset;
        }
        let start = usize::try_from(offset - self.base).unwrap_or(usize::MAX);
        let end = start.saturating_add(len).min(self.buf.len());
        Ok(self.buf.get(start..end).unwrap_or_default())
    }

    /// What starts at `offset`.
    pub(crate) fn frame_at(
        &mut self,
        offset: u64,
        seed: u32,
        max: usize,
    ) -> io::Result<Parsed<'_>> {
        let claim = frame::claimed_size(self.at(offset, frame::HEAD)?, max);
        Ok(frame::parse(
            self.at(offset, claim.unwrap_or(frame::HEAD))?,
            seed,
            max,
        ))
    }

    /// Where the last byte that is not zero ends, looking from `from` on.
    pub(crate) fn used_end(&mut self, from: u64) -> io::Result<u64> {
        let (mut offset, mut end) = (from, from);
        while offset < self.size {
            let block = self.at(offset, WINDOW)?;
            if block.is_empty() {
                break;
            }
            let len = block.len() as u64;
            if let Some(last) = block.iter().rposition(|byte| *byte != 0) {
                end = offset + last as u64 + 1;
            }
            offset += len;
        }
        Ok(end)
    }
}

/// A file's magic, its format and one frame seeded with both; also returns the frame's checksum.
pub(crate) fn encode_preambled(
    magic: [u8; 4],
    kind: u8,
    version: u8,
    payload: &[u8],
) -> (Vec<u8>, u32) {
    let mut out = Vec::with_capacity(PREAMBLE + frame::size(payload.len()));
    out.extend_from_slice(&magic);
    out.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
    let seed = seed_of(magic, FORMAT_VERSION);
    let crc = frame::push(&mut out, seed, kind, version, payload);
    (out, crc)
}

/// Where the checksum of the frame behind a preamble starts.
fn seed_of(magic: [u8; 4], format: u32) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&magic), &format.to_le_bytes())
}

/// Reads what [`encode_preambled`] wrote.
pub(crate) fn decode_preambled(
    magic: [u8; 4],
    buf: &[u8],
    max_payload: usize,
) -> Result<frame::Frame<'_>, HeaderError> {
    let mut reader = BytesReader::new(buf);
    let (found_magic, format) = (reader.array::<4>(), reader.u32());
    let (true, Some(format)) = (found_magic == Some(magic), format) else {
        return Err(HeaderError::Damaged);
    };
    if format > FORMAT_VERSION {
        // The checksum covers the format: what fits it with ours was ours, and only the format was changed since.
        let ours = seed_of(magic, FORMAT_VERSION);
        return Err(match frame::parse(&buf[PREAMBLE..], ours, max_payload) {
            Parsed::Frame(_) => HeaderError::Damaged,
            Parsed::Damaged | Parsed::End => HeaderError::NewerFormat { found: format },
        });
    }
    let seed = seed_of(magic, format);
    match frame::parse(&buf[PREAMBLE..], seed, max_payload) {
        Parsed::Frame(frame) if format == FORMAT_VERSION => Ok(frame),
        _ => Err(HeaderError::Damaged),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWNER: Owner = Owner {
        cluster_id: [7; 16],
        node_id: 3,
    };
    const MAGIC: [u8; 4] = *b"TEST";

    fn header() -> Header {
        Header {
            owner: OWNER,
            number: 4,
            first: 900,
            prev_crc: 12,
            bytes: 32_768,
            body: b"body".to_vec(),
        }
    }

    #[test]
    fn a_header_is_read_back_and_ends_where_records_begin() {
        let (bytes, seed) = header().encode(MAGIC);
        let opened = Header::decode(MAGIC, &bytes, OWNER).unwrap();
        assert_eq!(opened.header, header());
        assert_eq!(opened.seed, seed);
        assert_eq!(opened.end, bytes.len());
        assert_eq!(opened.end % ALIGN, 0);
    }

    #[test]
    fn each_flipped_byte_of_a_header_is_refused() {
        let (bytes, _) = header().encode(MAGIC);
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            assert!(Header::decode(MAGIC, &damaged, OWNER).is_err(), "byte {at}");
        }
    }

    #[test]
    fn each_misfit_has_its_name() {
        let (bytes, _) = header().encode(MAGIC);
        let cluster = Owner {
            cluster_id: [8; 16],
            ..OWNER
        };
        let node = Owner {
            node_id: 4,
            ..OWNER
        };
        let decode = |bytes: &[u8], owner| Header::decode(MAGIC, bytes, owner).unwrap_err();
        assert_eq!(
            decode(&bytes, cluster),
            HeaderError::OtherCluster { found: [7; 16] }
        );
        assert_eq!(decode(&bytes, node), HeaderError::OtherNode { found: 3 });
        assert_eq!(decode(&[], OWNER), HeaderError::Damaged);
    }

    #[test]
    fn a_newer_format_is_told_from_a_changed_byte_in_the_format() {
        let (bytes, _) = header().encode(MAGIC);
        let decode = |bytes: &[u8]| Header::decode(MAGIC, bytes, OWNER).unwrap_err();
        for at in 4..PREAMBLE {
            let mut changed = bytes.clone();
            changed[at] ^= 0x20;
            assert_eq!(decode(&changed), HeaderError::Damaged, "byte {at}");
        }
        let mut newer = [MAGIC, 2_u32.to_le_bytes()].concat();
        let seed = seed_of(MAGIC, 2);
        frame::push(&mut newer, seed, KIND, VERSION, b"who knows");
        assert_eq!(decode(&newer), HeaderError::NewerFormat { found: 2 });
        assert_eq!(
            decode(&newer[..PREAMBLE]),
            HeaderError::NewerFormat { found: 2 }
        );
    }
}
