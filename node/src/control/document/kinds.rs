//! How an object of each kind reads: its fields, and those that a later version brings.

use std::sync::Arc;

use mode_envoy_model::consumer::Consumer;
use mode_envoy_model::model::{AccessEntry, Model, Target};
use mode_envoy_model::object::{Kind, Name, Object};
use mode_envoy_model::provider::{Protocol, Provider};
use mode_envoy_model::route::{Auth, Route};
use mode_envoy_model::service::{Endpoint, Service};
use mode_envoy_model::tenant::Tenant;

use super::fields::Fields;
use super::limit;
use super::node::Node;
use super::secret::{SecretRef, read_secret};
use super::timeouts::read_timeouts;
use super::values::read_price;
use super::{Draft, Faults, label_of};

const OPENAI_BASE_URL: &str = "https://api.openai.com/v1";

const PROVIDER_LATER: &[&str] = &[
    "headers",
    "on_disconnect",
    "preset",
    "api_version",
    "version",
    "project",
    "location",
    "region",
];
const PROTOCOLS_LATER: &[&str] = &[
    "azure-openai",
    "anthropic",
    "gemini",
    "vertex",
    "bedrock",
    "cohere",
    "ollama",
];
const BALANCES_LATER: &[&str] = &["least_requests", "p2c_ewma", "consistent_hash"];
const AUTHS_LATER: &[&str] = &["jwt", "oidc", "basic", "hmac", "mtls"];

/// Reads one object; `None` where a fault leaves nothing to go on with.
pub(super) fn read_object(
    kind: Kind,
    node: &Node,
    index: usize,
    faults: &mut Faults,
) -> Option<Draft> {
    let mut fields = Fields::of(node, format!("{}[#{index}]", kind.plural()), faults)?;
    let name = fields.required("name", faults);
    let tenant = if kind.has_tenant() {
        fields.required("tenant", faults)
    } else if kind.takes_tenant() {
        fields.text("tenant", faults).map(Name::from)
    } else {
        None
    };
    if let Some(name) = name
        .as_deref()
        .filter(|_| tenant.is_some() || !kind.has_tenant())
    {
        fields.rename(label_of(kind, tenant.as_deref(), name));
    }
    let mut keys = Vec::new();
    let object = match kind {
        Kind::Tenant => {
            let hosts = hosts(&mut fields, faults);
            fields.finish(&[], faults);
            name.map(|name| Object::Tenant(Tenant { name, hosts }))
        }
        Kind::Consumer => consumer(fields, tenant, name, faults).map(Object::Consumer),
        Kind::Provider => provider(fields, name, &mut keys, faults).map(Object::Provider),
        Kind::Model => model(fields, name, faults).map(Object::Model),
        Kind::Service => service(fields, name, faults).map(Object::Service),
        Kind::Route => route(fields, tenant, name, faults).map(Object::Route),
        Kind::Limit => limit::read(fields, tenant, name, faults).map(Object::Limit),
    };
    Some(Draft {
        object: object?,
        keys,
        at: node.at,
    })
}

fn consumer(
    mut fields: Fields<'_>,
    tenant: Option<Name>,
    name: Option<Name>,
    faults: &mut Faults,
) -> Option<Consumer> {
    let team = fields.text("team", faults).map(Name::from);
    fields.finish(&[], faults);
    Some(Consumer {
        tenant: tenant?,
        name: name?,
        team,
    })
}

fn provider(
    mut fields: Fields<'_>,
    name: Option<Name>,
    keys: &mut Vec<SecretRef>,
    faults: &mut Faults,
) -> Option<Provider> {
    let protocol = protocol(&mut fields, faults);
    let base_url = fields.text("base_url", faults);
    for (i, node) in fields.list("keys", faults).into_iter().enumerate() {
        keys.extend(read_secret(
            node,
            fields.path_of(&format!("keys[{i}]")),
            faults,
        ));
    }
    let timeouts = read_timeouts(&mut fields, faults);
    fields.finish(PROVIDER_LATER, faults);
    let protocol = protocol?;
    let base_url = match (base_url, protocol) {
        (Some(url), _) => url,
        (None, Protocol::Openai) => OPENAI_BASE_URL,
        (None, Protocol::Embedded) => "",
    };
    Some(Provider {
        name: name?,
        protocol,
        base_url: base_url.into(),
        keys: Vec::new(),
        timeouts,
    })
}

fn protocol(fields: &mut Fields<'_>, faults: &mut Faults) -> Option<Protocol> {
    let text = fields.required("protocol", faults)?;
    match &*text {
        "openai" => Some(Protocol::Openai),
        "embedded" => Some(Protocol::Embedded),
        other => {
            choice(
                fields,
                "protocol",
                other,
                "openai or embedded",
                PROTOCOLS_LATER,
                faults,
            );
            None
        }
    }
}

fn model(mut fields: Fields<'_>, name: Option<Name>, faults: &mut Faults) -> Option<Model> {
    let mut targets = Vec::new();
    let nodes = fields.list("targets", faults);
    if nodes.is_empty() && !fields.has("targets") {
        fields.fault("`targets` is missing; a model needs one target", faults);
    }
    for (i, node) in nodes.into_iter().enumerate() {
        targets.extend(target(
            node,
            fields.path_of(&format!("targets[{i}]")),
            faults,
        ));
    }
    let price = read_price(&mut fields, faults);
    let access = fields.has("access").then(|| {
        let entries = fields.texts("access", faults);
        entries
            .into_iter()
            .map(|(text, _)| access_entry(text))
            .collect()
    });
    fields.finish(&["strategy", "fallbacks", "cache", "guardrails"], faults);
    Some(Model {
        name: name?,
        targets,
        price,
        access,
    })
}

fn target(node: &Node, path: String, faults: &mut Faults) -> Option<Target> {
    let mut fields = Fields::of(node, path, faults)?;
    let provider = fields.required("provider", faults);
    let model = fields.required("model", faults);
    let price = read_price(&mut fields, faults);
    fields.finish(&["weight"], faults);
    Some(Target {
        provider: provider?,
        model: model?,
        price,
    })
}

/// `tenant` or `tenant/consumer`.
fn access_entry(text: &str) -> AccessEntry {
    match text.split_once('/') {
        Some((tenant, consumer)) => AccessEntry {
            tenant: tenant.into(),
            consumer: Some(consumer.into()),
        },
        None => AccessEntry {
            tenant: text.into(),
            consumer: None,
        },
    }
}

fn service(mut fields: Fields<'_>, name: Option<Name>, faults: &mut Faults) -> Option<Service> {
    let mut endpoints = Vec::new();
    if !fields.has("endpoints") {
        fields.fault(
            "`endpoints` is missing; a service needs one at least",
            faults,
        );
    }
    for (i, node) in fields.list("endpoints", faults).into_iter().enumerate() {
        endpoints.extend(endpoint(
            node,
            fields.path_of(&format!("endpoints[{i}]")),
            faults,
        ));
    }
    match fields.text("balance", faults) {
        None | Some("round_robin") => {}
        Some(other) => choice(
            &fields,
            "balance",
            other,
            "round_robin",
            BALANCES_LATER,
            faults,
        ),
    }
    let timeouts = read_timeouts(&mut fields, faults);
    let access = fields.texts("access", faults).into_iter();
    let access = access.map(|(tenant, _)| tenant.into()).collect();
    fields.finish(&["health", "retries", "tls", "breaker"], faults);
    Some(Service {
        name: name?,
        endpoints,
        timeouts,
        access,
    })
}

fn endpoint(node: &Node, path: String, faults: &mut Faults) -> Option<Endpoint> {
    let mut fields = Fields::of(node, path, faults)?;
    let url = fields.required("url", faults);
    fields.finish(&["weight"], faults);
    Some(Endpoint { url: url? })
}

fn route(
    mut fields: Fields<'_>,
    tenant: Option<Name>,
    name: Option<Name>,
    faults: &mut Faults,
) -> Option<Route> {
    let service = fields.required("service", faults);
    let auth = auth(&mut fields, faults);
    let strip_prefix = fields.text("strip_prefix", faults).map(Arc::from);
    let (mut hosts, mut paths, mut methods) = (Vec::new(), Vec::new(), Vec::new());
    if let Some(mut matching) = fields.map("match", faults) {
        let text = |(text, _): (&str, _)| Arc::<str>::from(text);
        hosts = self::hosts(&mut matching, faults);
        paths = matching
            .texts("paths", faults)
            .into_iter()
            .map(text)
            .collect();
        methods = matching.texts("methods", faults);
        matching.finish(&["headers"], faults);
    } else if !fields.has("match") {
        fields.fault(
            "`match` is missing; state `match: {paths: [\"/…\"]}`",
            faults,
        );
    }
    fields.finish(
        &["pass_credentials", "cors", "transform", "cache", "when"],
        faults,
    );
    Some(Route {
        tenant: tenant?,
        name: name?,
        service: service?,
        hosts,
        paths,
        methods: methods
            .into_iter()
            .map(|(m, _)| m.to_ascii_uppercase().into())
            .collect(),
        auth: auth?,
        strip_prefix,
    })
}

/// Hosts are compared in lower case.
fn hosts(fields: &mut Fields<'_>, faults: &mut Faults) -> Vec<Arc<str>> {
    let hosts = fields.texts("hosts", faults).into_iter();
    hosts
        .map(|(host, _)| host.to_ascii_lowercase().into())
        .collect()
}

fn auth(fields: &mut Fields<'_>, faults: &mut Faults) -> Option<Auth> {
    if !fields.has("auth") {
        fields.take("auth");
        let problem =
            "`auth` is missing; state `auth: [key]`, or `auth: [none]` to let everybody in";
        fields.fault(problem, faults);
        return None;
    }
    let ways = fields.texts("auth", faults);
    match ways.as_slice() {
        [("key", _)] => Some(Auth::Key),
        [("none", _)] => Some(Auth::None),
        [(other, _)] => {
            choice(
                fields,
                "auth",
                other,
                "[key] or [none]",
                AUTHS_LATER,
                faults,
            );
            None
        }
        _ => {
            fields.fault(
                "`auth` takes one way in this version: [key] or [none]",
                faults,
            );
            None
        }
    }
}

/// A fault for a word that is not one of the choices.
pub(super) fn choice(
    fields: &Fields<'_>,
    name: &str,
    word: &str,
    choices: &str,
    later: &[&str],
    faults: &mut Faults,
) {
    let problem = if later.contains(&word) {
        format!("`{name}: {word}` is not in this version; use {choices}")
    } else {
        format!("`{word}` is not a {name}; use {choices}")
    };
    faults.add(fields.position_of(name), fields.path_of(name), problem);
}
