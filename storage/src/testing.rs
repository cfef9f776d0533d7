//! A disk in memory that does to files what a real one may do at the worst moment.
//!
//! ```text
//! FaultDisk --image()--> Image --crash(seed)--> FaultDisk   power was cut: what was not synced may be gone
//!                              --kill()-------> FaultDisk   the process was killed: everything is there
//! ```
//!
//! An [`Image`] can be taken at any time, and with [`FaultDisk::record_steps`] one is kept from before
//! every step (a write, a sync, a rename), so one run of a history shows every crash in it.
//!
//! Invariants:
//! * the same image and the same seed give the same disk: nothing depends on the order of threads;
//! * a name or a block is lost only if no sync covered it; old and new versions of a block may be
//!   mixed at most once per file and crash (a torn write);
//! * what is stored in a map of a file is like any write to it: a killed process leaves it, a power cut what was synced;
//! * after a failed sync what it was to cover stays unsynced, whatever later syncs say.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

use crate::disk::{DirLock, Disk, DiskFile};

mod files;
mod rng;

pub use rng::SplitMix64;

use files::Files;

/// An operation that can be counted and made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Op {
    /// [`Disk::create`].
    Create,
    /// [`DiskFile::read_at`].
    Read,
    /// [`DiskFile::write_all_at`]; when it fails, half of the bytes have been written.
    Write,
    /// [`DiskFile::sync_data`].
    Sync,
    /// [`DiskFile::allocate`] and [`DiskFile::reserve`].
    Allocate,
    /// [`Disk::rename`].
    Rename,
    /// [`Disk::remove`].
    Remove,
    /// [`Disk::sync_dir`].
    SyncDir,
}

/// A disk in memory; clones share it.
#[derive(Clone, Debug, Default)]
pub struct FaultDisk {
    inner: Arc<Mutex<Inner>>,
}

/// What a disk held at one moment, synced or not.
#[derive(Clone, Debug)]
pub struct Image {
    files: Files,
    steps: u64,
}

#[derive(Debug, Default)]
struct Inner {
    files: Files,
    counts: [u64; Op::COUNT],
    /// Which operation fails, and at which count of it.
    faults: Vec<(Op, u64)>,
    space: Option<u64>,
    steps: u64,
    recording: bool,
    images: Vec<Image>,
    locked: BTreeSet<PathBuf>,
}

#[derive(Debug)]
struct FaultFile {
    disk: FaultDisk,
    node: u64,
}

struct Unlock {
    disk: FaultDisk,
    dir: PathBuf,
}

// === impl Op ===

impl Op {
    const COUNT: usize = Self::SyncDir as usize + 1;

    /// Whether a crash right before it differs from one before the operation that follows. Names that
    /// come and go unsynced may or may not be there anyway, so creating and removing are no steps; nor
    /// is what a thread does that works ahead, so steps have the same numbers in every run.
    fn is_step(self) -> bool {
        matches!(
            self,
            Self::Write | Self::Sync | Self::Rename | Self::SyncDir
        )
    }
}

// === impl FaultDisk ===

impl FaultDisk {
    /// An empty disk that does what it is asked.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes one operation fail: the `nth` of its kind from now on, counted from 1.
    pub fn fail(&self, op: Op, nth: u64) {
        let mut inner = self.lock();
        let at = inner.counts[op as usize] + nth;
        inner.faults.push((op, at));
    }

    /// How many bytes all files may have together; `None`: any.
    pub fn limit_space(&self, bytes: Option<u64>) {
        self.lock().space = bytes;
    }

    /// The bytes of all files that have a name.
    pub fn used_space(&self) -> u64 {
        self.lock().files.used()
    }

    /// How often an operation was asked for.
    pub fn count(&self, op: Op) -> u64 {
        self.lock().counts[op as usize]
    }

    /// How many writes, syncs and renames there have been.
    pub fn steps(&self) -> u64 {
        self.lock().steps
    }

    /// From now on an image is kept from before each step.
    pub fn record_steps(&self) {
        self.lock().recording = true;
    }

    /// The images kept so far, which are given away.
    pub fn take_images(&self) -> Vec<Image> {
        std::mem::take(&mut self.lock().images)
    }

    /// What the disk holds now.
    pub fn image(&self) -> Image {
        self.lock().image()
    }

    /// The bytes of a file, or `None` if there is none of that name.
    pub fn bytes(&self, path: &Path) -> Option<Vec<u8>> {
        let mut inner = self.lock();
        let node = inner.files.lookup(path).ok()?;
        Some(inner.files.current(node).ok()?.live().to_vec())
    }

    /// Replaces the bytes of a file behind everyone's back, durably.
    pub fn replace(&self, path: &Path, bytes: Vec<u8>) {
        let mut inner = self.lock();
        if let Ok(node) = inner.files.lookup(path) {
            inner.files.node_mut(node).replace(bytes);
        }
    }

    fn of(files: Files) -> Self {
        let inner = Inner {
            files,
            ..Inner::default()
        };
        Self {
            inner: Arc::new(Mutex::new(inner)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts an operation; the error is the one it is to fail with.
    fn begin(&self, op: Op) -> (MutexGuard<'_, Inner>, io::Result<()>) {
        let mut inner = self.lock();
        if op.is_step() {
            if inner.recording {
                let image = inner.image();
                inner.images.push(image);
            }
            inner.steps += 1;
        }
        inner.counts[op as usize] += 1;
        let fault = (op, inner.counts[op as usize]);
        let fails = inner.faults.contains(&fault);
        let result = if fails {
            Err(io::Error::other(format!("the fault disk fails {fault:?}")))
        } else {
            Ok(())
        };
        (inner, result)
    }

    fn file(&self, node: u64) -> Box<dyn DiskFile> {
        Box::new(FaultFile {
            disk: self.clone(),
            node,
        })
    }
}

impl Disk for FaultDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let (mut inner, result) = self.begin(Op::Create);
        result?;
        Ok(self.file(inner.files.create(path)?))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(self.file(self.lock().files.lookup(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (mut inner, result) = self.begin(Op::Rename);
        result?;
        inner.files.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let (mut inner, result) = self.begin(Op::Remove);
        result?;
        inner.files.remove(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.lock().files.list(dir)
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.lock().files.create_dir_all(dir);
        Ok(())
    }

    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        let (mut inner, result) = self.begin(Op::Remove);
        result?;
        inner.files.remove_dir_all(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let (mut inner, result) = self.begin(Op::SyncDir);
        inner.files.sync_dir(dir, result.is_ok())?;
        result
    }

    fn free_space(&self, _: &Path) -> io::Result<u64> {
        let inner = self.lock();
        let free = |space: u64| space.saturating_sub(inner.files.used());
        Ok(inner.space.map_or(u64::MAX, free))
    }

    fn lock_dir(&self, dir: &Path) -> io::Result<DirLock> {
        if !self.lock().locked.insert(dir.to_path_buf()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(DirLock::new(Unlock {
            disk: self.clone(),
            dir: dir.to_path_buf(),
        }))
    }
}

// === impl Image ===

impl Image {
    /// How many steps came before.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// The disk after a power cut. Seeds differ in what they let survive of the unsynced blocks and
    /// names: nothing, everything, or any part.
    pub fn crash(&self, seed: u64) -> FaultDisk {
        FaultDisk::of(self.files.crash(seed))
    }

    /// The disk after its process was killed: all is there, and what was unsynced still is.
    pub fn kill(&self) -> FaultDisk {
        FaultDisk::of(self.files.kill())
    }
}

// === impl Inner ===

impl Inner {
    fn image(&self) -> Image {
        Image {
            files: self.files.snapshot(),
            steps: self.steps,
        }
    }

    /// Refuses if a file of `old` bytes cannot grow to `new`.
    fn check_space(&self, old: u64, new: u64) -> io::Result<()> {
        let grown = self.files.used().saturating_add(new.saturating_sub(old));
        match self.space {
            Some(space) if new > old && grown > space => Err(Errno::NOSPC.into()),
            _ => Ok(()),
        }
    }
}

// === impl FaultFile ===

impl DiskFile for FaultFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let (mut inner, result) = self.disk.begin(Op::Read);
        result?;
        let live = inner.files.current(self.node)?.live();
        let at = usize::try_from(offset).unwrap_or(usize::MAX);
        let rest = live.get(at..).unwrap_or_default();
        let len = rest.len().min(buf.len());
        buf[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let (mut inner, result) = self.disk.begin(Op::Write);
        let old = inner.files.node(self.node).live().len() as u64;
        inner.check_space(old, offset.saturating_add(buf.len() as u64))?;
        let written = if result.is_ok() {
            buf
        } else {
            &buf[..buf.len() / 2]
        };
        let at = usize::try_from(offset).unwrap_or(usize::MAX);
        inner.files.current(self.node)?;
        inner.files.node_mut(self.node).write(at, written)?;
        result
    }

    fn sync_data(&self) -> io::Result<()> {
        let (mut inner, result) = self.disk.begin(Op::Sync);
        inner.files.current(self.node)?;
        inner.files.node_mut(self.node).sync(result.is_ok());
        result
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let (mut inner, result) = self.disk.begin(Op::Allocate);
        result?;
        let old = inner.files.node(self.node).live().len() as u64;
        inner.check_space(old, len)?;
        let zeros = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
        inner.files.node_mut(self.node).replace(zeros);
        Ok(())
    }

    fn reserve(&self, len: u64) -> io::Result<()> {
        self.allocate(len)
    }

    fn to_map(&self) -> io::Result<File> {
        let mut inner = self.disk.lock();
        inner.files.node_mut(self.node).share()
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.disk.lock().files.node(self.node).live().len() as u64)
    }
}

// === impl Unlock ===

impl Drop for Unlock {
    fn drop(&mut self) {
        self.disk.lock().locked.remove(&self.dir);
    }
}

#[cfg(test)]
mod tests;
