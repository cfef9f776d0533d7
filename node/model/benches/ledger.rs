//! Limits: a batch of a thousand asks over ten thousand pools, an entry that rolls them all, and a node's look at one.
//!
//! Wall times of one machine; compare them within one run only.

use std::sync::Arc;

use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use mode_envoy_model::batch::{Batch, Item};
use mode_envoy_model::ledger::ask::{Ask, AskItem, PoolKey};
use mode_envoy_model::limit::{Dimension, Limit, Match, Mode, Per, Unit, Window};
use mode_envoy_model::state::State;
use mode_envoy_model::usage::batch::{Register, UsageBatch};

const POOLS: u64 = 10_000;
const ASKS: u64 = 1_000;
const NODES: u64 = 3;
const WALL: u64 = 29_000_000 * 60_000;

fn main() {
    divan::main();
}

fn pool(n: u64) -> PoolKey {
    PoolKey {
        limit: 1,
        value: format!("acme/key-{n:05}").into(),
    }
}

fn says(node: u64, seq: u64, asks: Vec<Ask>) -> Batch {
    let batch = UsageBatch {
        node,
        incarnation: node,
        seq,
        ranges: Vec::new(),
        series: Vec::new(),
        rows: Vec::new(),
        uses: Vec::new(),
        asks,
    };
    Batch {
        lease_clock_ms: 1_000,
        wall_ms: WALL,
        items: vec![Item::Usage(batch)],
    }
}

fn asks(pools: impl Iterator<Item = u64>) -> Vec<Ask> {
    pools
        .map(|n| Ask {
            items: vec![AskItem {
                pool: pool(n),
                need: 1,
                want: 50,
                demand: 10,
                typical: 1,
            }],
        })
        .collect()
}

/// Three nodes with a lease of every pool.
fn state() -> State {
    let mut state = State::new();
    let limit = Arc::new(Limit {
        name: "per-key".into(),
        tenant: None,
        matches: Match::default(),
        each: Some(Dimension::Key),
        unit: Unit::Requests,
        amount: 1_000_000,
        per: Per::Minute,
        window: Window::Calendar,
        mode: Mode::Strict,
        shadow: false,
    });
    state.ledger.set_limits([(1, &limit)].into_iter());
    let mut index = 0;
    let mut apply = |batch: &Batch| {
        index += 1;
        state.apply(index, batch);
    };
    for node in 1..=NODES {
        let register = Register {
            node,
            follows: 0,
            spools: Vec::new(),
        };
        apply(&Batch {
            lease_clock_ms: 1,
            wall_ms: WALL,
            items: vec![Item::Register(register)],
        });
    }
    for node in 1..=NODES {
        for seq in 1..=POOLS / ASKS {
            let from = (seq - 1) * ASKS;
            apply(&says(node, seq, asks(from..from + ASKS)));
        }
    }
    assert_eq!(state.ledger.pools().count() as u64, POOLS);
    state
}

/// One node asks for a thousand of ten thousand pools, each for itself.
#[divan::bench]
fn a_batch_of_asks(bencher: Bencher<'_, '_>) {
    let state = state();
    let batch = says(1, POOLS / ASKS + 1, asks((0..ASKS).map(|n| n * 7 % POOLS)));
    bencher
        .counter(ItemsCount::new(ASKS))
        .with_inputs(|| state.clone())
        .bench_values(|mut state| {
            black_box(state.apply(1_000, &batch));
            state
        });
}

/// The minute ends: every pool begins anew, and three nodes get their shares.
#[divan::bench]
fn a_window_rolls(bencher: Bencher<'_, '_>) {
    let state = state();
    let batch = Batch {
        lease_clock_ms: 2_000,
        wall_ms: WALL + 60_000,
        items: Vec::new(),
    };
    bencher
        .counter(ItemsCount::new(POOLS))
        .with_inputs(|| state.clone())
        .bench_values(|mut state| {
            black_box(state.apply(1_000, &batch));
            state
        });
}

/// What a node does for each pool that an entry touched.
#[divan::bench]
fn a_look_at_a_pool(bencher: Bencher<'_, '_>) {
    let (state, pool) = (state(), pool(4_321));
    bencher.bench(|| black_box(state.ledger.view(black_box(&pool), 2, 2)));
}
