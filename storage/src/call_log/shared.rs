//! What the writer and the readers of a call log share: which segments there are, and the block that is being filled.
//!
//! Invariant: a record is in the pending block or in a block of a segment, and moves under one lock, so that a reader
//! sees it once.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::block::{MAX_PAYLOAD, Pending};
use super::index::{self, BlockRef, FOOTER, MAX_FOOTER, VERSION, decode_footer};
use super::recovery;
use crate::disk::{Disk, DiskFile};
use crate::frame::{self, Parsed};
use crate::segment::Owner;

/// Places of damage that are remembered; more are counted as these.
const DAMAGE_MAX: usize = 10_000;

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) owner: Owner,
    state: Mutex<State>,
    damaged: Mutex<BTreeSet<(u64, u64)>>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) segments: BTreeMap<u64, Segment>,
    pub(super) pending: Pending,
}

#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub(super) number: u64,
    pub(super) path: PathBuf,
    pub(super) bytes: u64,
    pub(super) seed: u32,
    pub(super) min_ms: u64,
    pub(super) max_ms: u64,
    pub(super) index: Index,
}

#[derive(Clone, Debug)]
pub(super) enum Index {
    /// In memory, while the segment grows.
    Here(Vec<Arc<BlockRef>>),
    /// In its footer, which starts here.
    Footer(u64),
    /// Its header is damaged.
    Unreadable,
}

// === impl Shared ===

impl Shared {
    pub(super) fn new(disk: Arc<dyn Disk>, owner: Owner) -> Self {
        Self {
            disk,
            owner,
            state: Mutex::default(),
            damaged: Mutex::default(),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts and names what is damaged, once.
    pub(super) fn note_damage(&self, segment: &Segment, offset: u64) {
        let mut damaged = self.damaged.lock().unwrap_or_else(PoisonError::into_inner);
        if damaged.len() < DAMAGE_MAX && damaged.insert((segment.number, offset)) {
            let file = segment.path.display().to_string();
            tracing::error!(
                file,
                offset,
                "call records here are damaged and passed over"
            );
        }
    }

    pub(super) fn damaged(&self) -> u64 {
        let damaged = self.damaged.lock().unwrap_or_else(PoisonError::into_inner);
        damaged.len() as u64
    }

    /// The blocks of a segment: from memory, from its footer, or by a scan where that is damaged.
    pub(super) fn blocks(
        &self,
        segment: &Segment,
        file: &Arc<dyn DiskFile>,
    ) -> io::Result<Vec<Arc<BlockRef>>> {
        let footer = match &segment.index {
            Index::Here(blocks) => return Ok(blocks.clone()),
            Index::Unreadable => {
                self.note_damage(segment, 0);
                return Ok(Vec::new());
            }
            Index::Footer(offset) => *offset,
        };
        let end = segment.bytes.saturating_sub(index::TRAILER_BYTES as u64);
        let size = usize::try_from(end.saturating_sub(footer)).unwrap_or(usize::MAX);
        let read = read_frame(
            file.as_ref(),
            segment.seed,
            (footer, size),
            FOOTER,
            MAX_FOOTER,
        )?;
        if let Some(blocks) = read.and_then(|payload| decode_footer(&payload)) {
            return Ok(blocks.into_iter().map(Arc::new).collect());
        }
        self.note_damage(segment, footer);
        let scan = recovery::scan(file, segment.seed)?;
        for offset in &scan.damaged {
            self.note_damage(segment, *offset);
        }
        Ok(scan
            .blocks
            .into_iter()
            .map(|(block, _)| Arc::new(block))
            .collect())
    }
}

// === impl Segment ===

impl Segment {
    /// Adds a block that stands at the end of the file now.
    pub(super) fn add(&mut self, block: BlockRef, bytes: u64) {
        if self.max_ms == 0 {
            self.min_ms = block.zone.min_ms;
        }
        self.min_ms = self.min_ms.min(block.zone.min_ms);
        self.max_ms = self.max_ms.max(block.zone.max_ms);
        self.bytes = bytes;
        if let Index::Here(blocks) = &mut self.index {
            blocks.push(Arc::new(block));
        }
    }
}

/// The payload of the frame of this kind that takes up just these bytes; `None` if it is something else.
pub(super) fn read_frame(
    file: &dyn DiskFile,
    seed: u32,
    (offset, size): (u64, usize),
    kind: u8,
    max: usize,
) -> io::Result<Option<Vec<u8>>> {
    if size > frame::size(max) {
        return Ok(None);
    }
    let mut buf = vec![0; size];
    let read = file.read_at(&mut buf, offset)?;
    buf.truncate(read);
    Ok(match frame::parse(&buf, seed, max) {
        Parsed::Frame(frame)
            if frame.kind == kind && frame.version == VERSION && frame.size() == size =>
        {
            Some(frame.payload.to_vec())
        }
        _ => None,
    })
}

/// The payload of a block.
pub(super) fn read_block(
    file: &dyn DiskFile,
    seed: u32,
    block: &BlockRef,
) -> io::Result<Option<Vec<u8>>> {
    let size = usize::try_from(block.size).unwrap_or(usize::MAX);
    read_frame(file, seed, (block.offset, size), index::BLOCK, MAX_PAYLOAD)
}
