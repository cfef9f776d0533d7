//! The side of a spool that the flusher owns: it reads, makes durable, trims, and prepares segments.
//!
//! Invariants:
//! * only published records are read, in order, each once per cursor (there are two, so that two may read in turn);
//! * the mark is stored after the sync that it speaks of;
//! * segments are removed oldest first, durably one by one, so those that are left have no gap.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{Bytes, BytesMut};

use super::shared::{Segment, Shared};
use super::writer::WALL;
use super::{MAX_PAYLOAD_BYTES, SpoolError};
use crate::disk::Disk;
use crate::frame::{self, Frame, Parsed};

/// What a frame's payload may be at most.
pub(super) const MAX_FRAME_PAYLOAD: usize = WALL + MAX_PAYLOAD_BYTES;

/// Two read a spool: who counts it, and who keeps its calls.
const CURSORS: usize = 2;

/// Reads, syncs and trims a spool. One thread owns it.
#[derive(Debug)]
pub struct SpoolReader {
    shared: Arc<Shared>,
    /// Where reads ended, the latest last.
    cursors: Vec<Cursor>,
    synced_seq: u64,
    /// Records that reads passed over to find where they begin.
    skipped: u64,
    /// Counts prepared files, so that each has a name of its own.
    prepared: u64,
}

/// A record as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpoolRecord {
    /// Its number since the spool began.
    pub seq: u64,
    /// What its payload is.
    pub kind: u8,
    /// The version of that kind.
    pub version: u8,
    /// When it was written, in milliseconds of wall time.
    pub wall_ms: u64,
    /// Its bytes.
    pub payload: Bytes,
}

/// Where the record `seq` starts.
#[derive(Clone, Debug)]
struct Cursor {
    segment: Arc<Segment>,
    offset: usize,
    seq: u64,
}

/// A record without its payload, that, and its size in the segment.
type Found<'a> = (SpoolRecord, &'a [u8], usize);

/// What one read gives; its payloads share their memory.
#[derive(Debug, Default)]
struct Page {
    records: Vec<(SpoolRecord, usize)>,
    bytes: BytesMut,
}

// === impl SpoolReader ===

impl SpoolReader {
    /// Everything that is there was made durable when the spool was opened.
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let synced_seq = shared.next_seq.load(Ordering::Acquire);
        Self {
            shared,
            cursors: Vec::with_capacity(CURSORS + 1),
            synced_seq,
            skipped: 0,
            prepared: 0,
        }
    }

    /// The identity of the spool, made when it began.
    pub fn uuid(&self) -> [u8; 16] {
        self.shared.uuid
    }

    /// The disk that the spool is on.
    pub fn disk(&self) -> Arc<dyn Disk> {
        Arc::clone(&self.shared.disk)
    }

    /// Another reader of the same records, for a test that looks on.
    #[cfg(feature = "testing")]
    #[must_use]
    pub fn onlooker(&self) -> Self {
        Self::new(Arc::clone(&self.shared))
    }

    /// The number that the next record gets: all below are there to be read.
    pub fn next_seq(&self) -> u64 {
        self.shared.next_seq.load(Ordering::Acquire)
    }

    /// All records below this number are durable.
    pub fn synced_seq(&self) -> u64 {
        self.synced_seq
    }

    /// How many records reads have passed over to find where they begin: none while each goes on where one ended.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// The number of the oldest record kept.
    pub fn first_seq(&self) -> u64 {
        self.shared
            .segments()
            .front()
            .map_or(0, |segment| segment.first_seq)
    }

    /// What all segments take together.
    pub fn bytes(&self) -> u64 {
        self.shared.bytes.load(Ordering::Relaxed)
    }

    /// What all segments may take together.
    pub fn max_bytes(&self) -> u64 {
        self.shared.max_bytes
    }

    /// The records from `from_seq` on: at least one if there is any, then as many as `max_records`
    /// and `max_bytes` of payload allow. Going on where one of the last two reads ended is the fast case.
    ///
    /// # Errors
    /// [`SpoolError::Trimmed`] or [`SpoolError::Beyond`] if there never will be such a record,
    /// [`SpoolError::Damaged`] if a record is not what was written, [`SpoolError::Failed`] after a
    /// failed sync.
    pub fn read(
        &mut self,
        from_seq: u64,
        max_records: usize,
        max_bytes: usize,
    ) -> Result<Vec<SpoolRecord>, SpoolError> {
        self.shared.check_usable()?;
        let next = self.next_seq();
        let mut cursor = self.seek(from_seq, next)?;
        let mut page = Page::default();
        while cursor.seq < next && page.records.len() < max_records.max(1) {
            let Some((record, payload, size)) = cursor.record()? else {
                cursor = self.successor(&cursor)?;
                continue;
            };
            let bytes = page.bytes.len().saturating_add(payload.len());
            if bytes > max_bytes && !page.records.is_empty() {
                break;
            }
            page.push(record, payload);
            cursor.offset += size;
            cursor.seq += 1;
        }
        self.cursors.push(cursor);
        if self.cursors.len() > CURSORS {
            self.cursors.remove(0);
        }
        Ok(page.into_records())
    }

    /// Removes the segments all of whose records are below `below_seq`, but never the last one.
    ///
    /// # Errors
    /// [`SpoolError::Io`] for what the system reports; what is left has no gap.
    pub fn trim(&mut self, below_seq: u64) -> Result<(), SpoolError> {
        loop {
            let oldest = {
                let segments = self.shared.segments();
                match (segments.front(), segments.get(1)) {
                    (Some(oldest), Some(after)) if after.first_seq <= below_seq => {
                        Arc::clone(oldest)
                    }
                    _ => return Ok(()),
                }
            };
            match self.shared.disk.remove(&oldest.path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(SpoolError::io("remove", &oldest.path)(error));
                }
                _ => {}
            }
            let synced = self.shared.disk.sync_dir(&self.shared.dir);
            synced.map_err(SpoolError::io("sync the directory", &self.shared.dir))?;
            self.shared.segments().pop_front();
            self.shared
                .bytes
                .fetch_sub(oldest.bytes(), Ordering::Relaxed);
            self.cursors
                .retain(|cursor| cursor.segment.number > oldest.number);
        }
    }

    /// Makes all records durable that are there, and prepares the next segment if it will be needed.
    ///
    /// # Errors
    /// [`SpoolError::Failed`], from then on and for the writer too, if the system could not sync. That
    /// no segment could be prepared is no error here; the writer will meet it if it is one.
    pub fn sync(&mut self) -> Result<(), SpoolError> {
        self.shared.check_usable()?;
        let next = self.next_seq();
        if next > self.synced_seq {
            let segments = self.unsynced();
            if let Err(error) = self.sync_segments(&segments) {
                tracing::error!(%error, dir = %self.shared.dir.display(), "the usage spool stops");
                let source = Arc::clone(self.shared.failed.get_or_init(|| Arc::new(error)));
                return Err(SpoolError::Failed { source });
            }
            self.synced_seq = next;
            self.shared.set_mark(next);
        }
        self.prepare();
        Ok(())
    }

    /// The segments that may hold records which are not durable.
    fn unsynced(&self) -> Vec<Arc<Segment>> {
        let segments = self.shared.segments();
        let covered = segments.partition_point(|segment| segment.first_seq <= self.synced_seq);
        segments
            .range(covered.saturating_sub(1)..)
            .cloned()
            .collect()
    }

    fn sync_segments(&self, segments: &[Arc<Segment>]) -> std::io::Result<()> {
        for segment in segments {
            segment.file.sync_data()?;
        }
        if self.shared.dir_dirty.swap(false, Ordering::AcqRel) {
            self.shared.disk.sync_dir(&self.shared.dir)?;
        }
        Ok(())
    }

    fn prepare(&mut self) {
        let half_full = self.shared.segments().back().is_some_and(|segment| {
            segment.region.published().len() > segment.region.capacity() / 2
        });
        if !half_full || self.shared.is_prepared() || !self.shared.has_room() {
            return;
        }
        self.prepared += 1;
        let name = format!("reader-{}", self.prepared);
        if let Err(error) = self.shared.prepare(&name) {
            tracing::warn!(%error, "cannot prepare a segment of the usage spool");
        }
    }

    fn seek(&mut self, seq: u64, next: u64) -> Result<Cursor, SpoolError> {
        if let Some(at) = self.cursors.iter().position(|cursor| cursor.seq == seq) {
            return Ok(self.cursors.remove(at));
        }
        if seq > next {
            return Err(SpoolError::Beyond { seq, next });
        }
        let segment = {
            let segments = self.shared.segments();
            let after = segments.partition_point(|segment| segment.first_seq <= seq);
            let segment = after.checked_sub(1).and_then(|at| segments.get(at));
            let first = segments.front().map_or(0, |segment| segment.first_seq);
            segment.cloned().ok_or(SpoolError::Trimmed { seq, first })?
        };
        let mut cursor = Cursor::start(segment);
        while cursor.seq < seq {
            match cursor.frame()? {
                Some(frame) => {
                    cursor.offset += frame.size();
                    cursor.seq += 1;
                    self.skipped += 1;
                }
                None => cursor = self.successor(&cursor)?,
            }
        }
        Ok(cursor)
    }

    /// The start of the segment behind the one that the cursor has read to its end.
    fn successor(&self, cursor: &Cursor) -> Result<Cursor, SpoolError> {
        let segments = self.shared.segments();
        let after = segments.partition_point(|segment| segment.number <= cursor.segment.number);
        match segments.get(after) {
            Some(segment) if segment.first_seq == cursor.seq => {
                Ok(Cursor::start(Arc::clone(segment)))
            }
            _ => Err(cursor.damaged("it holds fewer records than it should")),
        }
    }
}

// === impl Page ===

impl Page {
    fn push(&mut self, record: SpoolRecord, payload: &[u8]) {
        self.bytes.extend_from_slice(payload);
        self.records.push((record, payload.len()));
    }

    fn into_records(self) -> Vec<SpoolRecord> {
        let mut bytes = self.bytes.freeze();
        let records = self.records.into_iter();
        records
            .map(|(record, len)| SpoolRecord {
                payload: bytes.split_to(len),
                ..record
            })
            .collect()
    }
}

// === impl Cursor ===

impl Cursor {
    fn start(segment: Arc<Segment>) -> Self {
        Self {
            offset: segment.start,
            seq: segment.first_seq,
            segment,
        }
    }

    /// The record here, or `None` at the end of what the segment has published.
    fn record(&self) -> Result<Option<Found<'_>>, SpoolError> {
        let Some(frame) = self.frame()? else {
            return Ok(None);
        };
        let Some((wall, payload)) = frame.payload.split_first_chunk() else {
            return Err(self.damaged("the record has no time"));
        };
        let record = SpoolRecord {
            seq: self.seq,
            kind: frame.kind,
            version: frame.version,
            wall_ms: u64::from_le_bytes(*wall),
            payload: Bytes::new(),
        };
        Ok(Some((record, payload, frame.size())))
    }

    /// The record here as it stands in its segment.
    fn frame(&self) -> Result<Option<Frame<'_>>, SpoolError> {
        let rest = self
            .segment
            .region
            .published()
            .get(self.offset..)
            .unwrap_or_default();
        match frame::parse(rest, self.segment.seed, MAX_FRAME_PAYLOAD) {
            Parsed::End => Ok(None),
            Parsed::Damaged => Err(self.damaged("the record changed after it was written")),
            Parsed::Frame(frame) => Ok(Some(frame)),
        }
    }

    fn damaged(&self, what: &str) -> SpoolError {
        SpoolError::Damaged {
            file: self.segment.path.clone(),
            offset: self.offset as u64,
            seq: self.seq,
            what: what.to_owned(),
        }
    }
}
