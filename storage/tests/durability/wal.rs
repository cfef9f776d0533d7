//! The log's calls: order, limits, reading back, closing.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use mode_envoy_storage::disk::RealDisk;
use mode_envoy_storage::wal::{
    MAX_OPAQUE_BYTES, MAX_RECORD_BYTES, Position, Record, Recovered, Wal, WalError,
};

use crate::files;
use crate::wal_fixture::{all, append, open, options, record, try_open, wait};

#[test]
fn a_new_log_is_empty() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, recovered) = open(dir.path());
    assert_eq!(recovered, Recovered::default());
    assert_eq!(
        (wal.first_index(), wal.last(), wal.purged()),
        (None, None, None)
    );
    assert!(all(&wal).is_empty());
    assert!(wal.poisoned().is_none());
}

#[test]
fn records_can_be_read_before_they_are_durable() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = open(dir.path());
    let expected: Vec<_> = (0..50).map(|index| record(1, index, 100)).collect();
    wal.append(expected.clone(), Box::new(|_| {}));
    assert_eq!(all(&wal), expected);
    assert_eq!(wal.first_index(), Some(0));
    assert_eq!(wal.last(), Some(Position { term: 1, index: 49 }));
}

#[test]
fn everything_is_there_after_opening_again() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = open(dir.path());
    append(&wal, 1, 5..=40, 1000);
    wait(|done| wal.save_vote(Bytes::from_static(b"vote 2"), done)).unwrap();
    wait(|done| wal.truncate(30, done)).unwrap();
    append(&wal, 2, 30..=35, 10);
    wal.save_committed(Bytes::from_static(b"committed 33"));
    let expected = all(&wal);
    wal.close();

    let (wal, recovered) = open(dir.path());
    assert_eq!(recovered.vote.unwrap(), "vote 2");
    assert_eq!(recovered.committed.unwrap(), "committed 33");
    assert_eq!(recovered.last, Some(Position { term: 2, index: 35 }));
    assert_eq!(recovered.purged, None);
    assert_eq!(all(&wal), expected);
    assert_eq!(wal.first_index(), Some(5));
}

#[test]
fn a_read_is_bounded_by_bytes_but_returns_one_record_at_least() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = open(dir.path());
    append(&wal, 1, 1..=20, 1000);
    let indexes = |from, to, max| {
        let records = wal.read(from, to, max).unwrap();
        records
            .iter()
            .map(|record| record.position.index)
            .collect::<Vec<_>>()
    };
    assert_eq!(indexes(3, 10, 2500), [3, 4]);
    assert_eq!(indexes(3, 10, 0), [3]);
    assert_eq!(indexes(18, 100, usize::MAX), [18, 19, 20]);
    assert_eq!(indexes(0, 3, usize::MAX), [1, 2]);
    assert!(indexes(21, 30, usize::MAX).is_empty());
    assert!(indexes(5, 5, usize::MAX).is_empty());
}

#[test]
fn completions_come_in_the_order_of_the_calls() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = open(dir.path());
    let order = Arc::new(Mutex::new(Vec::new()));
    for call in 0..40_u64 {
        let order = Arc::clone(&order);
        let done = Box::new(move |result: Result<(), WalError>| {
            result.unwrap();
            order.lock().unwrap().push(call);
        });
        match call % 4 {
            0 => wal.append(vec![record(1, call / 4, 3000)], done),
            1 => wal.save_vote(Bytes::from(call.to_string()), done),
            2 => wal.truncate(1000, done),
            _ => wal.append(vec![], done),
        }
    }
    wal.close();
    assert_eq!(*order.lock().unwrap(), (0..40).collect::<Vec<_>>());
}

#[test]
fn a_gap_is_refused_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = open(dir.path());
    append(&wal, 1, 1..=3, 10);
    let gap = wait(|done| wal.append(vec![record(1, 5, 10)], done));
    assert!(matches!(
        gap,
        Err(WalError::NotContiguous {
            expected: 4,
            found: 5
        })
    ));
    append(&wal, 1, 4..=4, 10);
    assert_eq!(all(&wal).len(), 4);
}

#[test]
fn what_exceeds_a_limit_is_refused_before_it_is_queued() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = open(dir.path());
    let large = record(1, 1, MAX_RECORD_BYTES + 1);
    let refused = wait(|done| wal.append(vec![large], done));
    assert!(matches!(
        refused,
        Err(WalError::TooLarge {
            limit: MAX_RECORD_BYTES,
            ..
        })
    ));
    let opaque = Bytes::from(vec![1; MAX_OPAQUE_BYTES + 1]);
    let refused = wait(|done| wal.save_vote(opaque.clone(), done));
    assert!(matches!(refused, Err(WalError::TooLarge { .. })));
    let upto = Position { term: 1, index: 1 };
    let refused = wait(|done| wal.purge(upto, opaque, done));
    assert!(matches!(refused, Err(WalError::TooLarge { .. })));
    assert_eq!((wal.last(), wal.purged()), (None, None));
    assert!(wal.poisoned().is_none());
}

#[test]
fn a_record_longer_than_a_segment_gets_one_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = open(dir.path());
    append(&wal, 1, 1..=2, 100);
    append(&wal, 1, 3..=3, 300_000);
    append(&wal, 1, 4..=9, 8000);
    let expected = all(&wal);
    wal.close();
    let (wal, _) = open(dir.path());
    assert_eq!(all(&wal), expected);
}

#[test]
fn purging_removes_whole_segments_and_keeps_the_newest_vote() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = open(dir.path());
    wait(|done| wal.save_vote(Bytes::from_static(b"old"), done)).unwrap();
    append(&wal, 1, 1..=10, 1000);
    wait(|done| wal.save_vote(Bytes::from_static(b"newest"), done)).unwrap();
    wal.save_committed(Bytes::from_static(b"committed"));
    append(&wal, 1, 11..=200, 1000);
    let before = files::ending_with(dir.path(), ".wal").len();
    assert!(before >= 6);
    let upto = Position {
        term: 1,
        index: 150,
    };
    wait(|done| wal.purge(upto, Bytes::from_static(b"log id 150"), done)).unwrap();
    let expected = all(&wal);
    assert_eq!(wal.first_index(), Some(151));
    wal.close();
    let after = files::ending_with(dir.path(), ".wal").len();
    assert!(after <= before - 4, "{before} segments became {after}");

    let (wal, recovered) = open(dir.path());
    assert_eq!(recovered.vote.unwrap(), "newest");
    assert_eq!(recovered.committed.unwrap(), "committed");
    assert_eq!(recovered.purged, Some(upto));
    assert_eq!(recovered.purged_payload.unwrap(), "log id 150");
    assert_eq!(all(&wal), expected);
    let refused = wait(|done| wal.truncate(150, done));
    assert!(matches!(
        refused,
        Err(WalError::TruncatesPurged {
            from: 150,
            purged: 150
        })
    ));
}

#[test]
fn after_a_purge_beyond_the_end_the_log_goes_on_behind_it() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = open(dir.path());
    append(&wal, 1, 1..=60, 1000);
    let upto = Position {
        term: 3,
        index: 500,
    };
    wait(|done| wal.purge(upto, Bytes::new(), done)).unwrap();
    assert_eq!((wal.first_index(), wal.last()), (None, Some(upto)));
    wal.close();
    let (wal, recovered) = open(dir.path());
    assert_eq!((recovered.last, recovered.purged), (Some(upto), Some(upto)));
    append(&wal, 3, 501..=502, 10);
    wal.close();
    let (wal, recovered) = open(dir.path());
    assert_eq!(
        recovered.last,
        Some(Position {
            term: 3,
            index: 502
        })
    );
    assert_eq!(all(&wal).len(), 2);
}

#[test]
fn a_segment_roll_keeps_vote_purged_and_committed() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = open(dir.path());
    append(&wal, 1, 1..=3, 10);
    wait(|done| wal.save_vote(Bytes::from_static(b"vote"), done)).unwrap();
    let upto = Position { term: 1, index: 3 };
    wait(|done| wal.purge(upto, Bytes::from_static(b"purged"), done)).unwrap();
    // Fills segments until the one that holds these records is gone.
    append(&wal, 2, 4..=100, 2000);
    let upto = Position { term: 2, index: 90 };
    wait(|done| wal.purge(upto, Bytes::from_static(b"purged again"), done)).unwrap();
    append(&wal, 2, 101..=160, 2000);
    wal.close();
    let (_wal, recovered) = open(dir.path());
    assert_eq!(recovered.vote.unwrap(), "vote");
    assert_eq!(recovered.purged, Some(upto));
    assert_eq!(recovered.purged_payload.unwrap(), "purged again");
}

#[test]
fn a_directory_is_opened_once() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = open(dir.path());
    assert!(matches!(try_open(dir.path()), Err(WalError::InUse { .. })));
    let clone = wal.clone();
    drop(wal);
    assert!(matches!(try_open(dir.path()), Err(WalError::InUse { .. })));
    drop(clone);
    open(dir.path());
}

#[test]
fn a_closed_log_answers_that_it_is_closed() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = open(dir.path());
    let clone = wal.clone();
    wal.close();
    let refused = wait(|done| clone.append(vec![record(1, 1, 1)], done));
    assert!(matches!(refused, Err(WalError::Closed)));
    assert!(clone.poisoned().is_none());
    open(dir.path());
}

#[test]
fn the_last_handle_may_go_inside_a_completion() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = open(dir.path());
    let (sender, receiver) = std::sync::mpsc::channel();
    let handle = wal.clone();
    wal.save_vote(
        Bytes::from_static(b"vote"),
        Box::new(move |result| {
            let outcome = result.is_ok();
            drop(handle);
            sender.send(outcome).unwrap();
        }),
    );
    drop(wal);
    assert!(receiver.recv().unwrap());
}

#[test]
fn a_panicking_completion_poisons_the_log_instead_of_hanging_it() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = open(dir.path());
    wal.save_vote(Bytes::new(), Box::new(|_| panic!("a defect of the caller")));
    let answer = loop {
        match wait(|done| wal.append(vec![], done)) {
            Ok(()) => {}
            Err(error) => break error,
        }
    };
    assert!(matches!(answer, WalError::Poisoned { .. }));
    assert!(wal.poisoned().is_some());
}

#[test]
fn statistics_count_batches_records_and_segments() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = open(dir.path());
    append(&wal, 1, 1..=8, 100);
    append(&wal, 1, 9..=100, 1000);
    let stats = wal.stats();
    assert_eq!(stats.records, 100);
    assert!(stats.batches >= 4 && stats.segments_created >= 2);
    assert!(stats.bytes >= 92 * 1000 && stats.bytes < 110_000);
    assert!(stats.sync_micros_max <= stats.sync_micros_sum);
}

#[test]
fn unusable_segment_sizes_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    for segment_bytes in [0, 1024, 100_001, u64::MAX] {
        let mut options = options(dir.path());
        options.segment_bytes = segment_bytes;
        let refused = Wal::open(Arc::new(RealDisk), options);
        assert!(matches!(refused, Err(WalError::SegmentBytes { .. })));
    }
}

#[test]
fn many_threads_append_and_read_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = open(dir.path());
    std::thread::scope(|scope| {
        let reader = wal.clone();
        scope.spawn(move || {
            let mut next = 0;
            while next < 600 {
                for Record { position, payload } in reader.read(next, u64::MAX, 10_000).unwrap() {
                    assert_eq!(position.index, next);
                    assert_eq!(payload, record(1, next, 500).payload);
                    next += 1;
                }
            }
        });
        for index in 0..600 {
            wal.append(
                vec![record(1, index, 500)],
                Box::new(|result| result.unwrap()),
            );
        }
    });
    assert_eq!(
        wal.last(),
        Some(Position {
            term: 1,
            index: 599
        })
    );
}
