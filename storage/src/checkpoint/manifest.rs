//! The file that says what a checkpoint consists of, and the limits of what may be in it.
//!
//! ```text
//! | magic "MECK" | format u32 | frame { cluster, node, serial, meta, count, count x { name, bytes u64, hash [32] } } |
//! ```
//!
//! Invariant: it is believed only if the checksum of the whole matches and nothing stands behind it.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::{CheckpointError, MAX_CHUNK_BYTES, MAX_CHUNKS, MAX_META_BYTES, MAX_NAME_BYTES};
use crate::bytes_reader::{BytesReader, put_bytes};
use crate::segment::{HeaderError, Owner, PREAMBLE, decode_preambled, encode_preambled};

/// No manifest is longer than this.
pub(super) const MAX_BYTES: u64 = (MAX_PAYLOAD + 64) as u64;

const MAX_PAYLOAD: usize = 64 + MAX_META_BYTES + MAX_CHUNKS * (4 + MAX_NAME_BYTES + 8 + 32);
const MAGIC: [u8; 4] = *b"MECK";
const KIND: u8 = 0xf1;
const VERSION: u8 = 1;

/// What a checkpoint consists of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Manifest {
    pub(super) owner: Owner,
    pub(super) serial: u64,
    pub(super) meta: Bytes,
    pub(super) chunks: Vec<ChunkRef>,
}

/// One chunk of a checkpoint: what it is called, and which content it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkRef {
    /// Its name, which occurs once in a checkpoint.
    pub name: String,
    /// The length of its content.
    pub bytes: u64,
    /// BLAKE3 of its content.
    pub hash: [u8; 32],
}

// === impl Manifest ===

impl Manifest {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(&self.owner.cluster_id);
        out.extend_from_slice(&self.owner.node_id.to_le_bytes());
        out.extend_from_slice(&self.serial.to_le_bytes());
        put_bytes(&mut out, &self.meta);
        out.extend_from_slice(&(self.chunks.len() as u64).to_le_bytes());
        for chunk in &self.chunks {
            put_bytes(&mut out, chunk.name.as_bytes());
            out.extend_from_slice(&chunk.bytes.to_le_bytes());
            out.extend_from_slice(&chunk.hash);
        }
        encode_preambled(MAGIC, KIND, VERSION, &out).0
    }

    pub(super) fn decode(bytes: &[u8], owner: Owner) -> Result<Self, HeaderError> {
        let frame = decode_preambled(MAGIC, bytes, MAX_PAYLOAD)?;
        let whole = PREAMBLE + frame.size() == bytes.len();
        if !whole || frame.kind != KIND || frame.version != VERSION {
            return Err(HeaderError::Damaged);
        }
        let manifest = Self::from_payload(frame.payload).ok_or(HeaderError::Damaged)?;
        manifest.owner.check(owner)?;
        Ok(manifest)
    }

    fn from_payload(payload: &[u8]) -> Option<Self> {
        let mut reader = BytesReader::new(payload);
        let owner = Owner {
            cluster_id: reader.array()?,
            node_id: reader.u64()?,
        };
        let serial = reader.u64()?;
        let meta = Bytes::copy_from_slice(reader.bytes(MAX_META_BYTES)?);
        let count = usize::try_from(reader.u64()?)
            .ok()
            .filter(|count| *count <= MAX_CHUNKS)?;
        let mut chunks = Vec::with_capacity(count);
        for _ in 0..count {
            let name = std::str::from_utf8(reader.bytes(MAX_NAME_BYTES)?)
                .ok()?
                .to_owned();
            let bytes = reader
                .u64()
                .filter(|bytes| *bytes <= MAX_CHUNK_BYTES as u64)?;
            chunks.push(ChunkRef {
                name,
                bytes,
                hash: reader.array()?,
            });
        }
        let manifest = Self {
            owner,
            serial,
            meta,
            chunks,
        };
        reader.rest().is_empty().then_some(manifest)
    }
}

/// Refuses what no manifest may hold; two chunks of one hash must have one length.
pub(super) fn check_limits(meta: &[u8], chunks: &[ChunkRef]) -> Result<(), CheckpointError> {
    let refuse = |what: String| Err(CheckpointError::Invalid { what });
    if meta.len() > MAX_META_BYTES {
        let bytes = meta.len();
        return refuse(format!(
            "the meta has {bytes} bytes, at most {MAX_META_BYTES} are allowed"
        ));
    }
    if chunks.len() > MAX_CHUNKS {
        let count = chunks.len();
        return refuse(format!(
            "there are {count} chunks, at most {MAX_CHUNKS} are allowed"
        ));
    }
    let mut names = BTreeSet::new();
    let mut lengths = BTreeMap::new();
    for ChunkRef { name, bytes, hash } in chunks {
        if name.len() > MAX_NAME_BYTES {
            return refuse(format!(
                "the chunk name {name:?} has more than {MAX_NAME_BYTES} bytes"
            ));
        }
        if *bytes > MAX_CHUNK_BYTES as u64 {
            return refuse(format!(
                "chunk {name:?} has {bytes} bytes, at most {MAX_CHUNK_BYTES} are allowed"
            ));
        }
        if !names.insert(name) {
            return refuse(format!("the chunk name {name:?} occurs twice"));
        }
        if lengths
            .insert(hash, *bytes)
            .is_some_and(|old| old != *bytes)
        {
            return refuse(format!(
                "chunk {name:?} has the hash of one of another length"
            ));
        }
    }
    Ok(())
}

pub(super) fn name_of(serial: u64) -> String {
    format!("manifest-{serial:020}.manifest")
}

pub(super) fn serial_of(name: &str) -> Option<u64> {
    name.strip_prefix("manifest-")?
        .strip_suffix(".manifest")?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_is_read_back_and_each_flipped_byte_is_refused() {
        let owner = Owner {
            cluster_id: [1; 16],
            node_id: 2,
        };
        let chunk = ChunkRef {
            name: "catalog".to_owned(),
            bytes: 10,
            hash: [9; 32],
        };
        let meta = Bytes::from_static(b"meta");
        let manifest = Manifest {
            owner,
            serial: 3,
            meta,
            chunks: vec![chunk],
        };
        let bytes = manifest.encode();
        assert_eq!(Manifest::decode(&bytes, owner), Ok(manifest));
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 4;
            assert!(Manifest::decode(&damaged, owner).is_err(), "byte {at}");
        }
        assert!(Manifest::decode(&bytes[..bytes.len() - 8], owner).is_err());
    }

    #[test]
    fn a_serial_is_read_from_a_name() {
        assert_eq!(serial_of(&name_of(7)), Some(7));
        assert_eq!(serial_of("manifest-7.tmp"), None);
    }
}
