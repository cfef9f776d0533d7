//! The one thread that writes the log.
//!
//! ```text
//! take what is queued -> encode frames -> one write -> one fdatasync -> tell places -> call completions
//! ```
//!
//! Invariants:
//! * votes, records, truncations and purges reach the disk in the order in which they were queued;
//! * a completion is called with `Ok` only after the sync that covers it;
//! * after a failed write or sync nothing is written again: what the disk holds is unknown;
//! * a batch never spans segments, so damage in a segment that has a successor is damage of synced bytes;
//! * a segment is removed only when a synced purge covers every index ever written to it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use bytes::Bytes;

use super::directory::{Active, Directory, NewSegment, Preparer, Sealed};
use super::record::{self, Head, Kind, MARK_SIZE, PREFIX};
use super::shared::{self, Next, Op, Shared, Work};
use super::{Done, Position, WalError};
use crate::disk::DirLock;
use crate::frame::{self, HEAD};

/// Beyond this many bytes a batch is written and synced before more is encoded.
const MAX_BATCH_BYTES: usize = 16 * 1024 * 1024;

/// The buffer is given back beyond this capacity.
const KEEP_BUFFER_BYTES: usize = 4 * 1024 * 1024;

/// Where a record without an index stands.
const NOWHERE: Position = Position { term: 0, index: 0 };

/// The state of the writer's thread.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) directory: Directory,
    pub(super) preparer: Preparer,
    pub(super) active: Active,
    pub(super) sealed: VecDeque<Sealed>,
    /// What the records written so far amount to, in their order.
    pub(super) head: Head,
    /// The index that an entry written next would have, if it is known.
    pub(super) next_index: Option<u64>,
    pub(super) batch: Batch,
    /// Whether the active segment holds bytes that no sync has covered.
    pub(super) unsynced: bool,
    /// Whether a mark, or nothing, is all that the active segment's last batch holds.
    pub(super) proven: bool,
    /// Released when the writer ends.
    #[expect(dead_code, reason = "held for its drop")]
    pub(super) lock: DirLock,
}

/// Frames that are encoded but not written.
#[derive(Default)]
pub(super) struct Batch {
    buf: Vec<u8>,
    /// The last frame, whose checksum waits until it is known whether it ends the batch.
    open: Option<OpenFrame>,
    places: Vec<Written>,
    dones: Vec<Done>,
    purged: bool,
}

#[derive(Clone, Copy, Debug)]
struct OpenFrame {
    start: usize,
    len: usize,
    kind: Kind,
    position: Position,
}

#[derive(Clone, Copy, Debug)]
struct Written {
    index: u64,
    serial: u64,
    offset: u64,
}

// === impl Writer ===

impl Writer {
    /// Works until the log is closed or fails; in both cases every completion has been called.
    pub(super) fn run(mut self) {
        let served = self.serve();
        self.end(served);
    }

    /// Refuses everything from now on.
    pub(super) fn end(&mut self, served: Result<(), WalError>) {
        let end = match served {
            Ok(()) => WalError::Closed,
            Err(error) => {
                tracing::error!(%error, "the write-ahead log stops");
                WalError::Poisoned {
                    cause: Arc::new(error),
                }
            }
        };
        self.shared
            .fail(&end, std::mem::take(&mut self.batch.dones));
    }

    fn serve(&mut self) -> Result<(), WalError> {
        self.count_disk();
        loop {
            let next = self.shared.next();
            if self.serve_one(next)? {
                return Ok(());
            }
        }
    }

    /// Does one piece of work; `true` after the last.
    pub(super) fn serve_one(&mut self, next: Next) -> Result<bool, WalError> {
        match next {
            Next::Batch { ops, committed } => self.write_batch(ops, committed)?,
            Next::Commit(committed) => {
                self.put_committed(committed)?;
                self.write_out(false)?;
            }
            Next::Close { committed } => {
                self.finish(committed)?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn write_batch(&mut self, ops: Vec<Op>, committed: Option<Bytes>) -> Result<(), WalError> {
        let mut ops = ops.into_iter();
        let encoded = ops.by_ref().try_for_each(|op| self.encode(op));
        if let Err(error) = encoded {
            // The rest of this batch is answered with the same failure by `run`.
            self.batch.dones.extend(ops.map(|op| op.done));
            return Err(error);
        }
        if let Some(committed) = committed {
            self.put_committed(committed)?;
        }
        self.commit()
    }

    fn encode(&mut self, op: Op) -> Result<(), WalError> {
        let outcome = self.encode_work(op.work);
        self.batch.dones.push(op.done);
        outcome
    }

    fn encode_work(&mut self, work: Work) -> Result<(), WalError> {
        match work {
            Work::Append(records) => {
                for queued in records {
                    let position = queued.record.position;
                    let offset = self.put(Kind::Entry, position, &queued.record.payload)?;
                    let (index, serial) = (position.index, queued.serial);
                    self.batch.places.push(Written {
                        index,
                        serial,
                        offset,
                    });
                    self.active.max_index = self.active.max_index.max(Some(index));
                    self.next_index = Some(index.saturating_add(1));
                }
            }
            Work::Vote(vote) => {
                self.put(Kind::Vote, NOWHERE, &vote)?;
                self.head.vote = Some(vote);
            }
            Work::Truncate(from) => {
                self.put(
                    Kind::Truncate,
                    Position {
                        term: 0,
                        index: from,
                    },
                    &[],
                )?;
                self.next_index = Some(from);
            }
            Work::Purge(upto, opaque) => {
                self.put(Kind::Purge, upto, &opaque)?;
                self.next_index = self.next_index.max(Some(upto.index.saturating_add(1)));
                self.head.purged = Some((upto, opaque));
                self.batch.purged = true;
            }
            Work::Nothing => {}
        }
        Ok(())
    }

    fn put_committed(&mut self, committed: Bytes) -> Result<(), WalError> {
        self.put(Kind::Commit, NOWHERE, &committed)?;
        self.head.committed = Some(committed);
        Ok(())
    }

    /// Encodes one record and returns where its frame will be; a full segment is left first.
    fn put(&mut self, kind: Kind, position: Position, body: &[u8]) -> Result<u64, WalError> {
        let size = frame::size(PREFIX + body.len());
        let total = self.batch.buf.len() + size;
        if !self.active.fits(total as u64) {
            self.commit()?;
            self.roll(size as u64)?;
        } else if total > MAX_BATCH_BYTES {
            self.commit()?;
        }
        self.proven = false;
        self.seal(false);
        let start = self.batch.buf.len();
        let buf = &mut self.batch.buf;
        buf.resize(start + HEAD + PREFIX, 0);
        buf.extend_from_slice(body);
        buf.resize(start + size, 0);
        self.batch.open = Some(OpenFrame {
            start,
            len: PREFIX + body.len(),
            kind,
            position,
        });
        Ok(self.active.offset + start as u64)
    }

    /// Completes the last frame, now that it is known whether it ends the batch.
    fn seal(&mut self, ends_batch: bool) {
        let Some(OpenFrame {
            start,
            len,
            kind,
            position,
        }) = self.batch.open.take()
        else {
            return;
        };
        let prefix = record::prefix(self.head.batch + 1, ends_batch, position);
        let payload = &mut self.batch.buf[start + HEAD..start + HEAD + len];
        payload[..PREFIX].copy_from_slice(&prefix);
        let seed = self.active.segment.seed;
        let head = frame::head(seed, kind as u8, record::VERSION, &[payload]);
        self.batch.buf[start..start + HEAD].copy_from_slice(&head);
        self.active.last_crc = frame::crc_of(&head);
    }

    fn write_out(&mut self, ends_batch: bool) -> Result<(), WalError> {
        self.seal(ends_batch);
        let segment = &self.active.segment;
        let wrote = segment
            .file
            .write_all_at(&self.batch.buf, self.active.offset);
        wrote.map_err(WalError::io("write to the log segment", &segment.path))?;
        self.active.offset += self.batch.buf.len() as u64;
        self.batch.buf.clear();
        self.batch.buf.shrink_to(KEEP_BUFFER_BYTES);
        self.unsynced = true;
        Ok(())
    }

    fn sync(&mut self) -> Result<(), WalError> {
        let segment = &self.active.segment;
        let synced = segment.file.sync_data();
        synced.map_err(WalError::io("sync the log segment", &segment.path))?;
        self.unsynced = false;
        self.head.batch += 1;
        Ok(())
    }

    /// Writes and syncs what is encoded, then answers for it.
    fn commit(&mut self) -> Result<(), WalError> {
        if !self.batch.buf.is_empty() {
            let bytes = self.batch.buf.len() as u64;
            self.write_out(true)?;
            let started = Instant::now();
            self.sync()?;
            let records = self.batch.places.len() as u64;
            self.shared
                .counters
                .synced(records, bytes, started.elapsed());
        }
        let mut state = self.shared.lock();
        for written in self.batch.places.drain(..) {
            let Written {
                index,
                serial,
                offset,
            } = written;
            state.log.written(index, serial, self.active.number, offset);
        }
        state.log.evict();
        drop(state);
        self.answer()?;
        if std::mem::take(&mut self.batch.purged) {
            self.remove_purged()?;
        }
        Ok(())
    }

    /// Calls the completions of what is durable. If one panics, the others are still answered.
    fn answer(&mut self) -> Result<(), WalError> {
        let mut dones = std::mem::take(&mut self.batch.dones).into_iter();
        while let Some(done) = dones.next() {
            if !shared::call(done, Ok(())) {
                self.batch.dones = dones.collect();
                return Err(WalError::CompletionPanicked);
            }
        }
        Ok(())
    }

    /// Goes on in the next segment. Nothing is encoded, and `need` bytes will be.
    fn roll(&mut self, need: u64) -> Result<(), WalError> {
        if self.unsynced {
            self.sync()?;
        }
        let new = NewSegment {
            number: self.active.number + 1,
            first: self.next_index,
            prev_crc: self.active.last_crc,
            head: &self.head,
        };
        let active = self
            .directory
            .create(&new, Some(&mut self.preparer), need)?;
        self.preparer.ask();
        self.shared
            .lock()
            .files
            .insert(active.number, active.segment.clone());
        self.shared
            .counters
            .segments_created
            .fetch_add(1, Ordering::Relaxed);
        self.proven = true;
        let Active {
            number,
            segment,
            size,
            max_index,
            ..
        } = std::mem::replace(&mut self.active, active);
        self.sealed.push_back(Sealed {
            number,
            path: segment.path,
            size,
            max_index,
        });
        self.count_disk();
        Ok(())
    }

    /// Removes the oldest segments while the purge covers them.
    fn remove_purged(&mut self) -> Result<(), WalError> {
        let upto = self.head.purged.as_ref().map(|(upto, _)| upto.index);
        while let Some(oldest) = self.sealed.front()
            && oldest.max_index <= upto
        {
            if let Err(error) = self.directory.disk.remove(&oldest.path) {
                // The file only takes space; the next purge tries again.
                tracing::warn!(%error, file = %oldest.path.display(), "cannot remove a log segment");
                break;
            }
            // One by one, so that after a power cut the segments that are left have no gap.
            self.directory.sync()?;
            self.shared.lock().files.remove(&oldest.number);
            self.sealed.pop_front();
        }
        self.count_disk();
        Ok(())
    }

    /// Tells how long all segments are together.
    fn count_disk(&self) {
        let sealed: u64 = self.sealed.iter().map(|sealed| sealed.size).sum();
        let bytes = sealed + self.active.size;
        let counter = &self.shared.counters.disk_bytes;
        counter.store(bytes, Ordering::Relaxed);
    }

    fn finish(&mut self, committed: Option<Bytes>) -> Result<(), WalError> {
        let last = committed.or_else(|| self.head.committed.clone().filter(|_| self.unsynced));
        if let Some(committed) = last {
            self.put_committed(committed)?;
        }
        self.commit()?;
        self.prove()
    }

    /// Lets a mark follow the last batch, so that damage to it is not taken for a torn write.
    fn prove(&mut self) -> Result<(), WalError> {
        if self.proven || self.active.offset + MARK_SIZE > self.active.size {
            return Ok(());
        }
        let (frame, crc) = record::mark(self.active.segment.seed, self.head.batch + 1);
        self.batch.buf = frame;
        self.active.last_crc = crc;
        self.write_out(true)?;
        self.sync()?;
        self.proven = true;
        Ok(())
    }
}

impl std::fmt::Debug for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batch")
            .field("bytes", &self.buf.len())
            .field("dones", &self.dones.len())
            .finish_non_exhaustive()
    }
}
