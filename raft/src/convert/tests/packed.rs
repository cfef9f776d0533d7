//! Buckets that are over stand in a checkpoint as they are packed in memory: found again, shared, and refused when damaged.

use mode_envoy_model::batch::Batch;
use mode_envoy_model::usage::cells::{Bucket, Resolution};

use super::*;

/// The state that holds one of everything, three hours later, past the end of its day: its buckets are packed.
fn hours_later() -> State {
    let mut state = full_state();
    pass(&mut state, 3);
    state
}

fn pass(state: &mut State, hours: u64) {
    let later = Batch {
        wall_ms: state.wall_ms + hours * 3_600_000,
        ..Batch::default()
    };
    state.apply(9, &later);
}

fn chunks(state: &State) -> Vec<(String, Bytes)> {
    let at = snapshot_meta(None, StoredMembership::default());
    encode_checkpoint(state, &at).unwrap().chunks
}

fn read(chunks: &[(String, Bytes)]) -> Result<State, DecodeError> {
    let at = snapshot_meta(None, StoredMembership::default());
    let meta = encode_checkpoint(&hours_later(), &at).unwrap().meta;
    decode_checkpoint(&meta, chunks).map(|(_, state)| state)
}

#[test]
fn packed_buckets_come_back_packed_and_their_chunks_do_not_change() {
    let mut state = hours_later();
    let before = chunks(&state);
    let packed: Vec<_> = before
        .iter()
        .filter(|(name, _)| name.contains("packed-"))
        .collect();
    let names: Vec<_> = packed.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names,
        [
            "packed-minute-0029000000",
            "packed-hour-0000483333",
            "packed-day-0000020138",
            "nodepacked-minute-0029000000",
            "nodepacked-hour-0000483333",
        ]
    );
    let back = read(&before).unwrap();
    assert!(back == state);
    let hours = back.usage.cells.buckets(Resolution::Hour);
    assert!(matches!(hours[&483_333], Bucket::Packed(_)));

    pass(&mut state, 1);
    let after = chunks(&state);
    assert!(packed.iter().all(|chunk| after.contains(chunk)));
}

#[test]
fn damage_in_a_packed_bucket_is_refused_or_changes_no_more_than_numbers() {
    let all = chunks(&hours_later());
    let at = all
        .iter()
        .position(|(name, _)| name.starts_with("packed-hour"))
        .unwrap();
    let (name, sound) = all[at].clone();
    let (mut refused, mut read_anyway) = (0, 0);
    for byte in 0..sound.len() {
        for bit in 0..8 {
            let mut damaged = sound.to_vec();
            damaged[byte] ^= 1 << bit;
            let mut chunks = all.clone();
            chunks[at] = (name.clone(), damaged.into());
            match read(&chunks) {
                Err(_) => refused += 1,
                Ok(state) => {
                    read_anyway += 1;
                    assert!(State::from_parts(state.parts()) == Ok(state));
                }
            }
        }
    }
    assert!(refused > read_anyway, "{refused} {read_anyway}");
    for cut in 0..sound.len() {
        let mut chunks = all.clone();
        chunks[at] = (name.clone(), sound.slice(..cut));
        assert!(read(&chunks).is_err(), "cut at {cut}");
    }
}

#[test]
fn a_packed_bucket_that_names_an_unknown_series_is_refused() {
    let all = chunks(&hours_later());
    let chunks: Vec<_> = all
        .into_iter()
        .filter(|(name, _)| !name.starts_with("series-"))
        .collect();
    let error = read(&chunks).expect_err("the bucket names a series");
    assert!(error.to_string().contains("names series"), "{error}");
}
