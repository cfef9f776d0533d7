//! Reads a spool when it is opened, and decides what an odd end means.
//!
//! Pages of a map reach the disk in any order, so after a power cut anything behind the last sync may
//! be missing, even whole segments between others. The mark, which each sync leaves in the segment it
//! reached, says how far that was: records below it must be there. What lies behind the first odd
//! place is dropped if the mark does not vouch for it, and is refused as damage if it does. The length
//! of a file is another matter: it is set before the file is named (and file systems keep the order of
//! the two), so a file that is shorter or longer than its header says was changed later: refused.
//!
//! Invariants: what is returned is durable, has no gap, and only zeros lie behind its end.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::map::{MARK_BYTES, Region, mark_of};
use super::reader::MAX_FRAME_PAYLOAD;
use super::shared::{self, MAGIC, Parts, Segment, Shared};
use super::writer::{WALL, WriterTail};
use super::{MAX_SEGMENT_BYTES, MIN_SEGMENT_BYTES, PAGE, SpoolError, SpoolOptions, SpoolRecovery};
use crate::disk::{DirLock, Disk, DiskFile, read_all};
use crate::frame::{self, Parsed};
use crate::segment::{Header, HeaderError, Opened};

/// An opened spool.
#[derive(Debug)]
pub(super) struct Recovered {
    pub(super) shared: Arc<Shared>,
    pub(super) tail: WriterTail,
    pub(super) recovery: SpoolRecovery,
}

/// One segment's file, read whole.
#[derive(Debug)]
struct Scanned {
    number: u64,
    path: PathBuf,
    file: Box<dyn DiskFile>,
    len: usize,
    mark: Option<u64>,
    /// `None` if the header is not intact.
    header: Option<Opened>,
    records: u64,
    /// Where the intact records end.
    end: usize,
    /// Where the bytes end that are not zero.
    used_end: usize,
    last_crc: u32,
}

/// The part of a spool that is in order.
#[derive(Debug, Default)]
struct Kept {
    segments: Vec<Scanned>,
    dropped: Vec<Scanned>,
    next_seq: Option<u64>,
    truncated_bytes: u64,
}

/// Opens what is in a spool's directory, or begins a spool there.
pub(super) fn recover(
    disk: Arc<dyn Disk>,
    options: &SpoolOptions,
    dir: PathBuf,
    lock: DirLock,
) -> Result<Recovered, SpoolError> {
    let scanned = scan_all(&*disk, options, &dir)?;
    let marks = scanned.iter().filter_map(|segment| segment.mark);
    let synced = marks.max().unwrap_or(0);
    let kept = keep(scanned, options.worker);
    kept.refuse_loss(synced, &dir)?;
    let uuid = kept.uuid().unwrap_or(options.new_uuid);
    let next_seq = kept.next_seq.unwrap_or(1);
    let truncated_bytes = kept.truncated_bytes;
    let (segments, tail) = kept.map(&*disk)?;
    let parts = Parts {
        disk,
        owner: options.owner(),
        uuid,
        worker: options.worker,
        segment_bytes: options.segment_bytes,
        max_bytes: options.max_bytes,
        next_seq,
        segments,
        lock,
        dir,
    };
    let shared = Arc::new(Shared::new(parts));
    let tail = tail.map_or_else(|| first_segment(&shared), Ok)?;
    let synced = shared.disk.sync_dir(&shared.dir);
    synced.map_err(SpoolError::io("sync the directory", &shared.dir))?;
    shared.set_mark(next_seq);
    let first_seq = shared
        .segments()
        .front()
        .map_or(next_seq, |oldest| oldest.first_seq);
    if truncated_bytes > 0 {
        tracing::warn!(dir = %shared.dir.display(), next_seq, truncated_bytes,
            "dropped what a crash left of unsynced usage");
    }
    let recovery = SpoolRecovery {
        uuid,
        first_seq,
        next_seq,
        truncated_bytes,
    };
    Ok(Recovered {
        shared,
        tail,
        recovery,
    })
}

fn first_segment(shared: &Shared) -> Result<WriterTail, SpoolError> {
    let (segment, tail) = shared.begin_segment(1, 1, 0)?;
    let synced = segment.file.sync_data();
    synced.map_err(SpoolError::io("sync", &segment.path))?;
    let last_crc = segment.seed;
    Ok(WriterTail {
        segment,
        tail,
        last_crc,
    })
}

fn scan_all(
    disk: &dyn Disk,
    options: &SpoolOptions,
    dir: &Path,
) -> Result<Vec<Scanned>, SpoolError> {
    let names = disk.list(dir).map_err(SpoolError::io("list", dir))?;
    let mut scanned = Vec::new();
    for name in names {
        let path = dir.join(&name);
        if shared::is_temporary(&name) {
            disk.remove(&path)
                .map_err(SpoolError::io("remove", &path))?;
        } else if let Some((number, _)) = shared::numbers_of(&name) {
            scanned.push(Scanned::read(disk, options, number, path)?);
        }
    }
    scanned.sort_unstable_by_key(|segment| segment.number);
    Ok(scanned)
}

/// Takes the segments in order up to the first odd place; what lies behind it is dropped.
fn keep(scanned: Vec<Scanned>, worker: u32) -> Kept {
    let mut kept = Kept::default();
    let mut broken = false;
    for segment in scanned {
        broken = broken || !kept.continues_with(&segment, worker);
        if broken {
            kept.truncated_bytes += segment.used_end as u64;
            kept.dropped.push(segment);
            continue;
        }
        kept.next_seq = segment.end_seq();
        kept.truncated_bytes += (segment.used_end - segment.end) as u64;
        kept.segments.push(segment);
    }
    kept
}

// === impl Scanned ===

impl Scanned {
    fn read(
        disk: &dyn Disk,
        options: &SpoolOptions,
        number: u64,
        path: PathBuf,
    ) -> Result<Self, SpoolError> {
        let file = disk.open(&path).map_err(SpoolError::io("open", &path))?;
        let buf = read_all(&*file, MAX_SEGMENT_BYTES as u64 + 1);
        let buf = buf.map_err(SpoolError::io("read", &path))?;
        let len = buf.len();
        if len < MIN_SEGMENT_BYTES || !len.is_multiple_of(PAGE) {
            let what = format!("no segment has {len} bytes");
            return Err(cut_short(&path, len as u64, what));
        }
        let header = match Header::decode(MAGIC, &buf, options.owner()) {
            Ok(opened) if opened.header.bytes == len as u64 => Some(opened),
            Ok(opened) => {
                let bytes = opened.header.bytes;
                let what = format!("the file has {len} bytes, and its header says {bytes}");
                return Err(cut_short(&path, bytes.min(len as u64), what));
            }
            Err(HeaderError::Damaged) => None,
            Err(foreign) => return Err(SpoolError::header(&path, &foreign, options.owner())),
        };
        let records_end = len.saturating_sub(MARK_BYTES);
        let area = &buf[..records_end];
        let mut scanned = Self {
            number,
            path,
            file,
            len,
            mark: mark_of(&buf),
            records: 0,
            end: 0,
            used_end: area
                .iter()
                .rposition(|byte| *byte != 0)
                .map_or(0, |last| last + 1),
            last_crc: 0,
            header: None,
        };
        if let Some(opened) = header.filter(|opened| opened.end <= records_end) {
            scanned.end = opened.end;
            scanned.last_crc = opened.seed;
            scanned.count(area, opened.seed);
            scanned.header = Some(opened);
        }
        scanned.used_end = scanned.used_end.max(scanned.end);
        Ok(scanned)
    }

    fn count(&mut self, area: &[u8], seed: u32) {
        while let Parsed::Frame(frame) = frame::parse(&area[self.end..], seed, MAX_FRAME_PAYLOAD)
            && frame.payload.len() >= WALL
        {
            self.end += frame.size();
            self.last_crc = frame.crc;
            self.records += 1;
        }
    }

    fn end_seq(&self) -> Option<u64> {
        Some(
            self.header
                .as_ref()?
                .header
                .first
                .saturating_add(self.records),
        )
    }
}

// === impl Kept ===

impl Kept {
    /// Whether a segment is intact and goes on where the kept ones end.
    fn continues_with(&self, segment: &Scanned, worker: u32) -> bool {
        let Some(opened) = &segment.header else {
            return false;
        };
        let header = &opened.header;
        let uuid = self.uuid().or_else(|| uuid_of(header));
        let body = uuid.map(|uuid| shared::header_body(uuid, worker));
        if header.number != segment.number || Some(&header.body) != body.as_ref() {
            return false;
        }
        self.segments.last().is_none_or(|before| {
            before.number + 1 == header.number
                && before.last_crc == header.prev_crc
                && Some(header.first) == self.next_seq
        })
    }

    fn uuid(&self) -> Option<[u8; 16]> {
        uuid_of(&self.segments.first()?.header.as_ref()?.header)
    }

    /// Refuses if records below the mark are not among the kept ones.
    fn refuse_loss(&self, synced: u64, dir: &Path) -> Result<(), SpoolError> {
        let seq = self.next_seq.unwrap_or(1);
        if seq >= synced {
            return Ok(());
        }
        // The record belongs to the last kept segment unless a dropped one begins with it.
        let dropped = self.dropped.first();
        let dropped = dropped.filter(|segment| first_seq_of(&segment.path) <= seq);
        let (file, offset) = match (dropped, self.segments.last()) {
            (Some(dropped), _) => (dropped.path.clone(), 0),
            (None, Some(last)) => (last.path.clone(), last.end),
            (None, None) => (dir.to_path_buf(), 0),
        };
        let what = format!("records up to {synced} were synced, and {seq} is not intact");
        Err(SpoolError::Damaged {
            file,
            offset: offset as u64,
            seq,
            what,
        })
    }

    /// Drops what is to be dropped, syncs what is kept (after a kill it may be in memory only), and
    /// maps it.
    fn map(
        self,
        disk: &dyn Disk,
    ) -> Result<(VecDeque<Arc<Segment>>, Option<WriterTail>), SpoolError> {
        for segment in self.dropped.iter().rev() {
            let removed = disk.remove(&segment.path);
            removed.map_err(SpoolError::io("remove", &segment.path))?;
        }
        let mut segments = VecDeque::new();
        let mut writer_tail = None;
        for scanned in self.segments {
            let Some(opened) = scanned.header else { break };
            let path = scanned.path;
            if scanned.used_end > scanned.end {
                let zeros = vec![0; scanned.used_end - scanned.end];
                let wrote = scanned.file.write_all_at(&zeros, scanned.end as u64);
                wrote.map_err(SpoolError::io("cut the torn tail off", &path))?;
            }
            scanned
                .file
                .sync_data()
                .map_err(SpoolError::io("sync", &path))?;
            let mapped = scanned.file.to_map();
            let mapped = mapped.and_then(|file| Region::map(&file, scanned.len, scanned.end));
            let (region, tail) = mapped.map_err(SpoolError::io("map", &path))?;
            let segment = Arc::new(Segment {
                number: scanned.number,
                first_seq: opened.header.first,
                path,
                file: scanned.file,
                region,
                seed: opened.seed,
                start: opened.end,
            });
            let last_crc = scanned.last_crc;
            writer_tail = Some(WriterTail {
                segment: Arc::clone(&segment),
                tail,
                last_crc,
            });
            segments.push_back(segment);
        }
        Ok((segments, writer_tail))
    }
}

fn cut_short(path: &Path, offset: u64, what: String) -> SpoolError {
    SpoolError::Damaged {
        file: path.to_path_buf(),
        offset,
        seq: first_seq_of(path),
        what,
    }
}

/// The number of a segment's first record, by its name.
fn first_seq_of(path: &Path) -> u64 {
    let name = path.file_name().and_then(|name| name.to_str());
    name.and_then(shared::numbers_of).map_or(0, |(_, seq)| seq)
}

fn uuid_of(header: &Header) -> Option<[u8; 16]> {
    header.body.first_chunk().copied()
}
