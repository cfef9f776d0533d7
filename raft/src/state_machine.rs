//! The consensus library's state machine, over the shared state and the checkpoint store.
//!
//! The state lives in memory; what is on the disk is a checkpoint and the log behind it. A checkpoint is built
//! from a copy that shares its parts with the state, on a thread for blocking work, so it holds up nothing.
#![expect(clippy::result_large_err, reason = "the error type is the library's")]

use openraft::storage::RaftStateMachine;
use openraft::{AnyError, ErrorVerb, OptionalSend, RaftSnapshotBuilder};

use crate::apply::SharedState;
use crate::checkpoint::{CheckpointRef, Checkpoints, blocking};
use crate::log_store::snapshot_error;
use crate::types::{
    Applied, Entry, LogId, Snapshot, SnapshotMeta, StorageError, StorageIOError, StoredMembership,
    TypeConfig,
};

/// The state machine of this node. Clones share it.
#[derive(Clone)]
pub(crate) struct StateMachine {
    state: SharedState,
    checkpoints: Checkpoints,
}

// === impl StateMachine ===

impl StateMachine {
    /// Over a state that was loaded from the newest of the checkpoints.
    pub(crate) fn new(state: SharedState, checkpoints: Checkpoints) -> Self {
        Self { state, checkpoints }
    }

    fn snapshot(&self, at: SnapshotMeta) -> Snapshot {
        Snapshot {
            snapshot: Box::new(self.checkpoints.at(&at)),
            meta: at,
        }
    }
}

impl RaftSnapshotBuilder<TypeConfig> for StateMachine {
    async fn build_snapshot(&mut self) -> Result<Snapshot, StorageError> {
        let (at, image) = self.state.image();
        let (checkpoints, place) = (self.checkpoints.clone(), at.clone());
        // Where a leader's stands further on meanwhile, that one stays; the library hears of it when it is installed.
        blocking(move || checkpoints.save(&place, &image))
            .await
            .map_err(|e| snapshot_error(ErrorVerb::Write, &e))?;
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
        // Ours are received apart from the library; until then the reference names our own.
        let at = self.checkpoints.newest().unwrap_or_default();
        Ok(Box::new(self.checkpoints.at(&at)))
    }

    async fn install_snapshot(
        &mut self,
        _: &SnapshotMeta,
        snapshot: Box<CheckpointRef>,
    ) -> Result<(), StorageError> {
        let (checkpoints, applied) = (self.checkpoints.clone(), self.state.position().0);
        let (at, state) = blocking(move || {
            let (at, state) = snapshot.read(applied)?;
            // What was received is durable already.
            if !snapshot.is_of(&checkpoints) {
                checkpoints.save(&at, &state)?;
            }
            Ok((at, state))
        })
        .await
        .map_err(|e| snapshot_error(ErrorVerb::Write, &e))?;
        self.state.install(at, state);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, StorageError> {
        Ok(self.checkpoints.newest().map(|at| self.snapshot(at)))
    }
}
