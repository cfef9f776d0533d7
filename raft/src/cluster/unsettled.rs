//! What this node's log held, at its start, beyond what it knew to be committed.
//!
//! Such entries are not applied: only a quorum can say whether they count. But whoever waited for the answer to one of
//! them may have it, and a node that starts alone must not take a key again that was revoked there. So the catalog is
//! shown as it would be with them, until this node has applied the log up to there, whatever stands there by then.

use std::sync::Arc;

use mode_envoy_model::catalog::Catalog;
use mode_envoy_storage::wal::Wal;
use openraft::EntryPayload;
use tokio::sync::watch;

use crate::apply::SharedState;
use crate::convert;
use crate::log_store;
use crate::types::Payload;

/// What this node's log held, at its start, beyond what it knew to be committed. A cheap clone.
#[derive(Clone, Debug)]
pub struct Unsettled {
    tail: Option<Tail>,
    applied: watch::Receiver<u64>,
}

#[derive(Clone, Debug)]
struct Tail {
    catalog: Arc<Catalog>,
    last_index: u64,
}

// === impl Unsettled ===

impl Unsettled {
    /// Of a node whose log is settled.
    pub fn nothing() -> Self {
        Self {
            tail: None,
            applied: watch::channel(0).1,
        }
    }

    /// Of a log up to `last_index`, with which the catalog would be `catalog`; settled once `applied` is there.
    pub fn up_to(last_index: u64, catalog: Arc<Catalog>, applied: watch::Receiver<u64>) -> Self {
        Self {
            tail: Some(Tail {
                catalog,
                last_index,
            }),
            applied,
        }
    }

    /// Reads the log beyond the state. What cannot be read is left out: consensus will come upon it and say so.
    pub(super) fn read(state: &SharedState, wal: &Wal) -> Self {
        let applied = state.watch_applied();
        let (at, mut ahead) = state.image();
        let from = at.last_log_id.map_or(0, |id| id.index + 1);
        let to = wal.last().map_or(0, |last| last.index + 1);
        let entries = match log_store::read_entries(wal, from, to) {
            Ok(entries) => entries,
            Err(error) => {
                tracing::warn!(%error, "the end of the log cannot be read");
                return Self {
                    tail: None,
                    applied,
                };
            }
        };
        let before = Arc::clone(&ahead.catalog);
        let mut last_index = 0;
        for entry in entries {
            if let EntryPayload::Normal(Payload(bytes)) = &entry.payload {
                let Ok(batch) = convert::decode_batch(bytes) else {
                    break;
                };
                ahead.apply(entry.log_id.index, &batch);
                last_index = entry.log_id.index;
            }
        }
        if Arc::ptr_eq(&before, &ahead.catalog) {
            return Self {
                tail: None,
                applied,
            };
        }
        Self::up_to(last_index, ahead.catalog, applied)
    }

    /// The catalog as it would be, while that is not known.
    pub fn catalog(&self) -> Option<&Arc<Catalog>> {
        let tail = self.tail.as_ref()?;
        (*self.applied.borrow() < tail.last_index).then_some(&tail.catalog)
    }

    /// Returns when it is known; never, where it was known from the beginning.
    pub async fn settled(&mut self) {
        if let Some(tail) = &self.tail {
            let last_index = tail.last_index;
            if self
                .applied
                .wait_for(|applied| *applied >= last_index)
                .await
                .is_ok()
            {
                self.tail = None;
                return;
            }
        }
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_catalog_ahead_is_shown_until_the_log_is_applied_up_to_there() {
        let (applied, watching) = watch::channel(4);
        let catalog = Arc::new(Catalog::restore(None, 1, 7, []));
        let mut unsettled = Unsettled::up_to(5, catalog, watching);
        assert!(unsettled.catalog().is_some_and(|c| c.revision() == 7));
        applied.send_replace(5);
        unsettled.settled().await;
        assert!(unsettled.catalog().is_none());
        assert!(Unsettled::nothing().catalog().is_none());
    }
}
