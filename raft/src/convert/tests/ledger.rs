//! Limits go there and back: what nodes say, and the books in a checkpoint, which are refused when they do not hold together.

use mode_envoy_model::batch::{Evict, Final};
use mode_envoy_model::ledger::ask::{Ask, AskItem, LeaseUse, PoolKey};
use mode_envoy_model::limit::{Dimension, Limit, LimitId, Match, Mode, Per, Unit, Window};
use mode_envoy_model::usage::batch::Register;

use super::*;

const WALL: u64 = 29_000_000 * 60_000;

fn limits() -> Vec<(LimitId, Arc<Limit>)> {
    let limit = |each, per, window| {
        Arc::new(Limit {
            name: "l".into(),
            tenant: None,
            matches: Match::default(),
            each,
            unit: Unit::Requests,
            amount: 1_000,
            per,
            window,
            mode: Mode::Strict,
            shadow: false,
        })
    };
    vec![
        (1, limit(None, Per::Total, Window::Calendar)),
        (
            2,
            limit(Some(Dimension::Key), Per::Minute, Window::Calendar),
        ),
        (3, limit(None, Per::Second, Window::Bucket { burst: 500 })),
    ]
}

fn set_limits(state: &mut State) {
    let limits = limits();
    state
        .ledger
        .set_limits(limits.iter().map(|(id, limit)| (*id, limit)));
}

fn ask(need: u64) -> Ask {
    let item = |limit, value: &str| AskItem {
        pool: PoolKey {
            limit,
            value: value.into(),
        },
        need,
        want: 20,
        demand: 7,
        typical: 2,
    };
    Ask {
        items: vec![item(1, ""), item(2, "acme/k"), item(3, "")],
    }
}

fn says(seq: u64, uses: Vec<LeaseUse>, asks: Vec<Ask>) -> UsageBatch {
    UsageBatch {
        seq,
        ranges: Vec::new(),
        series: Vec::new(),
        rows: Vec::new(),
        uses,
        asks,
        ..usage_batch(1, false)
    }
}

fn apply(state: &mut State, index: u64, wall_ms: u64, item: Item) -> Outcome {
    let batch = Batch {
        lease_clock_ms: 100 * index,
        wall_ms,
        items: vec![item],
    };
    state.apply(index, &batch).remove(0)
}

/// Pools of each kind, a window that is over, an old life that has leases.
fn books() -> State {
    let mut state = State::new();
    set_limits(&mut state);
    apply(&mut state, 1, WALL, Item::Register(register()));
    let counted = [
        says(1, vec![], vec![ask(3), ask(1)]),
        says(
            2,
            vec![LeaseUse {
                lease: 1,
                spent: 2,
                returned: 1,
            }],
            vec![],
        ),
    ];
    for (index, batch) in (2..).zip(counted) {
        assert_eq!(
            apply(&mut state, index, WALL, Item::Usage(batch)),
            Outcome::Counted
        );
    }
    let again = Register {
        follows: 1,
        ..register()
    };
    apply(&mut state, 4, WALL + 70_000, Item::Register(again));
    assert!(state.ledger.over().count() == 1 && state.ledger.unfinished(2).count() == 1);
    state
}

#[test]
fn what_nodes_say_of_limits_goes_there_and_back() {
    let batch = says(
        1,
        vec![LeaseUse {
            lease: 4,
            spent: 5,
            returned: 6,
        }],
        vec![ask(1), Ask::default()],
    );
    assert_eq!(there_and_back(&batch), batch);
    let done = Final {
        node: 2,
        incarnation: 9,
        ends: vec![([1; 16], 7), ([2; 16], 1)],
    };
    let evict = Evict {
        node: 2,
        incarnation: 9,
    };
    for proposal in [
        Proposal::Usage(batch),
        Proposal::Final(done.clone()),
        Proposal::Evict(evict),
    ] {
        assert_eq!(there_and_back(&proposal), proposal);
    }
    for item in [Item::Final(done), Item::Evict(evict)] {
        assert_eq!(there_and_back(&item), item);
    }
}

#[test]
fn the_books_come_back_from_a_checkpoint_and_keep_their_bytes() {
    let state = books();
    let at = snapshot_meta(None, StoredMembership::default());
    let encoded = encode_checkpoint(&state, &at).unwrap();
    let names: Vec<_> = encoded
        .chunks
        .iter()
        .map(|(name, _)| name.as_str())
        .collect();
    for name in ["pools-00000", "windows-00000", "frozen-00000"] {
        assert!(names.contains(&name), "{names:?}");
    }
    let (_, mut back) = decode_checkpoint(&encoded.meta, &encoded.chunks).unwrap();
    set_limits(&mut back);
    assert!(back == state);
    let again = encode_checkpoint(&back, &at).unwrap();
    assert_eq!(again.chunks, encoded.chunks);
    assert_eq!(again.meta, encoded.meta);
}

#[test]
fn a_checkpoint_of_a_version_without_limits_is_read() {
    let state = full_state();
    let at = snapshot_meta(None, StoredMembership::default());
    let encoded = encode_checkpoint(&state, &at).unwrap();
    let mut meta = log::CheckpointMeta::decode(&*encoded.meta).unwrap();
    assert!(meta.ledger.take().is_some());
    let (_, back) = decode_checkpoint(&meta.encode_to_vec(), &encoded.chunks).unwrap();
    assert!(back == state);
}

#[test]
fn books_that_do_not_balance_are_refused() {
    let state = books();
    let at = snapshot_meta(None, StoredMembership::default());
    let encoded = encode_checkpoint(&state, &at).unwrap();
    let spoil = |name: &str, f: &dyn Fn(&[u8]) -> Vec<u8>| {
        let mut chunks = encoded.chunks.clone();
        let chunk = chunks
            .iter_mut()
            .find(|(n, _)| n.starts_with(name))
            .unwrap();
        chunk.1 = f(&chunk.1).into();
        decode_checkpoint(&encoded.meta, &chunks).unwrap_err()
    };
    let error = spoil("pools", &|bytes| {
        let mut chunk = log::PoolsChunk::decode(bytes).unwrap();
        chunk.pools[0].window.as_mut().unwrap().free += 1;
        chunk.encode_to_vec()
    });
    assert!(error.to_string().contains("do not balance"), "{error}");
    let error = spoil("windows", &|bytes| {
        let mut chunk = log::WindowsChunk::decode(bytes).unwrap();
        chunk.windows[0].window.as_mut().unwrap().leases[0].granted += 1;
        chunk.encode_to_vec()
    });
    assert!(error.to_string().contains("do not balance"), "{error}");
    let error = spoil("pools", &|bytes| {
        let mut chunk = log::PoolsChunk::decode(bytes).unwrap();
        chunk.pools[0].value = "v".repeat(2_000);
        chunk.encode_to_vec()
    });
    assert!(error.to_string().contains("`each`"), "{error}");
    let error = spoil("frozen", &|bytes| {
        let mut chunk = log::FrozenChunk::decode(bytes).unwrap();
        chunk.frozen[0].spools[0].pop();
        chunk.encode_to_vec()
    });
    assert!(matches!(error, DecodeError::Length { .. }), "{error}");
    let mut meta = log::CheckpointMeta::decode(&*encoded.meta).unwrap();
    meta.ledger = None;
    let error = decode_checkpoint(&meta.encode_to_vec(), &encoded.chunks).unwrap_err();
    assert!(error.to_string().contains("never given"), "{error}");
}

#[test]
fn lists_about_limits_beyond_their_bounds_are_refused() {
    let uses = vec![log::LeaseUse::default(); mode_envoy_model::limits::BATCH_USES + 1];
    let asks = vec![log::Ask::default(); mode_envoy_model::limits::BATCH_ASKS + 1];
    for (what, uses, asks) in [
        ("UsageBatch.uses", uses, vec![]),
        ("UsageBatch.asks", vec![], asks),
    ] {
        let message = log::UsageBatch {
            uses,
            asks,
            ..log::UsageBatch::default()
        };
        let error = UsageBatch::from_wire(message).unwrap_err();
        assert!(error.to_string().starts_with(what), "{error}");
    }
}
