//! What a spool's writer and reader share, and how a segment comes into being.
//!
//! Invariants:
//! * `segments` is ordered and has no gap; the last one is the writer's;
//! * `next_seq` is stored after the record it follows is published and its segment is listed;
//! * a segment is prepared under a name of its own and gets its final name only with its header.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use super::SpoolError;
use super::map::{Region, Tail};
use crate::disk::{DirLock, Disk, DiskFile};
use crate::segment::{Header, Owner};

/// Names a spool segment.
pub(super) const MAGIC: [u8; 4] = *b"MESP";

const TEMPORARY_SUFFIX: &str = ".tmp";

/// Both sides' view of one spool.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) dir: PathBuf,
    pub(super) owner: Owner,
    pub(super) uuid: [u8; 16],
    pub(super) worker: u32,
    pub(super) segment_bytes: usize,
    pub(super) max_bytes: u64,
    /// Whether the bound does not hold for now.
    pub(super) unbounded: AtomicBool,
    pub(super) next_seq: AtomicU64,
    /// Bytes of all listed segments.
    pub(super) bytes: AtomicU64,
    /// Whether a name was given that no directory sync has covered.
    pub(super) dir_dirty: AtomicBool,
    pub(super) failed: OnceLock<Arc<io::Error>>,
    segments: Mutex<VecDeque<Arc<Segment>>>,
    prepared: Mutex<Option<Prepared>>,
    /// Released when both sides are gone.
    #[expect(dead_code, reason = "held for its drop")]
    lock: DirLock,
}

/// One segment that has a header.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) number: u64,
    pub(super) first_seq: u64,
    pub(super) path: PathBuf,
    pub(super) file: Box<dyn DiskFile>,
    pub(super) region: Arc<Region>,
    pub(super) seed: u32,
    /// Where the first record starts.
    pub(super) start: usize,
}

/// A segment that still lacks its header.
#[derive(Debug)]
pub(super) struct Prepared {
    path: PathBuf,
    file: Box<dyn DiskFile>,
    region: Arc<Region>,
    tail: Tail,
}

/// The parts that a spool is put together from when it is opened.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) dir: PathBuf,
    pub(super) owner: Owner,
    pub(super) uuid: [u8; 16],
    pub(super) worker: u32,
    pub(super) segment_bytes: usize,
    pub(super) max_bytes: u64,
    pub(super) next_seq: u64,
    pub(super) segments: VecDeque<Arc<Segment>>,
    pub(super) lock: DirLock,
}

// === impl Shared ===

impl Shared {
    pub(super) fn new(parts: Parts) -> Self {
        let bytes = parts.segments.iter().map(|segment| segment.bytes()).sum();
        Self {
            disk: parts.disk,
            dir: parts.dir,
            owner: parts.owner,
            uuid: parts.uuid,
            worker: parts.worker,
            segment_bytes: parts.segment_bytes,
            max_bytes: parts.max_bytes,
            unbounded: AtomicBool::new(false),
            next_seq: AtomicU64::new(parts.next_seq),
            bytes: AtomicU64::new(bytes),
            dir_dirty: AtomicBool::new(true),
            failed: OnceLock::new(),
            segments: Mutex::new(parts.segments),
            prepared: Mutex::new(None),
            lock: parts.lock,
        }
    }

    pub(super) fn segments(&self) -> MutexGuard<'_, VecDeque<Arc<Segment>>> {
        self.segments.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn check_usable(&self) -> Result<(), SpoolError> {
        match self.failed.get() {
            None => Ok(()),
            Some(source) => Err(SpoolError::Failed {
                source: Arc::clone(source),
            }),
        }
    }

    /// Remembers that all records below `seq` were synced, in the segment that holds the last of them.
    pub(super) fn set_mark(&self, seq: u64) {
        let segments = self.segments();
        let holds = |segment: &&Arc<Segment>| segment.first_seq < seq;
        if let Some(last) = segments.iter().rev().find(holds) {
            last.region.set_mark(seq);
        }
    }

    /// Whether one more segment is within the bound.
    pub(super) fn has_room(&self) -> bool {
        let bytes = self.bytes.load(Ordering::Relaxed);
        let within = bytes.saturating_add(self.segment_bytes as u64) <= self.max_bytes;
        within || self.unbounded.load(Ordering::Relaxed)
    }

    /// Whether a segment waits to be used.
    pub(super) fn is_prepared(&self) -> bool {
        self.lock_prepared().is_some()
    }

    /// Makes a segment's file ahead of time, so that the writer need not.
    pub(super) fn prepare(&self, name: &str) -> Result<(), SpoolError> {
        let prepared = Prepared::create(&*self.disk, &self.dir, name, self.segment_bytes)?;
        // Its length then is durable before its name is, even where the file system keeps no order.
        let synced = prepared.file.sync_data();
        synced.map_err(SpoolError::io("sync", &prepared.path))?;
        self.lock_prepared().get_or_insert(prepared);
        Ok(())
    }

    /// Begins the next segment and lists it.
    pub(super) fn begin_segment(
        &self,
        number: u64,
        first_seq: u64,
        prev_crc: u32,
    ) -> Result<(Arc<Segment>, Tail), SpoolError> {
        if !self.has_room() {
            return Err(SpoolError::Full {
                max_bytes: self.max_bytes,
            });
        }
        let taken = self.lock_prepared().take();
        let prepared = if let Some(prepared) = taken {
            prepared
        } else {
            let name = format!("writer-{number}");
            Prepared::create(&*self.disk, &self.dir, &name, self.segment_bytes)?
        };
        let header = Header {
            owner: self.owner,
            number,
            first: first_seq,
            prev_crc,
            bytes: self.segment_bytes as u64,
            body: header_body(self.uuid, self.worker),
        };
        let (segment, tail) = prepared.begin(&*self.disk, &self.dir, &header)?;
        let segment = Arc::new(segment);
        self.dir_dirty.store(true, Ordering::Release);
        self.bytes.fetch_add(segment.bytes(), Ordering::Relaxed);
        self.segments().push_back(Arc::clone(&segment));
        Ok((segment, tail))
    }

    fn lock_prepared(&self) -> MutexGuard<'_, Option<Prepared>> {
        self.prepared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Segment ===

impl Segment {
    pub(super) fn bytes(&self) -> u64 {
        (self.region.capacity() + super::map::MARK_BYTES) as u64
    }
}

// === impl Prepared ===

impl Prepared {
    /// Nobody has a file of this name mapped: names are not given twice, and an opening removes those that are left.
    fn create(
        disk: &dyn Disk,
        dir: &Path,
        name: &str,
        segment_bytes: usize,
    ) -> Result<Self, SpoolError> {
        let path = dir.join(format!("{name}{TEMPORARY_SUFFIX}"));
        let bytes = segment_bytes as u64;
        let file = disk
            .create(&path)
            .map_err(SpoolError::io("create", &path))?;
        let made = file.reserve(bytes).and_then(|()| file.to_map());
        let made = made.and_then(|mapped| Region::map(&mapped, segment_bytes, 0));
        match made {
            Ok((region, tail)) => {
                region.populate();
                Ok(Self {
                    path,
                    file,
                    region,
                    tail,
                })
            }
            Err(error) => {
                // It holds nothing; if it stays, the next opening removes it.
                let _ = disk.remove(&path);
                if error.kind() == io::ErrorKind::StorageFull {
                    return Err(SpoolError::DiskFull { path, bytes });
                }
                Err(SpoolError::io("reserve space for", &path)(error))
            }
        }
    }

    fn begin(
        mut self,
        disk: &dyn Disk,
        dir: &Path,
        header: &Header,
    ) -> Result<(Segment, Tail), SpoolError> {
        let (bytes, seed) = header.encode(MAGIC);
        let path = dir.join(name_of(header.number, header.first));
        if let Err(error) = disk.rename(&self.path, &path) {
            // It holds nothing; if it stays, the next opening removes it.
            let _ = disk.remove(&self.path);
            return Err(SpoolError::io("name", &path)(error));
        }
        self.tail.spare()[..bytes.len()].copy_from_slice(&[&[0; 4], &bytes[4..]].concat());
        self.tail.publish(MAGIC, bytes.len());
        let segment = Segment {
            number: header.number,
            first_seq: header.first,
            path,
            file: self.file,
            region: self.region,
            seed,
            start: bytes.len(),
        };
        Ok((segment, self.tail))
    }
}

/// What a spool adds to a segment's header.
pub(super) fn header_body(uuid: [u8; 16], worker: u32) -> Vec<u8> {
    [&uuid[..], &worker.to_le_bytes()].concat()
}

pub(super) fn is_temporary(name: &str) -> bool {
    name.ends_with(TEMPORARY_SUFFIX)
}

pub(super) fn name_of(number: u64, first_seq: u64) -> String {
    format!("{number:010}-{first_seq:020}.spool")
}

/// A segment's number and the number of its first record.
pub(super) fn numbers_of(name: &str) -> Option<(u64, u64)> {
    let (number, first_seq) = name.strip_suffix(".spool")?.split_once('-')?;
    Some((number.parse().ok()?, first_seq.parse().ok()?))
}
