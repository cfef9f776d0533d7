//! What is on the disk, put together: the newest checkpoint that is intact, and the log behind it.
//!
//! Invariant: a node starts only if its log goes on from its checkpoint without a gap, and as the checkpoint has it.

use std::sync::{Arc, mpsc};

use mode_envoy_storage::checkpoint::CheckpointStore;
use mode_envoy_storage::disk::Disk;
use mode_envoy_storage::wal::{Recovered, Wal, WalError, WalOptions};

use super::StartError;
use crate::apply::SharedState;
use crate::checkpoint::{Checkpoints, SnapshotError};
use crate::data_dir::DataDir;
use crate::formation::Formed;
use crate::log_store::LogStore;
use crate::state_machine::StateMachine;
use crate::types::{LogId, NodeId};

/// What was on the disk.
pub(super) struct Opened {
    pub(super) wal: Wal,
    pub(super) log: LogStore,
    pub(super) state: SharedState,
    pub(super) checkpoints: Checkpoints,
    pub(super) machine: StateMachine,
}

/// Opens log and checkpoint and puts the state together.
pub(super) fn open(
    disk: Arc<dyn Disk>,
    open_wal: impl FnOnce(Arc<dyn Disk>, WalOptions) -> Result<(Wal, Recovered), WalError>,
    node_id: NodeId,
    segment_bytes: u64,
    data_dir: &DataDir,
    formed: &Formed,
) -> Result<Opened, StartError> {
    let cluster_id = formed.cluster_id;
    let dir = data_dir.checkpoint_dir();
    let store = CheckpointStore::open(Arc::clone(&disk), dir.clone(), cluster_id, node_id)?;
    let (checkpoints, found) = Checkpoints::open(store).map_err(|error| match error {
        SnapshotError::Store(error) => StartError::Checkpoint(error),
        other => StartError::Unreadable {
            what: "the checkpoint",
            path: dir,
            reason: other.to_string(),
        },
    })?;
    let dir = data_dir.wal_dir();
    let mut options = WalOptions::new(dir.clone(), cluster_id, node_id);
    options.segment_bytes = segment_bytes;
    let (wal, recovered) = open_wal(disk, options)?;
    let empty = recovered.vote.is_none() && recovered.last.is_none();
    if empty && (formed.log_expected || found.is_some()) {
        return Err(StartError::LogLost {
            path: data_dir.path().to_owned(),
            node_id,
        });
    }
    let at = found.as_ref().and_then(|(at, _)| at.last_log_id);
    check_reach(node_id, data_dir, &recovered, at)?;
    if let Some(at) = at {
        settle(&wal, at)?;
    }
    let log = LogStore::new(wal.clone(), &recovered).map_err(|error| StartError::Unreadable {
        what: "the log",
        path: dir,
        reason: error.to_string(),
    })?;
    let state = SharedState::new(found);
    let machine = StateMachine::new(state.clone(), checkpoints.clone());
    Ok(Opened {
        wal,
        log,
        state,
        checkpoints,
        machine,
    })
}

/// The log must reach back to the checkpoint.
fn check_reach(
    node_id: NodeId,
    data_dir: &DataDir,
    log: &Recovered,
    checkpoint: Option<LogId>,
) -> Result<(), StartError> {
    let (checkpoint, purged) = (
        checkpoint.map_or(0, |id| id.index),
        log.purged.map_or(0, |purged| purged.index),
    );
    if checkpoint >= purged {
        return Ok(());
    }
    Err(StartError::CheckpointLost {
        path: data_dir.checkpoint_dir(),
        checkpoint,
        purged,
        node_id,
    })
}

/// A leader's checkpoint is durable before consensus lets go of what the log held in its place. If the process ended in
/// between, entries of another leader may stand there, which were never committed; they go now.
fn settle(wal: &Wal, at: LogId) -> Result<(), StartError> {
    let there = wal.read(at.index, at.index.saturating_add(1), usize::MAX)?;
    let differs = there
        .first()
        .is_some_and(|record| record.position.term != at.leader_id.term);
    let Some(first) = wal.first_index().filter(|_| differs) else {
        return Ok(());
    };
    let (sender, done) = mpsc::channel();
    // The receiver waits below.
    wal.truncate(first, Box::new(move |result| drop(sender.send(result))));
    done.recv().unwrap_or(Err(WalError::Closed))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use mode_envoy_storage::disk::RealDisk;
    use mode_envoy_storage::wal::{Position, Record};
    use openraft::CommittedLeaderId;

    use super::*;

    #[test]
    fn what_a_checkpoint_contradicts_leaves_the_log() {
        for (term, index, last) in [(2, 3, Some(5)), (3, 3, None), (3, 9, Some(5))] {
            let dir = tempfile::tempdir().unwrap();
            let options = WalOptions::new(dir.path(), [1; 16], 1);
            let (wal, _) = Wal::open(Arc::new(RealDisk), options).unwrap();
            let records = (1..=5).map(|index| Record {
                position: Position { term: 2, index },
                payload: Bytes::from_static(b"x"),
            });
            wal.append(records.collect(), Box::new(drop));
            let at = LogId::new(CommittedLeaderId::new(term, 1), index);
            settle(&wal, at).unwrap();
            let found = wal.last().map(|last| last.index);
            assert_eq!(found, last, "a checkpoint at {at}");
        }
    }
}
