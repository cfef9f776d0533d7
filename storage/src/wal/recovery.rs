//! Reads the log when it is opened, and decides what an odd end means.
//!
//! A write that a crash interrupted leaves a torn tail: nobody was told that it is durable, so it is
//! cut off. Bytes that had been synced and changed later are a different thing: the node may have
//! voted or acknowledged by them, so it must not go on. They are told apart like this:
//! * a segment with a successor was synced whole, and the successor names the checksum of its last
//!   record: anything else there is damage;
//! * in the last segment, an intact record of a later batch behind the odd place proves that the
//!   batch of the odd place had been synced.
//!
//! Invariant: what is returned is on the disk, synced, and the batch it ends with is closed.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::directory::{Active, Directory, NewSegment, Sealed};
use super::log::{Log, Place};
use super::record::{self, Decoded, Head, Kind, MAGIC, MARK_SIZE, MAX_PAYLOAD};
use super::shared::SegmentFile;
use super::{Position, WalError};
use crate::frame::{self, ALIGN, HEAD, Parsed};
use crate::segment::{Header, MAX_HEADER, Opened, Window};

/// What the directory held.
#[derive(Debug)]
pub(super) struct Recovery {
    pub(super) log: Log,
    pub(super) files: BTreeMap<u64, SegmentFile>,
    pub(super) sealed: VecDeque<Sealed>,
    pub(super) active: Active,
    pub(super) head: Head,
}

/// What the records read so far amount to.
#[derive(Debug)]
struct Replay {
    log: Log,
    head: Head,
    /// Whether the last record read was the last one before a sync.
    batch_ended: bool,
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
        replay.batch_ended = true;
        let mut active = Active::opened(number, segment, &window, &opened);
        replay.segment(&mut window, &mut active)?;
        segments.push(active);
    }
    let (Some(mut replay), Some(mut active)) = (replay, segments.pop()) else {
        return fresh(directory, cache);
    };
    replay.close_tail(&mut active)?;
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
            batch_ended: true,
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
        if end > active.offset {
            self.refuse_synced_damage(window, active, end)?;
            active.torn_end = Some(end);
        }
        Ok(())
    }

    /// The batch that a record at this place belongs to.
    fn current_batch(&self) -> u64 {
        self.head.batch + u64::from(self.batch_ended)
    }

    fn apply(&mut self, record: &Decoded<'_>, active: &mut Active) -> Result<(), &'static str> {
        if record.batch != self.current_batch() {
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
        self.batch_ended = record.ends_batch;
        Ok(())
    }

    /// Refuses if an intact record of a later batch stands behind the odd place.
    fn refuse_synced_damage(
        &self,
        window: &mut Window,
        active: &Active,
        end: u64,
    ) -> Result<(), WalError> {
        let path = &active.segment.path;
        let batch = self.current_batch();
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
        Ok(())
    }

    /// Cuts a torn tail off, ends an open batch, and makes what was read durable: after a kill it may
    /// have been in memory only.
    fn close_tail(&mut self, active: &mut Active) -> Result<(), WalError> {
        let (path, file) = (
            active.segment.path.clone(),
            Arc::clone(&active.segment.file),
        );
        if let Some(end) = active.torn_end.take() {
            let torn = end - active.offset;
            tracing::warn!(file = %path.display(), offset = active.offset, bytes = torn,
                "cutting off a torn tail of the write-ahead log");
            let zeros = vec![0; usize::try_from(torn).unwrap_or(usize::MAX)];
            let wrote = file.write_all_at(&zeros, active.offset);
            wrote.map_err(WalError::io("cut the torn tail off", &path))?;
        }
        if !self.batch_ended {
            if active.offset + MARK_SIZE > active.size {
                let what = "no room is left to end the open batch";
                return Err(WalError::damaged(&path, active.offset, what));
            }
            let prefix = record::prefix(self.head.batch, true, Position { term: 0, index: 0 });
            let mut mark = Vec::new();
            let kind = Kind::Mark as u8;
            active.last_crc = frame::push(
                &mut mark,
                active.segment.seed,
                kind,
                record::VERSION,
                &prefix,
            );
            let wrote = file.write_all_at(&mark, active.offset);
            wrote.map_err(WalError::io("end the open batch", &path))?;
            active.offset += mark.len() as u64;
            self.batch_ended = true;
        }
        file.sync_data()
            .map_err(WalError::io("sync the log segment", &path))
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
            torn_end: None,
        }
    }

    fn seal(self) -> Sealed {
        Sealed {
            number: self.number,
            path: self.segment.path,
            max_index: self.max_index,
        }
    }
}
