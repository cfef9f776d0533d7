//! Why a spool refused, and what the reader of the message can do.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thiserror::Error;

use crate::segment::{FORMAT_VERSION, HeaderError, Owner};

/// Why a spool could not be opened, or did not do what it was asked.
#[derive(Clone, Debug, Error)]
pub enum SpoolError {
    /// The system refused an operation.
    #[error("cannot {action} {} of the usage spool: {source}", path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// To which file or directory.
        path: PathBuf,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// An option has no meaning.
    #[error("cannot open the usage spool: {what}")]
    Options {
        /// Which one, and what to give.
        what: String,
    },
    /// Another opener holds the spool.
    #[error("the usage spool {} is in use: stop the process that has it open", path.display())]
    InUse {
        /// The spool's directory.
        path: PathBuf,
    },
    /// The spool holds as much as it may.
    #[error(
        "the usage spool is full: another segment would exceed its {max_bytes} bytes; it empties \
         when the cluster accepts usage again"
    )]
    Full {
        /// What all segments may take together.
        max_bytes: u64,
    },
    /// The disk is full.
    #[error("the disk is full: cannot reserve {bytes} bytes for {}", path.display())]
    DiskFull {
        /// The file that was to be made.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// A record is longer than a spool takes.
    #[error("cannot spool a record of {bytes} bytes: the limit is {limit}")]
    TooLarge {
        /// Its payload's length.
        bytes: usize,
        /// The most that is taken.
        limit: usize,
    },
    /// The caller's encoder gave up, or claims more than it was given.
    #[error("the record's encoder did not fill its {room} bytes validly; nothing was spooled")]
    NotEncoded {
        /// What it was given.
        room: usize,
    },
    /// The record was trimmed.
    #[error("record {seq} is no longer in the usage spool, the oldest is {first}")]
    Trimmed {
        /// The record that was asked for.
        seq: u64,
        /// The oldest kept.
        first: u64,
    },
    /// The record is not written yet, so the caller's position belongs to another spool.
    #[error("record {seq} is beyond the end of the usage spool, the next one is {next}")]
    Beyond {
        /// The record that was asked for.
        seq: u64,
        /// The number that the next record gets.
        next: u64,
    },
    /// Records that had been synced are lost.
    #[error(
        "the usage spool is damaged in {} at byte {offset}: {what}. Usage from record {seq} on is \
         lost; keep a copy of the spool's directory, then remove it to go on without", file.display()
    )]
    Damaged {
        /// The file.
        file: PathBuf,
        /// Where the damage begins.
        offset: u64,
        /// The first record that cannot be read.
        seq: u64,
        /// What is wrong there.
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
    /// An earlier sync failed, so what the disk holds is unknown.
    #[error("the usage spool stopped after a failed sync, restart the node: {source}")]
    Failed {
        /// What the system said then.
        source: Arc<io::Error>,
    },
}

// === impl SpoolError ===

impl SpoolError {
    /// Whether there is no room, in the spool or on the disk: it may pass.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Full { .. } | Self::DiskFull { .. })
    }

    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io {
            action,
            path,
            source: Arc::new(source),
        }
    }

    pub(super) fn lock(path: &Path, error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::WouldBlock {
            return Self::InUse {
                path: path.to_path_buf(),
            };
        }
        Self::io("lock", path)(error)
    }

    pub(super) fn header(file: &Path, error: &HeaderError, expected: Owner) -> Self {
        let file = file.to_path_buf();
        match *error {
            HeaderError::Damaged => {
                let what = "the segment's header is not intact".to_owned();
                Self::Damaged {
                    file,
                    offset: 0,
                    seq: 0,
                    what,
                }
            }
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
