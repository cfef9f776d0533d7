//! The log's directory: names of segments, and how a new one comes into being.
//!
//! ```text
//! prepared.tmp --(header, sync)--> prepared.tmp --(rename, sync directory)--> log-<number>-<first>.wal
//! ```
//!
//! Invariants:
//! * a file named `log-*.wal` has a whole, synced header; a header that is not intact is damage;
//! * segment numbers have no gap; a segment goes before any newer one does.

use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::{fmt, io};

use super::WalError;
use super::record::{Head, MAGIC, MARK_ROOM};
use super::shared::SegmentFile;
use crate::disk::{Disk, DiskFile};
use crate::segment::{Header, Owner};

const PREPARED: &str = "prepared.tmp";

/// A record longer than a whole segment gets one of its own, made on the spot.
const OVERSIZED: &str = "oversized.tmp";

/// Where a log lives, and whose it is.
#[derive(Clone, Debug)]
pub(super) struct Directory {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) path: PathBuf,
    pub(super) owner: Owner,
    pub(super) segment_bytes: u64,
}

/// The segment that is being written.
#[derive(Debug)]
pub(super) struct Active {
    pub(super) number: u64,
    pub(super) segment: SegmentFile,
    pub(super) size: u64,
    /// Where the next frame goes.
    pub(super) offset: u64,
    pub(super) last_crc: u32,
    /// The largest index that was ever written here, truncated or not.
    pub(super) max_index: Option<u64>,
}

/// A segment that will not be written again.
#[derive(Debug)]
pub(super) struct Sealed {
    pub(super) number: u64,
    pub(super) path: PathBuf,
    /// The length of the file.
    pub(super) size: u64,
    /// The largest index that was ever written here, truncated or not.
    pub(super) max_index: Option<u64>,
}

/// Makes the next segment's file ahead of time, on a thread of its own.
pub(super) struct Preparer {
    directory: Directory,
    requests: Option<mpsc::Sender<()>>,
    ready: mpsc::Receiver<io::Result<Box<dyn DiskFile>>>,
    asked: bool,
    thread: Option<JoinHandle<()>>,
}

/// What a new segment starts with.
#[derive(Debug)]
pub(super) struct NewSegment<'a> {
    pub(super) number: u64,
    /// Index of the next record, if it is known.
    pub(super) first: Option<u64>,
    pub(super) prev_crc: u32,
    pub(super) head: &'a Head,
}

// === impl Directory ===

impl Directory {
    /// The segments' numbers and names in order; leftovers of unfinished work are removed.
    pub(super) fn segments(&self) -> Result<Vec<(u64, String)>, WalError> {
        let names = self.disk.list(&self.path);
        let names = names.map_err(WalError::io("list the log directory", &self.path))?;
        let mut segments = Vec::new();
        for name in names {
            if name == PREPARED || name == OVERSIZED {
                let path = self.path.join(&name);
                let removed = self.disk.remove(&path);
                removed.map_err(WalError::io("remove the unused segment", &path))?;
            } else if let Some(number) = number_of(&name) {
                segments.push((number, name));
            }
        }
        segments.sort_unstable();
        Ok(segments)
    }

    /// Makes an empty segment whose header is durable, from a prepared file or a new one.
    pub(super) fn create(
        &self,
        new: &NewSegment<'_>,
        prepared: Option<&mut Preparer>,
        need: u64,
    ) -> Result<Active, WalError> {
        let mut header = Header {
            owner: self.owner,
            number: new.number,
            first: new.first.unwrap_or(0),
            prev_crc: new.prev_crc,
            bytes: 0,
            body: new.head.encode(),
        };
        let offset = header.encode(MAGIC).0.len() as u64;
        let least = (offset + need + MARK_ROOM).next_multiple_of(4096);
        let size = self.segment_bytes.max(least);
        header.bytes = size;
        let (bytes, seed) = header.encode(MAGIC);
        let (temporary, file) = match prepared {
            Some(preparer) if size == self.segment_bytes => (PREPARED, preparer.take()),
            _ => (OVERSIZED, self.allocate(OVERSIZED, size)),
        };
        let temporary = self.path.join(temporary);
        let file = file.map_err(WalError::io("create the log segment", &temporary))?;
        let path = self.path.join(name_of(new.number, header.first));
        self.install(file.as_ref(), &bytes, &temporary, &path)?;
        let segment = SegmentFile {
            file: Arc::from(file),
            path,
            seed,
        };
        Ok(Active {
            number: new.number,
            segment,
            size,
            offset,
            last_crc: seed,
            max_index: None,
        })
    }

    /// Makes the header durable, then the name.
    fn install(
        &self,
        file: &dyn DiskFile,
        header: &[u8],
        temporary: &Path,
        path: &Path,
    ) -> Result<(), WalError> {
        let wrote = file.write_all_at(header, 0).and_then(|()| file.sync_data());
        wrote.map_err(WalError::io(
            "write the header of the log segment",
            temporary,
        ))?;
        let renamed = self.disk.rename(temporary, path);
        renamed.map_err(WalError::io("name the log segment", path))?;
        self.sync()
    }

    pub(super) fn sync(&self) -> Result<(), WalError> {
        let synced = self.disk.sync_dir(&self.path);
        synced.map_err(WalError::io("sync the log directory", &self.path))
    }

    fn allocate(&self, name: &str, size: u64) -> io::Result<Box<dyn DiskFile>> {
        let file = self.disk.create(&self.path.join(name))?;
        file.allocate(size)?;
        Ok(file)
    }
}

// === impl Active ===

impl Active {
    /// Whether so many more bytes fit, with room left for marks.
    pub(super) fn fits(&self, bytes: u64) -> bool {
        self.offset + bytes + MARK_ROOM <= self.size
    }
}

// === impl Preparer ===

impl Preparer {
    /// Starts the thread and asks for the first file.
    pub(super) fn start(directory: Directory) -> Result<Self, WalError> {
        let (requests, asked) = mpsc::channel::<()>();
        let (sender, ready) = mpsc::channel();
        let worker = directory.clone();
        let thread = thread::Builder::new()
            .name("wal-prepare".to_owned())
            .spawn(move || {
                while asked.recv().is_ok() {
                    let file = worker.allocate(PREPARED, worker.segment_bytes);
                    if sender.send(file).is_err() {
                        break;
                    }
                }
            })
            .map_err(WalError::io(
                "start the thread that prepares segments for",
                &directory.path,
            ))?;
        let mut preparer = Self {
            directory,
            requests: Some(requests),
            ready,
            asked: false,
            thread: Some(thread),
        };
        preparer.ask();
        Ok(preparer)
    }

    /// Without a thread: each file is made when it is needed.
    #[cfg(any(test, feature = "testing"))]
    pub(super) fn inline(directory: Directory) -> Self {
        Self {
            directory,
            requests: None,
            ready: mpsc::channel().1,
            asked: false,
            thread: None,
        }
    }

    /// Asks for the next file, unless one is on its way.
    pub(super) fn ask(&mut self) {
        if !self.asked {
            self.asked = self
                .requests
                .as_ref()
                .is_some_and(|requests| requests.send(()).is_ok());
        }
    }

    /// The prepared file; if preparing failed (the disk may have been full), one more attempt.
    fn take(&mut self) -> io::Result<Box<dyn DiskFile>> {
        if std::mem::take(&mut self.asked)
            && let Ok(Ok(file)) = self.ready.recv()
        {
            return Ok(file);
        }
        self.directory
            .allocate(PREPARED, self.directory.segment_bytes)
    }
}

impl fmt::Debug for Preparer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Preparer")
            .field("asked", &self.asked)
            .finish_non_exhaustive()
    }
}

impl Drop for Preparer {
    fn drop(&mut self) {
        self.requests = None;
        if let Some(thread) = self.thread.take() {
            // A panic there has left no file behind, which `take` copes with.
            let _ = thread.join();
        }
    }
}

fn name_of(number: u64, first: u64) -> String {
    format!("log-{number:010}-{first:020}.wal")
}

fn number_of(name: &str) -> Option<u64> {
    let (number, _first) = name
        .strip_prefix("log-")?
        .strip_suffix(".wal")?
        .split_once('-')?;
    number.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_is_named_by_its_number_and_first_index() {
        let name = name_of(12, 3400);
        assert_eq!(name, "log-0000000012-00000000000000003400.wal");
        assert_eq!(number_of(&name), Some(12));
        assert_eq!(number_of("log-x-1.wal"), None);
        assert_eq!(number_of(PREPARED), None);
    }
}
