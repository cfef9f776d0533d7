//! How leadership moves on purpose: the heir stands for election when it has everything, and nothing new is written meanwhile.
//!
//! A voter refuses to vote while it has heard from the leader within its lease; the leader itself does not, since it hears
//! from nobody. So where leader and heir together are a majority, as of three voters, the heir is elected at once. Else the
//! leader falls silent for one lease first, and asks nobody to confirm that it leads, since that would be heard as well.
//!
//! Invariants: proposals wait meanwhile and then go to whoever leads; whatever comes of it, the leader speaks again.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use crate::cluster::Handle;
use crate::types::{NodeId, Raft, RaftMetrics};

/// How long the heir has to get what it lacks, to answer, and to be elected. Writes wait meanwhile, so it is not long.
const CATCH_UP: Duration = Duration::from_secs(1);
const ASK: Duration = Duration::from_secs(1);
const ELECTION: Duration = Duration::from_millis(1_500);
/// A heartbeat that was under way when the leader fell silent has arrived by then.
const MARGIN: Duration = Duration::from_millis(50);

/// What keeps writing, changing members and handing over apart. Clones share it.
#[derive(Clone)]
pub(crate) struct Leadership {
    /// Held while an entry is written.
    pub(crate) turn: Arc<tokio::sync::Mutex<()>>,
    /// Held while the membership is changed.
    pub(crate) changing: Arc<tokio::sync::Mutex<()>>,
    /// While it is set, nobody is asked to confirm this leader.
    pub(crate) silent: Arc<AtomicBool>,
    lease: Duration,
    since: Arc<Mutex<Instant>>,
}

/// Why leadership did not move.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum TransferError {
    /// Another node leads, or none.
    #[error("{}; leadership was not moved, try again", .0.map_or_else(|| "the cluster has no leader now".to_owned(), |id| format!("node {id} leads now")))]
    NotLeader(Option<u64>),
    /// The target does not vote.
    #[error("node {0} does not vote, so it cannot lead; `cluster status` shows who does")]
    NoVoter(u64),
    /// The target lacks entries.
    #[error("node {0} does not answer, or is behind; leadership was not moved")]
    Behind(u64),
    /// The target was not elected.
    #[error("node {0} was not elected in time; `cluster status` shows who leads now")]
    NotElected(u64),
    /// The leader could not be asked.
    #[error("asking the leader: {0}; `cluster status` shows who leads now")]
    Unasked(String),
}

/// While it lives, this leader is heard no more than it must be.
struct Silence<'a> {
    raft: &'a Raft,
    silent: &'a AtomicBool,
}

// === impl Leadership ===

impl Leadership {
    pub(crate) fn new(lease: Duration) -> Self {
        Self {
            turn: Arc::default(),
            changing: Arc::default(),
            silent: Arc::default(),
            lease,
            since: Arc::new(Mutex::new(Instant::now())),
        }
    }

    /// Another node leads from now on.
    pub(crate) fn changed(&self) {
        *self.since.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn age(&self) -> Duration {
        self.since
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .elapsed()
    }
}

// === impl Silence ===

impl<'a> Silence<'a> {
    fn begin(raft: &'a Raft, silent: &'a AtomicBool) -> Self {
        silent.store(true, Ordering::Release);
        raft.runtime_config().heartbeat(false);
        Self { raft, silent }
    }
}

impl Drop for Silence<'_> {
    fn drop(&mut self) {
        self.raft.runtime_config().heartbeat(true);
        self.silent.store(false, Ordering::Release);
    }
}

/// Moves leadership from this node to `target`. Nobody changes the membership meanwhile: the caller holds `changing`.
pub(crate) async fn transfer(handle: &Handle, target: NodeId) -> Result<(), TransferError> {
    let (leadership, raft) = (handle.leadership(), handle.raft());
    let began = Instant::now();
    let (_, two_decide) = leads(handle, target)?;
    if two_decide {
        // A leader that was elected a moment ago keeps to that vote for a lease; meanwhile it goes on as always.
        sleep((leadership.lease + MARGIN).saturating_sub(leadership.age())).await;
    }
    let _nothing_is_written = leadership.turn.lock().await;
    let (term, two_decide) = leads(handle, target)?;
    wait_for(raft, CATCH_UP, |metrics| has_all(metrics, target))
        .await
        .ok_or(TransferError::Behind(target))?;
    let _silence = if two_decide {
        None
    } else {
        let silence = Silence::begin(raft, &leadership.silent);
        sleep(leadership.lease + MARGIN).await;
        Some(silence)
    };
    let asked = handle.ask_to_campaign(target, term, ASK).await;
    asked.map_err(|status| {
        tracing::debug!(node = target, %status, "the heir could not be asked");
        TransferError::Behind(target)
    })?;
    wait_for(raft, ELECTION, |metrics| {
        metrics.current_leader == Some(target)
    })
    .await
    .ok_or(TransferError::NotElected(target))?;
    let took = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    tracing::info!(leader = target, took_ms = took, "handed leadership over");
    Ok(())
}

/// The term in which this node leads, and whether it and a voter are a majority.
fn leads(handle: &Handle, target: NodeId) -> Result<(u64, bool), TransferError> {
    let metrics = handle.raft().metrics();
    let metrics = metrics.borrow();
    let me = handle.node_id();
    if metrics.current_leader != Some(me) {
        return Err(TransferError::NotLeader(metrics.current_leader));
    }
    let mut voters = metrics.membership_config.voter_ids();
    if !voters.any(|id| id == target) {
        return Err(TransferError::NoVoter(target));
    }
    let two_decide = are_a_majority(&metrics, [me, target]);
    Ok((metrics.current_term, two_decide))
}

async fn wait_for(
    raft: &Raft,
    limit: Duration,
    seen: impl FnMut(&RaftMetrics) -> bool,
) -> Option<()> {
    let mut metrics = raft.metrics();
    matches!(timeout(limit, metrics.wait_for(seen)).await, Ok(Ok(_))).then_some(())
}

/// Whether the target has every entry of the leader's log.
fn has_all(metrics: &RaftMetrics, target: NodeId) -> bool {
    let matching = metrics
        .replication
        .as_ref()
        .and_then(|of| of.get(&target).copied().flatten());
    matching.map(|id| id.index) >= metrics.last_log_index
}

/// Whether these two are a majority, of both sets while the voters change.
fn are_a_majority(metrics: &RaftMetrics, two: [NodeId; 2]) -> bool {
    let membership = metrics.membership_config.membership();
    let mut configs = membership.get_joint_config().iter();
    configs.all(|voters| two.iter().filter(|id| voters.contains(id)).count() > voters.len() / 2)
}
