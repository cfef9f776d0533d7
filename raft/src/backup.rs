//! Backups of the replicated state, and new clusters made of them.
//!
//! ```text
//! Handle::backup -> the state at one index, encoded as a checkpoint -> a file elsewhere
//! a file -> Backup::read: every checksum, every record -> Backup::restore -> a data directory: checkpoint, empty log, node.json
//! ```
//!
//! Invariants: what a backup holds of secrets is what a checkpoint holds: hashes, and keys that only the cluster's secret unwraps.
//! A restored directory is of a cluster of one with an id of its own, and counts only when all of it is on the disk. Its log goes on
//! behind the backup's index, in a later term, since incarnations of usage streams are numbered by it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::Path;
use std::sync::{Arc, mpsc};

use bytes::Bytes;
use mode_envoy_model::adopt::{AdoptError, NewCluster};
use mode_envoy_model::batch::{Batch, ChangeSet, Item};
use mode_envoy_model::event::Event;
use mode_envoy_model::restored::{Restored, shown_by};
use mode_envoy_model::state::State;
use mode_envoy_storage::backup::{
    BackupAbout, BackupError, BackupPart, BackupReader, BackupWriter,
};
use mode_envoy_storage::checkpoint::{CheckpointError, CheckpointStore};
use mode_envoy_storage::disk::{Disk, RealDisk};
use mode_envoy_storage::wal::{Position, Wal, WalError, WalOptions};
use openraft::Membership;
use prost::Message as _;

use crate::apply::SharedState;
use crate::cluster::Handle;
use crate::convert::{self, Wire as _};
use crate::data_dir::{DataDirError, NodeRecord, RestoreDir, Stage};
use crate::log_store;
use crate::types::{Member, NodeId, SnapshotMeta, StoredMembership, Vote};

/// Who restores a backup, and when, as the history of the new cluster tells it.
#[derive(Clone, Copy, Debug)]
pub struct RestoredBy<'a> {
    /// Whoever runs the restore: no token's name, since it is made without the cluster.
    pub name: &'a str,
    /// Unix milliseconds.
    pub now_ms: u64,
}

/// A backup is read in pieces of this size.
const PIECE_BYTES: usize = 1 << 20;

/// A backup that was read to its end and holds together.
#[derive(Debug)]
pub struct Backup {
    about: BackupAbout,
    at: SnapshotMeta,
    state: State,
}

/// Why there is no backup.
#[derive(Debug, thiserror::Error)]
pub enum MakeBackupError {
    /// The state could not be encoded, or an entry of the log could not be applied.
    #[error("making a backup of the state at index {index}: {reason}")]
    State {
        /// Where the state stands.
        index: u64,
        /// What is wrong.
        reason: String,
    },
    /// It is too large.
    #[error("making a backup")]
    File(#[from] BackupError),
    /// The node is ending.
    #[error("the backup was not finished: this node is ending")]
    Interrupted,
}

/// Why a backup cannot be read or restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// Reading failed.
    #[error("reading the backup")]
    Read(#[source] std::io::Error),
    /// The file is no whole backup.
    #[error(transparent)]
    File(#[from] BackupError),
    /// What it holds is not a state.
    #[error("its content is not a state that this build can restore: {0}")]
    State(String),
    /// The cluster had not been founded.
    #[error("it is of a cluster that was not founded yet; there is nothing in it to restore")]
    NotFounded,
    /// The id cannot be used.
    #[error(transparent)]
    Id(#[from] AdoptError),
    /// The directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The checkpoint could not be written.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The log could not be begun.
    #[error(transparent)]
    Log(#[from] WalError),
}

// === impl Handle ===

impl Handle {
    /// A backup of the state as applied here. With `local` it also has what this node's log holds beyond that, since a cluster that
    /// lost its quorum may have acknowledged it. `made_ms` is now, in Unix milliseconds.
    ///
    /// # Errors
    /// [`MakeBackupError`].
    pub async fn backup(&self, local: bool, made_ms: u64) -> Result<BackupWriter, MakeBackupError> {
        let handle = self.clone();
        tokio::task::spawn_blocking(move || handle.make_backup(local, made_ms))
            .await
            .unwrap_or(Err(MakeBackupError::Interrupted))
    }

    fn make_backup(&self, local: bool, made_ms: u64) -> Result<BackupWriter, MakeBackupError> {
        let (at, state) = self.state().image();
        let applied = at.last_log_id.map_or(0, |id| id.index);
        let (at, state) = if local {
            self.with_the_rest_of_the_log(at, state)?
        } else {
            (at, state)
        };
        let index = at.last_log_id.map_or(0, |id| id.index);
        let failed = |reason: String| MakeBackupError::State { index, reason };
        let encoded = convert::encode_checkpoint(&state, &at).map_err(|e| failed(e.to_string()))?;
        let about = BackupAbout {
            cluster_id: self.cluster_id(),
            node_id: self.node_id(),
            applied_index: index,
            revision: state.catalog.revision(),
            wall_ms: state.wall_ms,
            made_ms,
            unconfirmed: index.saturating_sub(applied),
            chunks: 0,
            local,
        };
        Ok(BackupWriter::new(about, encoded.meta, encoded.chunks)?)
    }

    /// Applies to a copy what stands in this node's log behind it. One read, so that all of it is of one history.
    fn with_the_rest_of_the_log(
        &self,
        at: SnapshotMeta,
        state: State,
    ) -> Result<(SnapshotMeta, State), MakeBackupError> {
        let copy = SharedState::new(Some((at, state)));
        let from = copy.applied_index().saturating_add(1);
        let failed = |index, reason| MakeBackupError::State { index, reason };
        let entries = log_store::read_from(self.wal(), from);
        for entry in entries.map_err(|error| failed(from, error.to_string()))? {
            let index = entry.log_id.index;
            copy.apply(entry)
                .map_err(|error| failed(index, error.to_string()))?;
        }
        Ok(copy.image())
    }
}

// === impl Backup ===

impl Backup {
    /// Reads a backup to its end and puts its state together, which checks the chain of hashes of its history as well.
    ///
    /// # Errors
    /// [`RestoreError`], which does not name the file.
    pub fn read(mut file: impl Read) -> Result<Self, RestoreError> {
        let mut reader = BackupReader::new();
        let (mut meta, mut chunks) = (Bytes::new(), Vec::new());
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            let len = match file.read(&mut piece) {
                Ok(0) => break,
                Ok(len) => len,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(RestoreError::Read(error)),
            };
            reader.push(&piece[..len], |part| match part {
                BackupPart::About(_) | BackupPart::End => {}
                BackupPart::Meta(bytes) => meta = bytes,
                BackupPart::Chunk(name, content) => chunks.push((name, content)),
            })?;
        }
        let about = reader.finish()?;
        let decoded = convert::decode_checkpoint(&meta, &chunks);
        let (at, state) = decoded.map_err(|error| RestoreError::State(error.to_string()))?;
        let founded = state.catalog.founded().map(|founded| founded.cluster_id);
        let agree = at.last_log_id.map_or(0, |id| id.index) == about.applied_index
            && state.catalog.revision() == about.revision;
        match founded {
            None => Err(RestoreError::NotFounded),
            Some(cluster_id) if agree && cluster_id == about.cluster_id => {
                Ok(Self { about, at, state })
            }
            Some(_) => Err(RestoreError::State(
                "its header and its content contradict each other".to_owned(),
            )),
        }
    }

    /// What its header says.
    pub const fn about(&self) -> &BackupAbout {
        &self.about
    }

    /// The state in it.
    pub const fn state(&self) -> &State {
        &self.state
    }

    /// The members of the cluster, by its membership.
    pub fn members(&self) -> BTreeSet<NodeId> {
        let nodes = self.at.last_membership.nodes();
        nodes.map(|(id, _)| *id).collect()
    }

    /// The smallest id that was never used.
    pub fn next_node_id(&self) -> NodeId {
        let largest = self.state.largest_node_id(&self.members());
        largest.saturating_add(1)
    }

    /// Makes a data directory of it: the only node of a new cluster, whose first change says so. Whether the derived root token
    /// is one of the cluster.
    ///
    /// # Errors
    /// [`RestoreError`]. Nothing was written, or the directory says that it is not whole.
    pub fn restore(
        mut self,
        dir: &Path,
        new: &NewCluster,
        by: RestoredBy<'_>,
    ) -> Result<bool, RestoreError> {
        let has_root = self.state.adopt(new)?;
        self.record_restore(new, by);
        let dir = RestoreDir::begin(dir)?;
        let (cluster_id, node_id) = (new.founded.cluster_id, new.node);
        let at = self.place(node_id);
        let disk: Arc<dyn Disk> = Arc::new(RealDisk);
        let encoded = convert::encode_checkpoint(&self.state, &at);
        let encoded = encoded.map_err(|error| RestoreError::State(error.to_string()))?;
        let store =
            CheckpointStore::open(Arc::clone(&disk), dir.checkpoint_dir(), cluster_id, node_id)?;
        store.write(&encoded.meta, encoded.chunks)?;
        begin_log(
            disk,
            WalOptions::new(dir.wal_dir(), cluster_id, node_id),
            &at,
        )?;
        dir.complete(&NodeRecord {
            node_id,
            stage: Stage::Member {
                cluster_id,
                log_started: true,
            },
            initial_cluster: BTreeMap::new(),
            joining: false,
            removed: false,
        })?;
        Ok(has_root)
    }

    /// The chain of the history goes on through a record of the restore. It stands where the backup does, since the new cluster's log
    /// begins behind it.
    fn record_restore(&mut self, new: &NewCluster, by: RestoredBy<'_>) {
        let restored = Restored {
            cluster_id: new.founded.cluster_id,
            from_cluster_id: self.about.cluster_id,
            from_revision: self.about.revision,
            from_index: self.about.applied_index,
            node: new.node,
        };
        let set = ChangeSet {
            base_revision: self.state.catalog.revision(),
            actor: shown_by(by.name),
            origin: restored.origin(),
            events: vec![Event::Restored(restored)],
            ..ChangeSet::default()
        };
        let encoded = set.to_wire().encode_to_vec();
        let batch = Batch {
            lease_clock_ms: self.state.lease_clock_ms,
            wall_ms: by.now_ms,
            items: vec![Item::ChangeSet(ChangeSet {
                encoded: encoded.into(),
                ..set
            })],
        };
        self.state.apply(self.about.applied_index, &batch);
    }

    /// Where the state stands, with one member. Its address is not known before it serves, and is put into the log then.
    fn place(&self, node_id: NodeId) -> SnapshotMeta {
        let members = BTreeMap::from([(node_id, Member::default())]);
        let membership = Membership::new(vec![BTreeSet::from([node_id])], members);
        let membership = StoredMembership::new(self.at.last_log_id, membership);
        convert::snapshot_meta(self.at.last_log_id, membership)
    }
}

/// A log that goes on behind a checkpoint, in a later term than any that the checkpoint knows of.
fn begin_log(disk: Arc<dyn Disk>, options: WalOptions, at: &SnapshotMeta) -> Result<(), WalError> {
    let node_id = options.node_id;
    let (wal, _) = Wal::open(disk, options)?;
    let term = at.last_log_id.map_or(0, |id| id.leader_id.term);
    let vote = Vote::new(term.saturating_add(1), node_id);
    durable(|done| wal.save_vote(convert::encode_vote(vote), done))?;
    if let Some(id) = at.last_log_id {
        let upto = Position {
            term: id.leader_id.term,
            index: id.index,
        };
        durable(|done| wal.purge(upto, convert::encode_log_id(id), done))?;
    }
    wal.close();
    Ok(())
}

/// Asks the log for something and waits until it is on the disk.
fn durable(ask: impl FnOnce(mode_envoy_storage::wal::Done)) -> Result<(), WalError> {
    let (sender, done) = mpsc::channel();
    // The receiver waits below.
    ask(Box::new(move |result| drop(sender.send(result))));
    done.recv().unwrap_or(Err(WalError::Closed))
}
