//! A node's data directory: whose it is, and how far the node has come in its cluster's first formation.
//!
//! ```text
//! Fresh --begin_forming(cluster id)--> Forming --become_member--> Member --confirm_log--> Member, log started
//! none  --JoinDir::complete(id, secret)----------------------------^ joining --caught_up--> no more
//! none  --RestoreDir::begin .. complete(id)----------------------------------^
//! Member --removed--> never starts again
//! ```
//!
//! Invariants:
//! * One process at a time: the lock file is held until the last clone is dropped.
//! * `node.json` is replaced whole and is durable before a step's function returns; a step never goes back, and no step changes
//!   the node id or the cluster id.
//! * A directory of another node, of another cluster or of a newer format is refused by name and left as it is.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use thiserror::Error;
use tokio::sync::watch;

use self::record::{FORMAT, NODE_FILE, read_record, write_record};
use crate::identity::{ClusterId, cluster_hex};
use crate::secret::SecretError;

mod joining;
mod record;
mod restoring;

pub(crate) use self::joining::JoinDir;
pub use self::record::{NodeRecord, Stage};
pub(crate) use self::restoring::RestoreDir;

const LOCK_FILE: &str = "lock";
const WAL_DIR: &str = "wal";
const CHECKPOINT_DIR: &str = "checkpoint";
/// The cluster secret that a node got when it joined.
const SECRET_FILE: &str = "cluster.secret";

/// An open data directory, locked. A cheap clone of the same.
#[derive(Clone, Debug)]
pub struct DataDir {
    inner: Arc<Inner>,
}

/// Why a data directory cannot be used.
#[derive(Debug, Error)]
pub enum DataDirError {
    /// A file operation failed.
    #[error("cannot {doing} {path}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process holds it.
    #[error("another process uses the data directory {path}; each node needs one of its own")]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// It is another node's.
    #[error(
        "the data directory {path} belongs to node {owner}, not to node {node_id}; start node {owner} with it, or give node {node_id} another"
    )]
    OtherNode {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        owner: u64,
        /// Who wanted it.
        node_id: u64,
    },
    /// A newer build has written it.
    #[error(
        "the {NODE_FILE} of the data directory {path} has format {format}, this build reads up to {FORMAT}; start it with the newer mode-envoy that wrote it"
    )]
    NewerFormat {
        /// The directory.
        path: PathBuf,
        /// Its format.
        format: u32,
    },
    /// `node.json` cannot be understood.
    #[error(
        "{path} cannot be read: {reason}; restore that file, or replace the node with one of a new id and an empty directory"
    )]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// There is a log, but nothing that says whose.
    #[error(
        "the data directory {path} holds a log but no {NODE_FILE}; restore that file, or replace the node with one of a new id and an empty directory"
    )]
    LostRecord {
        /// The directory.
        path: PathBuf,
    },
    /// It is of another cluster.
    #[error(
        "the data directory {path} belongs to cluster {}, not to {}",
        cluster_hex(.owner), cluster_hex(.wanted)
    )]
    OtherCluster {
        /// The directory.
        path: PathBuf,
        /// Its cluster.
        owner: ClusterId,
        /// The cluster that wanted it.
        wanted: ClusterId,
    },
    /// The cluster removed this node.
    #[error(
        "node {node_id}, whose data directory {path} is, was removed from cluster {}; its id is never used again: to \
         have this machine back in the cluster, start it with an empty directory, --join and a token of `mode-envoy \
         cluster add-node`",
        cluster_hex(.cluster_id)
    )]
    Removed {
        /// The directory.
        path: PathBuf,
        /// The node.
        node_id: u64,
        /// The cluster.
        cluster_id: ClusterId,
    },
    /// It is not one that a node could join with.
    #[error(
        "the data directory {path} has begun to form a cluster of its own, so a node cannot join with it; give --data-dir an \
         empty one"
    )]
    NotEmpty {
        /// The directory.
        path: PathBuf,
    },
    /// A backup was being restored into it.
    #[error(
        "a backup was being restored into {path}, and that was cut short: run `mode-envoy cluster restore` with it again; nothing \
         of it counts until that has ended"
    )]
    HalfRestored {
        /// The directory.
        path: PathBuf,
    },
    /// It is not one that a backup could be restored into.
    #[error(
        "the data directory {path} holds {found}; a backup is restored into an empty directory: give --data-dir another"
    )]
    NotForRestoring {
        /// The directory.
        path: PathBuf,
        /// What is in it.
        found: String,
    },
    /// The system gave no random bytes.
    #[error("the system's random number generator failed; nothing was written to {path}")]
    Random {
        /// The directory.
        path: PathBuf,
    },
    /// The secret could not be kept.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// A step was taken before the one that precedes it.
    #[error("the data directory {path} has no cluster yet")]
    NoCluster {
        /// The directory.
        path: PathBuf,
    },
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    record: watch::Sender<NodeRecord>,
    /// Held while a step is taken, so that steps are one after the other.
    steps: Mutex<()>,
    /// The lock is the open file's; it goes with it.
    _lock: File,
}

// === impl DataDir ===

impl DataDir {
    /// Opens and locks a node's directory; makes it (0700) where there is none.
    ///
    /// # Errors
    /// [`DataDirError`], which says whose the directory is where it is not this node's.
    pub fn open(path: &Path, node_id: u64) -> Result<Self, DataDirError> {
        let failed = |doing| io_error(doing, path);
        create(path)?;
        let lock = lock(path)?;
        restoring::not_cut_short(path)?;
        let record = match read_record(path)? {
            Some(record) if record.node_id != node_id => {
                return Err(DataDirError::OtherNode {
                    path: path.to_owned(),
                    owner: record.node_id,
                    node_id,
                });
            }
            Some(record) => not_removed(path, record)?,
            None if path
                .join(WAL_DIR)
                .try_exists()
                .map_err(failed("look into"))? =>
            {
                return Err(DataDirError::LostRecord {
                    path: path.to_owned(),
                });
            }
            None => {
                let record = NodeRecord {
                    node_id,
                    stage: Stage::Fresh,
                    initial_cluster: BTreeMap::new(),
                    joining: false,
                    removed: false,
                };
                write_record(path, &record)?;
                record
            }
        };
        Ok(Self {
            inner: Arc::new(Inner {
                path: path.to_owned(),
                record: watch::Sender::new(record),
                steps: Mutex::new(()),
                _lock: lock,
            }),
        })
    }

    /// What a directory says of its node, without opening it; `None` where there is no node's directory yet.
    ///
    /// # Errors
    /// [`DataDirError`], where there is one and it cannot be understood.
    pub fn peek(path: &Path) -> Result<Option<NodeRecord>, DataDirError> {
        restoring::not_cut_short(path)?;
        read_record(path)
    }

    /// Where a node keeps the cluster secret that it got when it joined.
    pub fn secret_file(path: &Path) -> PathBuf {
        path.join(SECRET_FILE)
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// Where the write-ahead log is. Only a node with a cluster may create it.
    pub fn wal_dir(&self) -> PathBuf {
        self.inner.path.join(WAL_DIR)
    }

    /// Where the checkpoints are.
    pub fn checkpoint_dir(&self) -> PathBuf {
        self.inner.path.join(CHECKPOINT_DIR)
    }

    /// What is on disk now.
    pub fn record(&self) -> NodeRecord {
        self.inner.record.borrow().clone()
    }

    /// Says when the record changes.
    pub(crate) fn watch(&self) -> watch::Receiver<NodeRecord> {
        self.inner.record.subscribe()
    }

    /// Binds the directory to a cluster that is being formed. Nothing changes where it is bound to that cluster already.
    ///
    /// # Errors
    /// [`DataDirError::OtherCluster`], or a failure to write.
    pub(crate) fn begin_forming(
        &self,
        cluster_id: ClusterId,
        members: &BTreeMap<u64, String>,
    ) -> Result<(), DataDirError> {
        self.step(|record| match record.cluster_id() {
            None => {
                record.stage = Stage::Forming { cluster_id };
                record.initial_cluster.clone_from(members);
                Ok(())
            }
            Some(owner) if owner == cluster_id => Ok(()),
            Some(owner) => Err(DataDirError::OtherCluster {
                path: self.inner.path.clone(),
                owner,
                wanted: cluster_id,
            }),
        })
    }

    /// Records that the cluster exists.
    ///
    /// # Errors
    /// [`DataDirError::NoCluster`], or a failure to write.
    pub(crate) fn become_member(&self) -> Result<(), DataDirError> {
        self.step(|record| {
            let cluster_id = self.cluster_of(record)?;
            if let Stage::Forming { .. } = record.stage {
                record.stage = Stage::Member {
                    cluster_id,
                    log_started: false,
                };
            }
            Ok(())
        })
    }

    /// Records that this node's log holds a membership: the node is a member, and its log is expected to be there from now on.
    ///
    /// # Errors
    /// [`DataDirError::NoCluster`], or a failure to write.
    pub fn confirm_log(&self) -> Result<(), DataDirError> {
        self.step(|record| {
            let cluster_id = self.cluster_of(record)?;
            record.stage = Stage::Member {
                cluster_id,
                log_started: true,
            };
            Ok(())
        })
    }

    /// Records that a node which joined has caught up with the cluster.
    ///
    /// # Errors
    /// A failure to write.
    pub(crate) fn caught_up(&self) -> Result<(), DataDirError> {
        self.step(|record| {
            record.joining = false;
            Ok(())
        })
    }

    /// Records that the cluster removed this node: it never starts again.
    ///
    /// # Errors
    /// A failure to write.
    pub(crate) fn mark_removed(&self) -> Result<(), DataDirError> {
        self.step(|record| {
            record.removed = true;
            Ok(())
        })
    }

    fn cluster_of(&self, record: &NodeRecord) -> Result<ClusterId, DataDirError> {
        record.cluster_id().ok_or_else(|| DataDirError::NoCluster {
            path: self.inner.path.clone(),
        })
    }

    /// Changes the record on disk, then in memory; neither where nothing changes.
    fn step(
        &self,
        change: impl FnOnce(&mut NodeRecord) -> Result<(), DataDirError>,
    ) -> Result<(), DataDirError> {
        let _one_at_a_time = self
            .inner
            .steps
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let before = self.record();
        let mut after = before.clone();
        change(&mut after)?;
        if after != before {
            write_record(&self.inner.path, &after)?;
            self.inner.record.send_replace(after);
        }
        Ok(())
    }
}

/// Makes the directory (0700) where there is none.
fn create(path: &Path) -> Result<(), DataDirError> {
    if path.is_dir() {
        return Ok(());
    }
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(io_error("create", path))?;
    // The new directory's name is durable before anything inside of it is.
    match path.parent().filter(|p| !p.as_os_str().is_empty()) {
        Some(parent) => sync_dir(parent),
        None => Ok(()),
    }
}

fn not_removed(path: &Path, record: NodeRecord) -> Result<NodeRecord, DataDirError> {
    match record.cluster_id() {
        Some(cluster_id) if record.removed => Err(DataDirError::Removed {
            path: path.to_owned(),
            node_id: record.node_id,
            cluster_id,
        }),
        _ => Ok(record),
    }
}

fn lock(dir: &Path) -> Result<File, DataDirError> {
    let path = dir.join(LOCK_FILE);
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(io_error("open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(DataDirError::InUse {
            path: dir.to_owned(),
        }),
        Err(TryLockError::Error(source)) => Err(io_error("lock", &path)(source)),
    }
}

fn sync_dir(dir: &Path) -> Result<(), DataDirError> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(io_error("sync", dir))
}

fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DataDirError {
    let path = path.to_owned();
    move |source| DataDirError::Io {
        doing,
        path,
        source,
    }
}

#[cfg(test)]
mod data_dir_test;
