//! The secrets of providers under the encryption key that is in force: which are not, and how they come there.
//!
//! Sealing needs the key, so a node does it and proposes what it made. Here it is only put in the place of the same secret, known by
//! its fingerprint, whose key outlives every rotation: so a document that says `{stored: FINGERPRINT}` means what it meant.
//!
//! Invariants: a secret never goes back to an earlier key; one that is put while another key is in force is refused, not stored.

use std::sync::Arc;

use crate::catalog::decide::decision;
use crate::catalog::faults::Faults;
use crate::catalog::{Catalog, Record};
use crate::command::{Change, ChangeKind, Decision, RejectedCode, Violation};
use crate::event::Event;
use crate::limits;
use crate::object::{Name, Object};
use crate::provider::{Provider, Resealed, SealedSecret};
use crate::rotation::secret_change;

// === impl Catalog ===

impl Catalog {
    /// The number of the encryption key that is in force.
    pub fn generation(&self) -> u32 {
        self.founded().map_or(0, |founded| founded.generation)
    }

    /// Providers with secrets that an earlier encryption key has sealed.
    pub fn stale_providers(&self) -> impl Iterator<Item = &Arc<Provider>> {
        let generation = self.generation();
        let stale = move |provider: &&Arc<Provider>| {
            let mut keys = provider.keys.iter();
            keys.any(|key| key.generation != generation)
        };
        self.providers().map(|stored| &stored.value).filter(stale)
    }

    /// Whether an earlier encryption key is needed still.
    pub fn has_stale_secrets(&self) -> bool {
        self.stale_providers().next().is_some()
    }

    /// Only what it changes is written: what a provider has got meanwhile stays.
    pub(super) fn decide_reseal(&self, generation: u32, providers: &[Resealed]) -> Decision {
        let mut reseal = decision(Vec::new(), secret_change(ChangeKind::Unchanged));
        if self.rotation().is_none() || generation != self.generation() {
            return reseal;
        }
        for resealed in providers {
            let Some(stored) = self.provider(&resealed.provider) else {
                continue;
            };
            let keys = resealed.keys.iter().filter(|new| {
                let fits = new.generation == generation && is_bounded(new);
                fits && stored.value.keys.iter().any(|old| succeeds(new, old))
            });
            let keys: Vec<SealedSecret> = keys.cloned().collect();
            if !keys.is_empty() {
                let provider = Name::clone(&resealed.provider);
                reseal.changes.push(Change {
                    kind: "provider",
                    tenant: None,
                    name: Name::clone(&provider),
                    what: ChangeKind::Updated,
                });
                let event = Event::Resealed(Resealed { provider, keys });
                reseal.events.push(event);
            }
        }
        reseal
    }

    /// Puts secrets in the place of the same ones under an earlier key; the revision that set the provider stays.
    pub(crate) fn put_resealed(&mut self, resealed: &Resealed) {
        let Some(stored) = self.provider(&resealed.provider).cloned() else {
            return;
        };
        let newest = |old: &SealedSecret| {
            let mut keys = resealed.keys.iter();
            keys.find(|new| succeeds(new, old)).unwrap_or(old).clone()
        };
        let provider = Provider {
            keys: stored.value.keys.iter().map(newest).collect(),
            ..Provider::clone(&stored.value)
        };
        self.set(stored.revision, Record::Provider(Arc::new(provider)));
    }

    /// A secret that was sealed before the key was replaced comes too late; its sender has it in clear and seals it again.
    pub(super) fn check_generation(&self, object: &Object, faults: &mut Faults) {
        let Object::Provider(provider) = object else {
            return;
        };
        let stored = self.provider(&provider.name).map(|stored| &stored.value);
        let is_stored = |key: &SealedSecret| stored.is_some_and(|p| p.keys.contains(key));
        // One without a ciphertext is only spoken of.
        let late = provider.keys.iter().any(|key| {
            let other = key.generation != self.generation() && !key.ciphertext.is_empty();
            other && !is_stored(key)
        });
        if late {
            let path = format!("providers[{}].keys", provider.name);
            let problem =
                "the cluster's encryption key was replaced while this was on its way; try again"
                    .to_owned();
            faults.add(RejectedCode::Conflict, Violation { path, problem });
        }
    }
}

fn succeeds(new: &SealedSecret, old: &SealedSecret) -> bool {
    new.fingerprint == old.fingerprint && new.generation > old.generation
}

fn is_bounded(key: &SealedSecret) -> bool {
    (1..=limits::CIPHERTEXT).contains(&key.ciphertext.len())
        && key.wrapped_data_key.len() <= limits::WRAPPED_KEY
}
