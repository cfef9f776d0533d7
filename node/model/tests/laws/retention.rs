//! What is kept, and for how long; where a row counts that comes late or early.

use mode_envoy_model::batch::{Batch, Item, Outcome};
use mode_envoy_model::state::State;
use mode_envoy_model::usage::batch::{Register, SeriesRef, SpoolRange, UsageBatch};
use mode_envoy_model::usage::cells::{Bucket, Resolution};

use crate::usage_samples::{apply, counted, one_call, row, series};

const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;

fn buckets(state: &State) -> [Vec<u32>; 3] {
    Resolution::ALL.map(|resolution| {
        state
            .usage
            .cells
            .buckets(resolution)
            .keys()
            .copied()
            .collect()
    })
}

/// How many minutes and hours there are by node, and how many series.
fn by_node(state: &State) -> [usize; 3] {
    let nodes = &state.usage.nodes;
    let [minutes, hours] = [Resolution::Minute, Resolution::Hour]
        .map(|resolution| nodes.cells.buckets(resolution).len());
    [minutes, hours, nodes.series.len()]
}

/// Counts one call of a series at a wall clock.
fn count(state: &mut State, wall_ms: u64, key: &str, minute: u32) {
    let stream = state.usage.streams.get(1).expect("registered");
    let at = stream.spools[&0].acked_to;
    let batch = UsageBatch {
        node: 1,
        incarnation: stream.incarnation,
        seq: stream.next_seq,
        ranges: vec![SpoolRange {
            worker: 0,
            uuid: [0; 16],
            from: at,
            to: at + 1,
        }],
        series: vec![SeriesRef::New(series(key, "m"))],
        rows: vec![one_call(minute)],
        uses: Vec::new(),
        asks: Vec::new(),
    };
    assert_eq!(
        apply(state, 9, wall_ms, Item::Usage(batch)),
        Outcome::Counted
    );
}

#[test]
fn a_row_counts_within_what_is_kept_and_not_ahead_of_the_clock() {
    let wall = 10 * DAY_MS + 59_000;
    let minute = 10 * 1_440;
    let mut state = State::new();
    let register = Register {
        node: 1,
        follows: 0,
        spools: vec![(0, [0; 16])],
    };
    apply(&mut state, 1, wall, Item::Register(register));
    for claimed in [0, minute - 2_881, minute, minute + 1, u32::MAX] {
        count(&mut state, wall, "k", claimed);
    }
    assert_eq!(buckets(&state)[0], [minute - 2_880, minute, minute + 1]);
    count(&mut state, wall + 1_000, "k", minute + 7);
    assert_eq!(buckets(&state)[0], [minute, minute + 1]);
}

#[test]
fn cells_go_when_the_clock_passes_the_edge_of_their_bucket() {
    let mut state = counted(&[one_call(0)]);
    let mut at = |wall_ms| {
        state.apply(
            9,
            &Batch {
                wall_ms,
                ..Batch::default()
            },
        );
        buckets(&state).map(|buckets| buckets.len())
    };
    assert_eq!(at(48 * HOUR_MS + 59_999), [1, 1, 1]);
    assert_eq!(at(48 * HOUR_MS + 60_000), [0, 1, 1]);
    assert_eq!(at(35 * DAY_MS + HOUR_MS - 1), [0, 1, 1]);
    assert_eq!(at(35 * DAY_MS + HOUR_MS), [0, 0, 1]);
    assert_eq!(at(401 * DAY_MS - 1), [0, 0, 1]);
    assert_eq!(at(401 * DAY_MS), [0, 0, 0]);
}

#[test]
fn cells_of_nodes_go_as_those_of_the_facts_and_the_last_number_stays() {
    let mut state = counted(&[one_call(0), one_call(59)]);
    let mut at = |wall_ms| {
        let batch = Batch {
            wall_ms,
            ..Batch::default()
        };
        state.apply(9, &batch);
        by_node(&state)
    };
    // The second row lies ahead of the clock and counts in minute 0.
    assert_eq!(at(48 * HOUR_MS + 59_999), [1, 1, 1]);
    assert_eq!(at(48 * HOUR_MS + 60_000), [0, 1, 1]);
    assert_eq!(at(35 * DAY_MS + HOUR_MS - 1), [0, 1, 1]);
    assert_eq!(at(35 * DAY_MS + HOUR_MS), [0, 0, 1]);
    assert!(state.usage.nodes.cells.buckets(Resolution::Day).is_empty());
    let restored = State::from_parts(state.parts()).expect("sound");
    assert_eq!(restored, state);
}

#[test]
fn a_series_without_cells_is_forgotten_and_its_number_is_not_used_again() {
    let mut state = counted(&[one_call(0)]);
    count(&mut state, 0, "k2", 0);
    let far = 500 * DAY_MS;
    state.apply(
        9,
        &Batch {
            wall_ms: far,
            ..Batch::default()
        },
    );
    let numbers = |state: &State| {
        state
            .usage
            .series
            .iter()
            .map(|(id, _)| id)
            .collect::<Vec<_>>()
    };
    assert_eq!(numbers(&state), [1]); // the largest number stays, so that the next one is new
    assert_eq!(state.usage.series.live(), 0);

    let restored = State::from_parts(state.parts()).expect("sound");
    assert_eq!(restored, state);
    count(&mut state, far, "k3", 0);
    assert_eq!(numbers(&state), [2]);
}

#[test]
fn a_clock_that_goes_back_changes_nothing() {
    let mut state = counted(&[one_call(0)]);
    state.apply(
        9,
        &Batch {
            wall_ms: DAY_MS,
            lease_clock_ms: 7,
            items: Vec::new(),
        },
    );
    let before = state.clone();
    state.apply(
        10,
        &Batch {
            wall_ms: 5,
            lease_clock_ms: 6,
            items: Vec::new(),
        },
    );
    assert_eq!(state, before);
}

#[test]
fn the_end_of_time_is_survived() {
    let mut state = counted(&[one_call(0)]);
    state.apply(
        9,
        &Batch {
            wall_ms: u64::MAX,
            lease_clock_ms: u64::MAX,
            items: Vec::new(),
        },
    );
    assert_eq!(buckets(&state), [vec![], vec![], vec![]]);
    count(&mut state, u64::MAX, "k", u32::MAX);
    assert_eq!(buckets(&state)[0], [u32::MAX]);
}

#[test]
fn a_snapshot_does_not_see_what_comes_after() {
    let mut state = counted(&[one_call(0)]);
    let snapshot = state.usage.snapshot();
    count(&mut state, 0, "k", 0);
    let calls = |cells: &mode_envoy_model::usage::cells::Cells| {
        cells.buckets(Resolution::Day)[&0].chunk()[&0]
            .counters
            .calls
    };
    assert_eq!((calls(&snapshot.cells), calls(&state.usage.cells)), (1, 2));
}

#[test]
fn a_series_that_only_its_number_keeps_is_still_there_for_the_batch_that_names_it() {
    let mut state = counted(&[one_call(0)]);
    // Past every retention: no cell is left, and the entry stays for its number alone.
    let wall_ms = 401 * DAY_MS;
    let minute = u32::try_from(wall_ms / 60_000).unwrap();
    let later = Batch {
        wall_ms,
        ..Batch::default()
    };
    state.apply(3, &later);
    assert_eq!(buckets(&state), [vec![], vec![], vec![]]);

    let batch = UsageBatch {
        node: 1,
        incarnation: 1,
        seq: 2,
        ranges: vec![SpoolRange {
            worker: 0,
            uuid: [0; 16],
            from: 2,
            to: 4,
        }],
        series: vec![SeriesRef::New(series("new", "m")), SeriesRef::Known(0)],
        rows: vec![row(minute, 0, 1), row(minute, 1, 5)],
        uses: Vec::new(),
        asks: Vec::new(),
    };
    let outcome = apply(&mut state, 4, wall_ms, Item::Usage(batch));
    assert_eq!(outcome, Outcome::Counted);
    assert_eq!(state.usage.series.id_of(&series("k", "m")), Some(0));
    let again = State::from_parts(state.parts()).expect("a state is its checkpoint");
    assert_eq!(again, state);
}

/// How many buckets of facts are packed, and of nodes.
fn packed(state: &State) -> [usize; 5] {
    let count = |cells: &mode_envoy_model::usage::cells::Cells, resolution| {
        let buckets = cells.buckets(resolution).values();
        buckets
            .filter(|bucket| matches!(bucket, Bucket::Packed(_)))
            .count()
    };
    let [minutes, hours, days] =
        Resolution::ALL.map(|resolution| count(&state.usage.cells, resolution));
    let nodes = &state.usage.nodes.cells;
    let of_nodes =
        [Resolution::Minute, Resolution::Hour].map(|resolution| count(nodes, resolution));
    [minutes, hours, days, of_nodes[0], of_nodes[1]]
}

#[test]
fn a_bucket_is_packed_when_it_is_over_and_a_late_row_opens_it_until_the_next_edge() {
    let mut state = counted(&[one_call(0)]);
    let at = |state: &mut State, minute: u64| {
        let batch = Batch {
            wall_ms: minute * 60_000,
            ..Batch::default()
        };
        state.apply(9, &batch);
        packed(state)
    };
    assert_eq!(at(&mut state, 5), [0, 0, 0, 0, 0]);
    assert_eq!(at(&mut state, 6), [1, 0, 0, 1, 0]);
    assert_eq!(at(&mut state, 60), [1, 0, 0, 1, 0]);
    assert_eq!(at(&mut state, 119), [1, 0, 0, 1, 0]);
    assert_eq!(at(&mut state, 120), [1, 1, 0, 1, 1]);
    assert_eq!(at(&mut state, 25 * 60), [1, 1, 1, 1, 1]);

    count(&mut state, 25 * 60 * 60_000 + 1, "k2", 0);
    assert_eq!(packed(&state), [0, 0, 0, 0, 0]);
    let day = state.usage.cells.buckets(Resolution::Day)[&0].chunk();
    assert_eq!(day.values().map(|cell| cell.counters.calls).sum::<u64>(), 2);
    assert_eq!(at(&mut state, 25 * 60 + 1), [1, 0, 0, 1, 0]);
    assert_eq!(at(&mut state, 26 * 60), [1, 1, 1, 1, 1]);
    assert_eq!(State::from_parts(state.parts()).as_ref(), Ok(&state));
}
