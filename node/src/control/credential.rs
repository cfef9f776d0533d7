//! The secrets that a request makes: keys, tokens, join tokens.
//!
//! One whose client named it makes them from the request and from the nonce of the try that was carried out; what is remembered of
//! that try lets a retry make the same. A request that was named by nobody makes random ones.

use mode_envoy_model::command::RejectedCode;
use mode_envoy_raft::MadeJoinToken;
use zeroize::Zeroizing;

use super::{Control, ControlError, Principal};
use crate::secrets::{Secret, new_secret, new_secret_bytes, random_id};

/// What a join token's secret is derived for.
const JOIN: &str = "join";

// === impl Control ===

impl Control {
    /// An identifier and a secret that nobody else has: those that this try of the request makes, if it is the one that is carried out.
    pub(super) fn new_credential(
        &self,
        who: &Principal,
        prefix: &str,
    ) -> Result<(String, Secret), ControlError> {
        let Some(request) = self.client_request(who)? else {
            return Ok((random_id()?, new_secret(prefix)?));
        };
        let keyring = self.required_keyring()?;
        let secret = keyring.secret_of(&who.name, &request, prefix);
        Ok((keyring.id_of(&who.name, &request), secret))
    }

    /// The secret that is stored, once the request is carried out: this try's own, or that of the first try.
    pub(super) fn secret_made(
        &self,
        who: &Principal,
        own: Secret,
        prefix: &str,
        is_stored: impl Fn(&str) -> bool,
    ) -> Result<Option<Secret>, ControlError> {
        if is_stored(own.expose()) {
            return Ok(Some(own));
        }
        let Some(first) = self.remembered(who)? else {
            return Ok(None);
        };
        let made = self
            .required_keyring()?
            .secrets_of(&who.name, &first.request, prefix);
        Ok(made.into_iter().find(|secret| is_stored(secret.expose())))
    }

    /// The secret of a join token.
    pub(super) fn new_join_secret(
        &self,
        who: &Principal,
    ) -> Result<Zeroizing<[u8; 32]>, ControlError> {
        let made = match self.client_request(who)? {
            Some(request) => self.required_keyring()?.bytes_of(&who.name, &request, JOIN),
            None => Vec::new(),
        };
        match made.into_iter().next() {
            Some(secret) => Ok(secret),
            None => Ok(new_secret_bytes()?),
        }
    }

    /// The join token that was made at a revision: of this try, or of the first one.
    pub(super) fn join_token(
        &self,
        who: &Principal,
        own: &[u8; 32],
        revision: u64,
    ) -> Result<MadeJoinToken, ControlError> {
        if let Some(token) = self.handle.join_token(own) {
            return Ok(token);
        }
        let first = self.remembered(who)?;
        let made = match first {
            Some(first) => self
                .required_keyring()?
                .bytes_of(&who.name, &first.request, JOIN),
            None => Vec::new(),
        };
        let mut tokens = made
            .iter()
            .filter_map(|secret| self.handle.join_token(secret));
        tokens.next().ok_or_else(|| {
            ControlError::refused(
                RejectedCode::Conflict,
                "x-request-id",
                format!(
                    "this request was carried out at revision {revision}, and its join token has expired since, or the cluster \
                     secret was replaced; make a new request"
                ),
            )
        })
    }
}

// === free functions ===

/// What a retry is told that comes after something else happened to what the first try made.
pub(super) fn changed_since(kind: &str, name: &str, revision: u64) -> ControlError {
    ControlError::refused(
        RejectedCode::Conflict,
        "x-request-id",
        format!(
            "this request was carried out at revision {revision}, and {kind} `{name}` was rotated or removed since, or the cluster \
             secret was replaced, so its secret from then cannot be shown again; make a new request"
        ),
    )
}
