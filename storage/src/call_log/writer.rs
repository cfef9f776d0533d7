//! The side of a call log that is fed: one thread owns it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::block::{MAX_RAW, Pending};
use super::index::{BLOCK, BlockRef, MARK, MAX_FOOTER, VERSION};
use super::shared::{Index, Segment, Shared};
use super::{
    CallEntry, CallLogError, CallLogOptions, CallLogReader, CallLogRecovery, MAGIC,
    MAX_POSITION_BYTES, MAX_RECORD_BYTES, file_name, recovery,
};
use crate::disk::{DirLock, Disk, DiskFile};
use crate::frame;
use crate::segment::Header;

/// Takes records and writes them.
#[derive(Debug)]
pub struct CallLog {
    options: CallLogOptions,
    shared: Arc<Shared>,
    active: Option<Active>,
    next_number: u64,
    failed: Option<Arc<io::Error>>,
    _lock: DirLock,
}

/// The segment that is being written.
#[derive(Debug)]
struct Active {
    number: u64,
    path: PathBuf,
    file: Box<dyn DiskFile>,
    seed: u32,
    end: u64,
    synced: u64,
    /// There are blocks behind the last sync.
    dirty: bool,
    /// Its name is durable.
    named: bool,
    began_ms: u64,
    footer_bytes: usize,
}

// === impl CallLog ===

impl CallLog {
    /// Opens a log, or begins one. Segments that were not sealed are sealed now.
    ///
    /// # Errors
    /// [`CallLogError::NotOurs`] or [`CallLogError::NewerFormat`] if the files are not this node's to read;
    /// [`CallLogError::InUse`] and [`CallLogError::Io`].
    pub fn open(
        disk: Arc<dyn Disk>,
        options: CallLogOptions,
        now_ms: u64,
    ) -> Result<(Self, CallLogReader, CallLogRecovery), CallLogError> {
        let dir = &options.dir;
        disk.create_dir_all(dir)
            .map_err(CallLogError::io("create the directory", dir))?;
        let lock = disk.lock_dir(dir).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => CallLogError::InUse { dir: dir.clone() },
            _ => CallLogError::io("lock", dir)(error),
        })?;
        let shared = Arc::new(Shared::new(disk, options.owner()));
        let (found, next_number) = recovery::recover(&shared, &options, now_ms)?;
        let reader = CallLogReader::new(Arc::clone(&shared));
        let mut log = Self {
            options,
            shared,
            active: None,
            next_number,
            failed: None,
            _lock: lock,
        };
        log.drop_old(now_ms)?;
        Ok((log, reader, found))
    }

    /// Takes a record; readers see it at once. It is durable after [`Self::write_block`] and [`Self::sync`].
    ///
    /// # Errors
    /// [`CallLogError::TooLong`] for a record that is, or if no block was written for long; [`CallLogError::Failed`].
    pub fn append(&mut self, entry: &CallEntry<'_>) -> Result<(), CallLogError> {
        self.check_usable()?;
        let pending = &mut self.shared.state().pending;
        let bytes = entry.bytes.len();
        if bytes > MAX_RECORD_BYTES || pending.raw.len() > MAX_RAW {
            let bytes = bytes.max(pending.raw.len());
            return Err(CallLogError::TooLong { bytes });
        }
        pending.push(entry);
        Ok(())
    }

    /// Whether a block should be written before the next record is taken.
    pub fn wants_block(&self) -> bool {
        self.shared.state().pending.raw.len() >= self.options.block_bytes.min(MAX_RAW)
    }

    /// Whether there are records that are in no block yet.
    pub fn has_pending(&self) -> bool {
        !self.shared.state().pending.is_empty()
    }

    /// Writes the records taken so far as a block. `position` is where the feed stands behind the last of them.
    ///
    /// # Errors
    /// [`CallLogError::Io`], and then [`CallLogError::Failed`] for good; [`CallLogError::TooLong`] for a position that is.
    pub fn write_block(&mut self, position: &[u8], now_ms: u64) -> Result<(), CallLogError> {
        self.check_usable()?;
        if position.len() > MAX_POSITION_BYTES {
            let bytes = position.len();
            return Err(CallLogError::TooLong { bytes });
        }
        // Only this thread changes it, so readers are not held up while it is packed and written.
        let pending = self.shared.state().pending.clone();
        if pending.is_empty() {
            return Ok(());
        }
        let result = self.write_pending(&pending, position, now_ms);
        self.noting_failure(result)?;
        let full = self.active.as_ref().is_some_and(|active| {
            active.end >= self.options.segment_bytes || active.footer_bytes > MAX_FOOTER / 2
        });
        if full { self.seal(now_ms) } else { Ok(()) }
    }

    /// Makes the blocks durable that were written.
    ///
    /// # Errors
    /// As [`Self::write_block`].
    pub fn sync(&mut self) -> Result<(), CallLogError> {
        self.check_usable()?;
        let Some(active) = self.active.as_mut().filter(|active| active.dirty) else {
            return Ok(());
        };
        let result = active.sync(self.shared.disk.as_ref(), &self.options.dir);
        self.noting_failure(result)
    }

    /// What is due by time: an old segment is sealed, what nobody keeps any longer is dropped.
    ///
    /// # Errors
    /// As [`Self::write_block`].
    pub fn tick(&mut self, now_ms: u64) -> Result<(), CallLogError> {
        self.check_usable()?;
        let age = self.options.segment_age_ms;
        let old = |active: &Active| now_ms.saturating_sub(active.began_ms) >= age;
        if self.active.as_ref().is_some_and(old) {
            return self.seal(now_ms);
        }
        self.drop_old(now_ms)
    }

    /// Bytes of all segments.
    pub fn bytes(&self) -> u64 {
        let state = self.shared.state();
        state.segments.values().map(|segment| segment.bytes).sum()
    }

    fn write_pending(
        &mut self,
        pending: &Pending,
        position: &[u8],
        now_ms: u64,
    ) -> Result<(), CallLogError> {
        if self.active.is_none() {
            self.active = Some(self.begin(now_ms)?);
        }
        let Some(active) = &mut self.active else {
            return Ok(());
        };
        let zone = pending.zone();
        let payload = pending
            .encode(&zone, active.synced, position)
            .map_err(CallLogError::io("pack a block for", &active.path))?;
        let mut out = Vec::with_capacity(frame::size(payload.len()));
        frame::push(&mut out, active.seed, BLOCK, VERSION, &payload);
        let written = active.file.write_all_at(&out, active.end);
        written.map_err(CallLogError::io("write", &active.path))?;
        let block = BlockRef {
            offset: active.end,
            size: u32::try_from(out.len()).unwrap_or(u32::MAX),
            zone,
        };
        active.end += out.len() as u64;
        active.dirty = true;
        active.footer_bytes += block.footer_bytes();
        let mut state = self.shared.state();
        if let Some(segment) = state.segments.get_mut(&active.number) {
            segment.add(block, active.end);
        }
        state.pending = Pending::default();
        Ok(())
    }

    fn begin(&mut self, now_ms: u64) -> Result<Active, CallLogError> {
        let number = self.next_number;
        let path = self.options.dir.join(file_name(number));
        let header = Header {
            owner: self.shared.owner,
            number,
            first: now_ms,
            prev_crc: 0,
            bytes: 0,
            body: Vec::new(),
        };
        let (bytes, seed) = header.encode(MAGIC);
        let file = self.shared.disk.create(&path);
        let file = file.map_err(CallLogError::io("create", &path))?;
        let written = file.write_all_at(&bytes, 0);
        written.map_err(CallLogError::io("write", &path))?;
        self.next_number = number.saturating_add(1);
        let segment = Segment {
            number,
            path: path.clone(),
            bytes: bytes.len() as u64,
            seed,
            min_ms: 0,
            max_ms: 0,
            index: Index::Here(Vec::new()),
        };
        self.shared.state().segments.insert(number, segment);
        Ok(Active {
            number,
            path,
            file,
            seed,
            end: bytes.len() as u64,
            synced: 0,
            dirty: false,
            named: false,
            began_ms: now_ms,
            footer_bytes: 0,
        })
    }

    /// Ends the active segment: its blocks are durable first, then its footer is.
    fn seal(&mut self, now_ms: u64) -> Result<(), CallLogError> {
        self.sync()?;
        let Some(mut active) = self.active.take() else {
            return Ok(());
        };
        let segment = self.shared.state().segments.get(&active.number).cloned();
        if let Some(mut segment) = segment
            && let Index::Here(blocks) = &segment.index
        {
            let end = recovery::frames_at_end(&segment, active.end, blocks);
            let footer = active.end;
            let result = active.append(&end).and_then(|()| active.sync_file());
            self.noting_failure(result)?;
            segment.bytes = active.end;
            segment.index = Index::Footer(footer);
            let mut state = self.shared.state();
            state.segments.insert(segment.number, segment);
        }
        self.drop_old(now_ms)
    }

    /// Drops segments, the oldest first. The newest stays: it says where the feed stands.
    fn drop_old(&mut self, now_ms: u64) -> Result<(), CallLogError> {
        loop {
            let oldest = {
                let state = self.shared.state();
                let total: u64 = state.segments.values().map(|segment| segment.bytes).sum();
                let due = |segment: &&Segment| {
                    let age = now_ms.saturating_sub(segment.max_ms);
                    total > self.options.max_bytes || age > self.options.max_age_ms
                };
                let droppable = state.segments.len() > 1;
                state
                    .segments
                    .values()
                    .next()
                    .filter(due)
                    .cloned()
                    .filter(|_| droppable)
            };
            let Some(segment) = oldest else { return Ok(()) };
            match self.shared.disk.remove(&segment.path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return self
                        .noting_failure(Err(CallLogError::io("remove", &segment.path)(error)));
                }
                _ => {}
            }
            self.shared.state().segments.remove(&segment.number);
        }
    }

    fn check_usable(&self) -> Result<(), CallLogError> {
        match &self.failed {
            None => Ok(()),
            Some(source) => Err(CallLogError::Failed {
                dir: self.options.dir.clone(),
                source: Arc::clone(source),
            }),
        }
    }

    fn noting_failure(&mut self, result: Result<(), CallLogError>) -> Result<(), CallLogError> {
        if let Err(error) = &result {
            let source = io::Error::other(error.to_string());
            self.failed.get_or_insert_with(|| Arc::new(source));
        }
        result
    }
}

// === impl Active ===

impl Active {
    fn append(&mut self, bytes: &[u8]) -> Result<(), CallLogError> {
        let written = self.file.write_all_at(bytes, self.end);
        written.map_err(CallLogError::io("write", &self.path))?;
        self.end += bytes.len() as u64;
        Ok(())
    }

    fn sync_file(&self) -> Result<(), CallLogError> {
        let synced = self.file.sync_data();
        synced.map_err(CallLogError::io("sync", &self.path))
    }

    /// Makes the file durable, and says so in a mark that needs not be.
    fn sync(&mut self, disk: &dyn Disk, dir: &Path) -> Result<(), CallLogError> {
        self.sync_file()?;
        if !self.named {
            let synced = disk.sync_dir(dir);
            synced.map_err(CallLogError::io("sync the directory", dir))?;
            self.named = true;
        }
        (self.synced, self.dirty) = (self.end, false);
        let mut mark = Vec::new();
        let payload = self.synced.to_le_bytes();
        frame::push(&mut mark, self.seed, MARK, VERSION, &payload);
        self.append(&mark)
    }
}
