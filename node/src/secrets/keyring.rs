//! The cluster's encryption key, and secrets sealed under it.
//!
//! ```text
//! cluster secret (file) --HKDF--> wrapping key --wraps--> cluster key (in the log) --wraps--> data key of one record --seals--> secret
//! ```
//!
//! A rotation of the secret makes the next cluster key. While it lasts the keyring holds both, opens what either has sealed, and seals
//! with the new one.
//!
//! * Nothing that stands in the log or in a checkpoint can be read without the cluster secret's file.
//! * A sealed secret opens only at the [`Place`] it was sealed for: moved to another object, it is refused.
//! * A cluster key seals fewer than 2^32 records, far from where random 96-bit nonces collide; a data key seals one.
//! * Fingerprints are keyed: they tell whether two secrets are equal only to those who hold the cluster key. That key, and the one that
//!   requests are known again by, outlive rotations, since they open nothing (`material.rs`).

mod material;
mod requests;
mod reseal;

use std::fmt;

use mode_envoy_model::provider::SealedSecret;
use mode_envoy_raft::ClusterSecret;
use ring::aead::LessSafeKey;
use thiserror::Error;
use zeroize::Zeroizing;

use self::material::{KEY_LEN, Material, aead_key, decrypt, encrypt, wrapping_key};
use super::{RandomError, Secret, random_bytes};

/// First byte of everything written here, so that the construction can change.
const FORMAT: u8 = 1;

const DATA_KEY_DOMAIN: &[u8] = b"mode-envoy data key v1";
const SECRET_DOMAIN: &[u8] = b"mode-envoy sealed secret v1";
const SEAL_CONTEXT: &str = "mode-envoy cluster key: seal v1";
// The secrets that requests make; and, until the first rotation, what requests are known again by.
const REQUESTS_CONTEXT: &str = "mode-envoy cluster key: requests v1";

/// Seals and opens the secrets of one cluster.
pub struct Keyring {
    /// In force: it seals.
    key: ClusterKey,
    /// While a rotation lasts: what it has sealed opens still.
    previous: Option<ClusterKey>,
    fingerprint: Zeroizing<[u8; KEY_LEN]>,
    /// Of the hashes by which requests are known again.
    recognise: Zeroizing<[u8; KEY_LEN]>,
}

/// What one cluster key is used as.
struct ClusterKey {
    generation: u32,
    seal: LessSafeKey,
    /// Of the secrets that requests make.
    derive: Zeroizing<[u8; KEY_LEN]>,
}

/// The next cluster key, and the one in force, both wrapped by a new secret.
#[derive(Debug)]
pub struct NextKey {
    /// The next one.
    pub wrapped_key: Vec<u8>,
    /// The one in force.
    pub old_wrapped_key: Vec<u8>,
}

/// Where a secret belongs.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// Owner; empty for what belongs to the cluster.
    pub tenant: &'a str,
    /// Kind of the object.
    pub kind: &'static str,
    /// Name of the object.
    pub name: &'a str,
    /// Field of the object.
    pub field: &'static str,
}

/// Why the keyring did not do what it was asked.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum KeyringError {
    /// The cluster key does not open with this secret.
    #[error(
        "opening the cluster's encryption key: this node's cluster secret is not the one that wrapped it; \
         start the node with the same --cluster-secret-file as the others"
    )]
    WrongClusterSecret,
    /// A sealed secret was altered, or belongs to another place or another cluster.
    #[error(
        "opening the {field} of {kind} {name}: it was not sealed there by this cluster; apply the {kind} again with its secret"
    )]
    NotSealedHere {
        /// Kind of the object.
        kind: &'static str,
        /// Name of the object, with its tenant if it has one.
        name: String,
        /// Field of the object.
        field: &'static str,
    },
    /// Written by a newer release.
    #[error(
        "opening a secret of format {0}: this release reads format {FORMAT} only; run the release that wrote it"
    )]
    UnknownFormat(u8),
    /// Sealing failed.
    #[error("sealing a secret: the cipher refused it; nothing was stored")]
    Seal,
    /// No random bytes.
    #[error(transparent)]
    Random(#[from] RandomError),
}

// === impl Place ===

impl<'a> Place<'a> {
    /// Any of the keys of a provider; their order is free, so they share a place.
    pub const fn provider_keys(name: &'a str) -> Self {
        Self {
            tenant: "",
            kind: "provider",
            name,
            field: "keys",
        }
    }

    /// Every part with its length, so that no two places read the same.
    fn associated_data(self, domain: &[u8]) -> Vec<u8> {
        let parts = [
            domain,
            self.tenant.as_bytes(),
            self.kind.as_bytes(),
            self.name.as_bytes(),
            self.field.as_bytes(),
        ];
        let mut data = Vec::with_capacity(parts.iter().map(|p| p.len() + 8).sum());
        for part in parts {
            data.extend_from_slice(&(part.len() as u64).to_le_bytes());
            data.extend_from_slice(part);
        }
        data
    }

    fn refusal(self) -> KeyringError {
        let name = match self.tenant {
            "" => self.name.to_owned(),
            tenant => format!("{tenant}/{}", self.name),
        };
        KeyringError::NotSealedHere {
            kind: self.kind,
            name,
            field: self.field,
        }
    }
}

// === impl Keyring ===

impl Keyring {
    /// Makes the encryption key of a new cluster, and the form of it that may be stored.
    ///
    /// # Errors
    ///
    /// [`KeyringError::Random`] if the system has no random bytes.
    pub fn create(
        secret: &ClusterSecret,
        cluster_id: &[u8; 16],
    ) -> Result<(Self, Vec<u8>), KeyringError> {
        Self::create_under(&wrapping_key(secret, cluster_id), cluster_id)
    }

    /// Opens what [`Self::create`] or [`Self::next`] stored; `generation` is which cluster key that is.
    ///
    /// # Errors
    ///
    /// [`KeyringError::WrongClusterSecret`] if it was wrapped by another secret or for another cluster.
    pub fn unwrap(
        secret: &ClusterSecret,
        cluster_id: &[u8; 16],
        (wrapped, generation): (&[u8], u32),
    ) -> Result<Self, KeyringError> {
        let wrapping = wrapping_key(secret, cluster_id);
        Self::unwrap_under(&wrapping, cluster_id, (wrapped, generation))
    }

    /// With the cluster key before, for what is sealed under that one still.
    #[must_use]
    pub fn with_previous(self, previous: Self) -> Self {
        Self {
            previous: Some(previous.key),
            ..self
        }
    }

    /// Makes the cluster key that takes the place of `wrapped` when `new_secret` takes the place of `secret`.
    ///
    /// # Errors
    ///
    /// [`KeyringError::WrongClusterSecret`] if `secret` does not open `wrapped`.
    pub fn next(
        (secret, wrapped): (&ClusterSecret, &[u8]),
        new_secret: &ClusterSecret,
        cluster_id: &[u8; 16],
    ) -> Result<NextKey, KeyringError> {
        let old = Material::unwrap(&wrapping_key(secret, cluster_id), cluster_id, wrapped)?;
        let wrapping = wrapping_key(new_secret, cluster_id);
        Ok(NextKey {
            wrapped_key: old.next()?.wrap(&wrapping, cluster_id)?,
            old_wrapped_key: old.wrap(&wrapping, cluster_id)?,
        })
    }

    /// Wraps what [`Self::create`] stored by another secret or for another cluster; the encryption key stays.
    ///
    /// # Errors
    ///
    /// [`KeyringError::WrongClusterSecret`] if it was wrapped by another secret or for another cluster than `from`.
    pub fn rewrap(
        (secret, from): (&ClusterSecret, &[u8; 16]),
        wrapped: &[u8],
        (new_secret, to): (&ClusterSecret, &[u8; 16]),
    ) -> Result<Vec<u8>, KeyringError> {
        let material = Material::unwrap(&wrapping_key(secret, from), from, wrapped)?;
        material.wrap(&wrapping_key(new_secret, to), to)
    }

    /// Encrypts `plain` so that it opens at `at` only.
    ///
    /// # Errors
    ///
    /// [`KeyringError::Random`] if the system has no random bytes.
    pub fn seal(&self, plain: &Secret, at: Place<'_>) -> Result<SealedSecret, KeyringError> {
        let data_key = Zeroizing::new(random_bytes::<KEY_LEN>()?);
        let wrapped_data_key = encrypt(
            &self.key.seal,
            data_key.as_slice(),
            &at.associated_data(DATA_KEY_DOMAIN),
        )?;
        let ciphertext = encrypt(
            &aead_key(&data_key)?,
            plain.expose().as_bytes(),
            &at.associated_data(SECRET_DOMAIN),
        )?;
        Ok(SealedSecret {
            wrapped_data_key: wrapped_data_key.into(),
            ciphertext: ciphertext.into(),
            fingerprint: self.fingerprint(plain),
            generation: self.key.generation,
        })
    }

    /// Decrypts what [`Self::seal`] made for the same place.
    ///
    /// # Errors
    ///
    /// [`KeyringError::NotSealedHere`] if it was altered or moved.
    pub fn open(&self, sealed: &SealedSecret, at: Place<'_>) -> Result<Secret, KeyringError> {
        let both = [Some(&self.key), self.previous.as_ref()];
        let mut keys = both.into_iter().flatten();
        let key = keys.find(|key| key.generation == sealed.generation);
        let data_key = decrypt(
            &key.ok_or_else(|| at.refusal())?.seal,
            &sealed.wrapped_data_key,
            &at.associated_data(DATA_KEY_DOMAIN),
        )?
        .ok_or_else(|| at.refusal())?;
        let data_key: Zeroizing<[u8; KEY_LEN]> =
            Zeroizing::new(data_key.as_slice().try_into().map_err(|_| at.refusal())?);
        let plain = decrypt(
            &aead_key(&data_key)?,
            &sealed.ciphertext,
            &at.associated_data(SECRET_DOMAIN),
        )?
        .ok_or_else(|| at.refusal())?;
        std::str::from_utf8(&plain)
            .map(|text| Secret::new(text.to_owned()))
            .map_err(|_| at.refusal())
    }

    /// The same for equal secrets, and worth nothing to those who do not hold the cluster key.
    pub fn fingerprint(&self, plain: &Secret) -> [u8; 16] {
        let hash = blake3::keyed_hash(&self.fingerprint, plain.expose().as_bytes());
        let mut short = [0; 16];
        short.copy_from_slice(&hash.as_bytes()[..16]);
        short
    }

    fn create_under(
        wrapping: &[u8; KEY_LEN],
        cluster_id: &[u8; 16],
    ) -> Result<(Self, Vec<u8>), KeyringError> {
        let material = Material::draw()?;
        let wrapped = material.wrap(wrapping, cluster_id)?;
        Ok((Self::of(&material, 0)?, wrapped))
    }

    fn unwrap_under(
        wrapping: &[u8; KEY_LEN],
        cluster_id: &[u8; 16],
        (wrapped, generation): (&[u8], u32),
    ) -> Result<Self, KeyringError> {
        let material = Material::unwrap(wrapping, cluster_id, wrapped)?;
        Self::of(&material, generation)
    }

    fn of(material: &Material, generation: u32) -> Result<Self, KeyringError> {
        let cluster_key = material.cluster_key();
        let seal = Zeroizing::new(blake3::derive_key(SEAL_CONTEXT, cluster_key));
        let lasting = material.lasting();
        Ok(Self {
            key: ClusterKey {
                generation,
                seal: aead_key(&seal)?,
                derive: Zeroizing::new(blake3::derive_key(REQUESTS_CONTEXT, cluster_key)),
            },
            previous: None,
            fingerprint: lasting.fingerprint,
            recognise: lasting.recognise,
        })
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keyring(redacted)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: [u8; 16] = [7; 16];
    const AT: Place<'_> = Place {
        tenant: "acme",
        kind: "provider",
        name: "openai",
        field: "keys",
    };

    fn keyring() -> Keyring {
        Keyring::create_under(&[1; 32], &CLUSTER).unwrap().0
    }

    fn secret() -> Secret {
        Secret::new("sk-live-123".to_owned())
    }

    #[test]
    fn a_sealed_secret_opens_where_it_was_sealed() {
        let keyring = keyring();
        let sealed = keyring.seal(&secret(), AT).unwrap();
        assert_eq!(keyring.open(&sealed, AT).unwrap().expose(), "sk-live-123");
    }

    #[test]
    fn a_secret_moved_to_another_place_is_refused() {
        let keyring = keyring();
        let sealed = keyring.seal(&secret(), AT).unwrap();
        let others = [
            Place {
                tenant: "beta",
                ..AT
            },
            Place {
                kind: "service",
                ..AT
            },
            Place {
                name: "other",
                ..AT
            },
            Place {
                field: "headers",
                ..AT
            },
            // The parts read the same when run together.
            Place {
                tenant: "acmeprovider",
                kind: "",
                ..AT
            },
        ];
        for place in others {
            assert!(
                matches!(
                    keyring.open(&sealed, place),
                    Err(KeyringError::NotSealedHere { .. })
                ),
                "{place:?}"
            );
        }
    }

    #[test]
    fn every_altered_byte_is_noticed() {
        let keyring = keyring();
        let sealed = keyring.seal(&secret(), AT).unwrap();
        for at in 0..sealed.ciphertext.len() {
            let mut bytes = sealed.ciphertext.to_vec();
            bytes[at] ^= 1;
            assert!(
                keyring
                    .open(
                        &SealedSecret {
                            ciphertext: bytes.into(),
                            ..sealed.clone()
                        },
                        AT
                    )
                    .is_err()
            );
        }
        for at in 0..sealed.wrapped_data_key.len() {
            let mut bytes = sealed.wrapped_data_key.to_vec();
            bytes[at] ^= 1;
            assert!(
                keyring
                    .open(
                        &SealedSecret {
                            wrapped_data_key: bytes.into(),
                            ..sealed.clone()
                        },
                        AT
                    )
                    .is_err()
            );
        }
        for len in 0..sealed.ciphertext.len() {
            let cut = sealed.ciphertext[..len].into();
            assert!(
                keyring
                    .open(
                        &SealedSecret {
                            ciphertext: cut,
                            ..sealed.clone()
                        },
                        AT
                    )
                    .is_err()
            );
        }
    }

    #[test]
    fn the_ciphertext_does_not_contain_the_secret_and_is_new_each_time() {
        let keyring = keyring();
        let (one, two) = (
            keyring.seal(&secret(), AT).unwrap(),
            keyring.seal(&secret(), AT).unwrap(),
        );
        assert!(!one.ciphertext.windows(4).any(|w| w == b"live"));
        assert_ne!(one.ciphertext, two.ciphertext);
        assert_ne!(one.wrapped_data_key, two.wrapped_data_key);
        assert_eq!(one.fingerprint, two.fingerprint);
    }

    #[test]
    fn a_fingerprint_is_keyed_by_the_cluster() {
        assert_ne!(
            keyring().fingerprint(&secret()),
            keyring().fingerprint(&secret())
        );
        let one = keyring();
        assert_ne!(
            one.fingerprint(&secret()),
            one.fingerprint(&Secret::new("sk-live-124".to_owned()))
        );
    }

    #[test]
    fn the_wrapped_key_opens_with_the_same_secret_and_cluster_only() {
        let (keyring, wrapped) = Keyring::create_under(&[1; 32], &CLUSTER).unwrap();
        let sealed = keyring.seal(&secret(), AT).unwrap();
        let again = Keyring::unwrap_under(&[1; 32], &CLUSTER, (&wrapped, 0)).unwrap();
        assert_eq!(again.open(&sealed, AT).unwrap().expose(), "sk-live-123");
        assert_eq!(again.fingerprint(&secret()), sealed.fingerprint);
        for (wrapping, cluster) in [([2; 32], CLUSTER), ([1; 32], [8; 16])] {
            let refused = Keyring::unwrap_under(&wrapping, &cluster, (&wrapped, 0));
            assert_eq!(refused.unwrap_err(), KeyringError::WrongClusterSecret);
        }
        let truncated = Keyring::unwrap_under(&[1; 32], &CLUSTER, (&wrapped[..20], 0));
        assert_eq!(truncated.unwrap_err(), KeyringError::WrongClusterSecret);
    }

    #[test]
    fn a_key_that_is_wrapped_for_another_cluster_is_the_same_key() {
        let secret = ClusterSecret::generate().unwrap();
        let (keyring, wrapped) = Keyring::create(&secret, &CLUSTER).unwrap();
        let moved = Keyring::rewrap((&secret, &CLUSTER), &wrapped, (&secret, &[8; 16])).unwrap();
        let there = Keyring::unwrap(&secret, &[8; 16], (&moved, 0)).unwrap();
        let sealed = keyring.seal(&self::secret(), AT).unwrap();
        assert_eq!(there.open(&sealed, AT).unwrap().expose(), "sk-live-123");
        let other = ClusterSecret::generate().unwrap();
        for refused in [
            Keyring::rewrap((&other, &CLUSTER), &wrapped, (&secret, &[8; 16])),
            Keyring::rewrap((&secret, &[8; 16]), &wrapped, (&secret, &[8; 16])),
        ] {
            assert_eq!(refused, Err(KeyringError::WrongClusterSecret));
        }
        assert!(Keyring::unwrap(&secret, &CLUSTER, (&moved, 0)).is_err());
    }

    #[test]
    fn a_newer_format_is_named() {
        let (_, mut wrapped) = Keyring::create_under(&[1; 32], &CLUSTER).unwrap();
        wrapped[0] = 9;
        let refused = Keyring::unwrap_under(&[1; 32], &CLUSTER, (&wrapped, 0)).unwrap_err();
        assert_eq!(refused, KeyringError::UnknownFormat(9));
    }
}
