//! Small pieces of usage to build tests from.

use mode_envoy_model::batch::{Batch, Item, Outcome};
use mode_envoy_model::object::Name;
use mode_envoy_model::state::State;
use mode_envoy_model::usage::batch::{Register, SeriesRef, SpoolRange, UsageBatch, UsageRow};
use mode_envoy_model::usage::counters::Counters;
use mode_envoy_model::usage::histogram::Histogram;
use mode_envoy_model::usage::series::SeriesKey;

pub(crate) fn series(key: &str, model: &str) -> SeriesKey {
    let name = Name::from;
    SeriesKey {
        tenant: name("acme"),
        team: name(""),
        consumer: name("app"),
        key: name(key),
        route: name("openai.chat_completions"),
        api: name(""),
        model: name(model),
        provider: name("local"),
        upstream_model: name(model),
        status_class: 2,
        folded: false,
    }
}

pub(crate) fn row(minute: u32, series: u32, calls: u64) -> UsageRow {
    let counters = Counters {
        calls,
        ..Counters::default()
    };
    UsageRow {
        minute,
        series,
        counters,
        latency: Histogram::default(),
        ttft: Histogram::default(),
    }
}

/// A row that counts one call in a minute.
pub(crate) fn one_call(minute: u32) -> UsageRow {
    row(minute, 0, 1)
}

/// Applies usage items at a wall clock.
pub(crate) fn apply(state: &mut State, index: u64, wall_ms: u64, item: Item) -> Outcome {
    let batch = Batch {
        lease_clock_ms: 0,
        wall_ms,
        items: vec![item],
    };
    state.apply(index, &batch).remove(0)
}

/// A state that has counted some rows of one series, at wall clock zero.
pub(crate) fn counted(rows: &[UsageRow]) -> State {
    let mut state = State::new();
    let register = Register {
        node: 1,
        follows: 0,
        spools: vec![(0, [0; 16])],
    };
    apply(&mut state, 1, 0, Item::Register(register));
    let batch = UsageBatch {
        node: 1,
        incarnation: 1,
        seq: 1,
        ranges: vec![SpoolRange {
            worker: 0,
            uuid: [0; 16],
            from: 1,
            to: 2,
        }],
        series: vec![SeriesRef::New(series("k", "m"))],
        rows: rows.to_vec(),
        uses: Vec::new(),
        asks: Vec::new(),
    };
    assert_eq!(
        apply(&mut state, 2, 0, Item::Usage(batch)),
        Outcome::Counted
    );
    state
}
