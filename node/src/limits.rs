//! Limits on this node: between the threads that take from them and the one that talks to the log.
//!
//! ```text
//! gateway thread --take_all--> slices (no lock, no await)
//!       | cold: asks and waits                     flusher: Keeper --asks, returns--> batch --> log
//!       +------------- Limiter --------------------->  |  <--------- pools that changed ------- applied
//! ```
//!
//! Invariant: a call that waits is told, or finds that this node is ending.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use mode_envoy_limits::{Keeper, Now, Pools, PoolsFull, Slice, Verdict};
use mode_envoy_model::ledger::ask::PoolKey;
use mode_envoy_model::limit::Limit;
use mode_envoy_raft::{BootMs, Contact};
use tokio::sync::{mpsc, oneshot};

use crate::usage::wall_ms;

/// Questions that wait for the keeper to take them up; then callers wait with theirs.
const QUESTIONS: usize = 4_096;

/// Takes from limits. A cheap clone.
#[derive(Clone, Debug)]
pub struct Limiter {
    pools: Arc<Pools>,
    asks: mpsc::Sender<Question>,
    clock: LimitClock,
}

/// What the keeper is asked.
#[derive(Debug)]
pub(crate) enum Question {
    Call(Asked),
    /// To give all back, since this node is ending.
    Leave(oneshot::Sender<()>),
}

/// A call that found a limit cold.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) limits: Vec<(Arc<Slice>, u64)>,
    pub(crate) answer: oneshot::Sender<Verdict>,
}

/// The other end: what the keeper is asked, and what it keeps.
#[derive(Debug)]
pub(crate) struct Limits {
    pub(crate) keeper: Keeper,
    pub(crate) asked: mpsc::Receiver<Question>,
    pub(crate) clock: LimitClock,
    /// The machine has not been started since this node last ran, as far as that is known.
    pub(crate) same_boot: bool,
}

/// What time it is for limits. A cheap clone of the same.
#[derive(Clone, Debug)]
pub(crate) struct LimitClock {
    contact: Contact,
    nodes: Arc<AtomicU64>,
}

/// The keeper has ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("this node is ending and asks for nothing more; try another one")]
pub struct Ended;

/// Both ends. `same_boot`: the machine has not been started since this node last ran.
pub(crate) fn channel(contact: Contact, same_boot: bool) -> (Limiter, Limits) {
    let (keeper, pools) = Keeper::new();
    let (asks, asked) = mpsc::channel(QUESTIONS);
    let clock = LimitClock {
        contact,
        nodes: Arc::new(AtomicU64::new(1)),
    };
    let limiter = Limiter {
        pools,
        asks,
        clock: clock.clone(),
    };
    let limits = Limits {
        keeper,
        asked,
        clock,
        same_boot,
    };
    (limiter, limits)
}

// === impl Limiter ===

impl Limiter {
    /// The slice of a pool.
    ///
    /// # Errors
    ///
    /// This node holds too many.
    pub fn open(&self, key: &PoolKey, limit: &Arc<Limit>) -> Result<Arc<Slice>, PoolsFull> {
        self.pools.open(key, limit)
    }

    /// The moment that taking goes by.
    pub fn now(&self) -> Now {
        self.clock.now()
    }

    /// Waits for what a call needs, where a limit was cold. Each call is decided on within a part of a second.
    ///
    /// # Errors
    ///
    /// This node is ending.
    ///
    /// # Cancel safety
    ///
    /// Safe: what is granted to one that waits no more goes back.
    pub async fn wait(&self, limits: Vec<(Arc<Slice>, u64)>) -> Result<Verdict, Ended> {
        let (answer, told) = oneshot::channel();
        let asked = Asked { limits, answer };
        let question = Question::Call(asked);
        self.asks.send(question).await.map_err(|_| Ended)?;
        told.await.map_err(|_| Ended)
    }
}

/// For the end of a node whose calls have all ended.
impl Limiter {
    /// Gives back all that this node holds of limits, so that the others have it at once; returns when that is counted.
    ///
    /// # Errors
    ///
    /// The keeper has ended already: what is held comes back at the next start.
    pub async fn leave(&self) -> Result<(), Ended> {
        let (answer, told) = oneshot::channel();
        let question = Question::Leave(answer);
        self.asks.send(question).await.map_err(|_| Ended)?;
        told.await.map_err(|_| Ended)
    }
}

// === impl LimitClock ===

impl LimitClock {
    pub(crate) fn now(&self) -> Now {
        Now {
            wall_ms: wall_ms(),
            boot_ms: BootMs::now().0,
            contact_boot_ms: self.contact.last().map(|moment| moment.0),
            nodes: self.nodes.load(Ordering::Relaxed),
        }
    }

    /// How many nodes share what every node keeps alone.
    pub(crate) fn set_nodes(&self, nodes: u64) {
        self.nodes.store(nodes.max(1), Ordering::Relaxed);
    }
}
