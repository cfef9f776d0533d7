//! The consensus library's own storage suite, and what it does not check: restarts and bounds.

use std::sync::Arc;

use bytes::Bytes;
use mode_envoy_storage::checkpoint::CheckpointStore;
use mode_envoy_storage::disk::RealDisk;
use mode_envoy_storage::wal::WalOptions;
use openraft::storage::RaftLogStorageExt as _;
use openraft::testing::{StoreBuilder, Suite};
use openraft::{CommittedLeaderId, EntryPayload};
use tempfile::TempDir;

use super::*;
use crate::apply::SharedState;
use crate::checkpoint::Checkpoints;
use crate::state_machine::StateMachine;
use crate::types::Payload;

const CLUSTER: [u8; 16] = [7; 16];

struct Builder;

impl StoreBuilder<TypeConfig, LogStore, StateMachine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, LogStore, StateMachine), StorageError> {
        let dir = tempfile::tempdir().unwrap();
        let (log, machine) = open(&dir);
        Ok((dir, log, machine))
    }
}

fn open(dir: &TempDir) -> (LogStore, StateMachine) {
    let mut options = WalOptions::new(dir.path().join("wal"), CLUSTER, 1);
    options.segment_bytes = 64 * 1024;
    let (wal, recovered) = Wal::open(Arc::new(RealDisk), options).unwrap();
    let log = LogStore::new(wal, &recovered).unwrap();
    let checkpoints = dir.path().join("checkpoint");
    let store = CheckpointStore::open(Arc::new(RealDisk), checkpoints, CLUSTER, 1).unwrap();
    let (checkpoints, found) = Checkpoints::open(store).unwrap();
    (log, StateMachine::new(SharedState::new(found), checkpoints))
}

fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(term, 1), index)
}

fn entry_of(index: u64, bytes: usize) -> Entry {
    let payload = EntryPayload::Normal(Payload(Bytes::from(vec![b'x'; bytes])));
    Entry {
        log_id: log_id(1, index),
        payload,
    }
}

#[test]
fn the_librarys_storage_suite_passes() {
    Suite::test_all(Builder).unwrap();
}

#[tokio::test]
async fn a_read_for_replication_is_bounded_in_bytes_and_never_empty() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = open(&dir);
    let entries: Vec<_> = (1..=4).map(|index| entry_of(index, 600 * 1024)).collect();
    log.blocking_append(entries).await.unwrap();
    log.blocking_append([entry_of(5, 3 << 20)]).await.unwrap();
    let mut reader = log.get_log_reader().await;
    let read = |entries: Vec<Entry>| entries.iter().map(|e| e.log_id.index).collect::<Vec<_>>();
    assert_eq!(
        read(reader.limited_get_log_entries(1, 6).await.unwrap()),
        [1]
    );
    assert_eq!(
        read(reader.limited_get_log_entries(5, 6).await.unwrap()),
        [5]
    );
    assert_eq!(
        read(reader.try_get_log_entries(2..=4).await.unwrap()),
        [2, 3, 4]
    );
}

#[tokio::test]
async fn a_restart_keeps_log_and_committed_and_demotes_the_vote_once() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, machine) = open(&dir);
    log.save_vote(&Vote::new_committed(3, 1)).await.unwrap();
    log.blocking_append((1..=3).map(|index| entry_of(index, 10)))
        .await
        .unwrap();
    log.save_committed(Some(log_id(1, 2))).await.unwrap();
    log.blocking_append([entry_of(4, 10)]).await.unwrap();
    drop((log, machine));

    let (mut log, _machine) = open(&dir);
    assert_eq!(log.read_vote().await.unwrap(), Some(Vote::new(3, 1)));
    assert_eq!(log.read_committed().await.unwrap(), Some(log_id(1, 2)));
    let state = log.get_log_state().await.unwrap();
    assert_eq!(
        (state.last_purged_log_id, state.last_log_id),
        (None, Some(log_id(1, 4)))
    );
    assert_eq!(log.try_get_log_entries(1..5).await.unwrap().len(), 4);
    log.save_vote(&Vote::new_committed(4, 1)).await.unwrap();
    assert_eq!(
        log.read_vote().await.unwrap(),
        Some(Vote::new_committed(4, 1))
    );
}

#[tokio::test]
async fn a_purge_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, machine) = open(&dir);
    log.blocking_append((1..=3).map(|index| entry_of(index, 10)))
        .await
        .unwrap();
    log.purge(log_id(1, 3)).await.unwrap();
    drop((log, machine));
    let (mut log, _machine) = open(&dir);
    let state = log.get_log_state().await.unwrap();
    assert_eq!(state.last_purged_log_id, Some(log_id(1, 3)));
    assert_eq!(state.last_log_id, Some(log_id(1, 3)));
}
