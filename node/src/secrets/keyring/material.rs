//! What the cluster secret wraps, and the cipher that everything here is sealed with.
//!
//! ```text
//! a new cluster   cluster key                                      the lasting keys are derived from it
//! after rotations cluster key | fingerprint key | recognition key   drawn anew | as they were | as they were
//! ```
//!
//! Invariant: a rotation changes every key that opens or makes a secret. The lasting ones tell only whether two things are the same, and
//! must go on to tell it of what was stored before.

use mode_envoy_raft::ClusterSecret;
use mode_envoy_raft::secret::LABEL_CLUSTER_KEY_WRAP;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use zeroize::Zeroizing;

use super::super::random_bytes;
use super::{FORMAT, KeyringError, REQUESTS_CONTEXT};

pub(super) const KEY_LEN: usize = 32;

const CLUSTER_KEY_DOMAIN: &[u8] = b"mode-envoy cluster key v1";
const FINGERPRINT_CONTEXT: &str = "mode-envoy cluster key: fingerprint v1";

/// What the cluster secret wraps.
pub(super) struct Material {
    cluster_key: Zeroizing<[u8; KEY_LEN]>,
    /// Absent before the first rotation.
    lasting: Option<Lasting>,
}

/// The keys that outlive rotations.
pub(super) struct Lasting {
    pub(super) fingerprint: Zeroizing<[u8; KEY_LEN]>,
    pub(super) recognise: Zeroizing<[u8; KEY_LEN]>,
}

// === impl Material ===

impl Material {
    /// Of a new cluster.
    pub(super) fn draw() -> Result<Self, KeyringError> {
        Ok(Self {
            cluster_key: Zeroizing::new(random_bytes()?),
            lasting: None,
        })
    }

    /// What takes its place in a rotation.
    pub(super) fn next(&self) -> Result<Self, KeyringError> {
        Ok(Self {
            cluster_key: Zeroizing::new(random_bytes()?),
            lasting: Some(self.lasting()),
        })
    }

    pub(super) fn cluster_key(&self) -> &[u8; KEY_LEN] {
        &self.cluster_key
    }

    pub(super) fn lasting(&self) -> Lasting {
        let derived = |context| Zeroizing::new(blake3::derive_key(context, self.cluster_key()));
        match &self.lasting {
            Some(lasting) => Lasting {
                fingerprint: lasting.fingerprint.clone(),
                recognise: lasting.recognise.clone(),
            },
            None => Lasting {
                fingerprint: derived(FINGERPRINT_CONTEXT),
                recognise: derived(REQUESTS_CONTEXT),
            },
        }
    }

    pub(super) fn wrap(
        &self,
        wrapping: &[u8; KEY_LEN],
        cluster_id: &[u8; 16],
    ) -> Result<Vec<u8>, KeyringError> {
        let mut plain = Zeroizing::new(Vec::with_capacity(3 * KEY_LEN));
        plain.extend_from_slice(&*self.cluster_key);
        if let Some(lasting) = &self.lasting {
            plain.extend_from_slice(&*lasting.fingerprint);
            plain.extend_from_slice(&*lasting.recognise);
        }
        encrypt(&aead_key(wrapping)?, &plain, &cluster_key_data(cluster_id))
    }

    pub(super) fn unwrap(
        wrapping: &[u8; KEY_LEN],
        cluster_id: &[u8; 16],
        wrapped: &[u8],
    ) -> Result<Self, KeyringError> {
        let opened = decrypt(&aead_key(wrapping)?, wrapped, &cluster_key_data(cluster_id))?;
        let opened = opened.ok_or(KeyringError::WrongClusterSecret)?;
        let (keys, rest) = opened.as_chunks::<KEY_LEN>();
        let key = |key: &[u8; KEY_LEN]| Zeroizing::new(*key);
        match (keys, rest) {
            ([cluster_key], []) => Ok(Self {
                cluster_key: key(cluster_key),
                lasting: None,
            }),
            ([cluster_key, fingerprint, recognise], []) => Ok(Self {
                cluster_key: key(cluster_key),
                lasting: Some(Lasting {
                    fingerprint: key(fingerprint),
                    recognise: key(recognise),
                }),
            }),
            _ => Err(KeyringError::WrongClusterSecret),
        }
    }
}

// === free functions ===

pub(super) fn wrapping_key(
    secret: &ClusterSecret,
    cluster_id: &[u8; 16],
) -> Zeroizing<[u8; KEY_LEN]> {
    Zeroizing::new(secret.derive(LABEL_CLUSTER_KEY_WRAP, cluster_id))
}

fn cluster_key_data(cluster_id: &[u8; 16]) -> Vec<u8> {
    [CLUSTER_KEY_DOMAIN, cluster_id].concat()
}

pub(super) fn aead_key(bytes: &[u8; KEY_LEN]) -> Result<LessSafeKey, KeyringError> {
    UnboundKey::new(&CHACHA20_POLY1305, bytes)
        .map(LessSafeKey::new)
        .map_err(|_| KeyringError::Seal)
}

/// `FORMAT nonce ciphertext tag`.
pub(super) fn encrypt(
    key: &LessSafeKey,
    plain: &[u8],
    associated: &[u8],
) -> Result<Vec<u8>, KeyringError> {
    let nonce = random_bytes::<NONCE_LEN>()?;
    let head = 1 + NONCE_LEN;
    let mut out = Vec::with_capacity(head + plain.len() + CHACHA20_POLY1305.tag_len());
    out.push(FORMAT);
    out.extend_from_slice(&nonce);
    out.extend_from_slice(plain);
    let tag = key
        .seal_in_place_separate_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(associated),
            &mut out[head..],
        )
        .map_err(|_| KeyringError::Seal)?;
    out.extend_from_slice(tag.as_ref());
    Ok(out)
}

/// `None` where the bytes were not made by [`encrypt`] with the same key and associated data.
pub(super) fn decrypt(
    key: &LessSafeKey,
    sealed: &[u8],
    associated: &[u8],
) -> Result<Option<Zeroizing<Vec<u8>>>, KeyringError> {
    let Some((format, rest)) = sealed.split_first() else {
        return Ok(None);
    };
    if *format != FORMAT {
        return Err(KeyringError::UnknownFormat(*format));
    }
    let Some((nonce, body)) = rest.split_first_chunk::<NONCE_LEN>() else {
        return Ok(None);
    };
    let mut body = Zeroizing::new(body.to_vec());
    let opened = key.open_in_place(
        Nonce::assume_unique_for_key(*nonce),
        Aad::from(associated),
        body.as_mut_slice(),
    );
    let Ok(len) = opened.map(|plain| plain.len()) else {
        return Ok(None);
    };
    body.truncate(len);
    Ok(Some(body))
}
