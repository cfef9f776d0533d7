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
        self.sender.send(sender).await.map_err(|_| ReadError::Ended)?;
        answer.await.map_err(|_| ReadError::Ended)?
    }
}

/// A round on the leader: it confirms with a majority that it still leads.
pub(crate) async fn confirm(raft: &Raft) -> Result<u64, ReadError> {
    let Ok(answer) = tokio::time::timeout(ROUND, raft.get_read_log_id()).await else {
        return Err(ReadError::Unconfirmed("no majority answers the leader".to_owned()));
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
