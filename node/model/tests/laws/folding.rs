//! At the series cap models fold first and principals last, at minute resolution before hours and days; by node,
//! routes fold and tenants stay.

use mode_envoy_model::batch::{Item, Outcome};
use mode_envoy_model::limits;
use mode_envoy_model::state::State;
use mode_envoy_model::usage::batch::{Register, SeriesRef, SpoolRange, UsageBatch};
use mode_envoy_model::usage::query::{Dimension, Interval, Query, ReportRow, run};
use mode_envoy_model::usage::series::{OTHER, SeriesKey};

use crate::usage_samples::{apply, row, series};

const KEYS: u32 = 30;

/// One call of each of so many series.
fn state_with(count: u32, name: impl Fn(u32) -> SeriesKey) -> State {
    let mut state = State::new();
    let register = Register {
        node: 1,
        follows: 0,
        spools: vec![(0, [0; 16])],
    };
    apply(&mut state, 1, 0, Item::Register(register));
    let all: Vec<u32> = (0..count).collect();
    for (numbers, seq) in all.chunks(limits::BATCH_ROWS).zip(1..) {
        let batch = UsageBatch {
            node: 1,
            incarnation: 1,
            seq,
            ranges: vec![SpoolRange {
                worker: 0,
                uuid: [0; 16],
                from: seq,
                to: seq + 1,
            }],
            series: numbers.iter().map(|n| SeriesRef::New(name(*n))).collect(),
            rows: (0..).zip(numbers).map(|(at, _)| row(0, at, 1)).collect(),
            uses: Vec::new(),
            asks: Vec::new(),
        };
        assert_eq!(
            apply(&mut state, 2, 0, Item::Usage(batch)),
            Outcome::Counted
        );
    }
    state
}

fn ask(state: &State, minutes: u32, group_by: &[Dimension]) -> Vec<ReportRow> {
    let query = Query {
        from_minute: 0,
        to_minute: minutes,
        interval: Interval::Total,
        group_by: group_by.to_vec(),
        filter: Vec::new(),
    };
    run(&state.usage.snapshot(), &query, 0)
        .expect("answerable")
        .rows
}

#[test]
fn at_the_cap_minutes_lose_models_but_no_key_loses_a_call() {
    let count = 24_000;
    // Models in turn of 30 keys.
    let state = state_with(count, |n| {
        series(&format!("k{}", n % KEYS), &format!("m{}", n / KEYS))
    });
    assert!(state.usage.series.live() <= limits::MINUTE_SERIES * 9 / 8 + KEYS);

    for minutes in [5, 60] {
        let keys = ask(&state, minutes, &[Dimension::Key]);
        assert_eq!(keys.len(), KEYS as usize);
        assert!(
            keys.iter()
                .all(|row| row.counters.calls == u64::from(count / KEYS)),
            "{minutes}"
        );
        assert_eq!(keys[0].folded, minutes == 5);
    }
    // The first minutes are asked of minute cells, which are folded; the hour still knows every model.
    let models = |minutes| ask(&state, minutes, &[Dimension::UpstreamModel]);
    let folded = models(5)
        .into_iter()
        .find(|row| row.dimensions == [OTHER])
        .expect("some is folded");
    assert!(folded.folded && folded.counters.calls > 0);
    assert_eq!(models(60).len(), (count / KEYS) as usize);
    assert!(models(60).iter().all(|row| !row.folded));

    let restored = State::from_parts(state.parts()).expect("sound");
    assert!(restored == state);
}

#[test]
fn at_the_cap_of_nodes_routes_fold_and_no_tenant_loses_a_call() {
    const TENANTS: u32 = 20;
    let count = limits::NODE_SERIES + 2_000;
    let state = state_with(count, |n| SeriesKey {
        tenant: format!("t{}", n % TENANTS).into(),
        route: format!("r{}", n / TENANTS).into(),
        ..series("k", "m")
    });
    let nodes = &state.usage.nodes.series;
    assert_eq!(nodes.len(), (limits::NODE_SERIES + TENANTS) as usize);

    let tenants = ask(&state, 60, &[Dimension::Node, Dimension::Tenant]);
    assert_eq!(tenants.len(), TENANTS as usize);
    let whole = |row: &ReportRow| row.folded && row.counters.calls == u64::from(count / TENANTS);
    assert!(tenants.iter().all(whole), "{tenants:?}");
    let routes = ask(&state, 60, &[Dimension::Node, Dimension::Route]);
    let folded: Vec<_> = routes.iter().filter(|row| row.folded).collect();
    assert_eq!(folded.len(), 1);
    assert_eq!(folded[0].dimensions, ["1", OTHER]);
    assert_eq!(folded[0].counters.calls, 2_000);
    // The facts still know every route.
    let routes = ask(&state, 60, &[Dimension::Route]);
    assert_eq!(routes.len(), (count / TENANTS) as usize);
    assert!(routes.iter().all(|row| !row.folded));

    let restored = State::from_parts(state.parts()).expect("sound");
    assert!(restored == state);
}
