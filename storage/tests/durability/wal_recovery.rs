//! The log after accidents: torn tails are cut, synced damage is refused.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use mode_envoy_storage::disk::RealDisk;
use mode_envoy_storage::wal::{Position, Record, Wal, WalError};
use tempfile::TempDir;

use crate::files::{copy_dir, edit, ending_with, used_end};
use crate::wal_fixture::{all, append, open, options, try_open, wait};

/// A closed log, the bytes of its only segment, and where each batch starts in it.
struct Written {
    dir: TempDir,
    bytes: Vec<u8>,
    starts: Vec<usize>,
    records: Vec<Record>,
}

/// Three batches of records in one segment.
fn three_batches() -> Written {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = open(dir.path());
    let header = fs::read(only_segment(dir.path())).unwrap();
    let header_len = u32::from_le_bytes(header[8..12].try_into().unwrap());
    let mut starts = vec![8 + (8 + usize::try_from(header_len).unwrap()).next_multiple_of(8)];
    for (from, to) in [(1, 2), (3, 5), (6, 8)] {
        append(&wal, 1, from..=to, 60);
        starts.push(used(dir.path()).next_multiple_of(8));
    }
    let records = all(&wal);
    wal.close();
    let bytes = fs::read(only_segment(dir.path())).unwrap();
    Written {
        dir,
        bytes,
        starts,
        records,
    }
}

fn only_segment(dir: &Path) -> PathBuf {
    let segments = ending_with(dir, ".wal");
    assert_eq!(segments.len(), 1);
    segments[0].clone()
}

fn used(dir: &Path) -> usize {
    used_end(&fs::read(only_segment(dir)).unwrap())
}

/// Opens a copy of a log after a change to its only segment.
fn opened_after(
    written: &Written,
    change: impl FnOnce(&mut Vec<u8>),
) -> Result<(TempDir, Vec<Record>), WalError> {
    let copy = tempfile::tempdir().unwrap();
    copy_dir(written.dir.path(), copy.path());
    edit(&only_segment(copy.path()), change);
    let (wal, recovered) = try_open(copy.path())?;
    let records = all(&wal);
    assert_eq!(recovered.last, records.last().map(|record| record.position));
    // It goes on as if the torn write had never been.
    let next = records.last().map_or(1, |record| record.position.index + 1);
    append(&wal, 2, next..=next + 1, 70);
    let expected = all(&wal);
    drop(wal);
    let (wal, _) = open(copy.path());
    assert_eq!(all(&wal), expected);
    drop(wal);
    Ok((copy, records))
}

#[test]
fn a_tail_torn_at_any_byte_of_the_last_batch_is_cut_off() {
    let written = three_batches();
    let (last, end) = (written.starts[2], used_end(&written.bytes));
    for at in last..end {
        let (_dir, records) = opened_after(&written, |bytes| bytes[at..].fill(0)).unwrap();
        let kept = records.len();
        assert!((5..8).contains(&kept), "{kept} records when torn at {at}");
        assert_eq!(records, written.records[..kept]);
    }
}

#[test]
fn sectors_of_the_last_batch_may_arrive_in_any_order() {
    let written = three_batches();
    let (last, end) = (written.starts[2], used_end(&written.bytes));
    for at in (last..end - 8).step_by(8) {
        let (_dir, records) = opened_after(&written, |bytes| bytes[at..at + 8].fill(0)).unwrap();
        assert_eq!(records, written.records[..records.len()]);
        assert!((5..8).contains(&records.len()));
    }
}

#[test]
fn a_flipped_byte_in_an_earlier_batch_is_refused() {
    let written = three_batches();
    for at in written.starts[0]..written.starts[2] {
        let outcome = opened_after(&written, |bytes| bytes[at] ^= 0x20);
        let Err(WalError::Damaged { offset, .. }) = outcome else {
            panic!("a flip at {at} was not refused: {outcome:?}");
        };
        assert!(usize::try_from(offset).unwrap() <= at);
    }
}

#[test]
fn zeroed_words_in_an_earlier_batch_are_refused() {
    let written = three_batches();
    for at in (written.starts[0]..written.starts[2]).step_by(8) {
        let outcome = opened_after(&written, |bytes| bytes[at..at + 8].fill(0));
        assert!(
            matches!(outcome, Err(WalError::Damaged { .. })),
            "zeroed at {at}"
        );
    }
}

#[test]
fn a_flipped_byte_in_the_last_batch_is_a_torn_tail() {
    let written = three_batches();
    for at in written.starts[2]..used_end(&written.bytes) {
        let (_dir, records) = opened_after(&written, |bytes| bytes[at] ^= 0x01).unwrap();
        assert_eq!(records, written.records[..records.len()]);
        assert!((5..8).contains(&records.len()));
    }
}

#[test]
fn a_flipped_byte_in_the_header_is_refused() {
    let written = three_batches();
    for at in 0..written.starts[0] {
        assert!(
            opened_after(&written, |bytes| bytes[at] ^= 0x80).is_err(),
            "byte {at}"
        );
    }
}

#[test]
fn a_torn_tail_that_was_repaired_does_not_weaken_the_next_judgement() {
    let written = three_batches();
    let last = written.starts[2];
    let copy = tempfile::tempdir().unwrap();
    copy_dir(written.dir.path(), copy.path());
    let path = only_segment(copy.path());
    // The first record of the last batch stays, so recovery has to end that batch.
    edit(&path, |bytes| bytes[last + 120..].fill(0));
    let (wal, recovered) = open(copy.path());
    assert_eq!(recovered.last.unwrap().index, 6);
    // The mark ends with a term and an index, which are zero.
    let mark_end = used(copy.path()).next_multiple_of(8) + 16;
    append(&wal, 2, 7..=9, 60);
    wal.close();
    let whole = fs::read(&path).unwrap();
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
    edit(&only_segment(dir.path()), |bytes| bytes[4] = 2);
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
