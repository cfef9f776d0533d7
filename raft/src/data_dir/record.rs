//! `node.json`: what a data directory says about its node.
//!
//! Invariants: the file is replaced whole, and is durable when [`write_record`] returns. A file that cannot be understood to the
//! last field is refused, never taken for that of a fresh node; so is one that was changed since, which its checksum tells:
//! another digit would make it another node's.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{DataDirError, io_error, sync_dir};
use crate::identity::{ClusterId, cluster_hex, parse_cluster_hex};

/// The format that this build writes, and the newest that it reads. Those before had no checksum.
pub(super) const FORMAT: u32 = 3;
pub(super) const NODE_FILE: &str = "node.json";
const NODE_FILE_TEMPORARY: &str = "node.json.tmp";
/// The file is a few hundred bytes.
const NODE_FILE_BYTES_MAX: u64 = 64 << 10;

/// What `node.json` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRecord {
    /// Whose directory this is.
    pub node_id: u64,
    /// How far it has come.
    pub stage: Stage,
    /// The peer addresses which the cluster was or is to be formed with, or which it had when this node joined; empty
    /// while fresh.
    pub initial_cluster: BTreeMap<u64, String>,
    /// It joined, and has not caught up with the cluster yet.
    pub joining: bool,
    /// The cluster removed it: it never starts again.
    pub removed: bool,
}

/// How far a node has come in its cluster's formation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// No cluster yet.
    Fresh,
    /// The cluster's id is known; whether the cluster exists is not.
    Forming {
        /// The cluster.
        cluster_id: ClusterId,
    },
    /// The cluster exists.
    Member {
        /// The cluster.
        cluster_id: ClusterId,
        /// Whether this node's log has held anything: from then on an empty log means that it was lost.
        log_started: bool,
    },
}

/// `node.json` as it is written. A build that adds a field raises [`FORMAT`].
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    format: u32,
    state: StoredState,
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster_id: Option<String>,
    node_id: u64,
    #[serde(default)]
    initial_cluster: BTreeMap<u64, String>,
    #[serde(default)]
    log_started: bool,
    #[serde(default, skip_serializing_if = "is_false")]
    joining: bool,
    #[serde(default, skip_serializing_if = "is_false")]
    removed: bool,
    /// Of all the others, as [`Stored::checksum`] has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    check: Option<String>,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum StoredState {
    Fresh,
    Forming,
    Member,
}

/// The one field that every format has.
#[derive(Deserialize)]
struct AnyFormat {
    format: u32,
}

// === impl NodeRecord ===

impl NodeRecord {
    /// The cluster, once there is one.
    pub fn cluster_id(&self) -> Option<ClusterId> {
        match self.stage {
            Stage::Fresh => None,
            Stage::Forming { cluster_id } | Stage::Member { cluster_id, .. } => Some(cluster_id),
        }
    }

    fn stored(&self) -> Stored {
        let (state, log_started) = match self.stage {
            Stage::Fresh => (StoredState::Fresh, false),
            Stage::Forming { .. } => (StoredState::Forming, false),
            Stage::Member { log_started, .. } => (StoredState::Member, log_started),
        };
        Stored {
            format: FORMAT,
            state,
            cluster_id: self.cluster_id().as_ref().map(cluster_hex),
            node_id: self.node_id,
            initial_cluster: self.initial_cluster.clone(),
            log_started,
            joining: self.joining,
            removed: self.removed,
            check: None,
        }
    }

    fn of_stored(stored: Stored) -> Result<Self, String> {
        let cluster_id = match &stored.cluster_id {
            Some(text) => {
                Some(parse_cluster_hex(text).ok_or("its cluster_id is not 32 hexadecimal digits")?)
            }
            None => None,
        };
        let stage = match (stored.state, cluster_id) {
            (StoredState::Fresh, None) => Stage::Fresh,
            (StoredState::Forming, Some(cluster_id)) => Stage::Forming { cluster_id },
            (StoredState::Member, Some(cluster_id)) => Stage::Member {
                cluster_id,
                log_started: stored.log_started,
            },
            _ => return Err("its state and its cluster_id do not fit together".to_owned()),
        };
        Ok(Self {
            node_id: stored.node_id,
            stage,
            initial_cluster: stored.initial_cluster,
            joining: stored.joining,
            removed: stored.removed,
        })
    }
}

// === impl Stored ===

impl Stored {
    /// Eight hexadecimal digits: the CRC-32C of the fields as compact JSON, without the checksum itself.
    fn checksum(&self) -> serde_json::Result<String> {
        let bare = Self {
            check: None,
            ..self.clone()
        };
        let bytes = serde_json::to_vec(&bare)?;
        Ok(format!("{:08x}", crc32c::crc32c(&bytes)))
    }

    fn verify(&self) -> Result<(), String> {
        if self.check.is_none() && self.format < FORMAT {
            return Ok(());
        }
        let expected = self.checksum().map_err(|error| error.to_string())?;
        if self.check.as_ref() == Some(&expected) {
            return Ok(());
        }
        Err("its checksum does not fit, so it was changed since it was written".to_owned())
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
const fn is_false(flag: &bool) -> bool {
    !*flag
}

/// `None` where there is no file.
pub(super) fn read_record(dir: &Path) -> Result<Option<NodeRecord>, DataDirError> {
    let path = dir.join(NODE_FILE);
    let mut bytes = Vec::new();
    match File::open(&path).and_then(|file| file.take(NODE_FILE_BYTES_MAX).read_to_end(&mut bytes))
    {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(io_error("read", &path)(source)),
    }
    let malformed = |reason| DataDirError::Malformed {
        path: path.clone(),
        reason,
    };
    let AnyFormat { format } =
        serde_json::from_slice(&bytes).map_err(|e| malformed(e.to_string()))?;
    if format > FORMAT {
        return Err(DataDirError::NewerFormat {
            path: dir.to_owned(),
            format,
        });
    }
    let stored: Stored = serde_json::from_slice(&bytes).map_err(|e| malformed(e.to_string()))?;
    stored.verify().map_err(malformed)?;
    NodeRecord::of_stored(stored).map(Some).map_err(malformed)
}

/// Replaces the file: a temporary one, synced, renamed over it, and the directory synced.
pub(super) fn write_record(dir: &Path, record: &NodeRecord) -> Result<(), DataDirError> {
    let (path, temporary) = (dir.join(NODE_FILE), dir.join(NODE_FILE_TEMPORARY));
    let write = || -> io::Result<()> {
        let mut stored = record.stored();
        stored.check = Some(stored.checksum()?);
        let mut bytes = serde_json::to_vec_pretty(&stored)?;
        bytes.push(b'\n');
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(&bytes)?;
        file.sync_all()
    };
    write().map_err(io_error("write", &temporary))?;
    std::fs::rename(&temporary, &path).map_err(io_error("replace", &path))?;
    sync_dir(dir)
}
