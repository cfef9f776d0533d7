//! Starts this crate's tasks around consensus, and puts together what uses them.

use std::sync::Arc;
use std::time::Duration;

use mode_envoy_proto::peer::v1 as wire;
use mode_envoy_storage::wal::Wal;
use tokio::sync::watch;
use tonic::service::Routes;
use wire::forward_server::ForwardServer;
use wire::raft_server::RaftServer;

use super::{
    About, Flush, Handle, Hooks, Inner, Settings, StartError, Timers, Unsettled, watchers,
};
use crate::apply::SharedState;
use crate::channels::MAX_MESSAGE_BYTES;
use crate::contact::Contact;
use crate::data_dir::DataDir;
use crate::forward::Forwarder;
use crate::forward_service::{FlushHook, ForwardService, StatusHook};
use crate::identity::Identity;
use crate::peer_server::Local;
use crate::peers::Peers;
use crate::proposer::{self, Proposer};
use crate::raft_service::RaftService;
use crate::reads::{self, ReadError, ReadIndex};
use crate::tasks::Tasks;
use crate::types::{NodeId, Raft};

/// How long a follower waits for the leader's read index.
const READ_LIMIT: Duration = Duration::from_secs(3);

/// What a handle is made of.
pub(super) struct Parts {
    pub(super) raft: Raft,
    pub(super) state: SharedState,
    pub(super) wal: Wal,
    pub(super) peers: Peers,
    pub(super) data_dir: DataDir,
    pub(super) contact: Contact,
    pub(super) unsettled: Unsettled,
}

/// Starts this crate's tasks around consensus; the handle, and what the peer listener serves from now on.
pub(super) fn assemble(
    settings: Settings,
    hooks: Hooks,
    parts: Parts,
    identity: &Identity,
    tasks: &Tasks,
) -> Result<(Handle, Routes), StartError> {
    let Parts {
        raft,
        state,
        wal,
        peers,
        data_dir,
        contact,
        unsettled,
    } = parts;
    let node_id = settings.node_id;
    let local = Local::of(identity)
        .ok_or_else(|| StartError::Consensus("the node has no cluster id".to_owned()))?;
    let (failed, failures) = watch::channel(None);
    watchers::failure(tasks, &raft, failed);
    let leader = watchers::leader(tasks, &raft, contact.clone());
    let forwarder = Forwarder::new(peers, raft.clone());
    let confirming = on_the_leader(tasks, raft.clone());
    let reads = anywhere(tasks, node_id, &leader, &confirming, &forwarder);
    let Hooks {
        authorize,
        flush,
        table_revision,
    } = hooks;
    let leader_of = proposer::Leader {
        node_id,
        raft: raft.clone(),
        state: state.clone(),
        reads: confirming.clone(),
        contact: contact.clone(),
        silence: silence(&settings.timers),
    };
    let proposer = Proposer::start(tasks, leader_of, authorize);
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
    let routes = routes(
        RaftService::new(raft.clone(), local, contact.clone()),
        service,
    );
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
        contact,
        unsettled,
        about,
        tasks: tasks.clone(),
        wal,
        data_dir,
    };
    let handle = Handle {
        inner: Arc::new(inner),
    };
    Ok((handle, routes))
}

/// A read index from this node, if it leads.
fn on_the_leader(tasks: &Tasks, raft: Raft) -> ReadIndex {
    ReadIndex::start(tasks, "read index", move || {
        let raft = raft.clone();
        async move { reads::confirm(&raft).await }
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
