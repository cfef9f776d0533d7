//! The spool: records survive, torn tails go, bounds hold.

use std::fs;
use std::path::{Path, PathBuf};

use mode_envoy_storage::disk::RealDisk;
use mode_envoy_storage::spool::{
    self, SpoolError, SpoolOptions, SpoolReader, SpoolRecord, SpoolRecovery, SpoolWriter,
};
use proptest::prelude::*;
use tempfile::TempDir;

use crate::files::{copy_dir, edit, ending_with, used_end};

const UUID: [u8; 16] = [0x5a; 16];
const SEGMENT_BYTES: usize = 4096;
const MARK_BYTES: usize = 16;

/// How many records one thread hands to the other.
const COUNT: u64 = 20_000;

type Opened = (SpoolWriter, SpoolReader, SpoolRecovery);

fn options(dir: &Path) -> SpoolOptions {
    let mut options = SpoolOptions::new(dir, 3, [1; 16], 1, UUID);
    options.segment_bytes = SEGMENT_BYTES;
    options
}

fn open(dir: &Path) -> Opened {
    spool::open(options(dir)).unwrap()
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    ending_with(&dir.join("worker-3"), ".spool")
}

fn append(writer: &mut SpoolWriter, count: u64) {
    for _ in 0..count {
        let seq = writer
            .append(1, 2, 1000, b"placeholder of 30 bytes ......")
            .unwrap();
        assert!(seq > 0);
    }
}

fn all(reader: &mut SpoolReader) -> Vec<SpoolRecord> {
    let mut records: Vec<SpoolRecord> = Vec::new();
    let mut next = reader.first_seq();
    loop {
        let more = reader.read(next, 50, 1000).unwrap();
        let Some(last) = more.last() else {
            return records;
        };
        next = last.seq + 1;
        records.extend(more);
    }
}

fn assert_contiguous(records: &[SpoolRecord], from: u64, to: u64) {
    let seqs: Vec<_> = records.iter().map(|record| record.seq).collect();
    assert_eq!(seqs, (from..to).collect::<Vec<_>>());
}

#[test]
fn a_new_spool_takes_the_uuid_it_is_given() {
    let dir = tempfile::tempdir().unwrap();
    let (_writer, mut reader, recovery) = open(dir.path());
    let expected = SpoolRecovery {
        uuid: UUID,
        first_seq: 1,
        next_seq: 1,
        truncated_bytes: 0,
    };
    assert_eq!(recovery, expected);
    assert_eq!((reader.uuid(), reader.next_seq()), (UUID, 1));
    assert!(reader.read(1, 10, 10).unwrap().is_empty());
    assert!(matches!(
        reader.read(2, 10, 10),
        Err(SpoolError::Beyond { seq: 2, next: 1 })
    ));
}

#[test]
fn records_are_read_as_they_were_written() {
    let dir = tempfile::tempdir().unwrap();
    let (mut writer, mut reader, _) = open(dir.path());
    assert_eq!(writer.append(4, 1, 77, b"first").unwrap(), 1);
    let encode = |out: &mut [u8]| {
        out[..6].copy_from_slice(b"second");
        Some(6)
    };
    assert_eq!(writer.append_with(5, 2, 78, 100, encode).unwrap(), 2);
    assert_eq!(writer.append(6, 3, 79, b"").unwrap(), 3);
    let records = reader.read(1, 10, 1000).unwrap();
    let expected = [
        (1, 4, 1, 77, &b"first"[..]),
        (2, 5, 2, 78, b"second"),
        (3, 6, 3, 79, b""),
    ];
    assert_eq!(records.len(), 3);
    for (record, (seq, kind, version, wall_ms, payload)) in records.iter().zip(expected) {
        assert_eq!(
            (record.seq, record.kind, record.version),
            (seq, kind, version)
        );
        assert_eq!((record.wall_ms, &record.payload[..]), (wall_ms, payload));
    }
}

#[test]
fn a_read_is_bounded_by_records_and_bytes_and_may_start_anywhere() {
    let dir = tempfile::tempdir().unwrap();
    let (mut writer, mut reader, _) = open(dir.path());
    append(&mut writer, 300);
    assert!(segments(dir.path()).len() > 3);
    assert_contiguous(&reader.read(1, 7, 10_000).unwrap(), 1, 8);
    assert_contiguous(&reader.read(8, 100, 61).unwrap(), 8, 10);
    assert_contiguous(&reader.read(250, 100, 0).unwrap(), 250, 251);
    assert_contiguous(&reader.read(100, 1000, 100_000).unwrap(), 100, 301);
    assert_contiguous(&reader.read(100, 3, 100_000).unwrap(), 100, 103);
}

#[test]
fn everything_is_there_after_a_process_ended_without_a_sync() {
    let dir = tempfile::tempdir().unwrap();
    let (mut writer, mut reader, _) = open(dir.path());
    append(&mut writer, 200);
    let expected = all(&mut reader);
    // What a killed process leaves: the files as they are, the lock gone, nothing said goodbye.
    let copy = tempfile::tempdir().unwrap();
    copy_dir(dir.path(), copy.path());

    let mut other = options(copy.path());
    other.new_uuid = [9; 16];
    let (mut writer, mut reader, recovery) = spool::open(other).unwrap();
    let kept = SpoolRecovery {
        uuid: UUID,
        first_seq: 1,
        next_seq: 201,
        truncated_bytes: 0,
    };
    assert_eq!(recovery, kept);
    assert_eq!(all(&mut reader), expected);
    append(&mut writer, 100);
    assert_contiguous(&all(&mut reader), 1, 301);
}

#[test]
fn a_tail_torn_at_any_byte_is_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let (mut writer, _reader, _) = open(dir.path());
    append(&mut writer, 3);
    let path = segments(dir.path())[0].clone();
    let before = used_end(&fs::read(&path).unwrap()).next_multiple_of(8);
    append(&mut writer, 2);
    let end = used_end(&fs::read(&path).unwrap());
    for at in before..end {
        let copy = tempfile::tempdir().unwrap();
        copy_dir(dir.path(), copy.path());
        edit(&segments(copy.path())[0], |bytes| {
            let mark = bytes.len() - MARK_BYTES;
            bytes[at..mark].fill(0);
        });
        let (mut writer, mut reader, recovery) = open(copy.path());
        assert!(
            (4..6).contains(&recovery.next_seq),
            "torn at {at}: {recovery:?}"
        );
        append(&mut writer, 10);
        assert_contiguous(&all(&mut reader), 1, recovery.next_seq + 10);
        drop((writer, reader));
        let (_writer, _reader, again) = open(copy.path());
        assert_eq!(
            (again.next_seq, again.truncated_bytes),
            (recovery.next_seq + 10, 0)
        );
    }
}

#[test]
fn records_behind_an_unsynced_hole_do_not_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let (mut writer, _reader, _) = open(dir.path());
    append(&mut writer, 200);
    let count = segments(dir.path()).len();
    assert!(count >= 3);
    let copy = tempfile::tempdir().unwrap();
    copy_dir(dir.path(), copy.path());
    // A page in the middle never reached the disk.
    edit(&segments(copy.path())[1], |bytes| bytes[1024..2048].fill(0));
    let (mut writer, mut reader, recovery) = open(copy.path());
    assert!(recovery.truncated_bytes > 0 && recovery.next_seq < 200);
    assert_eq!(segments(copy.path()).len(), 2);
    append(&mut writer, 200);
    assert_contiguous(&all(&mut reader), 1, recovery.next_seq + 200);
}

#[test]
fn a_flipped_byte_of_the_mark_or_behind_the_records_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (mut writer, mut reader, _) = open(dir.path());
    append(&mut writer, 20);
    reader.sync().unwrap();
    for at in [
        SEGMENT_BYTES - 1,
        SEGMENT_BYTES - 16,
        SEGMENT_BYTES - 17,
        SEGMENT_BYTES - 400,
    ] {
        let copy = tempfile::tempdir().unwrap();
        copy_dir(dir.path(), copy.path());
        edit(&segments(copy.path())[0], |bytes| bytes[at] ^= 1);
        let (_writer, mut reader, _) = open(copy.path());
        assert_contiguous(&all(&mut reader), 1, 21);
    }
}

#[test]
fn a_missing_segment_of_synced_records_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (mut writer, mut reader, _) = open(dir.path());
    append(&mut writer, 300);
    reader.sync().unwrap();
    let copy = tempfile::tempdir().unwrap();
    copy_dir(dir.path(), copy.path());
    fs::remove_file(&segments(copy.path())[2]).unwrap();
    let refused = spool::open(options(copy.path())).unwrap_err();
    assert!(matches!(refused, SpoolError::Damaged { .. }), "{refused}");
}

#[test]
fn trimming_removes_whole_segments_but_never_the_last() {
    let dir = tempfile::tempdir().unwrap();
    let (mut writer, mut reader, _) = open(dir.path());
    append(&mut writer, 300);
    let before = segments(dir.path()).len() as u64;
    assert_eq!(reader.bytes(), before * SEGMENT_BYTES as u64);
    reader.trim(1).unwrap();
    assert_eq!(segments(dir.path()).len() as u64, before);
    reader.trim(150).unwrap();
    let first = reader.first_seq();
    assert!(first > 1 && first <= 150);
    assert_eq!(
        reader.bytes(),
        segments(dir.path()).len() as u64 * SEGMENT_BYTES as u64
    );
    assert!(matches!(
        reader.read(1, 1, 1),
        Err(SpoolError::Trimmed { seq: 1, .. })
    ));
    assert_contiguous(&reader.read(150, 10_000, 100_000).unwrap(), 150, 301);
    reader.trim(u64::MAX).unwrap();
    assert_eq!(segments(dir.path()).len(), 1);
    append(&mut writer, 5);
    let first = reader.first_seq();
    drop((writer, reader));
    let (_writer, mut reader, recovery) = open(dir.path());
    assert_eq!((recovery.first_seq, recovery.next_seq), (first, 306));
    assert_contiguous(&all(&mut reader), first, 306);
}

#[test]
fn a_spool_that_would_exceed_its_bound_is_full_until_it_is_trimmed() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(dir.path());
    options.max_bytes = 3 * SEGMENT_BYTES as u64;
    let (mut writer, mut reader, _) = spool::open(options).unwrap();
    let full = loop {
        if let Err(error) = writer.append(1, 1, 1, &[7; 100]) {
            break error;
        }
        reader.sync().unwrap();
    };
    assert!(full.is_full(), "{full}");
    assert!(matches!(full, SpoolError::Full { max_bytes: 12_288 }));
    let next = reader.next_seq();
    assert!(writer.append(1, 1, 1, &[7; 100]).unwrap_err().is_full());
    assert_eq!(reader.next_seq(), next);
    assert_contiguous(&all(&mut reader), 1, next);
    reader.trim(next).unwrap();
    assert_eq!(writer.append(1, 1, 1, &[7; 100]).unwrap(), next);
}

#[test]
fn an_encoder_that_gives_up_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let (mut writer, mut reader, _) = open(dir.path());
    append(&mut writer, 1);
    let gave_up = writer.append_with(1, 1, 1, 500, |out| {
        out.fill(0xff);
        None
    });
    assert!(matches!(gave_up, Err(SpoolError::NotEncoded { room: 500 })));
    let lied = writer.append_with(1, 1, 1, 500, |_| Some(501));
    assert!(matches!(lied, Err(SpoolError::NotEncoded { .. })));
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        writer.append_with(1, 1, 1, 500, |out| {
            out.fill(0xff);
            panic!("a defect of the encoder")
        })
    }));
    assert!(panicked.is_err());
    let scribbled = writer.append_with(1, 1, 1, 500, |out| {
        out.fill(0xff);
        Some(3)
    });
    assert_eq!(scribbled.unwrap(), 2);
    assert_contiguous(&all(&mut reader), 1, 3);
    drop((writer, reader));
    let (_writer, _reader, recovery) = open(dir.path());
    assert_eq!((recovery.next_seq, recovery.truncated_bytes), (3, 0));
}

#[test]
fn a_record_longer_than_the_limit_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (mut writer, mut reader, _) = open(dir.path());
    let limit = writer.max_payload();
    let refused = writer.append(1, 1, 1, &vec![1; limit + 1]);
    assert!(matches!(refused, Err(SpoolError::TooLarge { limit: l, .. }) if l == limit));
    assert_eq!(writer.append(1, 1, 1, &vec![1; limit]).unwrap(), 1);
    assert_eq!(writer.append(1, 1, 1, &vec![2; limit]).unwrap(), 2);
    assert_eq!(all(&mut reader).len(), 2);
}

#[test]
fn files_of_another_cluster_or_node_or_a_newer_format_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    let mut other = options(dir.path());
    other.cluster_id = [2; 16];
    assert!(matches!(
        spool::open(other),
        Err(SpoolError::OtherCluster { .. })
    ));
    let mut other = options(dir.path());
    other.node_id = 7;
    let refused = spool::open(other);
    assert!(matches!(
        refused,
        Err(SpoolError::OtherNode {
            found: 1,
            expected: 7,
            ..
        })
    ));
    edit(&segments(dir.path())[0], |bytes| {
        bytes[4] = 9;
        // The checksum of that format is another.
        bytes[12] ^= 0xff;
    });
    let refused = spool::open(options(dir.path()));
    assert!(matches!(
        refused,
        Err(SpoolError::NewerFormat { found: 9, .. })
    ));
}

#[test]
fn spools_are_listed_locked_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing");
    assert!(spool::list_spools(&RealDisk, &missing).unwrap().is_empty());
    let mut tenth = options(dir.path());
    tenth.worker = 10;
    let held = spool::open(tenth.clone()).unwrap();
    drop(open(dir.path()));
    assert_eq!(spool::list_spools(&RealDisk, dir.path()).unwrap(), [3, 10]);
    assert!(matches!(spool::open(tenth), Err(SpoolError::InUse { .. })));
    assert!(matches!(
        spool::remove(&RealDisk, dir.path(), 10),
        Err(SpoolError::InUse { .. })
    ));
    drop(held);
    spool::remove(&RealDisk, dir.path(), 10).unwrap();
    assert_eq!(spool::list_spools(&RealDisk, dir.path()).unwrap(), [3]);
}

#[test]
fn unusable_sizes_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    for (segment_bytes, max_bytes) in [(0, 1 << 30), (5000, 1 << 30), (8192, 8191)] {
        let mut options = options(dir.path());
        options.segment_bytes = segment_bytes;
        options.max_bytes = max_bytes;
        assert!(matches!(
            spool::open(options),
            Err(SpoolError::Options { .. })
        ));
    }
}

#[test]
fn a_writer_and_a_reader_work_on_threads_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(dir.path());
    options.segment_bytes = 64 * 1024;
    let (mut writer, mut reader, _) = spool::open(options).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for seq in 1..=COUNT {
                let bytes = usize::try_from(seq % 200).unwrap();
                let payload = vec![u8::try_from(seq % 251).unwrap(); bytes];
                assert_eq!(writer.append(1, 1, seq, &payload).unwrap(), seq);
            }
        });
        let mut next = 1;
        while next <= COUNT {
            for record in reader.read(next, 500, 1 << 20).unwrap() {
                assert_eq!((record.seq, record.wall_ms), (next, next));
                assert_eq!(record.payload.len() as u64, next % 200);
                assert!(
                    record
                        .payload
                        .iter()
                        .all(|byte| u64::from(*byte) == next % 251)
                );
                next += 1;
            }
            reader.sync().unwrap();
            assert!(reader.synced_seq() >= next);
            reader.trim(next).unwrap();
        }
    });
    assert!(segments(dir.path()).len() <= 2);
}

#[test]
fn the_flusher_prepares_the_segment_that_the_writer_will_need() {
    let dir: TempDir = tempfile::tempdir().unwrap();
    let (mut writer, mut reader, _) = open(dir.path());
    let temporary = || ending_with(&dir.path().join("worker-3"), ".tmp").len();
    reader.sync().unwrap();
    assert_eq!(temporary(), 0);
    append(&mut writer, 50);
    reader.sync().unwrap();
    reader.sync().unwrap();
    assert_eq!(temporary(), 1);
    append(&mut writer, 50);
    assert_eq!((temporary(), segments(dir.path()).len()), (0, 2));
    assert_contiguous(&all(&mut reader), 1, 101);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20, ..ProptestConfig::default() })]

    #[test]
    fn a_spool_holds_what_was_appended_over_any_openings(
        rounds in proptest::collection::vec(
            (proptest::collection::vec(0_usize..700, 0..40), any::<bool>(), 0_u64..50), 1..6),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut expected: Vec<(u64, Vec<u8>)> = Vec::new();
        for (sizes, sync, trim) in rounds {
            let (mut writer, mut reader, recovery) = open(dir.path());
            prop_assert_eq!(recovery.next_seq, expected.len() as u64 + 1);
            prop_assert_eq!(recovery.truncated_bytes, 0);
            for size in sizes {
                let payload = vec![u8::try_from(expected.len() % 256).unwrap(); size];
                let seq = writer.append(1, 1, 5, &payload).unwrap();
                expected.push((seq, payload));
            }
            if sync {
                reader.sync().unwrap();
            }
            reader.trim(trim.min(reader.next_seq())).unwrap();
            let first = usize::try_from(reader.first_seq()).unwrap();
            let found: Vec<_> =
                all(&mut reader).into_iter().map(|r| (r.seq, r.payload.to_vec())).collect();
            prop_assert_eq!(&found, &expected[first - 1..]);
        }
    }
}
