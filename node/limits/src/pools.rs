//! The pools that this node has met. Threads keep what they found; a lock is taken only to find it.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mode_envoy_model::ledger::ask::PoolKey;
use mode_envoy_model::limit::Limit;

use crate::now::Now;
use crate::slice::Slice;

/// How many pools a node holds.
pub const POOLS: usize = 200_000;

/// There are [`POOLS`] pools. A call that needs another one cannot be decided on.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "this node holds {POOLS} pools of limits and takes no more; give fewer limits an amount for each value"
)]
pub struct PoolsFull;

/// The pools.
#[derive(Debug)]
pub struct Pools {
    slices: Mutex<BTreeMap<PoolKey, Arc<Slice>>>,
    bell: Sender<PoolKey>,
}

// === impl Pools ===

impl Pools {
    /// None yet. Whoever owns the other end hears of pools that owe something.
    pub(crate) fn new() -> (Arc<Self>, Receiver<PoolKey>) {
        let (bell, heard) = channel();
        let slices = Mutex::new(BTreeMap::new());
        (Arc::new(Self { slices, bell }), heard)
    }

    /// The slice of a pool, made where there is none, with its limit as it is now.
    ///
    /// # Errors
    ///
    /// [`PoolsFull`].
    pub fn open(&self, key: &PoolKey, limit: &Arc<Limit>) -> Result<Arc<Slice>, PoolsFull> {
        let mut slices = self.lock();
        if let Some(slice) = slices.get(key).map(Arc::clone) {
            drop(slices);
            let facts = slice.facts();
            if facts.limit != *limit || facts.gone {
                drop(facts);
                slice.publish(|facts| (facts.limit, facts.gone) = (Arc::clone(limit), false));
            }
            return Ok(slice);
        }
        if slices.len() >= POOLS {
            return Err(PoolsFull);
        }
        let slice = Arc::new(Slice::new(
            key.clone(),
            Arc::clone(limit),
            self.bell.clone(),
        ));
        slices.insert(key.clone(), Arc::clone(&slice));
        Ok(slice)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    pub(crate) fn find(&self, key: &PoolKey) -> Option<Arc<Slice>> {
        self.lock().get(key).map(Arc::clone)
    }

    /// Forgets those that nobody else keeps and that have nothing to remember.
    pub(crate) fn sweep(&self, now: Now) {
        self.lock().retain(|_, slice| {
            let facts = slice.facts();
            Arc::strong_count(slice) > 1 || facts.lease.is_some() || !slice.is_blank(&facts, now)
        });
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<PoolKey, Arc<Slice>>> {
        self.slices.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
