//! A provider serves models over one wire protocol.

use std::sync::Arc;

use crate::check::Check;
use crate::command::Violation;
use crate::limits;
use crate::object::Name;
use crate::service::Timeouts;
use crate::url::BaseUrl;

/// The wire protocol of a provider.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Protocol {
    /// OpenAI's HTTP API.
    Openai,
    /// The deterministic model server inside this binary.
    Embedded,
}

/// A secret as it is replicated: encrypted, with a keyed fingerprint that tells whether two are the same.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SealedSecret {
    /// The data key of this record, wrapped by the cluster key.
    pub wrapped_data_key: Arc<[u8]>,
    /// The secret, encrypted under the data key.
    pub ciphertext: Arc<[u8]>,
    /// Keyed hash of the plaintext.
    pub fingerprint: [u8; 16],
    /// Which cluster key wraps the data key: the number of the one in force then.
    pub generation: u32,
}

/// The secrets of a provider, sealed anew under the cluster key that is in force; those that it does not hold stay.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Resealed {
    /// Name of the provider.
    pub provider: Name,
    /// Its secrets, by their fingerprints.
    pub keys: Vec<SealedSecret>,
}

/// Who serves models.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Provider {
    /// Unique in the cluster.
    pub name: Name,
    /// Wire protocol.
    pub protocol: Protocol,
    /// Up to and including the version segment; empty for the embedded provider.
    pub base_url: Arc<str>,
    /// Credentials, tried in order.
    pub keys: Vec<SealedSecret>,
    /// Limits of time.
    pub timeouts: Timeouts,
}

// === impl Provider ===

impl Provider {
    /// What is wrong with it, taken by itself.
    pub fn validate(&self) -> Vec<Violation> {
        let mut check = Check::of(format!("providers[{}]", self.name));
        check.name("name", &self.name);
        check.timeouts(&self.timeouts);
        match self.protocol {
            Protocol::Openai => {
                if let Err(error) = BaseUrl::parse(&self.base_url) {
                    check.fault("base_url", error.to_string());
                }
                self.check_keys(&mut check);
            }
            Protocol::Embedded => {
                if !self.base_url.is_empty() {
                    check.fault("base_url", "the embedded provider has no URL; remove it");
                }
                if !self.keys.is_empty() {
                    check.fault("keys", "the embedded provider takes no keys; remove them");
                }
            }
        }
        check.done()
    }

    fn check_keys(&self, check: &mut Check) {
        check.count("keys", self.keys.len(), 0, limits::PROVIDER_KEYS);
        let keys = &self.keys[..self.keys.len().min(limits::PROVIDER_KEYS)];
        let fingerprints: Vec<_> = keys.iter().map(|key| key.fingerprint).collect();
        check.distinct("keys", &fingerprints);
        for (at, key) in keys.iter().enumerate() {
            if key.ciphertext.is_empty() {
                let problem = "the cluster knows no secret of this provider with that fingerprint; give the secret \
                               itself, as {env: NAME} or {file: PATH}";
                check.fault(format!("keys[{at}]"), problem);
            } else if key.ciphertext.len() > limits::CIPHERTEXT
                || key.wrapped_data_key.len() > limits::WRAPPED_KEY
            {
                let problem = format!(
                    "the secret is too long; at most {} bytes",
                    limits::CIPHERTEXT
                );
                check.fault(format!("keys[{at}]"), problem);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(n: u8) -> SealedSecret {
        SealedSecret {
            wrapped_data_key: [1].into(),
            ciphertext: [n].into(),
            fingerprint: [n; 16],
            generation: 0,
        }
    }

    fn openai() -> Provider {
        Provider {
            name: "openai".into(),
            protocol: Protocol::Openai,
            base_url: "https://api.openai.com/v1".into(),
            keys: vec![secret(1), secret(2)],
            timeouts: Timeouts::default(),
        }
    }

    fn paths(provider: &Provider) -> Vec<String> {
        provider.validate().into_iter().map(|v| v.path).collect()
    }

    #[test]
    fn a_sound_provider_passes() {
        assert_eq!(openai().validate(), []);
        let embedded = Provider {
            protocol: Protocol::Embedded,
            base_url: "".into(),
            keys: Vec::new(),
            ..openai()
        };
        assert_eq!(embedded.validate(), []);
    }

    #[test]
    fn the_embedded_provider_takes_neither_url_nor_keys() {
        let embedded = Provider {
            protocol: Protocol::Embedded,
            ..openai()
        };
        assert_eq!(
            paths(&embedded),
            ["providers[openai].base_url", "providers[openai].keys"]
        );
    }

    #[test]
    fn keys_are_few_distinct_and_not_empty() {
        let many = Provider {
            keys: (0..17).map(secret).collect(),
            ..openai()
        };
        assert_eq!(paths(&many), ["providers[openai].keys"]);
        let twice = Provider {
            keys: vec![secret(1), secret(1)],
            ..openai()
        };
        assert_eq!(paths(&twice), ["providers[openai].keys[1]"]);
        let empty = SealedSecret {
            ciphertext: [].into(),
            ..secret(1)
        };
        let unknown = Provider {
            keys: vec![empty],
            ..openai()
        };
        assert_eq!(paths(&unknown), ["providers[openai].keys[0]"]);
        let long = SealedSecret {
            ciphertext: vec![0; limits::CIPHERTEXT + 1].into(),
            ..secret(1)
        };
        assert_eq!(
            paths(&Provider {
                keys: vec![long],
                ..openai()
            }),
            ["providers[openai].keys[0]"]
        );
    }

    #[test]
    fn a_timeout_is_from_a_millisecond_to_an_hour() {
        let with = |ms| Provider {
            timeouts: Timeouts {
                idle_ms: Some(ms),
                ..Timeouts::default()
            },
            ..openai()
        };
        assert_eq!(paths(&with(0)), ["providers[openai].timeouts.idle"]);
        assert_eq!(paths(&with(3_600_001)), ["providers[openai].timeouts.idle"]);
        assert_eq!(paths(&with(3_600_000)), Vec::<String>::new());
    }
}
