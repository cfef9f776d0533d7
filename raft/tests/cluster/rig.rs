//! What the cluster tests are written in: nodes that start and stop, and short words for what one asks of them.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeMap;
use std::future::Future;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use mode_envoy_model::command::{Command, Rejected, RejectedCode, Violation};
use mode_envoy_model::object::Object;
use mode_envoy_model::tenant::Tenant;
use mode_envoy_model::token::{Role, Token};
use mode_envoy_model::usage::batch::{Register, SeriesRef, SpoolRange, UsageBatch, UsageRow};
use mode_envoy_model::usage::cells::Resolution;
use mode_envoy_model::usage::counters::Counters;
use mode_envoy_model::usage::histogram::Histogram;
use mode_envoy_model::usage::series::SeriesKey;
use mode_envoy_raft::{
    Accepted, Addresses, Caller, ClusterSecret, Handle, Hooks, Phase, ProposeError, Settings,
    StartError, Timers, start,
};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub(crate) type Node = Handle;

/// Far beyond what anything takes, even on a machine that does much else.
pub(crate) const LONG: Duration = Duration::from_secs(30);

/// Nodes by id, each with a directory and an address that outlive it.
pub(crate) struct TestCluster {
    pub(crate) checkpoint_every: u64,
    pub(crate) log_keep: u64,
    secret: ClusterSecret,
    members: BTreeMap<u64, Member>,
    flushes: Arc<AtomicU64>,
    /// Closed by a test, it holds up the leader while it authorises what [`gated`] asks for.
    pub(crate) gate: Arc<Gate>,
    /// How often something has come to the gate.
    pub(crate) at_gate: watch::Sender<u64>,
}

/// Holds up a thread while it is closed, and may turn it away then.
#[derive(Default)]
pub(crate) struct Gate {
    closed: Mutex<bool>,
    refuses: AtomicBool,
    opened: Condvar,
}

struct Member {
    dir: TempDir,
    address: String,
    listener: Option<TcpListener>,
    node: Option<Handle>,
}

// === impl TestCluster ===

impl TestCluster {
    pub(crate) fn new(size: u64) -> Self {
        let member = |id| {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap().to_string();
            let dir = tempfile::tempdir().unwrap();
            (
                id,
                Member {
                    dir,
                    address,
                    listener: Some(listener),
                    node: None,
                },
            )
        };
        Self {
            checkpoint_every: 10_000,
            log_keep: 10_000,
            secret: ClusterSecret::generate().unwrap(),
            members: (1..=size).map(member).collect(),
            flushes: Arc::default(),
            gate: Arc::default(),
            at_gate: watch::Sender::new(0),
        }
    }

    pub(crate) fn dir(&self, id: u64) -> PathBuf {
        self.members[&id].dir.path().join("data")
    }

    pub(crate) fn address(&self, id: u64) -> &str {
        &self.members[&id].address
    }

    pub(crate) fn secret(&self) -> &ClusterSecret {
        &self.secret
    }

    pub(crate) fn node(&self, id: u64) -> Node {
        self.members[&id].node.clone().unwrap()
    }

    pub(crate) fn running(&self) -> Vec<u64> {
        self.members
            .iter()
            .filter(|(_, m)| m.node.is_some())
            .map(|(id, _)| *id)
            .collect()
    }

    /// How often members were asked to flush their usage.
    pub(crate) fn flushes(&self) -> u64 {
        self.flushes.load(Ordering::SeqCst)
    }

    pub(crate) async fn start_all(&mut self) -> Vec<Node> {
        let ids: Vec<u64> = self.members.keys().copied().collect();
        self.start_all_of(&ids).await
    }

    /// Starts some at once; the nodes in their order.
    pub(crate) async fn start_all_of(&mut self, ids: &[u64]) -> Vec<Node> {
        let mut starting = tokio::task::JoinSet::new();
        for id in ids.iter().copied() {
            let started = self.prepare(id);
            starting.spawn(async move { (id, started.await.unwrap()) });
        }
        for (id, node) in within(starting.join_all()).await {
            self.members.get_mut(&id).unwrap().node = Some(node);
        }
        ids.iter().map(|id| self.node(*id)).collect()
    }

    pub(crate) async fn start(&mut self, id: u64) -> Node {
        self.try_start(id).await.unwrap()
    }

    pub(crate) async fn try_start(&mut self, id: u64) -> Result<Node, StartError> {
        let node = within(self.prepare(id)).await?;
        self.members.get_mut(&id).unwrap().node = Some(node.clone());
        Ok(node)
    }

    /// Ends a node; its files and its address stay.
    pub(crate) async fn stop(&mut self, id: u64) {
        let node = self.members.get_mut(&id).unwrap().node.take().unwrap();
        within(node.shutdown()).await;
    }

    fn prepare(
        &mut self,
        id: u64,
    ) -> impl Future<Output = Result<Handle, StartError>> + Send + 'static {
        let initial_cluster = self
            .members
            .iter()
            .map(|(id, m)| (*id, m.address.clone()))
            .collect();
        let dir = self.dir(id);
        let member = self.members.get_mut(&id).unwrap();
        let listener = member.listener.take();
        let listener = listener.unwrap_or_else(|| TcpListener::bind(&member.address).unwrap());
        let advertise = Addresses {
            peer: member.address.clone(),
            ..Addresses::default()
        };
        let mut settings = Settings::new(id, dir, advertise, self.secret.clone());
        settings.initial_cluster = Some(initial_cluster);
        settings.timers = Timers::RELAXED;
        settings.wal_segment_bytes = 1 << 20;
        settings.checkpoint_every = self.checkpoint_every;
        settings.log_keep = self.log_keep;
        let flushes = Arc::clone(&self.flushes);
        let (gate, at_gate) = (Arc::clone(&self.gate), self.at_gate.clone());
        let hooks = Hooks {
            authorize: Arc::new(move |_, caller, _| {
                if *caller == gated() {
                    at_gate.send_modify(|count| *count += 1);
                    return gate.pass();
                }
                known(caller)
            }),
            flush: Arc::new(move || {
                flushes.fetch_add(1, Ordering::SeqCst);
                Box::pin(async { Ok(()) })
            }),
            table_revision: Arc::default(),
            alarms: Arc::new(Vec::new),
            calls: Arc::new(()),
        };
        let phase = watch::Sender::new(Phase::Starting);
        start(settings, listener, hooks, phase, CancellationToken::new())
    }
}

// === impl Gate ===

impl Gate {
    pub(crate) fn close(&self) {
        *self.closed.lock().unwrap() = true;
    }

    pub(crate) fn open(&self) {
        *self.closed.lock().unwrap() = false;
        self.opened.notify_all();
    }

    /// Opens, and refuses who was held up and who comes.
    pub(crate) fn refuse(&self) {
        self.refuses.store(true, Ordering::SeqCst);
        self.open();
    }

    fn pass(&self) -> Result<(), Rejected> {
        let closed = self.closed.lock().unwrap();
        drop(self.opened.wait_while(closed, |closed| *closed).unwrap());
        if self.refuses.load(Ordering::SeqCst) {
            return Err(forbidden("not through this gate"));
        }
        Ok(())
    }
}

/// The node itself may do anything, nobody else.
fn known(caller: &Caller) -> Result<(), Rejected> {
    if caller.token_hash.is_none() {
        return Ok(());
    }
    Err(forbidden("who is this?"))
}

fn forbidden(problem: &str) -> Rejected {
    let violation = Violation {
        path: String::new(),
        problem: problem.to_owned(),
    };
    Rejected {
        code: RejectedCode::Forbidden,
        violations: vec![violation],
    }
}

/// Ends a test that hangs.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(2 * LONG, future)
        .await
        .expect("it takes too long")
}

pub(crate) fn stranger() -> Caller {
    Caller {
        actor: "stranger".to_owned(),
        token_hash: Some([1; 32]),
        request: None,
    }
}

/// Whom the leader keeps waiting at the gate.
pub(crate) fn gated() -> Caller {
    Caller {
        actor: "gated".to_owned(),
        token_hash: None,
        request: None,
    }
}

pub(crate) fn tenant(name: &str) -> Object {
    Object::Tenant(Tenant {
        name: name.into(),
        hosts: Vec::new(),
    })
}

pub(crate) fn put_tenant(name: &str) -> Command {
    Command::Put {
        objects: vec![tenant(name)],
        dry_run: false,
    }
}

pub(crate) async fn put(node: &Node, name: &str) -> Result<Accepted, ProposeError> {
    node.propose(put_tenant(name), &Caller::node(), LONG).await
}

pub(crate) fn found(cluster_id: [u8; 16]) -> Command {
    let root = Token {
        name: "root".into(),
        role: Role::Root,
        hash: [5; 32],
        created_ms: 1,
        tenant: None,
    };
    Command::Found {
        cluster_id,
        wrapped_key: vec![1; 40],
        root,
    }
}

pub(crate) fn register(node: u64) -> Register {
    Register {
        node,
        follows: 0,
        spools: vec![(0, [9; 16])],
    }
}

/// One call, in one record.
pub(crate) fn batch(node: u64, incarnation: u64, seq: u64) -> UsageBatch {
    let empty = || "".into();
    let key = SeriesKey {
        tenant: "acme".into(),
        team: empty(),
        consumer: empty(),
        key: empty(),
        route: empty(),
        api: empty(),
        model: empty(),
        provider: empty(),
        upstream_model: empty(),
        status_class: 2,
        folded: false,
    };
    let mut latency = Histogram::default();
    latency.record(1_000);
    let counters = Counters {
        calls: 1,
        ..Counters::default()
    };
    let minute = u32::MAX;
    UsageBatch {
        node,
        incarnation,
        seq,
        ranges: vec![SpoolRange {
            worker: 0,
            uuid: [9; 16],
            from: seq,
            to: seq + 1,
        }],
        series: vec![SeriesRef::New(key)],
        rows: vec![UsageRow {
            minute,
            series: 0,
            counters,
            latency,
            ttft: Histogram::default(),
        }],
        uses: Vec::new(),
        asks: Vec::new(),
    }
}

/// Calls counted in this node's state.
pub(crate) fn calls(node: &Node) -> u64 {
    let usage = node.usage();
    let days = usage.cells.buckets(Resolution::Day).values();
    let calls = days.map(|bucket| -> u64 {
        let cells = bucket.chunk();
        cells.values().map(|cell| cell.counters.calls).sum()
    });
    calls.sum()
}

/// Waits until this node knows a leader.
pub(crate) async fn leader_of(node: &Node) -> u64 {
    let mut leader = node.watch_leader();
    let leader = within(leader.wait_for(Option::is_some)).await.unwrap();
    leader.unwrap()
}
