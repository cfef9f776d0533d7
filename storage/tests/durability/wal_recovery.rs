//! The log after accidents: torn tails are cut, synced damage is refused.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use mode_envoy_storage::disk::RealDisk;
use mode_envoy_storage::wal::{Position, Wal, WalError};
use tempfile::TempDir;

use crate::files::{copy_dir, edit, ending_with, used_end};
use crate::wal_fixture::{all, append, open, options, try_open, wait};

/// Three batches of records in one segment, as a killed process leaves them, and where each starts.
fn three_batches() -> (TempDir, Vec<usize>) {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = open(dir.path());
    let header = fs::read(only_segment(dir.path())).unwrap();
    let header_len = u32::from_le_bytes(header[8..12].try_into().unwrap());
    let mut starts = vec![8 + (8 + usize::try_from(header_len).unwrap()).next_multiple_of(8)];
    for (from, to) in [(1, 2), (3, 5), (6, 8)] {
        append(&wal, 1, from..=to, 60);
        starts.push(used(dir.path()).next_multiple_of(8));
    }
    let copy = tempfile::tempdir().unwrap();
    copy_dir(dir.path(), copy.path());
    (copy, starts)
}

fn only_segment(dir: &Path) -> PathBuf {
    let segments = ending_with(dir, ".wal");
    assert_eq!(segments.len(), 1);
    segments[0].clone()
}

fn used(dir: &Path) -> usize {
    used_end(&fs::read(only_segment(dir)).unwrap())
}

#[test]
fn a_torn_tail_that_was_repaired_does_not_weaken_the_next_judgement() {
    let (copy, starts) = three_batches();
    let last = starts[2];
    let path = only_segment(copy.path());
    // The first record of the last batch stays, so recovery has to end that batch.
    edit(&path, |bytes| bytes[last + 120..].fill(0));
    let (wal, recovered) = open(copy.path());
    assert_eq!(recovered.last.unwrap().index, 6);
    // The last mark ends with a term and an index, which are zero.
    let mark_end = used(copy.path()).next_multiple_of(8) + 16;
    append(&wal, 2, 7..=9, 60);
    let whole = fs::read(&path).unwrap();
    wal.close();
    fs::write(&path, &whole).unwrap();
    // Torn again: the batch that followed the repair is cut off, its first record included.
    edit(&path, |bytes| bytes[mark_end + 12] ^= 1);
    let (wal, recovered) = open(copy.path());
    assert_eq!(recovered.last.unwrap().index, 6);
    wal.close();
    // What the repair kept was synced by it: damage there is refused.
    fs::write(&path, whole).unwrap();
    edit(&path, |bytes| bytes[last + 50] ^= 1);
    assert!(matches!(
        try_open(copy.path()),
        Err(WalError::Damaged { .. })
    ));
}

#[test]
fn damage_in_a_segment_with_a_successor_is_refused_even_at_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = open(dir.path());
    append(&wal, 1, 1..=100, 1000);
    wal.close();
    let first = ending_with(dir.path(), ".wal")[0].clone();
    let end = used_end(&fs::read(&first).unwrap());
    for change in [
        |bytes: &mut Vec<u8>, at| bytes[at] ^= 1,
        |bytes: &mut Vec<u8>, at| bytes[at..].fill(0),
    ] {
        let copy = tempfile::tempdir().unwrap();
        copy_dir(dir.path(), copy.path());
        edit(&ending_with(copy.path(), ".wal")[0], |bytes| {
            change(bytes, end - 20);
        });
        assert!(matches!(
            try_open(copy.path()),
            Err(WalError::Damaged { .. })
        ));
    }
}

#[test]
fn a_missing_segment_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = open(dir.path());
    append(&wal, 1, 1..=200, 1000);
    wal.close();
    let count = ending_with(dir.path(), ".wal").len();
    assert!(count >= 4);
    for missing in 0..count - 1 {
        let copy = tempfile::tempdir().unwrap();
        copy_dir(dir.path(), copy.path());
        fs::remove_file(&ending_with(copy.path(), ".wal")[missing]).unwrap();
        let refused = try_open(copy.path());
        assert!(
            matches!(refused, Err(WalError::Damaged { .. })),
            "without segment {missing}"
        );
    }
}

#[test]
fn a_segment_copied_from_another_place_of_the_same_log_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = open(dir.path());
    append(&wal, 1, 1..=100, 1000);
    wal.close();
    let segments = ending_with(dir.path(), ".wal");
    fs::copy(&segments[0], &segments[1]).unwrap();
    assert!(matches!(
        try_open(dir.path()),
        Err(WalError::Damaged { .. })
    ));
}

#[test]
fn files_of_another_cluster_or_node_or_a_newer_format_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).0.close();
    let mut other = options(dir.path());
    other.cluster_id = [9; 16];
    let refused = Wal::open(Arc::new(RealDisk), other).unwrap_err();
    assert!(matches!(
        refused,
        WalError::OtherCluster {
            expected: [9, ..],
            ..
        }
    ));
    assert!(refused.to_string().contains("c1c1c1c1"));
    let mut other = options(dir.path());
    other.node_id = 2;
    let refused = Wal::open(Arc::new(RealDisk), other).unwrap_err();
    assert!(matches!(
        refused,
        WalError::OtherNode {
            found: 1,
            expected: 2,
            ..
        }
    ));
    edit(&only_segment(dir.path()), |bytes| {
        bytes[4] = 2;
        // The checksum of that format is another.
        bytes[12] ^= 0xff;
    });
    let refused = try_open(dir.path()).unwrap_err();
    assert!(matches!(
        refused,
        WalError::NewerFormat {
            found: 2,
            supported: 1,
            ..
        }
    ));
}

#[test]
fn what_a_killed_process_left_unsynced_is_kept_and_can_be_built_on() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = open(dir.path());
    append(&wal, 1, 1..=2, 50);
    let synced = used(dir.path());
    wal.save_committed(Bytes::from_static(b"lazily"));
    // It is written without a sync once nothing else comes.
    while used(dir.path()) == synced {
        std::thread::yield_now();
    }
    let copy = tempfile::tempdir().unwrap();
    copy_dir(dir.path(), copy.path());
    let (wal, recovered) = open(copy.path());
    assert_eq!(recovered.committed.unwrap(), "lazily");
    append(&wal, 1, 3..=3, 50);
    drop(wal);
    let (wal, _) = open(copy.path());
    assert_eq!(all(&wal).len(), 3);
}

#[test]
fn a_record_that_changed_on_disk_is_not_handed_out() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = open(dir.path());
    append(&wal, 1, 1..=20, 1000);
    // The oldest have left memory.
    edit_in_place(&only_segment(dir.path()), 700);
    let refused = wal.read(1, 2, usize::MAX);
    assert!(
        matches!(refused, Err(WalError::Damaged { .. })),
        "{refused:?}"
    );
    assert_eq!(wal.last(), Some(Position { term: 1, index: 20 }));
    wait(|done| wal.save_vote(Bytes::new(), done)).unwrap();
}

/// Flips a byte without replacing the file.
fn edit_in_place(path: &Path, at: u64) {
    use std::os::unix::fs::FileExt;
    let file = fs::File::options()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

#[test]
fn leftovers_of_a_crash_while_preparing_a_segment_are_removed() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = open(dir.path());
    append(&wal, 1, 1..=3, 50);
    wal.close();
    fs::write(dir.path().join("prepared.tmp"), b"half").unwrap();
    fs::write(dir.path().join("oversized.tmp"), b"half").unwrap();
    let (wal, _) = open(dir.path());
    append(&wal, 1, 4..=100, 1000);
    assert_eq!(all(&wal).len(), 100);
    assert!(!dir.path().join("oversized.tmp").exists());
}
