//! Law: the answer to a query equals a full scan of the rows that were ever counted, or the query is refused
//! because cells that it needs are no longer kept.

use std::collections::BTreeMap;

use mode_envoy_model::batch::{Batch, Item, Outcome};
use mode_envoy_model::state::State;
use mode_envoy_model::usage::UsageSnapshot;
use mode_envoy_model::usage::batch::{Register, SeriesRef, SpoolRange, UsageBatch, UsageRow};
use mode_envoy_model::usage::cells::{Bucket, Resolution};
use mode_envoy_model::usage::counters::Counters;
use mode_envoy_model::usage::histogram::Histogram;
use mode_envoy_model::usage::query::{
    Dimension, Interval, Query, QueryError, Report, ReportRow, run, run_with,
};
use mode_envoy_model::usage::rollup::{RollUp, RollUpRow, RollUps, roll_up};
use mode_envoy_model::usage::series::SeriesKey;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use crate::arb;
use crate::usage_samples::{apply, counted, one_call};

const HOUR: u32 = 60;
const DAY: u32 = 1_440;
/// 2024-02-20T00:00Z, so that ranges meet a leap day.
const START: u32 = 19_773 * DAY;

/// So that their order by number is not the one by text.
const NODES: [u64; 3] = [1, 2, 10];

/// The rows that were counted, and the state that counted them.
#[derive(Debug)]
struct World {
    state: State,
    rows: Vec<Fact>,
}

/// A row, and what it is about.
#[derive(Clone, Debug)]
struct Fact {
    node: u64,
    series: SeriesKey,
    row: UsageRow,
}

impl Fact {
    fn value(&self, dimension: Dimension) -> String {
        match dimension {
            Dimension::Node => self.node.to_string(),
            other => other.value(&self.series).to_owned(),
        }
    }
}

impl World {
    fn wall_minute(&self) -> u32 {
        u32::try_from(self.state.wall_ms / 60_000).expect("a minute")
    }
}

/// Every roll-up there can be, through its bytes.
struct MadeNow<'a>(&'a UsageSnapshot);

impl RollUps for MadeNow<'_> {
    fn get(
        &self,
        resolution: Resolution,
        bucket: u32,
        content: &[u8; 32],
        dimension: Dimension,
    ) -> Option<RollUp> {
        let Some(Bucket::Packed(packed)) = self.0.cells.buckets(resolution).get(&bucket) else {
            panic!("{resolution:?} {bucket} is not packed");
        };
        assert_eq!(packed.hash(), content);
        let made = roll_up(packed, &self.0.series, dimension);
        let kept = RollUp::from_bytes(&made.to_bytes());
        assert_eq!(kept.as_ref(), Some(&made));
        kept
    }
}

/// Time that passes, then rows that arrive from a node: age in minutes, series, numbers.
type Burst = (u32, u64, Vec<(u32, SeriesKey, Counters, Histogram)>);

fn bursts() -> impl Strategy<Value = Vec<Burst>> {
    let advance = prop_oneof![8 => 0_u32..200, 4 => 0_u32..3_000, 1 => 0_u32..90_000];
    let age = prop_oneof![0_u32..130, 0_u32..=2_880];
    let row = (age, arb::series(), arb::counters(), arb::histogram(3));
    vec((advance, select(NODES.to_vec()), vec(row, 0..16)), 1..20)
}

fn world(bursts: &[Burst]) -> World {
    let mut world = World {
        state: State::new(),
        rows: Vec::new(),
    };
    let mut minute = START;
    let wall_ms = |minute: u32| u64::from(minute) * 60_000;
    for node in NODES {
        let register = Item::Register(Register {
            node,
            follows: 0,
            spools: vec![(0, [0; 16])],
        });
        apply(&mut world.state, node, wall_ms(minute), register);
    }
    let mut seqs = BTreeMap::new();
    for (advance, node, burst) in bursts {
        minute += advance;
        let facts = burst.iter().map(|(age, series, counters, latency)| Fact {
            node: *node,
            series: series.clone(),
            row: UsageRow {
                minute: minute - age,
                series: 0,
                counters: *counters,
                latency: latency.clone(),
                ttft: latency.clone(),
            },
        });
        let facts: Vec<_> = facts.collect();
        let seq = seqs.entry(*node).or_insert(0);
        *seq += 1;
        let batch = Item::Usage(batch_of(*node, *seq, &facts));
        let outcome = apply(&mut world.state, 20, wall_ms(minute), batch);
        assert_eq!(outcome, Outcome::Counted);
        world.rows.extend(facts);
    }
    world
}

fn batch_of(node: u64, seq: u64, facts: &[Fact]) -> UsageBatch {
    let series = facts.iter().map(|fact| SeriesRef::New(fact.series.clone()));
    let numbered = (0..).zip(facts).map(|(series, fact)| UsageRow {
        series,
        ..fact.row.clone()
    });
    UsageBatch {
        node,
        incarnation: node,
        seq,
        ranges: vec![SpoolRange {
            worker: 0,
            uuid: [0; 16],
            from: seq,
            to: seq + 1,
        }],
        series: series.collect(),
        rows: numbered.collect(),
        uses: Vec::new(),
        asks: Vec::new(),
    }
}

/// A query, its range relative to the wall clock: so many minutes before it, so long, snapped to so many minutes.
#[derive(Clone, Debug)]
struct Ask {
    /// Where the range begins: so many minutes before some row, or before the wall clock.
    row: Option<prop::sample::Index>,
    back: u32,
    length: u32,
    snap: u32,
    interval: Interval,
    group_by: Vec<Dimension>,
    filter: Vec<(Dimension, String)>,
}

fn ask() -> impl Strategy<Value = Ask> {
    let back =
        prop_oneof![4 => 0_u32..200, 2 => 0_u32..3_000, 1 => 0_u32..60_000, 1 => 0_u32..700_000];
    let length = prop_oneof![1_u32..200, 1_u32..4_000, 1_u32..60_000];
    let filter = prop_oneof![
        (
            select(vec![Dimension::Tenant, Dimension::Key, Dimension::Model]),
            select(vec!["a", "b", ""])
        ),
        (Just(Dimension::Status), select(vec!["2xx", "5xx", "1xx"])),
        (Just(Dimension::Route), select(vec!["a", "b", ""])),
        (Just(Dimension::Node), select(vec!["1", "10", "7"])),
    ];
    let filter = vec(
        filter.prop_map(|(dimension, value)| (dimension, value.to_owned())),
        0..3,
    );
    let by_node = Dimension::ALL.into_iter().filter(|d| d.is_by_node());
    let group_by = prop_oneof![
        subsequence(Dimension::ALL.to_vec(), 0..4).prop_shuffle(),
        subsequence(by_node.collect::<Vec<_>>(), 0..=4).prop_shuffle(),
    ];
    let row = proptest::option::weighted(0.7, any::<prop::sample::Index>());
    let range = (row, back, length, select(vec![1, HOUR, DAY]));
    (range, select(Interval::ALL.to_vec()), group_by, filter).prop_map(
        |((row, back, length, snap), interval, group_by, filter)| Ask {
            row,
            back,
            length,
            snap,
            interval,
            group_by,
            filter,
        },
    )
}

impl Ask {
    fn query(&self, world: &World) -> Query {
        let near = match self.row {
            Some(row) if !world.rows.is_empty() => row.get(&world.rows).row.minute,
            _ => world.wall_minute(),
        };
        let from = (near + 1).saturating_sub(self.back);
        Query {
            from_minute: from / self.snap * self.snap,
            to_minute: (from + self.length).div_ceil(self.snap) * self.snap,
            interval: self.interval,
            group_by: self.group_by.clone(),
            filter: self.filter.clone(),
        }
    }
}

/// First minute of the month, by counting the months from 1970.
fn month_start(minute: u32) -> u32 {
    let leap = |y: u32| (y.is_multiple_of(4) && !y.is_multiple_of(100)) || y.is_multiple_of(400);
    let (mut start, mut year, mut month) = (0, 1970, 0);
    loop {
        let days = match month {
            1 if leap(year) => 29,
            1 => 28,
            3 | 5 | 8 | 10 => 30,
            _ => 31,
        };
        if minute / DAY < start + days {
            return start * DAY;
        }
        start += days;
        month = (month + 1) % 12;
        year += u32::from(month == 0);
    }
}

fn bucket(interval: Interval, minute: u32) -> Option<u32> {
    match interval {
        Interval::Minute => Some(minute),
        Interval::Hour => Some(minute - minute % HOUR),
        Interval::Day => Some(minute - minute % DAY),
        Interval::Month => Some(month_start(minute)),
        Interval::Total => None,
    }
}

fn mentions(query: &Query, test: impl Fn(Dimension) -> bool) -> bool {
    let filtered = query.filter.iter().map(|(dimension, _)| *dimension);
    query.group_by.iter().copied().chain(filtered).any(test)
}

fn is_by_node(query: &Query) -> bool {
    mentions(query, |d| d == Dimension::Node)
}

fn is_within_nodes(query: &Query) -> bool {
    !mentions(query, |d| !d.is_by_node())
}

/// Whether every minute of the range is in some bucket that is kept and lies in the range, and the cells that know
/// the node know the other dimensions.
fn answerable(query: &Query, wall: u32) -> bool {
    let (from, to) = (query.from_minute, query.to_minute);
    if is_by_node(query) && !is_within_nodes(query) {
        return false;
    }
    (from..to).all(|minute| {
        let whole = |unit: u32| minute / unit * unit >= from && (minute / unit + 1) * unit <= to;
        if query.interval >= Interval::Day && whole(DAY) && !is_by_node(query) {
            minute / DAY + 400 >= wall / DAY
        } else if query.interval >= Interval::Hour && whole(HOUR) {
            minute / HOUR + 840 >= wall / HOUR
        } else {
            minute + 2_880 >= wall
        }
    })
}

fn matches(query: &Query, fact: &Fact) -> bool {
    query.filter.iter().all(|(dimension, _)| {
        let mut values = query.filter.iter().filter(|(d, _)| d == dimension);
        values.any(|(_, value)| *value == fact.value(*dimension))
    })
}

/// What percentiles cover: the minutes themselves, or whole hours.
fn covered(query: &Query) -> Option<(u32, u32)> {
    let (from, to) = (query.from_minute, query.to_minute);
    match query.interval {
        Interval::Minute => is_within_nodes(query).then_some((from, to)),
        _ => Some((from / HOUR * HOUR, to.div_ceil(HOUR) * HOUR)),
    }
}

/// The answer, from the rows themselves.
fn scan(world: &World, query: &Query) -> Report {
    let (from, to) = (query.from_minute, query.to_minute);
    let covered = covered(query);
    // Nodes sort by number: the shorter first.
    let place = |fact: &Fact| {
        let value = |d: &Dimension| {
            let value = fact.value(*d);
            let length = if *d == Dimension::Node {
                value.len()
            } else {
                0
            };
            (length, value)
        };
        let values = query.group_by.iter().map(value).collect::<Vec<_>>();
        (bucket(query.interval, fact.row.minute), values)
    };
    let mut sums: BTreeMap<_, (Counters, Histogram, Histogram)> = BTreeMap::new();
    let chosen = || world.rows.iter().filter(|fact| matches(query, fact));
    for fact in chosen().filter(|fact| (from..to).contains(&fact.row.minute)) {
        sums.entry(place(fact))
            .or_default()
            .0
            .add(&fact.row.counters);
    }
    let is_covered =
        |fact: &&Fact| covered.is_some_and(|(from, to)| (from..to).contains(&fact.row.minute));
    for fact in chosen().filter(is_covered) {
        if let Some(sum) = sums.get_mut(&place(fact)) {
            sum.1.merge(&fact.row.latency);
            sum.2.merge(&fact.row.ttft);
        }
    }
    let rows = sums.into_iter().map(
        |((bucket_start_minute, dimensions), (counters, latency, ttft))| ReportRow {
            bucket_start_minute,
            dimensions: dimensions.into_iter().map(|(_, value)| value).collect(),
            counters,
            latency_p50_us: latency.quantile(500),
            latency_p95_us: latency.quantile(950),
            latency_p99_us: latency.quantile(990),
            ttft_p50_us: ttft.quantile(500),
            folded: false,
        },
    );
    Report {
        from_minute: from,
        to_minute: to,
        rows: rows.collect(),
        percentiles_from: covered.map(|(from, _)| from),
        percentiles_to: covered.map(|(_, to)| to),
    }
}

/// Whether a refusal gives the right reason.
fn is_apt(error: &QueryError, query: &Query) -> bool {
    match error {
        QueryError::TooFine { works, .. } => !is_by_node(query) || *works == Interval::Hour,
        QueryError::TooOld => !is_by_node(query),
        QueryError::NodeTooOld { .. } => is_by_node(query),
        QueryError::NodeWith(other) => is_by_node(query) && !other.is_by_node(),
        _ => false,
    }
}

proptest! {
    #![proptest_config(arb::cases(384))]

    #[test]
    fn an_answer_equals_a_scan_of_all_rows(bursts in bursts(), asks in vec(ask(), 1..8)) {
        let world = world(&bursts);
        let snapshot = world.state.usage.snapshot();
        for ask in asks {
            let query = ask.query(&world);
            let answer = run(&snapshot, &query, world.state.wall_ms);
            let roll_ups = MadeNow(&snapshot);
            prop_assert_eq!(run_with(&snapshot, &query, world.state.wall_ms, &roll_ups), answer.clone());
            match answer {
                Ok(report) => {
                    prop_assert!(answerable(&query, world.wall_minute()), "{:?}", query);
                    prop_assert_eq!(report, scan(&world, &query), "{:?}", query);
                }
                Err(error) => {
                    prop_assert!(is_apt(&error, &query), "{}", error);
                    prop_assert!(!answerable(&query, world.wall_minute()), "{:?}: {}", query, error);
                }
            }
        }
    }

    /// Nodes are another way to cut the same calls.
    #[test]
    fn the_sum_over_all_nodes_is_the_answer_without_them(bursts in bursts(), asks in vec(ask(), 1..8)) {
        let world = world(&bursts);
        let snapshot = world.state.usage.snapshot();
        let answer = |query: &Query| run(&snapshot, query, world.state.wall_ms);
        for ask in asks {
            let mut query = ask.query(&world);
            query.group_by.retain(|d| d.is_by_node() && *d != Dimension::Node);
            query.filter.retain(|(d, _)| d.is_by_node() && *d != Dimension::Node);
            let without = answer(&query);
            query.group_by.push(Dimension::Node);
            let (Ok(without), Ok(with)) = (without, answer(&query)) else {
                continue;
            };
            let mut sums: BTreeMap<_, Counters> = BTreeMap::new();
            for mut row in with.rows {
                row.dimensions.pop();
                sums.entry((row.bucket_start_minute, row.dimensions)).or_default().add(&row.counters);
            }
            let expected = without.rows.into_iter();
            let expected = expected.map(|row| ((row.bucket_start_minute, row.dimensions), row.counters));
            prop_assert_eq!(sums, expected.collect::<BTreeMap<_, _>>());
        }
    }

    /// The interval that a refusal names works, once the range is on its edges.
    #[test]
    fn what_a_refusal_advises_works(
        back in 0_u32..600_000,
        length in 1_u32..5_000,
        interval in select(Interval::ALL.to_vec()),
        by_node in any::<bool>(),
    ) {
        let state = counted(&[one_call(0)]);
        let wall = 700 * DAY;
        let from_minute = wall - back;
        let to_minute = from_minute + length;
        let mut query = Query { from_minute, to_minute, interval, group_by: vec![], filter: vec![] };
        query.group_by.extend(by_node.then_some(Dimension::Node));
        let answer = |query: &Query| run(&state.usage.snapshot(), query, u64::from(wall) * 60_000);
        if let Err(QueryError::NodeTooOld { from }) = answer(&query) {
            prop_assert!(from.0 > from_minute || from.0 > from_minute - from_minute % HOUR);
            (query.from_minute, query.to_minute) = (from.0, from.0 + HOUR);
            query.interval = interval.max(Interval::Hour);
            prop_assert!(answer(&query).is_ok(), "{:?} {:?}", query, answer(&query));
        } else if let Err(QueryError::TooFine { works, .. }) = answer(&query) {
            let unit = if works == Interval::Hour { HOUR } else { DAY };
            query.from_minute = from_minute / unit * unit;
            query.to_minute = to_minute.div_ceil(unit) * unit;
            query.interval = interval.max(works);
            prop_assert!(answer(&query).is_ok(), "{:?} {:?}", query, answer(&query));
        }
    }
}

/// What is kept beside the state may be anybody's; at worst a row is missing.
#[test]
fn a_roll_up_that_belongs_elsewhere_breaks_nothing() {
    struct Alien;
    impl RollUps for Alien {
        fn get(&self, _: Resolution, _: u32, _: &[u8; 32], _: Dimension) -> Option<RollUp> {
            let rows = ["5xx", "nobody"].map(|value| RollUpRow {
                value: value.to_owned(),
                counters: Counters::default(),
                latency: Histogram::default(),
                ttft: Histogram::default(),
                folded: false,
            });
            Some(RollUp { rows: rows.into() })
        }
    }
    let mut state = counted(&[one_call(0)]);
    let wall_ms = 3 * 86_400_000;
    let later = Batch {
        wall_ms,
        ..Batch::default()
    };
    state.apply(9, &later);
    for (group_by, filter) in [
        (vec![], vec![(Dimension::Status, "5xx".to_owned())]),
        (vec![Dimension::Tenant], vec![]),
        (vec![], vec![]),
    ] {
        let query = Query {
            from_minute: 0,
            to_minute: DAY,
            interval: Interval::Day,
            group_by,
            filter,
        };
        let answer = run_with(&state.usage.snapshot(), &query, wall_ms, &Alien);
        let values = |row: &ReportRow| row.dimensions.concat();
        let named: Vec<_> = answer.expect("an answer").rows.iter().map(values).collect();
        assert!(named.iter().all(|name| name != "nobody"), "{named:?}");
    }
}
