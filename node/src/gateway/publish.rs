//! Brings each new catalog into force: compile, swap, say so.
//!
//! A catalog that does not compile is reported; the table in force stays until the next one, but with the keys of the
//! new one: whatever is wrong with the rest, a key that was revoked is refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use mode_envoy_model::catalog::Catalog;
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

/// Publishes catalogs until cancelled or until nobody makes them any more. `in_force` is the revision of the last
/// one that every request from now on sees.
pub async fn publish(
    mut catalog: watch::Receiver<Arc<Catalog>>,
    keyring: KeyringSource,
    table: Arc<ArcSwap<Table>>,
    in_force: Arc<AtomicU64>,
    cancel: CancellationToken,
) {
    // Held until the next one, so that a big table is taken apart here and not by a worker.
    let mut _retired = None;
    loop {
        let current = Arc::clone(&catalog.borrow_and_update());
        match compile(&current, &keyring, &table.load()) {
            Ok(new) => {
                let revision = new.revision();
                _retired = Some(table.swap(Arc::new(new)));
                in_force.store(revision, Ordering::Release);
                tracing::debug!(revision, "a configuration is in force");
            }
            Err(error) => {
                tracing::error!(
                    error = Chain(&error).to_string(),
                    revision = current.revision(),
                    "a configuration cannot be brought into force; of it only the API keys are"
                );
                let before = table.load_full();
                _retired = Some(table.swap(Arc::new(before.with_keys_of(&current))));
            }
        }
        tokio::select! {
            () = cancel.cancelled() => return,
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
    use mode_envoy_raft::ClusterSecret;

    use super::super::harness::{route, service};
    use super::*;

    fn catalog(revision: u64, records: Vec<Record>) -> Arc<Catalog> {
        let records = records.into_iter().map(|record| (revision, record));
        Arc::new(Catalog::restore(None, 1, revision, records))
    }

    fn orders() -> Record {
        service("orders", &["http://orders.test"])
    }

    #[tokio::test]
    async fn each_catalog_comes_into_force_and_of_one_that_does_not_compile_only_the_keys() {
        let (send, receive) = watch::channel(catalog(1, vec![orders()]));
        let table = Arc::new(ArcSwap::from_pointee(Table::empty()));
        let in_force = Arc::new(AtomicU64::new(0));
        let keyring = KeyringSource::new(ClusterSecret::parse(&"07".repeat(32)).unwrap());
        let cancel = CancellationToken::new();
        let publishing = publish(
            receive,
            keyring,
            Arc::clone(&table),
            Arc::clone(&in_force),
            cancel.clone(),
        );
        let publishing = std::pin::pin!(publishing);
        let changing = async {
            let seen = || (table.load().revision(), in_force.load(Ordering::Acquire));
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
}
