//! Usage is counted exactly once, however batches are repeated, reordered, lost or re-formed.
//!
//! Each record of a spool is worth its own number of calls, so a sum tells which records are in it.

use std::collections::BTreeMap;

use mode_envoy_model::batch::{Item, Outcome};
use mode_envoy_model::state::State;
use mode_envoy_model::usage::batch::{Register, SeriesRef, SpoolRange, SpoolUuid, UsageBatch};
use mode_envoy_model::usage::cells::{Bucket, Resolution};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::arb;
use crate::usage_samples::{apply, row, series};

const WORKERS: u32 = 2;
const WALL: u64 = 100 * 86_400_000;

/// All calls, which must be the same at each resolution.
fn calls(state: &State) -> u64 {
    let sums = Resolution::ALL.map(|resolution| {
        let buckets = state.usage.cells.buckets(resolution).values();
        let chunks: Vec<_> = buckets.map(Bucket::chunk).collect();
        chunks
            .iter()
            .flat_map(|chunk| chunk.values())
            .map(|cell| cell.counters.calls)
            .sum::<u64>()
    });
    assert!(sums.iter().all(|sum| *sum == sums[0]), "{sums:?}");
    sums[0]
}

/// What record number `at` of a spool is worth.
fn worth(uuid: SpoolUuid, at: u64) -> u64 {
    at * at + 1_000 * u64::from(uuid[0])
}

/// What happens on the way from a node to the state.
#[derive(Clone, Debug)]
enum Step {
    /// The node forms its next batch: so many records of each worker.
    Form([u64; WORKERS as usize]),
    /// Some batch that was ever formed arrives, again or for the first time.
    Arrive(prop::sample::Index),
    /// The node starts again and goes on from what the state says.
    Restart,
    /// The node starts again and a worker has a new spool.
    NewSpool(u32),
}

/// A node, as far as its stream goes.
struct Node {
    incarnation: u64,
    next_seq: u64,
    spools: Vec<(SpoolUuid, u64)>,
    spools_made: u8,
}

struct World {
    state: State,
    index: u64,
    node: Node,
    formed: Vec<UsageBatch>,
    /// How far each spool that ever was is counted.
    acked: BTreeMap<SpoolUuid, u64>,
}

impl World {
    fn new() -> Self {
        let spools = vec![([0; 16], 1), ([1; 16], 1)];
        let node = Node {
            incarnation: 0,
            next_seq: 1,
            spools,
            spools_made: 2,
        };
        let mut world = Self {
            state: State::new(),
            index: 0,
            node,
            formed: Vec::new(),
            acked: BTreeMap::new(),
        };
        world.restart();
        world
    }

    fn apply(&mut self, item: Item) -> Outcome {
        self.index += 1;
        apply(&mut self.state, self.index, WALL, item)
    }

    fn restart(&mut self) {
        let spools = (0..)
            .zip(&self.node.spools)
            .map(|(worker, (uuid, _))| (worker, *uuid))
            .collect();
        let follows = self
            .state
            .usage
            .streams
            .get(1)
            .map_or(0, |stream| stream.incarnation);
        let register = Register {
            node: 1,
            follows,
            spools,
        };
        let outcome = self.apply(Item::Register(register));
        assert_eq!(
            outcome,
            Outcome::Registered {
                incarnation: self.index
            }
        );
        self.node.incarnation = self.index;
        self.node.next_seq = 1;
        let stream = self
            .state
            .usage
            .streams
            .get(1)
            .expect("it has just been registered");
        for (worker, (uuid, at)) in (0..).zip(&mut self.node.spools) {
            let spool = stream.spools[&worker];
            assert_eq!(spool.uuid, *uuid);
            *at = spool.acked_to;
        }
    }

    fn form(&mut self, counts: [u64; WORKERS as usize]) {
        let mut calls = 0;
        let mut ranges = Vec::new();
        for ((worker, (uuid, at)), count) in (0..).zip(&mut self.node.spools).zip(counts) {
            calls += (*at..*at + count)
                .map(|record| worth(*uuid, record))
                .sum::<u64>();
            ranges.push(SpoolRange {
                worker,
                uuid: *uuid,
                from: *at,
                to: *at + count,
            });
            *at += count;
        }
        let empty = ranges.iter().all(|range| range.from == range.to);
        self.formed.push(UsageBatch {
            node: 1,
            incarnation: self.node.incarnation,
            seq: self.node.next_seq,
            ranges,
            series: vec![SeriesRef::New(series("k", "m"))],
            rows: if empty {
                Vec::new()
            } else {
                vec![row(144_000, 0, calls)]
            },
            uses: Vec::new(),
            asks: Vec::new(),
        });
        self.node.next_seq += 1;
    }

    fn arrive(&mut self, batch: UsageBatch) {
        let before = self.state.clone();
        let outcome = self.apply(Item::Usage(batch.clone()));
        if outcome == Outcome::Counted {
            for range in batch.ranges {
                let acked = self.acked.insert(range.uuid, range.to);
                assert_eq!(acked.unwrap_or(1), range.from);
            }
        } else {
            assert_eq!(
                before.usage, self.state.usage,
                "{outcome:?} changed something"
            );
        }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Form(counts) => self.form(*counts),
            Step::Arrive(_) if self.formed.is_empty() => {}
            Step::Arrive(which) => self.arrive(which.get(&self.formed).clone()),
            Step::Restart => self.restart(),
            Step::NewSpool(worker) => {
                let uuid = [self.node.spools_made; 16];
                self.node.spools_made += 1;
                self.node.spools[*worker as usize] = (uuid, 1);
                self.restart();
            }
        }
    }

    fn expected(&self) -> u64 {
        let spool =
            |(uuid, to): (&SpoolUuid, &u64)| (1..*to).map(|at| worth(*uuid, at)).sum::<u64>();
        self.acked.iter().map(spool).sum()
    }
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => [0_u64..4, 0_u64..4].prop_map(Step::Form),
        8 => any::<prop::sample::Index>().prop_map(Step::Arrive),
        1 => Just(Step::Restart),
        1 => (0..WORKERS).prop_map(Step::NewSpool),
    ]
}

proptest! {
    #![proptest_config(arb::cases(256))]

    #[test]
    fn repeated_reordered_and_re_formed_batches_count_each_record_once(steps in vec(step(), 0..60)) {
        let mut world = World::new();
        for step in &steps {
            world.step(step);
            prop_assert_eq!(calls(&world.state), world.expected());
        }
        // Whatever happened, a node that restarts and delivers in order loses nothing.
        world.restart();
        world.form([3, 2]);
        let last = world.formed[world.formed.len() - 1].clone();
        let ends: Vec<(SpoolUuid, u64)> = world.node.spools.clone();
        world.arrive(last);
        for (uuid, end) in ends {
            prop_assert_eq!(world.acked[&uuid], end);
        }
        prop_assert_eq!(calls(&world.state), world.expected());
    }
}

/// The oracle above tells a state that counts whatever arrives from one that is exact.
#[test]
fn counting_every_arrival_would_not_pass() {
    let mut world = World::new();
    world.form([2, 1]);
    let batch = world.formed[0].clone();
    let worth: u64 = batch.rows.iter().map(|row| row.counters.calls).sum();
    let mut naive = 0;
    for _ in 0..2 {
        naive += worth;
        world.arrive(batch.clone());
    }
    assert_eq!(calls(&world.state), world.expected());
    assert_ne!(naive, world.expected());
}
