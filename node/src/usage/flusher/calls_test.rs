//! The call log behind the flusher: each call once, and usage goes on where the log cannot.

use std::path::Path;
use std::sync::Arc;

use mode_envoy_model::batch::{Batch, Item, Outcome};
use mode_envoy_model::state::State;
use mode_envoy_proto::peer::v1 as wire;
use mode_envoy_raft::CallRecords as _;
use mode_envoy_storage::call_log::CallLogOptions;
use mode_envoy_storage::testing::{FaultDisk, Op};

use super::core::Core;
use crate::usage::calls::{CallSink, CallStore};
use crate::usage::record::{Asked, CallId, Closed, Dims, Opened, Story};
use crate::usage::recorder::{Recorder, wall_ms};
use crate::usage::recovery;
use crate::usage::stream::Need;
use crate::usage::testing::settings;

/// Time enough for a block to be written and made durable.
const LATER_MS: u64 = 20_000;

struct Node {
    core: Core,
    recorder: Recorder,
    store: CallStore,
}

/// What counts.
#[derive(Default)]
struct Log {
    state: State,
    index: u64,
}

// === impl Node ===

impl Node {
    fn start(dir: &Path, disk: &FaultDisk) -> Self {
        let mut recovered = recovery::open(&settings(dir, 1)).unwrap();
        let (store, _) = CallStore::new(u64::MAX);
        let options = CallLogOptions::new("/calls", [1; 16], 1);
        let sink = CallSink::open(Arc::new(disk.clone()), options, store.clone(), wall_ms());
        Self {
            core: Core::new(1, dir.to_owned(), recovered.spools).with_calls(sink),
            recorder: recovered.recorders.remove(0),
            store,
        }
    }

    fn call(&self, number: u8, end: bool) {
        let (call, dims) = (CallId([number; 16]), Dims::empty());
        let asked = Asked {
            // In the order of their numbers, and not too old to be kept.
            started_ms: wall_ms() / 100_000 * 100_000 + u64::from(number),
            path: "/orders",
            ..Asked::default()
        };
        let opened = Opened {
            call,
            attempt: 0,
            dims: &dims,
            asked,
            reserved_input: 0,
            bytes_in: 0,
            takes: &crate::usage::record::Takes::NONE,
        };
        self.recorder.open(&opened).unwrap();
        if end {
            let story = Story {
                reason: "no_connection",
                ..Story::default()
            };
            let closed = Closed {
                status: 502,
                asked,
                story,
                ..Closed::of(call, 0, &dims)
            };
            self.recorder.close(&closed).unwrap();
        }
    }

    fn feed(&mut self, now_ms: u64) {
        self.core.sync(now_ms).unwrap();
        assert!(self.core.feed_calls(now_ms).unwrap());
    }

    async fn told(&self) -> Vec<wire::CallRecord> {
        let request = wire::QueryCallsRequest {
            limit: 1_000,
            ..wire::QueryCallsRequest::default()
        };
        let mut calls = self.store.query(request).await.unwrap().calls;
        calls.reverse();
        calls
    }
}

// === impl Log ===

impl Log {
    /// Counts all that is written.
    fn count(&mut self, core: &mut Core) {
        core.sync(wall_ms()).unwrap();
        loop {
            let item = match core.need() {
                Need::Register => Item::Register(core.register(self.state.usage.streams.get(1))),
                Need::Answer(batch) => Item::Usage(batch.clone()),
                Need::Compose => {
                    let series = &self.state.usage.series;
                    if core
                        .compose(|_| Default::default(), |key| series.id_of(key))
                        .unwrap()
                    {
                        continue;
                    }
                    return;
                }
            };
            self.index += 1;
            let batch = Batch {
                lease_clock_ms: 0,
                wall_ms: wall_ms(),
                items: vec![item],
            };
            match self.state.apply(self.index, &batch).remove(0) {
                Outcome::Registered { incarnation } => {
                    let stream = self.state.usage.streams.get(1);
                    core.registered(incarnation, stream).unwrap();
                }
                outcome => drop(core.answered(&outcome).unwrap()),
            }
        }
    }
}

fn numbers(calls: &[wire::CallRecord]) -> Vec<u8> {
    calls.iter().map(|call| call.call_id[0]).collect()
}

#[tokio::test]
async fn each_call_is_told_once_whatever_the_process_had_written_when_it_died() {
    let (dir, mut disk) = (tempfile::tempdir().unwrap(), FaultDisk::new());
    let mut ended = Vec::new();
    for round in 0..6_u8 {
        let mut node = Node::start(dir.path(), &disk);
        for number in 0..4 {
            ended.push(round * 8 + number);
            node.call(round * 8 + number, true);
            if number == round % 4 {
                // What comes after this is in no block when the process dies.
                let later = if round % 2 == 0 { LATER_MS } else { 0 };
                node.feed(wall_ms() + later);
            }
        }
        node.call(round * 8 + 7, false);
        ended.push(round * 8 + 7);
        drop(node);
        disk = disk.image().kill();
    }
    let mut node = Node::start(dir.path(), &disk);
    node.feed(wall_ms());
    let told = node.told().await;
    assert_eq!(numbers(&told), ended);
    assert!(
        told.iter()
            .all(|call| call.path == "/orders" && call.node == 1)
    );
    let presumed = told.iter().filter(|call| call.presumed);
    assert!(
        presumed
            .clone()
            .all(|call| call.call_id[0] % 8 == 7 && call.reason == "node_died")
    );
    assert_eq!(presumed.count(), 6);
    assert_eq!(told[0].reason, "no_connection");
}

#[tokio::test]
async fn where_the_call_log_fails_usage_goes_on_and_the_answer_says_so() {
    let (dir, disk) = (tempfile::tempdir().unwrap(), FaultDisk::new());
    let mut node = Node::start(dir.path(), &disk);
    node.call(1, true);
    node.feed(wall_ms() + LATER_MS);
    disk.fail(Op::Write, 1);
    node.call(2, true);
    node.feed(wall_ms());
    node.feed(wall_ms() + 2 * LATER_MS);
    assert!(
        node.core.compose(|_| Default::default(), |_| None).unwrap(),
        "usage is counted as before"
    );
    let request = wire::QueryCallsRequest::default();
    let answer = node.store.query(request).await.unwrap();
    assert!(
        answer.warnings[0].contains("no call records are kept any more"),
        "{answer:?}"
    );
    // Those who follow are told all the same.
    let (run, after) = (1, 1);
    let tail = node.store.tail(wire::TailCallsRequest {
        run,
        after,
        limit: 10,
        ..wire::TailCallsRequest::default()
    });
    assert_eq!(numbers(&tail.await.unwrap().calls), [1, 2]);
}

#[tokio::test]
async fn a_call_log_that_cannot_be_opened_stops_nobody() {
    let (dir, disk) = (tempfile::tempdir().unwrap(), FaultDisk::new());
    disk.fail(Op::SyncDir, 1);
    let mut node = Node::start(dir.path(), &disk);
    node.call(1, true);
    node.feed(wall_ms());
    let refused = node.store.query(wire::QueryCallsRequest::default()).await;
    let refused = refused.unwrap_err();
    assert!(refused.contains("no call records are kept"), "{refused}");
}

#[tokio::test]
async fn what_is_counted_stays_in_the_spool_until_those_who_follow_a_failed_call_log_are_told() {
    for fails in [Op::SyncDir, Op::Write] {
        let (dir, disk) = (tempfile::tempdir().unwrap(), FaultDisk::new());
        let mut log = Log::default();
        let at_opening = fails == Op::SyncDir;
        if at_opening {
            disk.fail(fails, 1);
        }
        let mut node = Node::start(dir.path(), &disk);
        if !at_opening {
            disk.fail(fails, 1);
            node.call(0, true);
            node.feed(wall_ms() + LATER_MS);
        }
        (1..=200).for_each(|number| node.call(number, true));
        let written = node.core.bytes();
        assert!(written >= 3 * 16 * 1024, "several segments: {written}");
        log.count(&mut node.core);
        assert_eq!(node.core.bytes(), written, "{fails:?}");
        node.feed(wall_ms());
        let tail = node.store.tail(wire::TailCallsRequest {
            run: 1,
            after: 1,
            limit: 1_000,
            ..wire::TailCallsRequest::default()
        });
        let told = numbers(&tail.await.unwrap().calls);
        assert_eq!(
            told,
            (u8::from(at_opening)..=200).collect::<Vec<_>>(),
            "{fails:?}"
        );
        // Nothing else is counted, and yet the room is given back.
        node.feed(wall_ms() + 2 * LATER_MS);
        assert!(node.core.bytes() < written / 2, "{fails:?}");
    }
}

#[test]
fn a_spool_is_trimmed_below_what_is_both_counted_and_durable_in_the_call_log() {
    for counted_first in [true, false] {
        let (dir, disk) = (tempfile::tempdir().unwrap(), FaultDisk::new());
        let (mut node, mut log) = (Node::start(dir.path(), &disk), Log::default());
        (0..200).for_each(|number| node.call(number, true));
        let written = node.core.bytes();
        if counted_first {
            log.count(&mut node.core);
            node.feed(wall_ms());
        } else {
            node.feed(wall_ms() + LATER_MS);
        }
        assert_eq!(node.core.bytes(), written, "{counted_first}");
        if counted_first {
            node.feed(wall_ms() + LATER_MS);
        } else {
            log.count(&mut node.core);
        }
        assert!(node.core.bytes() < written / 2, "{counted_first}");
    }
}
