//! What is derived from a client's request: by what it is known again, and the secrets that it is shown.
//!
//! * A request that makes a secret makes the same one when it is retried, so no answer has to be stored. Only who holds
//!   the cluster key can derive it, and only from the token's name, the request's id, what it asked for, and the nonce of the try
//!   that was carried out, which is remembered with it.
//! * So an id that is used again when it is forgotten makes another secret: one that was revoked never comes back.
//! * Ids and bodies are kept as keyed hashes: a document may hold secrets, and its plain hash would tell a good guess
//!   from a bad one.

use mode_envoy_model::requests::ClientRequest;
use zeroize::Zeroizing;

use super::super::{Secret, encoding, text_of};
use super::{ClusterKey, Keyring};

const ID: &[u8] = b"id";
const BODY: &[u8] = b"body";
const SECRET: &[u8] = b"secret";
const NAME: &[u8] = b"name";
const NO_NONCE: [u8; 16] = [0; 16];

// === impl Keyring ===

impl Keyring {
    /// By what a request is known again: the id that its client gave it, and a hash of what it asks for.
    pub fn client_request(&self, id: &str, body: &[u8; 32], nonce: [u8; 16]) -> ClientRequest {
        ClientRequest {
            id: hash(&self.recognise, &[ID, id.as_bytes()]),
            body: hash(&self.recognise, &[BODY, body]),
            nonce,
        }
    }

    /// The secret that this request of a token makes; its text begins with `prefix`.
    pub fn secret_of(&self, actor: &str, request: &ClientRequest, prefix: &str) -> Secret {
        self.key.secret_of(actor, request, prefix)
    }

    /// The secrets that this request may have made: also under the cluster key before, while that is held.
    pub fn secrets_of(&self, actor: &str, request: &ClientRequest, prefix: &str) -> Vec<Secret> {
        let keys = [Some(&self.key), self.previous.as_ref()];
        let keys = keys.into_iter().flatten();
        keys.map(|key| key.secret_of(actor, request, prefix))
            .collect()
    }

    /// The bytes of a secret that this request may have made, under each cluster key that is held, the one in force first.
    pub fn bytes_of(
        &self,
        actor: &str,
        request: &ClientRequest,
        what: &str,
    ) -> Vec<Zeroizing<[u8; 32]>> {
        let keys = [Some(&self.key), self.previous.as_ref()];
        let keys = keys.into_iter().flatten();
        keys.map(|key| key.bytes_of(actor, request, what)).collect()
    }

    /// The identifier that this request of a token makes, as [`random_id`](crate::secrets::random_id) makes others.
    pub fn id_of(&self, actor: &str, request: &ClientRequest) -> String {
        let hash = self.key.request_hash(NAME, actor, request, &[]);
        encoding::hex(&hash[..12])
    }
}

// === impl ClusterKey ===

impl ClusterKey {
    fn secret_of(&self, actor: &str, request: &ClientRequest, prefix: &str) -> Secret {
        text_of(prefix, self.bytes_of(actor, request, prefix).as_slice())
    }

    fn bytes_of(&self, actor: &str, request: &ClientRequest, what: &str) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.request_hash(SECRET, actor, request, &[what.as_bytes()]))
    }

    fn request_hash(
        &self,
        purpose: &[u8],
        actor: &str,
        request: &ClientRequest,
        more: &[&[u8]],
    ) -> [u8; 32] {
        let mut parts = vec![purpose];
        parts.extend_from_slice(more);
        parts.extend_from_slice(&[actor.as_bytes(), &request.id, &request.body]);
        // What a version remembers that drew none is derived as it did.
        if request.nonce != NO_NONCE {
            parts.push(&request.nonce);
        }
        hash(&self.derive, &parts)
    }
}

/// Every part with its length, so that no two lists read the same.
fn hash(key: &[u8; 32], parts: &[&[u8]]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_keyed(key);
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    *hasher.finalize().as_bytes()
}

#[cfg(test)]
mod tests {
    use mode_envoy_raft::ClusterSecret;

    use super::*;

    fn keyring() -> Keyring {
        let secret = ClusterSecret::generate().unwrap();
        Keyring::create(&secret, &[7; 16]).unwrap().0
    }

    #[test]
    fn a_retry_derives_the_same_secret_and_nothing_else_does() {
        let keyring = keyring();
        let request = keyring.client_request("0123456789abcdef0123456789abcdef", &[1; 32], [9; 16]);
        let secret = |actor, request: &ClientRequest, prefix| {
            keyring
                .secret_of(actor, request, prefix)
                .expose()
                .to_owned()
        };
        let first = secret("ci", &request, "me-");
        assert_eq!(first, secret("ci", &request, "me-"));
        assert_eq!((first.len(), &first[..3]), (46, "me-"));
        let other_body =
            keyring.client_request("0123456789abcdef0123456789abcdef", &[2; 32], [9; 16]);
        let other_id =
            keyring.client_request("f123456789abcdef0123456789abcdef", &[1; 32], [9; 16]);
        assert_eq!(other_body.id, request.id);
        let later = keyring.client_request("0123456789abcdef0123456789abcdef", &[1; 32], [8; 16]);
        assert_eq!((later.id, later.body), (request.id, request.body));
        assert_ne!(keyring.id_of("ci", &later), keyring.id_of("ci", &request));
        let others = [
            secret("cd", &request, "me-"),
            secret("ci", &other_body, "me-"),
            secret("ci", &other_id, "me-"),
            secret("ci", &later, "me-"),
            secret("ci", &request, "met-").replacen("met-", "me-", 1),
        ];
        for other in others {
            assert_ne!(first, other);
        }
    }

    #[test]
    fn another_cluster_derives_other_secrets_and_hashes() {
        let (ours, theirs) = (keyring(), keyring());
        let id = "0123456789abcdef0123456789abcdef";
        let request = ours.client_request(id, &[1; 32], [9; 16]);
        assert_ne!(request, theirs.client_request(id, &[1; 32], [9; 16]));
        assert_ne!(
            ours.secret_of("ci", &request, "me-").expose(),
            theirs.secret_of("ci", &request, "me-").expose()
        );
        assert_ne!(ours.id_of("ci", &request), theirs.id_of("ci", &request));
    }
}
