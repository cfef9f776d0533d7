//! Replacing the cluster secret, for whoever may.

use std::time::Duration;

use mode_envoy_model::command::Command;
use mode_envoy_model::rotation::Rotation;
use mode_envoy_raft::ClusterSecret;
use tokio::time::Instant;

use super::authorize::{Action, check};
use super::{Control, ControlError, Principal, WRITE_DEADLINE};
use crate::secrets::{Keyring, hash_admin_token};

/// How long a rotation is waited for; it goes on all the same.
const WAIT: Duration = Duration::from_secs(8);
/// How long members have to say how far they are.
const LOOK: Duration = Duration::from_secs(1);

/// What became of a rotation.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Rotated {
    /// The revision of the configuration.
    pub revision: u64,
    /// Whether none is under way any more.
    pub done: bool,
    /// Members that have not switched.
    pub waiting: Vec<u64>,
}

// === impl Control ===

impl Control {
    /// Replaces the cluster secret and waits a while; where that is under way, only waits.
    ///
    /// # Errors
    ///
    /// The role does not allow it, or the cluster cannot decide now.
    pub async fn rotate_secret(
        &self,
        who: &Principal,
        abort: bool,
    ) -> Result<Rotated, ControlError> {
        check(who.role, Action::Secret)?;
        self.up_to_date(who, false).await?;
        let begun_before = self.answered_before(who)?.is_some();
        if abort {
            self.propose(who, Command::AbortRotation).await?;
        } else if !begun_before && self.handle.catalog().rotation().is_none() {
            self.begin_rotation(who).await?;
        }
        let deadline = Instant::now() + WAIT;
        let mut catalog = self.handle.watch_catalog();
        let over = catalog.wait_for(|catalog| catalog.rotation().is_none());
        let done = matches!(tokio::time::timeout_at(deadline, over).await, Ok(Ok(_)));
        let waiting = if done {
            Vec::new()
        } else {
            self.handle.rotation_waits_for(LOOK).await
        };
        Ok(Rotated {
            revision: self.handle.catalog().revision(),
            done,
            waiting,
        })
    }

    async fn begin_rotation(&self, who: &Principal) -> Result<(), ControlError> {
        let cluster_id = self.handle.cluster_id();
        let catalog = self.handle.catalog();
        let founded = catalog.founded();
        let wrapped = founded.map(|founded| &*founded.wrapped_key);
        let old = self.handle.secrets().current();
        let new = ClusterSecret::generate().map_err(|e| ControlError::Internal(e.to_string()))?;
        let wrapped = wrapped.unwrap_or_default();
        let next = Keyring::next((&old, wrapped), &new, &cluster_id)?;
        let derived = |secret: &ClusterSecret| hash_admin_token(&secret.root_token(&cluster_id));
        let rotation = Rotation {
            check: new.check(&cluster_id),
            wrapped_key: next.wrapped_key.into(),
            old_wrapped_key: next.old_wrapped_key.into(),
            generation: catalog.generation().saturating_add(1),
            old_root: derived(&old),
            new_root: derived(&new),
            switched: false,
        };
        let caller = self.caller(who)?;
        let begun = self
            .handle
            .begin_rotation((&old, &new), rotation, &caller, WRITE_DEADLINE)
            .await?;
        // The rotation goes on whatever comes of this, and where another one is under way, that one is waited for.
        if let Some(begun) = begun {
            let _ = self.handle.wait_applied(begun.index, WRITE_DEADLINE).await;
        }
        Ok(())
    }
}
