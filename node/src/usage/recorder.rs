//! The hot path of usage: a worker writes an Open before the upstream sees a byte, and a Close at the end.
//!
//! A recorder belongs to one worker, as its spool does. Writing is a copy into a memory map: no allocation once the
//! set of open calls has grown to its size, no system call but at a segment's end, nothing to wait for.
//!
//! Invariants:
//! * an attempt that cannot be recorded is refused before the upstream sees it: `open` fails first;
//! * room is kept for the Close of every Open: opens stop at 95 % of the spool's bound (the flusher says when);
//! * a Carry is written only for a call that is open now, by the one thread that could close it; so in a spool the
//!   Close of a call always stands after its last Carry.

use std::cell::RefCell;
use std::collections::HashSet;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use mode_envoy_storage::codec::CodecError;
use mode_envoy_storage::spool::{SpoolError, SpoolWriter};

use super::record::{CARRY, CLOSE, CallId, Closed, OPEN, Opened, RECORD_MAX, VERSION};

const CARRIES_WAIT: u8 = 1;
const NEARLY_FULL: u8 = 1 << 1;
const FAILED: u8 = 1 << 2;

/// Attempts that are open at once without the set growing.
const OPEN_CAPACITY: usize = 4_096;

/// One attempt of one call.
pub(crate) type Attempt = (CallId, u8);

/// Writes the usage of one worker. `Send`, so that it can move to its worker; used by that worker alone.
pub struct Recorder {
    inner: RefCell<Inner>,
    notice: Arc<Notice>,
}

/// Why usage could not be recorded.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The spool is at its bound, since the cluster has had no quorum for long.
    #[error(
        "the usage spool is full: restore the cluster's quorum, so that it can be counted and emptied"
    )]
    Full,
    /// The spool's disk failed; nothing can be recorded any more.
    #[error("the usage spool has failed: look at the node's log, repair its disk and restart it")]
    Failed,
    /// The record could not be written.
    #[error("usage of the call could not be written to the spool")]
    Spool(#[source] SpoolError),
}

/// What the flusher tells a recorder, which looks at one byte of it for each record.
#[derive(Debug, Default)]
pub(crate) struct Notice {
    state: AtomicU8,
    carries: Mutex<Vec<CarryRequest>>,
}

/// A call that has been open for long: its Open is to be repeated at the tail.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct CarryRequest {
    pub(crate) attempt: Attempt,
    /// The version of its Open.
    pub(crate) version: u8,
    /// The payload of its Open.
    pub(crate) payload: Vec<u8>,
}

struct Inner {
    writer: SpoolWriter,
    open: HashSet<Attempt>,
}

// === impl Recorder ===

impl Recorder {
    pub(crate) fn new(writer: SpoolWriter, notice: Arc<Notice>) -> Self {
        let open = HashSet::with_capacity(OPEN_CAPACITY);
        Self {
            inner: RefCell::new(Inner { writer, open }),
            notice,
        }
    }

    /// Records that an attempt begins.
    ///
    /// # Errors
    ///
    /// The attempt must not be sent then: its usage would be lost.
    pub fn open(&self, opened: &Opened<'_>) -> Result<(), RecordError> {
        let state = self.notice.state.load(Ordering::Acquire);
        admit(state)?;
        let inner = &mut *self.inner.borrow_mut();
        if state & CARRIES_WAIT != 0 {
            self.carry(inner);
        }
        inner.append(OPEN, VERSION, |out| opened.encode_into(out))?;
        inner.open.insert((opened.call, opened.attempt));
        Ok(())
    }

    /// Records that an attempt ended.
    ///
    /// # Errors
    ///
    /// The attempt stays open in the spool then, and is presumed at the next start.
    pub fn close(&self, closed: &Closed<'_>) -> Result<(), RecordError> {
        let inner = &mut *self.inner.borrow_mut();
        inner.append(CLOSE, VERSION, |out| closed.encode_into(out))?;
        inner.open.remove(&(closed.call, closed.attempt));
        if self.notice.state.load(Ordering::Acquire) & CARRIES_WAIT != 0 {
            self.carry(inner);
        }
        Ok(())
    }

    /// Records a call that is refused before any attempt: a Close without an Open.
    ///
    /// # Errors
    ///
    /// The refusal is not counted then.
    pub fn refuse(&self, closed: &Closed<'_>) -> Result<(), RecordError> {
        admit(self.notice.state.load(Ordering::Acquire))?;
        let refused = Closed {
            rejected: true,
            answered: true,
            ..*closed
        };
        self.inner
            .borrow_mut()
            .append(CLOSE, VERSION, |out| refused.encode_into(out))
    }

    /// Repeats the Opens that the flusher asked for, unless they have ended. A request that cannot be written is
    /// dropped: the flusher asks again while the call is old.
    fn carry(&self, inner: &mut Inner) {
        for request in self.notice.take_carries() {
            if inner.open.contains(&request.attempt)
                && let Err(error) = inner.append(CARRY, request.version, |out| {
                    copy_into(&request.payload, out)
                })
            {
                tracing::warn!(%error, "a long open call could not be carried to the spool's tail");
            }
        }
    }
}

impl std::fmt::Debug for Recorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recorder")
            .field("notice", &self.notice)
            .finish_non_exhaustive()
    }
}

// === impl Inner ===

impl Inner {
    fn append(
        &mut self,
        kind: u8,
        version: u8,
        encode: impl FnOnce(&mut [u8]) -> Result<usize, CodecError>,
    ) -> Result<(), RecordError> {
        let write = |out: &mut [u8]| encode(out).ok();
        match self
            .writer
            .append_with(kind, version, wall_ms(), RECORD_MAX, write)
        {
            Ok(_) => Ok(()),
            Err(error) if error.is_full() => Err(RecordError::Full),
            Err(error) => Err(RecordError::Spool(error)),
        }
    }
}

// === impl Notice ===

impl Notice {
    /// Asks for Opens to be repeated at the tail, unless an earlier request still waits for its worker.
    pub(crate) fn ask_to_carry(&self, requests: impl FnOnce() -> Vec<CarryRequest>) {
        let mut carries = self.carries.lock().unwrap_or_else(PoisonError::into_inner);
        if carries.is_empty() {
            *carries = requests();
            self.set(CARRIES_WAIT, !carries.is_empty());
        }
    }

    /// Says whether the spool is so full that only Closes may still be written.
    pub(crate) fn set_nearly_full(&self, full: bool) {
        self.set(NEARLY_FULL, full);
    }

    /// Says that the spool's disk failed. It stays so.
    pub(crate) fn set_failed(&self) {
        self.set(FAILED, true);
    }

    fn take_carries(&self) -> Vec<CarryRequest> {
        let mut carries = self.carries.lock().unwrap_or_else(PoisonError::into_inner);
        self.set(CARRIES_WAIT, false);
        std::mem::take(&mut carries)
    }

    fn set(&self, bit: u8, on: bool) {
        if on {
            self.state.fetch_or(bit, Ordering::Release);
        } else {
            self.state.fetch_and(!bit, Ordering::Release);
        }
    }
}

const fn admit(state: u8) -> Result<(), RecordError> {
    if state & FAILED != 0 {
        Err(RecordError::Failed)
    } else if state & NEARLY_FULL != 0 {
        Err(RecordError::Full)
    } else {
        Ok(())
    }
}

fn copy_into(payload: &[u8], out: &mut [u8]) -> Result<usize, CodecError> {
    match out.get_mut(..payload.len()) {
        Some(room) => {
            room.copy_from_slice(payload);
            Ok(payload.len())
        }
        None => Err(CodecError::NoRoom {
            ty: "a carried open",
            room: out.len(),
        }),
    }
}

/// Unix milliseconds.
pub(crate) fn wall_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::usage::record::{Asked, Dims, Record};
    use crate::usage::recovery::{self, Spool};
    use crate::usage::testing::settings;

    const CALL: CallId = CallId([1; 16]);

    fn recorder(dir: &std::path::Path) -> (Recorder, Spool) {
        let mut recovered = recovery::open(&settings(dir, 1)).unwrap();
        (recovered.recorders.remove(0), recovered.spools.remove(0))
    }

    fn open(recorder: &Recorder, dims: &Dims) -> Result<(), RecordError> {
        let (call, attempt) = (CALL, 0);
        recorder.open(&Opened {
            call,
            attempt,
            dims,
            asked: Asked::default(),
            reserved_input: 1,
            bytes_in: 4,
        })
    }

    fn kinds(spool: &mut Spool) -> Vec<u8> {
        let records = spool.reader.read(1, 100, 1 << 20).unwrap();
        let sound = |r: &mode_envoy_storage::spool::SpoolRecord| {
            Record::parse(r.kind, r.version, &r.payload).is_ok()
        };
        assert!(records.iter().all(sound));
        records.iter().map(|record| record.kind).collect()
    }

    #[test]
    fn a_spool_that_is_nearly_full_takes_closes_but_no_opens() {
        let (dir, dims) = (tempfile::tempdir().unwrap(), Dims::empty());
        let (recorder, mut spool) = recorder(dir.path());
        open(&recorder, &dims).unwrap();
        let notice = spool.notice.take().unwrap();
        notice.set_nearly_full(true);
        let closed = Closed::of(CALL, 0, &dims);
        assert!(matches!(open(&recorder, &dims), Err(RecordError::Full)));
        assert!(matches!(recorder.refuse(&closed), Err(RecordError::Full)));
        recorder.close(&closed).unwrap();
        notice.set_nearly_full(false);
        open(&recorder, &dims).unwrap();
        assert_eq!(kinds(&mut spool), [OPEN, CLOSE, OPEN]);
    }

    #[test]
    fn after_a_failure_of_the_disk_nothing_is_opened_any_more() {
        let (dir, dims) = (tempfile::tempdir().unwrap(), Dims::empty());
        let (recorder, spool) = recorder(dir.path());
        spool.notice.unwrap().set_failed();
        assert!(matches!(open(&recorder, &dims), Err(RecordError::Failed)));
    }

    #[test]
    fn only_a_call_that_is_still_open_is_carried() {
        let (dir, dims) = (tempfile::tempdir().unwrap(), Dims::empty());
        let (recorder, mut spool) = recorder(dir.path());
        let notice = spool.notice.take().unwrap();
        let mut payload = vec![0; RECORD_MAX];
        let (call, attempt) = (CALL, 0);
        let opened = Opened {
            call,
            attempt,
            dims: &dims,
            asked: Asked::default(),
            reserved_input: 1,
            bytes_in: 4,
        };
        let len = opened.encode_into(&mut payload).unwrap();
        payload.truncate(len);
        let ask = || {
            vec![CarryRequest {
                attempt: (CALL, 0),
                version: VERSION,
                payload: payload.clone(),
            }]
        };

        open(&recorder, &dims).unwrap();
        notice.ask_to_carry(ask);
        recorder
            .refuse(&Closed::of(CallId([2; 16]), 0, &dims))
            .unwrap();
        recorder
            .close(&Closed::of(CallId([3; 16]), 0, &dims))
            .unwrap();
        recorder.close(&Closed::of(CALL, 0, &dims)).unwrap();
        notice.ask_to_carry(ask);
        recorder
            .close(&Closed::of(CallId([4; 16]), 0, &dims))
            .unwrap();
        assert_eq!(kinds(&mut spool), [OPEN, CLOSE, CLOSE, CARRY, CLOSE, CLOSE]);
    }

    #[test]
    fn a_refusal_is_one_close_without_an_open() {
        let (dir, dims) = (tempfile::tempdir().unwrap(), Dims::empty());
        let (recorder, mut spool) = recorder(dir.path());
        let closed = Closed {
            status: 401,
            ..Closed::of(CALL, 0, &dims)
        };
        recorder.refuse(&closed).unwrap();
        let record = spool.reader.read(1, 1, 1 << 20).unwrap().remove(0);
        let parsed = Record::parse(record.kind, record.version, &record.payload);
        assert!(matches!(parsed, Ok(Record::Close(head, _)) if head.rejected() && head.answered()));
    }
}
