//! The gateway of a simulated node: it closes calls, and the flusher's own stream sends them until they are counted.

use std::time::Duration;

use mode_envoy_model::usage::batch::{SpoolUuid, UsageRow};
use mode_envoy_model::usage::cells::minute_of;
use mode_envoy_model::usage::counters::Counters;
use mode_envoy_model::usage::histogram::Histogram;
use mode_envoy_model::usage::sender::{Need, Stream};
use mode_envoy_model::usage::series::SeriesKey;
use mode_envoy_raft::Handle;
use mode_envoy_raft::sim::World as _;

use super::host::Nodes;
use super::world::pass;

/// How long one answer is waited for before the same batch is sent again.
const ANSWER: Duration = Duration::from_millis(900);

/// Calls in one batch at most.
const BATCH: u64 = 40;

/// The calls that a node's gateway has closed, one record each.
#[derive(Clone, Debug)]
pub(crate) struct Spool {
    pub(crate) uuid: SpoolUuid,
    pub(crate) closed: u64,
    /// Whether there will be more.
    pub(crate) open: bool,
}

// === impl Spool ===

impl Spool {
    pub(crate) fn new(node: u64) -> Self {
        let mut uuid = [0; 16];
        uuid[..8].copy_from_slice(&node.to_be_bytes());
        Self {
            uuid,
            closed: 0,
            open: true,
        }
    }
}

/// Closes calls and sends them, for one life of a node.
pub(crate) async fn run(nodes: &Nodes, node: u64, handle: &Handle) {
    let Some(uuid) = nodes.with(node, |slot| slot.spool.uuid) else {
        return;
    };
    let mut stream = Stream::new(node, [(0, uuid)]);
    loop {
        pass(Duration::from_millis(20 + nodes.world.below(60))).await;
        let more = nodes.world.below(4);
        nodes.with(node, |slot| {
            if slot.spool.open {
                slot.spool.closed += more;
            }
        });
        advance(nodes, node, handle, &mut stream).await;
    }
}

/// What the flusher does in one round, without its files.
async fn advance(nodes: &Nodes, node: u64, handle: &Handle, stream: &mut Stream) {
    let state = |handle: &Handle| handle.read(|state| state.usage.streams.get(node).cloned());
    if matches!(stream.need(), Need::Compose) {
        compose(nodes, node, handle, stream);
    }
    match stream.need() {
        Need::Compose => {}
        Need::Register => {
            let register = stream.register(state(handle).as_ref());
            let Ok(incarnation) = handle.register(register, ANSWER).await else {
                return;
            };
            if handle.wait_applied(incarnation, ANSWER).await.is_ok() {
                stream.registered(incarnation, state(handle).as_ref());
            }
        }
        Need::Answer(batch) => {
            let batch = batch.clone();
            if let Ok(outcome) = handle.count(batch, ANSWER).await {
                stream.answered(&outcome);
            }
        }
    }
}

fn compose(nodes: &Nodes, node: u64, handle: &Handle, stream: &mut Stream) {
    let closed = nodes.with(node, |slot| slot.spool.closed).unwrap_or(0);
    let from = stream.acked_to(0);
    let to = (closed + 1).min(from + BATCH);
    if to <= from {
        return;
    }
    let counters = Counters {
        calls: to - from,
        attempts: to - from,
        ..Counters::default()
    };
    let row = UsageRow {
        minute: minute_of(nodes.world.wall_ms(node)),
        series: 0,
        counters,
        latency: Histogram::default(),
        ttft: Histogram::default(),
    };
    let series = handle.usage().series;
    let ranges = stream.range(0, to).into_iter().collect();
    let known = |key: &SeriesKey| series.id_of(key);
    stream.compose(ranges, vec![series_of(node)], vec![row], known);
}

fn series_of(node: u64) -> SeriesKey {
    let none = || "".into();
    SeriesKey {
        tenant: format!("of-n{node}").into(),
        team: none(),
        consumer: none(),
        key: none(),
        route: none(),
        api: none(),
        model: none(),
        provider: none(),
        upstream_model: none(),
        status_class: 2,
        folded: false,
    }
}
