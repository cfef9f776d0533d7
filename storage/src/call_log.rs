//! Call records: opaque, in time order as they came, kept for a while and then dropped whole segments at a time.
//!
//! ```text
//! CallLog (one thread) --append--> block in memory --write_block--> segment --sync--> durable --seal--> footer
//! CallLogReader (any thread) <------ records of all of these, newest first, each once
//!
//! <dir>/calls-<number>.calls = | header | block | mark | block | ... | footer | trailer |
//! ```
//!
//! The owner feeds the log from somewhere else and gives each block a position: where the feed stood behind its last
//! record. After a crash the position of the last block that is there says where to go on, so each record is in the log
//! once. A mark follows each sync and says how far it reached: what is damaged below a mark is skipped alone, what is
//! damaged above every mark was never acknowledged, and the log ends there.
//!
//! Invariants:
//! * the records that are found are those before the position that is found, but for damaged blocks, which are
//!   counted and named, and for whole segments that were dropped, oldest first;
//! * files only grow: nothing that was written is written over;
//! * a failed write or sync ends the writing, never the reading.

use std::path::PathBuf;

mod block;
mod error;
mod index;
mod reader;
mod recovery;
mod shared;
mod writer;

pub use error::CallLogError;
pub use reader::{CallLogReader, Found, Search};
pub use writer::CallLog;

use crate::segment::Owner;

/// The longest record, in bytes.
pub const MAX_RECORD_BYTES: usize = 64 * 1024;
/// The longest position, in bytes.
pub const MAX_POSITION_BYTES: usize = 64 * 1024;

const MAGIC: [u8; 4] = *b"MECL";
const PREFIX: &str = "calls-";
const SUFFIX: &str = ".calls";

/// Where a call log lives, whose it is, and when its parts end.
#[derive(Clone, Debug)]
pub struct CallLogOptions {
    /// A directory of its own; it is created.
    pub dir: PathBuf,
    /// The cluster.
    pub cluster_id: [u8; 16],
    /// The node.
    pub node_id: u64,
    /// A segment ends when it is so large.
    pub segment_bytes: u64,
    /// A segment ends when it is so old.
    pub segment_age_ms: u64,
    /// A block should be written when it holds so many bytes of records.
    pub block_bytes: usize,
    /// All segments together; the oldest are dropped beyond.
    pub max_bytes: u64,
    /// A segment is dropped when all its records are older.
    pub max_age_ms: u64,
}

/// One record. What is in it is the caller's.
#[derive(Clone, Copy, Debug)]
pub struct CallEntry<'a> {
    /// When it was, in milliseconds of wall time: what searches go by.
    pub time_ms: u64,
    /// What it may be looked up by.
    pub hashes: &'a [u64],
    /// Its bytes.
    pub bytes: &'a [u8],
}

/// What was found when a log was opened.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct CallLogRecovery {
    /// The position of the last block; `None` if there is none.
    pub position: Option<Vec<u8>>,
    /// Blocks that are not what was written, by their files.
    pub damaged: Vec<String>,
    /// Bytes at the end that were not acknowledged and do not count.
    pub torn_bytes: u64,
}

// === impl CallLogOptions ===

impl CallLogOptions {
    /// Options with the default sizes: segments of 64 MiB or 10 minutes, blocks of 128 KiB, 2 GiB or 7 days in all.
    pub fn new(dir: impl Into<PathBuf>, cluster_id: [u8; 16], node_id: u64) -> Self {
        Self {
            dir: dir.into(),
            cluster_id,
            node_id,
            segment_bytes: 64 << 20,
            segment_age_ms: 10 * 60 * 1_000,
            block_bytes: 128 << 10,
            max_bytes: 2 << 30,
            max_age_ms: 7 * 24 * 3_600 * 1_000,
        }
    }

    fn owner(&self) -> Owner {
        Owner {
            cluster_id: self.cluster_id,
            node_id: self.node_id,
        }
    }
}

fn file_name(number: u64) -> String {
    format!("{PREFIX}{number:010}{SUFFIX}")
}

fn number_of(name: &str) -> Option<u64> {
    name.strip_prefix(PREFIX)?
        .strip_suffix(SUFFIX)?
        .parse()
        .ok()
}
