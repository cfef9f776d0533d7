//! Two states of one object, field by field, named as documents name them. What is secret is only said to differ.

use std::collections::BTreeMap;

use mode_envoy_model::object::Object;

use super::from_object;
use super::node::{Node, Value};
use super::write::object_node;

/// The one field that holds secrets.
const SECRETS: &str = "keys";

/// A field that differs.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FieldDiff {
    /// Such as `match.paths` or `targets[0].model`.
    pub path: String,
    /// `None` where the field is not there, or is secret.
    pub old: Option<String>,
    /// `None` where the field is not there, or is secret.
    pub new: Option<String>,
    /// It holds secrets.
    pub secret: bool,
}

// === free functions ===

/// The fields in which two states of one object differ, in the order of their names.
pub fn compare(old: Object, new: Object) -> Vec<FieldDiff> {
    let (mut old, mut new) = (fields(old), fields(new));
    let mut names: Vec<String> = old.keys().chain(new.keys()).cloned().collect();
    names.sort();
    names.dedup();
    let differ = |path: String| {
        let (old, new) = (old.remove(&path), new.remove(&path));
        if old == new {
            return None;
        }
        let secret = path == SECRETS;
        Some(FieldDiff {
            path,
            old: old.filter(|_| !secret),
            new: new.filter(|_| !secret),
            secret,
        })
    };
    names.into_iter().filter_map(differ).collect()
}

fn fields(object: Object) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    flatten(
        &object_node(&from_object(object)),
        String::new(),
        &mut found,
    );
    found
}

fn flatten(node: &Node, path: String, found: &mut BTreeMap<String, String>) {
    match &node.value {
        Value::Map(entries) => {
            for entry in entries {
                let below = if path.is_empty() {
                    entry.key.clone()
                } else {
                    format!("{path}.{}", entry.key)
                };
                flatten(&entry.value, below, found);
            }
        }
        Value::List(items)
            if path != SECRETS && items.iter().any(|item| scalar(item).is_none()) =>
        {
            for (i, item) in items.iter().enumerate() {
                flatten(item, format!("{path}[{i}]"), found);
            }
        }
        Value::List(items) => {
            let texts: Vec<String> = items.iter().map(in_list).collect();
            found.insert(path, format!("[{}]", texts.join(", ")));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Text(_) => {
            found.insert(path, scalar(node).unwrap_or_default());
        }
    }
}

fn scalar(node: &Node) -> Option<String> {
    match &node.value {
        Value::Null => Some("null".to_owned()),
        Value::Bool(value) => Some(value.to_string()),
        Value::Number(text) | Value::Text(text) => Some(text.clone()),
        Value::List(_) | Value::Map(_) => None,
    }
}

/// A scalar, or the scalars of a small map such as a reference to a secret.
fn in_list(item: &Node) -> String {
    match &item.value {
        Value::Map(entries) => {
            let texts = entries.iter().map(|entry| {
                let value = scalar(&entry.value).unwrap_or_default();
                format!("{}: {value}", entry.key)
            });
            texts.collect::<Vec<_>>().join(", ")
        }
        _ => scalar(item).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use mode_envoy_model::provider::{Protocol, Provider, SealedSecret};
    use mode_envoy_model::service::{Endpoint, Service, Timeouts};

    use super::*;

    fn service(urls: &[&str], total_ms: Option<u64>) -> Object {
        let endpoint = |url: &&str| Endpoint { url: (*url).into() };
        Object::Service(Service {
            name: "s".into(),
            endpoints: urls.iter().map(endpoint).collect(),
            access: Vec::new(),
            timeouts: Timeouts {
                total_ms,
                ..Timeouts::default()
            },
        })
    }

    fn provider(fingerprints: &[u8]) -> Object {
        let sealed = |n: &u8| SealedSecret {
            wrapped_data_key: [1].into(),
            ciphertext: [*n].into(),
            fingerprint: [*n; 16],
            generation: 0,
        };
        Object::Provider(Provider {
            name: "p".into(),
            protocol: Protocol::Openai,
            base_url: "https://api.example/v1".into(),
            keys: fingerprints.iter().map(sealed).collect(),
            timeouts: Timeouts::default(),
        })
    }

    #[test]
    fn fields_are_named_as_in_documents_and_show_both_values() {
        let found = compare(
            service(&["http://a", "http://b"], Some(1_000)),
            service(&["http://a", "http://c", "http://d"], None),
        );
        let shown: Vec<_> = found
            .iter()
            .map(|f| (f.path.as_str(), f.old.as_deref(), f.new.as_deref()))
            .collect();
        assert_eq!(
            shown,
            [
                ("endpoints[1].url", Some("http://b"), Some("http://c")),
                ("endpoints[2].url", None, Some("http://d")),
                ("timeouts.total", Some("1s"), None),
            ]
        );
        assert_eq!(
            compare(service(&["http://a"], None), service(&["http://a"], None)),
            []
        );
    }

    #[test]
    fn a_secret_is_only_said_to_differ() {
        let found = compare(provider(&[1, 2]), provider(&[1, 3]));
        assert_eq!(
            found,
            [FieldDiff {
                path: "keys".to_owned(),
                old: None,
                new: None,
                secret: true
            }]
        );
        assert_eq!(compare(provider(&[1]), provider(&[1])), []);
    }
}
