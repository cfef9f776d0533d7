//! Where the keyring comes from: the cluster secret of this node and the wrapped key in the catalog.
//!
//! The gateway's table and the admin API both ask here, so that the key is unwrapped once, and so that a node whose
//! secret does not fit says the same everywhere.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use mode_envoy_model::catalog::Catalog;
use mode_envoy_raft::{ClusterSecret, HeldSecrets};

use super::{Keyring, KeyringError};

/// Gives the keyring that fits a catalog; cheap to clone.
#[derive(Clone)]
pub struct KeyringSource(Arc<Inner>);

struct Inner {
    secrets: HeldSecrets,
    opened: Mutex<Option<Opened>>,
}

struct Opened {
    wrapped: Wrapped,
    keyring: Arc<Keyring>,
}

/// The cluster keys of a catalog, as it holds them: the one in force, and the one before while a rotation lasts.
type Wrapped = (Arc<[u8]>, Option<Arc<[u8]>>);

// === impl KeyringSource ===

impl KeyringSource {
    /// A source that unwraps with what this node holds.
    pub fn new(secrets: impl Into<HeldSecrets>) -> Self {
        Self(Arc::new(Inner {
            secrets: secrets.into(),
            opened: Mutex::new(None),
        }))
    }

    /// The keyring of a catalog; `None` while the cluster has not been founded.
    ///
    /// # Errors
    ///
    /// [`KeyringError::WrongClusterSecret`] if this node's secret is not the cluster's.
    pub fn of(&self, catalog: &Catalog) -> Result<Option<Arc<Keyring>>, KeyringError> {
        let Some(founded) = catalog.founded() else {
            return Ok(None);
        };
        let before = catalog.rotation().filter(|rotation| rotation.switched);
        let before = before.map(|rotation| Arc::clone(&rotation.old_wrapped_key));
        // A version that kept the cluster key wrote none.
        let before = before.filter(|wrapped| !wrapped.is_empty());
        let wrapped = (Arc::clone(&founded.wrapped_key), before);
        let mut opened = self.0.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(opened) = opened.as_ref().filter(|o| o.wrapped == wrapped) {
            return Ok(Some(Arc::clone(&opened.keyring)));
        }
        let unwrap = |wrapped: &[u8], generation| {
            let with = |secret: &ClusterSecret| {
                Keyring::unwrap(secret, &founded.cluster_id, (wrapped, generation))
            };
            // While the secret is replaced, the key is wrapped by the one or by the other.
            match (with(&self.0.secrets.current()), self.0.secrets.other()) {
                (Err(KeyringError::WrongClusterSecret), Some(other)) => with(&other),
                (unwrapped, _) => unwrapped,
            }
        };
        let generation = founded.generation;
        let mut keyring = unwrap(&wrapped.0, generation)?;
        if let Some(before) = &wrapped.1 {
            keyring = keyring.with_previous(unwrap(before, generation.saturating_sub(1))?);
        }
        let keyring = Arc::new(keyring);
        *opened = Some(Opened {
            wrapped,
            keyring: Arc::clone(&keyring),
        });
        Ok(Some(keyring))
    }
}

impl fmt::Debug for KeyringSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyringSource(redacted)")
    }
}
