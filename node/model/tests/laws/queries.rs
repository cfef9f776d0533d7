//! Law: the answer to a query equals a full scan of the rows that were ever counted, or the query is refused
//! because cells that it needs are no longer kept.

use std::collections::BTreeMap;

use mode_envoy_model::batch::{Item, Outcome};
use mode_envoy_model::state::State;
use mode_envoy_model::usage::batch::{Register, SeriesRef, SpoolRange, UsageBatch, UsageRow};
use mode_envoy_model::usage::counters::Counters;
use mode_envoy_model::usage::histogram::Histogram;
use mode_envoy_model::usage::query::{
    Dimension, Interval, Query, QueryError, Report, ReportRow, run,
};
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

/// The rows that were counted, and the state that counted them.
#[derive(Debug)]
struct World {
    state: State,
    rows: Vec<(SeriesKey, UsageRow)>,
}

impl World {
    fn wall_minute(&self) -> u32 {
        u32::try_from(self.state.wall_ms / 60_000).expect("a minute")
    }
}

/// Time that passes, then rows that arrive: age in minutes, series, numbers.
type Burst = (u32, Vec<(u32, SeriesKey, Counters, Histogram)>);

fn bursts() -> impl Strategy<Value = Vec<Burst>> {
    let advance = prop_oneof![8 => 0_u32..200, 4 => 0_u32..3_000, 1 => 0_u32..90_000];
    let age = prop_oneof![0_u32..130, 0_u32..=2_880];
    let row = (age, arb::series(), arb::counters(), arb::histogram(3));
    vec((advance, vec(row, 0..16)), 1..20)
}

fn world(bursts: &[Burst]) -> World {
    let mut world = World {
        state: State::new(),
        rows: Vec::new(),
    };
    let mut minute = START;
    let wall_ms = |minute: u32| u64::from(minute) * 60_000;
    let register = Item::Register(Register {
        node: 1,
        follows: 0,
        spools: vec![(0, [0; 16])],
    });
    apply(&mut world.state, 1, wall_ms(minute), register);
    for ((advance, burst), seq) in bursts.iter().zip(1..) {
        minute += advance;
        let rows = burst.iter().map(|(age, series, counters, latency)| {
            let (latency, ttft) = (latency.clone(), latency.clone());
            let row = UsageRow {
                minute: minute - age,
                series: 0,
                counters: *counters,
                latency,
                ttft,
            };
            (series.clone(), row)
        });
        let rows: Vec<_> = rows.collect();
        let batch = Item::Usage(batch_of(seq, &rows));
        let outcome = apply(&mut world.state, 2, wall_ms(minute), batch);
        assert_eq!(outcome, Outcome::Counted);
        world.rows.extend(rows);
    }
    world
}

fn batch_of(seq: u64, rows: &[(SeriesKey, UsageRow)]) -> UsageBatch {
    let series = rows
        .iter()
        .map(|(series, _)| SeriesRef::New(series.clone()));
    let numbered = (0..).zip(rows).map(|(series, (_, row))| UsageRow {
        series,
        ..row.clone()
    });
    UsageBatch {
        node: 1,
        incarnation: 1,
        seq,
        ranges: vec![SpoolRange {
            worker: 0,
            uuid: [0; 16],
            from: seq,
            to: seq + 1,
        }],
        series: series.collect(),
        rows: numbered.collect(),
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
    ];
    let filter = vec(
        filter.prop_map(|(dimension, value)| (dimension, value.to_owned())),
        0..3,
    );
    let group_by = subsequence(Dimension::ALL.to_vec(), 0..4).prop_shuffle();
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
            Some(row) if !world.rows.is_empty() => row.get(&world.rows).1.minute,
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

/// Whether every minute of the range is in some bucket that is kept and lies in the range.
fn answerable(query: &Query, wall: u32) -> bool {
    let (from, to) = (query.from_minute, query.to_minute);
    (from..to).all(|minute| {
        let whole = |unit: u32| minute / unit * unit >= from && (minute / unit + 1) * unit <= to;
        if query.interval >= Interval::Day && whole(DAY) {
            minute / DAY + 400 >= wall / DAY
        } else if query.interval >= Interval::Hour && whole(HOUR) {
            minute / HOUR + 840 >= wall / HOUR
        } else {
            minute + 2_880 >= wall
        }
    })
}

fn matches(query: &Query, series: &SeriesKey) -> bool {
    query.filter.iter().all(|(dimension, _)| {
        let mut values = query.filter.iter().filter(|(d, _)| d == dimension);
        values.any(|(_, value)| value == dimension.value(series))
    })
}

/// The answer, from the rows themselves.
fn scan(world: &World, query: &Query) -> Report {
    let (from, to) = (query.from_minute, query.to_minute);
    let hours = (from / HOUR * HOUR, to.div_ceil(HOUR) * HOUR);
    let place = |series: &SeriesKey, minute| {
        let values = query
            .group_by
            .iter()
            .map(|d| d.value(series).to_owned())
            .collect::<Vec<_>>();
        (bucket(query.interval, minute), values)
    };
    let mut sums: BTreeMap<_, (Counters, Histogram, Histogram)> = BTreeMap::new();
    let chosen = || {
        world
            .rows
            .iter()
            .filter(|(series, _)| matches(query, series))
    };
    for (series, row) in chosen().filter(|(_, row)| (from..to).contains(&row.minute)) {
        sums.entry(place(series, row.minute))
            .or_default()
            .0
            .add(&row.counters);
    }
    let in_hours = |row: &UsageRow| (hours.0..hours.1).contains(&row.minute);
    for (series, row) in chosen().filter(|(_, row)| in_hours(row)) {
        if let Some(sum) = sums.get_mut(&place(series, row.minute)) {
            sum.1.merge(&row.latency);
            sum.2.merge(&row.ttft);
        }
    }
    let percentiles = query.interval != Interval::Minute;
    let rows = sums.into_iter().map(
        |((bucket_start_minute, dimensions), (counters, latency, ttft))| ReportRow {
            bucket_start_minute,
            dimensions,
            counters,
            latency_p50_us: latency.quantile(500).filter(|_| percentiles),
            latency_p95_us: latency.quantile(950).filter(|_| percentiles),
            latency_p99_us: latency.quantile(990).filter(|_| percentiles),
            ttft_p50_us: ttft.quantile(500).filter(|_| percentiles),
            folded: false,
        },
    );
    Report {
        from_minute: from,
        to_minute: to,
        rows: rows.collect(),
        percentiles_from: percentiles.then_some(hours.0),
        percentiles_to: percentiles.then_some(hours.1),
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
            match run(&snapshot, &query, world.state.wall_ms) {
                Ok(report) => {
                    prop_assert!(answerable(&query, world.wall_minute()), "{:?}", query);
                    prop_assert_eq!(report, scan(&world, &query), "{:?}", query);
                }
                Err(error) => {
                    let expected = matches!(error, QueryError::TooFine { .. } | QueryError::TooOld);
                    prop_assert!(expected, "{}", error);
                    prop_assert!(!answerable(&query, world.wall_minute()), "{:?}: {}", query, error);
                }
            }
        }
    }

    /// The interval that a refusal names works, once the range is on its edges.
    #[test]
    fn what_a_refusal_advises_works(back in 0_u32..600_000, length in 1_u32..5_000, interval in select(Interval::ALL.to_vec())) {
        let state = counted(&[one_call(0)]);
        let wall = 700 * DAY;
        let from_minute = wall - back;
        let to_minute = from_minute + length;
        let mut query = Query { from_minute, to_minute, interval, group_by: vec![], filter: vec![] };
        let answer = |query: &Query| run(&state.usage.snapshot(), query, u64::from(wall) * 60_000);
        if let Err(QueryError::TooFine { works, .. }) = answer(&query) {
            let unit = if works == Interval::Hour { HOUR } else { DAY };
            query.from_minute = from_minute / unit * unit;
            query.to_minute = to_minute.div_ceil(unit) * unit;
            query.interval = interval.max(works);
            prop_assert!(answer(&query).is_ok(), "{:?} {:?}", query, answer(&query));
        }
    }
}
