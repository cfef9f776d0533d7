//! Admin tokens: made here, shown once, kept as hashes only.

use std::sync::Arc;

use mode_envoy_model::command::Command;
use mode_envoy_model::token::{Role, Token};

use super::authorize::{Action, check};
use super::credential::changed_since;
use super::time::now_ms;
use super::{Control, ControlError, Principal};
use crate::secrets::{ADMIN_TOKEN_PREFIX, Secret, hash_admin_token, same_hash};

/// A token with its secret, which is never seen again.
#[derive(Debug)]
pub struct ShownToken {
    /// The token.
    pub token: Token,
    /// Its secret.
    pub secret: Secret,
    /// The revision that it is in force from.
    pub revision: u64,
}

// === impl Control ===

impl Control {
    /// Makes a token.
    ///
    /// # Errors
    ///
    /// The role is none, the name is taken, the tenant is not there, or the cluster cannot decide.
    pub async fn create_token(
        &self,
        who: &Principal,
        name: &str,
        role: &str,
        tenant: &str,
    ) -> Result<ShownToken, ControlError> {
        check(who.role, Action::Tokens)?;
        let role = Role::parse(role).ok_or_else(|| {
            let problem = format!("`{role}` is not a role; the roles are root, admin and viewer");
            ControlError::invalid("role", problem)
        })?;
        let (_, secret) = self.new_credential(who, ADMIN_TOKEN_PREFIX)?;
        let token = Token {
            name: name.into(),
            role,
            hash: hash_admin_token(secret.expose()),
            created_ms: now_ms(),
            tenant: (!tenant.is_empty()).then(|| tenant.into()),
        };
        let accepted = self
            .propose(who, Command::CreateToken(token.clone()))
            .await?;
        let catalog = self.handle.catalog();
        let stored = catalog.token(&token.name).map(|stored| &stored.value);
        let secret = match stored {
            Some(stored) => self.secret_made(who, secret, ADMIN_TOKEN_PREFIX, |secret| {
                same_hash(&stored.hash, &hash_admin_token(secret))
            })?,
            None => None,
        };
        match (stored, secret) {
            (Some(stored), Some(secret)) => Ok(ShownToken {
                token: Token::clone(stored),
                secret,
                revision: accepted.revision,
            }),
            // Not applied here yet.
            _ if catalog.revision() < accepted.revision => Err(ControlError::OutcomeUnknown),
            _ => Err(changed_since("token", &token.name, accepted.revision)),
        }
    }

    /// Every token, and the revision they were read at.
    ///
    /// # Errors
    ///
    /// The cluster did not confirm that this node is up to date.
    pub async fn list_tokens(
        &self,
        who: &Principal,
        local: bool,
    ) -> Result<(Vec<Arc<Token>>, u64), ControlError> {
        check(who.role, Action::Tokens)?;
        self.up_to_date(who, local).await?;
        let catalog = self.handle.catalog();
        Ok((
            catalog.tokens().map(|t| Arc::clone(&t.value)).collect(),
            catalog.revision(),
        ))
    }

    /// Removes a token for good; answers the revision.
    ///
    /// # Errors
    ///
    /// It is not there, it is the last root token, or the cluster cannot decide.
    pub async fn revoke_token(&self, who: &Principal, name: &str) -> Result<u64, ControlError> {
        check(who.role, Action::Tokens)?;
        Ok(self
            .propose(who, Command::RevokeToken { name: name.into() })
            .await?
            .revision)
    }
}
