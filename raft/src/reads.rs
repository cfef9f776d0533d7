//! The index that a linearizable read must wait for, asked for once by many.
//!
//! A round serves every waiter that arrived before it began; whoever arrives during a round is served by the next
//! one, since the index of a round that has begun may be older than what the newcomer has seen.

use std::future::Future;
use std::time::Duration;

use openraft::error::{CheckIsLeaderError, RaftError};
use tokio::sync::{mpsc, oneshot};

use crate::tasks::Tasks;
use crate::types::{NodeId, Raft};

/// How long one round may take: a leader that has lost its majority hears nothing.
const ROUND: Duration = Duration::from_secs(2);
/// Waiters beyond this wait for a place in the queue.
const QUEUE: usize = 4_096;

/// Why there is no index.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum ReadError {
    /// Another node leads, or none.
    NotLeader(Option<NodeId>),
    /// The leader could not be asked, or could not confirm that it leads.
    Unconfirmed(String),
    /// This node is ending.
    Ended,
}

/// Asks for a read index. Cheap to clone.
#[derive(Clone)]
pub(crate) struct ReadIndex {
    sender: mpsc::Sender<oneshot::Sender<Result<u64, ReadError>>>,
}

// === impl ReadIndex ===

impl ReadIndex {
    /// Rounds are made by `round`, one at a time.
    pub(crate) fn start<F>(
        tasks: &Tasks,
        name: &'static str,
        round: impl Fn() -> F + Send + 'static,
    ) -> Self
    where
        F: Future<Output = Result<u64, ReadError>> + Send,
    {
        let (sender, mut waiting) = mpsc::channel::<oneshot::Sender<_>>(QUEUE);
        tasks.spawn(name, async move {
            let mut served = Vec::new();
            while waiting.recv_many(&mut served, QUEUE).await > 0 {
                let answer = round().await;
                for waiter in served.drain(..) {
                    // A waiter that gave up is no concern of the others.
                    let _ = waiter.send(answer.clone());
                }
            }
        });
        Self { sender }
    }

    /// The index up to which a state must be applied to show all that was acknowledged before this call.
    pub(crate) async fn get(&self) -> Result<u64, ReadError> {
        let (sender, answer) = oneshot::channel();
        self.sender
            .send(sender)
            .await
            .map_err(|_| ReadError::Ended)?;
        answer.await.map_err(|_| ReadError::Ended)?
    }
}

/// A round on the leader: it confirms with a majority that it still leads.
pub(crate) async fn confirm(raft: &Raft) -> Result<u64, ReadError> {
    let Ok(answer) = tokio::time::timeout(ROUND, raft.get_read_log_id()).await else {
        return Err(ReadError::Unconfirmed(
            "no majority answers the leader".to_owned(),
        ));
    };
    match answer {
        Ok((read, _)) => Ok(read.map_or(0, |id| id.index)),
        Err(RaftError::APIError(CheckIsLeaderError::ForwardToLeader(to))) => {
            Err(ReadError::NotLeader(to.leader_id))
        }
        Err(RaftError::APIError(CheckIsLeaderError::QuorumNotEnough(e))) => {
            Err(ReadError::Unconfirmed(e.to_string()))
        }
        Err(RaftError::Fatal(_)) => Err(ReadError::Ended),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use tokio::sync::Semaphore;
    use tokio_util::sync::CancellationToken;

    use super::*;

    #[tokio::test]
    async fn a_round_serves_who_came_before_it_and_the_next_one_everybody_since() {
        let tasks = Tasks::new(CancellationToken::new());
        let (begun, may_end) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
        let rounds = Arc::new(AtomicU64::new(0));
        let reads = {
            let (begun, may_end, rounds) = (
                Arc::clone(&begun),
                Arc::clone(&may_end),
                Arc::clone(&rounds),
            );
            ReadIndex::start(&tasks, "test", move || {
                let (begun, may_end, rounds) = (
                    Arc::clone(&begun),
                    Arc::clone(&may_end),
                    Arc::clone(&rounds),
                );
                async move {
                    let round = rounds.fetch_add(1, Ordering::SeqCst) + 1;
                    begun.add_permits(1);
                    may_end.acquire().await.unwrap().forget();
                    Ok(round)
                }
            })
        };
        let ask = || {
            let reads = reads.clone();
            tasks.start("ask", async move { reads.get().await })
        };
        let first = ask();
        begun.acquire().await.unwrap().forget();
        // These come while the first round is on its way, so its index may be too old for them.
        let later = [ask(), ask(), ask()];
        tokio::task::yield_now().await;
        may_end.add_permits(2);
        assert_eq!(first.await.unwrap(), Ok(1));
        for answer in later {
            assert_eq!(answer.await.unwrap(), Ok(2));
        }
        assert_eq!(rounds.load(Ordering::SeqCst), 2);
        tasks.shutdown().await;
        assert_eq!(reads.get().await, Err(ReadError::Ended));
    }
}
