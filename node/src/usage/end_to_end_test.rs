//! From a recorder through a real log of one node to an answer, and over restarts.

use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use mode_envoy_model::object::Name;
use mode_envoy_model::usage::counters::Counters;
use mode_envoy_model::usage::query::{Dimension, Interval, Query};
use mode_envoy_raft::{Addresses, ClusterSecret, Handle, Hooks, Phase, Settings};

use super::Queries;
use super::calls::CallStore;
use super::flush::{self, FlushHandle};
use super::flusher::{Core, Flusher};
use super::record::{Asked, CallId, Closed, Dims, Opened, UsageSource};
use super::recorder::Recorder;
use super::recovery;
use super::testing::settings;
use crate::alarms::Alarms;
use crate::limits;
use crate::supervisor::{Supervisor, TaskKind};

struct Node {
    handle: Handle,
    flush: FlushHandle,
    recorders: Vec<Recorder>,
    supervisor: Supervisor,
}

// === impl Node ===

impl Node {
    async fn start(dir: &Path, secret: &ClusterSecret) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let peer = listener.local_addr().unwrap().to_string();
        let advertise = Addresses {
            peer,
            ..Addresses::default()
        };
        let hooks = Hooks {
            authorize: Arc::new(|_, _, _| Ok(())),
            flush: Arc::new(|| Box::pin(async { Ok(()) })),
            table_revision: Arc::new(AtomicU64::new(0)),
            alarms: Arc::new(Vec::new),
            calls: Arc::new(()),
        };
        let settings_of = Settings::new(1, dir.join("data"), advertise, secret.clone());
        let phase = watch::Sender::new(Phase::Starting);
        let handle = mode_envoy_raft::start(
            settings_of,
            listener,
            hooks,
            phase,
            CancellationToken::new(),
        )
        .await
        .unwrap();

        let mut spools = settings(&dir.join("usage"), 2);
        spools.cluster_id = handle.cluster_id();
        let recovered = recovery::open(&spools).unwrap();
        let (flush, requests) = flush::channel();
        let supervisor = Supervisor::new();
        let core = Core::new(1, spools.dir, recovered.spools);
        let (_, settle) = CallStore::new(u64::MAX);
        let (_limiter, limits) = limits::channel(handle.contact(), true);
        let flusher = Flusher::new(
            core,
            handle.clone(),
            (requests, settle, limits),
            Alarms::default(),
        );
        let stopping = supervisor.stopping();
        let run = move || flusher.run(&stopping);
        supervisor
            .spawn_thread("usage", TaskKind::Essential, run)
            .unwrap();
        Self {
            handle,
            flush,
            recorders: recovered.recorders,
            supervisor,
        }
    }

    async fn end(self) {
        assert!(
            self.supervisor
                .stop(std::time::Duration::from_secs(10))
                .await
        );
        self.handle.shutdown().await;
    }

    async fn totals(&self) -> Vec<(String, Counters)> {
        let now = u32::try_from(super::recorder::wall_ms() / 60_000).unwrap();
        let query = Query {
            from_minute: now - 10,
            to_minute: now + 1,
            interval: Interval::Total,
            group_by: vec![Dimension::Model],
            filter: Vec::new(),
        };
        let queries = Queries::new(self.handle.clone(), self.flush.clone());
        let answer = queries.run(query, true).await.unwrap();
        assert!(answer.missing_nodes.is_empty());
        let row = |row: mode_envoy_model::usage::query::ReportRow| {
            (row.dimensions.concat(), row.counters)
        };
        answer.report.rows.into_iter().map(row).collect()
    }
}

fn dims(model: &str) -> Dims {
    Dims {
        tenant: Name::from("acme"),
        model: Name::from(model),
        ..Dims::empty()
    }
}

fn call(recorder: &Recorder, id: u8, dims: &Dims, close: bool) {
    let call = CallId([id; 16]);
    recorder
        .open(&Opened {
            call,
            attempt: 0,
            dims,
            asked: Asked::default(),
            reserved_input: 11,
            bytes_in: 44,
            takes: &crate::usage::record::Takes::NONE,
        })
        .unwrap();
    if close {
        let closed = Closed {
            status: 200,
            usage_source: UsageSource::Reported,
            input_uncached: 3,
            output: 5,
            ..Closed::of(call, 0, dims)
        };
        recorder.close(&closed).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_linearizable_answer_covers_every_call_that_ended_before_it_and_restarts_presume_the_rest()
 {
    let dir = tempfile::tempdir().unwrap();
    let secret = ClusterSecret::generate().unwrap();
    let (fast, slow) = (dims("fast"), dims("slow"));

    let node = Node::start(dir.path(), &secret).await;
    call(&node.recorders[0], 1, &fast, true);
    call(&node.recorders[1], 2, &fast, true);
    call(&node.recorders[1], 3, &slow, false);
    let seen = node.totals().await;
    let [(model, counters)] = &*seen else {
        panic!("{seen:?}")
    };
    assert_eq!(model, "fast");
    assert_eq!(
        (counters.calls, counters.input_tokens(), counters.output),
        (2, 6, 10)
    );
    node.end().await;

    let node = Node::start(dir.path(), &secret).await;
    call(&node.recorders[0], 4, &fast, true);
    let seen = node.totals().await;
    let [(_, counters), (model, presumed)] = &*seen else {
        panic!("{seen:?}")
    };
    assert_eq!((counters.calls, counters.input_tokens()), (3, 9));
    assert_eq!(model, "slow");
    assert_eq!(
        (presumed.calls, presumed.errors, presumed.presumed),
        (1, 1, 1)
    );
    assert_eq!(
        (presumed.input_tokens(), presumed.output, presumed.unpriced),
        (11, 0, 1)
    );
    node.end().await;
}
