//! Checks a document without a cluster: every rule that one file can break by itself.
//!
//! What a document refers to and does not define may exist in the cluster, so it is noted, not refused: for the check,
//! such objects are assumed to be there.

use std::collections::BTreeSet;
use std::sync::Arc;

use mode_envoy_model::catalog::Catalog;
use mode_envoy_model::command::{Command, Violation};
use mode_envoy_model::consumer::Consumer;
use mode_envoy_model::object::{Kind, Name, Object, ObjectRef, is_name};
use mode_envoy_model::provider::{Protocol, Provider, SealedSecret};
use mode_envoy_model::service::{Endpoint, Service, Timeouts};
use mode_envoy_model::tenant::Tenant;

use super::document::{Draft, SecretRef, SecretSource};

/// What a check found.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Checked {
    /// Rules that are broken.
    pub faults: Vec<Violation>,
    /// Objects that the cluster must have already.
    pub assumed: Vec<ObjectRef>,
}

// === free functions ===

/// Checks drafts against the rules of the catalog.
pub fn check(drafts: &[Draft]) -> Checked {
    let mut objects: Vec<_> = drafts.iter().map(with_stand_ins).collect();
    let defined: BTreeSet<_> = objects.iter().map(Object::reference).collect();
    let needed: BTreeSet<_> = objects.iter().flat_map(references).collect();
    let assumed: Vec<_> = needed.difference(&defined).cloned().collect();
    objects.extend(assumed.iter().map(stand_in));
    let decided = Catalog::empty().decide(
        &Command::Put {
            objects,
            dry_run: true,
        },
        0,
    );
    let faults = decided
        .err()
        .map(|rejected| rejected.violations)
        .unwrap_or_default();
    Checked { faults, assumed }
}

/// The object with something in the place of each secret: none is known here, nor needs to be.
fn with_stand_ins(draft: &Draft) -> Object {
    let mut object = draft.object.clone();
    if let Object::Provider(provider) = &mut object {
        provider.keys = draft
            .keys
            .iter()
            .enumerate()
            .map(|(i, key)| sealed(i, key))
            .collect();
    }
    object
}

fn sealed(index: usize, key: &SecretRef) -> SealedSecret {
    let hash = |text: &str| blake3::hash(text.as_bytes());
    // As in the cluster, the same secret twice is a fault; secrets that are not known here count as different.
    let identity = match &key.source {
        SecretSource::Value(secret) => hash(secret.expose()),
        SecretSource::Env(name) => hash(&format!("env {name}")),
        SecretSource::File(path) => hash(&format!("file {path}")),
        SecretSource::Stored(_) => hash(&format!("stored {index}")),
    };
    let mut fingerprint = [0; 16];
    fingerprint.copy_from_slice(&identity.as_bytes()[..16]);
    if let SecretSource::Stored(stored) = &key.source {
        fingerprint = *stored;
    }
    SealedSecret {
        wrapped_data_key: Arc::from([0]),
        ciphertext: Arc::from([0]),
        fingerprint,
        generation: 0,
    }
}

fn references(object: &Object) -> Vec<ObjectRef> {
    let global = |kind, name: &Name| ObjectRef {
        kind,
        tenant: None,
        name: Name::clone(name),
    };
    let all = match object {
        Object::Tenant(_) | Object::Provider(_) => Vec::new(),
        Object::Service(service) => {
            let tenants = service.access.iter();
            tenants.map(|name| global(Kind::Tenant, name)).collect()
        }
        Object::Consumer(consumer) => vec![global(Kind::Tenant, &consumer.tenant)],
        Object::Route(route) => {
            vec![
                global(Kind::Tenant, &route.tenant),
                global(Kind::Service, &route.service),
            ]
        }
        Object::Model(model) => {
            let providers = model
                .targets
                .iter()
                .map(|t| global(Kind::Provider, &t.provider));
            let access = model.access.iter().flatten().flat_map(|entry| {
                let consumer = entry.consumer.as_ref().map(|name| ObjectRef {
                    kind: Kind::Consumer,
                    tenant: Some(Name::clone(&entry.tenant)),
                    name: Name::clone(name),
                });
                [Some(global(Kind::Tenant, &entry.tenant)), consumer]
                    .into_iter()
                    .flatten()
            });
            providers.chain(access).collect()
        }
    };
    // What cannot be a name is a fault where it stands, and nothing to assume.
    all.into_iter()
        .filter(|at| is_name(&at.name) && at.tenant.as_deref().is_none_or(is_name))
        .collect()
}

/// An object that breaks no rule.
fn stand_in(at: &ObjectRef) -> Object {
    let name = Name::clone(&at.name);
    match (at.kind, &at.tenant) {
        (Kind::Consumer, Some(tenant)) => Object::Consumer(Consumer {
            tenant: Name::clone(tenant),
            name,
            team: None,
        }),
        (Kind::Provider, _) => Object::Provider(Provider {
            name,
            protocol: Protocol::Embedded,
            base_url: Arc::from(""),
            keys: Vec::new(),
            timeouts: Timeouts::default(),
        }),
        (Kind::Service, _) => Object::Service(Service {
            name,
            endpoints: vec![Endpoint {
                url: Arc::from("http://assumed.invalid"),
            }],
            access: Vec::new(),
            timeouts: Timeouts::default(),
        }),
        // Models and routes are never referred to.
        (Kind::Tenant | Kind::Consumer | Kind::Model | Kind::Route, _) => Object::Tenant(Tenant {
            name,
            hosts: Vec::new(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::super::document::read;
    use super::*;

    fn checked(text: &str) -> Checked {
        check(&read(text).unwrap().drafts)
    }

    #[test]
    fn what_a_document_does_not_define_is_assumed_and_noted() {
        let found = checked(
            "routes: [{name: r, tenant: acme, service: s, match: {paths: [/x]}, auth: [key]}]\n\
             models: [{name: m, targets: [{provider: p, model: x}], access: [beta/app]}]\n",
        );
        assert_eq!(found.faults, []);
        let assumed: Vec<_> = found.assumed.iter().map(ToString::to_string).collect();
        assert_eq!(
            assumed,
            [
                "tenant acme",
                "tenant beta",
                "consumer beta/app",
                "provider p",
                "service s"
            ]
        );
    }

    #[test]
    fn rules_of_the_catalog_are_checked() {
        let found = checked(
            "tenants: [{name: Acme}]\n\
             providers: [{name: p, protocol: openai, keys: [{env: A}, {env: A}]}]\n\
             models: [{name: m, targets: []}]\n",
        );
        let paths: Vec<_> = found.faults.iter().map(|f| f.path.as_str()).collect();
        assert_eq!(
            paths,
            [
                "tenants[Acme].name",
                "providers[p].keys[1]",
                "models[m].targets"
            ]
        );
        assert_eq!(found.assumed, []);
    }

    #[test]
    fn a_complete_document_needs_nothing_of_the_cluster() {
        let found = checked(
            "tenants: [{name: acme}]\nservices: [{name: s, endpoints: [{url: 'http://10.0.0.1:80'}]}]\n\
             routes: [{name: r, tenant: acme, service: s, match: {paths: [/x]}, auth: [key]}]\n",
        );
        assert_eq!(found, Checked::default());
    }
}
