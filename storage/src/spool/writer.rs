//! The side of a spool that a data-plane worker owns.
//!
//! Invariants: an append costs a copy and a checksum, and makes a system call only where a segment
//! ends; bytes behind the last record are zero whenever no append is running.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::map::{MARK_BYTES, Tail};
use super::shared::{Segment, Shared};
use super::{MAX_PAYLOAD_BYTES, SpoolError};
use crate::frame::{self, HEAD};

/// Bytes of a record before its payload: the frame's head and the time.
pub(super) const RECORD_HEAD: usize = HEAD + WALL;

/// Bytes of the time.
pub(super) const WALL: usize = 8;

/// Appends records. One thread owns it.
#[derive(Debug)]
pub struct SpoolWriter {
    shared: Arc<Shared>,
    segment: Arc<Segment>,
    tail: Tail,
    next_seq: u64,
    last_crc: u32,
    max_payload: usize,
    /// How many spare bytes a running append may have written to.
    dirty: usize,
}

/// Where a recovered spool goes on.
#[derive(Debug)]
pub(super) struct WriterTail {
    pub(super) segment: Arc<Segment>,
    pub(super) tail: Tail,
    pub(super) last_crc: u32,
}

// === impl SpoolWriter ===

impl SpoolWriter {
    pub(super) fn new(shared: Arc<Shared>, tail: WriterTail) -> Self {
        let WriterTail {
            segment,
            tail,
            last_crc,
        } = tail;
        let next_seq = shared.next_seq.load(Ordering::Relaxed);
        // A record must fit every segment that will be begun, whatever the size of this one.
        let room = shared
            .segment_bytes
            .saturating_sub(MARK_BYTES + segment.start);
        let max_payload = MAX_PAYLOAD_BYTES.min(room.saturating_sub(frame::size(WALL)));
        Self {
            shared,
            segment,
            tail,
            next_seq,
            last_crc,
            max_payload,
            dirty: 0,
        }
    }

    /// Appends a record and returns its sequence number.
    ///
    /// # Errors
    /// As [`SpoolWriter::append_with`].
    pub fn append(
        &mut self,
        kind: u8,
        version: u8,
        wall_ms: u64,
        payload: &[u8],
    ) -> Result<u64, SpoolError> {
        self.append_with(kind, version, wall_ms, payload.len(), |out| {
            out.copy_from_slice(payload);
            Some(payload.len())
        })
    }

    /// Appends a record whose payload `write` encodes straight into the spool. It is given `max_len`
    /// bytes (a close bound is cheapest) and returns how many it used, or `None` to give up.
    ///
    /// # Errors
    /// [`SpoolError::Full`] or [`SpoolError::DiskFull`] if there is no room, [`SpoolError::TooLarge`],
    /// [`SpoolError::NotEncoded`] if `write` gave up, [`SpoolError::Failed`] after a failed sync,
    /// [`SpoolError::Io`] for what the system reports. Nothing is appended then.
    pub fn append_with(
        &mut self,
        kind: u8,
        version: u8,
        wall_ms: u64,
        max_len: usize,
        write: impl FnOnce(&mut [u8]) -> Option<usize>,
    ) -> Result<u64, SpoolError> {
        let room = self.make_room(max_len)?;
        self.dirty = room;
        let spare = &mut self.tail.spare()[..room];
        let written = write(&mut spare[RECORD_HEAD..RECORD_HEAD + max_len]);
        let Some(len) = written.filter(|len| *len <= max_len) else {
            self.clean();
            return Err(SpoolError::NotEncoded { room: max_len });
        };
        let (record, rest) = spare.split_at_mut(RECORD_HEAD + len);
        rest.fill(0);
        record[HEAD..RECORD_HEAD].copy_from_slice(&wall_ms.to_le_bytes());
        let head = frame::head(self.segment.seed, kind, version, &[&record[HEAD..]]);
        record[4..HEAD].copy_from_slice(&head[4..]);
        self.tail.publish(
            [head[0], head[1], head[2], head[3]],
            frame::size(WALL + len),
        );
        self.dirty = 0;
        self.last_crc = frame::crc_of(&head);
        let seq = self.next_seq;
        self.next_seq += 1;
        self.shared.next_seq.store(self.next_seq, Ordering::Release);
        Ok(seq)
    }

    /// Sees to it that the next record fits the segment; returns its size at most.
    fn make_room(&mut self, max_len: usize) -> Result<usize, SpoolError> {
        self.shared.check_usable()?;
        let (bytes, limit) = (max_len, self.max_payload);
        if bytes > limit {
            return Err(SpoolError::TooLarge { bytes, limit });
        }
        self.clean();
        let room = frame::size(WALL + max_len);
        if self.tail.spare().len() < room {
            self.roll()?;
        }
        Ok(room)
    }

    /// Lets records exceed the bound, or not any more: for what must be written before anything else can go on, and
    /// is not much by itself.
    pub fn exceed_bound(&mut self, exceed: bool) {
        self.shared.unbounded.store(exceed, Ordering::Relaxed);
    }

    /// What all segments may take together.
    pub fn max_bytes(&self) -> u64 {
        self.shared.max_bytes
    }

    /// How many bytes are left for records within the bound.
    pub fn room(&self) -> u64 {
        let region = &self.segment.region;
        let here = (region.capacity() - region.published().len()) as u64;
        let bytes = self.shared.bytes.load(Ordering::Relaxed);
        let segments =
            self.shared.max_bytes.saturating_sub(bytes) / self.shared.segment_bytes as u64;
        here + segments * self.shared.segment_bytes as u64
    }

    /// The longest payload this spool takes.
    pub fn max_payload(&self) -> usize {
        self.max_payload
    }

    /// Zeroes what an append wrote that did not come to its end (its encoder gave up or panicked).
    fn clean(&mut self) {
        if self.dirty > 0 {
            let dirty = std::mem::take(&mut self.dirty);
            self.tail.spare()[..dirty].fill(0);
        }
    }

    fn roll(&mut self) -> Result<(), SpoolError> {
        let number = self.segment.number + 1;
        let (segment, tail) = self
            .shared
            .begin_segment(number, self.next_seq, self.last_crc)?;
        self.last_crc = segment.seed;
        self.segment = segment;
        self.tail = tail;
        Ok(())
    }
}
