//! Starts this crate's tasks around consensus, and puts together what uses them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use mode_envoy_proto::peer::v1 as wire;
use mode_envoy_storage::wal::Wal;
use tokio::sync::watch;
use tonic::service::Routes;
use wire::calls_server::CallsServer;
use wire::forward_server::ForwardServer;
use wire::raft_server::RaftServer;

use super::keeper::{self, Keeping};
use super::{
    About, Alarms, Flush, Handle, Hooks, Inner, Settings, StartError, Timers, Unsettled, watchers,
};
use crate::apply::SharedState;
use crate::calls::{CallRecords, CallsService};
use crate::channels::MAX_MESSAGE_BYTES;
use crate::checkpoint::Checkpoints;
use crate::contact::Contact;
use crate::data_dir::DataDir;
use crate::forward::Forwarder;
use crate::forward_service::{FlushHook, ForwardService, StatusHook};
use crate::identity::Identity;
use crate::join::JoinService;
use crate::members::{self, Departure, Leadership, MembersService};
use crate::peer_server::{Door, Local};
use crate::peers::Peers;
use crate::proposer::{self, Proposer};
use crate::raft_service::RaftService;
use crate::reads::{self, ReadError, ReadIndex};
use crate::rotation::{self, Rotator};
use crate::snapshot::Receiver;
use crate::tasks::Tasks;
use crate::types::{NodeId, Raft};

/// How long a follower waits for the leader's read index.
const READ_LIMIT: Duration = Duration::from_secs(3);

/// What a handle is made of.
pub(super) struct Parts {
    pub(super) raft: Raft,
    pub(super) state: SharedState,
    pub(super) wal: Wal,
    pub(super) checkpoints: Checkpoints,
    pub(super) peers: Peers,
    pub(super) data_dir: DataDir,
    pub(super) contact: Contact,
    pub(super) unsettled: Unsettled,
}

/// Starts this crate's tasks around consensus; the handle, and what the peer listener serves from now on.
pub(super) fn assemble(
    settings: Settings,
    Hooks {
        authorize,
        flush,
        table_revision,
        alarms,
        calls,
    }: Hooks,
    Parts {
        raft,
        state,
        wal,
        checkpoints,
        peers,
        data_dir,
        contact,
        unsettled,
    }: Parts,
    identity: &Arc<Identity>,
    tasks: &Tasks,
) -> Result<(Handle, Routes), StartError> {
    let node_id = settings.node_id;
    let rotator = Rotator::new(Arc::clone(identity), settings.secrets.clone())?;
    let local = Local::of(identity)
        .ok_or_else(|| StartError::Consensus("the node has no cluster id".to_owned()))?;
    let leadership = Leadership::new(Duration::from_millis(settings.timers.election_max_ms));
    let leader = watchers::leader(tasks, &raft, leadership.clone(), contact.clone());
    watchers::standstills(tasks, contact.clone());
    keeper::start(tasks, &raft, &wal, &checkpoints, keeping(&settings));
    let forwarder = Forwarder::new(peers, raft.clone());
    let confirming = on_the_leader(tasks, raft.clone(), Arc::clone(&leadership.silent));
    let reads = anywhere(tasks, node_id, &leader, &confirming, &forwarder);
    let own = proposer::Leader {
        node_id,
        raft: raft.clone(),
        state: state.clone(),
        reads: confirming.clone(),
        contact: contact.clone(),
        silence: silence(&settings.timers),
        turn: Arc::clone(&leadership.turn),
    };
    let proposer = Proposer::start(tasks, own, authorize);
    let about = about(&state, settings, (table_revision, alarms), &rotator);
    let door = Door::new(local, state.clone());
    let service = ForwardService {
        door: door.clone(),
        proposer: proposer.clone(),
        reads: confirming,
        flush: flush_hook(flush, state.clone()),
        status: status_hook(about.clone()),
    };
    let consensus = raft_service(&raft, &door, &state, &checkpoints, (tasks, &contact));
    let routes = routes(consensus, service, calls_service(door.clone(), calls));
    let (departing, departure) = watch::channel(Departure::Staying);
    let inner = Inner {
        node_id,
        cluster_id: local.cluster_id,
        state,
        failed: watchers::failures(tasks, &raft),
        raft,
        proposer,
        reads,
        forwarder,
        leader,
        contact,
        unsettled,
        about,
        leadership,
        departure,
        rotator,
        tasks: tasks.clone(),
        wal,
        checkpoints,
        data_dir,
    };
    let handle = begin(inner, departing, tasks);
    Ok((handle.clone(), with_members(routes, door, handle)))
}

fn begin(inner: Inner, departing: watch::Sender<Departure>, tasks: &Tasks) -> Handle {
    let handle = Handle {
        inner: Arc::new(inner),
    };
    tasks.spawn("secret", rotation::follow(handle.clone()));
    tasks.spawn("membership", members::keep(handle.clone()));
    tasks.spawn("removal", members::watch_removal(handle.clone(), departing));
    handle
}

fn calls_service(door: Door, records: Arc<dyn CallRecords>) -> CallsService {
    CallsService { door, records }
}

/// Beside these, what a member does for the membership and for nodes that join.
fn with_members(routes: Routes, door: Door, handle: Handle) -> Routes {
    let joining = JoinService::new(handle.clone());
    routes
        .add_service(MembersService::server(door, handle))
        .add_service(joining.into_server())
}

fn about(
    state: &SharedState,
    settings: Settings,
    (table_revision, alarms): (Arc<AtomicU64>, Alarms),
    rotator: &Rotator,
) -> About {
    About {
        state: state.clone(),
        advertise: settings.advertise,
        version: settings.version,
        table_revision,
        alarms,
        rotator: rotator.clone(),
        draining: Arc::default(),
        settled: Arc::default(),
    }
}

fn raft_service(
    raft: &Raft,
    door: &Door,
    state: &SharedState,
    checkpoints: &Checkpoints,
    (tasks, contact): (&Tasks, &Contact),
) -> RaftService {
    let (checkpoints, tasks) = (checkpoints.clone(), tasks.clone());
    let receiver = Receiver::new(
        raft.clone(),
        door.clone(),
        state.clone(),
        checkpoints,
        tasks,
    );
    RaftService::new(raft.clone(), door.clone(), receiver, contact.clone())
}

fn keeping(settings: &Settings) -> Keeping {
    Keeping {
        every: settings.checkpoint_every,
        every_bytes: settings.checkpoint_bytes,
        keep: settings.log_keep,
        keep_bytes: settings.log_keep_bytes,
    }
}

/// A read index from this node, if it leads.
fn on_the_leader(tasks: &Tasks, raft: Raft, silent: Arc<AtomicBool>) -> ReadIndex {
    ReadIndex::start(tasks, "read index", move || {
        let (raft, silent) = (raft.clone(), silent.load(Ordering::Acquire));
        async move {
            if silent {
                let reason = "the leader is handing over".to_owned();
                return Err(ReadError::Unconfirmed(reason));
            }
            reads::confirm(&raft).await
        }
    })
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

/// A leader that has heard no quorum for so long proposes nothing: what it wrote would only wait.
fn silence(timers: &Timers) -> Duration {
    Duration::from_millis(timers.election_max_ms.saturating_mul(2))
}

fn routes(raft: RaftService, forward: ForwardService, calls: CallsService) -> Routes {
    let raft = RaftServer::new(raft)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let forward = ForwardServer::new(forward)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let calls = CallsServer::new(calls)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    Routes::new(raft).add_service(forward).add_service(calls)
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
    Arc::new(move |asker| about.answer(asker))
}
