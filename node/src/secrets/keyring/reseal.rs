//! The secrets of a provider sealed anew, when a rotation has brought another cluster key into force.
//!
//! Invariant: what cannot be opened keeps its bytes and only counts as done: it could not be sent before either, and must not keep the
//! old key alive for ever.

use mode_envoy_model::object::Name;
use mode_envoy_model::provider::{Provider, Resealed, SealedSecret};

use super::{Keyring, KeyringError, Place};
use crate::supervisor::Chain;

// === impl Keyring ===

impl Keyring {
    /// Those secrets of a provider that another cluster key has sealed, under the one in force.
    ///
    /// # Errors
    ///
    /// [`KeyringError::Random`] if the system has no random bytes.
    pub fn reseal(&self, provider: &Provider) -> Result<Resealed, KeyringError> {
        let stale = provider
            .keys
            .iter()
            .filter(|key| key.generation != self.key.generation);
        let keys: Result<Vec<_>, _> = stale.map(|key| self.sealed_anew(provider, key)).collect();
        Ok(Resealed {
            provider: Name::clone(&provider.name),
            keys: keys?,
        })
    }

    fn sealed_anew(
        &self,
        provider: &Provider,
        key: &SealedSecret,
    ) -> Result<SealedSecret, KeyringError> {
        let place = Place::provider_keys(&provider.name);
        match self.open(key, place) {
            // What it is known by stays, whatever it was made from.
            Ok(secret) => Ok(SealedSecret {
                fingerprint: key.fingerprint,
                ..self.seal(&secret, place)?
            }),
            Err(error) => {
                let error = Chain(&error).to_string();
                tracing::error!(provider = %provider.name, error, "a provider's key cannot be used; apply it again");
                Ok(SealedSecret {
                    generation: self.key.generation,
                    ..key.clone()
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use mode_envoy_model::provider::Protocol;
    use mode_envoy_model::service::Timeouts;
    use mode_envoy_raft::ClusterSecret;

    use super::*;
    use crate::secrets::Secret;

    const CLUSTER: [u8; 16] = [7; 16];
    const AT: Place<'_> = Place::provider_keys("remote");

    fn secrets() -> [ClusterSecret; 3] {
        [(); 3].map(|()| ClusterSecret::generate().unwrap())
    }

    fn provider(keys: Vec<SealedSecret>) -> Provider {
        Provider {
            name: "remote".into(),
            protocol: Protocol::Openai,
            base_url: "http://remote.test/v1".into(),
            keys,
            timeouts: Timeouts::default(),
        }
    }

    /// The keyring after a rotation from `old`, while both cluster keys are held; and the wrapped next one.
    fn rotated(
        (old, wrapped, generation): (&ClusterSecret, &[u8], u32),
        new: &ClusterSecret,
    ) -> (Keyring, Vec<u8>) {
        let next = Keyring::next((old, wrapped), new, &CLUSTER).unwrap();
        let open = |wrapped: &[u8], generation| {
            Keyring::unwrap(new, &CLUSTER, (wrapped, generation)).unwrap()
        };
        let previous = open(&next.old_wrapped_key, generation);
        let both = open(&next.wrapped_key, generation + 1).with_previous(previous);
        (both, next.wrapped_key)
    }

    #[test]
    fn what_is_sealed_anew_opens_under_the_new_key_alone_and_is_known_by_the_same_fingerprint() {
        let [first, second, third] = secrets();
        let (old, wrapped) = Keyring::create(&first, &CLUSTER).unwrap();
        let plain = Secret::new("sk-live-1".to_owned());
        let before = provider(vec![old.seal(&plain, AT).unwrap()]);
        let mut from = (first, wrapped, before);
        // The second rotation starts from what the first has made.
        for (generation, secret) in [(1, second), (2, third)] {
            let (old_secret, wrapped, before) = from;
            let (both, next) = rotated((&old_secret, &wrapped, generation - 1), &secret);
            assert_eq!(
                both.open(&before.keys[0], AT).unwrap().expose(),
                "sk-live-1"
            );
            let anew = both.reseal(&before).unwrap().keys;
            assert_eq!(anew[0].fingerprint, before.keys[0].fingerprint);
            assert_eq!(both.fingerprint(&plain), anew[0].fingerprint);
            let after = provider(anew);
            assert!(both.reseal(&after).unwrap().keys.is_empty(), "once");

            // The old secret opens nothing of it, and the old key is not needed any more.
            let refused = Keyring::unwrap(&old_secret, &CLUSTER, (&next, generation));
            assert_eq!(refused.unwrap_err(), KeyringError::WrongClusterSecret);
            let alone = Keyring::unwrap(&secret, &CLUSTER, (&next, generation)).unwrap();
            assert_eq!(
                alone.open(&after.keys[0], AT).unwrap().expose(),
                "sk-live-1"
            );
            assert!(alone.open(&before.keys[0], AT).is_err());
            let stolen = Keyring::unwrap(&old_secret, &CLUSTER, (&wrapped, generation)).unwrap();
            assert!(stolen.open(&after.keys[0], AT).is_err());
            from = (secret, next, after);
        }
    }

    #[test]
    fn the_secrets_that_requests_make_are_others_and_requests_are_known_again() {
        let [first, second, _] = secrets();
        let (old, wrapped) = Keyring::create(&first, &CLUSTER).unwrap();
        let (new, _) = rotated((&first, &wrapped, 0), &second);
        let id = "0123456789abcdef0123456789abcdef";
        let request = old.client_request(id, &[1; 32], [2; 16]);
        assert_eq!(request, new.client_request(id, &[1; 32], [2; 16]));
        let made = |keyring: &Keyring| {
            let secrets = keyring.secrets_of("ci", &request, "me-");
            secrets
                .iter()
                .map(|s| s.expose().to_owned())
                .collect::<Vec<_>>()
        };
        let (before, while_it_lasts) = (made(&old), made(&new));
        assert_eq!(while_it_lasts.len(), 2);
        assert_ne!(while_it_lasts[0], before[0]);
        assert_eq!(
            while_it_lasts[1], before[0],
            "what was just made is shown again"
        );
    }

    #[test]
    fn a_key_that_opens_under_no_key_keeps_its_bytes_and_is_done_with() {
        let [first, second, _] = secrets();
        let (_, wrapped) = Keyring::create(&first, &CLUSTER).unwrap();
        let (both, _) = rotated((&first, &wrapped, 0), &second);
        let damaged = SealedSecret {
            wrapped_data_key: Arc::from([1, 2, 3]),
            ciphertext: Arc::from([4]),
            fingerprint: [5; 16],
            generation: 0,
        };
        let anew = both.reseal(&provider(vec![damaged.clone()])).unwrap().keys;
        let kept = SealedSecret {
            generation: 1,
            ..damaged
        };
        assert_eq!(anew, [kept]);
    }
}
