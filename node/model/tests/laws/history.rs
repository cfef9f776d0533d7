//! The history: it survives checkpoints, is equal on replicas, and no byte of it changes unnoticed.

use std::sync::Arc;

use mode_envoy_model::batch::{Batch, ChangeSet, Item};
use mode_envoy_model::checkpoint::{Parts, PartsError};
use mode_envoy_model::event::Event;
use mode_envoy_model::history::{CHUNK_BYTES, CHUNK_RECORDS, NO_RECORD, Record, chain};
use mode_envoy_model::state::State;
use proptest::prelude::*;

/// A state with one accepted change set for each encoded form.
fn state(encoded: &[Vec<u8>]) -> State {
    let mut state = State::new();
    for (base_revision, bytes) in (0..).zip(encoded) {
        let set = ChangeSet {
            base_revision,
            events: vec![Event::FormatRaised { version: 1 }],
            request: None,
            encoded: bytes.as_slice().into(),
            ..ChangeSet::default()
        };
        let batch = Batch {
            wall_ms: 1_000 + base_revision,
            items: vec![Item::ChangeSet(set)],
            ..Batch::default()
        };
        state.apply(base_revision + 1, &batch);
    }
    state
}

fn with_records(parts: &Parts, change: impl FnOnce(&mut Vec<Record>)) -> Parts {
    let mut parts = parts.clone();
    let history = parts.history.as_mut().expect("a history is kept");
    let mut records: Vec<Record> = history.chunks.iter().flat_map(|c| c.to_vec()).collect();
    change(&mut records);
    history.chunks = vec![Arc::from(records)];
    parts
}

#[test]
fn each_accepted_change_set_is_recorded_once_and_void_ones_are_not() {
    let mut state = state(&[vec![1], vec![2, 3]]);
    let head = state.history.head();
    let stale = ChangeSet {
        base_revision: 0,
        events: vec![Event::FormatRaised { version: 1 }],
        ..ChangeSet::default()
    };
    let batch = Batch {
        items: vec![Item::ChangeSet(stale)],
        ..Batch::default()
    };
    state.apply(9, &batch);
    assert_eq!(state.history.head(), head);
    let records: Vec<_> = state.history.records().collect();
    let revisions: Vec<_> = records.iter().map(|record| record.revision).collect();
    assert_eq!(revisions, [1, 2]);
    assert_eq!(records[0].hash, chain(&NO_RECORD, 1, 1_000, &[1]));
    assert_eq!(head, chain(&records[0].hash, 2, 1_001, &[2, 3]));
}

#[test]
fn where_a_chunk_ends_is_told_by_its_records_and_a_checkpoint_keeps_it() {
    let big = vec![0; CHUNK_BYTES / 2];
    for (encoded, chunks) in [
        (vec![vec![1]; CHUNK_RECORDS - 1], 1),
        (vec![vec![1]; CHUNK_RECORDS], 1),
        (vec![vec![1]; CHUNK_RECORDS + 1], 2),
        (vec![big; 5], 3),
    ] {
        let state = state(&encoded);
        let parts = state.parts();
        let found = parts.history.as_ref().map_or(0, |h| h.chunks.len());
        assert_eq!(found, chunks);
        assert_eq!(State::from_parts(parts), Ok(state));
    }
}

#[test]
fn a_sealed_chunk_is_shared_by_later_checkpoints() {
    let mut encoded = vec![vec![1]; CHUNK_RECORDS];
    let mut state = state(&encoded);
    let before = state.parts();
    encoded.push(vec![2]);
    let set = ChangeSet {
        base_revision: state.catalog.revision(),
        events: vec![Event::FormatRaised { version: 1 }],
        ..ChangeSet::default()
    };
    let items = vec![Item::ChangeSet(set)];
    state.apply(
        999,
        &Batch {
            items,
            ..Batch::default()
        },
    );
    let after = state.parts();
    let first = |parts: &Parts| Arc::clone(&parts.history.as_ref().expect("kept").chunks[0]);
    assert!(Arc::ptr_eq(&first(&before), &first(&after)));
}

#[test]
fn what_is_missing_swapped_or_added_is_named() {
    let parts = state(&[vec![1], vec![2], vec![3]]).parts();
    let fault = |change: fn(&mut Vec<Record>)| State::from_parts(with_records(&parts, change));
    assert_eq!(
        fault(|records| records.swap(0, 1)),
        Err(PartsError::HistoryBroken(2))
    );
    assert_eq!(
        fault(|records| drop(records.remove(1))),
        Err(PartsError::HistoryBroken(3))
    );
    assert_eq!(
        fault(|records| drop(records.pop())),
        Err(PartsError::HistoryHead)
    );
    assert_eq!(fault(Vec::clear), Err(PartsError::HistoryHead));
    let mut other = parts.clone();
    other.revision = 4;
    assert_eq!(
        State::from_parts(other),
        Err(PartsError::HistoryRevision {
            last: 3,
            revision: 4
        })
    );
    // Without a history, one begins with the next change.
    let mut old = parts;
    old.history = None;
    let state = State::from_parts(old).expect("an older checkpoint is read");
    assert_eq!(state.history.head(), NO_RECORD);
}

proptest! {
    #[test]
    fn any_byte_of_any_record_that_changes_is_found(
        encoded in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..20), 1..6),
        which in any::<prop::sample::Index>(),
        byte in any::<prop::sample::Index>(),
        flip in 1_u8..=255,
        field in 0_u8..4,
    ) {
        let parts = state(&encoded).parts();
        let at = which.index(encoded.len());
        let changed = with_records(&parts, |records| {
            let record = &mut records[at];
            match field {
                0 => record.revision ^= u64::from(flip),
                1 => record.wall_ms ^= u64::from(flip) << 24,
                2 => {
                    let mut bytes = record.change_set.to_vec();
                    let place = byte.index(bytes.len());
                    bytes[place] ^= flip;
                    record.change_set = bytes.into();
                }
                _ => record.hash[byte.index(32)] ^= flip,
            }
        });
        prop_assert!(State::from_parts(changed).is_err());
    }
}
