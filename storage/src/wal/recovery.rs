//! Reads the log when it is opened: segment by segment, record by record, up to the first odd place.
//!
//! A segment with a successor was synced whole, and the successor names the checksum of its last record:
//! anything else there is damage. What an odd place in the last segment means is `tail`'s to judge.
//!
//! Invariant: what is returned is on the disk, synced, and the batch it ends with is closed.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::WalError;
use super::directory::{Active, Directory, NewSegment, Sealed};
use super::log::{Log, Place};
use super::record::{Decoded, Head, Kind, MAGIC, MAX_PAYLOAD};
use super::shared::SegmentFile;
use super::tail::Tail;
use crate::frame::Parsed;
use crate::segment::{Header, MAX_HEADER, Opened, Window};

/// What the directory held.
#[derive(Debug)]
pub(super) struct Recovery {
    pub(super) log: Log,
    pub(super) files: BTreeMap<u64, SegmentFile>,
    pub(super) sealed: VecDeque<Sealed>,
    pub(super) active: Active,
    pub(super) head: Head,
    /// Whether all that is in the active segment is known to have been synced.
    pub(super) proven: bool,
}

/// What the records read so far amount to.
#[derive(Debug)]
struct Replay {
    log: Log,
    head: Head,
    /// The batch that the last record belongs to.
    tail: Tail,
}

/// Reads all segments, or makes the first one.
pub(super) fn recover(directory: &Directory, cache: usize) -> Result<Recovery, WalError> {
    let names = directory.segments()?;
    let Some(&(first_number, _)) = names.first() else {
        return fresh(directory, cache);
    };
    let mut replay = None;
    let mut segments: Vec<Active> = Vec::new();
    for (number, name) in names {
        let path = directory.path.join(&name);
        let (mut window, segment, opened) = open_segment(directory, &path)?;
        check_chain(&path, number, &opened.header, segments.last())?;
        let head = Head::decode(&opened.header.body);
        let head = head.ok_or_else(|| WalError::damaged(&path, 0, "the header has no meaning"))?;
        let replay = replay.get_or_insert_with(|| Replay::begin(head.clone(), cache));
        replay.head.batch = head.batch;
        replay.tail = Tail::at(opened.end as u64);
        let mut active = Active::opened(number, segment, &window, &opened);
        replay.segment(&mut window, &mut active)?;
        segments.push(active);
    }
    let (Some(mut replay), Some(mut active)) = (replay, segments.pop()) else {
        return fresh(directory, cache);
    };
    replay.tail.close(&mut replay.head, &mut active)?;
    // Whoever named the newest segment may have been killed before its name was durable.
    directory.sync()?;
    replay.check_beginning(directory, first_number)?;
    replay.log.replayed();
    let all = segments.iter().chain([&active]);
    let files = all
        .map(|segment| (segment.number, segment.segment.clone()))
        .collect();
    let sealed = segments.into_iter().map(Active::seal).collect();
    Ok(Recovery {
        log: replay.log,
        files,
        sealed,
        active,
        head: replay.head,
        proven: replay.tail.is_proven(),
    })
}

fn fresh(directory: &Directory, cache: usize) -> Result<Recovery, WalError> {
    let head = Head::default();
    let new = NewSegment {
        number: 1,
        first: None,
        prev_crc: 0,
        head: &head,
    };
    let active = directory.create(&new, None, 0)?;
    let mut replay = Replay::begin(head, cache);
    replay.log.replayed();
    let files = BTreeMap::from([(active.number, active.segment.clone())]);
    Ok(Recovery {
        log: replay.log,
        files,
        sealed: VecDeque::new(),
        active,
        head: replay.head,
        proven: true,
    })
}

fn open_segment(
    directory: &Directory,
    path: &Path,
) -> Result<(Window, SegmentFile, Opened), WalError> {
    let file = directory
        .disk
        .open(path)
        .map_err(WalError::io("open the log segment", path))?;
    let file: Arc<_> = Arc::from(file);
    let window = Window::new(Arc::clone(&file));
    let mut window = window.map_err(WalError::io("read the log segment", path))?;
    let start = window
        .at(0, MAX_HEADER)
        .map_err(WalError::io("read the log segment", path))?;
    let opened = Header::decode(MAGIC, start, directory.owner)
        .map_err(|error| WalError::header(path, &error, directory.owner))?;
    if opened.header.bytes != window.size() {
        let (found, bytes) = (window.size(), opened.header.bytes);
        let what = format!("the file has {found} bytes, and its header says {bytes}");
        return Err(WalError::damaged(path, found.min(bytes), what));
    }
    let segment = SegmentFile {
        file,
        path: path.to_path_buf(),
        seed: opened.seed,
    };
    Ok((window, segment, opened))
}

fn check_chain(
    path: &Path,
    number: u64,
    header: &Header,
    before: Option<&Active>,
) -> Result<(), WalError> {
    if header.number != number {
        let what = format!("the header says it is segment {}", header.number);
        return Err(WalError::damaged(path, 0, what));
    }
    let Some(before) = before else { return Ok(()) };
    if before.number + 1 != number {
        let what = format!(
            "the segments between {} and {number} are missing",
            before.number
        );
        return Err(WalError::damaged(path, 0, what));
    }
    if before.last_crc != header.prev_crc {
        let what = format!("the record here is not intact, and segment {number} follows");
        return Err(WalError::damaged(&before.segment.path, before.offset, what));
    }
    Ok(())
}

// === impl Replay ===

impl Replay {
    fn begin(head: Head, cache: usize) -> Self {
        Self {
            log: Log::replay(head.purged.clone(), cache),
            head,
            tail: Tail::at(0),
        }
    }

    /// Applies the records of a segment up to the first thing that is none.
    fn segment(&mut self, window: &mut Window, active: &mut Active) -> Result<(), WalError> {
        let (path, seed) = (active.segment.path.clone(), active.segment.seed);
        loop {
            let offset = active.offset;
            let parsed = window.frame_at(offset, seed, MAX_PAYLOAD);
            let parsed = parsed.map_err(WalError::io("read the log segment", &path))?;
            let Parsed::Frame(frame) = parsed else { break };
            let applied = Decoded::from_frame(&frame)
                .ok_or("the record's kind is unknown to this release")
                .and_then(|record| self.apply(&record, active));
            applied.map_err(|what| WalError::damaged(&path, offset, what))?;
            active.last_crc = frame.crc;
            active.offset += frame.size() as u64;
        }
        let odd = window.used_end(active.offset);
        let end = odd.map_err(WalError::io("read the log segment", &path))?;
        self.tail.torn(self.head.batch, window, active, end)
    }

    fn apply(&mut self, record: &Decoded<'_>, active: &mut Active) -> Result<(), &'static str> {
        if record.batch != self.tail.batch_here(self.head.batch) {
            return Err("the record is of another batch than the one before it implies");
        }
        let body = || Bytes::copy_from_slice(record.body);
        let position = record.position;
        match record.kind {
            Kind::Vote => self.head.vote = Some(body()),
            Kind::Entry => {
                let place = Place::Written {
                    segment: active.number,
                    offset: active.offset,
                };
                if !self.log.replay_entry(position, place, record.body.len()) {
                    return Err("the record does not follow the one before it");
                }
                active.max_index = active.max_index.max(Some(position.index));
            }
            Kind::Truncate => {
                let truncated = self.log.replay_truncate(position.index);
                truncated.map_err(|_| "the record truncates what was purged")?;
            }
            Kind::Purge => {
                self.log.purge(position, body());
                self.head.purged = Some((position, body()));
            }
            Kind::Commit => self.head.committed = Some(body()),
            Kind::Mark => {}
        }
        self.head.batch = record.batch;
        self.tail.passed(record, active.offset);
        Ok(())
    }

    /// Refuses if segments are missing that no purge covers.
    fn check_beginning(&self, directory: &Directory, number: u64) -> Result<(), WalError> {
        let purged = self.log.purged().map(|purged| purged.index);
        let covered = match (purged, self.log.first_index()) {
            (None, _) => number == 1,
            (Some(purged), Some(first)) => number == 1 || first <= purged.saturating_add(1),
            (Some(_), None) => true,
        };
        if covered {
            return Ok(());
        }
        let what = format!("the segments before {number} are missing, and no purge removed them");
        Err(WalError::damaged(&directory.path, 0, what))
    }
}

// === impl Active ===

impl Active {
    /// A segment of which only the header has been read.
    fn opened(number: u64, segment: SegmentFile, window: &Window, opened: &Opened) -> Self {
        Self {
            number,
            segment,
            size: window.size(),
            offset: opened.end as u64,
            last_crc: opened.seed,
            max_index: None,
        }
    }

    fn seal(self) -> Sealed {
        Sealed {
            number: self.number,
            path: self.segment.path,
            size: self.size,
            max_index: self.max_index,
        }
    }
}
