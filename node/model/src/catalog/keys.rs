//! Keys: created once, rotated with a grace, revoked for good. A key is spoken of by its name or its id.

use std::sync::Arc;

use crate::catalog::Catalog;
use crate::catalog::decide::decision;
use crate::catalog::faults::{Faults, refuse, room};
use crate::check::shorten;
use crate::command::{Change, ChangeKind, Decision, Rejected, RejectedCode, Violation};
use crate::event::Event;
use crate::key::{Key, SecretHash};
use crate::limits;
use crate::object::Name;

// === impl Catalog ===

impl Catalog {
    pub(super) fn decide_create_key(&self, key: &Key, now_ms: u64) -> Result<Decision, Rejected> {
        if let Some(stored) = self.key(&key.tenant, &key.name) {
            let stored = &stored.value;
            // The same request again, after an answer that was lost.
            if (&stored.id, stored.hash, &stored.consumer) == (&key.id, key.hash, &key.consumer) {
                return Ok(decision(Vec::new(), change(key, ChangeKind::Unchanged)));
            }
            let problem = format!(
                "tenant {} has a key `{}` already; choose another name, or rotate that one",
                key.tenant, key.name
            );
            return Err(refuse(RejectedCode::Exists, "name", problem));
        }
        check_new(key, now_ms)?;
        self.check_owner(key)?;
        self.check_unique(key)?;
        room("keys", self.keys.len(), limits::KEYS)?;
        self.check_matched_by_key(key)?;
        Ok(decision(
            vec![Event::KeyPut(key.clone())],
            change(key, ChangeKind::Created),
        ))
    }

    pub(super) fn decide_rotate_key(
        &self,
        key: &Key,
        hash: SecretHash,
        grace_ms: u64,
        now_ms: u64,
    ) -> Result<Decision, Rejected> {
        if key.hash == hash {
            // The same request again, after an answer that was lost.
            return Ok(decision(Vec::new(), change(key, ChangeKind::Unchanged)));
        }
        if key.has_expired(now_ms) {
            let problem = format!("key `{}` has expired; create a new one", key.name);
            return Err(refuse(RejectedCode::Invalid, "name", problem));
        }
        if grace_ms > limits::GRACE_MS {
            return Err(refuse(
                RejectedCode::Invalid,
                "grace",
                "it must be 30 days at most",
            ));
        }
        if self.key_by_hash.contains_key(&hash) {
            let problem = "a key has, or had, this secret; draw a new one";
            return Err(refuse(RejectedCode::Exists, "hash", problem));
        }
        let previous = (grace_ms > 0).then(|| (key.hash, now_ms.saturating_add(grace_ms)));
        let rotated = Key {
            hash,
            previous,
            ..key.clone()
        };
        Ok(decision(
            vec![Event::KeyPut(rotated)],
            change(key, ChangeKind::Updated),
        ))
    }

    pub(super) fn decide_revoke_key(key: &Key) -> Decision {
        let event = Event::KeyRevoked {
            tenant: Name::clone(&key.tenant),
            name: Name::clone(&key.name),
        };
        decision(vec![event], change(key, ChangeKind::Deleted))
    }

    /// The one key that a caller means.
    pub(super) fn find_key(&self, tenant: Option<&str>, name: &str) -> Result<&Arc<Key>, Rejected> {
        match self.keys_called(tenant, name).as_slice() {
            [key] => Ok(key),
            [] => {
                let of = tenant
                    .map(|t| format!(" of tenant {}", shorten(t)))
                    .unwrap_or_default();
                let problem = format!(
                    "there is no key with the name or id `{}`{of}; `keys list` shows what there is",
                    shorten(name)
                );
                Err(refuse(RejectedCode::NotFound, "name", problem))
            }
            [first, second, ..] => {
                let problem = format!(
                    "`{name}` is a key of tenant {} and one of tenant {}; add `--tenant`, or use the key's id",
                    first.tenant, second.tenant
                );
                Err(refuse(RejectedCode::Invalid, "name", problem))
            }
        }
    }

    /// The keys with this name or id, each once.
    fn keys_called(&self, tenant: Option<&str>, name: &str) -> Vec<&Arc<Key>> {
        let by_name = |tenant: &str| self.key(tenant, name).map(|key| &key.value);
        let mut found: Vec<&Arc<Key>> = match tenant {
            Some(tenant) => by_name(tenant).into_iter().collect(),
            None => self
                .tenants()
                .filter_map(|tenant| by_name(&tenant.value.name))
                .collect(),
        };
        if let Some(key) = self.key_by_id(name)
            && tenant.is_none_or(|tenant| *key.value.tenant == *tenant)
            && !found.iter().any(|other| other.id == key.value.id)
        {
            found.push(&key.value);
        }
        found
    }

    fn check_owner(&self, key: &Key) -> Result<(), Rejected> {
        if self.tenant(&key.tenant).is_none() {
            let problem = format!(
                "there is no tenant {}; apply one, or correct the name",
                key.tenant
            );
            return Err(refuse(RejectedCode::NotFound, "tenant", problem));
        }
        if self.consumer(&key.tenant, &key.consumer).is_none() {
            let problem = format!(
                "tenant {} has no consumer {}; apply one, or correct the name",
                key.tenant, key.consumer
            );
            return Err(refuse(RejectedCode::NotFound, "consumer", problem));
        }
        Ok(())
    }

    /// Hash and id are the cluster's only ones; and so that a name or id means one key, no key of the tenant has
    /// the id for a name, nor the cluster the name for an id.
    fn check_unique(&self, key: &Key) -> Result<(), Rejected> {
        let faults = [
            (
                self.key_by_hash.contains_key(&key.hash),
                "hash",
                "another key has this secret; draw a new one",
            ),
            (
                self.key_by_id.contains_key(&key.id),
                "id",
                "another key has this id; draw a new one",
            ),
            (
                self.key(&key.tenant, &key.id).is_some(),
                "id",
                "another key has this id for a name; draw a new one",
            ),
            (
                self.key_by_id.contains_key(&key.name),
                "name",
                "another key has this name for an id; choose another",
            ),
        ];
        match faults.into_iter().find(|(taken, ..)| *taken) {
            Some((_, field, problem)) => Err(refuse(RejectedCode::Exists, field, problem)),
            None => Ok(()),
        }
    }
}

/// What is wrong with a key that is to be created.
fn check_new(key: &Key, now_ms: u64) -> Result<(), Rejected> {
    let mut faults = Faults::default();
    faults.add_all(RejectedCode::Invalid, key.validate());
    if key.has_expired(now_ms) {
        let problem = "it lies in the past; the key would never be accepted".to_owned();
        faults.add(
            RejectedCode::Invalid,
            Violation {
                path: "expires".to_owned(),
                problem,
            },
        );
    }
    if key.previous.is_some() {
        let problem = "a new key has no secret before its first".to_owned();
        faults.add(
            RejectedCode::Invalid,
            Violation {
                path: "previous".to_owned(),
                problem,
            },
        );
    }
    faults.done()
}

fn change(key: &Key, what: ChangeKind) -> Change {
    Change {
        kind: "key",
        tenant: Some(Name::clone(&key.tenant)),
        name: Name::clone(&key.name),
        what,
    }
}
