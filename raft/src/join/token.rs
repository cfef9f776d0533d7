//! A join token as text: `mej-` and what a node must know to join.
//!
//! Invariant: a text that was cut or mistyped is told apart from one that is of another cluster, by a checksum.

use std::fmt;

use ring::digest::{SHA256, digest};
#[cfg(test)]
use ring::rand::{SecureRandom as _, SystemRandom};
use zeroize::{Zeroize as _, Zeroizing};

use crate::identity::ClusterId;
use crate::secret::{base64url, read_base64url};

const PREFIX: &str = "mej-";
const CHECK_BYTES: usize = 4;
const KIND_CA_KEY: u8 = 1;
const KIND_OPERATOR: u8 = 2;
// Changing a context makes every stored hash unfindable.
const TOKEN_CONTEXT: &[u8] = b"mode-envoy join token hash v1";
const NONCE_CONTEXT: &[u8] = b"mode-envoy join nonce hash v1";

/// A P-256 public key, uncompressed.
pub(crate) type CaKey = [u8; 65];

/// What only a token's owner knows. Wiped when dropped, never printed.
pub(crate) type TokenSecret = Zeroizing<[u8; 32]>;

/// Whose certificates a joining node trusts.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Pin {
    /// Those of the cluster's private CA, by its key.
    CaKey(Box<CaKey>),
    /// Those of the operator's own CA, which the node is given by `--peer-ca`.
    Operator,
}

/// A join token, taken apart.
pub(crate) struct JoinTokenText {
    pub(crate) pin: Pin,
    pub(crate) cluster_id: ClusterId,
    pub(crate) secret: TokenSecret,
}

// === impl JoinTokenText ===

impl JoinTokenText {
    #[cfg(test)]
    /// A new token of a cluster; `None` where the system gives no random bytes.
    pub(crate) fn draw(pin: Pin, cluster_id: ClusterId) -> Option<Self> {
        let mut secret = TokenSecret::default();
        SystemRandom::new().fill(&mut *secret).ok()?;
        Some(Self {
            pin,
            cluster_id,
            secret,
        })
    }

    /// The text that is shown once.
    pub(crate) fn to_text(&self) -> Zeroizing<String> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(128));
        match &self.pin {
            Pin::CaKey(key) => {
                bytes.push(KIND_CA_KEY);
                bytes.extend_from_slice(&**key);
            }
            Pin::Operator => bytes.push(KIND_OPERATOR),
        }
        bytes.extend_from_slice(&self.cluster_id);
        bytes.extend_from_slice(&*self.secret);
        let check = digest(&SHA256, &bytes);
        bytes.extend_from_slice(&check.as_ref()[..CHECK_BYTES]);
        let mut encoded = base64url(&bytes);
        let text = Zeroizing::new(format!("{PREFIX}{encoded}"));
        encoded.zeroize();
        text
    }

    /// Reads what [`Self::to_text`] writes, white space around it aside; `None` for anything else.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let bytes = Zeroizing::new(read_base64url(text.trim().strip_prefix(PREFIX)?)?);
        let (body, check) = bytes.split_last_chunk::<CHECK_BYTES>()?;
        if digest(&SHA256, body).as_ref()[..CHECK_BYTES] != *check {
            return None;
        }
        let (kind, body) = body.split_first()?;
        let (pin, body) = match *kind {
            KIND_CA_KEY => {
                let (key, body) = body.split_first_chunk()?;
                (Pin::CaKey(Box::new(*key)), body)
            }
            KIND_OPERATOR => (Pin::Operator, body),
            _ => return None,
        };
        let (cluster_id, secret) = body.split_first_chunk()?;
        Some(Self {
            pin,
            cluster_id: *cluster_id,
            secret: Zeroizing::new(secret.try_into().ok()?),
        })
    }
}

impl fmt::Debug for JoinTokenText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinTokenText")
            .field("pin", &self.pin)
            .finish_non_exhaustive()
    }
}

/// The hash under which the log keeps a token.
pub(crate) fn token_hash(secret: &[u8; 32]) -> [u8; 32] {
    hash(TOKEN_CONTEXT, secret)
}

/// The hash under which the log keeps a joining node's number.
pub(crate) fn nonce_hash(nonce: &[u8; 32]) -> [u8; 32] {
    hash(NONCE_CONTEXT, nonce)
}

fn hash(context: &[u8], bytes: &[u8; 32]) -> [u8; 32] {
    let mut hasher = ring::digest::Context::new(&SHA256);
    hasher.update(context);
    hasher.update(bytes);
    let mut hash = [0; 32];
    hash.copy_from_slice(hasher.finish().as_ref());
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_reads_back_and_nothing_that_was_cut_or_mistyped_does() {
        for pin in [Pin::CaKey(Box::new([4; 65])), Pin::Operator] {
            let token = JoinTokenText::draw(pin.clone(), [7; 16]).unwrap();
            let text = token.to_text();
            let back = JoinTokenText::parse(&format!(" {}\n", *text)).unwrap();
            assert_eq!((back.pin, back.cluster_id), (pin, [7; 16]));
            assert_eq!(*back.secret, *token.secret);
            assert!(text.len() < 200, "{}", text.len());
            for at in 0..text.len() {
                assert!(JoinTokenText::parse(&text[..at]).is_none(), "cut at {at}");
                let mut other = text.to_string().into_bytes();
                other[at] = if other[at] == b'A' { b'B' } else { b'A' };
                let other = String::from_utf8(other).unwrap();
                assert!(JoinTokenText::parse(&other).is_none(), "changed at {at}");
            }
        }
        for odd in ["", "mej-", "met-abc", "mej-%%%%", "mej-AAAA"] {
            assert!(JoinTokenText::parse(odd).is_none(), "{odd}");
        }
    }

    #[test]
    fn a_token_is_not_printed_and_its_hash_is_not_a_numbers() {
        let token = JoinTokenText::draw(Pin::Operator, [7; 16]).unwrap();
        assert!(!format!("{token:?}").contains(&*token.to_text()));
        assert_ne!(token_hash(&[1; 32]), nonce_hash(&[1; 32]));
    }
}
