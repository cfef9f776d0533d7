//! A checkpoint that arrives from another node, chunk by chunk.
//!
//! ```text
//! receive: limits, room, which chunks are here -> part: <hash>.part -> hash checked, synced, renamed -> commit: manifest
//! ```
//!
//! Invariants:
//! * nothing of it counts before [`Incoming::commit`] has returned: until then the checkpoint before is the newest;
//! * a chunk gets its name only when its hash was checked and its bytes are synced, so whatever the other
//!   node sends, a named chunk is what its name says; it may be of use to the next transfer;
//! * one is received at a time; a transfer that ends early leaves at most a `.part`, which it, the next transfer or
//!   the next start removes.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::manifest::check_limits;
use super::{CheckpointError, CheckpointStore, ChunkRef, Hash, Hold, part_name};
use crate::disk::DiskFile;

/// So much must stay free for the log.
const RESERVED_BYTES: u64 = 64 * 1024 * 1024;

/// How much of a chunk that is here already is read at once.
const WINDOW_BYTES: usize = 256 * 1024;

/// A checkpoint that is being received.
pub struct Incoming {
    store: Arc<CheckpointStore>,
    hold: u64,
    meta: Bytes,
    chunks: Vec<ChunkRef>,
    /// What must be sent, in this order: places in `chunks`.
    lacking: Vec<usize>,
    /// How many of these are here.
    done: usize,
    part: Option<Part>,
}

/// The chunk that is arriving.
struct Part {
    file: Box<dyn DiskFile>,
    hasher: blake3::Hasher,
    written: u64,
}

// === impl CheckpointStore ===

impl CheckpointStore {
    /// Prepares for a checkpoint of these chunks, and finds out which of them are here already, by reading them.
    ///
    /// # Errors
    /// [`CheckpointError::Invalid`] if a limit is exceeded, [`CheckpointError::NoSpace`] if what is lacking does not fit,
    /// [`CheckpointError::Busy`] while another one is received, else as [`CheckpointStore::write`].
    pub fn receive(
        self: &Arc<Self>,
        meta: Bytes,
        chunks: Vec<ChunkRef>,
    ) -> Result<Incoming, CheckpointError> {
        check_limits(&meta, &chunks)?;
        let hold = {
            let mut known = self.usable()?;
            self.kept_manifests(&known.damaged)?;
            if known.holds.values().any(|hold| hold.reads.is_none()) {
                return Err(CheckpointError::Busy);
            }
            self.remove_parts()?;
            known.hold(Hold {
                chunks: chunks.iter().map(|chunk| chunk.hash).collect(),
                reads: None,
            })
        };
        // From here on no write removes a chunk that is found.
        let mut incoming = Incoming {
            store: Arc::clone(self),
            hold,
            meta,
            chunks,
            lacking: Vec::new(),
            done: 0,
            part: None,
        };
        incoming.look()?;
        Ok(incoming)
    }
}

// === impl Incoming ===

impl Incoming {
    /// Makes it durable and the newest.
    ///
    /// # Errors
    /// [`CheckpointError::Unannounced`] if chunks are missing, else as [`CheckpointStore::write`].
    pub fn commit(self) -> Result<(), CheckpointError> {
        if let Some(missing) = self.next() {
            let name = &missing.name;
            return Err(unannounced(format!("chunk {name:?} has not arrived whole")));
        }
        let mut known = self.store.usable()?;
        known
            .verified
            .extend(self.chunks.iter().map(|chunk| chunk.hash));
        self.store
            .publish(self.meta.clone(), self.chunks.clone(), &mut known)
    }

    /// The chunks that must be sent, in the order in which they are taken: places in the list that was announced.
    pub fn lacking(&self) -> &[usize] {
        &self.lacking
    }

    /// Whether all that was lacking is here.
    pub fn is_complete(&self) -> bool {
        self.done == self.lacking.len()
    }

    /// Takes the next bytes of the next chunk that is lacking.
    ///
    /// # Errors
    /// [`CheckpointError::Unannounced`] if they are not what comes next, or the chunk they complete has another
    /// hash; [`CheckpointError::Io`] for what the system reports.
    pub fn put(&mut self, chunk: usize, offset: u64, data: &[u8]) -> Result<(), CheckpointError> {
        let expected = self.expect(chunk, offset, data)?;
        let written = offset;
        let path = self.store.chunks_dir.join(part_name(&expected.hash));
        let mut part = match self.part.take() {
            Some(part) => part,
            None => Part {
                file: self
                    .store
                    .disk
                    .create(&path)
                    .map_err(CheckpointError::io("create", &path))?,
                hasher: blake3::Hasher::new(),
                written: 0,
            },
        };
        let wrote = part.file.write_all_at(data, written);
        wrote.map_err(CheckpointError::io("write", &path))?;
        part.hasher.update(data);
        part.written += data.len() as u64;
        if part.written < expected.bytes {
            self.part = Some(part);
            return Ok(());
        }
        self.complete(&expected, &part)
    }

    /// The chunk that these bytes belong to, if they are what comes next.
    fn expect(&self, chunk: usize, offset: u64, data: &[u8]) -> Result<ChunkRef, CheckpointError> {
        let Some(next) = self.lacking.get(self.done).copied() else {
            return Err(unannounced("bytes follow the last chunk".to_owned()));
        };
        let expected = &self.chunks[next];
        let written = self.part.as_ref().map_or(0, |part| part.written);
        if (chunk, offset) != (next, written) {
            return Err(unannounced(format!(
                "byte {written} of chunk {next} comes next, not byte {offset} of chunk {chunk}"
            )));
        }
        let got = data.len() as u64;
        if got > expected.bytes - written || (got == 0 && expected.bytes > 0) {
            let (name, bytes) = (&expected.name, expected.bytes);
            return Err(unannounced(format!(
                "chunk {name:?} has {bytes} bytes, {written} are here, and {got} arrived"
            )));
        }
        Ok(expected.clone())
    }

    fn complete(&mut self, chunk: &ChunkRef, part: &Part) -> Result<(), CheckpointError> {
        let path = self.store.chunks_dir.join(part_name(&chunk.hash));
        if *part.hasher.finalize().as_bytes() != chunk.hash {
            let name = &chunk.name;
            self.store.remove(&path)?;
            return Err(unannounced(format!(
                "the content of chunk {name:?} has another hash"
            )));
        }
        let synced = part.file.sync_data();
        synced.map_err(CheckpointError::io("sync", &path))?;
        let named = self
            .store
            .disk
            .rename(&path, &self.store.chunk_path(&chunk.hash));
        named.map_err(CheckpointError::io("name", &path))?;
        self.done += 1;
        Ok(())
    }

    fn next(&self) -> Option<&ChunkRef> {
        let next = self.lacking.get(self.done)?;
        Some(&self.chunks[*next])
    }

    /// Finds what is lacking, and room for it.
    fn look(&mut self) -> Result<(), CheckpointError> {
        let mut seen = BTreeSet::new();
        let mut needed = RESERVED_BYTES;
        for (at, chunk) in self.chunks.iter().enumerate() {
            if seen.insert(chunk.hash) && !self.store.has(chunk) {
                needed = needed.saturating_add(chunk.bytes);
                self.lacking.push(at);
            }
        }
        let dir = &self.store.dir;
        let free = self.store.disk.free_space(dir);
        let free = free.map_err(CheckpointError::io("measure the disk of", dir))?;
        if self.lacking.is_empty() || needed <= free {
            return Ok(());
        }
        Err(CheckpointError::NoSpace {
            dir: dir.clone(),
            needed,
            free,
        })
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if let Some(part) = self.part.take() {
            drop(part);
            let hash = self.next().map(|chunk| chunk.hash);
            let path = hash.map(|hash| self.store.chunks_dir.join(part_name(&hash)));
            if let Some(Err(error)) = path.map(|path| self.store.remove(&path)) {
                // It takes space until the next transfer or start, which remove it.
                tracing::warn!(%error, "cannot remove what a broken transfer left");
            }
        }
        self.store.lock().holds.remove(&self.hold);
    }
}

impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incoming")
            .field("chunks", &self.chunks.len())
            .field("lacking", &self.lacking.len())
            .field("done", &self.done)
            .finish_non_exhaustive()
    }
}

// === impl CheckpointStore ===

impl CheckpointStore {
    /// Whether a chunk is here whole; it is read for that, and synced, since whoever wrote it may have died before. One
    /// that cannot be read is not: it is sent again, and its name is given to what arrives.
    fn has(&self, chunk: &ChunkRef) -> bool {
        let path = self.chunk_path(&chunk.hash);
        let looked = self.disk.open(&path).and_then(|file| {
            let intact = file.size()? == chunk.bytes && hash(file.as_ref())? == chunk.hash;
            if intact {
                file.sync_data()?;
            }
            Ok(intact)
        });
        looked.unwrap_or_else(|error| {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::warn!(%error, path = %path.display(), "cannot read a chunk that is here; it is sent again");
            }
            false
        })
    }
}

fn hash(file: &dyn DiskFile) -> io::Result<Hash> {
    let mut hasher = blake3::Hasher::new();
    let mut window = vec![0; WINDOW_BYTES];
    let mut offset = 0;
    loop {
        let read = file.read_at(&mut window, offset)?;
        if read == 0 {
            return Ok(*hasher.finalize().as_bytes());
        }
        hasher.update(&window[..read]);
        offset += read as u64;
    }
}

fn unannounced(what: String) -> CheckpointError {
    CheckpointError::Unannounced { what }
}
