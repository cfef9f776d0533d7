//! Why a checkpoint could not be written or read.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thiserror::Error;

use crate::segment::{FORMAT_VERSION, HeaderError, Owner};

/// Why a checkpoint could not be written or read.
#[derive(Debug, Error)]
pub enum CheckpointError {
    /// The system refused an operation.
    #[error("cannot {action} {} of the checkpoint: {source}", path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// To which file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A sync failed, so it is unknown which files a power cut would leave.
    #[error("the checkpoints in {} stopped after a failed sync, restart the node: {source}", dir.display())]
    Failed {
        /// The checkpoints' directory.
        dir: PathBuf,
        /// What the system said then.
        source: Arc<io::Error>,
    },
    /// What was to be written exceeds a limit.
    #[error("cannot write the checkpoint: {what}")]
    Invalid {
        /// What is too much.
        what: String,
    },
    /// There is no room for it.
    #[error(
        "cannot receive a checkpoint into {}: {needed} bytes are needed and {free} are free; make room on that disk",
        dir.display()
    )]
    NoSpace {
        /// The checkpoints' directory.
        dir: PathBuf,
        /// Bytes that would be written, and what must stay free.
        needed: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// What arrives is not what was announced.
    #[error("a received checkpoint is refused: {what}")]
    Unannounced {
        /// What does not fit.
        what: String,
    },
    /// Another one is being received.
    #[error("another checkpoint is being received")]
    Busy,
    /// A file is not what was written.
    #[error(
        "the checkpoint is damaged in {}: {what}. If no older one is intact, remove this node from \
         the cluster and let an empty one join under a new node id", file.display()
    )]
    Damaged {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The file was written by a newer release.
    #[error(
        "{} has format {found}, this release reads formats up to {FORMAT_VERSION}: start the \
         release that wrote it", file.display()
    )]
    NewerFormat {
        /// The file.
        file: PathBuf,
        /// Its format.
        found: u32,
    },
    /// The file belongs to another cluster.
    #[error(
        "{} belongs to cluster {found:032x}, this node is of cluster {expected:032x}: use the data \
         directory of this node", file.display()
    )]
    OtherCluster {
        /// The file.
        file: PathBuf,
        /// The cluster it names, as a big-endian number.
        found: u128,
        /// The cluster that was expected, as a big-endian number.
        expected: u128,
    },
    /// The file belongs to another node.
    #[error(
        "{} belongs to node {found}, this is node {expected}: use the data directory of this node",
        file.display()
    )]
    OtherNode {
        /// The file.
        file: PathBuf,
        /// The node it names.
        found: u64,
        /// The node that was expected.
        expected: u64,
    },
}

// === impl CheckpointError ===

impl CheckpointError {
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }

    pub(super) fn header(file: &Path, error: &HeaderError, expected: Owner) -> Self {
        let file = file.to_path_buf();
        match *error {
            HeaderError::Damaged => Self::Damaged {
                file,
                what: "its checksum does not match".to_owned(),
            },
            HeaderError::NewerFormat { found } => Self::NewerFormat { file, found },
            HeaderError::OtherCluster { found } => Self::OtherCluster {
                file,
                found: u128::from_be_bytes(found),
                expected: u128::from_be_bytes(expected.cluster_id),
            },
            HeaderError::OtherNode { found } => Self::OtherNode {
                file,
                found,
                expected: expected.node_id,
            },
        }
    }
}
