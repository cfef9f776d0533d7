//! Where the keyring comes from: the cluster secret of this node and the wrapped key in the catalog.
//!
//! The gateway's table and the admin API both ask here, so that the key is unwrapped once, and so that a node whose
//! secret does not fit says the same everywhere.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use mode_envoy_model::catalog::Catalog;
use mode_envoy_raft::ClusterSecret;

use super::{Keyring, KeyringError};

/// Gives the keyring that fits a catalog; cheap to clone.
#[derive(Clone)]
pub struct KeyringSource(Arc<Inner>);

struct Inner {
    secret: ClusterSecret,
    opened: Mutex<Option<Opened>>,
}

struct Opened {
    wrapped: Arc<[u8]>,
    keyring: Arc<Keyring>,
}

// === impl KeyringSource ===

impl KeyringSource {
    /// A source that unwraps with `secret`.
    pub fn new(secret: ClusterSecret) -> Self {
        Self(Arc::new(Inner {
            secret,
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
        let mut opened = self.0.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(opened) = opened.as_ref().filter(|o| o.wrapped == founded.wrapped_key) {
            return Ok(Some(Arc::clone(&opened.keyring)));
        }
        let keyring = Arc::new(Keyring::unwrap(
            &self.0.secret,
            &founded.cluster_id,
            &founded.wrapped_key,
        )?);
        *opened = Some(Opened {
            wrapped: Arc::clone(&founded.wrapped_key),
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
