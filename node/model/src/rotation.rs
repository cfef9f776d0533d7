//! How one cluster secret takes the place of another without a pause.
//!
//! ```text
//! none --RotationBegan--> Trusting --RotationSwitched--> Switched --RotationEnded--> none
//!                            every member holds the new      every member shows the new one;
//!                            secret and trusts both CAs      both are trusted
//!                         Trusting --RotationAborted--> none
//! ```
//!
//! With the secret, the cluster's encryption key is replaced: with the switch the new one is in force, and what the old one has sealed is
//! sealed anew before the end (`Event::Resealed`). Until then the old key is kept, wrapped by the new secret.
//!
//! The secret itself is never here, since the history keeps what is, and the old secret may have been stolen. Members of two
//! neighbouring phases get along with each other, so no member has to take a step at the same moment as another.

use std::sync::Arc;

use crate::catalog::decide::decision;
use crate::catalog::faults::refuse;
use crate::catalog::{Catalog, Founded};
use crate::command::{Change, ChangeKind, Decision, Rejected, RejectedCode};
use crate::event::Event;
use crate::key::SecretHash;
use crate::limits;
use crate::object::Name;

/// A rotation that is under way.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Rotation {
    /// By which a member knows the new secret when it gets it.
    pub check: [u8; 32],
    /// The cluster's next encryption key, wrapped by the new secret.
    pub wrapped_key: Arc<[u8]>,
    /// The one that is in force when it begins, wrapped by the new secret.
    pub old_wrapped_key: Arc<[u8]>,
    /// Which one the next key is. 0 in a log of a version that kept the key.
    pub generation: u32,
    /// Hash of the root token that the old secret gives.
    pub old_root: SecretHash,
    /// Hash of the one that the new secret gives.
    pub new_root: SecretHash,
    /// Whether members show certificates of the new secret; before, they only trust them.
    pub switched: bool,
}

// === impl Catalog ===

impl Catalog {
    pub(crate) fn decide_begin_rotation(&self, new: &Rotation) -> Result<Decision, Rejected> {
        if let Some(open) = self.rotation() {
            // The same request again, after an answer that was lost.
            if open.check == new.check {
                return Ok(decision(Vec::new(), secret_change(ChangeKind::Unchanged)));
            }
            let problem =
                "the secret is being replaced already; wait until every member has the new one";
            return Err(refuse(RejectedCode::InUse, "secret", problem));
        }
        let Some(founded) = self.founded() else {
            let problem = "the cluster is not founded yet; try again when it is";
            return Err(refuse(RejectedCode::NotFound, "secret", problem));
        };
        // It was prepared with a secret that is not in force any more.
        if founded.generation.checked_add(1) != Some(new.generation) {
            let problem = "the cluster secret was replaced while this was on its way; nothing was changed, and you may replace it \
                           once more";
            return Err(refuse(RejectedCode::Conflict, "secret", problem));
        }
        let sound = |key: &[u8]| (1..=limits::WRAPPED_KEY).contains(&key.len());
        if new.switched || !sound(&new.wrapped_key) || !sound(&new.old_wrapped_key) {
            let problem = "a rotation begins with two wrapped keys, and is not switched";
            return Err(refuse(RejectedCode::Invalid, "secret", problem));
        }
        let event = Event::RotationBegan(new.clone());
        Ok(decision(vec![event], secret_change(ChangeKind::Updated)))
    }

    pub(crate) fn decide_advance_rotation(
        &self,
        end: bool,
        check: &[u8; 32],
    ) -> Result<Decision, Rejected> {
        let event = match self.rotation() {
            Some(open) if open.check != *check => {
                let problem =
                    "another rotation of the secret is under way than the one that was to go on";
                return Err(refuse(RejectedCode::Conflict, "secret", problem));
            }
            Some(open) if open.switched && end && self.has_stale_secrets() => {
                let problem = "not every secret is sealed under the new encryption key yet";
                return Err(refuse(RejectedCode::Conflict, "secret", problem));
            }
            Some(open) if open.switched && end => Event::RotationEnded,
            Some(open) if !open.switched && !end => Event::RotationSwitched,
            Some(open) if !open.switched => {
                let problem = "not every member has switched to the new secret";
                return Err(refuse(RejectedCode::Conflict, "secret", problem));
            }
            Some(_) | None => {
                return Ok(decision(Vec::new(), secret_change(ChangeKind::Unchanged)));
            }
        };
        Ok(decision(vec![event], secret_change(ChangeKind::Updated)))
    }

    pub(crate) fn decide_abort_rotation(&self) -> Result<Decision, Rejected> {
        match self.rotation() {
            None => Ok(decision(Vec::new(), secret_change(ChangeKind::Unchanged))),
            Some(open) if open.switched => {
                let problem = "every member has the new secret already, so there is no way back; remove members that do \
                               not come back, and the rotation ends";
                Err(refuse(RejectedCode::InUse, "secret", problem))
            }
            Some(_) => Ok(decision(
                vec![Event::RotationAborted],
                secret_change(ChangeKind::Updated),
            )),
        }
    }

    /// Applies an event about a rotation; void where it does not follow.
    pub(crate) fn evolve_rotation(&mut self, event: &Event) {
        let open = self.rotation().cloned();
        let next = match (event, open) {
            (Event::RotationBegan(new), None) => Some(Rotation {
                switched: false,
                ..new.clone()
            }),
            (Event::RotationSwitched, Some(open)) if !open.switched => {
                self.replace_token_hash(&open.old_root, open.new_root);
                if let Some(founded) = self.founded().cloned() {
                    self.set_founded(Founded {
                        wrapped_key: Arc::clone(&open.wrapped_key),
                        generation: founded.generation.max(open.generation),
                        ..founded
                    });
                }
                Some(Rotation {
                    switched: true,
                    ..open
                })
            }
            (Event::RotationEnded, Some(open)) if open.switched => None,
            (Event::RotationAborted, Some(open)) if !open.switched => None,
            (_, open) => open,
        };
        self.set_rotation(next);
    }

    pub(crate) fn refuse_while_rotating(&self) -> Result<(), Rejected> {
        if self.rotation().is_none() {
            return Ok(());
        }
        let problem = "the cluster secret is being replaced; try again when that is done: `cluster rotate-secret` says what \
                       it waits for";
        Err(refuse(RejectedCode::InUse, "secret", problem))
    }
}

pub(crate) fn secret_change(what: ChangeKind) -> Change {
    Change {
        kind: "secret",
        tenant: None,
        name: Name::from("cluster"),
        what,
    }
}
