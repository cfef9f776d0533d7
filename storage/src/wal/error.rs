//! Why the write-ahead log refused, and what the reader of the message can do.
//!
//! Invariant: the error can be cloned, because one failed sync answers many callers.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thiserror::Error;

use crate::segment::{FORMAT_VERSION, HeaderError, Owner};

/// Why the write-ahead log could not be opened, or did not do what it was asked.
#[derive(Clone, Debug, Error)]
pub enum WalError {
    /// The system refused an operation.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// To which file or directory.
        path: PathBuf,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// Another opener holds the directory.
    #[error(
        "the write-ahead log {} is in use by another process or by an earlier opening that is \
         not closed: stop that one first", path.display()
    )]
    InUse {
        /// The log's directory.
        path: PathBuf,
    },
    /// Bytes that had been synced are no longer what was written.
    #[error(
        "the write-ahead log is damaged in {} at byte {offset}: {what}. This node may have \
         acknowledged what it no longer holds, so it must not vote again: remove it from the \
         cluster and let an empty one join under a new node id", file.display()
    )]
    Damaged {
        /// The file.
        file: PathBuf,
        /// Where the damage begins.
        offset: u64,
        /// What is wrong there.
        what: String,
    },
    /// The file was written by a newer release.
    #[error(
        "{} has format {found}, this release reads formats up to {supported}: start the release \
         that wrote it", file.display()
    )]
    NewerFormat {
        /// The file.
        file: PathBuf,
        /// Its format.
        found: u32,
        /// The newest format this release reads.
        supported: u32,
    },
    /// The file belongs to another cluster.
    #[error(
        "{} belongs to cluster {}, this node is of cluster {}: use the data directory of this \
         node", file.display(), hex(found), hex(expected)
    )]
    OtherCluster {
        /// The file.
        file: PathBuf,
        /// The cluster it names.
        found: [u8; 16],
        /// The cluster that was expected.
        expected: [u8; 16],
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
    /// An option has no meaning.
    #[error("segment_bytes is {found}: give a multiple of 8 between {min} and {max}")]
    SegmentBytes {
        /// What was given.
        found: u64,
        /// The least allowed.
        min: u64,
        /// The most allowed.
        max: u64,
    },
    /// A payload is longer than the log takes.
    #[error("cannot append {what} of {bytes} bytes: the limit is {limit}, split it")]
    TooLarge {
        /// What was to be written.
        what: &'static str,
        /// Its length.
        bytes: usize,
        /// The most that is taken.
        limit: usize,
    },
    /// A record does not follow the last one.
    #[error("cannot append index {found}: the next index of the log is {expected}")]
    NotContiguous {
        /// The index that follows the last record.
        expected: u64,
        /// The index that was given.
        found: u64,
    },
    /// A truncation would remove what was purged.
    #[error("cannot truncate from index {from}: the log is purged up to index {purged}")]
    TruncatesPurged {
        /// First index to remove.
        from: u64,
        /// Last index purged.
        purged: u64,
    },
    /// An earlier write or sync failed, so nothing after it can be trusted.
    #[error(
        "the write-ahead log stopped after a failure, and accepts nothing until the process is \
         started again: {cause}"
    )]
    Poisoned {
        /// The failure.
        cause: Arc<WalError>,
    },
    /// The log was closed.
    #[error("the write-ahead log is closed")]
    Closed,
    /// A completion callback panicked, which is a defect of the one who gave it.
    #[error("a completion callback of the write-ahead log panicked")]
    CompletionPanicked,
    /// The writer's thread panicked, which is a defect of the log.
    #[error("the write-ahead log's writer panicked")]
    WriterPanicked,
}

// === impl WalError ===

impl WalError {
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io {
            action,
            path,
            source: Arc::new(source),
        }
    }

    pub(super) fn damaged(file: &Path, offset: u64, what: impl Into<String>) -> Self {
        Self::Damaged {
            file: file.to_path_buf(),
            offset,
            what: what.into(),
        }
    }

    pub(super) fn header(file: &Path, error: &HeaderError, expected: Owner) -> Self {
        let file = file.to_path_buf();
        match *error {
            HeaderError::Damaged => Self::damaged(&file, 0, "the segment's header is not intact"),
            HeaderError::NewerFormat { found } => Self::NewerFormat {
                file,
                found,
                supported: FORMAT_VERSION,
            },
            HeaderError::OtherCluster { found } => Self::OtherCluster {
                file,
                found,
                expected: expected.cluster_id,
            },
            HeaderError::OtherNode { found } => Self::OtherNode {
                file,
                found,
                expected: expected.node_id,
            },
        }
    }
}

fn hex(id: &[u8; 16]) -> String {
    format!("{:032x}", u128::from_be_bytes(*id))
}
