//! Usage records on their way into the replicated log: written at the speed of memory, kept through `kill -9`.
//!
//! ```text
//! data-plane worker --SpoolWriter--> mapped segment --SpoolReader--> flusher --> replicated log
//!                     (no syscall)    (page cache)     (read, sync, trim)
//! ```
//!
//! One spool per worker, one writer, one reader. Records are counted from 1 since the spool began;
//! the count is their sequence number, so a range of them can be neither gapped nor doubled.
//!
//! ```text
//! <dir>/worker-<n>/<number>-<first seq>.spool = | header | record | record | zeros ... | mark |
//! record = frame { t_wall u64 (milliseconds), payload }
//! ```
//!
//! Invariants:
//! * the first word of a record is stored last, so a killed process leaves whole records and nothing
//!   that looks like one;
//! * a power cut loses at most what came after the last [`SpoolReader::sync`]; damage before that
//!   point (the mark remembers it) is refused, never skipped;
//! * space is reserved before it is mapped, so a full disk is an error here and not a signal;
//! * a failed sync ends the spool: nothing is appended or read after it.
//!
//! If a power cut took records that were already replicated, their numbers would be given out again:
//! the owner compares [`SpoolRecovery::next_seq`] with what the cluster acknowledged, and begins a new
//! spool (with a new uuid) if it is lower.

use std::path::{Path, PathBuf};
use std::sync::Arc;

mod error;
mod map;
mod reader;
mod recovery;
mod shared;
mod writer;

pub use error::SpoolError;
pub use reader::{SpoolReader, SpoolRecord};
pub use writer::SpoolWriter;

use crate::disk::{Disk, RealDisk};
use crate::segment::Owner;

/// Segments of 8 MiB unless the owner says otherwise.
pub const DEFAULT_SEGMENT_BYTES: usize = 8 * 1024 * 1024;

/// A spool keeps 8 GiB unless the owner says otherwise.
pub const DEFAULT_MAX_BYTES: u64 = 8 * 1024 * 1024 * 1024;

/// The most bytes a record's payload may have (less if segments are smaller than that).
pub const MAX_PAYLOAD_BYTES: usize = 64 * 1024;

const MIN_SEGMENT_BYTES: usize = 4 * 1024;
const MAX_SEGMENT_BYTES: usize = 1024 * 1024 * 1024;

/// Segments are a multiple of the page size.
const PAGE: usize = 4 * 1024;

const WORKER_PREFIX: &str = "worker-";

/// Where a spool lives, whose it is, and how large its parts are.
#[derive(Clone, Debug)]
pub struct SpoolOptions {
    /// The directory of all spools of the node; it is created.
    pub dir: PathBuf,
    /// The worker whose spool it is.
    pub worker: u32,
    /// The size of a segment, see [`DEFAULT_SEGMENT_BYTES`]; a multiple of 4 KiB, up to 1 GiB.
    pub segment_bytes: usize,
    /// What all segments may take together, see [`DEFAULT_MAX_BYTES`]; at least one segment.
    pub max_bytes: u64,
    /// The cluster the spool belongs to.
    pub cluster_id: [u8; 16],
    /// The node the spool belongs to.
    pub node_id: u64,
    /// The identity of the spool if it has to be begun: random, never used before.
    pub new_uuid: [u8; 16],
}

/// What a spool held when it was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpoolRecovery {
    /// The identity of the spool, made when it began.
    pub uuid: [u8; 16],
    /// The oldest record kept, or the next one if there is none.
    pub first_seq: u64,
    /// The number that the next record gets.
    pub next_seq: u64,
    /// Bytes of a torn tail that were dropped.
    pub truncated_bytes: u64,
}

/// Opens a worker's spool, or begins one.
///
/// # Errors
/// [`SpoolError::Damaged`] if records that had been synced are lost; [`SpoolError::OtherCluster`],
/// [`SpoolError::OtherNode`] or [`SpoolError::NewerFormat`] if the files are not this node's to read;
/// [`SpoolError::InUse`] if it is open already; [`SpoolError::Options`] and [`SpoolError::Io`].
#[expect(
    clippy::needless_pass_by_value,
    reason = "options are made for one opening"
)]
pub fn open(
    options: SpoolOptions,
) -> Result<(SpoolWriter, SpoolReader, SpoolRecovery), SpoolError> {
    open_on(Arc::new(RealDisk), &options)
}

/// Opens a spool on another disk than the machine's.
///
/// # Errors
/// As [`open`].
pub fn open_on(
    disk: Arc<dyn Disk>,
    options: &SpoolOptions,
) -> Result<(SpoolWriter, SpoolReader, SpoolRecovery), SpoolError> {
    options.check()?;
    let dir = worker_dir(&options.dir, options.worker);
    disk.create_dir_all(&dir)
        .map_err(SpoolError::io("create the directory", &dir))?;
    let lock = disk.lock_dir(&dir);
    let lock = lock.map_err(|error| SpoolError::lock(&dir, error))?;
    let found = recovery::recover(disk, options, dir, lock)?;
    Ok((
        SpoolWriter::new(Arc::clone(&found.shared), found.tail),
        SpoolReader::new(found.shared),
        found.recovery,
    ))
}

/// The workers that have a spool in `dir`, in ascending order.
///
/// # Errors
/// [`SpoolError::Io`] for what the system reports; a directory that is not there has no spools.
pub fn list_spools(disk: &dyn Disk, dir: &Path) -> Result<Vec<u32>, SpoolError> {
    let names = match disk.list(dir) {
        Ok(names) => names,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(SpoolError::io("list", dir)(error)),
    };
    let worker = |name: &String| name.strip_prefix(WORKER_PREFIX)?.parse().ok();
    let mut workers: Vec<u32> = names.iter().filter_map(worker).collect();
    workers.sort_unstable();
    Ok(workers)
}

/// Removes a worker's spool with all records in it.
///
/// # Errors
/// [`SpoolError::InUse`] if it is open, [`SpoolError::Io`] for what the system reports.
pub fn remove(disk: &dyn Disk, dir: &Path, worker: u32) -> Result<(), SpoolError> {
    let path = worker_dir(dir, worker);
    let lock = disk.lock_dir(&path);
    let _lock = lock.map_err(|error| SpoolError::lock(&path, error))?;
    disk.remove_dir_all(&path)
        .map_err(SpoolError::io("remove", &path))?;
    disk.sync_dir(dir)
        .map_err(SpoolError::io("sync the directory", dir))
}

// === impl SpoolOptions ===

impl SpoolOptions {
    /// Options with the default sizes.
    pub fn new(
        dir: impl Into<PathBuf>,
        worker: u32,
        cluster_id: [u8; 16],
        node_id: u64,
        new_uuid: [u8; 16],
    ) -> Self {
        Self {
            dir: dir.into(),
            worker,
            segment_bytes: DEFAULT_SEGMENT_BYTES,
            max_bytes: DEFAULT_MAX_BYTES,
            cluster_id,
            node_id,
            new_uuid,
        }
    }

    fn owner(&self) -> Owner {
        Owner {
            cluster_id: self.cluster_id,
            node_id: self.node_id,
        }
    }

    fn check(&self) -> Result<(), SpoolError> {
        let bytes = self.segment_bytes;
        if !(MIN_SEGMENT_BYTES..=MAX_SEGMENT_BYTES).contains(&bytes) || !bytes.is_multiple_of(PAGE)
        {
            let what = format!(
                "segment_bytes is {bytes}: give a multiple of {PAGE} between {MIN_SEGMENT_BYTES} \
                 and {MAX_SEGMENT_BYTES}"
            );
            return Err(SpoolError::Options { what });
        }
        if self.max_bytes < bytes as u64 {
            let what = format!(
                "max_bytes is {}: give at least {bytes}, a segment",
                self.max_bytes
            );
            return Err(SpoolError::Options { what });
        }
        Ok(())
    }
}

fn worker_dir(dir: &Path, worker: u32) -> PathBuf {
    dir.join(format!("{WORKER_PREFIX}{worker}"))
}
