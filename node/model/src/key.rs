//! An API key: what a client of the gateway authenticates with. Only a hash of its secret is kept.

use crate::check::Check;
use crate::command::Violation;
use crate::object::Name;

/// BLAKE3 of a secret, domain separated by what it opens.
pub type SecretHash = [u8; 32];

/// An API key.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Key {
    /// Owner.
    pub tenant: Name,
    /// Whom it authenticates as.
    pub consumer: Name,
    /// Unique within the tenant.
    pub name: Name,
    /// Unique in the cluster for good.
    pub id: Name,
    /// Hash of the secret.
    pub hash: SecretHash,
    /// Unix milliseconds.
    pub created_ms: u64,
    /// Unix milliseconds from which it is refused.
    pub expires_ms: Option<u64>,
    /// The secret before the last rotation, and until when (Unix milliseconds) it is still accepted.
    pub previous: Option<(SecretHash, u64)>,
}

// === impl Key ===

impl Key {
    /// Whether a secret with this hash authenticates as this key at this moment (Unix milliseconds).
    pub fn accepts(&self, hash: &SecretHash, now_ms: u64) -> bool {
        let current = self.hash == *hash;
        let previous = self
            .previous
            .is_some_and(|(old, until)| old == *hash && now_ms < until);
        (current || previous) && !self.has_expired(now_ms)
    }

    /// Whether it is refused at this moment because its time is over.
    pub fn has_expired(&self, now_ms: u64) -> bool {
        self.expires_ms.is_some_and(|expires| now_ms >= expires)
    }

    /// What is wrong with it, taken by itself.
    pub fn validate(&self) -> Vec<Violation> {
        let mut check = Check::of(format!("keys[{}/{}]", self.tenant, self.name));
        check.name("tenant", &self.tenant);
        check.name("consumer", &self.consumer);
        check.name("name", &self.name);
        check.name("id", &self.id);
        check.done()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> Key {
        Key {
            tenant: "acme".into(),
            consumer: "app".into(),
            name: "k".into(),
            id: "id1".into(),
            hash: [1; 32],
            created_ms: 0,
            expires_ms: Some(100),
            previous: Some(([2; 32], 50)),
        }
    }

    #[test]
    fn the_old_secret_is_accepted_until_its_grace_ends() {
        assert!(key().accepts(&[2; 32], 49));
        assert!(!key().accepts(&[2; 32], 50));
        assert!(key().accepts(&[1; 32], 50));
        assert!(!key().accepts(&[3; 32], 49));
    }

    #[test]
    fn no_secret_is_accepted_after_expiry() {
        assert!(key().accepts(&[1; 32], 99));
        assert!(!key().accepts(&[1; 32], 100));
        let open = Key {
            expires_ms: None,
            ..key()
        };
        assert!(open.accepts(&[1; 32], u64::MAX));
    }

    #[test]
    fn every_name_of_a_key_is_checked() {
        let bad = Key {
            id: "".into(),
            consumer: "A".into(),
            ..key()
        };
        let paths: Vec<_> = bad.validate().into_iter().map(|v| v.path).collect();
        assert_eq!(paths, ["keys[acme/k].consumer", "keys[acme/k].id"]);
        assert_eq!(key().validate(), []);
    }
}
