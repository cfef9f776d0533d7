//! From drafts to text, in one canonical form: kinds in their order, names in theirs, defaults left out.

use std::sync::Arc;

use mode_envoy_model::consumer::Consumer;
use mode_envoy_model::model::{AccessEntry, Model, Target};
use mode_envoy_model::object::{Kind, Object};
use mode_envoy_model::provider::{Protocol, Provider};
use mode_envoy_model::route::{Auth, Route};
use mode_envoy_model::service::Service;

use super::limit::limit_node;
use super::node::{Entry, Node, Value, render};
use super::secret::{SecretRef, SecretSource, secret_node};
use super::timeouts::timeouts_node;
use super::values::price_node;
use super::{Draft, Position};

/// What the catalog holds, as a document states it: secrets as fingerprints.
pub fn from_object(mut object: Object) -> Draft {
    let mut keys = Vec::new();
    if let Object::Provider(provider) = &mut object {
        keys = std::mem::take(&mut provider.keys)
            .into_iter()
            .map(|key| SecretRef {
                source: SecretSource::Stored(key.fingerprint),
                at: Position::default(),
            })
            .collect();
    }
    Draft {
        object,
        keys,
        at: Position::default(),
    }
}

/// Writes drafts as one document.
///
/// # Errors
///
/// A sentence, where a value cannot be written as YAML.
pub fn write(drafts: &[Draft]) -> Result<String, String> {
    let mut drafts: Vec<_> = drafts.iter().collect();
    drafts.sort_by_cached_key(|draft| draft.reference());
    let mut kinds = Vec::new();
    for kind in Kind::ALL {
        let objects: Vec<_> = drafts
            .iter()
            .filter(|draft| draft.reference().kind == kind)
            .map(|draft| object_node(draft))
            .collect();
        if !objects.is_empty() {
            kinds.push(entry(kind.plural(), Node::of(Value::List(objects))));
        }
    }
    render(&Node::of(Value::Map(kinds)))
        .map_err(|error| format!("writing the configuration as YAML: {error}"))
}

/// A map of those fields that have a value.
pub(super) fn map<const N: usize>(fields: [(&'static str, Option<Node>); N]) -> Node {
    let entries = fields
        .into_iter()
        .filter_map(|(key, value)| Some(entry(key, value?)))
        .collect();
    Node::of(Value::Map(entries))
}

fn entry(key: &str, value: Node) -> Entry {
    Entry {
        key: key.to_owned(),
        at: Position::default(),
        value,
    }
}

pub(super) fn object_node(draft: &Draft) -> Node {
    match &draft.object {
        Object::Tenant(tenant) => map([
            ("name", Some(Node::text(&*tenant.name))),
            ("hosts", texts(&tenant.hosts)),
        ]),
        Object::Consumer(consumer) => consumer_node(consumer),
        Object::Provider(provider) => provider_node(provider, &draft.keys),
        Object::Model(model) => model_node(model),
        Object::Service(service) => service_node(service),
        Object::Route(route) => route_node(route),
        Object::Limit(limit) => limit_node(limit),
    }
}

fn consumer_node(consumer: &Consumer) -> Node {
    map([
        ("name", Some(Node::text(&*consumer.name))),
        ("tenant", Some(Node::text(&*consumer.tenant))),
        ("team", consumer.team.as_deref().map(Node::text)),
    ])
}

fn provider_node(provider: &Provider, keys: &[SecretRef]) -> Node {
    let protocol = match provider.protocol {
        Protocol::Openai => "openai",
        Protocol::Embedded => "embedded",
    };
    let base_url = Some(&*provider.base_url).filter(|url| !url.is_empty());
    map([
        ("name", Some(Node::text(&*provider.name))),
        ("protocol", Some(Node::text(protocol))),
        ("base_url", base_url.map(Node::text)),
        (
            "keys",
            list(keys.iter().map(|key| secret_node(&key.source))),
        ),
        ("timeouts", timeouts_node(&provider.timeouts)),
    ])
}

fn model_node(model: &Model) -> Node {
    // An empty list is not the same as none: it lets nobody call the model.
    let access = model.access.as_ref().map(|entries| {
        Node::of(Value::List(
            entries.iter().map(|e| Node::text(access_text(e))).collect(),
        ))
    });
    map([
        ("name", Some(Node::text(&*model.name))),
        (
            "targets",
            Some(Node::of(Value::List(
                model.targets.iter().map(target_node).collect(),
            ))),
        ),
        ("price", model.price.as_ref().map(price_node)),
        ("access", access),
    ])
}

fn target_node(target: &Target) -> Node {
    map([
        ("provider", Some(Node::text(&*target.provider))),
        ("model", Some(Node::text(&*target.model))),
        ("price", target.price.as_ref().map(price_node)),
    ])
}

fn access_text(entry: &AccessEntry) -> String {
    match &entry.consumer {
        Some(consumer) => format!("{}/{consumer}", entry.tenant),
        None => entry.tenant.to_string(),
    }
}

fn service_node(service: &Service) -> Node {
    let endpoints = service
        .endpoints
        .iter()
        .map(|e| map([("url", Some(Node::text(&*e.url)))]))
        .collect();
    map([
        ("name", Some(Node::text(&*service.name))),
        ("endpoints", Some(Node::of(Value::List(endpoints)))),
        ("timeouts", timeouts_node(&service.timeouts)),
        ("access", texts(&service.access)),
    ])
}

fn route_node(route: &Route) -> Node {
    let matching = map([
        ("hosts", texts(&route.hosts)),
        ("paths", texts(&route.paths)),
        ("methods", texts(&route.methods)),
    ]);
    let auth = match route.auth {
        Auth::Key => "key",
        Auth::None => "none",
    };
    map([
        ("name", Some(Node::text(&*route.name))),
        ("tenant", Some(Node::text(&*route.tenant))),
        ("service", Some(Node::text(&*route.service))),
        ("match", Some(matching)),
        ("auth", list([Node::text(auth)])),
        (
            "strip_prefix",
            route.strip_prefix.as_deref().map(Node::text),
        ),
    ])
}

/// `None` where there is nothing.
fn texts(texts: &[Arc<str>]) -> Option<Node> {
    list(texts.iter().map(|text| Node::text(&**text)))
}

/// `None` where there is nothing.
fn list(nodes: impl IntoIterator<Item = Node>) -> Option<Node> {
    let nodes: Vec<_> = nodes.into_iter().collect();
    (!nodes.is_empty()).then(|| Node::of(Value::List(nodes)))
}
