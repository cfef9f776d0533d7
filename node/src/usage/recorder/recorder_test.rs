//! What a recorder writes, in which room, and what it does where there is none.

use super::*;
use crate::usage::record::{Asked, Dims, Record};
use crate::usage::recovery::{self, Spool};
use crate::usage::testing::settings;

const CALL: CallId = CallId([1; 16]);

fn recorder(dir: &std::path::Path) -> (Recorder, Spool) {
    let mut recovered = recovery::open(&settings(dir, 1)).unwrap();
    (recovered.recorders.remove(0), recovered.spools.remove(0))
}

fn open(recorder: &Recorder, dims: &Dims) -> Result<(), RecordError> {
    let (call, attempt) = (CALL, 0);
    recorder.open(&Opened {
        call,
        attempt,
        dims,
        asked: Asked::default(),
        reserved_input: 1,
        bytes_in: 4,
        takes: &crate::usage::record::Takes::NONE,
    })
}

fn kinds(spool: &mut Spool) -> Vec<u8> {
    kinds_of(spool, 100)
}

fn kinds_of(spool: &mut Spool, most: usize) -> Vec<u8> {
    let records = spool.reader.read(1, most, 1 << 20).unwrap();
    let sound = |r: &mode_envoy_storage::spool::SpoolRecord| {
        Record::parse(r.kind, r.version, &r.payload).is_ok()
    };
    assert!(records.iter().all(sound));
    records.iter().map(|record| record.kind).collect()
}

fn totals(spool: &mut Spool) -> Vec<(u64, u64)> {
    let records = spool.reader.read(1, 100, 1 << 20).unwrap();
    let total = |record: &mode_envoy_storage::spool::SpoolRecord| match Record::parse(
        record.kind,
        record.version,
        &record.payload,
    )
    .unwrap()
    {
        Record::Total(head, _) => Some((head.counters().calls, head.counters().rejected)),
        _ => None,
    };
    records.iter().filter_map(total).collect()
}

#[test]
fn while_the_spool_is_nearly_full_what_was_open_is_closed_in_it_and_the_rest_is_added_up() {
    let (dir, dims) = (tempfile::tempdir().unwrap(), Dims::empty());
    let (recorder, mut spool) = recorder(dir.path());
    open(&recorder, &dims).unwrap();
    let notice = spool.notice.take().unwrap();
    notice.set_nearly_full(true);
    let later = |id, status| Closed {
        status,
        ..Closed::of(CallId([id; 16]), 0, &dims)
    };
    for id in 2..5 {
        let (call, attempt) = (CallId([id; 16]), 0);
        recorder
            .open(&Opened {
                call,
                attempt,
                dims: &dims,
                asked: Asked::default(),
                reserved_input: 1,
                bytes_in: 4,
                takes: &crate::usage::record::Takes::NONE,
            })
            .unwrap();
        recorder.close(&later(id, 200)).unwrap();
    }
    recorder.refuse(&later(9, 401)).unwrap();
    recorder.close(&Closed::of(CALL, 0, &dims)).unwrap();
    recorder.settle();
    assert_eq!(kinds(&mut spool), [OPEN, CLOSE], "the minute is not over");

    notice.set_nearly_full(false);
    open(&recorder, &dims).unwrap();
    assert_eq!(totals(&mut spool), [(3, 0), (1, 1)]);
    assert_eq!(kinds(&mut spool).last(), Some(&OPEN));
    recorder.settle();
    assert_eq!(totals(&mut spool).len(), 2, "each is written once");
}

#[test]
fn sums_of_minutes_that_are_over_are_written_though_the_spool_is_nearly_full_but_not_into_its_last_part()
 {
    let (dir, dims) = (tempfile::tempdir().unwrap(), Dims::empty());
    let (recorder, mut spool) = recorder(dir.path());
    spool.notice.as_ref().unwrap().set_nearly_full(true);
    let in_an_hour = wall_ms() + 3_600_000;
    recorder.close(&Closed::of(CALL, 0, &dims)).unwrap();
    let mut inner = recorder.inner.borrow_mut();
    assert_eq!(inner.write_totals(u32::MAX, u64::MAX), 0);
    inner.settle(NEARLY_FULL, in_an_hour);
    drop(inner);
    assert_eq!(totals(&mut spool), [(1, 0)]);
}

#[test]
fn a_worker_that_ends_writes_all_that_was_added_up() {
    let (dir, dims) = (tempfile::tempdir().unwrap(), Dims::empty());
    let (recorder, mut spool) = recorder(dir.path());
    spool.notice.as_ref().unwrap().set_nearly_full(true);
    recorder.close(&Closed::of(CALL, 0, &dims)).unwrap();
    drop(recorder);
    assert_eq!(totals(&mut spool), [(1, 0)]);
}

#[test]
fn a_spool_that_is_full_to_its_end_before_anybody_noticed_adds_up_and_loses_nothing() {
    let (dir, dims) = (tempfile::tempdir().unwrap(), Dims::empty());
    let mut small = settings(dir.path(), 1);
    small.max_bytes = 2 * small.segment_bytes as u64;
    let mut recovered = recovery::open(&small).unwrap();
    let (recorder, mut spool) = (recovered.recorders.remove(0), recovered.spools.remove(0));
    let all = 500;
    for id in 0..all {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&u64::to_le_bytes(id));
        let call = CallId(bytes);
        let opened = Opened {
            call,
            attempt: 0,
            dims: &dims,
            asked: Asked::default(),
            reserved_input: 1,
            bytes_in: 4,
            takes: &crate::usage::record::Takes::NONE,
        };
        recorder.open(&opened).unwrap();
        recorder.close(&Closed::of(call, 0, &dims)).unwrap();
    }
    let written = kinds_of(&mut spool, 1_000);
    let closes = written.into_iter().filter(|kind| *kind == CLOSE).count() as u64;
    assert!(closes > 10 && closes < all);
    let inner = recorder.inner.borrow();
    let waiting = inner.totals.calls() + inner.late.len() as u64;
    assert_eq!(closes + waiting, all);
    assert_eq!(inner.open.len(), inner.late.len());
}

#[test]
fn after_a_failure_of_the_disk_nothing_is_opened_any_more() {
    let (dir, dims) = (tempfile::tempdir().unwrap(), Dims::empty());
    let (recorder, spool) = recorder(dir.path());
    spool.notice.unwrap().set_failed();
    assert!(matches!(open(&recorder, &dims), Err(RecordError::Failed)));
}

#[test]
fn only_a_call_that_is_still_open_is_carried() {
    let (dir, dims) = (tempfile::tempdir().unwrap(), Dims::empty());
    let (recorder, mut spool) = recorder(dir.path());
    let notice = spool.notice.take().unwrap();
    let mut payload = vec![0; RECORD_MAX];
    let (call, attempt) = (CALL, 0);
    let opened = Opened {
        call,
        attempt,
        dims: &dims,
        asked: Asked::default(),
        reserved_input: 1,
        bytes_in: 4,
        takes: &crate::usage::record::Takes::NONE,
    };
    let len = opened.encode_into(&mut payload).unwrap();
    payload.truncate(len);
    let ask = || {
        vec![CarryRequest {
            attempt: (CALL, 0),
            version: VERSION,
            payload: payload.clone(),
        }]
    };

    open(&recorder, &dims).unwrap();
    notice.ask_to_carry(ask);
    recorder
        .refuse(&Closed::of(CallId([2; 16]), 0, &dims))
        .unwrap();
    recorder
        .close(&Closed::of(CallId([3; 16]), 0, &dims))
        .unwrap();
    recorder.close(&Closed::of(CALL, 0, &dims)).unwrap();
    notice.ask_to_carry(ask);
    recorder
        .close(&Closed::of(CallId([4; 16]), 0, &dims))
        .unwrap();
    assert_eq!(kinds(&mut spool), [OPEN, CLOSE, CLOSE, CARRY, CLOSE, CLOSE]);
}

#[test]
fn nothing_is_carried_into_the_room_that_is_kept_for_closes() {
    let (dir, dims) = (tempfile::tempdir().unwrap(), Dims::empty());
    let mut small = settings(dir.path(), 1);
    small.max_bytes = 1 << 20;
    let mut recovered = recovery::open(&small).unwrap();
    let (recorder, mut spool) = (recovered.recorders.remove(0), recovered.spools.remove(0));
    let notice = spool.notice.take().unwrap();
    let mut payload = vec![0; RECORD_MAX];
    let opened = Opened {
        call: CALL,
        attempt: 0,
        dims: &dims,
        asked: Asked::default(),
        reserved_input: 1,
        bytes_in: 4,
        takes: &crate::usage::record::Takes::NONE,
    };
    let len = opened.encode_into(&mut payload).unwrap();
    payload.truncate(len);
    recorder.open(&opened).unwrap();
    let closed = |id| Closed::of(CallId([id; 16]), 0, &dims);
    let mut carried = |nearly_full| {
        notice.set_nearly_full(nearly_full);
        notice.ask_to_carry(|| {
            vec![CarryRequest {
                attempt: (CALL, 0),
                version: VERSION,
                payload: payload.clone(),
            }]
        });
        recorder.close(&closed(2)).unwrap();
        let kinds = kinds_of(&mut spool, usize::MAX);
        kinds.into_iter().filter(|kind| *kind == CARRY).count()
    };
    assert_eq!(carried(false), 1);
    assert_eq!(carried(true), 2, "there is more room than Closes need");
    notice.set_nearly_full(false);
    let kept = (1 << 20) / ROOM_FOR_CLOSES;
    for _ in 0..20_000 {
        if recorder.inner.borrow().writer.room() > kept {
            recorder.refuse(&closed(3)).unwrap();
        }
    }
    assert!(recorder.inner.borrow().writer.room() <= kept);
    assert_eq!(carried(true), 2);
    assert_eq!(carried(false), 3, "it is done when there is room again");
}

#[test]
fn after_a_record_found_no_room_none_tries_again_before_the_flusher_has_looked() {
    let (dir, dims) = (tempfile::tempdir().unwrap(), Dims::empty());
    let mut small = settings(dir.path(), 1);
    small.max_bytes = 2 * small.segment_bytes as u64;
    let mut recovered = recovery::open(&small).unwrap();
    let (recorder, mut spool) = (recovered.recorders.remove(0), recovered.spools.remove(0));
    open(&recorder, &dims).unwrap();
    let refused = Closed::of(CallId([2; 16]), 0, &dims);
    (0..500).for_each(|_| recorder.refuse(&refused).unwrap());
    let (first, full_at) = (spool.reader.first_seq(), spool.reader.next_seq());
    assert!(full_at < 500);
    // There is room again, and nobody knows.
    spool.reader.sync().unwrap();
    spool.reader.trim(full_at).unwrap();
    assert!(spool.reader.first_seq() > first);
    recorder.refuse(&refused).unwrap();
    recorder.close(&Closed::of(CALL, 0, &dims)).unwrap();
    recorder.settle();
    assert_eq!(spool.reader.next_seq(), full_at);

    let notice = spool.notice.unwrap();
    assert!(!notice.take_disk_full(), "it was the spool's own bound");
    recorder.refuse(&refused).unwrap();
    recorder.settle();
    let [refusal, close, total] = &spool.reader.read(full_at, 10, 1 << 20).unwrap()[..] else {
        panic!("the refusal, the Close that waited, and a sum")
    };
    assert_eq!(
        [refusal.kind, close.kind, total.kind],
        [CLOSE, CLOSE, TOTAL]
    );
}

#[test]
fn a_full_disk_is_told_once_for_each_time_it_is_found() {
    let notice = Notice::default();
    let (path, bytes) = (std::path::PathBuf::from("/spool"), 1);
    notice.found_no_room(&SpoolError::DiskFull { path, bytes });
    assert!(notice.take_disk_full());
    assert!(!notice.take_disk_full());
    notice.found_no_room(&SpoolError::Full { max_bytes: 1 });
    assert!(!notice.take_disk_full());
}

#[test]
fn a_worker_that_ends_with_its_spool_full_tells_what_is_lost() {
    let (dir, dims) = (tempfile::tempdir().unwrap(), Dims::empty());
    let mut small = settings(dir.path(), 1);
    small.max_bytes = 2 * small.segment_bytes as u64;
    let recovered = recovery::open(&small).unwrap();
    let recorder = &recovered.recorders[0];
    open(recorder, &dims).unwrap();
    let mut last = 0;
    while last < recovered.spools[0].reader.next_seq() {
        last = recovered.spools[0].reader.next_seq();
        recorder
            .refuse(&Closed::of(CallId([2; 16]), 0, &dims))
            .unwrap();
    }
    recorder.close(&Closed::of(CALL, 0, &dims)).unwrap();
    let left = recorder.inner.borrow_mut().finish();
    assert_eq!(left, Left { sums: 1, closes: 1 });
}

#[test]
fn a_refusal_is_one_close_without_an_open() {
    let (dir, dims) = (tempfile::tempdir().unwrap(), Dims::empty());
    let (recorder, mut spool) = recorder(dir.path());
    let closed = Closed {
        status: 401,
        ..Closed::of(CALL, 0, &dims)
    };
    recorder.refuse(&closed).unwrap();
    let record = spool.reader.read(1, 1, 1 << 20).unwrap().remove(0);
    let parsed = Record::parse(record.kind, record.version, &record.payload);
    assert!(matches!(parsed, Ok(Record::Close(head, _)) if head.rejected() && head.answered()));
}
