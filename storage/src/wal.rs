//! The write-ahead log: votes and opaque records by term and index, durable before they are acknowledged.
//!
//! ```text
//! callers --(log changes in memory, request queued)--> writer's thread: one write, one fdatasync per batch --> completions
//! ```
//!
//! It knows nothing of Raft's messages: a vote is bytes, a record's payload is bytes. What it promises:
//! * a record can be read when [`Wal::append`] returns, and is durable when its completion says so;
//! * everything is written in the order in which it was asked for, votes included;
//! * after a failed write or sync it does nothing more (a second sync that succeeds proves nothing);
//! * on opening, a write that a crash tore is cut off, and damage to what had been synced is refused
//!   (all of it if the log was closed; after a crash the last batch is told from a torn write no more).
//!
//! Limits: a record has at most [`MAX_RECORD_BYTES`], every other payload at most [`MAX_OPAQUE_BYTES`].

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use bytes::Bytes;

use crate::disk::{DirLock, Disk};
use crate::segment::Owner;

mod directory;
mod error;
mod log;
mod record;
mod recovery;
mod shared;
#[cfg(any(test, feature = "testing"))]
mod stepped;
mod tail;
mod writer;

pub use error::WalError;
#[cfg(any(test, feature = "testing"))]
pub use stepped::Stepper;

use directory::{Directory, Preparer};
use recovery::Recovery;
use shared::{Shared, Work};
use writer::{Batch, Writer};

/// The most bytes one record's payload may have.
pub const MAX_RECORD_BYTES: usize = record::MAX_RECORD_BYTES;

/// The most bytes a vote, a committed position or a purge's payload may have.
pub const MAX_OPAQUE_BYTES: usize = record::MAX_OPAQUE_BYTES;

/// Segments of 64 MiB unless the owner says otherwise.
pub const DEFAULT_SEGMENT_BYTES: u64 = 64 * 1024 * 1024;

/// Payloads of 32 MiB stay in memory unless the owner says otherwise.
pub const DEFAULT_CACHE_BYTES: usize = 32 * 1024 * 1024;

const MIN_SEGMENT_BYTES: u64 = 32 * 1024;
const MAX_SEGMENT_BYTES: u64 = 1024 * 1024 * 1024;

/// Called once: on the writer's thread, in the order of the calls, or at once on the caller's thread if
/// the request is refused. It must not block, or everything waits.
pub type Done = Box<dyn FnOnce(Result<(), WalError>) + Send>;

/// Where a log lives, and how large its parts are.
#[derive(Clone, Debug)]
pub struct WalOptions {
    /// The log's own directory; it is created.
    pub dir: PathBuf,
    /// The size of a segment, see [`DEFAULT_SEGMENT_BYTES`]; a multiple of 8, from 32 KiB to 1 GiB.
    pub segment_bytes: u64,
    /// The cluster the log belongs to.
    pub cluster_id: [u8; 16],
    /// The node the log belongs to.
    pub node_id: u64,
    /// How many bytes of payloads stay in memory, see [`DEFAULT_CACHE_BYTES`].
    pub cache_bytes: usize,
}

/// A place in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The term in which it was proposed.
    pub term: u64,
    /// Where it stands.
    pub index: u64,
}

/// A record of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its place.
    pub position: Position,
    /// Its bytes.
    pub payload: Bytes,
}

/// What a log held when it was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// The last vote saved.
    pub vote: Option<Bytes>,
    /// The last committed position that reached the disk; it may lag.
    pub committed: Option<Bytes>,
    /// The last position purged.
    pub purged: Option<Position>,
    /// The payload of that purge.
    pub purged_payload: Option<Bytes>,
    /// The last record's position, or the purged one if there is no record.
    pub last: Option<Position>,
}

/// What the writer has done since the log was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WalStats {
    /// Batches, which is syncs.
    pub batches: u64,
    /// Records in them.
    pub records: u64,
    /// Bytes in them, framing included.
    pub bytes: u64,
    /// Time spent in syncs, in microseconds.
    pub sync_micros_sum: u64,
    /// The longest sync, in microseconds.
    pub sync_micros_max: u64,
    /// Segments begun.
    pub segments_created: u64,
    /// Bytes that the segments take on the disk now.
    pub disk_bytes: u64,
}

/// A handle to an open log; clones share it, and the last one to go closes it.
#[derive(Clone)]
pub struct Wal {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

// === impl WalOptions ===

impl WalOptions {
    /// Options with the default sizes.
    pub fn new(dir: impl Into<PathBuf>, cluster_id: [u8; 16], node_id: u64) -> Self {
        Self {
            dir: dir.into(),
            segment_bytes: DEFAULT_SEGMENT_BYTES,
            cluster_id,
            node_id,
            cache_bytes: DEFAULT_CACHE_BYTES,
        }
    }

    fn check(&self) -> Result<(), WalError> {
        let found = self.segment_bytes;
        let (min, max) = (MIN_SEGMENT_BYTES, MAX_SEGMENT_BYTES);
        if (min..=max).contains(&found) && found.is_multiple_of(8) {
            return Ok(());
        }
        Err(WalError::SegmentBytes { found, min, max })
    }
}

// === impl Recovered ===

impl Recovered {
    fn of(found: &Recovery) -> Self {
        Self {
            vote: found.head.vote.clone(),
            committed: found.head.committed.clone(),
            purged: found.log.purged(),
            purged_payload: found.log.purged_payload(),
            last: found.log.last(),
        }
    }
}

// === impl Wal ===

impl Wal {
    /// Opens the log in a directory, or begins one, and starts its writer.
    ///
    /// # Errors
    /// [`WalError::Damaged`] if bytes that had been synced have changed, [`WalError::OtherCluster`],
    /// [`WalError::OtherNode`] or [`WalError::NewerFormat`] if the files are not this node's to read,
    /// [`WalError::InUse`] if they are open already, [`WalError::Io`] for what the system reports.
    pub fn open(disk: Arc<dyn Disk>, options: WalOptions) -> Result<(Self, Recovered), WalError> {
        let (writer, recovered) = prepare(disk, options, Preparer::start)?;
        let shared = Arc::clone(&writer.shared);
        let thread = Mutex::new(Some(spawn(writer)?));
        Ok((Self::over(shared, thread), recovered))
    }

    fn over(shared: Arc<Shared>, thread: Mutex<Option<JoinHandle<()>>>) -> Self {
        Self {
            inner: Arc::new(Inner { shared, thread }),
        }
    }

    /// Appends records, which must follow the last one. They can be read when this returns; `done`
    /// is called when they are durable.
    pub fn append(&self, records: Vec<Record>, done: Done) {
        self.inner.shared.submit(done, |log| {
            let queued = log.append(records)?;
            Ok(if queued.is_empty() {
                Work::Nothing
            } else {
                Work::Append(queued)
            })
        });
    }

    /// Saves the vote, in order with everything else.
    pub fn save_vote(&self, vote: Bytes, done: Done) {
        self.inner.shared.submit(done, |_| {
            check_opaque("a vote", &vote)?;
            Ok(Work::Vote(vote))
        });
    }

    /// Removes the records from `from_index` on, that one included.
    pub fn truncate(&self, from_index: u64, done: Done) {
        self.inner.shared.submit(done, |log| {
            let removed = log.truncate(from_index)?;
            Ok(if removed {
                Work::Truncate(from_index)
            } else {
                Work::Nothing
            })
        });
    }

    /// Forgets the records up to `upto`, that one included, and keeps `opaque` in their place. It may
    /// lie beyond the last record; then the log goes on behind it. Space is freed in whole segments.
    pub fn purge(&self, upto: Position, opaque: Bytes, done: Done) {
        self.inner.shared.submit(done, |log| {
            check_opaque("a purge's payload", &opaque)?;
            let purged = log.purge(upto, opaque.clone());
            Ok(if purged {
                Work::Purge(upto, opaque)
            } else {
                Work::Nothing
            })
        });
    }

    /// Remembers the committed position. It is written with the next batch or soon after, and never
    /// causes a sync, so after a crash an older one may be found. One of more than
    /// [`MAX_OPAQUE_BYTES`] is not written.
    pub fn save_committed(&self, committed: Bytes) {
        match check_opaque("a committed position", &committed) {
            Ok(()) => self.inner.shared.offer_committed(committed),
            Err(error) => tracing::error!(%error, "the committed position is not saved"),
        }
    }

    /// The records of `from .. to_exclusive` that there are: at least one if there is any, then as
    /// many as fit in `max_bytes` of payload.
    ///
    /// # Errors
    /// [`WalError::Damaged`] if a record is not what was written, [`WalError::Poisoned`] and
    /// [`WalError::Closed`] after those, [`WalError::Io`] for what the system reports.
    pub fn read(
        &self,
        from: u64,
        to_exclusive: u64,
        max_bytes: usize,
    ) -> Result<Vec<Record>, WalError> {
        self.inner.shared.read(from, to_exclusive, max_bytes)
    }

    /// Bytes of the payloads from the record at `from` on.
    pub fn bytes_from(&self, from: u64) -> u64 {
        self.inner.shared.lock().log.bytes_from(from)
    }

    /// The smallest index from which on the payloads, up to and with the record at `last`, take no more
    /// than `bytes`; `last + 1` if even that one is larger.
    pub fn first_within(&self, last: u64, bytes: u64) -> u64 {
        self.inner.shared.lock().log.first_within(last, bytes)
    }

    /// The index of the oldest record.
    pub fn first_index(&self) -> Option<u64> {
        self.inner.shared.lock().log.first_index()
    }

    /// The last record's position, or the purged one if there is no record.
    pub fn last(&self) -> Option<Position> {
        self.inner.shared.lock().log.last()
    }

    /// The last position purged.
    pub fn purged(&self) -> Option<Position> {
        self.inner.shared.lock().log.purged()
    }

    /// The payload of the last purge.
    pub fn purged_payload(&self) -> Option<Bytes> {
        self.inner.shared.lock().log.purged_payload()
    }

    /// The failure after which the log does nothing more.
    pub fn poisoned(&self) -> Option<WalError> {
        self.inner.shared.failed()
    }

    /// What the writer has done since the log was opened.
    pub fn stats(&self) -> WalStats {
        self.inner.shared.counters.read()
    }

    /// Writes what is queued, calls its completions, marks the end and ends the writer; other clones are
    /// closed too.
    pub fn close(self) {
        self.inner.close();
    }
}

impl fmt::Debug for Wal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wal")
            .field("last", &self.last())
            .finish_non_exhaustive()
    }
}

// === impl Inner ===

impl Inner {
    fn close(&self) {
        self.shared.begin_close();
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        // A completion that owns the last handle drops it on the writer's own thread.
        if let Some(thread) = thread.filter(|thread| thread.thread().id() != thread::current().id())
        {
            // A panic has been answered for in `spawn`.
            let _ = thread.join();
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.close();
    }
}

/// Recovers the log and makes its writer, which does not run yet.
fn prepare(
    disk: Arc<dyn Disk>,
    options: WalOptions,
    preparer: impl FnOnce(Directory) -> Result<Preparer, WalError>,
) -> Result<(Writer, Recovered), WalError> {
    options.check()?;
    let owner = Owner {
        cluster_id: options.cluster_id,
        node_id: options.node_id,
    };
    let WalOptions {
        dir: path,
        segment_bytes,
        cache_bytes,
        ..
    } = options;
    let lock = create_and_lock(disk.as_ref(), &path)?;
    let directory = Directory {
        disk,
        path,
        owner,
        segment_bytes,
    };
    let found = recovery::recover(&directory, cache_bytes)?;
    let recovered = Recovered::of(&found);
    let next_index = found.log.next();
    let writer = Writer {
        shared: Arc::new(Shared::new(found.log, found.files)),
        preparer: preparer(directory.clone())?,
        directory,
        active: found.active,
        sealed: found.sealed,
        head: found.head,
        next_index,
        batch: Batch::default(),
        unsynced: false,
        proven: found.proven,
        lock,
    };
    Ok((writer, recovered))
}

fn create_and_lock(disk: &dyn Disk, path: &Path) -> Result<DirLock, WalError> {
    let created = disk.create_dir_all(path);
    created.map_err(WalError::io("create the log directory", path))?;
    disk.lock_dir(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::WouldBlock => WalError::InUse {
            path: path.to_path_buf(),
        },
        _ => WalError::io("lock the log directory", path)(error),
    })
}

fn spawn(writer: Writer) -> Result<JoinHandle<()>, WalError> {
    let path = writer.directory.path.clone();
    let shared = Arc::clone(&writer.shared);
    thread::Builder::new()
        .name("wal-writer".to_owned())
        .spawn(move || {
            if catch_unwind(AssertUnwindSafe(|| writer.run())).is_err() {
                let cause = Arc::new(WalError::WriterPanicked);
                shared.fail(&WalError::Poisoned { cause }, Vec::new());
            }
        })
        .map_err(WalError::io("start the thread that writes", &path))
}

fn check_opaque(what: &'static str, bytes: &Bytes) -> Result<(), WalError> {
    let (bytes, limit) = (bytes.len(), MAX_OPAQUE_BYTES);
    if bytes > limit {
        return Err(WalError::TooLarge { what, bytes, limit });
    }
    Ok(())
}
