//! A checkpoint that is being read, piece by piece, and stays for as long.
//!
//! Invariant: while it lives, no write to the store removes one of its chunks; it never holds up a write.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use super::{CheckpointError, CheckpointStore, ChunkRef, Hold};

/// A checkpoint whose files stay until this is dropped.
pub struct HeldCheckpoint {
    store: Arc<CheckpointStore>,
    hold: u64,
    meta: Bytes,
    chunks: Vec<ChunkRef>,
}

// === impl CheckpointStore ===

impl CheckpointStore {
    /// Holds the newest checkpoint about whose meta `wanted` says yes; `None` if there is none.
    ///
    /// # Errors
    /// As [`CheckpointStore::load`], except that damaged ones are left out.
    pub fn hold(
        self: &Arc<Self>,
        wanted: impl Fn(&[u8]) -> bool,
    ) -> Result<Option<HeldCheckpoint>, CheckpointError> {
        let mut known = self.usable()?;
        let kept = self.kept_manifests(&known.damaged)?;
        let Some(manifest) = kept.into_iter().rev().find(|kept| wanted(&kept.meta)) else {
            return Ok(None);
        };
        let hold = known.hold(Hold {
            chunks: manifest.chunks.iter().map(|chunk| chunk.hash).collect(),
            reads: Some(manifest.meta.clone()),
        });
        Ok(Some(HeldCheckpoint {
            store: Arc::clone(self),
            hold,
            meta: manifest.meta,
            chunks: manifest.chunks,
        }))
    }

    /// What the owner said about the checkpoints that are held for reading.
    pub fn held(&self) -> Vec<Bytes> {
        let known = self.lock();
        let holds = known.holds.values();
        holds.filter_map(|hold| hold.reads.clone()).collect()
    }
}

// === impl Known ===

impl super::Known {
    pub(super) fn hold(&mut self, hold: Hold) -> u64 {
        let number = self.next_hold;
        self.next_hold += 1;
        self.holds.insert(number, hold);
        number
    }
}

// === impl HeldCheckpoint ===

impl HeldCheckpoint {
    /// What the owner said about it.
    pub fn meta(&self) -> &Bytes {
        &self.meta
    }

    /// Its chunks, in order.
    pub fn chunks(&self) -> &[ChunkRef] {
        &self.chunks
    }

    /// Reads one chunk, and checks it.
    ///
    /// # Errors
    /// [`CheckpointError::Damaged`] if it is not what was written; the next checkpoint that has it writes it
    /// again. [`CheckpointError::Io`] for what the system reports.
    pub fn read(&self, chunk: &ChunkRef) -> Result<Bytes, CheckpointError> {
        let path = self.store.chunk_path(&chunk.hash);
        let content = self.store.read_file(&path, chunk.bytes)?;
        if *blake3::hash(&content).as_bytes() == chunk.hash {
            return Ok(content.into());
        }
        self.store.lock().verified.remove(&chunk.hash);
        let what = format!("the content of chunk {:?} has another checksum", chunk.name);
        Err(CheckpointError::Damaged { file: path, what })
    }
}

impl Drop for HeldCheckpoint {
    fn drop(&mut self) {
        self.store.lock().holds.remove(&self.hold);
    }
}

impl fmt::Debug for HeldCheckpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeldCheckpoint")
            .field("chunks", &self.chunks.len())
            .finish_non_exhaustive()
    }
}
