//! The seam between what this crate does and the machine's disk.
//!
//! All but the projection reach files only through [`Disk`] and [`DiskFile`], so that a test can lose
//! unsynced writes, tear them or fail a sync. The usage spool maps its files, which no trait can stand
//! for: a disk hands out a file of the system to map, and a disk of tests looks into it.
//!
//! Invariants an implementation keeps:
//! * bytes are durable after [`DiskFile::sync_data`], a name after [`Disk::sync_dir`], never earlier;
//! * [`Disk::rename`] is atomic: after a crash the target is the old file or the new one;
//! * [`DiskFile::allocate`] and [`DiskFile::reserve`] leave a file that reads as zeros and whose space is
//!   reserved;
//! * what is stored in a map of [`DiskFile::to_map`] is as if it were written to the file.

use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

/// How much is zero-filled between two syncs, so that other syncs do not wait behind all of it.
const ALLOCATE_SYNC_BYTES: usize = 8 * 1024 * 1024;

/// One write of zeros.
static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

/// Directories and names.
pub trait Disk: Send + Sync + fmt::Debug {
    /// Creates a file for reading and writing, or empties the one of that name.
    ///
    /// # Errors
    /// What the system reports.
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// Opens an existing file for reading and writing.
    ///
    /// # Errors
    /// What the system reports.
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// Gives a file another name, replacing the file that had it.
    ///
    /// # Errors
    /// What the system reports.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file's name.
    ///
    /// # Errors
    /// What the system reports.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// The names in a directory, in ascending order; names that are not UTF-8 are left out.
    ///
    /// # Errors
    /// What the system reports.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;

    /// Creates a directory and those above it, durably.
    ///
    /// # Errors
    /// What the system reports.
    fn create_dir_all(&self, dir: &Path) -> io::Result<()>;

    /// Removes a directory with all files in it.
    ///
    /// # Errors
    /// What the system reports; some of the files may be gone then.
    fn remove_dir_all(&self, dir: &Path) -> io::Result<()>;

    /// Makes the names in a directory durable.
    ///
    /// # Errors
    /// What the system reports. As with files, a failed sync must not be tried again.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// How many more bytes fit on the disk that a directory is on.
    ///
    /// # Errors
    /// What the system reports.
    fn free_space(&self, dir: &Path) -> io::Result<u64>;

    /// Locks a directory against every other opener until the guard is dropped.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if it is locked, else what the system reports.
    fn lock_dir(&self, dir: &Path) -> io::Result<DirLock>;
}

/// Bytes of one open file.
pub trait DiskFile: Send + Sync + fmt::Debug {
    /// Reads at an offset; fewer bytes than asked for only at the end of the file.
    ///
    /// # Errors
    /// What the system reports.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes all of `buf` at an offset.
    ///
    /// # Errors
    /// What the system reports; how much was written is then unknown.
    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()>;

    /// Makes what was written durable.
    ///
    /// # Errors
    /// What the system reports. The system may have dropped the writes, so a second call proves nothing.
    fn sync_data(&self) -> io::Result<()>;

    /// Fills a new file with `len` zeros, durably, so that later writes change no metadata.
    ///
    /// # Errors
    /// What the system reports, above all a full disk.
    fn allocate(&self, len: u64) -> io::Result<()>;

    /// Gives a new file `len` zeros and reserves their space, so that a full disk shows now. It is not made durable,
    /// but a name that the file gets later is not durable before its length.
    ///
    /// # Errors
    /// What the system reports, above all a full disk.
    fn reserve(&self, len: u64) -> io::Result<()>;

    /// The system's file behind this one, for a shared memory map of it.
    ///
    /// # Errors
    /// What the system reports.
    fn to_map(&self) -> io::Result<File>;

    /// The length of the file in bytes.
    ///
    /// # Errors
    /// What the system reports.
    fn size(&self) -> io::Result<u64>;
}

/// Holds a directory's lock until it is dropped.
pub struct DirLock(#[expect(dead_code, reason = "held for its drop")] Box<dyn Send + Sync>);

/// The disk of this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

// === impl DirLock ===

impl DirLock {
    /// Keeps `guard` until the lock is dropped; whatever its drop releases is the lock.
    pub fn new(guard: impl Send + Sync + 'static) -> Self {
        Self(Box::new(guard))
    }
}

impl fmt::Debug for DirLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DirLock")
    }
}

// === impl RealDisk ===

impl Disk for RealDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(path)?;
        Ok(Box::new(file))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        Ok(Box::new(file))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir)? {
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        if dir.is_dir() {
            return Ok(());
        }
        if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            self.create_dir_all(parent)?;
        }
        match fs::create_dir(dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        match dir.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => self.sync_dir(parent),
            _ => self.sync_dir(Path::new(".")),
        }
    }

    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        fs::remove_dir_all(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    fn free_space(&self, dir: &Path) -> io::Result<u64> {
        let disk = rustix::fs::statvfs(dir)?;
        Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
    }

    fn lock_dir(&self, dir: &Path) -> io::Result<DirLock> {
        let handle = File::open(dir)?;
        match handle.try_lock() {
            Ok(()) => Ok(DirLock::new(handle)),
            Err(TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

// === impl File ===

impl DiskFile for File {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buf.len() {
            let at = offset.saturating_add(filled as u64);
            match FileExt::read_at(self, &mut buf[filled..], at) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        FileExt::write_all_at(self, buf, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        File::sync_data(self)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        reserve(self, len)?;
        // Reserved blocks are marked unwritten; writing zeros now spares each later sync that change.
        write_zeros(self, len, ALLOCATE_SYNC_BYTES)?;
        self.sync_all()
    }

    fn reserve(&self, len: u64) -> io::Result<()> {
        reserve(self, len)
    }

    fn to_map(&self) -> io::Result<File> {
        self.try_clone()
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }
}

fn reserve(file: &File, len: u64) -> io::Result<()> {
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, len) {
        Ok(()) => Ok(()),
        // Not every file system can reserve; writing does it on those.
        Err(Errno::OPNOTSUPP) => write_zeros(file, len, usize::MAX),
        Err(errno) => Err(errno.into()),
    }
}

fn write_zeros(file: &File, len: u64, sync_every: usize) -> io::Result<()> {
    let mut offset = 0;
    let mut unsynced = 0;
    while offset < len {
        let rest = usize::try_from(len - offset).unwrap_or(usize::MAX);
        let piece = &ZEROS[..rest.min(ZEROS.len())];
        FileExt::write_all_at(file, piece, offset)?;
        offset += piece.len() as u64;
        unsynced += piece.len();
        if unsynced >= sync_every {
            file.sync_all()?;
            unsynced = 0;
        }
    }
    Ok(())
}

/// How much room a file system has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Bytes that this process may still write.
    pub free: u64,
    /// Bytes in all.
    pub total: u64,
}

/// The room of the file system that holds `path`.
///
/// # Errors
/// What the system reports.
pub fn space(path: &Path) -> io::Result<Space> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(Space {
        free: stat.f_bavail.saturating_mul(stat.f_frsize),
        total: stat.f_blocks.saturating_mul(stat.f_frsize),
    })
}

/// Reads a whole file of at most `limit` bytes.
pub(crate) fn read_all(file: &dyn DiskFile, limit: u64) -> io::Result<Vec<u8>> {
    let size = file.size()?;
    if size > limit {
        let message = format!("the file has {size} bytes, at most {limit} are allowed");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
    }
    let mut buf = vec![0; usize::try_from(size).unwrap_or(usize::MAX)];
    let read = file.read_at(&mut buf, 0)?;
    buf.truncate(read);
    Ok(buf)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_allocated_file_reads_as_zeros_and_keeps_its_size_when_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let file = RealDisk.create(&path).unwrap();
        file.allocate(100_000).unwrap();
        file.write_all_at(b"abc", 99_997).unwrap();
        assert_eq!(file.size().unwrap(), 100_000);
        let all = read_all(file.as_ref(), 100_000).unwrap();
        assert!(all[..99_997].iter().all(|byte| *byte == 0));
        assert_eq!(&all[99_997..], b"abc");
        assert!(read_all(file.as_ref(), 99_999).is_err());
    }

    #[test]
    fn a_file_system_has_no_more_room_than_it_has_in_all() {
        let dir = tempfile::tempdir().unwrap();
        let room = space(dir.path()).unwrap();
        assert!(room.total > 0 && room.free <= room.total, "{room:?}");
        assert!(space(&dir.path().join("none")).is_err());
    }

    #[test]
    fn a_directory_is_locked_once() {
        let dir = tempfile::tempdir().unwrap();
        let lock = RealDisk.lock_dir(dir.path()).unwrap();
        let error = RealDisk.lock_dir(dir.path()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        drop(lock);
        RealDisk.lock_dir(dir.path()).unwrap();
    }

    #[test]
    fn names_are_listed_in_order_and_nested_directories_are_created() {
        let dir = tempfile::tempdir().unwrap();
        let nested = dir.path().join("a/b");
        RealDisk.create_dir_all(&nested).unwrap();
        RealDisk.create_dir_all(&nested).unwrap();
        RealDisk.create(&nested.join("2")).unwrap();
        RealDisk.create(&nested.join("1")).unwrap();
        RealDisk
            .rename(&nested.join("2"), &nested.join("0"))
            .unwrap();
        assert_eq!(RealDisk.list(&nested).unwrap(), ["0", "1"]);
    }
}
