//! Generators of usage, and of whole logs.

use mode_envoy_model::batch::{Batch, ChangeSet, Item};
use mode_envoy_model::object::Name;
use mode_envoy_model::requests::ClientRequest;
use mode_envoy_model::usage::batch::{Register, SeriesRef, SpoolRange, UsageBatch, UsageRow};
use mode_envoy_model::usage::counters::Counters;
use mode_envoy_model::usage::histogram::Histogram;
use mode_envoy_model::usage::series::SeriesKey;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::event;

pub(crate) fn histogram(max: usize) -> impl Strategy<Value = Histogram> {
    let micros = prop_oneof![0_u64..40, 0_u64..2_000_000, any::<u64>()];
    vec(micros, 0..=max).prop_map(|values| {
        let mut histogram = Histogram::default();
        for micros in values {
            histogram.record(micros);
        }
        histogram
    })
}

pub(crate) fn counters() -> impl Strategy<Value = Counters> {
    (0_u64..9, 0_u64..9, 0_u64..99, 0_u64..99, any::<u32>()).prop_map(
        |(calls, errors, input, output, nano)| Counters {
            calls,
            errors,
            attempts: calls + errors,
            input_uncached: input,
            output,
            nano_usd: nano.into(),
            ..Counters::default()
        },
    )
}

pub(crate) fn series() -> impl Strategy<Value = SeriesKey> {
    let one = || select(vec!["a", "b", ""]).prop_map(Name::from);
    let pair = || select(vec!["a", "b"]).prop_map(Name::from);
    (pair(), pair(), pair(), one(), one(), 2_u8..6).prop_map(
        |(tenant, consumer, key, route, model, status_class)| SeriesKey {
            team: Name::from(""),
            api: Name::from(""),
            provider: Name::clone(&model),
            upstream_model: Name::clone(&model),
            tenant,
            consumer,
            key,
            route,
            model,
            status_class,
            folded: false,
        },
    )
}

fn usage_batch() -> impl Strategy<Value = UsageBatch> {
    let range =
        (0_u32..3, 0_u8..3, 1_u64..4, 0_u64..3).prop_map(|(worker, uuid, from, n)| SpoolRange {
            worker,
            uuid: [uuid; 16],
            from,
            to: from + n,
        });
    let reference = prop_oneof![3 => series().prop_map(SeriesRef::New), 1 => (0_u32..8).prop_map(SeriesRef::Known)];
    let row = (0_u32..6_000, 0_u32..4, counters(), histogram(2)).prop_map(
        |(minute, series, counters, latency)| UsageRow {
            minute,
            series,
            counters,
            ttft: latency.clone(),
            latency,
        },
    );
    let rows = (vec(reference, 1..4), vec(row, 0..5));
    (0_u64..2, 0_u64..30, 1_u64..3, vec(range, 0..3), rows).prop_map(
        |(node, incarnation, seq, ranges, (series, rows))| UsageBatch {
            node,
            incarnation,
            seq,
            ranges,
            series,
            rows,
            uses: Vec::new(),
            asks: Vec::new(),
        },
    )
}

fn request() -> impl Strategy<Value = ClientRequest> {
    (0_u8..4, 0_u8..2).prop_map(|(id, body)| ClientRequest {
        id: [id; 32],
        body: [body; 32],
        nonce: [id; 16],
    })
}

fn item() -> impl Strategy<Value = Item> {
    let spools = vec((0_u32..9, 0_u8..9), 1..3);
    prop_oneof![
        2 => (0_u64..6, vec(event(), 1..4), option::of(request())).prop_map(|(base_revision, events, request)| {
            Item::ChangeSet(ChangeSet {
                base_revision,
                actor: "x".to_owned(),
                request,
                encoded: vec![7; events.len()].into(),
                events,
                ..ChangeSet::default()
            })
        }),
        1 => (0_u64..2, 0_u64..2, spools).prop_map(|(node, follows, spools)| Item::Register(Register {
            node,
            follows,
            spools: spools
                .into_iter()
                .map(|(worker, uuid)| (worker, [uuid; 16]))
                .collect(),
        })),
        2 => usage_batch().prop_map(Item::Usage),
    ]
}

/// What an item is to become once the state before it is known.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Mend {
    /// As it was generated.
    No,
    /// Its revision, incarnation, number and ranges are made to fit.
    Fit,
}

/// A log whose items mostly fit the state they meet, mixed with nonsense.
pub(crate) fn log(max: usize) -> impl Strategy<Value = Vec<(Batch, Mend)>> {
    let mend = prop_oneof![1 => Just(Mend::No), 4 => Just(Mend::Fit)];
    let clock = prop_oneof![8 => 0_u64..400_000_000, 1 => any::<u64>()];
    let batch = (clock, vec(item(), 0..4), mend);
    vec(batch, 0..=max).prop_map(|batches| {
        let batch = |(wall_ms, items, mend)| {
            (
                Batch {
                    lease_clock_ms: wall_ms / 2,
                    wall_ms,
                    items,
                },
                mend,
            )
        };
        batches.into_iter().map(batch).collect()
    })
}
