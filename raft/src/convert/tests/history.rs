//! The history in checkpoints: sealed chunks keep their bytes, and damage that checksums did not find is found by hashes.

use std::sync::Arc;

use bytes::Bytes;
use mode_envoy_model::batch::{Batch, ChangeSet, Item};
use mode_envoy_model::event::Event;
use mode_envoy_model::history::{BEGINNING, CHUNK_RECORDS};
use mode_envoy_model::state::State;
use mode_envoy_model::tenant::Tenant;
use mode_envoy_proto::log::v1 as log;
use prost::Message;

use super::super::*;
use super::full_state;
use crate::types::{SnapshotMeta, StoredMembership};

fn here() -> SnapshotMeta {
    snapshot_meta(None, StoredMembership::default())
}

/// Applies one change as it would come from the log.
fn change(state: &mut State) {
    let base_revision = state.catalog.revision();
    let tenant = Tenant {
        name: format!("t{base_revision}").into(),
        hosts: Vec::new(),
    };
    let set = ChangeSet {
        base_revision,
        actor: "root".into(),
        origin: "apply".into(),
        events: vec![Event::TenantPut(tenant)],
        request: None,
        encoded: Arc::default(),
    };
    let batch = Batch {
        wall_ms: 1_000 + base_revision,
        items: vec![Item::ChangeSet(set)],
        ..Batch::default()
    };
    let bytes = Bytes::from(batch.to_wire().encode_to_vec());
    state.apply(base_revision + 1, &decode_batch(&bytes).unwrap());
}

fn history_chunks(state: &State) -> Vec<(String, Bytes)> {
    let chunks = encode_checkpoint(state, &here()).unwrap().chunks;
    let history = chunks
        .into_iter()
        .filter(|(name, _)| name.starts_with("history-"));
    history.collect()
}

#[test]
fn the_history_holds_the_bytes_of_the_log_and_a_checkpoint_gives_them_back() {
    let mut state = State::new();
    for _ in 0..3 {
        change(&mut state);
    }
    let kept: Vec<_> = state.history.records().collect();
    assert_eq!(kept.len(), 3);
    let set = read_change_set(&kept[1].change_set).unwrap();
    assert_eq!((set.base_revision, set.origin.as_str()), (1, "apply"));
    assert_eq!((kept[1].revision, kept[1].wall_ms), (2, 1_001));
    let encoded = encode_checkpoint(&state, &here()).unwrap();
    let (_, back) = decode_checkpoint(&encoded.meta, &encoded.chunks).unwrap();
    assert_eq!(back.history, state.history);
}

#[test]
fn a_sealed_chunk_has_the_same_bytes_in_every_checkpoint() {
    let mut state = State::new();
    for _ in 0..CHUNK_RECORDS {
        change(&mut state);
    }
    let sealed = history_chunks(&state);
    assert_eq!(sealed.len(), 1);
    change(&mut state);
    let later = history_chunks(&state);
    assert_eq!(later.len(), 2);
    assert_eq!(later[0], sealed[0]);
    let encoded = encode_checkpoint(&state, &here()).unwrap();
    let (_, back) = decode_checkpoint(&encoded.meta, &encoded.chunks).unwrap();
    assert!(back == state);
}

#[test]
fn any_byte_of_the_history_that_changes_keeps_the_checkpoint_from_loading() {
    let mut state = State::new();
    for _ in 0..3 {
        change(&mut state);
    }
    let sound = encode_checkpoint(&state, &here()).unwrap();
    let at = sound
        .chunks
        .iter()
        .position(|(name, _)| name.starts_with("history-"))
        .unwrap();
    for byte in 0..sound.chunks[at].1.len() {
        let mut chunks = sound.chunks.clone();
        let mut bytes = chunks[at].1.to_vec();
        bytes[byte] ^= 1;
        chunks[at].1 = bytes.into();
        let result = decode_checkpoint(&sound.meta, &chunks);
        assert!(result.is_err(), "byte {byte} was changed unnoticed");
    }
    let mut chunks = sound.chunks.clone();
    chunks.remove(at);
    let refused = decode_checkpoint(&sound.meta, &chunks).err().unwrap();
    assert!(
        refused
            .to_string()
            .contains("take the checkpoint of another node"),
        "{refused}"
    );
}

#[test]
fn the_history_of_an_older_checkpoint_begins_with_what_was_declared() {
    let state = full_state();
    let mut encoded = encode_checkpoint(&state, &here()).unwrap();
    encoded
        .chunks
        .retain(|(name, _)| !name.starts_with("history-"));
    let mut meta = log::CheckpointMeta::decode(&*encoded.meta).unwrap();
    meta.history = None;
    let (_, mut old) = decode_checkpoint(&meta.encode_to_vec(), &encoded.chunks).unwrap();
    assert_eq!(old.catalog, state.catalog);
    let first = old.history.first().unwrap();
    assert_eq!(first.revision, state.catalog.revision());
    let set = read_change_set(&first.change_set).unwrap();
    assert_eq!(set.origin, BEGINNING);
    assert!(
        !set.events
            .iter()
            .any(|e| matches!(e, Event::KeyPut(_) | Event::TokenPut(_)))
    );
    // It goes on from there, and is kept from now on.
    change(&mut old);
    let encoded = encode_checkpoint(&old, &here()).unwrap();
    let (_, back) = decode_checkpoint(&encoded.meta, &encoded.chunks).unwrap();
    assert!(back == old);
    assert_eq!(back.history.records().count(), 2);
}
