//! The last batch of a log that is being opened, and what an odd place behind it means.
//!
//! A write that a crash interrupted leaves a torn tail: nobody was told that it is durable, so it is cut
//! off. Bytes that had been synced and changed later are a different thing: the node may have voted or
//! acknowledged by them, so it must not go on. An intact record of a later batch behind the odd place
//! proves that the batch of the odd place had been synced. Where nothing follows, as behind the last
//! batch before a crash, the two look alike and the tail is cut; a log that was closed or opened since
//! ends with a mark that follows.
//!
//! Invariants of [`Tail::close`], each step of which a crash may cut short:
//! * the last batch is written once more before it is synced: the sync of the process before may have
//!   failed, and then the system holds bytes that a second sync would not write;
//! * the torn tail is gone before a mark is written, or a mark could join the records of that tail;
//! * a mark that proves a batch is written only after that batch was synced.

use super::WalError;
use super::directory::Active;
use super::record::{self, Decoded, Head, Kind, MARK_SIZE, MAX_PAYLOAD};
use crate::frame::{ALIGN, HEAD, Parsed};
use crate::segment::Window;

/// The last batch read so far.
#[derive(Debug)]
pub(super) struct Tail {
    /// Where the batch starts.
    start: u64,
    /// Whether its last record was read.
    ended: bool,
    /// Whether it holds nothing but marks, so that everything else is followed by a later batch.
    proven: bool,
    /// Where bytes that are no records end.
    torn_end: Option<u64>,
}

// === impl Tail ===

impl Tail {
    /// The tail of a segment of which only the header, which ends here, has been read.
    pub(super) fn at(start: u64) -> Self {
        Self {
            start,
            ended: true,
            proven: true,
            torn_end: None,
        }
    }

    /// Whether damage to anything in the segment would be seen as damage.
    pub(super) fn is_proven(&self) -> bool {
        self.proven
    }

    /// The batch that the next record belongs to, when the last one was of `batch`.
    pub(super) fn batch_here(&self, batch: u64) -> u64 {
        batch + u64::from(self.ended)
    }

    /// Goes past a record that starts at `offset`.
    pub(super) fn passed(&mut self, record: &Decoded<'_>, offset: u64) {
        if self.ended {
            self.start = offset;
            self.proven = true;
        }
        self.proven &= record.kind == Kind::Mark;
        self.ended = record.ends_batch;
    }

    /// Takes what lies between the last record and `end` for a torn tail, or refuses if an intact
    /// record of a later batch stands in it.
    pub(super) fn torn(
        &mut self,
        batch: u64,
        window: &mut Window,
        active: &Active,
        end: u64,
    ) -> Result<(), WalError> {
        if end <= active.offset {
            return Ok(());
        }
        let (path, batch) = (&active.segment.path, self.batch_here(batch));
        let mut at = active.offset + ALIGN as u64;
        while at < end {
            let head = window.at(at, HEAD + ALIGN);
            let head = head.map_err(WalError::io("read the log segment", path))?;
            if Decoded::could_follow(head, batch) {
                let parsed = window.frame_at(at, active.segment.seed, MAX_PAYLOAD);
                let parsed = parsed.map_err(WalError::io("read the log segment", path))?;
                if matches!(parsed, Parsed::Frame(_)) {
                    let what = format!(
                        "the record here is not intact, and one that was written after its sync \
                         is at byte {at}"
                    );
                    return Err(WalError::damaged(path, active.offset, what));
                }
            }
            at += ALIGN as u64;
        }
        self.torn_end = Some(end);
        Ok(())
    }

    /// Makes the last batch durable, cuts a torn tail off, ends an open batch and proves it.
    pub(super) fn close(&mut self, head: &mut Head, active: &mut Active) -> Result<(), WalError> {
        self.write_again(active)?;
        if !self.ended {
            if active.offset + MARK_SIZE > active.size {
                let what = "no room is left to end the open batch";
                return Err(WalError::damaged(&active.segment.path, active.offset, what));
            }
            append_mark(active, head.batch)?;
            self.ended = true;
        }
        // Without room the next record begins a segment, whose header is the proof.
        if !self.proven && active.offset + MARK_SIZE <= active.size {
            append_mark(active, head.batch + 1)?;
            head.batch += 1;
            self.proven = true;
        }
        Ok(())
    }

    fn write_again(&mut self, active: &Active) -> Result<(), WalError> {
        let (file, path) = (&active.segment.file, &active.segment.path);
        let kept = active.offset - self.start;
        let torn_end = self.torn_end.take().unwrap_or(active.offset);
        if torn_end > active.offset {
            tracing::warn!(file = %path.display(), offset = active.offset,
                bytes = torn_end - active.offset, "cutting off a torn tail of the write-ahead log");
        }
        let mut batch = vec![0; usize::try_from(torn_end - self.start).unwrap_or(usize::MAX)];
        let kept = usize::try_from(kept).unwrap_or(usize::MAX).min(batch.len());
        let read = file.read_at(&mut batch[..kept], self.start);
        let read = read.map_err(WalError::io("read the log segment", path))?;
        if read < kept {
            let what = "the file became shorter while it was read";
            return Err(WalError::damaged(path, self.start + read as u64, what));
        }
        let wrote = file.write_all_at(&batch, self.start);
        wrote.map_err(WalError::io("write the last batch again to", path))?;
        sync(active)
    }
}

fn append_mark(active: &mut Active, batch: u64) -> Result<(), WalError> {
    let (frame, crc) = record::mark(active.segment.seed, batch);
    let wrote = active.segment.file.write_all_at(&frame, active.offset);
    wrote.map_err(WalError::io("mark the end of", &active.segment.path))?;
    sync(active)?;
    active.offset += frame.len() as u64;
    active.last_crc = crc;
    Ok(())
}

fn sync(active: &Active) -> Result<(), WalError> {
    let synced = active.segment.file.sync_data();
    synced.map_err(WalError::io("sync the log segment", &active.segment.path))
}
