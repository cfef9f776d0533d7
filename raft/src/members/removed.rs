//! How a node learns that the cluster has removed it, whether it was there or not, and when it may go.
//!
//! One that was there reads it in the log, and goes once the membership no longer has it: until then its vote may be needed,
//! and its log, which may be the longest. So it may even be elected, and hands over then. One that was away meets only
//! refusals, and is told by whoever it asks.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::cluster::Handle;

/// A node without a leader asks others whether it still belongs to the cluster after this, and then this often.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// A node that knows of its removal looks this often whether it is over.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How long the others have to answer.
const ASK: Duration = Duration::from_secs(1);

/// How far a node's removal is.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Departure {
    /// It belongs to the cluster.
    #[default]
    Staying,
    /// The log says that it is removed; the membership may still have it.
    Removed,
    /// Nobody needs it any more.
    Left,
}

/// Runs until the node has left.
pub(crate) async fn watch_removal(handle: Handle, departure: watch::Sender<Departure>) {
    let (mut catalog, mut leader) = (handle.watch_catalog(), handle.watch_leader());
    let me = handle.node_id();
    loop {
        let removed = catalog.borrow_and_update().members().is_removed(me);
        if removed && *departure.borrow() == Departure::Staying {
            tracing::warn!(node = me, "this node was removed from the cluster");
            departure.send_replace(Departure::Removed);
        }
        let alone = leader.borrow_and_update().is_none();
        if removed && !handle.is_applied_member() {
            break;
        }
        tokio::select! {
            Ok(()) = catalog.changed() => continue,
            Ok(()) = leader.changed() => continue,
            () = sleep(if removed { LOOK_EVERY } else { ASK_EVERY }), if removed || alone => {}
            else => return,
        }
        if handle.was_removed(ASK).await {
            break;
        }
    }
    handle.raft().runtime_config().elect(false);
    if let Err(error) = handle.remember_removal().await {
        tracing::warn!(%error, "that this node was removed could not be written down");
    }
    departure.send_replace(Departure::Left);
}

/// Waits until a node has left, or for so long.
pub(crate) async fn left(mut departure: watch::Receiver<Departure>, limit: Duration) -> bool {
    let deadline = Instant::now() + limit;
    let left = departure.wait_for(|departure| *departure == Departure::Left);
    matches!(tokio::time::timeout_at(deadline, left).await, Ok(Ok(_)))
}
