//! What is answered with the projection is what the cells answer, whatever becomes of it.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use mode_envoy_model::batch::{Batch, Item, Outcome};
use mode_envoy_model::object::Name;
use mode_envoy_model::state::State;
use mode_envoy_model::usage::batch::{Register, SeriesRef, SpoolRange, UsageBatch, UsageRow};
use mode_envoy_model::usage::counters::Counters;
use mode_envoy_model::usage::histogram::Histogram;
use mode_envoy_model::usage::query::{self, Interval, Query, Report};
use mode_envoy_model::usage::series::SeriesKey;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::usage::record::Dims;

const HOUR_MS: u64 = 3_600_000;
/// Midnight, some day.
const START_MS: u64 = 20_000 * 24 * HOUR_MS;
const UUID: [u8; 16] = [7; 16];

/// A state that grows by an hour at a time.
struct World {
    state: State,
    index: u64,
    hours: u64,
}

// === impl World ===

impl World {
    fn new() -> Self {
        let mut world = Self {
            state: State::new(),
            index: 0,
            hours: 0,
        };
        let register = Register {
            node: 1,
            follows: 0,
            spools: vec![(0, UUID)],
        };
        world.apply(Item::Register(register));
        world
    }

    fn apply(&mut self, item: Item) -> Outcome {
        self.index += 1;
        let batch = Batch {
            lease_clock_ms: 0,
            wall_ms: START_MS + self.hours * HOUR_MS,
            items: vec![item],
        };
        self.state.apply(self.index, &batch).remove(0)
    }

    /// Calls of some series in the hour that is `ago` hours past.
    fn count(&mut self, ago: u64) {
        let minute = (START_MS + self.hours.saturating_sub(ago) * HOUR_MS) / 60_000;
        let numbers = 0..12_u32;
        let series = numbers.clone().map(|n| SeriesRef::New(series(n)));
        let row = |number: u32| UsageRow {
            minute: u32::try_from(minute).unwrap() + number,
            series: number,
            counters: Counters {
                calls: u64::from(number) + 1,
                output: self.hours,
                ..Counters::default()
            },
            latency: Histogram::from_bins(vec![(u16::try_from(number * 7).unwrap(), 2)]).unwrap(),
            ttft: Histogram::default(),
        };
        let seq = self.index;
        let batch = UsageBatch {
            node: 1,
            incarnation: 1,
            seq,
            ranges: vec![SpoolRange {
                worker: 0,
                uuid: UUID,
                from: seq,
                to: seq + 1,
            }],
            series: series.collect(),
            rows: numbers.map(row).collect(),
            uses: Vec::new(),
            asks: Vec::new(),
        };
        assert_eq!(self.apply(Item::Usage(batch)), Outcome::Counted);
    }

    fn pass_hours(&mut self, hours: u64) {
        for _ in 0..hours {
            self.hours += 1;
            self.count(0);
        }
    }

    fn view(&self) -> View {
        View {
            snapshot: self.state.usage.snapshot(),
            applied: self.index,
            wall_ms: self.state.wall_ms,
        }
    }
}

fn series(number: u32) -> SeriesKey {
    let name = |prefix: &str, of: u32| Name::from(format!("{prefix}{}", number % of));
    let dims = Dims {
        tenant: name("t", 2),
        key: name("k", 12),
        model: name("m", 3),
        ..Dims::empty()
    };
    dims.into_series(if number.is_multiple_of(5) { 5 } else { 2 })
}

fn questions(world: &World) -> Vec<Query> {
    let to_minute = u32::try_from((START_MS + world.hours * HOUR_MS) / 60_000).unwrap() / 60 * 60;
    let from_minute = to_minute - 30 * 60;
    let facts = Dimension::ALL.into_iter().filter(|d| *d != Dimension::Node);
    let groups = facts.map(|dimension| vec![dimension]).chain([Vec::new()]);
    groups
        .flat_map(|group_by| {
            [Interval::Hour, Interval::Day, Interval::Total].map(|interval| Query {
                from_minute,
                to_minute,
                interval,
                group_by: group_by.clone(),
                filter: Vec::new(),
            })
        })
        .collect()
}

fn answers(world: &World, sums: Option<&Sums>) -> Vec<Report> {
    let (snapshot, wall_ms) = (world.state.usage.snapshot(), world.state.wall_ms);
    let answer = |query| match sums.map(Sums::ask) {
        Some(asked) => query::run_with(&snapshot, &query, wall_ms, &asked),
        None => query::run(&snapshot, &query, wall_ms),
    };
    questions(world)
        .into_iter()
        .map(|query| answer(query).unwrap())
        .collect()
}

fn open(dir: &Path) -> Sums {
    let sums = Sums::open(ProjectionOptions::new(dir, [1; 16], 1)).unwrap();
    // Returns when it is opened and checked.
    sums.expire(Resolution::Minute, 0).unwrap();
    sums
}

type Shared = Arc<Mutex<World>>;

fn lock(world: &Shared) -> std::sync::MutexGuard<'_, World> {
    world.lock().unwrap_or_else(PoisonError::into_inner)
}

fn filler(sums: &Sums, world: &Shared) -> Filler<impl Fn() -> View + use<>> {
    let world = Arc::clone(world);
    Filler::new(sums.clone(), move || lock(&world).view())
}

fn world() -> Shared {
    let mut world = World::new();
    world.pass_hours(60);
    Arc::new(Mutex::new(world))
}

#[tokio::test]
async fn every_question_by_one_dimension_is_answered_as_from_the_cells() {
    let (dir, world, stop) = (
        tempfile::tempdir().unwrap(),
        world(),
        CancellationToken::new(),
    );
    let sums = open(dir.path());
    let expected = answers(&lock(&world), None);
    assert_eq!(
        answers(&lock(&world), Some(&sums)),
        expected,
        "while it is empty"
    );
    let mut filler = filler(&sums, &world);
    filler.pass(&stop).await.unwrap();
    let values = sums.stats().values;
    filler.pass(&stop).await.unwrap();
    assert_eq!(sums.stats().values, values, "nothing is left to sum");
    // 58 hours and 2 days are over for long enough, by ten dimensions each.
    assert!((580..=620).contains(&values), "{values}");
    assert_eq!(answers(&lock(&world), Some(&sums)), expected);
    drop((filler, sums));
    let sums = open(dir.path());
    assert_eq!(sums.stats().values, values);
    assert_eq!(
        answers(&lock(&world), Some(&sums)),
        expected,
        "after a restart"
    );
}

#[tokio::test]
async fn a_sum_that_is_there_is_what_is_read() {
    let (dir, world) = (tempfile::tempdir().unwrap(), world());
    let sums = open(dir.path());
    let world = lock(&world);
    let buckets = world.state.usage.cells.buckets(Resolution::Hour);
    for (&bucket, packed) in buckets {
        let mode_envoy_model::usage::cells::Bucket::Packed(packed) = packed else {
            continue;
        };
        let which = |dimension| Which {
            resolution: Resolution::Hour,
            bucket,
            dimension,
        };
        sums.save(
            packed.hash(),
            &[(which(Dimension::Model), RollUp::default())],
            1,
        )
        .unwrap();
    }
    // Sums that tell of nothing: what they answer is missing, so they were read, and for no other question.
    let (from_cells, from_sums) = (answers(&world, None), answers(&world, Some(&sums)));
    let differ = from_cells.iter().zip(&from_sums).zip(questions(&world));
    for ((cells, sums), query) in differ {
        let by_model = query.group_by == [Dimension::Model];
        let by_hour = query.interval == Interval::Hour;
        assert!(by_model || cells == sums, "{query:?}");
        assert!(!(by_model && by_hour) || cells != sums, "{query:?}");
    }
}

#[tokio::test]
async fn a_late_row_makes_an_old_sum_unused_until_it_is_summed_again() {
    let (dir, world, stop) = (
        tempfile::tempdir().unwrap(),
        world(),
        CancellationToken::new(),
    );
    let sums = open(dir.path());
    let mut filler = filler(&sums, &world);
    filler.pass(&stop).await.unwrap();
    let before = answers(&lock(&world), None);
    lock(&world).count(20);
    // At the next edge of an hour the bucket is packed again, with another content.
    lock(&world).pass_hours(2);
    let expected = answers(&lock(&world), None);
    assert_ne!(before, expected);
    assert_eq!(answers(&lock(&world), Some(&sums)), expected);
    filler.pass(&stop).await.unwrap();
    assert_eq!(answers(&lock(&world), Some(&sums)), expected);
}

#[tokio::test]
async fn deleted_while_it_is_used_it_is_filled_again() {
    let (dir, world, stop) = (
        tempfile::tempdir().unwrap(),
        world(),
        CancellationToken::new(),
    );
    let sums = open(dir.path());
    let mut filler = filler(&sums, &world);
    filler.pass(&stop).await.unwrap();
    let values = sums.stats().values;
    std::fs::remove_dir_all(dir.path()).unwrap();
    let expected = answers(&lock(&world), None);
    assert_eq!(answers(&lock(&world), Some(&sums)), expected);
    lock(&world).pass_hours(3);
    let told = filler.pass(&stop).await.unwrap_err();
    assert!(matches!(told, ProjectionError::Dropped { .. }), "{told}");
    filler.pass(&stop).await.unwrap();
    assert!(sums.stats().values >= values, "{:?}", sums.stats());
    let expected = answers(&lock(&world), None);
    assert_eq!(answers(&lock(&world), Some(&sums)), expected);
}

#[tokio::test]
async fn sums_go_with_the_buckets_that_are_no_longer_kept() {
    let (dir, world, stop) = (
        tempfile::tempdir().unwrap(),
        world(),
        CancellationToken::new(),
    );
    let sums = open(dir.path());
    let mut filler = filler(&sums, &world);
    filler.pass(&stop).await.unwrap();
    let first = u32::try_from(START_MS / HOUR_MS).unwrap() + 1;
    let kept = |bucket| {
        let world = lock(&world);
        let buckets = world.state.usage.cells.buckets(Resolution::Hour).clone();
        let packed = buckets.get(&bucket).cloned();
        let which = Which {
            resolution: Resolution::Hour,
            bucket,
            dimension: Dimension::Model,
        };
        (
            packed.is_some(),
            sums.projection.get(&which.key()).unwrap().is_some(),
        )
    };
    assert_eq!(kept(first), (true, true));
    {
        let mut world = lock(&world);
        world.hours += 35 * 24 - 55;
        world.count(0);
    }
    filler.pass(&stop).await.unwrap();
    assert_eq!(kept(first), (false, false));
    assert_eq!(kept(first + 50), (true, true));
}

#[test]
fn once_the_projection_does_not_answer_a_query_asks_it_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let sums = open(dir.path());
    let asked = sums.ask();
    let which = |asked: &Asked| asked.get(Resolution::Hour, 1, &[0; 32], Dimension::Model);
    assert_eq!(which(&asked), None);
    assert!(!asked.silent.load(Ordering::Relaxed));
    asked.silent.store(true, Ordering::Relaxed);
    let sum = RollUp::default();
    let stored = Which {
        resolution: Resolution::Hour,
        bucket: 1,
        dimension: Dimension::Model,
    };
    sums.save(&[0; 32], &[(stored, sum.clone())], 1).unwrap();
    assert_eq!(which(&asked), None);
    assert_eq!(which(&sums.ask()), Some(sum));
}

#[test]
fn only_sums_of_hours_and_days_are_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let sums = open(dir.path());
    for resolution in [Resolution::Minute, Resolution::Hour, Resolution::Day] {
        let which = Which {
            resolution,
            bucket: 1,
            dimension: Dimension::Model,
        };
        sums.save(&[0; 32], &[(which, RollUp::default())], 1)
            .unwrap();
        let found = sums.ask().get(resolution, 1, &[0; 32], Dimension::Model);
        assert_eq!(found.is_some(), resolution != Resolution::Minute);
    }
}
