//! The state at one place of the log, on this node's disk: what the consensus library calls a snapshot.
//!
//! Invariants:
//! * a checkpoint never takes the place of one that stands further on in the log, whoever made it: this node while
//!   another one arrives, or the leader while this node catches up by itself;
//! * [`Checkpoints::reach`] is how far back the log must go: to the older of the two that are kept, so that the newer
//!   one may turn out to be damaged. (Between the arrival of a leader's checkpoint and this node's next one it is the only one
//!   that the log goes on from, since the log before it was not this node's.)
//!
//! A [`CheckpointRef`] holds no state. It says which place is meant, and reading fails if the store has moved on.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mode_envoy_model::state::State;
use mode_envoy_storage::checkpoint::{
    CheckpointError, CheckpointStore, ChunkRef, HeldCheckpoint, Incoming,
};
use tokio::time::Instant;

use crate::convert::{self, DecodeError};
use crate::machine;
use crate::types::{LogId, SnapshotMeta};

mod counters;

pub use counters::CheckpointStats;
pub(crate) use counters::Counters;

/// The checkpoints of this node. Clones share them.
#[derive(Clone)]
pub(crate) struct Checkpoints {
    inner: Arc<Inner>,
}

struct Inner {
    store: Arc<CheckpointStore>,
    /// Held while one is written; orders those who want to.
    writing: Mutex<()>,
    newest: Mutex<Option<SnapshotMeta>>,
    counters: Counters,
}

/// A checkpoint in a store, by reference.
#[derive(Clone)]
pub(crate) struct CheckpointRef {
    checkpoints: Checkpoints,
    snapshot_id: String,
}

/// What went wrong with a checkpoint.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SnapshotError {
    #[error(transparent)]
    Store(#[from] CheckpointError),
    #[error("the checkpoint cannot be read by this version: {0}")]
    Decode(#[from] DecodeError),
    #[error("checkpoint {wanted} is gone: the store holds {found}")]
    Gone { wanted: String, found: String },
    #[error("the checkpoint {snapshot} is older than what is applied here, {applied}")]
    Older { snapshot: String, applied: String },
    #[error("the checkpoint was not finished: its thread ended")]
    Interrupted,
}

// === impl Checkpoints ===

impl Checkpoints {
    /// Reads the newest one of a store, and keeps the store.
    pub(crate) fn open(
        store: CheckpointStore,
    ) -> Result<(Self, Option<(SnapshotMeta, State)>), SnapshotError> {
        let store = Arc::new(store);
        let found = load(&store)?;
        let counters = Counters::default();
        if let Some((at, state, bytes)) = &found {
            counters.newest(at, state.wall_ms, *bytes);
        }
        let newest = found.as_ref().map(|(at, ..)| at.clone());
        let inner = Inner {
            store,
            writing: Mutex::default(),
            newest: Mutex::new(newest),
            counters,
        };
        let found = found.map(|(at, state, _)| (at, state));
        Ok((
            Self {
                inner: Arc::new(inner),
            },
            found,
        ))
    }

    /// Where the newest one stands.
    pub(crate) fn newest(&self) -> Option<SnapshotMeta> {
        self.inner.newest().clone()
    }

    /// What is counted.
    pub(crate) fn counters(&self) -> &Counters {
        &self.inner.counters
    }

    /// By reference.
    pub(crate) fn at(&self, place: &SnapshotMeta) -> CheckpointRef {
        CheckpointRef {
            checkpoints: self.clone(),
            snapshot_id: place.snapshot_id.clone(),
        }
    }

    /// Writes a state, unless there is a newer one. Chunks that are there already are not written again. Blocks.
    pub(crate) fn save(&self, at: &SnapshotMeta, state: &State) -> Result<(), SnapshotError> {
        let _writing = self.inner.writing();
        if self.is_behind_newest(at) {
            return Ok(());
        }
        let started = Instant::now();
        let encoded = convert::encode_checkpoint(state, at)?;
        let chunks = encoded.chunks.iter();
        let bytes = chunks.map(|(_, content)| content.len() as u64).sum();
        self.inner.store.write(&encoded.meta, encoded.chunks)?;
        *self.inner.newest() = Some(at.clone());
        self.counters().newest(at, state.wall_ms, bytes);
        self.counters().took(started.elapsed());
        Ok(())
    }

    /// Prepares for a checkpoint of another node. Blocks.
    pub(crate) fn receive(
        &self,
        meta: bytes::Bytes,
        chunks: Vec<ChunkRef>,
    ) -> Result<Incoming, SnapshotError> {
        Ok(self.inner.store.receive(meta, chunks)?)
    }

    /// Makes a received one the newest, unless there is a newer one. Blocks.
    pub(crate) fn publish(
        &self,
        at: &SnapshotMeta,
        incoming: Incoming,
    ) -> Result<(), SnapshotError> {
        let _writing = self.inner.writing();
        if self.is_behind_newest(at) {
            return Ok(());
        }
        incoming.commit()?;
        *self.inner.newest() = Some(at.clone());
        Ok(())
    }

    /// Holds the one of this place for reading. Blocks.
    pub(crate) fn hold(&self, snapshot_id: &str) -> Result<HeldCheckpoint, SnapshotError> {
        let is_wanted = |meta: &[u8]| {
            convert::read_checkpoint_meta(meta)
                .is_ok_and(|about| about.at.snapshot_id == snapshot_id)
        };
        let held = self.inner.store.hold(is_wanted)?;
        held.ok_or_else(|| SnapshotError::Gone {
            wanted: snapshot_id.to_owned(),
            found: self
                .newest()
                .map_or_else(|| "none".to_owned(), |newest| newest.snapshot_id),
        })
    }

    /// The index up to which nothing needs the log: where the older kept checkpoint stands, or the oldest that is being
    /// sent. `None`: all of it is needed. Blocks.
    pub(crate) fn reach(&self) -> Result<Option<u64>, SnapshotError> {
        let kept = self.inner.store.kept()?;
        if kept.len() < 2 {
            return Ok(None);
        }
        let mut reach = None;
        for meta in kept.iter().chain(&self.inner.store.held()) {
            let about = convert::read_checkpoint_meta(meta)?;
            let Some(id) = about.at.last_log_id else {
                return Ok(None);
            };
            reach = Some(reach.map_or(id.index, |reach: u64| reach.min(id.index)));
        }
        Ok(reach)
    }

    fn is_behind_newest(&self, at: &SnapshotMeta) -> bool {
        let newest = self.inner.newest();
        let newest = newest.as_ref();
        newest.is_some_and(|newest| newest.last_log_id > at.last_log_id)
    }
}

// === impl Inner ===

impl Inner {
    fn newest(&self) -> MutexGuard<'_, Option<SnapshotMeta>> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn writing(&self) -> MutexGuard<'_, ()> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl CheckpointRef ===

impl CheckpointRef {
    /// Which place is meant.
    pub(crate) fn id(&self) -> &str {
        &self.snapshot_id
    }

    /// Reads all of it, for a node that stands at `applied`.
    pub(crate) fn read(
        &self,
        applied: Option<LogId>,
    ) -> Result<(SnapshotMeta, State), SnapshotError> {
        let found = load(&self.checkpoints.inner.store)?;
        let (at, state, bytes) = found.ok_or_else(|| self.gone("none"))?;
        if at.snapshot_id != self.snapshot_id {
            return Err(self.gone(&at.snapshot_id));
        }
        if let Some(applied) = applied.filter(|applied| at.last_log_id < Some(*applied)) {
            return Err(SnapshotError::Older {
                snapshot: self.snapshot_id.clone(),
                applied: applied.to_string(),
            });
        }
        self.checkpoints
            .counters()
            .newest(&at, state.wall_ms, bytes);
        Ok((at, state))
    }

    /// Whether it is among these checkpoints.
    pub(crate) fn is_of(&self, checkpoints: &Checkpoints) -> bool {
        Arc::ptr_eq(&self.checkpoints.inner, &checkpoints.inner)
    }

    fn gone(&self, found: &str) -> SnapshotError {
        SnapshotError::Gone {
            wanted: self.snapshot_id.clone(),
            found: found.to_owned(),
        }
    }
}

impl fmt::Debug for CheckpointRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CheckpointRef")
            .field("snapshot_id", &self.snapshot_id)
            .finish_non_exhaustive()
    }
}

/// Runs work on a thread for blocking work.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, SnapshotError> + Send + 'static,
) -> Result<T, SnapshotError> {
    machine::blocking(work)
        .await
        .unwrap_or(Err(SnapshotError::Interrupted))
}

/// Reads the newest checkpoint of a store, and how many bytes it has.
fn load(store: &CheckpointStore) -> Result<Option<(SnapshotMeta, State, u64)>, SnapshotError> {
    let Some(checkpoint) = store.load()? else {
        return Ok(None);
    };
    let (at, state) = convert::decode_checkpoint(&checkpoint.meta, &checkpoint.chunks)?;
    let chunks = checkpoint.chunks.iter();
    let bytes = chunks.map(|(_, content)| content.len() as u64).sum();
    Ok(Some((at, state, bytes)))
}
