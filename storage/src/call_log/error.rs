//! Why a call log could not be opened, written or read.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thiserror::Error;

use super::{MAX_POSITION_BYTES, MAX_RECORD_BYTES};
use crate::segment::{FORMAT_VERSION, HeaderError};

/// Why a call log could not be opened, written or read.
#[derive(Debug, Error)]
pub enum CallLogError {
    /// The system refused an operation.
    #[error("cannot {action} {} of the call log: {source}", path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// To which file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// An earlier write or sync failed; nothing is written any more.
    #[error(
        "the call log in {} stopped after a failure, repair the disk and restart the node: {source}", dir.display()
    )]
    Failed {
        /// The log's directory.
        dir: PathBuf,
        /// What the system said then.
        source: Arc<io::Error>,
    },
    /// Another process has it open.
    #[error("the call log in {} is in use: end the process that uses it", dir.display())]
    InUse {
        /// The log's directory.
        dir: PathBuf,
    },
    /// A record or a position is longer than allowed.
    #[error(
        "{bytes} bytes are too long for the call log: a record may have {MAX_RECORD_BYTES}, a position {MAX_POSITION_BYTES}"
    )]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// The file was written by a newer release.
    #[error(
        "{} has format {found}, this release reads formats up to {FORMAT_VERSION}: start the release that wrote it",
        file.display()
    )]
    NewerFormat {
        /// The file.
        file: PathBuf,
        /// Its format.
        found: u32,
    },
    /// The file belongs to another cluster or node.
    #[error("{} belongs to another cluster or node: use the data directory of this node", file.display())]
    NotOurs {
        /// The file.
        file: PathBuf,
    },
}

// === impl CallLogError ===

impl CallLogError {
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }

    /// `None` for a header that is only damaged.
    pub(super) fn of_header(file: &Path, error: &HeaderError) -> Option<Self> {
        let file = file.to_path_buf();
        match *error {
            HeaderError::Damaged => None,
            HeaderError::NewerFormat { found } => Some(Self::NewerFormat { file, found }),
            HeaderError::OtherCluster { .. } | HeaderError::OtherNode { .. } => {
                Some(Self::NotOurs { file })
            }
        }
    }
}
