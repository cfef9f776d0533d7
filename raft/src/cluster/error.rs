//! Why a member does not start, and what to do about it.

use std::path::PathBuf;

use mode_envoy_storage::checkpoint::CheckpointError;
use mode_envoy_storage::wal::WalError;

use crate::data_dir::DataDirError;
use crate::formation::FormationError;
use crate::identity::IdentityError;
use crate::types::NodeId;

/// Why a member does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The data directory is not usable.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The node's certificate could not be made.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The cluster could not be formed.
    #[error(transparent)]
    Formation(#[from] FormationError),
    /// The write-ahead log is not usable.
    #[error(transparent)]
    Wal(#[from] WalError),
    /// The checkpoints are not usable.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// What is on the disk was written by a newer version, or is damaged.
    #[error("{what} in {path} cannot be used: {reason}", path = .path.display())]
    Unreadable {
        /// The log, or the checkpoint.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The log was there and is gone.
    #[error(
        "{path} holds no log, but this node had one: a node that lost its log must not come back under its id, since it may have \
         voted or acknowledged what it no longer knows; remove node {node_id} from the cluster and add a new one",
        path = .path.display()
    )]
    LogLost {
        /// The data directory.
        path: PathBuf,
        /// This node.
        node_id: NodeId,
    },
    /// The checkpoint that the log goes on from is damaged or gone.
    #[error(
        "the newest checkpoint in {path} that is intact stands at log index {checkpoint}, and the log before index {purged} is          purged, so what lies between is lost on this node; remove node {node_id} from the cluster and let an empty one join          under a new node id",
        path = .path.display()
    )]
    CheckpointLost {
        /// The checkpoints.
        path: PathBuf,
        /// Where the newest intact one stands; 0 if there is none.
        checkpoint: u64,
        /// Up to where the log is purged.
        purged: u64,
        /// This node.
        node_id: NodeId,
    },
    /// The timers contradict one another.
    #[error("the timers do not work together: {0}; heartbeat < election_min < election_max")]
    Timers(String),
    /// The consensus library did not start.
    #[error("consensus does not start: {0}")]
    Consensus(String),
    /// It was cancelled.
    #[error("the start was cancelled")]
    Cancelled,
}
