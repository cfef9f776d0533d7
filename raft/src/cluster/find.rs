//! Finds the leader, wherever it is, and asks it.
//!
//! A node that ends in the middle of a search says that the outcome is unknown, since it is.
//!
//! A node that turns out not to lead names who does, and is believed twice; after that, and where nobody is known to
//! lead, one waits for news of a leader, or a moment. Only what provably was not written is asked again.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::{Handle, Inner};
use crate::convert::Proposal;
use crate::machine;
use crate::proposal::{Caller, ProposeError};
use crate::proposer::{Answer, Refusal, Reply};
use crate::reads::ReadError;
use crate::types::NodeId;

/// How often the word of a node about its leader is taken.
const HOPS: u32 = 2;
/// The shortest and the longest pause between two searches.
const PAUSE_MS: (u64, u64) = (20, 80);

/// A search for the leader.
struct Search<'a> {
    inner: &'a Inner,
    deadline: Instant,
    hint: Option<NodeId>,
    hops: u32,
    last: ProposeError,
}

// === impl Handle ===

impl Handle {
    pub(super) async fn find_and_propose(
        &self,
        proposal: Proposal,
        caller: &Caller,
        timeout: Duration,
    ) -> Result<Reply, ProposeError> {
        if self.inner.tasks.cancel().is_cancelled() {
            return Err(ProposeError::ShuttingDown);
        }
        let (handle, caller) = (self.clone(), caller.clone());
        let work = async move { propose(&handle.inner, &proposal, &caller, timeout).await };
        // A search that the end of this node cuts short may have reached the leader already.
        self.inner
            .tasks
            .start("propose", work)
            .await
            .unwrap_or(Err(ProposeError::Timeout))
    }

    pub(super) async fn find_and_read(&self, timeout: Duration) -> Result<u64, ProposeError> {
        let handle = self.clone();
        let work = async move { read(&handle, timeout).await };
        self.inner
            .tasks
            .start("read", work)
            .await
            .unwrap_or(Err(ProposeError::ShuttingDown))
    }
}

async fn propose(
    inner: &Inner,
    proposal: &Proposal,
    caller: &Caller,
    timeout: Duration,
) -> Result<Reply, ProposeError> {
    let mut search = Search::new(inner, timeout);
    loop {
        let answer = match search.leader() {
            None => Err(Refusal::NotLeader(None)),
            Some(node) if node == inner.node_id => {
                let (proposal, caller) = (proposal.clone(), caller.clone());
                inner
                    .proposer
                    .propose(proposal, caller, search.deadline)
                    .await
            }
            Some(node) => {
                let left = search.deadline.saturating_duration_since(Instant::now());
                inner.forwarder.propose(node, proposal, caller, left).await
            }
        };
        if let Some(result) = search.judge(answer).await {
            return result;
        }
    }
}

async fn read(handle: &Handle, timeout: Duration) -> Result<u64, ProposeError> {
    let mut search = Search::new(&handle.inner, timeout);
    loop {
        let late = Err(ReadError::Unconfirmed("no answer in time".to_owned()));
        let refusal = match timeout_at(search.deadline, handle.inner.reads.get())
            .await
            .unwrap_or(late)
        {
            Ok(index) => {
                let left = search.deadline.saturating_duration_since(Instant::now());
                handle.wait_applied(index, left).await?;
                return Ok(index);
            }
            Err(ReadError::Ended) => return Err(ProposeError::ShuttingDown),
            Err(ReadError::NotLeader(_)) => ProposeError::NoLeader,
            Err(ReadError::Unconfirmed(reason)) => ProposeError::Unavailable(reason),
        };
        if let Some(error) = search.pause(refusal).await {
            return Err(error);
        }
    }
}

// === impl Search ===

impl<'a> Search<'a> {
    fn new(inner: &'a Inner, timeout: Duration) -> Self {
        let deadline = Instant::now() + timeout;
        Self {
            inner,
            deadline,
            hint: None,
            hops: 0,
            last: ProposeError::NoLeader,
        }
    }

    /// Whom to ask next.
    fn leader(&mut self) -> Option<NodeId> {
        self.hint.take().or_else(|| *self.inner.leader.borrow())
    }

    /// The result, or `None` to ask again.
    async fn judge(&mut self, answer: Answer) -> Option<Result<Reply, ProposeError>> {
        let refusal = match answer {
            Ok(reply) => return Some(Ok(reply)),
            Err(Refusal::Final(error)) => return Some(Err(error)),
            Err(Refusal::NotLeader(Some(node))) if self.hops < HOPS => {
                self.hops += 1;
                self.hint = Some(node);
                return None;
            }
            Err(Refusal::NotLeader(_)) => ProposeError::NoLeader,
            Err(Refusal::Unsent(reason)) => ProposeError::Unavailable(reason),
        };
        self.pause(refusal).await.map(Err)
    }

    /// Waits for news of a leader, or a moment; the error where the deadline comes first.
    async fn pause(&mut self, error: ProposeError) -> Option<ProposeError> {
        self.last = error;
        self.hops = 0;
        if Instant::now() >= self.deadline {
            return Some(self.last.clone());
        }
        let mut news = self.inner.leader.clone();
        // What it holds now has been tried.
        news.mark_unchanged();
        let pause = tokio::time::sleep(jittered_pause());
        let wait = async {
            tokio::select! {
                () = pause => {}
                // A closed channel is no news: the pause ends the wait.
                Ok(()) = news.changed() => {}
            }
        };
        match timeout_at(self.deadline, wait).await {
            Ok(()) => None,
            Err(_) => Some(self.last.clone()),
        }
    }
}

/// So that many who lost the same leader do not ask at the same moments.
fn jittered_pause() -> Duration {
    let (min, max) = PAUSE_MS;
    Duration::from_millis(min + machine::random() % (max - min))
}
