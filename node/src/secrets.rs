//! Everything secret that the cluster keeps or hands out, so that the rules are in one place.
//!
//! * A secret in memory is a [`Secret`]: wiped when dropped, never printed.
//! * What clients and admins authenticate with is 256 random bits, and only a hash of it is kept. The hash needs no
//!   salt and no slowness: the input cannot be guessed. Each use has a domain of its own, so that an API key is never
//!   taken for an admin token.
//! * What must be read again (credentials for providers) is sealed by the [`Keyring`] before it enters the log.

mod encoding;
mod keyring;
mod source;

use std::fmt;

use mode_envoy_model::key::SecretHash;
use ring::rand::{SecureRandom as _, SystemRandom};
use subtle::ConstantTimeEq as _;
use thiserror::Error;
use zeroize::Zeroizing;

pub use self::keyring::{Keyring, KeyringError, NextKey, Place};
pub use self::source::KeyringSource;

/// What every API key starts with.
pub const API_KEY_PREFIX: &str = "me-";
/// What every admin token starts with.
pub const ADMIN_TOKEN_PREFIX: &str = "met-";

// Changing a context makes every stored hash unfindable.
const API_KEY_CONTEXT: &str = "mode-envoy api key hash v1";
const ADMIN_TOKEN_CONTEXT: &str = "mode-envoy admin token hash v1";

/// A text that must not be seen: wiped when dropped, redacted when printed.
#[derive(Clone, Default)]
pub struct Secret(Zeroizing<String>);

/// The operating system gave no random bytes.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[error("asking the operating system for random bytes: it gave none; nothing was made, try again")]
pub struct RandomError;

// === impl Secret ===

impl Secret {
    /// Takes over a text.
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The text itself; whoever calls this answers for where it goes.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(redacted)")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(redacted)")
    }
}

// === free functions ===

/// The hash under which an API key is stored.
pub fn hash_api_key(secret: &str) -> SecretHash {
    blake3::derive_key(API_KEY_CONTEXT, secret.as_bytes())
}

/// The hash under which an admin token is stored.
pub fn hash_admin_token(token: &str) -> SecretHash {
    blake3::derive_key(ADMIN_TOKEN_CONTEXT, token.as_bytes())
}

/// Whether two hashes are the same, in a time that does not depend on where they differ.
pub fn same_hash(a: &SecretHash, b: &SecretHash) -> bool {
    a.ct_eq(b).into()
}

/// A new API key or admin token: the prefix, and 43 characters.
///
/// # Errors
///
/// [`RandomError`] if the system has no random bytes.
pub fn new_secret(prefix: &str) -> Result<Secret, RandomError> {
    let bytes = Zeroizing::new(random_bytes::<32>()?);
    Ok(text_of(prefix, bytes.as_slice()))
}

/// An identifier that nobody else will ever draw: 24 hexadecimal digits, a valid name.
///
/// # Errors
///
/// [`RandomError`] if the system has no random bytes.
pub fn random_id() -> Result<String, RandomError> {
    Ok(encoding::hex(&random_bytes::<12>()?))
}

/// 16 random bytes that tell one try of a request from another.
///
/// # Errors
///
/// [`RandomError`] if the system has no random bytes.
pub(crate) fn new_nonce() -> Result<[u8; 16], RandomError> {
    random_bytes()
}

/// 32 random bytes that nobody can guess.
///
/// # Errors
///
/// [`RandomError`] if the system has no random bytes.
pub(crate) fn new_secret_bytes() -> Result<Zeroizing<[u8; 32]>, RandomError> {
    Ok(Zeroizing::new(random_bytes()?))
}

/// The id of a cluster that nobody else will ever draw.
///
/// # Errors
///
/// [`RandomError`] if the system has no random bytes.
pub(crate) fn new_cluster_id() -> Result<[u8; 16], RandomError> {
    random_bytes()
}

/// Lower-case hexadecimal digits of `bytes`.
pub fn hex(bytes: &[u8]) -> String {
    encoding::hex(bytes)
}

fn text_of(prefix: &str, bytes: &[u8]) -> Secret {
    // Full capacity from the start: growing would leave a copy behind that nobody wipes.
    let mut text = String::with_capacity(prefix.len() + encoding::base64url_len(bytes.len()));
    text.push_str(prefix);
    encoding::push_base64url(&mut text, bytes);
    Secret::new(text)
}

fn random_bytes<const N: usize>() -> Result<[u8; N], RandomError> {
    let mut bytes = [0; N];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| RandomError)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_never_printed() {
        let secret = Secret::new("me-hush".to_owned());
        assert_eq!(
            format!("{secret} {secret:?}"),
            "(redacted) Secret(redacted)"
        );
        assert_eq!(secret.expose(), "me-hush");
    }

    #[test]
    fn an_api_key_is_never_taken_for_an_admin_token() {
        assert_ne!(hash_api_key("same"), hash_admin_token("same"));
        assert!(same_hash(&hash_api_key("same"), &hash_api_key("same")));
        assert!(!same_hash(&hash_api_key("same"), &hash_api_key("other")));
    }

    #[test]
    fn new_credentials_have_their_prefix_and_256_bits_and_never_repeat() {
        for prefix in [API_KEY_PREFIX, ADMIN_TOKEN_PREFIX] {
            let (one, two) = (new_secret(prefix).unwrap(), new_secret(prefix).unwrap());
            assert_eq!(one.expose().len(), prefix.len() + 43);
            assert!(one.expose().starts_with(prefix));
            assert_ne!(one.expose(), two.expose());
        }
    }

    #[test]
    fn an_id_is_a_valid_name() {
        let id = random_id().unwrap();
        assert_eq!(id.len(), 24);
        assert!(
            id.bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        );
    }
}
