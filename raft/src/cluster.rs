//! A running member of a cluster, and everything one can ask of it: the crate's front door.
//!
//! [`start()`] forms or rejoins the cluster, opens what is on the disk and starts consensus; the [`Handle`] that it
//! returns is cheap to clone and may be used from any tokio runtime. Its work runs on the runtime that called
//! [`start()`], so a caller that gives up interrupts nothing half done.

mod assemble;
mod error;
mod find;
mod keeper;
mod members;
mod open;
#[cfg(feature = "sim")]
pub(crate) mod simulated;
mod start;
mod status;
mod unsettled;
mod watchers;

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

use mode_envoy_model::batch::{Evict, Final, Outcome};
use mode_envoy_model::catalog::Catalog;
use mode_envoy_model::command::Command;
use mode_envoy_model::state::State;
use mode_envoy_model::usage::UsageSnapshot;
use mode_envoy_model::usage::batch::{Register, UsageBatch};
use mode_envoy_storage::wal::{DEFAULT_SEGMENT_BYTES, Wal, WalStats};
use tokio::sync::watch;

use crate::apply::SharedState;
use crate::calls::CallRecords;
use crate::checkpoint::{CheckpointStats, Checkpoints};
use crate::contact::Contact;
use crate::convert::Proposal;
use crate::data_dir::DataDir;
use crate::forward::Forwarder;
use crate::identity::{ClusterId, PeerPki};
use crate::machine;
use crate::members::{Departure, Leadership};
use crate::pools::PoolWatch;
use crate::proposal::{Accepted, Authorize, Caller, ProposeError};
use crate::proposer::{Proposer, Reply};
use crate::reads::ReadIndex;
use crate::rotation::Rotator;
use crate::secret::{ClusterSecret, HeldSecrets};
use crate::tasks::Tasks;
use crate::types::{NodeId, Raft};

pub use error::StartError;
pub use members::{MadeJoinToken, Pending, WouldStall};
pub use start::start;
pub use status::{Ending, HistoryHead, MemberRole, MemberStatus, Status};
pub use unsettled::Unsettled;

/// A future on the heap, as hooks return it.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Sends this node's usage to the log and resolves when the log has it.
pub type Flush = Arc<dyn Fn() -> BoxFuture<Result<(), String>> + Send + Sync>;

/// Where others reach this node's listeners.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Addresses {
    /// Peer listener.
    pub peer: String,
    /// Gateway listener.
    pub gateway: String,
    /// Admin listener.
    pub admin: String,
}

/// How fast a lost leader is noticed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(clippy::struct_field_names, reason = "the unit belongs to each number")]
pub struct Timers {
    /// A leader is heard this often.
    pub heartbeat_ms: u64,
    /// A silent leader is replaced after this at the earliest.
    pub election_min_ms: u64,
    /// The lease of a leader, and the longest wait before a node stands for election.
    pub election_max_ms: u64,
}

/// What a member needs to know about itself.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Which node this is, from 1.
    pub node_id: NodeId,
    /// Where its files are.
    pub data_dir: PathBuf,
    /// Where others reach it.
    pub advertise: Addresses,
    /// The nodes of a new cluster, the same on all of them; `None` is a cluster of one.
    pub initial_cluster: Option<BTreeMap<NodeId, String>>,
    /// What all nodes of the cluster share.
    pub secrets: HeldSecrets,
    /// Certificates of the operator's own, instead of those made from the secret.
    pub pki: Option<PeerPki>,
    /// How fast a lost leader is noticed.
    pub timers: Timers,
    /// Size of a segment of the write-ahead log.
    pub wal_segment_bytes: u64,
    /// A checkpoint is written after this many entries.
    pub checkpoint_every: u64,
    /// Or after this many bytes of log.
    pub checkpoint_bytes: u64,
    /// Entries of the log that are kept behind the newest checkpoint; at least those back to the one before it are.
    pub log_keep: u64,
    /// Or fewer, where they have more bytes than this.
    pub log_keep_bytes: u64,
    /// How fast a checkpoint is sent to another member.
    pub snapshot_bytes_per_second: u64,
    /// Of this build, for the others to see.
    pub version: String,
}

/// What is wrong on a node although it serves, a sentence each.
pub type Alarms = Arc<dyn Fn() -> Vec<String> + Send + Sync>;

/// What the process around this crate does for it.
#[derive(Clone)]
pub struct Hooks {
    /// Whether a caller may do something.
    pub authorize: Authorize,
    /// Flushes this node's usage.
    pub flush: Flush,
    /// The revision that is in force in this node's data plane.
    pub table_revision: Arc<AtomicU64>,
    /// What is wrong on this node, for the others to see.
    pub alarms: Alarms,
    /// This node's call records.
    pub calls: Arc<dyn CallRecords>,
}

/// A running member. Clones share it.
#[derive(Clone)]
pub struct Handle {
    inner: Arc<Inner>,
}

struct Inner {
    node_id: NodeId,
    cluster_id: ClusterId,
    state: SharedState,
    raft: Raft,
    proposer: Proposer,
    reads: ReadIndex,
    forwarder: Forwarder,
    leader: watch::Receiver<Option<NodeId>>,
    failed: watch::Receiver<Option<String>>,
    contact: Contact,
    unsettled: Unsettled,
    about: About,
    leadership: Leadership,
    departure: watch::Receiver<Departure>,
    rotator: Rotator,
    tasks: Tasks,
    wal: Wal,
    checkpoints: Checkpoints,
    /// Holds the directory's lock for as long as anything may write there.
    data_dir: DataDir,
}

/// What this node says of itself. Cheap to clone.
#[derive(Clone)]
struct About {
    state: SharedState,
    advertise: Addresses,
    version: String,
    table_revision: Arc<AtomicU64>,
    alarms: Alarms,
    rotator: Rotator,
    draining: Arc<AtomicBool>,
    settled: Arc<AtomicBool>,
}

// === impl Timers ===

impl Timers {
    /// For machines that are shared with much else: tests and demonstrations.
    pub const RELAXED: Self = Self {
        heartbeat_ms: 300,
        election_min_ms: 1_000,
        election_max_ms: 1_400,
    };
}

impl Default for Timers {
    fn default() -> Self {
        Self {
            heartbeat_ms: 150,
            election_min_ms: 500,
            election_max_ms: 700,
        }
    }
}

// === impl Settings ===

impl Settings {
    /// A cluster of one with defaults; set what differs.
    pub fn new(
        node_id: NodeId,
        data_dir: PathBuf,
        advertise: Addresses,
        secret: ClusterSecret,
    ) -> Self {
        let secrets = HeldSecrets::only(&data_dir, secret);
        Self {
            node_id,
            data_dir,
            advertise,
            initial_cluster: None,
            secrets,
            pki: None,
            timers: Timers::default(),
            wal_segment_bytes: DEFAULT_SEGMENT_BYTES,
            checkpoint_every: 10_000,
            checkpoint_bytes: 64 << 20,
            log_keep: 10_000,
            log_keep_bytes: 256 << 20,
            snapshot_bytes_per_second: 64 << 20,
            version: String::new(),
        }
    }
}

// === impl Hooks ===

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hooks")
            .field("table_revision", &self.table_revision)
            .finish_non_exhaustive()
    }
}

// === impl Handle ===

impl Handle {
    /// Which node this is.
    pub fn node_id(&self) -> NodeId {
        self.inner.node_id
    }

    /// The cluster it is a member of.
    pub fn cluster_id(&self) -> ClusterId {
        self.inner.cluster_id
    }

    /// The configuration as applied here.
    pub fn catalog(&self) -> Arc<Catalog> {
        self.inner.state.catalog()
    }

    /// Changes when the configuration does.
    pub fn watch_catalog(&self) -> watch::Receiver<Arc<Catalog>> {
        self.inner.state.watch_catalog()
    }

    /// Usage as applied here: what queries read, without holding anything up.
    pub fn usage(&self) -> UsageSnapshot {
        self.read(|state| state.usage.snapshot())
    }

    /// Runs `f` on the state under its read lock, which holds up applying: keep it short.
    pub fn read<R>(&self, f: impl FnOnce(&State) -> R) -> R {
        self.inner.state.read(f)
    }

    /// The cluster's wall clock as of the last applied entry; Unix milliseconds.
    pub fn wall_ms(&self) -> u64 {
        self.read(|state| state.wall_ms)
    }

    /// Index of the last entry applied here.
    pub fn applied_index(&self) -> u64 {
        self.inner.state.applied_index()
    }

    /// Changes with every entry applied here.
    pub fn watch_applied(&self) -> watch::Receiver<u64> {
        self.inner.state.watch_applied()
    }

    /// Tells which pools of limits the applied log changes; one waits at a time.
    pub fn watch_pools(&self) -> PoolWatch {
        self.inner.state.watch_pools()
    }

    /// Has the leader decide a command. Where it is accepted, it is applied on the leader; see
    /// [`Self::wait_applied`] for this node.
    ///
    /// # Errors
    /// [`ProposeError::Timeout`] alone leaves it open whether the command took effect.
    pub async fn propose(
        &self,
        command: Command,
        caller: &Caller,
        timeout: Duration,
    ) -> Result<Accepted, ProposeError> {
        let reply = self
            .find_and_propose(Proposal::Command(command), caller, timeout)
            .await?;
        match reply {
            Reply::Accepted(accepted) => Ok(accepted),
            Reply::Stream(outcome) => Err(unexpected(&outcome)),
        }
    }

    /// Starts a new incarnation of a node's usage stream; its number.
    ///
    /// # Errors
    /// After [`ProposeError::Timeout`] read the stream before registering again: this one may have taken effect, and
    /// one that does not follow the current incarnation is [`ProposeError::Unavailable`].
    pub async fn register(
        &self,
        register: Register,
        timeout: Duration,
    ) -> Result<u64, ProposeError> {
        let proposal = Proposal::Register(register);
        match self
            .find_and_propose(proposal, &Caller::node(), timeout)
            .await?
        {
            Reply::Stream(Outcome::Registered { incarnation }) => Ok(incarnation),
            Reply::Stream(outcome) => Err(unexpected(&outcome)),
            Reply::Accepted(_) => Err(unexpected(&Outcome::Malformed)),
        }
    }

    /// Has a usage batch counted; what became of it, once it is applied on the leader.
    ///
    /// # Errors
    /// After [`ProposeError::Timeout`] send the identical batch again: it counts once.
    pub async fn count(
        &self,
        batch: UsageBatch,
        timeout: Duration,
    ) -> Result<Outcome, ProposeError> {
        self.propose_stream(Proposal::Usage(batch), timeout).await
    }

    async fn propose_stream(
        &self,
        proposal: Proposal,
        timeout: Duration,
    ) -> Result<Outcome, ProposeError> {
        match self
            .find_and_propose(proposal, &Caller::node(), timeout)
            .await?
        {
            Reply::Stream(outcome) => Ok(outcome),
            Reply::Accepted(_) => Err(unexpected(&Outcome::Malformed)),
        }
    }

    /// Gives back what an old incarnation of this node had left of limits; what became of that.
    ///
    /// # Errors
    /// After [`ProposeError::Timeout`] ask again: it is done once.
    pub async fn finish(&self, done: Final, timeout: Duration) -> Result<Outcome, ProposeError> {
        self.propose_stream(Proposal::Final(done), timeout).await
    }

    /// Burns what an incarnation of a node has of limits, since nobody will tell what became of it; what became of that.
    ///
    /// # Errors
    /// After [`ProposeError::Timeout`] ask again: it is done once.
    pub async fn evict(&self, evict: Evict, timeout: Duration) -> Result<Outcome, ProposeError> {
        self.propose_stream(Proposal::Evict(evict), timeout).await
    }

    /// Returns when this node has applied everything that was acknowledged anywhere before the call; the index.
    ///
    /// # Errors
    /// Where no leader confirms itself in time. Nothing was written in any case.
    pub async fn read_barrier(&self, timeout: Duration) -> Result<u64, ProposeError> {
        self.find_and_read(timeout).await
    }

    /// Waits until this node has applied the entry at `index`.
    ///
    /// # Errors
    /// [`ProposeError::Timeout`], or [`ProposeError::ShuttingDown`].
    pub async fn wait_applied(&self, index: u64, timeout: Duration) -> Result<(), ProposeError> {
        let mut applied = self.watch_applied();
        match tokio::time::timeout(timeout, applied.wait_for(|at| *at >= index)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(ProposeError::ShuttingDown),
            Err(_) => Err(ProposeError::Timeout),
        }
    }

    /// The leader as known here.
    pub fn watch_leader(&self) -> watch::Receiver<Option<NodeId>> {
        self.inner.leader.clone()
    }

    /// When this node last knew itself connected to the quorum.
    pub fn contact(&self) -> Contact {
        self.inner.contact.clone()
    }

    /// What its log held, at its start, beyond what it knew to be committed.
    pub fn unsettled(&self) -> Unsettled {
        self.inner.unsettled.clone()
    }

    /// Says why this node cannot go on: its storage or its consensus failed. The process should end then.
    pub fn failed(&self) -> watch::Receiver<Option<String>> {
        self.inner.failed.clone()
    }

    pub(crate) fn forwarder(&self) -> Forwarder {
        self.inner.forwarder.clone()
    }

    pub(crate) fn tasks(&self) -> &Tasks {
        &self.inner.tasks
    }

    /// What the write-ahead log has done since the start, for metrics.
    pub fn wal_stats(&self) -> WalStats {
        self.inner.wal.stats()
    }

    /// The index of the oldest entry that this node's log still has; 0 if it has none.
    pub fn log_first_index(&self) -> u64 {
        self.inner.wal.first_index().unwrap_or(0)
    }

    /// The checkpoints of this node, and what was sent and received of them, for metrics.
    pub fn checkpoint_stats(&self) -> CheckpointStats {
        self.inner.checkpoints.counters().read()
    }

    /// Ends consensus and all tasks, and closes the log. May be called more than once.
    pub async fn shutdown(&self) {
        // A core that panicked has said so through `failed`.
        let _ = self.inner.raft.shutdown().await;
        self.inner.tasks.shutdown().await;
        let wal = self.inner.wal.clone();
        // The writer's thread is joined; it may be in a sync.
        let _ = machine::blocking(move || wal.close()).await;
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle")
            .field("node_id", &self.inner.node_id)
            .finish_non_exhaustive()
    }
}

fn unexpected(outcome: &Outcome) -> ProposeError {
    ProposeError::Unavailable(format!("the leader answered {outcome:?}"))
}
