//! Why a projection does not answer.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

use super::{MAX_ENTRIES, MAX_KEY_BYTES, MAX_VALUE_BYTES};
use crate::codec::CodecError;

/// Why a projection does not answer. None of it is a loss: ask what the projection was computed from.
#[derive(Debug, Error)]
pub enum ProjectionError {
    /// It is being opened and checked, or rewritten.
    #[error("the projection is not ready yet: it is being opened and checked")]
    NotReady,
    /// It works on something else for too long.
    #[error("the projection has not answered within {0:?}")]
    Busy(Duration),
    /// It could not be trusted and began anew, empty.
    #[error("the projection was dropped and begins anew, empty: {why}")]
    Dropped {
        /// What was wrong.
        why: String,
    },
    /// It is ending.
    #[error("the projection has ended")]
    Ended,
    /// A key is empty or too long.
    #[error("a key of the projection has {bytes} bytes; give 1 to {MAX_KEY_BYTES}")]
    Key {
        /// How many it has.
        bytes: usize,
    },
    /// A value is too long.
    #[error("a value of the projection has {bytes} bytes; give at most {MAX_VALUE_BYTES}")]
    Value {
        /// How many it has.
        bytes: usize,
    },
    /// Too many entries at once.
    #[error("{entries} entries for the projection at once; give at most {MAX_ENTRIES}")]
    Entries {
        /// How many there are.
        entries: usize,
    },
    /// No thread to work on.
    #[error("starting the thread of the projection in {}", dir.display())]
    Thread {
        /// Its directory.
        dir: PathBuf,
        /// What the system reports.
        #[source]
        source: io::Error,
    },
}

/// Why what sled holds is not used any more.
#[derive(Debug, Error)]
pub(super) enum Fault {
    #[error("sled: {0}")]
    Sled(#[from] sled::Error),
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("encoding: {0}")]
    Codec(#[from] CodecError),
    #[error("what is there is not what was put there: {0}")]
    Damaged(&'static str),
    #[error("it belongs to another node or cluster")]
    Foreign,
    #[error("its files were removed or replaced")]
    Gone,
    #[error("{0} values lie in files of their own, which sled never syncs")]
    Blobs(u64),
    #[error("sled panicked: {0}")]
    Panicked(String),
}
