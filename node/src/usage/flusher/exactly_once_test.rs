//! Usage is counted exactly once, whatever happens between a spool and the log.
//!
//! The flusher's core runs against a real spool and a real state, with a fault model between them: batches are lost,
//! answered, applied without an answer, and applied again much later; the process dies at any point and starts
//! again with another number of workers; the dictionary forgets. The end must equal what was closed.

use std::collections::BTreeMap;
use std::path::Path;

use mode_envoy_model::batch::{Batch, Item, Outcome};
use mode_envoy_model::object::Name;
use mode_envoy_model::state::State;
use mode_envoy_model::usage::batch::{Register, UsageBatch};
use mode_envoy_model::usage::cells::Resolution;
use mode_envoy_model::usage::counters::Counters;
use proptest::prelude::*;

use super::core::Core;
use crate::usage::record::{Asked, CallId, Closed, Dims, Opened, UsageSource};
use crate::usage::recorder::{Recorder, wall_ms};
use crate::usage::recovery;
use crate::usage::stream::Need;
use crate::usage::testing::settings;

/// One thing that happens.
#[derive(Clone, Debug)]
enum Event {
    /// A call begins on a worker.
    Open {
        worker: usize,
        model: u8,
        reserved: u64,
    },
    /// One of the open calls ends.
    Close { which: usize, output: u64 },
    /// A call is refused.
    Refuse { worker: usize },
    /// The flusher takes a step, and the network does this to it.
    Step(Fault),
    /// Something sent long ago arrives at last.
    Late { which: usize },
    /// The process dies and starts again.
    Crash { workers: u32 },
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    /// Delivered and answered.
    None,
    /// Never delivered.
    Lost,
    /// Delivered; the answer is lost.
    Unanswered,
    /// Delivered twice; the second answer arrives.
    Twice,
}

#[derive(Clone, Debug)]
enum Sent {
    Register(Register),
    Batch(UsageBatch),
}

/// What must come out.
#[derive(Debug, Default, PartialEq)]
struct Expected {
    calls: u64,
    rejected: u64,
    presumed: u64,
    input: u64,
    output: u64,
}

struct World<'a> {
    dir: &'a Path,
    state: State,
    index: u64,
    core: Core,
    recorders: Vec<Recorder>,
    open: Vec<(usize, CallId, Dims, u64)>,
    calls: u64,
    history: Vec<Sent>,
    expected: Expected,
}

// === impl World ===

impl<'a> World<'a> {
    fn new(dir: &'a Path) -> Self {
        let recovered = recovery::open(&settings(dir, 2)).unwrap();
        Self {
            dir,
            state: State::new(),
            index: 0,
            core: Core::new(1, dir.to_owned(), recovered.spools),
            recorders: recovered.recorders,
            open: Vec::new(),
            calls: 0,
            history: Vec::new(),
            expected: Expected::default(),
        }
    }

    fn happen(&mut self, event: &Event) {
        match *event {
            Event::Open {
                worker,
                model,
                reserved,
            } => self.open_call(worker, model, reserved),
            Event::Close { which, output } => self.close_call(which, output),
            Event::Refuse { worker } => {
                let recorder = &self.recorders[worker % self.recorders.len()];
                let dims = dims(0);
                recorder
                    .refuse(&Closed {
                        status: 401,
                        ..Closed::of(id(0), 0, &dims)
                    })
                    .unwrap();
                self.expected.calls += 1;
                self.expected.rejected += 1;
            }
            Event::Step(fault) => self.step(fault),
            Event::Late { which } => {
                if !self.history.is_empty() {
                    let sent = self.history[which % self.history.len()].clone();
                    self.deliver(&sent);
                }
            }
            Event::Crash { workers } => self.crash(workers),
        }
    }

    fn open_call(&mut self, worker: usize, model: u8, reserved_input: u64) {
        let worker = worker % self.recorders.len();
        self.calls += 1;
        let (call, dims) = (id(self.calls), dims(model));
        let opened = Opened {
            call,
            attempt: 0,
            dims: &dims,
            asked: Asked::default(),
            reserved_input,
            bytes_in: 1,
            takes: &crate::usage::record::Takes::NONE,
        };
        self.recorders[worker].open(&opened).unwrap();
        self.open.push((worker, call, dims, reserved_input));
    }

    fn close_call(&mut self, which: usize, output: u64) {
        if self.open.is_empty() {
            return;
        }
        let (worker, call, dims, reserved) = self.open.swap_remove(which % self.open.len());
        let closed = Closed {
            status: 200,
            usage_source: UsageSource::Reported,
            input_uncached: reserved,
            output,
            ..Closed::of(call, 0, &dims)
        };
        self.recorders[worker].close(&closed).unwrap();
        self.expected.calls += 1;
        self.expected.input += reserved;
        self.expected.output += output;
    }

    /// One step of the flusher: what it needs is sent, and the fault says what becomes of it.
    fn step(&mut self, fault: Fault) {
        if matches!(self.core.need(), Need::Compose) {
            self.core.sync(u64::MAX / 2).unwrap();
            let series = self.state.usage.series.clone();
            let say = |_: &BTreeMap<_, _>| Default::default();
            self.core.compose(say, |key| series.id_of(key)).unwrap();
        }
        let sent = match self.core.need() {
            Need::Compose => return,
            Need::Register => Sent::Register(self.core.register(self.state.usage.streams.get(1))),
            Need::Answer(batch) => Sent::Batch(batch.clone()),
        };
        self.history.push(sent.clone());
        match fault {
            Fault::Lost => {}
            Fault::Unanswered => drop(self.deliver(&sent)),
            Fault::None => {
                let outcome = self.deliver(&sent);
                self.answer(&outcome);
            }
            Fault::Twice => {
                self.deliver(&sent);
                let outcome = self.deliver(&sent);
                self.answer(&outcome);
            }
        }
    }

    fn answer(&mut self, outcome: &Outcome) {
        match outcome {
            Outcome::Registered { incarnation } => {
                let stream = self.state.usage.streams.get(1).cloned();
                self.core.registered(*incarnation, stream.as_ref()).unwrap();
            }
            outcome => drop(self.core.answered(outcome).unwrap()),
        }
    }

    fn deliver(&mut self, sent: &Sent) -> Outcome {
        let item = match sent {
            Sent::Register(register) => Item::Register(register.clone()),
            Sent::Batch(batch) => Item::Usage(batch.clone()),
        };
        self.index += 1;
        let wall_ms = wall_ms();
        let batch = Batch {
            lease_clock_ms: 0,
            wall_ms,
            items: vec![item],
        };
        self.state.apply(self.index, &batch).pop().unwrap()
    }

    fn crash(&mut self, workers: u32) {
        self.recorders.clear();
        self.core = Core::new(1, self.dir.to_owned(), Vec::new());
        let recovered = recovery::open(&settings(self.dir, workers)).unwrap();
        assert_eq!(recovered.presumed, self.open.len() as u64);
        for (.., reserved) in self.open.drain(..) {
            self.expected.calls += 1;
            self.expected.presumed += 1;
            self.expected.input += reserved;
        }
        self.core = Core::new(1, self.dir.to_owned(), recovered.spools);
        self.recorders = recovered.recorders;
    }

    /// The network heals: what is left is counted.
    fn drain(&mut self) {
        for _ in 0..1_000 {
            self.step(Fault::None);
            let marks = self.core.written();
            if matches!(self.core.need(), Need::Compose) && self.core.covers(&marks) {
                return;
            }
        }
        panic!("the flusher makes no progress");
    }

    fn counted(&self) -> Expected {
        let mut sum = Counters::default();
        for bucket in self.state.usage.cells.buckets(Resolution::Day).values() {
            bucket
                .chunk()
                .values()
                .for_each(|cell| sum.add(&cell.counters));
        }
        Expected {
            calls: sum.calls,
            rejected: sum.rejected,
            presumed: sum.presumed,
            input: sum.input_uncached,
            output: sum.output,
        }
    }
}

fn id(number: u64) -> CallId {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&number.to_le_bytes());
    CallId(id)
}

fn dims(model: u8) -> Dims {
    Dims {
        tenant: Name::from("acme"),
        model: Name::from(format!("m{model}")),
        ..Dims::empty()
    }
}

fn event() -> impl Strategy<Value = Event> {
    let fault = prop_oneof![
        4 => Just(Fault::None),
        2 => Just(Fault::Lost),
        2 => Just(Fault::Unanswered),
        1 => Just(Fault::Twice),
    ];
    prop_oneof![
        6 => (0..4_usize, 0..5_u8, 0..50_u64)
            .prop_map(|(worker, model, reserved)| Event::Open { worker, model, reserved }),
        5 => (any::<usize>(), 0..50_u64)
            .prop_map(|(which, output)| Event::Close { which, output }),
        1 => (0..4_usize).prop_map(|worker| Event::Refuse { worker }),
        6 => fault.prop_map(Event::Step),
        1 => any::<usize>().prop_map(|which| Event::Late { which }),
        1 => (1..4_u32).prop_map(|workers| Event::Crash { workers }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_was_closed_is_counted_exactly_once(events in prop::collection::vec(event(), 1..200)) {
        let dir = tempfile::tempdir().unwrap();
        let mut world = World::new(dir.path());
        for event in events {
            world.happen(&event);
        }
        world.crash(1);
        world.drain();
        prop_assert_eq!(world.counted(), world.expected);
    }
}

#[test]
fn a_call_that_is_open_for_long_is_presumed_although_its_open_was_counted_long_ago() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::new(dir.path());
    world.happen(&Event::Open {
        worker: 0,
        model: 0,
        reserved: 7,
    });
    // Enough to roll many segments: the open one is carried, and what is before it goes.
    for round in 0..40 {
        for _ in 0..50 {
            world.happen(&Event::Open {
                worker: 0,
                model: 1,
                reserved: 1,
            });
            let last = world.open.len() - 1;
            world.happen(&Event::Close {
                which: last,
                output: 1,
            });
        }
        world.drain();
        // As the flusher's timer does, far in the future: every open call is overdue.
        world.core.sync(wall_ms() + 61_000 * (round + 1)).unwrap();
    }
    let bytes = world.core.bytes();
    assert!(
        bytes <= 8 * 16 * 1024,
        "{bytes} bytes are kept for one open call"
    );
    world.crash(2);
    world.drain();
    assert_eq!(world.expected.presumed, 1);
    assert_eq!(world.counted(), world.expected);
}

#[test]
fn spools_of_workers_that_exist_no_more_are_drained_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::new(dir.path());
    let tally = |map: &BTreeMap<u32, u64>| map.keys().copied().collect::<Vec<_>>();
    assert_eq!(tally(&world.core.written()), [0, 1]);
    world.happen(&Event::Open {
        worker: 1,
        model: 0,
        reserved: 5,
    });
    world.crash(1);
    assert_eq!(tally(&world.core.written()), [0, 1]);
    world.drain();
    assert_eq!(tally(&world.core.written()), [0]);
    assert_eq!(world.counted(), world.expected);
    assert!(!dir.path().join("worker-1").exists());
}
