//! What callers and the writer's thread share: the log, the queue, the open files and the counters.
//!
//! Invariants:
//! * one mutex covers the log and the queue, so the queue's order is the order in which callers saw
//!   the log change;
//! * once `failed` is set it stays, and no completion is left uncalled;
//! * completions are called without the mutex held.

use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use super::log::{Log, Queued, Source};
use super::record::{Decoded, MAX_PAYLOAD, PREFIX};
use super::{Done, Position, Record, WalError, WalStats};
use crate::disk::DiskFile;
use crate::frame::{self, Parsed};

/// How many bytes of records the writer takes from the queue for one batch.
const DRAIN_BYTES: usize = 4 * 1024 * 1024;

/// How long a committed position waits for a batch to travel with.
const COMMIT_LINGER: Duration = Duration::from_millis(50);

/// Both sides' view of one open log.
#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    wake: Condvar,
    /// Called instead, where the log is written in steps.
    #[cfg(any(test, feature = "testing"))]
    pub(super) wake_hook: std::sync::OnceLock<WakeHook>,
    pub(super) counters: Counters,
}

/// What the mutex covers.
#[derive(Debug)]
pub(super) struct State {
    pub(super) log: Log,
    pub(super) files: BTreeMap<u64, SegmentFile>,
    queue: VecDeque<Op>,
    committed: Option<Bytes>,
    closing: bool,
    failed: Option<WalError>,
}

/// An open segment, for reading.
#[derive(Clone, Debug)]
pub(super) struct SegmentFile {
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) path: PathBuf,
    pub(super) seed: u32,
}

/// What is called when there is work.
#[cfg(any(test, feature = "testing"))]
pub(super) struct WakeHook(pub(super) Box<dyn Fn() + Send + Sync>);

/// One request to the writer.
pub(super) struct Op {
    pub(super) work: Work,
    pub(super) done: Done,
}

/// What a request asks for.
#[derive(Debug)]
pub(super) enum Work {
    Append(Vec<Queued>),
    Vote(Bytes),
    Truncate(u64),
    Purge(Position, Bytes),
    /// Only to answer in order.
    Nothing,
}

/// What the writer does next.
pub(super) enum Next {
    Batch {
        ops: Vec<Op>,
        committed: Option<Bytes>,
    },
    /// Nothing came for a while: write the committed position, unsynced.
    Commit(Bytes),
    Close {
        committed: Option<Bytes>,
    },
}

/// What the writer has done since the log was opened.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) batches: AtomicU64,
    pub(super) records: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) sync_micros_sum: AtomicU64,
    pub(super) sync_micros_max: AtomicU64,
    pub(super) segments_created: AtomicU64,
    pub(super) disk_bytes: AtomicU64,
}

// === impl Shared ===

impl Shared {
    pub(super) fn new(log: Log, files: BTreeMap<u64, SegmentFile>) -> Self {
        let state = State {
            log,
            files,
            queue: VecDeque::new(),
            committed: None,
            closing: false,
            failed: None,
        };
        Self {
            state: Mutex::new(state),
            wake: Condvar::new(),
            #[cfg(any(test, feature = "testing"))]
            wake_hook: std::sync::OnceLock::new(),
            counters: Counters::default(),
        }
    }

    fn notify(&self) {
        #[cfg(any(test, feature = "testing"))]
        if let Some(hook) = self.wake_hook.get() {
            (hook.0)();
        }
        self.wake.notify_one();
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the log and queues the work for it, or answers at once with the refusal.
    pub(super) fn submit(
        &self,
        done: Done,
        change: impl FnOnce(&mut Log) -> Result<Work, WalError>,
    ) {
        let mut state = self.lock();
        let work = state.usable().and_then(|()| change(&mut state.log));
        match work {
            Ok(work) => {
                state.queue.push_back(Op { work, done });
                drop(state);
                self.notify();
            }
            Err(error) => {
                drop(state);
                done(Err(error));
            }
        }
    }

    /// Leaves a committed position for the next batch; a newer one replaces it.
    pub(super) fn offer_committed(&self, committed: Bytes) {
        let mut state = self.lock();
        let first = state.committed.replace(committed).is_none();
        drop(state);
        if first {
            self.notify();
        }
    }

    /// Reads records from memory or disk.
    pub(super) fn read(&self, from: u64, to: u64, max: usize) -> Result<Vec<Record>, WalError> {
        let (sources, files) = {
            let state = self.lock();
            if let Some(error) = &state.failed {
                return Err(error.clone());
            }
            let sources = state.log.sources(from, to, max);
            let mut files = BTreeMap::new();
            for (_, source) in &sources {
                if let Source::Disk { segment, .. } = source
                    && let Some(file) = state.files.get(segment)
                {
                    files.entry(*segment).or_insert_with(|| file.clone());
                }
            }
            (sources, files)
        };
        let mut records = Vec::with_capacity(sources.len());
        for (position, source) in sources {
            let payload = match source {
                Source::Memory(payload) => payload,
                Source::Disk {
                    segment,
                    offset,
                    len,
                } => match files.get(&segment) {
                    Some(file) => file.read(position, offset, len)?,
                    None => return Err(WalError::Closed),
                },
            };
            records.push(Record { position, payload });
        }
        Ok(records)
    }

    /// The work that there is; a committed position that nothing travels with only where it has lingered.
    #[cfg(any(test, feature = "testing"))]
    pub(super) fn try_next(&self, lingered: bool) -> Option<Next> {
        let mut state = self.lock();
        if !state.queue.is_empty() {
            let ops = drain(&mut state.queue);
            let committed = state.committed.take();
            return Some(Next::Batch { ops, committed });
        }
        if state.closing {
            let committed = state.committed.take();
            return Some(Next::Close { committed });
        }
        let committed = lingered.then(|| state.committed.take()).flatten();
        committed.map(Next::Commit)
    }

    /// Waits for work.
    pub(super) fn next(&self) -> Next {
        let mut state = self.lock();
        loop {
            if !state.queue.is_empty() {
                let ops = drain(&mut state.queue);
                return Next::Batch {
                    ops,
                    committed: state.committed.take(),
                };
            }
            if state.closing {
                return Next::Close {
                    committed: state.committed.take(),
                };
            }
            if state.committed.is_none() {
                state = self
                    .wake
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let waited = self.wake.wait_timeout(state, COMMIT_LINGER);
            let (guard, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            state = guard;
            if timeout.timed_out()
                && state.queue.is_empty()
                && let Some(committed) = state.committed.take()
            {
                return Next::Commit(committed);
            }
        }
    }

    pub(super) fn begin_close(&self) {
        self.lock().closing = true;
        self.notify();
    }

    /// Refuses everything from now on, and answers what is in work, then what is queued.
    pub(super) fn fail(&self, error: &WalError, in_work: Vec<Done>) {
        let mut state = self.lock();
        state.failed.get_or_insert_with(|| error.clone());
        let queue = std::mem::take(&mut state.queue);
        drop(state);
        for done in in_work
            .into_iter()
            .chain(queue.into_iter().map(|op| op.done))
        {
            call(done, Err(error.clone()));
        }
    }

    /// The failure that poisoned the log.
    pub(super) fn failed(&self) -> Option<WalError> {
        self.lock()
            .failed
            .clone()
            .filter(|error| !matches!(error, WalError::Closed))
    }
}

// === impl State ===

impl State {
    fn usable(&self) -> Result<(), WalError> {
        match &self.failed {
            Some(error) => Err(error.clone()),
            None if self.closing => Err(WalError::Closed),
            None => Ok(()),
        }
    }
}

// === impl SegmentFile ===

impl SegmentFile {
    fn read(&self, position: Position, offset: u64, len: usize) -> Result<Bytes, WalError> {
        let mut buf = vec![0; frame::size(PREFIX + len)];
        let read = self.file.read_at(&mut buf, offset);
        let read = read.map_err(WalError::io("read the log segment", &self.path))?;
        buf.truncate(read);
        let intact = match frame::parse(&buf, self.seed, MAX_PAYLOAD) {
            Parsed::Frame(frame) => Decoded::from_frame(&frame)
                .is_some_and(|record| record.position == position && record.body.len() == len),
            Parsed::End | Parsed::Damaged => false,
        };
        if !intact {
            let what = format!(
                "the record of index {} changed after it was written",
                position.index
            );
            return Err(WalError::damaged(&self.path, offset, what));
        }
        let start = frame::HEAD + PREFIX;
        Ok(Bytes::from(buf).slice(start..start + len))
    }
}

#[cfg(any(test, feature = "testing"))]
impl std::fmt::Debug for WakeHook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WakeHook")
    }
}

// === impl Op ===

impl std::fmt::Debug for Op {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Op").field(&self.work).finish()
    }
}

impl Op {
    fn bytes(&self) -> usize {
        match &self.work {
            Work::Append(records) => records.iter().map(|r| r.record.payload.len()).sum(),
            Work::Vote(_) | Work::Truncate(_) | Work::Purge(..) | Work::Nothing => 0,
        }
    }
}

// === impl Counters ===

impl Counters {
    pub(super) fn synced(&self, records: u64, bytes: u64, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.batches.fetch_add(1, Ordering::Relaxed);
        self.records.fetch_add(records, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.sync_micros_sum.fetch_add(micros, Ordering::Relaxed);
        self.sync_micros_max.fetch_max(micros, Ordering::Relaxed);
    }

    pub(super) fn read(&self) -> WalStats {
        WalStats {
            batches: self.batches.load(Ordering::Relaxed),
            records: self.records.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            sync_micros_sum: self.sync_micros_sum.load(Ordering::Relaxed),
            sync_micros_max: self.sync_micros_max.load(Ordering::Relaxed),
            segments_created: self.segments_created.load(Ordering::Relaxed),
            disk_bytes: self.disk_bytes.load(Ordering::Relaxed),
        }
    }
}

/// Calls a completion; false if it panicked, which must not keep the others from being called.
pub(super) fn call(done: Done, result: Result<(), WalError>) -> bool {
    catch_unwind(AssertUnwindSafe(|| done(result))).is_ok()
}

fn drain(queue: &mut VecDeque<Op>) -> Vec<Op> {
    let mut bytes = 0;
    let mut ops = Vec::new();
    while let Some(op) = queue.pop_front() {
        bytes += op.bytes();
        ops.push(op);
        if bytes >= DRAIN_BYTES {
            break;
        }
    }
    ops
}
