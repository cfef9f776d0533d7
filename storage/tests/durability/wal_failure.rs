//! The log on a disk that fails: it stops, and says so to everyone.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};

use bytes::Bytes;
use mode_envoy_storage::disk::{DirLock, Disk, DiskFile, RealDisk};
use mode_envoy_storage::wal::{Position, Wal, WalError};

use crate::files::ending_with;
use crate::wal_fixture::{all, append, open, options, record, wait};

/// The real disk until it is told to fail; then it counts who still tries.
#[derive(Debug, Default)]
struct Switch {
    fail_writes: AtomicBool,
    fail_syncs: AtomicBool,
    fail_allocations: AtomicBool,
    attempts_after_failure: AtomicU64,
    failed: AtomicBool,
}

#[derive(Debug)]
struct FailingDisk(Arc<Switch>);

#[derive(Debug)]
struct FailingFile(Box<dyn DiskFile>, Arc<Switch>);

impl Switch {
    fn syncs(&self) -> &AtomicBool {
        &self.fail_syncs
    }

    fn writes(&self) -> &AtomicBool {
        &self.fail_writes
    }

    fn check(&self, fails: &AtomicBool) -> io::Result<()> {
        if self.failed.load(Ordering::SeqCst) {
            self.attempts_after_failure.fetch_add(1, Ordering::SeqCst);
        }
        if fails.load(Ordering::SeqCst) {
            self.failed.store(true, Ordering::SeqCst);
            return Err(io::Error::other("the disk is broken"));
        }
        Ok(())
    }
}

impl Disk for FailingDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(FailingFile(
            RealDisk.create(path)?,
            Arc::clone(&self.0),
        )))
    }
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(FailingFile(
            RealDisk.open(path)?,
            Arc::clone(&self.0),
        )))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove(path)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        RealDisk.list(dir)
    }
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        RealDisk.create_dir_all(dir)
    }
    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        RealDisk.remove_dir_all(dir)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        RealDisk.sync_dir(dir)
    }
    fn free_space(&self, dir: &Path) -> io::Result<u64> {
        RealDisk.free_space(dir)
    }
    fn lock_dir(&self, dir: &Path) -> io::Result<DirLock> {
        RealDisk.lock_dir(dir)
    }
}

impl DiskFile for FailingFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buf, offset)
    }
    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.1.check(&self.1.fail_writes)?;
        self.0.write_all_at(buf, offset)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.1.check(&self.1.fail_syncs)?;
        self.0.sync_data()
    }
    fn allocate(&self, len: u64) -> io::Result<()> {
        if self.1.fail_allocations.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.0.allocate(len)
    }
    fn reserve(&self, len: u64) -> io::Result<()> {
        self.0.reserve(len)
    }
    fn to_map(&self) -> io::Result<File> {
        self.0.to_map()
    }
    fn size(&self) -> io::Result<u64> {
        self.0.size()
    }
}

fn open_failing(dir: &Path) -> (Wal, Arc<Switch>) {
    let switch = Arc::new(Switch::default());
    let disk = Arc::new(FailingDisk(Arc::clone(&switch)));
    (Wal::open(disk, options(dir)).unwrap().0, switch)
}

#[test]
fn after_a_failed_sync_or_write_every_call_fails_and_nothing_is_tried_again() {
    for fails in [Switch::syncs, Switch::writes] {
        let fails: fn(&Switch) -> &AtomicBool = fails;
        let dir = tempfile::tempdir().unwrap();
        let (wal, switch) = open_failing(dir.path());
        append(&wal, 1, 1..=3, 100);
        fails(&switch).store(true, Ordering::SeqCst);

        let (sender, answers) = mpsc::channel();
        for index in 4..=30 {
            let sender = sender.clone();
            let done = Box::new(move |result| sender.send((index, result)).unwrap());
            wal.append(vec![record(1, index, 100)], done);
        }
        drop(sender);
        // Those refused at once, on this thread, may overtake those that were queued.
        let mut answers: Vec<_> = answers.iter().collect();
        answers.sort_by_key(|(index, _)| *index);
        assert!(
            answers.iter().map(|(index, _)| *index).eq(4..=30),
            "each is answered once"
        );
        assert!(
            answers
                .iter()
                .all(|(_, answer)| matches!(answer, Err(WalError::Poisoned { .. })))
        );

        // The disk works again; the log does not trust it.
        fails(&switch).store(false, Ordering::SeqCst);
        let vote = wait(|done| wal.save_vote(Bytes::from_static(b"vote"), done));
        assert!(matches!(vote, Err(WalError::Poisoned { .. })));
        let upto = Position { term: 1, index: 1 };
        wait(|done| wal.purge(upto, Bytes::new(), done)).unwrap_err();
        wait(|done| wal.truncate(2, done)).unwrap_err();
        wal.read(1, 2, 100).unwrap_err();
        wal.save_committed(Bytes::new());
        assert!(
            wal.poisoned()
                .unwrap()
                .to_string()
                .contains("the disk is broken")
        );
        wal.close();
        assert_eq!(switch.attempts_after_failure.load(Ordering::SeqCst), 0);

        let (wal, recovered) = open(dir.path());
        assert!(
            recovered.last.unwrap().index >= 3,
            "what was acknowledged is there"
        );
        assert_eq!(recovered.vote, None);
        assert_eq!(all(&wal)[..3], [1, 2, 3].map(|index| record(1, index, 100)));
    }
}

#[test]
fn a_full_disk_stops_the_log_only_when_it_needs_a_segment_that_is_not_prepared() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, switch) = open_failing(dir.path());
    switch.fail_allocations.store(true, Ordering::SeqCst);
    let mut index = 0;
    let answer = loop {
        index += 1;
        if let Err(error) = wait(|done| wal.append(vec![record(1, index, 2000)], done)) {
            break error;
        }
    };
    assert!(matches!(answer, WalError::Poisoned { .. }));
    let acknowledged = index - 1;
    assert!(acknowledged >= 10);
    wal.close();
    let (wal, recovered) = open(dir.path());
    assert_eq!(
        recovered.last,
        Some(Position {
            term: 1,
            index: acknowledged
        })
    );
    append(&wal, 1, acknowledged + 1..=acknowledged + 30, 2000);
    assert!(ending_with(dir.path(), ".wal").len() >= 3);
}
