//! Brings each new catalog into force: compile, swap, say so.
//!
//! A catalog that does not compile is reported, and, while none has been in force, told as the reason of not being ready; the table in force stays until the next one, but with the keys of the
//! new one: whatever is wrong with the rest, a key that was revoked is refused. So is one that was revoked in the part of
//! the log that was not settled when this node started, until it is.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use mode_envoy_model::catalog::Catalog;
use mode_envoy_raft::Unsettled;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::table::{CompileError, Table};
use crate::secrets::{KeyringError, KeyringSource};
use crate::supervisor::Chain;

/// Why a catalog did not come into force.
#[derive(Debug, thiserror::Error)]
enum PublishError {
    #[error("opening the cluster's keyring")]
    Keyring(#[source] KeyringError),
    #[error("compiling the catalog")]
    Compile(#[source] CompileError),
}

/// What is in force. A cheap clone of the same.
#[derive(Clone, Debug, Default)]
pub struct Published {
    /// The revision that every request from now on sees.
    pub revision: Arc<AtomicU64>,
    /// Why the newest catalog is not in force.
    fault: Arc<Mutex<Option<String>>>,
}

// === impl Published ===

impl Published {
    /// Why there is nothing to serve with. A node that has a table serves on with it, whatever came later.
    pub fn problem(&self) -> Option<String> {
        if self.revision.load(Ordering::Acquire) > 0 {
            return None;
        }
        self.fault().clone()
    }

    fn fault(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === free functions ===

/// Publishes catalogs until cancelled or until nobody makes them any more.
pub async fn publish(
    mut catalog: watch::Receiver<Arc<Catalog>>,
    mut unsettled: Unsettled,
    keyring: KeyringSource,
    table: Arc<ArcSwap<Table>>,
    published: Published,
    cancel: CancellationToken,
) {
    // Held until the next one, so that a big table is taken apart here and not by a worker.
    let mut _retired = None;
    loop {
        let current = Arc::clone(&catalog.borrow_and_update());
        let hold_back = |table: Table| match unsettled.catalog() {
            Some(ahead) => table.without_keys_gone_in(ahead),
            None => table,
        };
        match compile(&current, &keyring, &table.load()) {
            Ok(new) => {
                let revision = new.revision();
                _retired = Some(table.swap(Arc::new(hold_back(new))));
                published.revision.store(revision, Ordering::Release);
                *published.fault() = None;
                tracing::debug!(revision, "a configuration is in force");
            }
            Err(error) => {
                let (error, revision) = (Chain(&error).to_string(), current.revision());
                *published.fault() = Some(format!(
                    "configuration: revision {revision} cannot be brought into force: {error}; apply one that corrects it"
                ));
                tracing::error!(
                    error,
                    revision,
                    "a configuration cannot be brought into force; of it only the API keys are"
                );
                let before = table.load_full();
                _retired = Some(table.swap(Arc::new(hold_back(before.with_keys_of(&current)))));
            }
        }
        tokio::select! {
            () = cancel.cancelled() => return,
            () = unsettled.settled() => {}
            changed = catalog.changed() => if changed.is_err() { return },
        }
    }
}

fn compile(
    catalog: &Catalog,
    keyring: &KeyringSource,
    previous: &Table,
) -> Result<Table, PublishError> {
    let keyring = keyring.of(catalog).map_err(PublishError::Keyring)?;
    Table::compile(catalog, keyring.as_deref(), previous).map_err(PublishError::Compile)
}

#[cfg(test)]
mod tests {
    use mode_envoy_model::catalog::Record;
    use mode_envoy_model::route::Auth;
    use mode_envoy_model::tenant::Tenant;
    use mode_envoy_raft::ClusterSecret;

    use super::super::harness::{consumer, key, route, service};
    use super::*;
    use crate::secrets::hash_api_key;

    fn catalog(revision: u64, records: Vec<Record>) -> Arc<Catalog> {
        let records = records.into_iter().map(|record| (revision, record));
        Arc::new(Catalog::restore(None, 1, revision, records))
    }

    fn tenant() -> Record {
        let name = "acme".into();
        Record::Tenant(Arc::new(Tenant {
            name,
            hosts: Vec::new(),
        }))
    }

    fn app() -> Record {
        consumer("acme", "app", None)
    }

    fn orders() -> Record {
        service("orders", &["http://orders.test"])
    }

    #[tokio::test]
    async fn each_catalog_comes_into_force_and_of_one_that_does_not_compile_only_the_keys() {
        let (send, receive) = watch::channel(catalog(1, vec![orders()]));
        let table = Arc::new(ArcSwap::from_pointee(Table::empty()));
        let published = Published::default();
        let keyring = KeyringSource::new(ClusterSecret::parse(&"07".repeat(32)).unwrap());
        let cancel = CancellationToken::new();
        let publishing = publish(
            receive,
            Unsettled::nothing(),
            keyring,
            Arc::clone(&table),
            published.clone(),
            cancel.clone(),
        );
        let publishing = std::pin::pin!(publishing);
        let changing = async {
            let seen = || {
                (
                    table.load().revision(),
                    published.revision.load(Ordering::Acquire),
                )
            };
            tokio::task::yield_now().await;
            assert_eq!(seen(), (1, 1));
            let dangling = route("r", "nowhere", &[], "/x", Auth::None);
            send.send_replace(catalog(2, vec![orders(), dangling]));
            tokio::task::yield_now().await;
            assert_eq!(seen(), (1, 1));
            let whole = route("r", "orders", &[], "/x", Auth::None);
            send.send_replace(catalog(3, vec![orders(), whole]));
            tokio::task::yield_now().await;
            assert_eq!(seen(), (3, 3));
            cancel.cancel();
        };
        tokio::join!(biased; publishing, changing);
    }

    #[tokio::test]
    async fn where_there_is_nothing_to_serve_with_the_reason_is_told_until_there_is() {
        let dangling = route("r", "nowhere", &[], "/x", Auth::None);
        let (send, receive) = watch::channel(catalog(1, vec![dangling.clone()]));
        let published = Published::default();
        let keyring = KeyringSource::new(ClusterSecret::parse(&"07".repeat(32)).unwrap());
        let cancel = CancellationToken::new();
        let publishing = publish(
            receive,
            Unsettled::nothing(),
            keyring,
            Arc::new(ArcSwap::from_pointee(Table::empty())),
            published.clone(),
            cancel.clone(),
        );
        let publishing = std::pin::pin!(publishing);
        let changing = async {
            tokio::task::yield_now().await;
            let problem = published.problem().unwrap();
            assert!(
                problem.starts_with("configuration: revision 1 cannot be brought into force: "),
                "{problem}"
            );
            send.send_replace(catalog(2, vec![orders()]));
            tokio::task::yield_now().await;
            assert_eq!(published.problem(), None);
            // What comes later and is at fault leaves the node with a table to serve with.
            send.send_replace(catalog(3, vec![orders(), dangling]));
            tokio::task::yield_now().await;
            assert_eq!(published.problem(), None);
            cancel.cancel();
        };
        tokio::join!(biased; publishing, changing);
    }

    #[tokio::test]
    async fn a_key_that_was_revoked_where_the_log_is_not_settled_is_refused_until_it_is() {
        let keys = ["me-kept", "me-revoked"].map(|secret| key("acme", "app", secret, None));
        let with = |records: &[Record]| [&[tenant(), app()], records].concat();
        let (send, receive) = watch::channel(catalog(5, with(&keys)));
        let (applied, watching) = watch::channel(7);
        let ahead = catalog(6, with(&keys[..1]));
        let table = Arc::new(ArcSwap::from_pointee(Table::empty()));
        let cancel = CancellationToken::new();
        let publishing = publish(
            receive,
            Unsettled::up_to(8, ahead, watching),
            KeyringSource::new(ClusterSecret::parse(&"07".repeat(32)).unwrap()),
            Arc::clone(&table),
            Published::default(),
            cancel.clone(),
        );
        let publishing = std::pin::pin!(publishing);
        let changing = async {
            let takes = |secret| table.load().key(&hash_api_key(secret)).is_some();
            tokio::task::yield_now().await;
            assert!(takes("me-kept") && !takes("me-revoked"));
            // Another change does not bring it back; the log does, where the revocation never counted.
            send.send_replace(catalog(6, with(&keys)));
            tokio::task::yield_now().await;
            assert!(takes("me-kept") && !takes("me-revoked"));
            applied.send_replace(8);
            tokio::task::yield_now().await;
            assert!(takes("me-kept") && takes("me-revoked"));
            cancel.cancel();
        };
        tokio::join!(biased; publishing, changing);
    }
}
