//! What can be computed again, kept so that it need not be: the only user of sled.
//!
//! ```text
//! owner --get, put, retain--> one thread --> sled
//!    ^                            |
//!    +---- empty again <----------+  whatever goes wrong
//! ```
//!
//! sled 0.34 keeps no promise over a power cut, may lose records silently where a byte has changed, panics where it
//! meets what it does not expect, and gives no space back. So nothing is kept here that is not elsewhere, and what
//! is read is believed only if it can be shown to be what was put there.
//!
//! Invariants:
//! * [`Projection::get`] returns what the last [`Projection::put`] of that key gave, or nothing, or an error: never
//!   another value, an older one or part of one;
//! * any fault ends the database: it is set aside, and an empty one takes its place;
//! * deleting the directory at any time, running or stopped, costs computing it again and nothing else;
//! * a caller waits a bounded time.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

mod directory;
mod error;
mod ledger;
mod piece;
mod store;
mod worker;

#[cfg(test)]
mod projection_test;

pub use error::ProjectionError;

use directory::{Directory, Place};
use worker::{Request, Worker};

/// A key has at most so many bytes.
pub const MAX_KEY_BYTES: usize = 255;
/// A value has at most so many bytes.
pub const MAX_VALUE_BYTES: usize = 1024 * 1024;
/// Entries of one [`Projection::put`].
pub const MAX_ENTRIES: usize = 4_096;

/// sled's cache.
const CACHE_BYTES: u64 = 64 * 1024 * 1024;
/// A smaller file is never written anew.
const REWRITE_ABOVE: u64 = 64 * 1024 * 1024;

/// Questions that may wait.
const WAITING: usize = 64;
/// How long an answer is waited for.
const GET_WITHIN: Duration = Duration::from_secs(1);
/// How long a change may take, a rewrite included.
const CHANGE_WITHIN: Duration = Duration::from_mins(2);
/// How long the end may take; what is not written then is computed again.
const END_WITHIN: Duration = Duration::from_secs(3);

/// What a value is found by.
pub type Key = Vec<u8>;

/// Where a projection lives, and whose it is.
#[derive(Clone, Debug)]
pub struct ProjectionOptions {
    /// A directory of its own; it is created.
    pub dir: PathBuf,
    /// The cluster that it belongs to.
    pub cluster_id: [u8; 16],
    /// The node that it belongs to.
    pub node_id: u64,
    /// Bytes of memory that sled may use as a cache.
    pub cache_bytes: u64,
    /// A file that is larger than this, and than four times what lives in it, is written anew.
    pub rewrite_above: u64,
}

/// What can be computed again.
#[derive(Debug)]
pub struct Projection {
    /// Taken at the end.
    requests: Option<SyncSender<Request>>,
    ended: Mutex<Receiver<()>>,
    stats: Arc<Mutex<Stats>>,
}

/// How a projection is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Whether it answers.
    pub ready: bool,
    /// What the owner said last with [`Projection::put`]; `None` where it is empty.
    pub applied: Option<u64>,
    /// Values.
    pub values: u64,
    /// Bytes of what lives.
    pub live_bytes: u64,
    /// Bytes of the files.
    pub size_on_disk: u64,
    /// Values in files of their own; never more than 0 for long.
    pub blobs: u64,
    /// How often it could not be used and began anew.
    pub rebuilds: u64,
    /// How often it was written anew, since it had grown.
    pub rewrites: u64,
}

// === impl ProjectionOptions ===

impl ProjectionOptions {
    /// Options with the default sizes.
    pub fn new(dir: impl Into<PathBuf>, cluster_id: [u8; 16], node_id: u64) -> Self {
        Self {
            dir: dir.into(),
            cluster_id,
            node_id,
            cache_bytes: CACHE_BYTES,
            rewrite_above: REWRITE_ABOVE,
        }
    }
}

// === impl Projection ===

impl Projection {
    /// Begins to open a projection. Until it is opened and checked, it is not ready.
    ///
    /// # Errors
    /// [`ProjectionError::Thread`]; whatever is wrong with the files makes it begin anew instead.
    pub fn open(options: ProjectionOptions) -> Result<Self, ProjectionError> {
        let (requests, asked) = sync_channel(WAITING);
        let (ends, ended) = sync_channel(1);
        let stats = Arc::new(Mutex::new(Stats::default()));
        let dir = options.dir.clone();
        let worker = Worker::new(options, Arc::clone(&stats));
        let work = move || {
            worker.run(&asked);
            // The error is that nobody waits for it.
            let _ = ends.send(());
        };
        let thread = thread::Builder::new().name("projection".to_owned());
        thread
            .spawn(work)
            .map_err(|source| ProjectionError::Thread { dir, source })?;
        Ok(Self {
            requests: Some(requests),
            ended: Mutex::new(ended),
            stats,
        })
    }

    /// The value that was put under a key last, if it is still there.
    ///
    /// # Errors
    /// Whatever it is, ask what the projection was computed from; see [`ProjectionError`].
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, ProjectionError> {
        check_key(key)?;
        if !self.stats().ready {
            return Err(ProjectionError::NotReady);
        }
        self.ask(GET_WITHIN, |reply| Request::Get(key.to_vec(), reply))
    }

    /// Puts values in place of those that are there. `applied` is kept with them: what the owner had applied when it
    /// computed them. If a crash cuts this short, each value is the old or the new one, and `applied` the old.
    ///
    /// # Errors
    /// [`ProjectionError::Key`], [`ProjectionError::Value`] or [`ProjectionError::Entries`] beyond the limits, and
    /// nothing is changed; else it must be done again, see [`ProjectionError`].
    pub fn put(&self, entries: Vec<(Key, Vec<u8>)>, applied: u64) -> Result<(), ProjectionError> {
        if entries.len() > MAX_ENTRIES {
            let entries = entries.len();
            return Err(ProjectionError::Entries { entries });
        }
        for (key, value) in &entries {
            check_key(key)?;
            let bytes = value.len();
            if bytes > MAX_VALUE_BYTES {
                return Err(ProjectionError::Value { bytes });
            }
        }
        let entries = entries.into_iter().collect();
        self.ask(CHANGE_WITHIN, |reply| Request::Put(entries, applied, reply))
    }

    /// Removes all values whose keys begin with `prefix` and are below `oldest`.
    ///
    /// # Errors
    /// It must be done again, see [`ProjectionError`].
    pub fn retain(&self, prefix: &[u8], oldest: &[u8]) -> Result<(), ProjectionError> {
        let (prefix, oldest) = (prefix.to_vec(), oldest.to_vec());
        self.ask(CHANGE_WITHIN, |reply| {
            Request::Retain(prefix, oldest, reply)
        })
    }

    /// How it is; never waits.
    pub fn stats(&self) -> Stats {
        *self.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ask<T>(
        &self,
        within: Duration,
        request: impl FnOnce(SyncSender<Result<T, ProjectionError>>) -> Request,
    ) -> Result<T, ProjectionError> {
        let (reply, answer) = sync_channel(1);
        let requests = self.requests.as_ref().ok_or(ProjectionError::Ended)?;
        requests
            .try_send(request(reply))
            .map_err(|error| match error {
                TrySendError::Full(_) => ProjectionError::Busy(Duration::ZERO),
                TrySendError::Disconnected(_) => ProjectionError::Ended,
            })?;
        match answer.recv_timeout(within) {
            Ok(result) => result,
            Err(RecvTimeoutError::Timeout) => Err(ProjectionError::Busy(within)),
            Err(RecvTimeoutError::Disconnected) => Err(ProjectionError::Ended),
        }
    }
}

impl Drop for Projection {
    fn drop(&mut self) {
        drop(self.requests.take());
        let ended = self.ended.get_mut().unwrap_or_else(PoisonError::into_inner);
        if ended.recv_timeout(END_WITHIN).is_err() {
            tracing::warn!("the projection does not end; its files are left as they are");
        }
    }
}

fn check_key(key: &[u8]) -> Result<(), ProjectionError> {
    match key.len() {
        1..=MAX_KEY_BYTES => Ok(()),
        bytes => Err(ProjectionError::Key { bytes }),
    }
}
