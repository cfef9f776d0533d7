//! Asks every member for its calls, all at once and page by page, and puts the answers together.
//!
//! A member that does not answer in time is missing from the answer, which says so; nobody waits longer for it.

use std::sync::Arc;
use std::time::Duration;

use mode_envoy_proto::peer::v1::{
    CallFilter, CallPlace, CallRecord, QueryCallsRequest, QueryCallsResponse,
};
use mode_envoy_raft::{CallRecords as _, Handle};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::by_time;
use crate::usage::calls::{CallStore, PAGE_MAX};

/// For one page of one member.
const PAGE_TIMEOUT: Duration = Duration::from_secs(4);
/// For everything that one answer needs.
const DEADLINE: Duration = Duration::from_secs(12);
/// Who may follow at once.
const FOLLOWERS: usize = 64;

/// Asks all members. A cheap clone.
#[derive(Clone)]
pub struct Gather {
    pub(super) handle: Handle,
    pub(super) store: CallStore,
    pub(super) stopping: CancellationToken,
    pub(super) followers: Arc<Semaphore>,
}

/// Calls of all members that answered.
#[derive(Clone, Debug, Default)]
pub struct Gathered {
    /// In the order of their beginnings.
    pub calls: Vec<CallRecord>,
    /// Members that did not answer.
    pub missing_nodes: Vec<u64>,
    /// There are older ones that match.
    pub more: bool,
    /// What the members have to say beside.
    pub warnings: Vec<String>,
}

/// What one member told.
#[derive(Default)]
struct Told {
    node: u64,
    calls: Vec<CallRecord>,
    more: bool,
    warnings: Vec<String>,
    answered: bool,
}

// === impl Gather ===

impl Gather {
    /// On behalf of a member; `store` has its own calls. Followers end with `stopping`.
    pub fn new(handle: Handle, store: CallStore, stopping: CancellationToken) -> Self {
        Self {
            handle,
            store,
            stopping,
            followers: Arc::new(Semaphore::new(FOLLOWERS)),
        }
    }

    pub(super) fn members(&self) -> Vec<u64> {
        self.handle.status().members.into_keys().collect()
    }

    /// The newest `limit` calls that match; `settle` has each member take in what has ended on it first.
    pub(super) async fn newest(&self, filter: CallFilter, limit: u32, settle: bool) -> Gathered {
        let deadline = Instant::now() + DEADLINE;
        let mut asked = JoinSet::new();
        for node in self.members() {
            let (gather, filter) = (self.clone(), filter.clone());
            asked.spawn(async move {
                gather
                    .of_member(node, filter, (limit, settle), deadline)
                    .await
            });
        }
        let mut gathered = Gathered::default();
        while let Some(told) = asked.join_next().await {
            // A task that panicked told nothing; which one it was shows in the log.
            let Ok(told) = told else { continue };
            if !told.answered {
                gathered.missing_nodes.push(told.node);
            }
            let named = |warning| format!("node {}: {warning}", told.node);
            gathered
                .warnings
                .extend(told.warnings.into_iter().map(named));
            gathered.calls.extend(told.calls);
            gathered.more |= told.more;
        }
        by_time(&mut gathered.calls);
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        if let Some(surplus) = gathered.calls.len().checked_sub(limit).filter(|n| *n > 0) {
            gathered.calls.drain(..surplus);
            gathered.more = true;
        }
        gathered.missing_nodes.sort_unstable();
        gathered.warnings.sort_unstable();
        gathered
    }

    async fn of_member(
        &self,
        node: u64,
        filter: CallFilter,
        (limit, settle): (u32, bool),
        deadline: Instant,
    ) -> Told {
        let mut told = Told {
            node,
            ..Told::default()
        };
        let mut before = None;
        loop {
            let have = u32::try_from(told.calls.len()).unwrap_or(u32::MAX);
            let request = QueryCallsRequest {
                envelope: None,
                filter: Some(filter.clone()),
                limit: limit.saturating_sub(have).clamp(1, PAGE_MAX),
                settle: settle && before.is_none(),
                before: before.take(),
            };
            let Some(page) = timeout_at(deadline, self.page(node, request))
                .await
                .ok()
                .flatten()
            else {
                told.answered = false;
                return told;
            };
            told.answered = true;
            (told.more, told.warnings) = (page.more, page.warnings);
            before = page.calls.last().map(|call| CallPlace {
                start_ms: call.start_ms,
                call_id: call.call_id.clone(),
            });
            told.calls.extend(page.calls);
            let full = told.calls.len() >= usize::try_from(limit).unwrap_or(usize::MAX);
            if full || !told.more || before.is_none() {
                return told;
            }
        }
    }

    async fn page(&self, node: u64, request: QueryCallsRequest) -> Option<QueryCallsResponse> {
        if node != self.handle.node_id() {
            return self.handle.query_calls(node, request, PAGE_TIMEOUT).await;
        }
        match self.store.query(request).await {
            Ok(page) => Some(page),
            Err(reason) => {
                tracing::debug!(node, reason, "this node does not tell its calls");
                None
            }
        }
    }
}

impl std::fmt::Debug for Gather {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gather").finish_non_exhaustive()
    }
}
