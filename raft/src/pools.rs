//! Which pools of limits the applied log changed, for the one who keeps this node's side of them.
//!
//! What changed is kept until it is taken, each pool once, so that whoever is slow misses nothing and makes nothing grow.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mode_envoy_model::ledger::ask::PoolKey;
use tokio::sync::Notify;

/// Beyond so many it is said that all may have changed.
const KEYS: usize = 200_000;

/// What changed. A cheap clone of the same.
#[derive(Clone, Debug, Default)]
pub struct PoolWatch {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    changes: Mutex<PoolChanges>,
    told: Notify,
}

/// What changed since it was taken last.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct PoolChanges {
    /// Any pool may have: the state was replaced.
    pub all: bool,
    /// These have, or are no more.
    pub keys: BTreeSet<PoolKey>,
}

// === impl PoolWatch ===

impl PoolWatch {
    /// Returns when something has changed that was not taken. For one who waits.
    ///
    /// # Cancel safety
    ///
    /// Safe: what changed stays until it is taken.
    pub async fn changed(&self) {
        self.inner.told.notified().await;
    }

    /// What has changed since the last time.
    pub fn take(&self) -> PoolChanges {
        std::mem::take(&mut *self.changes())
    }

    pub(crate) fn tell(&self, keys: BTreeSet<PoolKey>) {
        if keys.is_empty() {
            return;
        }
        let mut changes = self.changes();
        changes.keys.extend(keys);
        if changes.keys.len() > KEYS {
            *changes = PoolChanges::everything();
        }
        drop(changes);
        self.inner.told.notify_one();
    }

    pub(crate) fn tell_all(&self) {
        *self.changes() = PoolChanges::everything();
        self.inner.told.notify_one();
    }

    fn changes(&self) -> MutexGuard<'_, PoolChanges> {
        let changes = self.inner.changes.lock();
        changes.unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl PoolChanges ===

impl PoolChanges {
    fn everything() -> Self {
        Self {
            all: true,
            keys: BTreeSet::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(limit: u64) -> PoolKey {
        PoolKey {
            limit,
            value: "".into(),
        }
    }

    #[tokio::test]
    async fn what_changed_before_anybody_waited_is_there_once() {
        let watch = PoolWatch::default();
        watch.tell(BTreeSet::from([key(1), key(2)]));
        watch.tell(BTreeSet::from([key(2)]));
        watch.changed().await;
        assert_eq!(watch.take().keys.len(), 2);
        assert_eq!(watch.take(), PoolChanges::default());
        watch.tell_all();
        watch.changed().await;
        assert!(watch.take().all);
    }
}
