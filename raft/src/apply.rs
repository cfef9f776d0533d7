//! The one bridge from the log to the state: entry -> state -> watchers.
//!
//! Invariants: entries are applied once, in order; an entry that cannot be read stops the node, since skipping it
//! would make replicas differ; the catalog's watchers are told of it only when it changed, and before the entry
//! counts as applied, so whoever waited for an index finds the catalog of that index. Who keeps limits is told afterwards.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use mode_envoy_model::catalog::Catalog;
use mode_envoy_model::state::State;
use openraft::EntryPayload;
use tokio::sync::watch;

use crate::clock::Stamp;
use crate::convert::{self, DecodeError};
use crate::pools::PoolWatch;
use crate::types::{Applied, Entry, LogId, NodeId, Payload, SnapshotMeta, StoredMembership};

/// The state of this node, read by many and changed by the applying task only. Clones share it.
#[derive(Clone)]
pub(crate) struct SharedState {
    inner: Arc<Inner>,
}

struct Inner {
    replica: RwLock<Replica>,
    catalog: watch::Sender<Arc<Catalog>>,
    applied: watch::Sender<u64>,
    pools: PoolWatch,
}

/// The state and the place in the log that it is the state of.
struct Replica {
    state: State,
    applied: Option<LogId>,
    membership: StoredMembership,
}

/// An entry cannot be applied.
#[derive(Debug, thiserror::Error)]
#[error(
    "log entry {index} cannot be read by this version, and an entry is never skipped: {source}; start the version that \
     wrote it"
)]
pub(crate) struct ApplyError {
    index: u64,
    source: DecodeError,
}

// === impl SharedState ===

impl SharedState {
    /// From a checkpoint, or empty.
    pub(crate) fn new(checkpoint: Option<(SnapshotMeta, State)>) -> Self {
        let replica = match checkpoint {
            Some((at, state)) => Replica {
                state,
                applied: at.last_log_id,
                membership: at.last_membership,
            },
            None => Replica {
                state: State::new(),
                applied: None,
                membership: StoredMembership::default(),
            },
        };
        let catalog = watch::Sender::new(Arc::clone(&replica.state.catalog));
        let applied = watch::Sender::new(index_of(replica.applied));
        let replica = RwLock::new(replica);
        Self {
            inner: Arc::new(Inner {
                replica,
                catalog,
                applied,
                pools: PoolWatch::default(),
            }),
        }
    }

    /// Runs `f` on the state, under its read lock.
    pub(crate) fn read<R>(&self, f: impl FnOnce(&State) -> R) -> R {
        f(&self.lock().state)
    }

    /// The catalog as applied.
    pub(crate) fn catalog(&self) -> Arc<Catalog> {
        Arc::clone(&self.inner.catalog.borrow())
    }

    /// Changes when the catalog does.
    pub(crate) fn watch_catalog(&self) -> watch::Receiver<Arc<Catalog>> {
        self.inner.catalog.subscribe()
    }

    /// Tells which pools of limits change.
    pub(crate) fn watch_pools(&self) -> PoolWatch {
        self.inner.pools.clone()
    }

    /// Index of the last applied entry; 0 before the first.
    pub(crate) fn applied_index(&self) -> u64 {
        *self.inner.applied.borrow()
    }

    /// Changes with every applied entry.
    pub(crate) fn watch_applied(&self) -> watch::Receiver<u64> {
        self.inner.applied.subscribe()
    }

    /// The newest stamp in the applied log.
    pub(crate) fn stamp(&self) -> Stamp {
        self.read(|state| Stamp {
            lease_clock_ms: state.lease_clock_ms,
            wall_ms: state.wall_ms,
        })
    }

    /// Where the state stands.
    pub(crate) fn position(&self) -> (Option<LogId>, StoredMembership) {
        let replica = self.lock();
        (replica.applied, replica.membership.clone())
    }

    /// Whether a node was removed and the membership no longer has it: nobody counts on it any more.
    pub(crate) fn has_removed(&self, node: NodeId) -> bool {
        let replica = self.lock();
        replica.state.catalog.members().is_removed(node)
            && replica.membership.membership().get_node(&node).is_none()
    }

    /// The state and where it stands, as one: a copy that shares what will not change.
    pub(crate) fn image(&self) -> (SnapshotMeta, State) {
        let replica = self.lock();
        let at = convert::snapshot_meta(replica.applied, replica.membership.clone());
        (at, replica.state.clone())
    }

    /// Replaces all of it by a checkpoint.
    pub(crate) fn install(&self, at: SnapshotMeta, state: State) {
        let mut replica = self.lock_mut();
        replica.state = state;
        replica.applied = at.last_log_id;
        replica.membership = at.last_membership;
        let (catalog, index) = (
            Arc::clone(&replica.state.catalog),
            index_of(replica.applied),
        );
        drop(replica);
        self.publish(catalog, index);
        self.inner.pools.tell_all();
    }

    /// Applies one entry.
    pub(crate) fn apply(&self, entry: Entry) -> Result<Applied, ApplyError> {
        let index = entry.log_id.index;
        let batch = match &entry.payload {
            EntryPayload::Normal(Payload(bytes)) => {
                Some(convert::decode_batch(bytes).map_err(|source| ApplyError { index, source })?)
            }
            EntryPayload::Blank | EntryPayload::Membership(_) => None,
        };
        let mut replica = self.lock_mut();
        let outcomes = batch
            .map(|batch| replica.state.apply(index, &batch))
            .unwrap_or_default();
        if let EntryPayload::Membership(membership) = entry.payload {
            replica.membership = StoredMembership::new(Some(entry.log_id), membership);
        }
        replica.applied = Some(entry.log_id);
        let catalog = Arc::clone(&replica.state.catalog);
        let touched = replica.state.ledger.take_touched();
        drop(replica);
        self.publish(catalog, index);
        self.inner.pools.tell(touched);
        Ok(Applied { outcomes })
    }

    fn publish(&self, catalog: Arc<Catalog>, index: u64) {
        self.inner.catalog.send_if_modified(|current| {
            let changed = !Arc::ptr_eq(current, &catalog);
            *current = catalog;
            changed
        });
        self.inner.applied.send_replace(index);
    }

    fn lock(&self) -> RwLockReadGuard<'_, Replica> {
        // A panic while the lock was held ends the node through its own task; readers need not follow.
        self.inner
            .replica
            .read()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_mut(&self) -> RwLockWriteGuard<'_, Replica> {
        self.inner
            .replica
            .write()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn index_of(id: Option<LogId>) -> u64 {
    id.map_or(0, |id| id.index)
}

#[cfg(test)]
mod tests {
    use mode_envoy_model::batch::{Batch, ChangeSet, Item, Outcome};
    use mode_envoy_model::event::Event;
    use mode_envoy_model::tenant::Tenant;
    use openraft::CommittedLeaderId;
    use prost::Message as _;

    use super::*;
    use crate::convert::Wire as _;

    fn entry(index: u64, bytes: Vec<u8>) -> Entry {
        let log_id = LogId::new(CommittedLeaderId::new(1, 1), index);
        Entry {
            log_id,
            payload: EntryPayload::Normal(Payload(bytes.into())),
        }
    }

    fn put(base_revision: u64, name: &str) -> Vec<u8> {
        let events = vec![Event::TenantPut(Tenant {
            name: name.into(),
            hosts: Vec::new(),
        })];
        let set = ChangeSet {
            base_revision,
            actor: "root".into(),
            origin: "apply".into(),
            events,
            request: None,
            encoded: Arc::default(),
        };
        let items = vec![Item::ChangeSet(set)];
        Batch {
            lease_clock_ms: 1,
            wall_ms: 2,
            items,
        }
        .to_wire()
        .encode_to_vec()
    }

    #[test]
    fn the_catalogs_watchers_hear_of_a_change_and_of_nothing_else() {
        let state = SharedState::new(None);
        let mut catalog = state.watch_catalog();
        let applied = state.apply(entry(1, put(0, "acme"))).unwrap();
        assert_eq!(applied.outcomes, [Outcome::Changed { revision: 1 }]);
        assert!(catalog.has_changed().unwrap());
        assert!(catalog.borrow_and_update().tenant("acme").is_some());
        let applied = state.apply(entry(2, put(0, "other"))).unwrap();
        assert_eq!(applied.outcomes, [Outcome::Stale { revision: 1 }]);
        assert!(!catalog.has_changed().unwrap());
        assert_eq!(state.applied_index(), 2);
    }

    #[test]
    fn an_entry_that_cannot_be_read_is_an_error_and_never_skipped() {
        let state = SharedState::new(None);
        state.apply(entry(1, put(0, "acme"))).unwrap();
        let error = state.apply(entry(2, vec![0xff])).unwrap_err();
        assert!(
            error.to_string().starts_with("log entry 2 cannot be read"),
            "{error}"
        );
        assert_eq!(state.applied_index(), 1);
        assert_eq!(state.position().0.map(|id| id.index), Some(1));
    }
}
