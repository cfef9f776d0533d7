//! Every task has a name, an owner and an end.
//!
//! A task's kind declares what its end means: the process does not outlive an essential task, and a best-effort
//! task is only logged. A panic is an end like any other. The composition root waits for [`Supervisor::fatal`] and
//! then ends the process in order; nothing here ends it.
//!
//! Invariant: after [`Supervisor::stop`] no end is fatal, since every task is meant to end then.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::thread;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

/// What a task may fail with.
pub type TaskError = Box<dyn Error + Send + Sync>;

/// What a task's end means.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum TaskKind {
    /// The process ends in order, with status 1.
    Essential,
    /// It is logged.
    BestEffort,
}

/// Owns the tasks of the process. A cheap clone.
#[derive(Clone, Debug)]
pub struct Supervisor {
    stop: CancellationToken,
    tasks: TaskTracker,
    fatal: watch::Sender<Option<String>>,
}

/// Reports a task's end, whichever way it comes.
struct End {
    name: &'static str,
    kind: TaskKind,
    supervisor: Supervisor,
    outcome: Option<Result<(), TaskError>>,
}

// === impl Supervisor ===

impl Supervisor {
    /// Without tasks.
    pub fn new() -> Self {
        Self {
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            fatal: watch::Sender::new(None),
        }
    }

    /// Runs a task on the runtime of the caller.
    pub fn spawn(
        &self,
        name: &'static str,
        kind: TaskKind,
        task: impl Future<Output = Result<(), TaskError>> + Send + 'static,
    ) {
        self.spawn_on(&Handle::current(), name, kind, task);
    }

    /// Runs a task on a runtime.
    pub fn spawn_on(
        &self,
        runtime: &Handle,
        name: &'static str,
        kind: TaskKind,
        task: impl Future<Output = Result<(), TaskError>> + Send + 'static,
    ) {
        let end = self.end_of(name, kind);
        let task = async move { end.finish(task.await) };
        let span = tracing::info_span!(parent: None, "task", task = name);
        runtime.spawn(self.tasks.track_future(task.instrument(span)));
    }

    /// Runs a task on a thread of its own, for work that blocks.
    ///
    /// # Errors
    ///
    /// The system gave no thread.
    pub fn spawn_thread(
        &self,
        name: &'static str,
        kind: TaskKind,
        task: impl FnOnce() -> Result<(), TaskError> + Send + 'static,
    ) -> std::io::Result<()> {
        let end = self.end_of(name, kind);
        let token = self.tasks.token();
        thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                let _counted = token;
                end.finish(task());
            })?;
        Ok(())
    }

    /// Cancelled when every task should end.
    pub fn stopping(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Tells every task to end, and waits for them; `false` if some still ran at the deadline.
    pub async fn stop(&self, deadline: Duration) -> bool {
        self.stop.cancel();
        self.tasks.close();
        tokio::time::timeout(deadline, self.tasks.wait())
            .await
            .is_ok()
    }

    /// Resolves when the process cannot go on, with the reason.
    pub async fn fatal(&self) -> String {
        let mut fatal = self.fatal.subscribe();
        match fatal.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or_default(),
            // Unreachable while `self` holds the sender; waiting is the answer that ends nothing.
            Err(_) => std::future::pending().await,
        }
    }

    /// Says that the process cannot go on. The first reason is kept.
    pub fn fail(&self, reason: String) {
        if self.stop.is_cancelled() {
            tracing::warn!(reason, "while stopping");
            return;
        }
        self.fatal.send_if_modified(|fatal| {
            let first = fatal.is_none();
            if first {
                *fatal = Some(reason);
            }
            first
        });
    }

    fn end_of(&self, name: &'static str, kind: TaskKind) -> End {
        End {
            name,
            kind,
            supervisor: self.clone(),
            outcome: None,
        }
    }
}

impl Default for Supervisor {
    fn default() -> Self {
        Self::new()
    }
}

// === impl End ===

impl End {
    fn finish(mut self, outcome: Result<(), TaskError>) {
        self.outcome = Some(outcome);
    }
}

impl Drop for End {
    fn drop(&mut self) {
        let name = self.name;
        let stopping = self.supervisor.stop.is_cancelled();
        let how = match self.outcome.take() {
            Some(Ok(())) if stopping || self.kind == TaskKind::BestEffort => return,
            Some(Ok(())) => "ended".to_owned(),
            Some(Err(error)) => format!("failed: {}", Chain(&*error)),
            None if thread::panicking() => "panicked".to_owned(),
            // Its runtime was shut down: the process is ending anyway.
            None => return,
        };
        match self.kind {
            TaskKind::Essential => self.supervisor.fail(format!("task {name} {how}")),
            TaskKind::BestEffort => tracing::error!(task = name, "{how}"),
        }
    }
}

/// An error with everything that caused it, on one line.
pub(crate) struct Chain<'a>(pub(crate) &'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_end_of_an_essential_task_is_fatal_and_the_first_reason_is_kept() {
        let supervisor = Supervisor::new();
        supervisor.spawn("one", TaskKind::Essential, async {
            Err("the disk is gone".into())
        });
        assert_eq!(
            supervisor.fatal().await,
            "task one failed: the disk is gone"
        );
        supervisor.fail("later".to_owned());
        assert_eq!(
            supervisor.fatal().await,
            "task one failed: the disk is gone"
        );
    }

    #[tokio::test]
    async fn a_panic_of_an_essential_task_is_fatal() {
        let supervisor = Supervisor::new();
        supervisor.spawn("two", TaskKind::Essential, async { panic!("a bug") });
        assert_eq!(supervisor.fatal().await, "task two panicked");
    }

    #[tokio::test]
    async fn the_end_of_a_best_effort_task_is_not() {
        let supervisor = Supervisor::new();
        supervisor.spawn("three", TaskKind::BestEffort, async {
            Err("never mind".into())
        });
        assert!(supervisor.stop(Duration::from_secs(5)).await);
        assert!(supervisor.fatal.borrow().is_none());
    }

    #[tokio::test]
    async fn stopping_cancels_and_waits_and_then_no_end_is_fatal() {
        let supervisor = Supervisor::new();
        let stopping = supervisor.stopping();
        supervisor.spawn("four", TaskKind::Essential, async move {
            stopping.cancelled().await;
            Ok(())
        });
        let stopping = supervisor.stopping();
        let thread = move || {
            while !stopping.is_cancelled() {
                thread::yield_now();
            }
            Err("ended".into())
        };
        supervisor
            .spawn_thread("five", TaskKind::Essential, thread)
            .unwrap();
        assert!(supervisor.stop(Duration::from_secs(5)).await);
        assert!(supervisor.fatal.borrow().is_none());
    }
}
