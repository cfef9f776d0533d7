//! One of everything goes there and back; what is not of this version is refused by name.

mod history;
mod ledger;
mod packed;
mod samples;

use std::sync::Arc;

use bytes::Bytes;
use mode_envoy_model::batch::{Batch, ChangeSet, Item, Outcome};
use mode_envoy_model::command::{Change, ChangeKind, Rejected, RejectedCode, Violation};
use mode_envoy_model::event::Event;
use mode_envoy_model::key::Key;
use mode_envoy_model::limit::Limit;
use mode_envoy_model::object::Kind;
use mode_envoy_model::provider::Provider;
use mode_envoy_model::state::State;
use mode_envoy_model::usage::batch::{UsageBatch, UsageRow};
use mode_envoy_proto::log::v1 as log;
use mode_envoy_proto::peer::v1 as peer;
use openraft::{CommittedLeaderId, EntryPayload, LogId, Membership, Vote};
use prost::Message;

use super::*;
use crate::proposal::Accepted;
use crate::types::{Entry, Member, Payload, StoredMembership};

use samples::{commands, events, register, request, usage_batch};

/// Writes to bytes and reads them back.
fn there_and_back<T>(value: &T) -> T
where
    T: Wire,
    T::Message: Message + Default,
{
    let bytes = value.to_wire().encode_to_vec();
    T::from_wire(T::Message::decode(&*bytes).unwrap()).unwrap()
}

#[test]
fn every_event_goes_there_and_back_within_a_batch() {
    let mut set = ChangeSet {
        base_revision: 7,
        actor: "root".into(),
        origin: "apply".into(),
        events: events(),
        request: Some(request()),
        encoded: Arc::default(),
    };
    // What is read keeps the bytes that it was read from.
    set.encoded = set.to_wire().encode_to_vec().into();
    assert_eq!(read_change_set(&set.encoded).unwrap(), set);
    let batch = Batch {
        lease_clock_ms: 1,
        wall_ms: 2,
        items: vec![
            Item::ChangeSet(set),
            Item::Register(register()),
            Item::Usage(usage_batch(9, true)),
        ],
    };
    assert_eq!(
        decode_batch(&batch.to_wire().encode_to_vec().into()).unwrap(),
        batch
    );
}

#[test]
fn every_proposal_goes_there_and_back() {
    let streams = [
        Proposal::Register(register()),
        Proposal::Usage(usage_batch(9, true)),
    ];
    for proposal in commands().into_iter().map(Proposal::Command).chain(streams) {
        assert_eq!(there_and_back(&proposal), proposal);
    }
}

#[test]
fn every_answer_goes_there_and_back() {
    let what = [
        ChangeKind::Created,
        ChangeKind::Updated,
        ChangeKind::Unchanged,
        ChangeKind::Deleted,
    ];
    let changes = Kind::ALL
        .map(Kind::singular)
        .into_iter()
        .chain(["key", "token", "node", "join_token", "secret"])
        .zip(what.into_iter().cycle());
    let changes = changes
        .map(|(kind, what)| Change {
            kind,
            tenant: Some("acme".into()),
            name: "n".into(),
            what,
        })
        .collect();
    let accepted = Accepted {
        revision: 3,
        index: 9,
        changes,
    };
    assert_eq!(there_and_back(&accepted), accepted);
    let codes = [
        RejectedCode::Invalid,
        RejectedCode::NotFound,
        RejectedCode::Exists,
        RejectedCode::InUse,
        RejectedCode::Limit,
        RejectedCode::Forbidden,
        RejectedCode::Conflict,
    ];
    for code in codes {
        let violation = Violation {
            path: "routes[a/b]".into(),
            problem: "no".into(),
        };
        let rejected = Rejected {
            code,
            violations: vec![violation],
        };
        assert_eq!(there_and_back(&rejected), rejected);
    }
    let outcomes = [
        Outcome::Changed { revision: 1 },
        Outcome::Stale { revision: 2 },
        Outcome::Registered { incarnation: 3 },
        Outcome::Counted,
        Outcome::Fenced,
        Outcome::ExpectSeq(4),
        Outcome::RangeMismatch,
        Outcome::Malformed,
        Outcome::Unbacked(5),
        Outcome::Closed,
        Outcome::Unfinished,
    ];
    for outcome in outcomes {
        assert_eq!(there_and_back(&outcome), outcome);
    }
}

#[test]
fn every_kind_of_entry_goes_there_and_back() {
    let log_id = LogId::new(CommittedLeaderId::new(3, 2), 11);
    let members = [
        (1, Member { peer: "a:1".into() }),
        (2, Member { peer: "b:2".into() }),
    ];
    let membership = Membership::new(
        vec![[1, 2].into()],
        std::collections::BTreeMap::from(members),
    );
    let payloads = [
        EntryPayload::Blank,
        EntryPayload::Normal(Payload(vec![1, 2, 3].into())),
        EntryPayload::Membership(membership),
    ];
    for payload in payloads {
        let entry = Entry { log_id, payload };
        let bytes = entry_to_wire(&entry).unwrap().encode_to_vec();
        let back = entry_from_wire(peer::Entry::decode(&*bytes).unwrap()).unwrap();
        assert_eq!(format!("{back:?}"), format!("{entry:?}"));
    }
    for vote in [Vote::new(3, 2), Vote::new_committed(3, 2)] {
        assert_eq!(decode_vote(&encode_vote(vote)).unwrap(), vote);
    }
    assert_eq!(decode_log_id(&encode_log_id(log_id)).unwrap(), log_id);
}

/// A state that holds one of everything.
fn full_state() -> State {
    let mut state = State::new();
    // Without the deletions, whatever was put stays.
    let puts = events().into_iter().filter(|event| {
        let name = format!("{event:?}");
        !["Deleted", "Revoked", "FormatRaised"]
            .iter()
            .any(|word| name.contains(word))
    });
    let puts = puts.collect();
    let set = ChangeSet {
        base_revision: 0,
        actor: "root".into(),
        origin: "apply".into(),
        events: puts,
        request: Some(request()),
        encoded: Arc::default(),
    };
    let items = vec![Item::ChangeSet(set), Item::Register(register())];
    state.apply(
        5,
        &Batch {
            lease_clock_ms: 8,
            wall_ms: 29_000_000 * 60_000,
            items,
        },
    );
    let items = vec![Item::Usage(usage_batch(5, false))];
    let outcomes = state.apply(
        6,
        &Batch {
            lease_clock_ms: 9,
            wall_ms: 29_000_000 * 60_000,
            items,
        },
    );
    assert_eq!(outcomes, [Outcome::Counted]);
    state
}

#[test]
fn a_checkpoint_gives_back_the_state() {
    for state in [State::new(), full_state(), packed_state()] {
        let log_id = LogId::new(CommittedLeaderId::new(3, 2), 6);
        let at = snapshot_meta(Some(log_id), StoredMembership::default());
        let encoded = encode_checkpoint(&state, &at).unwrap();
        let (found, back) = decode_checkpoint(&encoded.meta, &encoded.chunks).unwrap();
        assert_eq!(found, at);
        assert!(back == state);
    }
}

#[test]
fn a_packed_bucket_that_is_damaged_is_refused() {
    let state = packed_state();
    let encoded =
        encode_checkpoint(&state, &snapshot_meta(None, StoredMembership::default())).unwrap();
    let names: Vec<_> = encoded
        .chunks
        .iter()
        .map(|(name, _)| name.as_str())
        .collect();
    assert!(
        names.contains(&"packed-minute-0029000000")
            && names.contains(&"nodepacked-minute-0029000000"),
        "{names:?}"
    );
    for (at, (name, bytes)) in encoded.chunks.iter().enumerate() {
        if name.contains("packed") {
            let mut chunks = encoded.chunks.clone();
            chunks[at].1 = bytes.slice(..bytes.len() - 1);
            let error = decode_checkpoint(&encoded.meta, &chunks).unwrap_err();
            assert!(
                matches!(error, DecodeError::Protobuf { .. }),
                "{name}: {error}"
            );
            let mut message = log::PackedCellsChunk::decode(bytes.clone()).unwrap();
            message.cells.pop();
            chunks[at].1 = message.encode_to_vec().into();
            let error = decode_checkpoint(&encoded.meta, &chunks).unwrap_err();
            assert!(
                matches!(error, DecodeError::Contradiction { .. }),
                "{name}: {error}"
            );
        }
    }
}

/// Where the minutes of [`full_state`] are over.
fn packed_state() -> State {
    let mut state = full_state();
    let later = Batch {
        wall_ms: state.wall_ms + 10 * 60_000,
        ..Batch::default()
    };
    state.apply(7, &later);
    state
}

#[test]
fn chunks_that_hold_the_same_have_the_same_bytes() {
    let mut state = full_state();
    let at = snapshot_meta(None, StoredMembership::default());
    let before = encode_checkpoint(&state, &at).unwrap().chunks;
    // A new minute leaves the old one's chunk as it was.
    let mut later = usage_batch(5, false);
    (later.seq, later.ranges[0].from, later.ranges[0].to) = (2, 3, 4);
    later.rows[0].minute += 1;
    let items = vec![Item::Usage(later)];
    state.apply(
        7,
        &Batch {
            lease_clock_ms: 9,
            wall_ms: 29_000_002 * 60_000,
            items,
        },
    );
    let after = encode_checkpoint(&state, &at).unwrap().chunks;
    let kept: Vec<_> = before
        .iter()
        .filter(|chunk| after.contains(chunk))
        .collect();
    let names: Vec<_> = kept.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names,
        [
            "catalog-00000",
            "history-000000",
            "requests-00000",
            "series-00000",
            "cells-minute-0029000000",
            "nodeseries-00000",
            "nodecells-minute-0029000000"
        ]
    );
}

#[test]
fn a_checkpoint_written_before_usage_by_node_was_counted_is_read() {
    let state = full_state();
    let at = snapshot_meta(None, StoredMembership::default());
    let mut encoded = encode_checkpoint(&state, &at).unwrap();
    encoded.chunks.retain(|(name, _)| !name.starts_with("node"));
    let (_, old) = decode_checkpoint(&encoded.meta, &encoded.chunks).unwrap();
    assert_eq!(old.usage.cells, state.usage.cells);
    assert!(old.usage.nodes.series.is_empty());
    assert_eq!(old.usage.nodes.since, 29_000_040); // the next full hour
    // Where nothing is counted yet, a checkpoint of this version says so by an empty chunk.
    let empty = encode_checkpoint(&State::new(), &at).unwrap();
    let names: Vec<_> = empty.chunks.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["streams", "nodeseries-00000"]);
}

#[test]
fn what_is_unknown_or_broken_is_refused_by_name() {
    let unknown_event = log::Batch {
        items: vec![log::Item {
            kind: Some(log::item::Kind::ChangeSet(log::ChangeSet {
                events: vec![log::Event { kind: None }],
                ..log::ChangeSet::default()
            })),
        }],
        ..log::Batch::default()
    };
    let error = decode_batch(&unknown_event.encode_to_vec().into()).unwrap_err();
    assert_eq!(error, DecodeError::Missing { what: "Event.kind" });
    let error = decode_batch(&Bytes::from_static(&[0xff, 0xff])).unwrap_err();
    assert!(
        matches!(error, DecodeError::Protobuf { what: "Batch", .. }),
        "{error}"
    );
    let short = log::Key {
        hash: vec![1; 31],
        ..log::Key::default()
    };
    let error = Key::from_wire(short).unwrap_err();
    assert_eq!(
        error,
        DecodeError::Length {
            what: "Key.hash",
            expected: 32,
            got: 31
        }
    );
    let protocol = log::Provider {
        protocol: 99,
        ..log::Provider::default()
    };
    assert!(
        Provider::from_wire(protocol)
            .unwrap_err()
            .to_string()
            .contains("99")
    );
    let limit = log::Limit {
        unit: 99,
        ..log::Limit::default()
    };
    let error = Limit::from_wire(limit).unwrap_err().to_string();
    assert!(error.contains("Limit.unit has the value 99"), "{error}");
    let kind = log::event::Kind::LimitPut(log::NumberedLimit::default());
    let error = Event::from_wire(log::Event { kind: Some(kind) }).unwrap_err();
    let what = "NumberedLimit.id";
    assert_eq!(error, DecodeError::Missing { what });
    let error = read_append_request(peer::AppendEntriesRequest::default()).unwrap_err();
    assert!(
        error.to_string().starts_with("AppendEntriesRequest.ballot"),
        "{error}"
    );
}

#[test]
fn lists_beyond_the_limits_are_refused() {
    let many = log::UsageBatch {
        rows: vec![log::UsageRow::default(); mode_envoy_model::limits::BATCH_ROWS + 1],
        ..log::UsageBatch::default()
    };
    let error = UsageBatch::from_wire(many).unwrap_err();
    assert!(
        matches!(
            error,
            DecodeError::TooMany {
                what: "UsageBatch.rows",
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn a_histogram_that_claims_nonsense_is_refused() {
    let row = |bins: Vec<u32>, counts: Vec<u64>| log::UsageRow {
        counters: Some(log::Counters::default()),
        latency: Some(log::Histogram { bins, counts }),
        ..log::UsageRow::default()
    };
    for (bins, counts) in [
        (vec![1, 2], vec![1]),
        (vec![2, 1], vec![1, 1]),
        (vec![70_000], vec![1]),
        (vec![65_535], vec![1]),
        (vec![1], vec![0]),
    ] {
        assert!(
            UsageRow::from_wire(row(bins.clone(), counts)).is_err(),
            "{bins:?}"
        );
    }
}
