//! Every task of this crate has a name, is counted, and ends when the crate's work is cancelled.
//!
//! The one place that spawns. Work that a caller of [`crate::Handle`] waits for runs here too: channels and timers
//! then live on the runtime that raft was started on, whichever runtime asks.

use std::future::Future;

use tokio::runtime;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

/// Spawns, counts and cancels. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Tasks {
    runtime: runtime::Handle,
    tracker: TaskTracker,
    cancel: CancellationToken,
}

// === impl Tasks ===

impl Tasks {
    /// On the current runtime.
    pub(crate) fn new(cancel: CancellationToken) -> Self {
        Self {
            runtime: runtime::Handle::current(),
            tracker: TaskTracker::new(),
            cancel,
        }
    }

    /// What cancels every task.
    pub(crate) fn cancel(&self) -> &CancellationToken {
        &self.cancel
    }

    /// Runs until it is done or cancelled.
    pub(crate) fn spawn(
        &self,
        name: &'static str,
        future: impl Future<Output = ()> + Send + 'static,
    ) {
        let cancel = self.cancel.clone();
        self.spawn_draining(name, async move {
            tokio::select! {
                () = cancel.cancelled() => tracing::debug!("task cancelled"),
                () = future => {}
            }
        });
    }

    /// Runs until it is done; it sees to its own end after the cancellation.
    pub(crate) fn spawn_draining(
        &self,
        name: &'static str,
        future: impl Future<Output = ()> + Send + 'static,
    ) {
        let span = tracing::debug_span!("task", task = name);
        drop(
            self.tracker
                .spawn_on(future.instrument(span), &self.runtime),
        );
    }

    /// Runs on raft's runtime, whether or not anybody waits; an error where it was cancelled.
    pub(crate) fn start<T: Send + 'static>(
        &self,
        name: &'static str,
        future: impl Future<Output = T> + Send + 'static,
    ) -> oneshot::Receiver<T> {
        let (sender, receiver) = oneshot::channel();
        self.spawn(name, async move {
            // The caller may be gone; the work is done all the same.
            let _ = sender.send(future.await);
        });
        receiver
    }

    /// Cancels every task and waits until they have ended.
    pub(crate) async fn shutdown(&self) {
        self.cancel.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }
}
