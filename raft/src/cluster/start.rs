//! From settings to a running member. The order of the steps is the order of the code.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use mode_envoy_storage::disk::RealDisk;
use mode_envoy_storage::wal::Wal;
use openraft::error::{InitializeError, RaftError};
use openraft::{Config, SnapshotPolicy};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::assemble::{Parts, assemble};
use super::open::{Opened, open};
use super::{Handle, Hooks, Settings, StartError, Timers, Unsettled, watchers};
use crate::channels::PeerChannels;
use crate::checkpoint::Checkpoints;
use crate::contact::Contact;
use crate::data_dir::{DataDir, DataDirError};
use crate::formation::{self, Formed, Phase};
use crate::identity::Identity;
use crate::machine;
use crate::network::Network;
use crate::peer_server::{self, PeerServices};
use crate::peers::Peers;
use crate::snapshot::Sender;
use crate::tasks::Tasks;
use crate::types::{Member, NodeId, Raft};

/// Entries in one message to a follower; their bytes are bounded as well.
const ENTRIES_PER_MESSAGE: u64 = 64;
/// A follower no more entries behind than this counts as up to date.
const LAG: u64 = 20_000;
/// A transfer that takes longer begins anew; chunks that have arrived are not sent again.
const SNAPSHOT_TIMEOUT_MS: u64 = 10 * 60 * 1_000;
/// How long the others have to say whether this node was removed while it was away.
const ASK_AT_START: Duration = Duration::from_millis(700);

/// The peer listener before it is served.
struct Listening {
    listener: TcpListener,
    services: PeerServices,
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
    let identity = Identity::new(
        &settings.secrets.current(),
        settings.node_id,
        cluster_id,
        settings.pki.as_ref(),
    )?;
    let services = PeerServices::new();
    let listening = Listening {
        listener: peer_listener,
        services: services.clone(),
    };
    let formed = form(&settings, listening, &identity, &data_dir, phase, tasks).await?;
    phase.send_replace(Phase::Replaying);
    let opened = read_disk(&settings, &data_dir, &formed).await?;
    let channels = PeerChannels::new(Arc::clone(&identity));
    let peers = Peers::new(channels, formed.cluster_id, settings.node_id);
    let contact = Contact::default();
    let network = network(&peers, &settings, &contact, &opened.checkpoints);
    let (log, machine) = (opened.log, opened.machine);
    let raft = Raft::new(settings.node_id, Arc::new(config), network, log, machine)
        .await
        .map_err(|e| StartError::Consensus(e.to_string()))?;
    let unsettled = {
        let (state, wal) = (opened.state.clone(), opened.wal.clone());
        machine::blocking(move || Unsettled::read(&state, &wal))
            .await
            .map_err(|_| StartError::Cancelled)?
    };
    let parts = Parts {
        raft: raft.clone(),
        state: opened.state,
        wal: opened.wal,
        checkpoints: opened.checkpoints,
        peers,
        data_dir,
        contact,
        unsettled,
    };
    let joined = async {
        let (handle, routes) = assemble(settings, hooks, parts, &identity, tasks)?;
        services.install(routes);
        join(&handle, &formed, tasks).await?;
        if formed.log_expected {
            still_belongs(&handle).await?;
        }
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

/// What was on the disk; reading it blocks.
async fn read_disk(
    settings: &Settings,
    data_dir: &DataDir,
    formed: &Formed,
) -> Result<Opened, StartError> {
    let (data_dir, formed) = (data_dir.clone(), formed.clone());
    let (node_id, segment_bytes) = (settings.node_id, settings.wal_segment_bytes);
    let opening = move || {
        let disk = Arc::new(RealDisk);
        open(disk, Wal::open, node_id, segment_bytes, &data_dir, &formed)
    };
    machine::blocking(opening)
        .await
        .map_err(|_| StartError::Cancelled)?
}

/// How consensus reaches the others.
pub(super) fn network(
    peers: &Peers,
    settings: &Settings,
    contact: &Contact,
    checkpoints: &Checkpoints,
) -> Network {
    let pace = settings.snapshot_bytes_per_second;
    let sender = Sender::new(checkpoints.clone(), pace);
    let heartbeat = Duration::from_millis(settings.timers.heartbeat_ms);
    let (peers, contact) = (peers.clone(), contact.clone());
    Network::new(peers, settings.node_id, contact, sender, heartbeat)
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

/// Asks the others whether this node was removed while it was away. Who does not answer at once is not waited for: a node
/// that was removed and does not know it yet is told later, and harms nobody.
async fn still_belongs(handle: &Handle) -> Result<(), StartError> {
    if !handle.was_removed(ASK_AT_START).await {
        return Ok(());
    }
    handle.remember_removal().await?;
    let dir = &handle.inner.data_dir;
    Err(StartError::DataDir(DataDirError::Removed {
        path: dir.path().to_owned(),
        node_id: handle.node_id(),
        cluster_id: handle.cluster_id(),
    }))
}

/// Writes the first entry: who the members are. A start that was cut short after it finds it written.
pub(super) async fn initialise(
    raft: &Raft,
    members: &BTreeMap<NodeId, String>,
) -> Result<(), StartError> {
    let members: BTreeMap<NodeId, Member> = members
        .iter()
        .map(|(id, address)| {
            (
                *id,
                Member {
                    peer: address.clone(),
                },
            )
        })
        .collect();
    match raft.initialize(members).await {
        Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
        Err(error) => Err(StartError::Consensus(error.to_string())),
    }
}

pub(super) fn raft_config(settings: &Settings) -> Result<Config, StartError> {
    let Timers {
        heartbeat_ms,
        election_min_ms,
        election_max_ms,
    } = settings.timers;
    let config = Config {
        cluster_name: "mode-envoy".to_owned(),
        heartbeat_interval: heartbeat_ms,
        election_timeout_min: election_min_ms,
        election_timeout_max: election_max_ms,
        max_payload_entries: ENTRIES_PER_MESSAGE,
        replication_lag_threshold: LAG,
        // Both are the keeper's, which knows bytes and the older checkpoint as well.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        install_snapshot_timeout: SNAPSHOT_TIMEOUT_MS,
        ..Config::default()
    };
    config
        .validate()
        .map_err(|e| StartError::Timers(e.to_string()))
}
