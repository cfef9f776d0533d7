//! The history: every accepted change set, kept for good, each record's hash covering the one before.
//!
//! A record holds its change set as the bytes that stood in the log. Nothing here reads them, so the hash covers what was
//! agreed on and not what some encoder makes of it.
//!
//! Invariants:
//! - records follow one another: each revision is the one before plus one, each hash covers the one before ([`chain`]);
//! - a chunk is sealed at [`CHUNK_RECORDS`] records or [`CHUNK_BYTES`] bytes and never changes then, so that checkpoints
//!   share it; where chunks end is a function of the records alone.

use std::sync::Arc;

use imbl::Vector;

use crate::checkpoint::PartsError;

/// A chunk with this many records is sealed.
pub const CHUNK_RECORDS: usize = 256;
/// A chunk with this many bytes of change sets is sealed.
pub const CHUNK_BYTES: usize = 256 << 10;

/// Origin of the first record of a history that began with a checkpoint: it puts all that was declared then.
pub const BEGINNING: &str = "checkpoint";

const DOMAIN: &str = "mode-envoy 2026-11 history record";

/// BLAKE3 of a record and all before it.
pub type RecordHash = [u8; 32];

/// What the first record follows.
pub const NO_RECORD: RecordHash = [0; 32];

/// One accepted change set.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Record {
    /// The revision it made.
    pub revision: u64,
    /// The state's wall clock when it was accepted; Unix milliseconds.
    pub wall_ms: u64,
    /// The change set as it stood in the log.
    pub change_set: Arc<[u8]>,
    /// [`chain`] of the above.
    pub hash: RecordHash,
}

/// Every record. A copy shares what is sealed.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct History {
    sealed: Vector<Arc<[Record]>>,
    open: Vec<Record>,
    open_bytes: usize,
}

/// A history taken apart, as checkpoints hold it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HistoryParts {
    /// The records in order, chunk by chunk; the last chunk may be open still.
    pub chunks: Vec<Arc<[Record]>>,
    /// Hash of the last one, as the checkpoint's meta record tells it.
    pub head: RecordHash,
}

// === impl History ===

impl History {
    /// Adds the change set that made `revision`.
    pub fn record(&mut self, revision: u64, wall_ms: u64, change_set: Arc<[u8]>) {
        let hash = chain(&self.head(), revision, wall_ms, &change_set);
        self.push(Record {
            revision,
            wall_ms,
            change_set,
            hash,
        });
    }

    /// Hash of the newest record; it stands for all of them.
    pub fn head(&self) -> RecordHash {
        self.last().map_or(NO_RECORD, |record| record.hash)
    }

    /// The oldest record.
    pub fn first(&self) -> Option<&Record> {
        let sealed = self.sealed.front().and_then(|chunk| chunk.first());
        sealed.or_else(|| self.open.first())
    }

    /// The newest record.
    pub fn last(&self) -> Option<&Record> {
        let sealed = || self.sealed.last().and_then(|chunk| chunk.last());
        self.open.last().or_else(sealed)
    }

    /// Every record, the oldest first, each shared as it is reached.
    pub fn into_records(self) -> impl Iterator<Item = Record> {
        let sealed = self.sealed.into_iter().flat_map(|chunk| {
            let places = 0..chunk.len();
            places.map(move |place| chunk[place].clone())
        });
        sealed.chain(self.open)
    }

    /// Every record, the oldest first.
    pub fn records(&self) -> impl DoubleEndedIterator<Item = &Record> {
        let sealed = self.sealed.iter().flat_map(|chunk| chunk.iter());
        sealed.chain(&self.open)
    }

    pub(crate) fn parts(&self) -> HistoryParts {
        let open = Some(&self.open[..]).filter(|open| !open.is_empty());
        let sealed = self.sealed.iter().cloned();
        HistoryParts {
            chunks: sealed.chain(open.map(Arc::from)).collect(),
            head: self.head(),
        }
    }

    /// From what a checkpoint holds, every hash computed again.
    ///
    /// # Errors
    /// [`PartsError::HistoryBroken`] names the first record that does not hold; [`PartsError::HistoryHead`] and
    /// [`PartsError::HistoryRevision`] tell that records are missing at the end.
    pub(crate) fn from_parts(parts: &HistoryParts, revision: u64) -> Result<Self, PartsError> {
        let mut history = Self::default();
        for record in parts.chunks.iter().flat_map(|chunk| chunk.iter()) {
            let follows = history
                .last()
                .is_none_or(|last| last.revision.checked_add(1) == Some(record.revision));
            let hash = chain(
                &history.head(),
                record.revision,
                record.wall_ms,
                &record.change_set,
            );
            if !follows || hash != record.hash {
                return Err(PartsError::HistoryBroken(record.revision));
            }
            history.push(record.clone());
        }
        if history.head() != parts.head {
            return Err(PartsError::HistoryHead);
        }
        match history.last() {
            Some(last) if last.revision != revision => Err(PartsError::HistoryRevision {
                last: last.revision,
                revision,
            }),
            _ => Ok(history),
        }
    }

    fn push(&mut self, record: Record) {
        self.open_bytes += record.change_set.len();
        self.open.push(record);
        if self.open.len() >= CHUNK_RECORDS || self.open_bytes >= CHUNK_BYTES {
            self.sealed
                .push_back(Arc::from(std::mem::take(&mut self.open)));
            self.open_bytes = 0;
        }
    }
}

/// The hash of a record that follows one with the hash `previous`. Who asked is part of the change set's bytes.
pub fn chain(previous: &RecordHash, revision: u64, wall_ms: u64, change_set: &[u8]) -> RecordHash {
    let mut hasher = blake3::Hasher::new_derive_key(DOMAIN);
    hasher
        .update(previous)
        .update(&revision.to_le_bytes())
        .update(&wall_ms.to_le_bytes())
        .update(change_set);
    *hasher.finalize().as_bytes()
}
