//! The state at one place of the log, on this node's disk: what the consensus library calls a snapshot.
//!
//! A [`CheckpointRef`] holds no state. It says which place is meant, and reading fails if the store has moved on.

use std::fmt;
use std::sync::Arc;

use mode_envoy_model::state::State;
use mode_envoy_storage::checkpoint::{CheckpointError, CheckpointStore};

use crate::convert::{self, DecodeError};
use crate::types::SnapshotMeta;

/// A checkpoint in a store, by reference.
#[derive(Clone)]
pub(crate) struct CheckpointRef {
    store: Arc<CheckpointStore>,
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
    #[error("the checkpoint was not finished: its thread ended")]
    Interrupted,
}

// === impl CheckpointRef ===

impl CheckpointRef {
    /// The checkpoint that stands in a store.
    pub(crate) fn new(store: Arc<CheckpointStore>, at: &SnapshotMeta) -> Self {
        Self {
            store,
            snapshot_id: at.snapshot_id.clone(),
        }
    }

    /// Reads all of it.
    pub(crate) fn read(&self) -> Result<(SnapshotMeta, State), SnapshotError> {
        let found = load(&self.store)?;
        let (at, state) = found.ok_or_else(|| self.gone("none"))?;
        if at.snapshot_id != self.snapshot_id {
            return Err(self.gone(&at.snapshot_id));
        }
        Ok((at, state))
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

/// Reads the newest checkpoint of a store.
pub(crate) fn load(
    store: &CheckpointStore,
) -> Result<Option<(SnapshotMeta, State)>, SnapshotError> {
    let Some(checkpoint) = store.load()? else {
        return Ok(None);
    };
    Ok(Some(convert::decode_checkpoint(
        &checkpoint.meta,
        &checkpoint.chunks,
    )?))
}

/// Writes a state to a store; chunks that are there already are not written again.
pub(crate) fn save(
    store: &CheckpointStore,
    at: &SnapshotMeta,
    state: &State,
) -> Result<(), SnapshotError> {
    let encoded = convert::encode_checkpoint(state, at)?;
    store.write(&encoded.meta, encoded.chunks)?;
    Ok(())
}
