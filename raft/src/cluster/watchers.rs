//! Tasks that turn what the consensus library reports into what others wait for.

use std::time::Duration;

use openraft::error::Fatal;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::contact::{Acks, BootMs, Contact, Look};
use crate::data_dir::DataDir;
use crate::machine;
use crate::members::Leadership;
use crate::tasks::Tasks;
use crate::types::{NodeId, Raft, RaftMetrics};

/// How often this node looks whether it runs.
const TICK: Duration = Duration::from_millis(250);

/// The clock that the consensus library goes by, beside the one of the boot.
struct Clocks {
    began: Instant,
}

// === impl Clocks ===

impl Clocks {
    fn new() -> Self {
        Self {
            began: Instant::now(),
        }
    }

    fn look(&self) -> Look {
        // In this order: a pause between the two looks like a short sleep, which hides nothing.
        let monotonic = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        Look {
            monotonic,
            boot: BootMs::now(),
        }
    }
}

// === free functions ===

/// Follows who leads, and, where this node does, when a quorum acknowledged it.
pub(super) fn leader(
    tasks: &Tasks,
    raft: &Raft,
    leadership: Leadership,
    contact: Contact,
) -> watch::Receiver<Option<NodeId>> {
    let mut metrics = raft.metrics();
    let (sender, receiver) = watch::channel(metrics.borrow().current_leader);
    tasks.spawn("leader watch", async move {
        let clocks = Clocks::new();
        let mut acks = Acks::begin(clocks.look());
        while metrics.changed().await.is_ok() {
            let look = clocks.look();
            let (now, acknowledged) = {
                let metrics = metrics.borrow_and_update();
                let leads = metrics.current_leader == Some(metrics.id);
                let acknowledged = metrics.millis_since_quorum_ack.filter(|_| leads);
                (metrics.current_leader, acknowledged)
            };
            if let Some(moment) = acks.reported(look, acknowledged) {
                contact.reached(moment);
            }
            let changed = sender.send_if_modified(|known| {
                let changed = *known != now;
                *known = now;
                changed
            });
            if changed {
                leadership.changed();
                tracing::info!(leader = now, "the leader changed");
            }
        }
    });
    receiver
}

/// Notices when this node stands still.
pub(super) fn standstills(tasks: &Tasks, contact: Contact) {
    tasks.spawn("standstill watch", async move {
        loop {
            contact.ticks(BootMs::now());
            tokio::time::sleep(TICK).await;
        }
    });
}

/// Says why consensus ended, if it did so by itself.
pub(super) fn failures(tasks: &Tasks, raft: &Raft) -> watch::Receiver<Option<String>> {
    let (failed, failures) = watch::channel(None);
    failure(tasks, raft, failed);
    failures
}

fn failure(tasks: &Tasks, raft: &Raft, failed: watch::Sender<Option<String>>) {
    let mut metrics = raft.metrics();
    let cancel = tasks.cancel().clone();
    tasks.spawn("failure watch", async move {
        let reason = loop {
            if let Err(fatal) = &metrics.borrow_and_update().running_state {
                match fatal {
                    Fatal::Stopped => return,
                    Fatal::StorageError(error) => break format!("storage failed: {error}"),
                    Fatal::Panicked => break "consensus panicked".to_owned(),
                }
            }
            if metrics.changed().await.is_err() {
                break "consensus ended".to_owned();
            }
        };
        if !cancel.is_cancelled() {
            tracing::error!(reason, "this node cannot go on");
            failed.send_replace(Some(reason));
        }
    });
}

/// Waits until the log holds a membership, then has the data directory remember it.
pub(super) async fn confirm_log(
    raft: &Raft,
    data_dir: &DataDir,
) -> Result<(), crate::data_dir::DataDirError> {
    let mut metrics = raft.metrics();
    let has_members = |metrics: &RaftMetrics| metrics.membership_config.nodes().next().is_some();
    if metrics.wait_for(has_members).await.is_err() {
        // Consensus ended before; the failure watch says why.
        return Ok(());
    }
    let data_dir = data_dir.clone();
    machine::blocking(move || data_dir.confirm_log())
        .await
        .unwrap_or(Ok(()))
}
