//! Who asks: an admin token, as the catalog of this node knows it.

use mode_envoy_model::catalog::Catalog;
use mode_envoy_model::key::SecretHash;
use mode_envoy_model::object::Name;
use mode_envoy_model::rotation::Rotation;
use mode_envoy_model::token::Role;
use mode_envoy_raft::Caller;

use super::{Control, ControlError};
use crate::secrets::{hash_admin_token, same_hash};

/// Longest admin token that is looked at.
const MAX_TOKEN_BYTES: usize = 512;

/// Who asks, and what it may do.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Principal {
    /// Name of the token.
    pub name: Name,
    /// Role of the token.
    pub role: Role,
    /// The tenant that the token is for; `None`: the whole cluster.
    pub tenant: Option<Name>,
    /// Hash of the token, by which the leader authorises again.
    pub hash: SecretHash,
    /// The request that is carried out, if its client gave it an id.
    pub request: Option<NamedRequest>,
}

/// A changing request as its client names it, so that a retry is known.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NamedRequest {
    /// Chosen by the client.
    pub id: String,
    /// Hash of what is asked for.
    pub body: [u8; 32],
    /// Drawn for this try.
    pub nonce: [u8; 16],
}

// === impl Principal ===

impl Principal {
    /// As the log and the leader know it.
    pub fn caller(&self) -> Caller {
        Caller {
            actor: self.name.to_string(),
            token_hash: Some(self.hash),
            request: None,
        }
    }

    /// Whether the token is one still in a catalog that may come; as there, its secret may just have been replaced with the cluster's.
    fn stays_in(&self, ahead: &Catalog) -> bool {
        let replaced = |rotation: &Rotation| rotation.switched && rotation.old_root == self.hash;
        ahead.token_by_hash(&self.hash).is_some() || ahead.rotation().is_some_and(replaced)
    }

    /// The owner of a token; `None` where no token of the catalog is this one.
    pub fn of(catalog: &Catalog, token: &str) -> Option<Self> {
        if token.len() > MAX_TOKEN_BYTES {
            return None;
        }
        let hash = hash_admin_token(token);
        let stored = catalog.token_by_hash(&hash)?;
        // The lookup compares byte by byte; what it found is held to the whole hash in constant time.
        same_hash(&stored.hash, &hash).then(|| Self {
            name: Name::clone(&stored.name),
            role: stored.role,
            tenant: stored.tenant.clone(),
            hash,
            request: None,
        })
    }
}

// === impl Control ===

impl Control {
    /// Who a token belongs to.
    ///
    /// # Errors
    ///
    /// [`ControlError::Unauthenticated`] if the cluster knows no such token.
    pub fn authenticate(&self, token: &str) -> Result<Principal, ControlError> {
        let who = Principal::of(&self.handle.catalog(), token);
        let who = who.filter(|who| match self.handle.unsettled().catalog() {
            Some(ahead) => who.stays_in(ahead),
            None => true,
        });
        who.ok_or(ControlError::Unauthenticated)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use mode_envoy_model::catalog::Record;
    use mode_envoy_model::token::Token;

    use super::*;

    fn catalog(tokens: &[&str]) -> Catalog {
        let records = tokens.iter().map(|secret| {
            let token = Token {
                name: (*secret).into(),
                role: Role::Admin,
                hash: hash_admin_token(secret),
                created_ms: 0,
                tenant: None,
            };
            (1, Record::Token(Arc::new(token)))
        });
        Catalog::restore(None, 1, 1, records)
    }

    #[test]
    fn a_token_that_may_be_revoked_is_not_one_and_one_whose_secret_is_being_replaced_is() {
        let who = Principal::of(&catalog(&["kept", "root"]), "root").unwrap();
        assert!(who.stays_in(&catalog(&["root"])));
        let ahead = catalog(&["kept"]);
        assert!(!who.stays_in(&ahead));
        let rotation = |switched| Rotation {
            check: [1; 32],
            wrapped_key: [1].into(),
            old_wrapped_key: [1].into(),
            generation: 1,
            old_root: who.hash,
            new_root: [2; 32],
            switched,
        };
        assert!(who.stays_in(&ahead.clone().with_rotation(Some(rotation(true)))));
        assert!(!who.stays_in(&ahead.with_rotation(Some(rotation(false)))));
    }
}
