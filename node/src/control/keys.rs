//! API keys: their secrets are made here, shown once, and kept as hashes only.

use std::sync::Arc;

use mode_envoy_model::command::Command;
use mode_envoy_model::key::Key;
use mode_envoy_model::object::Name;
use mode_envoy_raft::Accepted;

use super::authorize::{self, Action, check};
use super::credential::changed_since;
use super::time::now_ms;
use super::{Control, ControlError, Principal};
use crate::secrets::{API_KEY_PREFIX, Secret, hash_api_key, same_hash};

/// Longest time to live that a key may be asked to have: 100 years.
const MAX_EXPIRES_SECONDS: u64 = 100 * 366 * 86_400;

/// What a new key is asked to be.
#[derive(Clone, Copy, Debug)]
pub struct NewKey<'a> {
    /// Owner.
    pub tenant: &'a str,
    /// Whom it authenticates as.
    pub consumer: &'a str,
    /// Empty: one is made up.
    pub name: &'a str,
    /// Zero: never.
    pub expires_in_seconds: u64,
}

/// How long the secret before a rotation stays valid.
#[derive(Clone, Copy, Debug)]
pub struct Grace {
    /// Zero: not at all.
    pub seconds: u64,
}

/// A key with its secret, which is never seen again.
#[derive(Debug)]
pub struct ShownKey {
    /// The key.
    pub key: Arc<Key>,
    /// Its secret.
    pub secret: Secret,
    /// The revision that it is in force from.
    pub revision: u64,
}

// === impl Control ===

impl Control {
    /// Makes a key.
    ///
    /// # Errors
    ///
    /// Tenant or consumer are not there, the name is taken, or the cluster cannot decide.
    pub async fn create_key(
        &self,
        who: &Principal,
        new: NewKey<'_>,
    ) -> Result<ShownKey, ControlError> {
        check(who.role, Action::ChangeKeys)?;
        require("tenant", new.tenant)?;
        require("consumer", new.consumer)?;
        let created_ms = now_ms();
        authorize::check_named_tenant(who, new.tenant)?;
        let (id, secret) = self.new_credential(who, API_KEY_PREFIX)?;
        let id = format!("key-{id}");
        let name = if new.name.is_empty() {
            id.as_str()
        } else {
            new.name
        };
        let key = Key {
            tenant: new.tenant.into(),
            consumer: new.consumer.into(),
            name: name.into(),
            id: id.as_str().into(),
            hash: hash_api_key(secret.expose()),
            created_ms,
            expires_ms: expires(created_ms, new.expires_in_seconds)?,
            previous: None,
        };
        let accepted = self.propose(who, Command::CreateKey(key)).await?;
        self.shown(who, &accepted, secret)
    }

    /// The keys of a tenant, of a consumer, or all; and the revision they were read at.
    ///
    /// # Errors
    ///
    /// The cluster did not confirm that this node is up to date.
    pub async fn list_keys(
        &self,
        who: &Principal,
        tenant: &str,
        consumer: &str,
        local: bool,
    ) -> Result<(Vec<Arc<Key>>, u64), ControlError> {
        check(who.role, Action::Read)?;
        let tenant = authorize::narrowed(who, tenant)?;
        self.up_to_date(who, local).await?;
        let catalog = self.handle.catalog();
        let wanted = |key: &Key| {
            (tenant.is_empty() || *key.tenant == *tenant)
                && (consumer.is_empty() || *key.consumer == *consumer)
        };
        let keys = catalog
            .keys()
            .filter(|k| wanted(&k.value))
            .map(|k| Arc::clone(&k.value))
            .collect();
        Ok((keys, catalog.revision()))
    }

    /// Replaces a key's secret. `name` may be its id.
    ///
    /// # Errors
    ///
    /// The key is not there or several have the name, or the cluster cannot decide.
    pub async fn rotate_key(
        &self,
        who: &Principal,
        tenant: &str,
        name: &str,
        grace: Grace,
    ) -> Result<ShownKey, ControlError> {
        check(who.role, Action::ChangeKeys)?;
        require("name", name)?;
        let (_, secret) = self.new_credential(who, API_KEY_PREFIX)?;
        let command = Command::RotateKey {
            tenant: tenant_of_key(who, tenant)?,
            name: name.into(),
            hash: hash_api_key(secret.expose()),
            grace_ms: grace.seconds.saturating_mul(1_000),
        };
        let accepted = self.propose(who, command).await?;
        self.shown(who, &accepted, secret)
    }

    /// Removes a key for good; answers the revision. `name` may be its id.
    ///
    /// # Errors
    ///
    /// The key is not there or several have the name, or the cluster cannot decide.
    pub async fn revoke_key(
        &self,
        who: &Principal,
        tenant: &str,
        name: &str,
    ) -> Result<u64, ControlError> {
        check(who.role, Action::ChangeKeys)?;
        require("name", name)?;
        let command = Command::RevokeKey {
            tenant: tenant_of_key(who, tenant)?,
            name: name.into(),
        };
        Ok(self.propose(who, command).await?.revision)
    }

    /// The key that a request has made, with its secret.
    fn shown(
        &self,
        who: &Principal,
        accepted: &Accepted,
        own: Secret,
    ) -> Result<ShownKey, ControlError> {
        let catalog = self.handle.catalog();
        // The key's name may be its id, which a retry does not know.
        let change = accepted.changes.iter().find(|change| change.kind == "key");
        let change = change.ok_or(ControlError::OutcomeUnknown)?;
        let key = catalog.key(change.tenant.as_deref().unwrap_or_default(), &change.name);
        let secret = match key {
            Some(key) => self.secret_made(who, own, API_KEY_PREFIX, |secret| {
                same_hash(&key.value.hash, &hash_api_key(secret))
            })?,
            None => None,
        };
        match (key, secret) {
            (Some(key), Some(secret)) => Ok(ShownKey {
                key: Arc::clone(&key.value),
                secret,
                revision: accepted.revision,
            }),
            // Not applied here yet.
            _ if catalog.revision() < accepted.revision => Err(ControlError::OutcomeUnknown),
            _ => Err(changed_since("key", &change.name, accepted.revision)),
        }
    }
}

// === free functions ===

fn require(field: &str, value: &str) -> Result<(), ControlError> {
    if value.is_empty() {
        return Err(ControlError::invalid(field, format!("state the {field}")));
    }
    Ok(())
}

/// A token of a tenant means its own.
fn tenant_of_key(who: &Principal, tenant: &str) -> Result<Option<Name>, ControlError> {
    authorize::narrowed(who, tenant).map(optional)
}

fn optional(text: &str) -> Option<Name> {
    (!text.is_empty()).then(|| text.into())
}

fn expires(created_ms: u64, in_seconds: u64) -> Result<Option<u64>, ControlError> {
    match in_seconds {
        0 => Ok(None),
        1..=MAX_EXPIRES_SECONDS => Ok(Some(created_ms.saturating_add(in_seconds * 1_000))),
        _ => {
            let problem =
                "a key expires within a hundred years; leave it out for one that never does";
            Err(ControlError::invalid("expires_in_seconds", problem))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_expires_when_it_was_asked_to_or_never() {
        assert_eq!(expires(1_000, 0).unwrap(), None);
        assert_eq!(expires(1_000, 60).unwrap(), Some(61_000));
        assert!(expires(1_000, u64::MAX).is_err());
    }
}
