//! First figures of the pure state: rows through apply, queries over a month, the decision of a Put.
//!
//! Wall times of one machine; compare them within one run only.

use std::collections::BTreeMap;

use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use mode_envoy_model::batch::{Batch, Item};
use mode_envoy_model::catalog::Catalog;
use mode_envoy_model::command::Command;
use mode_envoy_model::event::Event;
use mode_envoy_model::object::{Name, Object};
use mode_envoy_model::route::{Auth, Route};
use mode_envoy_model::service::{Endpoint, Service, Timeouts};
use mode_envoy_model::state::State;
use mode_envoy_model::tenant::Tenant;
use mode_envoy_model::usage::batch::{Register, SeriesRef, SpoolRange, UsageBatch, UsageRow};
use mode_envoy_model::usage::cells::{Bucket, Resolution};
use mode_envoy_model::usage::counters::Counters;
use mode_envoy_model::usage::histogram::Histogram;
use mode_envoy_model::usage::packed::Packed;
use mode_envoy_model::usage::query::{Dimension, Interval, Query, run, run_with};
use mode_envoy_model::usage::rollup::{RollUp, RollUps, roll_up};
use mode_envoy_model::usage::series::SeriesKey;

const ROWS: u32 = 1_000;
const MODELS: u32 = 50;
const DAY_MS: u64 = 86_400_000;
const DAYS: u32 = 30;

fn main() {
    divan::main();
}

/// Series number `n`: models in turn of each key.
fn series(n: u32) -> SeriesKey {
    let model = Name::from(format!("model-{}", n % MODELS));
    SeriesKey {
        tenant: "acme".into(),
        team: "retail".into(),
        consumer: "mobile-app".into(),
        key: format!("key-{}", n / MODELS).as_str().into(),
        route: "openai.chat_completions".into(),
        api: "".into(),
        model: Name::clone(&model),
        provider: "openai".into(),
        upstream_model: model,
        status_class: 2,
        folded: false,
    }
}

fn row(minute: u32, at: u32) -> UsageRow {
    let mut latency = Histogram::default();
    let mut ttft = Histogram::default();
    for n in 0..4 {
        latency.record(u64::from(at % 97 + 1) * 10_000 * (n + 1));
        ttft.record(u64::from(at % 89 + 1) * 1_000 * (n + 1));
    }
    let counters = Counters {
        calls: 4,
        attempts: 4,
        input_uncached: 900,
        output: 400,
        nano_usd: 7_000,
        ..Counters::default()
    };
    UsageRow {
        minute,
        series: at,
        counters,
        latency,
        ttft,
    }
}

/// A state with one node, and the log index of its registration.
fn registered() -> State {
    let mut state = State::new();
    let register = Register {
        node: 1,
        follows: 0,
        spools: vec![(0, [0; 16])],
    };
    state.apply(
        1,
        &Batch {
            items: vec![Item::Register(register)],
            ..Batch::default()
        },
    );
    state
}

fn entry(seq: u64, wall_ms: u64, series: Vec<SeriesRef>, rows: Vec<UsageRow>) -> Batch {
    let ranges = vec![SpoolRange {
        worker: 0,
        uuid: [0; 16],
        from: seq,
        to: seq + 1,
    }];
    let batch = UsageBatch {
        node: 1,
        incarnation: 1,
        seq,
        ranges,
        series,
        rows,
        uses: Vec::new(),
        asks: Vec::new(),
    };
    Batch {
        lease_clock_ms: 0,
        wall_ms,
        items: vec![Item::Usage(batch)],
    }
}

/// Every series once a day for so many days; the last wall clock in milliseconds.
fn state_of(count: u32, days: u32) -> (State, u64, u64) {
    let mut state = registered();
    let all: Vec<u32> = (0..count).collect();
    let (mut seq, mut wall_ms) = (1, 0);
    for day in 1..=days {
        wall_ms = u64::from(day) * DAY_MS;
        for numbers in all.chunks(ROWS as usize) {
            let series = numbers.iter().map(|n| SeriesRef::New(series(*n))).collect();
            let minute = day * 1_440 + numbers[0] / ROWS;
            let rows = (0..).zip(numbers).map(|(at, _)| row(minute, at)).collect();
            state.apply(2, &entry(seq, wall_ms, series, rows));
            seq += 1;
        }
    }
    // So that the day before the last one is packed, as it is in the morning.
    wall_ms += 2 * 3_600_000;
    let morning = Batch {
        wall_ms,
        ..Batch::default()
    };
    state.apply(2, &morning);
    (state, seq, wall_ms)
}

/// Batches of 1,000 rows over 10,000 series that the dictionary knows, spread over the minutes of a day.
#[divan::bench(sample_count = 20, sample_size = 1)]
fn roll_up_100_batches_of_1000_rows(bencher: Bencher<'_, '_>) {
    let (state, seq, wall_ms) = state_of(10_000, 1);
    let entries: Vec<Batch> = (0..100)
        .map(|n| {
            let first = n % 10 * ROWS;
            let series = (first..first + ROWS).map(SeriesRef::Known).collect();
            let rows = (0..ROWS).map(|at| row(1_440 + n / 10, at)).collect();
            entry(
                seq + u64::from(n),
                wall_ms + u64::from(n) * 6_000,
                series,
                rows,
            )
        })
        .collect();
    bencher
        .counter(ItemsCount::new(100 * ROWS))
        .with_inputs(|| state.clone())
        .bench_values(|mut state| {
            for entry in &entries {
                black_box(state.apply(3, entry));
            }
            state
        });
}

fn month(filter: Vec<(Dimension, String)>, group_by: Vec<Dimension>) -> Query {
    Query {
        from_minute: 1_440,
        to_minute: (DAYS + 1) * 1_440,
        interval: Interval::Day,
        group_by,
        filter,
    }
}

/// 50,000 series, each with a cell on each of 30 days.
#[divan::bench(sample_count = 20, sample_size = 1)]
fn query_one_key_by_model_and_day(bencher: Bencher<'_, '_>) {
    let (state, _, wall_ms) = state_of(50_000, DAYS);
    let snapshot = state.usage.snapshot();
    let query = month(
        vec![(Dimension::Key, "key-500".to_owned())],
        vec![Dimension::Model],
    );
    bencher.bench(|| run(black_box(&snapshot), black_box(&query), wall_ms));
}

/// The same, of all keys.
#[divan::bench(sample_count = 5, sample_size = 1)]
fn query_all_keys_by_model_and_day(bencher: Bencher<'_, '_>) {
    let (state, _, wall_ms) = state_of(50_000, DAYS);
    let snapshot = state.usage.snapshot();
    let query = month(Vec::new(), vec![Dimension::Model]);
    bencher.bench(|| run(black_box(&snapshot), black_box(&query), wall_ms));
}

/// Roll-ups by model, made before.
struct ByModel(BTreeMap<[u8; 32], RollUp>);

impl RollUps for ByModel {
    fn get(
        &self,
        _: Resolution,
        _: u32,
        content: &[u8; 32],
        dimension: Dimension,
    ) -> Option<RollUp> {
        (dimension == Dimension::Model)
            .then(|| self.0.get(content).cloned())
            .flatten()
    }
}

/// The same, where the days that are over have roll-ups.
#[divan::bench(sample_count = 20, sample_size = 1)]
fn query_all_keys_by_model_and_day_with_roll_ups(bencher: Bencher<'_, '_>) {
    let (state, _, wall_ms) = state_of(50_000, DAYS);
    let snapshot = state.usage.snapshot();
    let buckets = snapshot.cells.buckets(Resolution::Day).values();
    let packed = buckets.filter_map(|bucket| match bucket {
        Bucket::Packed(packed) => Some(packed),
        Bucket::Open(_) => None,
    });
    let made = packed.map(|packed| {
        (
            *packed.hash(),
            roll_up(packed, &snapshot.series, Dimension::Model),
        )
    });
    let roll_ups = ByModel(made.collect());
    let query = month(Vec::new(), vec![Dimension::Model]);
    bencher.bench(|| run_with(black_box(&snapshot), black_box(&query), wall_ms, &roll_ups));
}

/// One day of 50,000 series becomes bytes: what `apply` does once a day, and once an hour for the hour.
#[divan::bench(sample_count = 20, sample_size = 1)]
fn pack_50000_cells(bencher: Bencher<'_, '_>) {
    let (state, ..) = state_of(50_000, 1);
    let chunk = state.usage.cells.buckets(Resolution::Day)[&1].chunk();
    bencher.bench(|| Packed::of(black_box(&chunk)));
}

fn route(n: u32) -> Route {
    Route {
        tenant: "acme".into(),
        name: format!("route-{n}").as_str().into(),
        service: "orders".into(),
        hosts: vec!["api.acme.test".into()],
        paths: vec![format!("/orders-{n}/{{*rest}}").as_str().into()],
        methods: Vec::new(),
        auth: Auth::Key,
        strip_prefix: None,
    }
}

/// A catalog with 5,000 routes.
fn catalog() -> Catalog {
    let mut catalog = Catalog::empty();
    let endpoints = vec![Endpoint {
        url: "http://10.0.0.5:7001".into(),
    }];
    let service = Service {
        name: "orders".into(),
        endpoints,
        access: Vec::new(),
        timeouts: Timeouts::default(),
    };
    catalog.evolve(&Event::TenantPut(Tenant {
        name: "acme".into(),
        hosts: Vec::new(),
    }));
    catalog.evolve(&Event::ServicePut(service));
    (0..5_000).for_each(|n| catalog.evolve(&Event::RoutePut(route(n))));
    catalog
}

#[divan::bench]
fn decide_put_of_one_route_among_5000(bencher: Bencher<'_, '_>) {
    let catalog = catalog();
    let command = Command::Put {
        objects: vec![Object::Route(route(9_999))],
        dry_run: false,
    };
    bencher.bench(|| catalog.decide(black_box(&command), 0));
}

#[divan::bench]
fn decide_put_of_one_tenant(bencher: Bencher<'_, '_>) {
    let catalog = catalog();
    let objects = vec![Object::Tenant(Tenant {
        name: "beta".into(),
        hosts: Vec::new(),
    })];
    let command = Command::Put {
        objects,
        dry_run: false,
    };
    bencher.bench(|| catalog.decide(black_box(&command), 0));
}
