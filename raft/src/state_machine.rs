//! The consensus library's state machine, over the shared state and the checkpoint store.
//!
//! The state lives in memory; what is on the disk is a checkpoint and the log behind it. A checkpoint is built
//! from a copy that shares its parts with the state, on a thread for blocking work, so it holds up nothing.
#![expect(clippy::result_large_err, reason = "the error type is the library's")]

use std::sync::{Arc, Mutex, PoisonError};

use mode_envoy_storage::checkpoint::CheckpointStore;
use openraft::storage::RaftStateMachine;
use openraft::{AnyError, ErrorVerb, OptionalSend, RaftSnapshotBuilder};

use crate::apply::SharedState;
use crate::checkpoint::{self, CheckpointRef, SnapshotError};
use crate::log_store::snapshot_error;
use crate::machine;
use crate::types::{
    Applied, Entry, LogId, Snapshot, SnapshotMeta, StorageError, StorageIOError, StoredMembership,
    TypeConfig,
};

/// The state machine of this node. Clones share it.
#[derive(Clone)]
pub(crate) struct StateMachine {
    state: SharedState,
    store: Arc<CheckpointStore>,
    current: Arc<Mutex<Option<SnapshotMeta>>>,
}

// === impl StateMachine ===

impl StateMachine {
    /// Over a state that was loaded from `current`, the newest checkpoint of the store.
    pub(crate) fn new(
        state: SharedState,
        store: Arc<CheckpointStore>,
        current: Option<SnapshotMeta>,
    ) -> Self {
        Self {
            state,
            store,
            current: Arc::new(Mutex::new(current)),
        }
    }

    fn current(&self) -> Option<SnapshotMeta> {
        self.current
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn set_current(&self, at: SnapshotMeta) {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Some(at);
    }

    fn snapshot(&self, at: SnapshotMeta) -> Snapshot {
        let reference = CheckpointRef::new(Arc::clone(&self.store), &at);
        Snapshot {
            meta: at,
            snapshot: Box::new(reference),
        }
    }
}

impl RaftSnapshotBuilder<TypeConfig> for StateMachine {
    async fn build_snapshot(&mut self) -> Result<Snapshot, StorageError> {
        let (at, image) = self.state.image();
        let (store, place) = (Arc::clone(&self.store), at.clone());
        blocking(move || checkpoint::save(&store, &place, &image))
            .await
            .map_err(|e| snapshot_error(ErrorVerb::Write, &e))?;
        self.set_current(at.clone());
        Ok(self.snapshot(at))
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), StorageError> {
        Ok(self.state.position())
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Applied>, StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        entries
            .into_iter()
            .map(|entry| {
                let id = entry.log_id;
                self.state
                    .apply(entry)
                    .map_err(|e| StorageIOError::apply(id, AnyError::new(&e)).into())
            })
            .collect()
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<CheckpointRef>, StorageError> {
        // A received checkpoint takes the place of this reference; until then it names our own.
        let at = self.current().unwrap_or_default();
        Ok(Box::new(CheckpointRef::new(Arc::clone(&self.store), &at)))
    }

    async fn install_snapshot(
        &mut self,
        _: &SnapshotMeta,
        snapshot: Box<CheckpointRef>,
    ) -> Result<(), StorageError> {
        let store = Arc::clone(&self.store);
        let (at, state) = blocking(move || {
            let (at, state) = snapshot.read()?;
            checkpoint::save(&store, &at, &state)?;
            Ok((at, state))
        })
        .await
        .map_err(|e| snapshot_error(ErrorVerb::Write, &e))?;
        self.state.install(at.clone(), state);
        self.set_current(at);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, StorageError> {
        Ok(self.current().map(|at| self.snapshot(at)))
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, SnapshotError> + Send + 'static,
) -> Result<T, SnapshotError> {
    machine::blocking(work)
        .await
        .unwrap_or(Err(SnapshotError::Interrupted))
}
