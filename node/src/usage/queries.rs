//! Questions about usage, answered from this node's own memory.
//!
//! A local answer is what this node has applied. A linearizable one covers every call that ended on any reachable
//! member before the question was asked: the members flush, this node takes a read index and waits for it, and
//! members that did not answer are named.
//!
//! Invariants: a query never holds up `apply` (it reads a snapshot that shares with the state) nor the runtime that
//! asks (it runs on a thread for blocking work).

use std::time::Duration;

use mode_envoy_model::usage::query::{self, Query, QueryError, Report};
use mode_envoy_raft::{Handle, ProposeError};

use super::flush::FlushHandle;
use super::projection::Sums;

/// How long members have to flush.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(2_500);
/// How long the read index may take, once they have.
const BARRIER_TIMEOUT: Duration = Duration::from_secs(2);

/// Answers questions about usage. A cheap clone.
#[derive(Clone)]
pub struct Queries {
    handle: Handle,
    flush: FlushHandle,
    sums: Option<Sums>,
}

/// A report, and what it covers.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The rows.
    pub report: Report,
    /// The state read had applied the log at least so far.
    pub applied_index: u64,
    /// Members that could not be asked to flush; empty for a local answer.
    pub missing_nodes: Vec<u64>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum QueryFailure {
    /// The question cannot be answered, now or later.
    #[error(transparent)]
    Query(#[from] QueryError),
    /// The cluster could not confirm what has been counted.
    #[error(
        "a linearizable answer needs a quorum ({0}); ask again, or ask without --linearizable for what this node has"
    )]
    NoQuorum(ProposeError),
    /// The thread that ran the query ended early.
    #[error("the query was interrupted, since this node is ending; ask another node")]
    Interrupted,
}

// === impl Queries ===

impl Queries {
    /// Answers from the state behind `handle`; `flush` reaches this node's own spools.
    pub const fn new(handle: Handle, flush: FlushHandle) -> Self {
        Self {
            handle,
            flush,
            sums: None,
        }
    }

    /// Answers what it can from sums that were computed before.
    #[must_use]
    pub(crate) fn with_sums(mut self, sums: Option<Sums>) -> Self {
        self.sums = sums;
        self
    }

    /// Answers a question.
    ///
    /// # Errors
    ///
    /// The question cannot be answered, or the cluster has no quorum to confirm a linearizable one.
    pub async fn run(&self, query: Query, linearizable: bool) -> Result<Answer, QueryFailure> {
        let missing_nodes = if linearizable {
            self.cover_all().await?
        } else {
            Vec::new()
        };
        // Read before the snapshot is taken, so that the snapshot is never older than it says.
        let applied_index = self.handle.applied_index();
        let (snapshot, wall_ms) = self
            .handle
            .read(|state| (state.usage.snapshot(), state.wall_ms));
        let sums = self.sums.as_ref().map(Sums::ask);
        let run = move || match &sums {
            Some(sums) => query::run_with(&snapshot, &query, wall_ms, sums),
            None => query::run(&snapshot, &query, wall_ms),
        };
        let report = tokio::task::spawn_blocking(run)
            .await
            .map_err(|_| QueryFailure::Interrupted)??;
        Ok(Answer {
            report,
            applied_index,
            missing_nodes,
        })
    }

    /// Has every reachable member count what ended before now, and waits until this node has applied it; the members that
    /// did not.
    ///
    /// # Errors
    ///
    /// [`QueryFailure::NoQuorum`].
    pub(crate) async fn cover_all(&self) -> Result<Vec<u64>, QueryFailure> {
        let own = tokio::time::timeout(FLUSH_TIMEOUT, self.flush.flush());
        let (mut missing, own) = tokio::join!(self.handle.flush_others(FLUSH_TIMEOUT), own);
        if !matches!(own, Ok(Ok(()))) {
            missing.push(self.handle.node_id());
            missing.sort_unstable();
        }
        self.handle
            .read_barrier(BARRIER_TIMEOUT)
            .await
            .map_err(QueryFailure::NoQuorum)?;
        Ok(missing)
    }
}

impl std::fmt::Debug for Queries {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queries")
            .field("node", &self.handle.node_id())
            .finish_non_exhaustive()
    }
}
