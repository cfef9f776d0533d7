//! From settings to a running member. The order of the steps is the order of the code.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;

use mode_envoy_proto::peer::v1 as wire;
use mode_envoy_storage::checkpoint::{CheckpointError, CheckpointStore};
use mode_envoy_storage::disk::{Disk, RealDisk};
use mode_envoy_storage::wal::{Wal, WalError, WalOptions};
use openraft::error::{InitializeError, RaftError};
use openraft::{Config, SnapshotPolicy};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use wire::forward_server::ForwardServer;
use wire::raft_server::RaftServer;

use super::{About, Flush, Handle, Hooks, Inner, Settings, Timers, watchers};
use crate::apply::SharedState;
use crate::channels::{MAX_MESSAGE_BYTES, PeerChannels};
use crate::checkpoint::{self, SnapshotError};
use crate::data_dir::{DataDir, DataDirError};
use crate::formation::{self, Formed, FormationError, Phase};
use crate::forward::Forwarder;
use crate::forward_service::{FlushHook, ForwardService, StatusHook};
use crate::identity::{Identity, IdentityError};
use crate::log_store::LogStore;
use crate::network::Network;
use crate::peer_server::{self, Local, PeerServices};
use crate::peers::Peers;
use crate::proposer::Proposer;
use crate::raft_service::RaftService;
use crate::reads::{self, ReadError, ReadIndex};
use crate::state_machine::StateMachine;
use crate::tasks::Tasks;
use crate::types::{Member, NodeId, Raft};

/// Entries in one message to a follower; their bytes are bounded as well.
const ENTRIES_PER_MESSAGE: u64 = 64;
/// A follower this many entries behind is sent a snapshot; beyond any checkpoint interval, so that it never is.
const LAG: u64 = u64::MAX;
const SNAPSHOT_TIMEOUT_MS: u64 = 120_000;
const PURGE_BATCH: u64 = 1_024;
/// How long a follower waits for the leader's read index.
const READ_LIMIT: std::time::Duration = std::time::Duration::from_secs(3);

/// Why a member does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The data directory is not usable.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The node's certificate could not be made.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The cluster could not be formed.
    #[error(transparent)]
    Formation(#[from] FormationError),
    /// The write-ahead log is not usable.
    #[error(transparent)]
    Wal(#[from] WalError),
    /// The checkpoints are not usable.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// What is on the disk was written by a newer version, or is damaged.
    #[error("{what} in {path} cannot be used: {reason}", path = .path.display())]
    Unreadable {
        /// The log, or the checkpoint.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The log was there and is gone.
    #[error(
        "{path} holds no log, but this node had one: a node that lost its log must not come back under its id, since it may have \
         voted or acknowledged what it no longer knows; remove node {node_id} from the cluster and add a new one",
        path = .path.display()
    )]
    LogLost {
        /// The data directory.
        path: PathBuf,
        /// This node.
        node_id: NodeId,
    },
    /// The timers contradict one another.
    #[error("the timers do not work together: {0}; heartbeat < election_min < election_max")]
    Timers(String),
    /// The consensus library did not start.
    #[error("consensus does not start: {0}")]
    Consensus(String),
    /// It was cancelled.
    #[error("the start was cancelled")]
    Cancelled,
}

/// The peer listener before it is served.
struct Listening {
    listener: TcpListener,
    services: PeerServices,
}

/// What a handle is made of.
struct Parts {
    raft: Raft,
    state: SharedState,
    wal: Wal,
    peers: Peers,
    data_dir: DataDir,
}

/// What was on the disk.
struct Opened {
    wal: Wal,
    log: LogStore,
    state: SharedState,
    machine: StateMachine,
}

/// Forms or rejoins the cluster and starts consensus. Returns when this node is a member and has applied what its own
/// log says is committed; a leader need not exist yet. `phase` tells how far it is.
///
/// Whoever cancels ends every task; [`Handle::shutdown`] does so in order.
///
/// # Errors
/// [`StartError`], which says what to do. Nothing runs on then.
pub async fn start(
    settings: Settings,
    peer_listener: TcpListener,
    hooks: Hooks,
    phase: watch::Sender<Phase>,
    cancel: CancellationToken,
) -> Result<Handle, StartError> {
    let tasks = Tasks::new(cancel);
    let started = run(settings, peer_listener, hooks, &phase, &tasks).await;
    if started.is_err() {
        tasks.shutdown().await;
    }
    started
}

async fn run(
    settings: Settings,
    peer_listener: TcpListener,
    hooks: Hooks,
    phase: &watch::Sender<Phase>,
    tasks: &Tasks,
) -> Result<Handle, StartError> {
    let config = raft_config(&settings)?;
    let data_dir = DataDir::open(&settings.data_dir, settings.node_id)?;
    let cluster_id = data_dir.record().cluster_id();
    let identity =
        Identity::new(&settings.secret, settings.node_id, cluster_id, settings.pki.as_ref())?;
    let services = PeerServices::new();
    let listening = Listening { listener: peer_listener, services: services.clone() };
    let formed = form(&settings, listening, &identity, &data_dir, phase, tasks).await?;
    phase.send_replace(Phase::Replaying);
    let opened = open(&settings, &data_dir, &formed)?;
    let channels = PeerChannels::new(Arc::clone(&identity));
    let peers = Peers::new(channels, formed.cluster_id, settings.node_id);
    let network = Network::new(peers.clone(), settings.node_id);
    let (log, machine) = (opened.log, opened.machine);
    let raft = Raft::new(settings.node_id, Arc::new(config), network, log, machine)
        .await
        .map_err(|e| StartError::Consensus(e.to_string()))?;
    let parts = Parts { raft: raft.clone(), state: opened.state, wal: opened.wal, peers, data_dir };
    let joined = async {
        let (handle, routes) = assemble(settings, hooks, parts, &identity, tasks)?;
        services.install(routes);
        join(&handle, &formed, tasks).await?;
        Ok(handle)
    };
    let joined = joined.await;
    match &joined {
        Ok(_) => {
            phase.send_replace(Phase::Member);
        }
        // The first error is the one to report.
        Err(_) => drop(raft.shutdown().await),
    }
    joined
}

/// Serves the peer listener, formation first, and runs formation.
async fn form(
    settings: &Settings,
    listening: Listening,
    identity: &Arc<Identity>,
    data_dir: &DataDir,
    phase: &watch::Sender<Phase>,
    tasks: &Tasks,
) -> Result<Formed, StartError> {
    let (former, service) = formation::prepare(formation::Setup {
        identity: Arc::clone(identity),
        data_dir: data_dir.clone(),
        advertise_peer: settings.advertise.peer.clone(),
        initial_cluster: settings.initial_cluster.clone(),
    })?;
    let Listening { listener, services } = listening;
    let (identity, cancel) = (Arc::clone(identity), tasks.cancel().clone());
    // It ends by itself after the cancellation, when the calls in flight have ended.
    tasks.spawn_draining("peer listener", async move {
        let served = peer_server::serve(listener, identity, service, services, cancel).await;
        if let Err(error) = served {
            tracing::error!(%error, "the peer listener ended");
        }
    });
    Ok(former.run(phase, tasks.cancel()).await?)
}

/// Opens log and checkpoint and puts the state together.
fn open(
    settings: &Settings,
    data_dir: &DataDir,
    formed: &Formed,
) -> Result<Opened, StartError> {
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let (cluster_id, node_id) = (formed.cluster_id, settings.node_id);
    let dir = data_dir.checkpoint_dir();
    let store = CheckpointStore::open(Arc::clone(&disk), dir.clone(), cluster_id, node_id)?;
    let found = checkpoint::load(&store).map_err(|error| match error {
        SnapshotError::Store(error) => StartError::Checkpoint(error),
        other => StartError::Unreadable {
            what: "the checkpoint",
            path: dir,
            reason: other.to_string(),
        },
    })?;
    let dir = data_dir.wal_dir();
    let mut options = WalOptions::new(dir.clone(), cluster_id, node_id);
    options.segment_bytes = settings.wal_segment_bytes;
    let (wal, recovered) = Wal::open(disk, options)?;
    let empty = recovered.vote.is_none() && recovered.last.is_none();
    if empty && (formed.log_expected || found.is_some()) {
        return Err(StartError::LogLost { path: data_dir.path().to_owned(), node_id });
    }
    let log = LogStore::new(wal.clone(), &recovered).map_err(|error| StartError::Unreadable {
        what: "the log",
        path: dir,
        reason: error.to_string(),
    })?;
    let at = found.as_ref().map(|(at, _)| at.clone());
    let state = SharedState::new(found);
    let machine = StateMachine::new(state.clone(), Arc::new(store), at);
    Ok(Opened { wal, log, state, machine })
}

/// Starts this crate's tasks around consensus; the handle, and what the peer listener serves from now on.
fn assemble(
    settings: Settings,
    hooks: Hooks,
    parts: Parts,
    identity: &Identity,
    tasks: &Tasks,
) -> Result<(Handle, Routes), StartError> {
    let Parts { raft, state, wal, peers, data_dir } = parts;
    let node_id = settings.node_id;
    let local = Local::of(identity)
        .ok_or_else(|| StartError::Consensus("the node has no cluster id".to_owned()))?;
    let (failed, failures) = watch::channel(None);
    watchers::failure(tasks, &raft, failed);
    let leader = watchers::leader(tasks, &raft);
    let forwarder = Forwarder::new(peers, raft.clone());
    let confirming = {
        let raft = raft.clone();
        ReadIndex::start(tasks, "read index", move || {
            let raft = raft.clone();
            async move { reads::confirm(&raft).await }
        })
    };
    let reads = anywhere(tasks, node_id, &leader, &confirming, &forwarder);
    let Hooks { authorize, flush, table_revision } = hooks;
    let (for_proposer, of_reads) = (state.clone(), confirming.clone());
    let proposer =
        Proposer::start(tasks, node_id, raft.clone(), for_proposer, of_reads, authorize);
    let about = About {
        state: state.clone(),
        advertise: settings.advertise,
        version: settings.version,
        table_revision,
    };
    let service = ForwardService {
        local,
        proposer: proposer.clone(),
        reads: confirming,
        flush: flush_hook(flush, state.clone()),
        status: status_hook(about.clone()),
    };
    let routes = routes(RaftService::new(raft.clone(), local), service);
    let inner = Inner {
        node_id,
        cluster_id: local.cluster_id,
        state,
        raft,
        proposer,
        reads,
        forwarder,
        leader,
        failed: failures,
        about,
        tasks: tasks.clone(),
        wal,
        data_dir,
    };
    Ok((Handle { inner: Arc::new(inner) }, routes))
}

/// A read index from wherever the leader is.
fn anywhere(
    tasks: &Tasks,
    node_id: NodeId,
    leader: &watch::Receiver<Option<NodeId>>,
    here: &ReadIndex,
    forwarder: &Forwarder,
) -> ReadIndex {
    let (leader, here, forwarder) = (leader.clone(), here.clone(), forwarder.clone());
    ReadIndex::start(tasks, "read index anywhere", move || {
        let (here, forwarder) = (here.clone(), forwarder.clone());
        let leader = *leader.borrow();
        async move {
            match leader {
                None => Err(ReadError::NotLeader(None)),
                Some(node) if node == node_id => here.get().await,
                Some(node) => forwarder.read_index(node, READ_LIMIT).await,
            }
        }
    })
}

fn routes(raft: RaftService, forward: ForwardService) -> Routes {
    let raft = RaftServer::new(raft)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let forward = ForwardServer::new(forward)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    Routes::new(raft).add_service(forward)
}

fn flush_hook(flush: Flush, state: SharedState) -> FlushHook {
    Arc::new(move || {
        let (flushed, state) = (flush(), state.clone());
        Box::pin(async move {
            flushed.await?;
            Ok(state.applied_index())
        })
    })
}

fn status_hook(about: About) -> StatusHook {
    Arc::new(move || about.answer())
}

/// Initialises the log if that falls to this node, and waits until the log has a membership.
async fn join(handle: &Handle, formed: &Formed, tasks: &Tasks) -> Result<(), StartError> {
    let raft = &handle.inner.raft;
    if formed.initialise {
        initialise(raft, &formed.members).await?;
    }
    tokio::select! {
        () = tasks.cancel().cancelled() => Err(StartError::Cancelled),
        confirmed = watchers::confirm_log(raft, &handle.inner.data_dir) => Ok(confirmed?),
    }
}

/// Writes the first entry: who the members are. A start that was cut short after it finds it written.
async fn initialise(raft: &Raft, members: &BTreeMap<NodeId, String>) -> Result<(), StartError> {
    let members: BTreeMap<NodeId, Member> = members
        .iter()
        .map(|(id, address)| (*id, Member { peer: address.clone() }))
        .collect();
    match raft.initialize(members).await {
        Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
        Err(error) => Err(StartError::Consensus(error.to_string())),
    }
}

fn raft_config(settings: &Settings) -> Result<Config, StartError> {
    let Timers { heartbeat_ms, election_min_ms, election_max_ms } = settings.timers;
    let config = Config {
        cluster_name: "mode-envoy".to_owned(),
        heartbeat_interval: heartbeat_ms,
        election_timeout_min: election_min_ms,
        election_timeout_max: election_max_ms,
        max_payload_entries: ENTRIES_PER_MESSAGE,
        replication_lag_threshold: LAG,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(settings.checkpoint_every),
        max_in_snapshot_log_to_keep: u64::MAX,
        purge_batch_size: PURGE_BATCH,
        install_snapshot_timeout: SNAPSHOT_TIMEOUT_MS,
        ..Config::default()
    };
    config.validate().map_err(|e| StartError::Timers(e.to_string()))
}
