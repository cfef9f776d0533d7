//! The side of a call log that is asked: any thread, at any time, without holding up the writer.
//!
//! Invariant: a search sees each record of its moment once, whatever is written, sealed or dropped meanwhile; a segment
//! that is dropped while it is searched is left out from then on.

use std::cmp::Reverse;
use std::io;
use std::sync::Arc;

use super::CallLogError;
use super::block::{Block, Pending, Zone, records};
use super::shared::{Segment, Shared, read_block};
use crate::disk::DiskFile;

/// Searches a log. A cheap clone.
#[derive(Clone, Debug)]
pub struct CallLogReader {
    shared: Arc<Shared>,
}

/// Which records are looked at. Others may be shown too: the caller judges each.
#[derive(Clone, Debug)]
pub struct Search {
    /// The first moment.
    pub from_ms: u64,
    /// The first moment beyond.
    pub to_ms: u64,
    /// Only records that were given all of these.
    pub hashes: Vec<u64>,
}

/// What a search came upon.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Found {
    /// Blocks that could not be read.
    pub damaged: u64,
    /// Blocks that were read.
    pub read: u64,
}

// === impl CallLogReader ===

impl CallLogReader {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Shows records to `visit`, about newest first. It answers with a time: what is older than that is of no interest
    /// any more (0: everything is).
    ///
    /// # Errors
    /// [`CallLogError::Io`] if a file cannot be opened.
    pub fn search(
        &self,
        search: &Search,
        visit: &mut dyn FnMut(u64, &[u8]) -> u64,
    ) -> Result<Found, CallLogError> {
        let (pending, mut segments) = self.snapshot();
        let mut running = Running {
            search,
            visit,
            floor: 0,
            found: Found::default(),
        };
        running.show(&pending.raw);
        segments.sort_by_key(|segment| Reverse(segment.max_ms));
        for segment in &segments {
            if running.wants(segment.min_ms, segment.max_ms) {
                self.search_segment(segment, &mut running)?;
            }
        }
        Ok(running.found)
    }

    /// Blocks found damaged since the log was opened.
    pub fn damaged(&self) -> u64 {
        self.shared.damaged()
    }

    fn snapshot(&self) -> (Pending, Vec<Segment>) {
        let state = self.shared.state();
        let segments = state.segments.values().cloned().collect();
        (state.pending.clone(), segments)
    }

    fn search_segment(
        &self,
        segment: &Segment,
        running: &mut Running<'_>,
    ) -> Result<(), CallLogError> {
        let file: Arc<dyn DiskFile> = match self.shared.disk.open(&segment.path) {
            Ok(file) => file.into(),
            // Dropped since the snapshot.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(CallLogError::io("open", &segment.path)(error)),
        };
        let mut blocks = match self.shared.blocks(segment, &file) {
            Ok(blocks) => blocks,
            Err(error) => return Err(CallLogError::io("read", &segment.path)(error)),
        };
        blocks.sort_by_key(|block| Reverse(block.zone.max_ms));
        for block in &blocks {
            if !running.wants_block(&block.zone) {
                continue;
            }
            // What the system cannot read is as good as damaged; the rest is not.
            let payload = read_block(file.as_ref(), segment.seed, block).unwrap_or_default();
            let decoded = payload.as_deref().and_then(Block::decode);
            if let Some(raw) = decoded.and_then(|block| block.unpack()) {
                running.found.read += 1;
                running.show(&raw);
            } else {
                running.found.damaged += 1;
                self.shared.note_damage(segment, block.offset);
            }
        }
        Ok(())
    }
}

/// A search on its way.
struct Running<'a> {
    search: &'a Search,
    visit: &'a mut dyn FnMut(u64, &[u8]) -> u64,
    floor: u64,
    found: Found,
}

// === impl Running ===

impl Running<'_> {
    fn wants(&self, min_ms: u64, max_ms: u64) -> bool {
        max_ms >= self.floor.max(self.search.from_ms) && min_ms < self.search.to_ms
    }

    fn wants_block(&self, zone: &Zone) -> bool {
        let hashes = &self.search.hashes;
        self.wants(zone.min_ms, zone.max_ms) && hashes.iter().all(|hash| zone.may_have(*hash))
    }

    fn show(&mut self, raw: &[u8]) {
        let range = self.search.from_ms..self.search.to_ms;
        for (time_ms, bytes) in records(raw) {
            if range.contains(&time_ms) && time_ms >= self.floor {
                self.floor = (self.visit)(time_ms, bytes);
            }
        }
    }
}
