//! Finds the leader, wherever it is, and asks it.
//!
//! A node that ends in the middle of a search says that the outcome is unknown, since it is.
//!
//! A node that turns out not to lead names who does, and is believed twice; after that, and where nobody is known to
//! lead, one waits for news of a leader, or a moment. What provably was not written is asked again. What may have been
//! written is asked again where asking twice makes it once: then a leader that does not answer is waited for no longer than
//! until there is another.
//!
//! Invariant: whoever is told that nothing was written was told so of every try.

use std::time::Duration;

use mode_envoy_model::command::Command;
use tokio::sync::watch;
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
    /// What was known when somebody was chosen.
    news: watch::Receiver<Option<NodeId>>,
    /// Whether a try may have been carried out that was not answered.
    unknown: bool,
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
    let again = makes_it_once(proposal, caller);
    loop {
        let answer = match search.leader() {
            None => Err(Refusal::NotLeader(None)),
            Some(node) if again => {
                let mut news = search.news.clone();
                tokio::select! {
                    answer = ask(inner, node, (proposal, caller), search.deadline) => answer,
                    () = another_leads(&mut news, node) => {
                        search.unknown = true;
                        continue;
                    }
                }
            }
            Some(node) => ask(inner, node, (proposal, caller), search.deadline).await,
        };
        let judged = match answer {
            Err(Refusal::Final(ProposeError::Timeout)) if again => {
                search.unknown = true;
                search.pause(ProposeError::Timeout).await.map(Err)
            }
            answer => search.judge(answer).await,
        };
        if let Some(result) = judged {
            return result;
        }
    }
}

async fn ask(
    inner: &Inner,
    node: NodeId,
    (proposal, caller): (&Proposal, &Caller),
    deadline: Instant,
) -> Answer {
    if node == inner.node_id {
        let (proposal, caller) = (proposal.clone(), caller.clone());
        return inner.proposer.propose(proposal, caller, deadline).await;
    }
    let left = deadline.saturating_duration_since(Instant::now());
    inner.forwarder.propose(node, proposal, caller, left).await
}

/// Whether the cluster carries this out once, however often it is asked, and answers each time as it did then.
fn makes_it_once(proposal: &Proposal, caller: &Caller) -> bool {
    match proposal {
        Proposal::Command(command) => {
            caller.request.is_some() || matches!(command, Command::Join { .. })
        }
        Proposal::Usage(_) => true,
        // A stream that was registered is not registered again from where it was.
        Proposal::Register(_) => false,
    }
}

/// Returns at the news that another node leads than this one.
async fn another_leads(news: &mut watch::Receiver<Option<NodeId>>, node: NodeId) {
    loop {
        if news.changed().await.is_err() {
            // No news will come any more.
            return std::future::pending().await;
        }
        if news
            .borrow_and_update()
            .is_some_and(|leader| leader != node)
        {
            return;
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
            news: inner.leader.clone(),
            unknown: false,
        }
    }

    /// Whom to ask next.
    fn leader(&mut self) -> Option<NodeId> {
        let known = *self.news.borrow_and_update();
        self.hint.take().or(known)
    }

    /// The result, or `None` to ask again.
    async fn judge(&mut self, answer: Answer) -> Option<Result<Reply, ProposeError>> {
        let refusal = match answer {
            Ok(reply) => return Some(Ok(reply)),
            Err(Refusal::Final(error)) => return Some(Err(self.of_all_tries(error))),
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
            return Some(self.of_all_tries(self.last.clone()));
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
            Err(_) => Some(self.of_all_tries(self.last.clone())),
        }
    }

    /// What holds if the last try failed so.
    fn of_all_tries(&self, error: ProposeError) -> ProposeError {
        match error {
            // By whoever would know of an earlier try.
            ProposeError::Rejected(_) => error,
            _ if self.unknown => ProposeError::Timeout,
            error => error,
        }
    }
}

/// So that many who lost the same leader do not ask at the same moments.
fn jittered_pause() -> Duration {
    let (min, max) = PAUSE_MS;
    Duration::from_millis(min + machine::random() % (max - min))
}
