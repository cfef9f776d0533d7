//! Records of single calls on this node: from the spool into the call log, and out of it to whoever asks.
//!
//! ```text
//! flusher: durable Closes -> CallSink -> call log (blocks with the spools' positions)
//!                                    `-> tail: the latest, for those who follow
//! CallStore: answers this node's own admin API, and the other members' (raft hooks)
//! ```
//!
//! Invariants:
//! * a call has one record, that of the attempt that answered, whatever dies in between;
//! * usage never waits for the call log: where its disk fails, it says so and the spool is freed without it;
//! * a search holds up neither the flusher nor a runtime's thread, and few run at once.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use mode_envoy_proto::peer::v1 as wire;
use mode_envoy_raft::{BoxFuture, CallRecords};
use mode_envoy_storage::call_log::CallLogReader;
use tokio::sync::{Semaphore, mpsc, oneshot};

use self::search::Page;
use self::tail::Tail;
use super::recorder::wall_ms;

mod filter;
mod record;
mod search;
mod sink;
mod tail;

pub(crate) use self::sink::{CallSink, SpooledClose};

/// Records of one page at most.
pub const PAGE_MAX: u32 = 1_000;
/// Searches at once.
const SEARCHES: usize = 4;
/// Questions that may wait for the flusher.
const SETTLING: usize = 64;
/// How long the flusher may take to settle.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(3);

/// This node's call records. A cheap clone.
#[derive(Clone)]
pub struct CallStore {
    inner: Arc<Inner>,
}

/// What the flusher is asked: to feed the call log with every call that has ended.
#[derive(Debug)]
pub struct SettleRequests(pub(crate) mpsc::Receiver<oneshot::Sender<()>>);

struct Inner {
    max_age_ms: u64,
    reader: OnceLock<CallLogReader>,
    /// Why nothing is written any more.
    failed: Mutex<Option<String>>,
    tail: Mutex<Tail>,
    settle: mpsc::Sender<oneshot::Sender<()>>,
    searches: Arc<Semaphore>,
}

// === impl CallStore ===

impl CallStore {
    /// A store that learns of its log when that is opened. Records older than `max_age_ms` are not told.
    pub fn new(max_age_ms: u64) -> (Self, SettleRequests) {
        let (settle, requests) = mpsc::channel(SETTLING);
        let inner = Inner {
            max_age_ms,
            reader: OnceLock::new(),
            failed: Mutex::default(),
            tail: Mutex::new(Tail::new(wall_ms())),
            settle,
            searches: Arc::new(Semaphore::new(SEARCHES)),
        };
        let inner = Arc::new(inner);
        (Self { inner }, SettleRequests(requests))
    }

    /// From now on there is a log to search.
    pub(crate) fn opened(&self, reader: CallLogReader) {
        // A log is opened once for each process.
        let _ = self.inner.reader.set(reader);
    }

    /// From now on nothing is written any more.
    pub(crate) fn failed(&self, why: String) {
        *lock(&self.inner.failed) = Some(why);
    }

    pub(crate) fn tail_of(&self) -> MutexGuard<'_, Tail> {
        lock(&self.inner.tail)
    }

    /// Blocks of the log that were found damaged.
    pub(crate) fn damaged(&self) -> u64 {
        self.inner.reader.get().map_or(0, CallLogReader::damaged)
    }

    async fn settle(&self) -> Result<(), String> {
        let (waiter, answer) = oneshot::channel();
        let busy = "this node cannot take in its latest calls now; ask again";
        self.inner
            .settle
            .try_send(waiter)
            .map_err(|_| busy.to_owned())?;
        match tokio::time::timeout(SETTLE_TIMEOUT, answer).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(busy.to_owned()),
        }
    }

    async fn page(
        self,
        request: wire::QueryCallsRequest,
    ) -> Result<wire::QueryCallsResponse, String> {
        if request.settle {
            self.settle().await?;
        }
        let reader = match self.inner.reader.get() {
            Some(reader) => reader.clone(),
            None => return Err(self.why_not()),
        };
        let permit = Arc::clone(&self.inner.searches).acquire_owned().await;
        let oldest_ms = wall_ms().saturating_sub(self.inner.max_age_ms);
        let page = Page::of(&request, oldest_ms);
        let found = tokio::task::spawn_blocking(move || {
            let found = page.search(&reader);
            drop(permit);
            found
        });
        let mut answer = found
            .await
            .map_err(|_| "the search was interrupted, since this node is ending".to_owned())?
            .map_err(|error| error.to_string())?;
        answer.warnings = self.warnings();
        Ok(answer)
    }

    fn warnings(&self) -> Vec<String> {
        let mut warnings: Vec<String> = lock(&self.inner.failed).iter().cloned().collect();
        let damaged = self.damaged();
        if damaged > 0 {
            warnings.push(format!(
                "damaged blocks of the call log that are passed over: {damaged}; the node's log names them"
            ));
        }
        warnings
    }

    fn why_not(&self) -> String {
        let failed = lock(&self.inner.failed).clone();
        failed.unwrap_or_else(|| "this node is starting and has no call records yet".to_owned())
    }
}

impl CallRecords for CallStore {
    fn query(
        &self,
        request: wire::QueryCallsRequest,
    ) -> BoxFuture<Result<wire::QueryCallsResponse, String>> {
        Box::pin(self.clone().page(request))
    }

    fn tail(
        &self,
        request: wire::TailCallsRequest,
    ) -> BoxFuture<Result<wire::TailCallsResponse, String>> {
        let answer = self.tail_of().since(&request);
        Box::pin(async move { Ok(answer) })
    }
}

impl std::fmt::Debug for CallStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CallStore").finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
