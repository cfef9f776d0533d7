//! The hot path of usage: a worker writes an Open before the upstream sees a byte, and a Close at the end.
//!
//! A recorder belongs to one worker, as its spool does. Writing is a copy into a memory map: no allocation once the
//! set of open calls has grown to its size, no system call but at a segment's end, nothing to wait for.
//!
//! Invariants:
//! * an attempt that cannot be recorded is refused before the upstream sees it: `open` fails first;
//! * room is kept for the Close of every Open: from 95 % of the spool's bound on (the flusher says when) no Open is
//!   written, and calls that begin then are only added up, until there is room again; Carries and sums leave the last
//!   part of the spool to Closes;
//! * a Carry is written only for a call that is open now, by the one thread that could close it; so in a spool the
//!   Close of a call always stands after its last Carry.
//!
//! Size: what is written, and what is owed where there is no room, is one state of one spool.

use std::cell::RefCell;
use std::collections::HashSet;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use metrics::counter;

use mode_envoy_storage::codec::CodecError;
use mode_envoy_storage::spool::{SpoolError, SpoolWriter};

pub(crate) use super::chance::wall_ms;
use super::record::{CARRY, CLOSE, CallId, Closed, OPEN, Opened, RECORD_MAX, TOTAL, VERSION};
use super::totals::Totals;
use crate::metrics as names;

#[cfg(test)]
mod recorder_test;

const CARRIES_WAIT: u8 = 1;
const NEARLY_FULL: u8 = 1 << 1;
const FAILED: u8 = 1 << 2;
/// A record found no room, in the spool or on its disk. None tries again before the flusher has looked, since each would
/// make a file in vain.
const NO_ROOM: u8 = 1 << 3;
/// It was the disk that had none.
const DISK_FULL: u8 = 1 << 4;

/// Attempts that are open at once without the set growing.
const OPEN_CAPACITY: usize = 4_096;

/// While the spool is nearly full, sums and Carries are written as long as more than this part of it is left, so that a
/// killed process loses few of the sums, and no call that is open for long keeps the spool full; what is left is for
/// Closes.
const ROOM_FOR_CLOSES: u64 = 40;

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
    /// The spool has no room for calls one by one, and what a call takes of limits is settled by its own record.
    #[error(
        "the usage spool has no room for what the call takes of limits: restore the cluster's quorum, so that it can be \
         counted and emptied"
    )]
    Limited,
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
    notice: Arc<Notice>,
    /// Attempts whose Open is in the spool.
    open: HashSet<Attempt>,
    /// Calls that the spool has no room for one by one.
    totals: Totals,
    /// Closes of open attempts that found no room at all, which does not happen where the flusher says in time that
    /// the spool is nearly full. Their Opens are in the spool, so they are no more than these.
    late: Vec<Late>,
}

/// What a worker that ends could not write.
#[derive(Debug, Eq, PartialEq)]
struct Left {
    /// Calls that were only added up.
    sums: u64,
    /// Attempts whose Close found no room.
    closes: usize,
}

/// A Close that waits for room.
#[derive(Debug)]
pub(crate) struct Late {
    pub(crate) attempt: Attempt,
    pub(crate) version: u8,
    pub(crate) wall_ms: u64,
    pub(crate) payload: Vec<u8>,
    /// It is of the last run, and may exceed the spool's bound: the spool cannot be emptied without it.
    pub(crate) presumed: bool,
}

// === impl Recorder ===

impl Recorder {
    pub(crate) fn new(writer: SpoolWriter, notice: Arc<Notice>) -> Self {
        let open = HashSet::with_capacity(OPEN_CAPACITY);
        Self {
            inner: RefCell::new(Inner {
                writer,
                notice: Arc::clone(&notice),
                open,
                totals: Totals::default(),
                late: Vec::new(),
            }),
            notice,
        }
    }

    /// The same, which owes the Closes of the last run: they are written when there is room for them.
    pub(crate) fn owing(mut self, presumed: Vec<Late>) -> Self {
        let inner = self.inner.get_mut();
        inner
            .open
            .extend(presumed.iter().map(|close| close.attempt));
        inner.late.extend(presumed);
        self
    }

    /// Whether something waits for room.
    pub(crate) fn has_waiting(&self) -> bool {
        self.inner.borrow().has_waiting()
    }

    /// Records that an attempt begins; where the spool is nearly full, its end alone will count.
    ///
    /// # Errors
    ///
    /// The attempt must not be sent then: its usage would be lost.
    pub fn open(&self, opened: &Opened<'_>) -> Result<(), RecordError> {
        let state = self.working()?;
        let inner = &mut *self.inner.borrow_mut();
        if state & (NEARLY_FULL | NO_ROOM) != 0 {
            return unrecorded(opened);
        }
        self.catch_up(inner, state);
        match inner.append((OPEN, VERSION), wall_ms(), |out| opened.encode_into(out)) {
            Ok(()) => {
                inner.open.insert((opened.call, opened.attempt));
                Ok(())
            }
            // Full before the flusher could say so.
            Err(RecordError::Full) => unrecorded(opened),
            Err(error) => Err(error),
        }
    }

    /// Records that an attempt ended.
    ///
    /// # Errors
    ///
    /// The spool failed. Where its Open is in the spool, the attempt stays open there and is presumed at the next start.
    pub fn close(&self, closed: &Closed<'_>) -> Result<(), RecordError> {
        let state = self.notice.state.load(Ordering::Acquire);
        let inner = &mut *self.inner.borrow_mut();
        let recorded = if inner.open.contains(&(closed.call, closed.attempt)) {
            inner.close_open(closed)
        } else {
            inner.close_alone(closed, state)
        };
        self.catch_up(inner, state);
        recorded
    }

    /// Records a call that is refused before any attempt: a Close without an Open.
    ///
    /// # Errors
    ///
    /// The refusal is not counted then.
    pub fn refuse(&self, closed: &Closed<'_>) -> Result<(), RecordError> {
        let state = self.working()?;
        let refused = Closed {
            rejected: true,
            answered: true,
            ..*closed
        };
        self.inner.borrow_mut().close_alone(&refused, state)
    }

    /// Writes what was added up while the spool was nearly full: all of it once there is room, until then what is of
    /// a minute that is over. Called now and then, whether there are calls or not.
    pub fn settle(&self) {
        let inner = &mut *self.inner.borrow_mut();
        let state = self.notice.state.load(Ordering::Acquire);
        inner.settle(state, wall_ms());
    }

    fn working(&self) -> Result<u8, RecordError> {
        match self.notice.state.load(Ordering::Acquire) {
            state if state & FAILED != 0 => Err(RecordError::Failed),
            state => Ok(state),
        }
    }

    /// What waits for its turn at a time when something is written anyway.
    fn catch_up(&self, inner: &mut Inner, state: u8) {
        if state & CARRIES_WAIT != 0 && inner.has_room_besides_closes(state) {
            self.carry(inner, state);
        }
        if inner.has_waiting() {
            inner.settle(state, wall_ms());
        }
    }

    /// Repeats the Opens that the flusher asked for, unless they have ended. A request that cannot be written is
    /// dropped: the flusher asks again while the call is old.
    fn carry(&self, inner: &mut Inner, state: u8) {
        for request in self.notice.take_carries() {
            if inner.open.contains(&request.attempt)
                && inner.has_room_besides_closes(state)
                && let Err(error) = inner.append((CARRY, request.version), wall_ms(), |out| {
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

impl Drop for Recorder {
    /// The worker and all its calls have ended: what was only added up is written as far as the spool can take it.
    fn drop(&mut self) {
        let Left { sums, closes } = self.inner.get_mut().finish();
        if sums > 0 {
            tracing::error!(
                calls = sums,
                "the usage spool is full to its end: these calls, which were only added up, are lost"
            );
        }
        if closes > 0 {
            tracing::error!(
                attempts = closes,
                "the usage spool is full to its end: how these attempts ended is lost; they are presumed at the next \
                 start"
            );
        }
    }
}

/// An attempt whose end alone will count.
fn unrecorded(opened: &Opened<'_>) -> Result<(), RecordError> {
    if opened.takes.is_empty() {
        Ok(())
    } else {
        Err(RecordError::Limited)
    }
}

// === impl Inner ===

impl Inner {
    /// Counts an end without an Open in the spool: as a record of its own, or where there is no room in a sum.
    fn close_alone(&mut self, closed: &Closed<'_>, state: u8) -> Result<(), RecordError> {
        if state & NEARLY_FULL == 0 {
            match self.append((CLOSE, VERSION), wall_ms(), |out| closed.encode_into(out)) {
                Err(RecordError::Full) => {}
                written => return written,
            }
        }
        counter!(names::USAGE_TOTALS_ONLY).increment(1);
        self.totals
            .add(wall_ms(), closed)
            .map_err(|_| RecordError::Spool(SpoolError::NotEncoded { room: RECORD_MAX }))
    }

    /// Records the end of an attempt whose Open is in the spool.
    fn close_open(&mut self, closed: &Closed<'_>) -> Result<(), RecordError> {
        let (attempt, wall_ms) = ((closed.call, closed.attempt), wall_ms());
        match self.append((CLOSE, VERSION), wall_ms, |out| closed.encode_into(out)) {
            Err(RecordError::Full) => {
                let mut payload = vec![0; RECORD_MAX];
                let encoded = closed.encode_into(&mut payload);
                payload.truncate(encoded.map_err(|_| RecordError::Full)?);
                payload.shrink_to_fit();
                self.late.push(Late {
                    attempt,
                    version: VERSION,
                    wall_ms,
                    payload,
                    presumed: false,
                });
                Ok(())
            }
            Err(error) => Err(error),
            Ok(()) => {
                self.open.remove(&attempt);
                Ok(())
            }
        }
    }

    fn has_waiting(&self) -> bool {
        !self.totals.is_empty() || !self.late.is_empty()
    }

    /// Whether there is room for what is not a Close.
    fn has_room_besides_closes(&self, state: u8) -> bool {
        state & (NEARLY_FULL | NO_ROOM) == 0
            || (state & NO_ROOM == 0 && self.writer.room() > self.room_for_closes())
    }

    fn room_for_closes(&self) -> u64 {
        self.writer.max_bytes() / ROOM_FOR_CLOSES
    }

    /// Writes all that waits, as far as there is room.
    fn finish(&mut self) -> Left {
        // Once more: nobody comes after it.
        self.notice.set(NO_ROOM, false);
        self.write_late();
        self.write_totals(u32::MAX, 0);
        Left {
            sums: self.totals.calls(),
            closes: self.late.len(),
        }
    }

    /// Writes the Closes that wait for room, as far as there is any.
    fn write_late(&mut self) {
        while let Some(late) = self.late.pop() {
            let (payload, version) = (&late.payload, late.version);
            self.writer.exceed_bound(late.presumed);
            let written = self.append((CLOSE, version), late.wall_ms, |out| {
                copy_into(payload, out)
            });
            self.writer.exceed_bound(false);
            match written {
                Ok(()) => {
                    self.open.remove(&late.attempt);
                }
                Err(_) => return self.late.push(late),
            }
        }
    }

    fn settle(&mut self, state: u8, now_ms: u64) {
        if !self.has_waiting() || state & (FAILED | NO_ROOM) != 0 {
            return;
        }
        self.write_late();
        if state & NEARLY_FULL == 0 {
            let calls = self.write_totals(u32::MAX, 0);
            if calls > 0 {
                tracing::info!(
                    calls,
                    "the usage spool has room again; calls that were only added up are in it now"
                );
            }
        } else {
            let minute = u32::try_from(now_ms / 60_000).unwrap_or(u32::MAX);
            self.write_totals(minute, self.room_for_closes());
        }
    }

    /// Writes sums of minutes before `before` while more than `left` bytes are free; how many calls they tell of.
    fn write_totals(&mut self, before: u32, left: u64) -> u64 {
        let mut calls = 0;
        while self.writer.room() > left
            && let Some(total) = self.totals.take_before(before)
        {
            if let Err(error) =
                self.append((TOTAL, VERSION), wall_ms(), |out| total.encode_into(out))
            {
                self.totals.put_back(total);
                if !matches!(error, RecordError::Full) {
                    tracing::warn!(%error, "calls that were added up could not be written to the spool");
                }
                break;
            }
            calls += total.calls();
        }
        calls
    }

    fn append(
        &mut self,
        (kind, version): (u8, u8),
        wall_ms: u64,
        encode: impl FnOnce(&mut [u8]) -> Result<usize, CodecError>,
    ) -> Result<(), RecordError> {
        if self.notice.state.load(Ordering::Acquire) & NO_ROOM != 0 {
            return Err(RecordError::Full);
        }
        let write = |out: &mut [u8]| encode(out).ok();
        match self
            .writer
            .append_with(kind, version, wall_ms, RECORD_MAX, write)
        {
            Ok(_) => Ok(()),
            Err(error) if error.is_full() => {
                self.notice.found_no_room(&error);
                Err(RecordError::Full)
            }
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

    /// Says whether the spool is so full that only Closes and sums may still be written.
    pub(crate) fn set_nearly_full(&self, full: bool) {
        self.set(NEARLY_FULL, full);
    }

    /// Whether the spool's disk was found full since this was asked last. From now on records try again.
    pub(crate) fn take_disk_full(&self) -> bool {
        let found = NO_ROOM | DISK_FULL;
        self.state.fetch_and(!found, Ordering::AcqRel) & DISK_FULL != 0
    }

    /// Says that a record found no room.
    pub(crate) fn found_no_room(&self, error: &SpoolError) {
        self.set(NO_ROOM, true);
        if matches!(error, SpoolError::DiskFull { .. }) {
            self.set(DISK_FULL, true);
        }
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
