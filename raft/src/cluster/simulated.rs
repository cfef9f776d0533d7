//! A member in a simulation: started without formation and TLS, and open to questions that no node answers.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::future::Future;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use mode_envoy_model::state::State;
use mode_envoy_proto::peer::v1 as wire;
use mode_envoy_storage::checkpoint::CheckpointStore;
use mode_envoy_storage::disk::Disk;
use mode_envoy_storage::wal::{Position, Stepper, Wal, WalOptions};
use openraft::ServerState;
use prost::Message as _;
use tokio::sync::OwnedMutexGuard;
use tokio_util::sync::CancellationToken;
use tonic::codegen::{Body, Bytes, Service, StdError, http};
use tonic::service::Routes;

use super::assemble::{Parts, assemble};
use super::open::{Opened, open};
use super::start::{initialise, network, raft_config};
use super::{Handle, Hooks, Settings, StartError, Unsettled};
use crate::channels::PeerChannels;
use crate::checkpoint::Checkpoints;
use crate::contact::Contact;
use crate::convert;
use crate::data_dir::DataDir;
use crate::formation::Formed;
use crate::identity::{ClusterId, Identity, PeerIdentity};
use crate::peers::Peers;
use crate::sim::Stream;
use crate::tasks::Tasks;
use crate::types::{self, NodeId, Raft};

/// What formation would have come to.
#[derive(Clone, Debug)]
pub struct Founding {
    /// Who this node is; made once, since a certificate takes long.
    pub identity: Arc<Identity>,
    /// The cluster.
    pub cluster_id: ClusterId,
    /// The first members, if this node writes the first entry.
    pub members: Option<BTreeMap<NodeId, String>>,
    /// Whether the node's log was synced before: an empty one is refused then.
    pub log_expected: bool,
    /// Whether the membership follows the log. Else only the simulation changes it, and leadership cannot be handed over.
    pub keeps_members: bool,
}

/// The disk of a member, and who writes its log.
pub struct SimDisk {
    /// Files.
    pub disk: Arc<dyn Disk>,
    /// Called when the log has work.
    pub wake: Box<dyn Fn() + Send + Sync>,
    /// Called once with what does that work.
    pub drive: Box<dyn FnOnce(Stepper) + Send>,
}

/// A running member. Clones share it.
#[derive(Clone)]
pub struct Member {
    handle: Handle,
    raft: Raft,
    wal: Wal,
    routes: Routes,
    cluster_id: ClusterId,
    /// Who has it changes the members.
    _changing: Option<Arc<OwnedMutexGuard<()>>>,
}

/// What consensus of a member looks like at one moment.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Probe {
    /// The vote, by term and node.
    pub vote: (u64, NodeId),
    /// Whether a quorum has granted it.
    pub vote_committed: bool,
    /// Whether this node leads, as it believes.
    pub leads: bool,
    /// Whom it believes to lead.
    pub leader: Option<NodeId>,
    /// Index of the last entry applied.
    pub applied: u64,
    /// The voters, one set or, while they change, two.
    pub voters: Vec<BTreeSet<NodeId>>,
    /// Index of the entry that made them so.
    pub voters_since: u64,
    /// Every member.
    pub members: BTreeSet<NodeId>,
    /// Why consensus ended, if it did.
    pub ended: Option<String>,
}

/// What is on a disk.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Found {
    /// Up to which index the checkpoint has everything.
    pub covered: u64,
    /// The entries that the log has.
    pub log: Vec<Position>,
}

/// One entry of a log, told from others.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct LogLine {
    /// Where it stands.
    pub index: u64,
    /// In which term it was proposed.
    pub term: u64,
    /// By which leader of that term.
    pub node: NodeId,
    /// Of its bytes.
    pub hash: u64,
}

/// The services behind one connection, which need no certificate to know who speaks.
#[derive(Clone)]
struct Serving {
    peer: PeerIdentity,
    routes: Routes,
}

/// Starts a member.
///
/// # Errors
/// As [`super::start()`], for what is on the disk.
pub async fn start(
    settings: Settings,
    hooks: Hooks,
    founding: Founding,
    disk: SimDisk,
    cancel: CancellationToken,
) -> Result<Member, StartError> {
    let tasks = Tasks::new(cancel);
    let config = raft_config(&settings)?;
    let data_dir = DataDir::open(&settings.data_dir, settings.node_id)?;
    let cluster_id = founding.cluster_id;
    let formed = Formed {
        cluster_id,
        initialise: founding.members.is_some(),
        log_expected: founding.log_expected,
        members: founding.members.unwrap_or_default(),
    };
    let node_id = settings.node_id;
    let opened = opened(disk, &settings, &data_dir, &formed)?;
    let channels = PeerChannels::new(Arc::clone(&founding.identity));
    let peers = Peers::new(channels, cluster_id, node_id);
    let contact = Contact::default();
    let network = network(&peers, &settings, &contact, &opened.checkpoints);
    let raft = Raft::new(
        node_id,
        Arc::new(config),
        network,
        opened.log,
        opened.machine,
    )
    .await
    .map_err(|e| StartError::Consensus(e.to_string()))?;
    let unsettled = Unsettled::read(&opened.state, &opened.wal);
    let parts = Parts {
        raft: raft.clone(),
        state: opened.state,
        wal: opened.wal.clone(),
        checkpoints: opened.checkpoints,
        peers,
        data_dir,
        contact,
        unsettled,
    };
    let (handle, routes) = assemble(settings, hooks, parts, &founding.identity, &tasks)?;
    let changing = Arc::clone(&handle.leadership().changing);
    let changing = (!founding.keeps_members).then(|| changing.try_lock_owned());
    if formed.initialise {
        initialise(&raft, &formed.members).await?;
    }
    Ok(Member {
        handle,
        raft,
        wal: opened.wal,
        routes: routes.prepare(),
        cluster_id,
        _changing: changing.and_then(Result::ok).map(Arc::new),
    })
}

/// What is on the disk. Until all of it is put together, what is asked of the log is written at once: opening waits for it.
fn opened(
    disk: SimDisk,
    settings: &Settings,
    data_dir: &DataDir,
    formed: &Formed,
) -> Result<Opened, StartError> {
    let SimDisk { disk, wake, drive } = disk;
    let opening = Arc::new(Mutex::new(None::<Stepper>));
    let stepping = Arc::clone(&opening);
    let wake = move || match &mut *lock(&stepping) {
        Some(stepper) => while stepper.step() {},
        None => wake(),
    };
    let open_wal = |disk, options| {
        let (wal, recovered, stepper) = Wal::open_stepped(disk, options, wake)?;
        *lock(&opening) = Some(stepper);
        Ok((wal, recovered))
    };
    let segment_bytes = settings.wal_segment_bytes;
    let opened = open(
        disk,
        open_wal,
        settings.node_id,
        segment_bytes,
        data_dir,
        formed,
    );
    if let Some(stepper) = lock(&opening).take() {
        drive(stepper);
    }
    opened
}

/// What a node would find on a disk: what it can be held to after a crash. `like` says whose files and where.
///
/// # Errors
/// Where it would refuse to start.
pub fn found_on(
    disk: Arc<dyn Disk>,
    checkpoints: PathBuf,
    like: WalOptions,
) -> Result<Found, String> {
    let (cluster_id, node_id) = (like.cluster_id, like.node_id);
    let store = CheckpointStore::open(Arc::clone(&disk), checkpoints, cluster_id, node_id);
    let store = store.map_err(|e| e.to_string())?;
    let (_, checkpoint) = Checkpoints::open(store).map_err(|e| e.to_string())?;
    let at = checkpoint.and_then(|(at, _)| at.last_log_id);
    let covered = at.map_or(0, |id| id.index);
    let opened = Wal::open_stepped(disk, like, || {});
    let (wal, _, _) = opened.map_err(|e| e.to_string())?;
    let purged = wal.purged().map_or(0, |purged| purged.index);
    if purged > covered {
        return Err(format!(
            "its log begins after {purged}, its checkpoint stands at {covered}"
        ));
    }
    let records = wal.read(0, u64::MAX, usize::MAX);
    let records = records.map_err(|e| e.to_string())?;
    Ok(Found {
        covered,
        log: records.iter().map(|record| record.position).collect(),
    })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Member ===

impl Member {
    /// What a node works with.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Serves a connection of another member, until it ends.
    pub async fn serve(&self, from: NodeId, stream: Stream) {
        let service = Serving {
            peer: PeerIdentity {
                node_id: from,
                cluster_id: Some(self.cluster_id),
            },
            routes: self.routes.clone(),
        };
        let mut builder = auto::Builder::new(TokioExecutor::new()).http2_only();
        builder.http2().timer(TokioTimer::new());
        // How a connection ends is the caller's story: it sees the same from the other side.
        let _ = builder
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service))
            .await;
    }

    /// What consensus looks like now.
    pub fn probe(&self) -> Probe {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let membership = metrics.membership_config.membership();
        Probe {
            vote: (metrics.vote.leader_id.term, metrics.vote.leader_id.node_id),
            vote_committed: metrics.vote.committed,
            leads: metrics.state == ServerState::Leader,
            leader: metrics.current_leader,
            applied: self.handle.applied_index(),
            voters: membership.get_joint_config().clone(),
            voters_since: metrics.membership_config.log_id().map_or(0, |id| id.index),
            members: membership.nodes().map(|(id, _)| *id).collect(),
            ended: metrics
                .running_state
                .as_ref()
                .err()
                .map(ToString::to_string),
        }
    }

    /// The last entry, if the log has one and has not failed.
    pub fn last(&self) -> Option<LogLine> {
        let last = self.wal.last()?;
        self.log(last.index).ok()?.pop()
    }

    /// Up to which index the log was let go of, since a checkpoint has it.
    pub fn purged(&self) -> u64 {
        self.wal.purged().map_or(0, |purged| purged.index)
    }

    /// The entries from `from` on.
    ///
    /// # Errors
    /// Where the log has failed.
    pub fn log(&self, from: u64) -> Result<Vec<LogLine>, String> {
        let records = self.wal.read(from, u64::MAX, usize::MAX);
        let lines = records.map_err(|e| e.to_string())?.into_iter();
        Ok(lines
            .map(|record| {
                let mut hasher = DefaultHasher::new();
                record.payload.hash(&mut hasher);
                let entry = wire::Entry::decode(record.payload).unwrap_or_default();
                LogLine {
                    index: record.position.index,
                    term: record.position.term,
                    node: entry.id.map_or(0, |id| id.node),
                    hash: hasher.finish(),
                }
            })
            .collect())
    }

    /// The state and the index it is the state of.
    pub fn state<R>(&self, f: impl FnOnce(u64, &State) -> R) -> R {
        self.handle
            .read(|state| f(self.handle.applied_index(), state))
    }

    /// A number that is the same for equal states, and for others hardly ever.
    ///
    /// # Errors
    /// Where the state cannot be written as a checkpoint.
    pub fn state_hash(&self) -> Result<u64, String> {
        let at = types::SnapshotMeta::default();
        let encoded = self
            .handle
            .read(|state| convert::encode_checkpoint(state, &at));
        let encoded = encoded.map_err(|e| e.to_string())?;
        let mut hasher = DefaultHasher::new();
        encoded.chunks.hash(&mut hasher);
        Ok(hasher.finish())
    }

    /// Adds a member that does not vote.
    ///
    /// # Errors
    /// What the consensus library says.
    pub async fn add_learner(&self, node: NodeId, address: String) -> Result<u64, String> {
        let member = types::Member { peer: address };
        let added = self.raft.add_learner(node, member, false).await;
        added
            .map(|done| done.log_id.index)
            .map_err(|e| e.to_string())
    }

    /// Makes exactly these the voters, whatever the rule is; who voted before stays to learn.
    ///
    /// # Errors
    /// What the consensus library says.
    pub async fn change_voters(&self, voters: BTreeSet<NodeId>) -> Result<u64, String> {
        let changed = self.raft.change_membership(voters, true).await;
        changed
            .map(|done| done.log_id.index)
            .map_err(|e| e.to_string())
    }
}

impl<B> Service<http::Request<B>> for Serving
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<StdError>,
{
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: http::Request<B>) -> Self::Future {
        request.extensions_mut().insert(self.peer);
        let mut routes = self.routes.clone();
        Box::pin(async move { routes.call(request).await })
    }
}

impl std::fmt::Debug for Member {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Member")
            .field("handle", &self.handle)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimDisk")
            .field("disk", &self.disk)
            .finish_non_exhaustive()
    }
}
