//! A backup: one checkpoint as one file, which a stream can carry and which proves itself.
//!
//! ```text
//! | magic "MEBK" | format u32 | frame header | frame meta | frame chunk ... | frame end { blake3 of all before, count } |
//! ```
//!
//! The meta and the chunks are the checkpoint's own bytes. Each frame has its length and its CRC-32C, whose seed comes from the
//! header, so that frames of two backups are never mixed.
//!
//! Invariants: nothing is handed out whose checksum does not match; a file counts as a backup only once its end was read, which
//! covers every byte before, and nothing stands behind it; a length is bounded before anything waits for its bytes.

use bytes::{Buf as _, Bytes, BytesMut};
use thiserror::Error;

use crate::bytes_reader::{BytesReader, put_bytes};
use crate::checkpoint::{MAX_CHUNK_BYTES, MAX_CHUNKS, MAX_META_BYTES, MAX_NAME_BYTES};
use crate::frame::{self, Parsed};
use crate::segment::{FORMAT_VERSION, HeaderError, PREAMBLE, decode_preambled, encode_preambled};

const MAGIC: [u8; 4] = *b"MEBK";
const VERSION: u8 = 1;
const HEADER: u8 = 0xb1;
const META: u8 = 0xb2;
const CHUNK: u8 = 0xb3;
const END: u8 = 0xb4;

const HEADER_BYTES: usize = 16 + 7 * 8 + 1;
const HASH_BYTES: usize = 32;
/// A chunk is its name's length, its name and its content.
const MAX_PAYLOAD: usize = 4 + MAX_NAME_BYTES + MAX_CHUNK_BYTES;

/// What a backup says of itself in its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackupAbout {
    /// The cluster it is of.
    pub cluster_id: [u8; 16],
    /// The node that made it.
    pub node_id: u64,
    /// Where in the log the state stands.
    pub applied_index: u64,
    /// The revision of the configuration.
    pub revision: u64,
    /// The state's wall clock; Unix milliseconds.
    pub wall_ms: u64,
    /// When it was made, by the clock of the node; Unix milliseconds.
    pub made_ms: u64,
    /// Entries of the log in it of which the node did not know whether a quorum has them; only where it is `local`.
    pub unconfirmed: u64,
    /// Chunks in it.
    pub chunks: u64,
    /// Whether the node did not ask the cluster whether this is all.
    pub local: bool,
}

/// Writes a backup piece by piece; the pieces one after the other are the file.
#[derive(Debug)]
pub struct BackupWriter {
    about: BackupAbout,
    hasher: blake3::Hasher,
    seed: u32,
    next: Next,
    meta: Vec<u8>,
    chunks: std::vec::IntoIter<(String, Bytes)>,
}

/// Which piece is next.
#[derive(Clone, Copy, Debug)]
enum Next {
    Header,
    Meta,
    Chunks,
    Nothing,
}

/// Reads a backup from pieces of any size.
#[derive(Debug)]
pub struct BackupReader {
    buffer: BytesMut,
    hasher: blake3::Hasher,
    /// Where in the file the buffer begins.
    at: u64,
    seed: u32,
    about: Option<BackupAbout>,
    meta_seen: bool,
    chunks_seen: u64,
    ended: bool,
}

/// What was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackupPart {
    /// The header.
    About(BackupAbout),
    /// The checkpoint's meta record.
    Meta(Bytes),
    /// A chunk: its name and its content.
    Chunk(String, Bytes),
    /// The end; all that was read before is what was written.
    End,
}

/// Why a file is no backup, or no checkpoint can become one.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum BackupError {
    /// It does not begin like one.
    #[error("it is not a backup: `mode-envoy cluster backup` makes one")]
    NotABackup,
    /// A newer build made it.
    #[error(
        "it has the backup format {found}, this build reads up to {FORMAT_VERSION}; use the mode-envoy that made it"
    )]
    NewerFormat {
        /// Its format.
        found: u32,
    },
    /// Its bytes are not those that were written.
    #[error("it is damaged at byte {at}: {what}; use another copy or another backup")]
    Damaged {
        /// Where what is wrong begins.
        at: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// Its end is missing.
    #[error("it ends at byte {at}, before its end was written; use another copy or another backup")]
    CutShort {
        /// How long it is.
        at: u64,
    },
    /// The checkpoint has more than a backup holds.
    #[error("the checkpoint has more {what} than a backup may hold")]
    TooLarge {
        /// Of what.
        what: &'static str,
    },
}

// === impl BackupAbout ===

impl BackupAbout {
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_BYTES);
        out.extend_from_slice(&self.cluster_id);
        for number in [
            self.node_id,
            self.applied_index,
            self.revision,
            self.wall_ms,
            self.made_ms,
            self.unconfirmed,
            self.chunks,
        ] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.push(u8::from(self.local));
        out
    }

    fn decode(payload: &[u8]) -> Option<Self> {
        let mut reader = BytesReader::new(payload);
        let about = Self {
            cluster_id: reader.array()?,
            node_id: reader.u64()?,
            applied_index: reader.u64()?,
            revision: reader.u64()?,
            wall_ms: reader.u64()?,
            made_ms: reader.u64()?,
            unconfirmed: reader.u64()?,
            chunks: reader.u64().filter(|count| *count <= MAX_CHUNKS as u64)?,
            local: match reader.u8()? {
                0 => false,
                1 => true,
                _ => return None,
            },
        };
        reader.rest().is_empty().then_some(about)
    }
}

// === impl BackupWriter ===

impl BackupWriter {
    /// Of a checkpoint; the count of chunks in `about` is set here.
    ///
    /// # Errors
    /// [`BackupError::TooLarge`].
    pub fn new(
        about: BackupAbout,
        meta: Vec<u8>,
        chunks: Vec<(String, Bytes)>,
    ) -> Result<Self, BackupError> {
        let refuse = |what| Err(BackupError::TooLarge { what });
        if meta.len() > MAX_META_BYTES {
            return refuse("bytes in its meta record");
        }
        if chunks.len() > MAX_CHUNKS {
            return refuse("chunks");
        }
        let fits = |(name, content): &(String, Bytes)| {
            name.len() <= MAX_NAME_BYTES && content.len() <= MAX_CHUNK_BYTES
        };
        if !chunks.iter().all(fits) {
            return refuse("bytes in a chunk");
        }
        Ok(Self {
            about: BackupAbout {
                chunks: chunks.len() as u64,
                ..about
            },
            hasher: blake3::Hasher::new(),
            seed: 0,
            next: Next::Header,
            meta,
            chunks: chunks.into_iter(),
        })
    }

    /// What the header says.
    pub const fn about(&self) -> &BackupAbout {
        &self.about
    }

    fn frame(&self, kind: u8, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(frame::size(payload.len()));
        frame::push(&mut out, self.seed, kind, VERSION, payload);
        out
    }

    fn end(&self) -> Vec<u8> {
        let mut payload = self.hasher.finalize().as_bytes().to_vec();
        payload.extend_from_slice(&self.about.chunks.to_le_bytes());
        self.frame(END, &payload)
    }
}

impl Iterator for BackupWriter {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let piece = match self.next {
            Next::Header => {
                self.next = Next::Meta;
                let (piece, seed) = encode_preambled(MAGIC, HEADER, VERSION, &self.about.encode());
                self.seed = seed;
                piece
            }
            Next::Meta => {
                self.next = Next::Chunks;
                let meta = std::mem::take(&mut self.meta);
                self.frame(META, &meta)
            }
            Next::Chunks => {
                let Some((name, content)) = self.chunks.next() else {
                    self.next = Next::Nothing;
                    return Some(self.end().into());
                };
                let mut payload = Vec::with_capacity(4 + name.len() + content.len());
                put_bytes(&mut payload, name.as_bytes());
                payload.extend_from_slice(&content);
                self.frame(CHUNK, &payload)
            }
            Next::Nothing => return None,
        };
        self.hasher.update(&piece);
        Some(piece.into())
    }
}

// === impl BackupReader ===

impl BackupReader {
    /// Before the first byte.
    pub fn new() -> Self {
        Self {
            buffer: BytesMut::new(),
            hasher: blake3::Hasher::new(),
            at: 0,
            seed: 0,
            about: None,
            meta_seen: false,
            chunks_seen: 0,
            ended: false,
        }
    }

    /// Takes the next bytes of the file; what became whole is handed to `take`.
    ///
    /// # Errors
    /// What is wrong with the file. Nothing more may be pushed then.
    pub fn push(
        &mut self,
        bytes: &[u8],
        mut take: impl FnMut(BackupPart),
    ) -> Result<(), BackupError> {
        self.buffer.extend_from_slice(bytes);
        while let Some(part) = self.next()? {
            take(part);
        }
        Ok(())
    }

    /// After the last byte.
    ///
    /// # Errors
    /// [`BackupError::CutShort`], where the end was not among the bytes.
    pub fn finish(self) -> Result<BackupAbout, BackupError> {
        match self.about {
            Some(about) if self.ended => Ok(about),
            _ => Err(BackupError::CutShort {
                at: self.at + self.buffer.len() as u64,
            }),
        }
    }

    /// One part; `None` where bytes are missing.
    fn next(&mut self) -> Result<Option<BackupPart>, BackupError> {
        if self.buffer.is_empty() {
            return Ok(None);
        }
        if self.ended {
            return Err(self.damaged("something stands behind its end"));
        }
        if self.about.is_none() {
            return Ok(self.header()?.map(BackupPart::About));
        }
        let Some(size) = self.size_at(0)? else {
            return Ok(None);
        };
        if self.buffer.len() < size {
            return Ok(None);
        }
        let Parsed::Frame(found) = frame::parse(&self.buffer[..size], self.seed, MAX_PAYLOAD)
        else {
            return Err(self.damaged("a checksum does not match"));
        };
        if found.version != VERSION {
            return Err(self.damaged("a part is of a version that this build does not know"));
        }
        let kind = found.kind;
        let whole = self.buffer.split_to(size).freeze();
        let payload_len = frame_payload_len(&whole);
        let payload = whole.slice(frame::HEAD..frame::HEAD + payload_len);
        let part = self.part(kind, payload)?;
        self.hasher.update(&whole);
        self.at += size as u64;
        Ok(Some(part))
    }

    fn part(&mut self, kind: u8, mut payload: Bytes) -> Result<BackupPart, BackupError> {
        match kind {
            META if !self.meta_seen && payload.len() <= MAX_META_BYTES => {
                self.meta_seen = true;
                Ok(BackupPart::Meta(payload))
            }
            CHUNK if self.meta_seen && self.chunks_seen < MAX_CHUNKS as u64 => {
                let name = BytesReader::new(&payload)
                    .bytes(MAX_NAME_BYTES)
                    .and_then(|name| std::str::from_utf8(name).ok())
                    .map(ToOwned::to_owned);
                let name = name.ok_or_else(|| self.damaged("a chunk has no name"))?;
                payload.advance(4 + name.len());
                self.chunks_seen += 1;
                Ok(BackupPart::Chunk(name, payload))
            }
            END if self.meta_seen => {
                self.check_end(&payload)?;
                self.ended = true;
                Ok(BackupPart::End)
            }
            _ => Err(self.damaged("a part stands where none of its kind may")),
        }
    }

    fn check_end(&self, payload: &[u8]) -> Result<(), BackupError> {
        let mut reader = BytesReader::new(payload);
        let hash = reader.array::<HASH_BYTES>();
        let count = reader.u64();
        let expected = self.about.map(|about| about.chunks);
        if hash.as_ref() != Some(self.hasher.finalize().as_bytes()) || !reader.rest().is_empty() {
            return Err(self.damaged("the checksum of the whole does not match"));
        }
        if count != Some(self.chunks_seen) || count != expected {
            return Err(self.damaged("it has another number of parts than it says"));
        }
        Ok(())
    }

    fn header(&mut self) -> Result<Option<BackupAbout>, BackupError> {
        let known = self.buffer.len().min(MAGIC.len());
        if self.buffer[..known] != MAGIC[..known] {
            return Err(BackupError::NotABackup);
        }
        if let Some(format) = self.buffer.get(MAGIC.len()..PREAMBLE) {
            let format = u32::from_le_bytes([format[0], format[1], format[2], format[3]]);
            if format > FORMAT_VERSION {
                return Err(BackupError::NewerFormat { found: format });
            }
        }
        let Some(size) = self.size_at(PREAMBLE)? else {
            return Ok(None);
        };
        let size = PREAMBLE + size;
        if self.buffer.len() < size {
            return Ok(None);
        }
        let decoded = decode_preambled(MAGIC, &self.buffer[..size], HEADER_BYTES);
        let found = decoded.map_err(|error| match error {
            HeaderError::NewerFormat { found } => BackupError::NewerFormat { found },
            _ => self.damaged("the checksum of its header does not match"),
        })?;
        let known = found.kind == HEADER && found.version == VERSION;
        let about = BackupAbout::decode(found.payload).filter(|_| known);
        let about = about.ok_or_else(|| self.damaged("its header cannot be read"))?;
        self.seed = found.crc;
        self.about = Some(about);
        let whole = self.buffer.split_to(size);
        self.hasher.update(&whole);
        self.at += size as u64;
        Ok(Some(about))
    }

    /// The size of the frame that starts at a place of the buffer by its own claim.
    fn size_at(&self, place: usize) -> Result<Option<usize>, BackupError> {
        match self.buffer.get(place..place + 4) {
            None => Ok(None),
            Some(word) => frame::claimed_size(word, MAX_PAYLOAD)
                .map(Some)
                .ok_or_else(|| self.damaged("a length is absurd")),
        }
    }

    const fn damaged(&self, what: &'static str) -> BackupError {
        BackupError::Damaged { at: self.at, what }
    }
}

impl Default for BackupReader {
    fn default() -> Self {
        Self::new()
    }
}

/// Of a frame that was found whole.
fn frame_payload_len(whole: &[u8]) -> usize {
    let len = whole.first_chunk().copied().map_or(0, u32::from_le_bytes);
    // Kind and version are counted beside the payload.
    usize::try_from(len).unwrap_or(0).saturating_sub(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ABOUT: BackupAbout = BackupAbout {
        cluster_id: [7; 16],
        node_id: 3,
        applied_index: 41,
        revision: 9,
        wall_ms: 1_000,
        made_ms: 2_000,
        unconfirmed: 0,
        chunks: 2,
        local: false,
    };

    fn chunks() -> Vec<(String, Bytes)> {
        vec![
            ("catalog-0".to_owned(), Bytes::from_static(b"objects")),
            ("cells-1".to_owned(), Bytes::from(vec![5; 300])),
        ]
    }

    fn written() -> Vec<u8> {
        let pieces = BackupWriter::new(ABOUT, b"meta".to_vec(), chunks()).unwrap();
        pieces.flat_map(|piece| piece.to_vec()).collect()
    }

    fn read(bytes: &[u8], piece: usize) -> Result<(BackupAbout, Vec<BackupPart>), BackupError> {
        let mut reader = BackupReader::new();
        let mut parts = Vec::new();
        for piece in bytes.chunks(piece) {
            reader.push(piece, |part| parts.push(part))?;
        }
        Ok((reader.finish()?, parts))
    }

    #[test]
    fn a_backup_is_read_back_whatever_the_size_of_the_pieces() {
        let bytes = written();
        let expected: Vec<BackupPart> = [
            BackupPart::About(ABOUT),
            BackupPart::Meta(Bytes::from_static(b"meta")),
        ]
        .into_iter()
        .chain(chunks().into_iter().map(|(n, c)| BackupPart::Chunk(n, c)))
        .chain([BackupPart::End])
        .collect();
        for piece in [1, 7, 64, bytes.len()] {
            assert_eq!(read(&bytes, piece).unwrap(), (ABOUT, expected.clone()));
        }
    }

    #[test]
    fn every_flipped_byte_is_seen() {
        let bytes = written();
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            assert!(read(&damaged, 64).is_err(), "byte {at}");
        }
    }

    #[test]
    fn every_cut_and_every_byte_too_much_is_seen() {
        let bytes = written();
        for len in 0..bytes.len() {
            let error = read(&bytes[..len], 64).unwrap_err();
            assert_eq!(error, BackupError::CutShort { at: len as u64 });
        }
        let mut longer = bytes;
        longer.push(0);
        assert!(matches!(
            read(&longer, 64),
            Err(BackupError::Damaged { .. })
        ));
    }

    #[test]
    fn parts_of_another_backup_or_in_another_order_are_refused() {
        let one = BackupWriter::new(ABOUT, b"meta".to_vec(), chunks()).unwrap();
        let one: Vec<Bytes> = one.collect();
        let other = BackupAbout {
            revision: 10,
            ..ABOUT
        };
        let other = BackupWriter::new(other, b"meta".to_vec(), chunks()).unwrap();
        let other: Vec<Bytes> = other.collect();
        let joined = |order: [&Bytes; 5]| -> Vec<u8> {
            order.into_iter().flat_map(|piece| piece.to_vec()).collect()
        };
        let mixed = joined([&one[0], &one[1], &other[2], &one[3], &one[4]]);
        assert!(read(&mixed, 64).is_err());
        let turned = joined([&one[0], &one[1], &one[3], &one[2], &one[4]]);
        assert!(read(&turned, 64).is_err());
        let twice = joined([&one[0], &one[1], &one[2], &one[2], &one[4]]);
        assert!(read(&twice, 64).is_err());
    }

    #[test]
    fn what_is_no_backup_or_a_newer_one_is_named() {
        assert_eq!(read(b"tenants: []", 64), Err(BackupError::NotABackup));
        let mut newer = written();
        newer[4] = 9;
        assert_eq!(read(&newer, 64), Err(BackupError::NewerFormat { found: 9 }));
    }
}
