//! How events change the catalog. Nothing here fails: an event that contradicts the catalog is void, and void alike
//! on every replica.

use std::sync::Arc;

use crate::batch::{ChangeSet, Outcome};
use crate::catalog::{Catalog, Founded, Record, Versioned};
use crate::event::Event;
use crate::key::{Key, SecretHash};
use crate::limits;
use crate::object::Name;
use crate::token::Token;

// === impl Catalog ===

impl Catalog {
    /// Applies a change set that was decided on this revision, or says why it is void.
    pub fn apply_change_set(&mut self, set: &ChangeSet) -> Outcome {
        if let Err(outcome) = self.check_change_set(set) {
            return outcome;
        }
        self.revision = self.revision.saturating_add(1);
        for event in &set.events {
            self.evolve(event);
        }
        Outcome::Changed {
            revision: self.revision,
        }
    }

    /// Applies one event, as part of the current revision.
    pub fn evolve(&mut self, event: &Event) {
        let revision = self.revision;
        let mut put = |record| self.set(revision, record);
        match event {
            Event::Founded {
                cluster_id,
                wrapped_key,
            } => self.found(*cluster_id, wrapped_key),
            Event::FormatRaised { version } => {
                self.format_version = self.format_version.max(*version);
            }
            Event::TenantPut(o) => put(Record::Tenant(Arc::new(o.clone()))),
            Event::ConsumerPut(o) => put(Record::Consumer(Arc::new(o.clone()))),
            Event::ProviderPut(o) => put(Record::Provider(Arc::new(o.clone()))),
            Event::ModelPut(o) => put(Record::Model(Arc::new(o.clone()))),
            Event::ServicePut(o) => put(Record::Service(Arc::new(o.clone()))),
            Event::RoutePut(o) => put(Record::Route(Arc::new(o.clone()))),
            Event::LimitPut { id, limit } => put(Record::Limit(*id, Arc::new(limit.clone()))),
            Event::KeyPut(o) => put(Record::Key(Arc::new(o.clone()))),
            Event::TokenPut(o) => put(Record::Token(Arc::new(o.clone()))),
            Event::TenantDeleted(name) => drop(self.tenants.remove(name)),
            Event::ProviderDeleted(name) => drop(self.providers.remove(name)),
            Event::ModelDeleted(name) => drop(self.models.remove(name)),
            Event::ServiceDeleted(name) => drop(self.services.remove(name)),
            Event::ConsumerDeleted { tenant, name } => {
                self.consumers
                    .remove(&(Name::clone(tenant), Name::clone(name)));
            }
            Event::RouteDeleted { tenant, name } => {
                self.routes
                    .remove(&(Name::clone(tenant), Name::clone(name)));
            }
            Event::LimitDeleted { tenant, name } => self.limits.remove(tenant.as_ref(), name),
            Event::KeyRevoked { tenant, name } => {
                self.remove_key(&(Name::clone(tenant), Name::clone(name)));
            }
            Event::TokenRevoked(name) => self.remove_token(name),
            Event::JoinTokenPut(token) => self.members.put_token(token),
            Event::NodeJoined { node, token, nonce } => self.members.join(node, token, *nonce),
            Event::NodeRemoved(id) => self.members.remove(*id),
            Event::RotationBegan(_)
            | Event::RotationSwitched
            | Event::RotationEnded
            | Event::RotationAborted => self.evolve_rotation(event),
            Event::Resealed(resealed) => self.put_resealed(resealed),
            // The restore itself has made this catalog another cluster's.
            Event::Restored(_) => {}
        }
    }

    /// Whether a change set may be applied now.
    pub(crate) fn check_change_set(&self, set: &ChangeSet) -> Result<(), Outcome> {
        if set.base_revision != self.revision {
            return Err(Outcome::Stale {
                revision: self.revision,
            });
        }
        let sound = !set.events.is_empty()
            && set.events.len() <= limits::EVENTS_PER_CHANGE_SET
            && set.actor.len() <= limits::ACTOR
            && set.origin.len() <= limits::ORIGIN;
        if sound {
            Ok(())
        } else {
            Err(Outcome::Malformed)
        }
    }

    pub(super) fn set(&mut self, revision: u64, record: Record) {
        match record {
            Record::Tenant(value) => {
                self.tenants
                    .insert(Name::clone(&value.name), Versioned { revision, value });
            }
            Record::Consumer(value) => {
                let at = (Name::clone(&value.tenant), Name::clone(&value.name));
                self.consumers.insert(at, Versioned { revision, value });
            }
            Record::Provider(value) => {
                self.providers
                    .insert(Name::clone(&value.name), Versioned { revision, value });
            }
            Record::Model(value) => {
                self.models
                    .insert(Name::clone(&value.name), Versioned { revision, value });
            }
            Record::Service(value) => {
                self.services
                    .insert(Name::clone(&value.name), Versioned { revision, value });
            }
            Record::Route(value) => {
                let at = (Name::clone(&value.tenant), Name::clone(&value.name));
                self.routes.insert(at, Versioned { revision, value });
            }
            Record::Limit(id, value) => self.limits.put(id, Versioned { revision, value }),
            Record::Key(value) => self.set_key(revision, value),
            Record::Token(value) => self.set_token(revision, value),
        }
    }

    fn found(&mut self, cluster_id: [u8; 16], wrapped_key: &[u8]) {
        if self.founded.is_none() {
            self.founded = Some(Founded {
                cluster_id,
                wrapped_key: Arc::from(wrapped_key),
                generation: 0,
            });
        }
    }

    fn set_key(&mut self, revision: u64, key: Arc<Key>) {
        let at = (Name::clone(&key.tenant), Name::clone(&key.name));
        let taken = hashes(&key).any(|h| self.key_by_hash.get(&h).is_some_and(|o| *o != at))
            || self
                .key_by_id
                .get(&key.id)
                .is_some_and(|owner| *owner != at);
        if taken {
            return;
        }
        self.remove_key(&at);
        for hash in hashes(&key) {
            self.key_by_hash.insert(hash, at.clone());
        }
        self.key_by_id.insert(Name::clone(&key.id), at.clone());
        self.keys.insert(
            at,
            Versioned {
                revision,
                value: key,
            },
        );
    }

    fn remove_key(&mut self, at: &(Name, Name)) {
        if let Some(old) = self.keys.remove(at) {
            for hash in hashes(&old.value) {
                self.key_by_hash.remove(&hash);
            }
            self.key_by_id.remove(&old.value.id);
        }
    }

    fn set_token(&mut self, revision: u64, token: Arc<Token>) {
        if self
            .token_by_hash
            .get(&token.hash)
            .is_some_and(|owner| *owner != token.name)
        {
            return;
        }
        self.remove_token(&token.name);
        self.token_by_hash
            .insert(token.hash, Name::clone(&token.name));
        self.tokens.insert(
            Name::clone(&token.name),
            Versioned {
                revision,
                value: token,
            },
        );
    }

    /// Gives the token of one hash another; whether there is such a token.
    pub(crate) fn replace_token_hash(&mut self, old: &SecretHash, new: SecretHash) -> bool {
        let found = self.token_by_hash.get(old);
        let Some(found) = found.and_then(|name| self.tokens.get(name)).cloned() else {
            return false;
        };
        let token = Token {
            hash: new,
            ..Token::clone(&found.value)
        };
        self.set_token(found.revision, Arc::new(token));
        true
    }

    fn remove_token(&mut self, name: &Name) {
        if let Some(old) = self.tokens.remove(name) {
            self.token_by_hash.remove(&old.value.hash);
        }
    }
}

/// The hashes that lead to a key.
pub(super) fn hashes(key: &Key) -> impl Iterator<Item = SecretHash> {
    std::iter::once(key.hash).chain(key.previous.map(|(hash, _)| hash))
}
