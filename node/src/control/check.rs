//! Checks a document without a cluster: every rule that one file can break by itself.
//!
//! What a document refers to and does not define may exist in the cluster, so it is noted, not refused: for the check,
//! such objects are assumed to be there.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use mode_envoy_model::catalog::{Catalog, Record};
use mode_envoy_model::command::{Command, Violation};
use mode_envoy_model::consumer::Consumer;
use mode_envoy_model::key::Key;
use mode_envoy_model::limit::Limit;
use mode_envoy_model::limits;
use mode_envoy_model::model::Model;
use mode_envoy_model::object::{Kind, Name, Object, ObjectRef, is_name};
use mode_envoy_model::provider::{Protocol, Provider, SealedSecret};
use mode_envoy_model::route::{Auth, Route, is_built_in_name};
use mode_envoy_model::service::{Service, Timeouts};
use mode_envoy_model::tenant::Tenant;

use super::document::{Draft, SecretRef, SecretSource};

/// What a check found.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Checked {
    /// Rules that are broken.
    pub faults: Vec<Violation>,
    /// What the cluster must have already.
    pub assumed: Vec<String>,
}

/// What a limit names beside objects.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Named {
    /// An API key: owner, name.
    Key(Name, Name),
    /// A team: of which tenant, if of one; name.
    Team(Option<Name>, Name),
}

// === impl Named ===

impl Named {
    fn stand_in(&self) -> Record {
        match self {
            Self::Key(tenant, name) => Record::Key(Arc::new(Key {
                tenant: Name::clone(tenant),
                consumer: Arc::from(""),
                name: Name::clone(name),
                id: self.to_string().into(),
                hash: *blake3::hash(self.to_string().as_bytes()).as_bytes(),
                created_ms: 0,
                expires_ms: None,
                previous: None,
            })),
            // No consumer of a document has such a name.
            Self::Team(tenant, team) => Record::Consumer(Arc::new(Consumer {
                tenant: tenant.clone().unwrap_or_default(),
                name: self.to_string().into(),
                team: Some(Name::clone(team)),
            })),
        }
    }
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(tenant, name) => write!(f, "key {tenant}/{name}"),
            Self::Team(Some(tenant), team) => write!(f, "a consumer of {tenant} in team {team}"),
            Self::Team(None, team) => write!(f, "a consumer in team {team}"),
        }
    }
}

// === free functions ===

/// Checks drafts against the rules of the catalog.
pub fn check(drafts: &[Draft]) -> Checked {
    let objects: Vec<_> = drafts.iter().map(with_stand_ins).collect();
    let defined: BTreeSet<_> = objects.iter().map(Object::reference).collect();
    let needed: BTreeSet<_> = objects.iter().flat_map(references).collect();
    let missing: Vec<_> = needed.difference(&defined).collect();
    let mut assumed: Vec<_> = missing.iter().map(ToString::to_string).collect();
    let mut stand_ins: Vec<_> = missing.into_iter().map(stand_in).collect();
    for name in names(&objects) {
        assumed.push(name.to_string());
        stand_ins.push(name.stand_in());
    }
    let stand_ins = stand_ins.into_iter().map(|record| (0, record));
    let catalog = Catalog::restore(None, limits::FORMAT_VERSION, 0, stand_ins);
    let decided = catalog.decide(
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
        Object::Limit(limit) => of_limit(limit),
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

fn of_limit(limit: &Limit) -> Vec<ObjectRef> {
    let tenants = [&limit.tenant, &limit.matches.tenant];
    let tenants = tenants.into_iter().flatten().map(|name| ObjectRef {
        kind: Kind::Tenant,
        tenant: None,
        name: Name::clone(name),
    });
    let model = limit.matches.model.iter().map(|name| ObjectRef {
        kind: Kind::Model,
        tenant: None,
        name: Name::clone(name),
    });
    let route = limit.matches.route.as_ref();
    let route = route.filter(|name| !is_built_in_name(name));
    let owned = [
        (Kind::Consumer, limit.matches.consumer.as_ref()),
        (Kind::Route, route),
    ];
    let owned = owned.into_iter().filter_map(|(kind, name)| {
        Some(ObjectRef {
            kind,
            tenant: Some(Name::clone(limit.only_tenant()?)),
            name: Name::clone(name?),
        })
    });
    tenants.chain(model).chain(owned).collect()
}

/// Keys that limits name, and teams that they name and no consumer here has.
fn names(objects: &[Object]) -> BTreeSet<Named> {
    let mut teams = BTreeSet::new();
    for object in objects {
        if let Object::Consumer(Consumer {
            tenant,
            team: Some(team),
            ..
        }) = object
        {
            teams.insert(Named::Team(Some(Name::clone(tenant)), Name::clone(team)));
            teams.insert(Named::Team(None, Name::clone(team)));
        }
    }
    let mut found = BTreeSet::new();
    for object in objects {
        let Object::Limit(limit) = object else {
            continue;
        };
        let tenant = limit.only_tenant();
        if let (Some(tenant), Some(key)) = (tenant, &limit.matches.key) {
            found.insert(Named::Key(Name::clone(tenant), Name::clone(key)));
        }
        if let Some(team) = &limit.matches.team {
            let team = Named::Team(tenant.cloned(), Name::clone(team));
            if !teams.contains(&team) {
                found.insert(team);
            }
        }
    }
    found
}

/// What stands for an object that is only referred to; nothing looks closer at it.
fn stand_in(at: &ObjectRef) -> Record {
    let name = Name::clone(&at.name);
    let tenant = at.tenant.clone().unwrap_or_default();
    match at.kind {
        Kind::Consumer => Record::Consumer(Arc::new(Consumer {
            tenant,
            name,
            team: None,
        })),
        Kind::Provider => Record::Provider(Arc::new(Provider {
            name,
            protocol: Protocol::Embedded,
            base_url: Arc::from(""),
            keys: Vec::new(),
            timeouts: Timeouts::default(),
        })),
        Kind::Service => Record::Service(Arc::new(Service {
            name,
            endpoints: Vec::new(),
            access: Vec::new(),
            timeouts: Timeouts::default(),
        })),
        Kind::Model => Record::Model(Arc::new(Model {
            name,
            targets: Vec::new(),
            price: None,
            access: None,
        })),
        Kind::Route => Record::Route(Arc::new(Route {
            tenant,
            name,
            service: Arc::from(""),
            hosts: Vec::new(),
            paths: Vec::new(),
            methods: Vec::new(),
            auth: Auth::Key,
            strip_prefix: None,
        })),
        // Limits are never referred to.
        Kind::Tenant | Kind::Limit => Record::Tenant(Arc::new(Tenant {
            name,
            hosts: Vec::new(),
        })),
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
        assert_eq!(
            found.assumed,
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
        assert!(found.assumed.is_empty());
    }

    #[test]
    fn what_limits_name_is_assumed_and_their_rules_are_checked() {
        let found = checked(
            "consumers: [{name: app, tenant: acme, team: retail}]\n\
             limits:\n\
             - {name: a, match: {tenant: acme, key: k, team: retail}, unit: requests, amount: 1, per: day}\n\
             - {name: b, tenant: beta, match: {consumer: c, route: r}, unit: requests, amount: 1, per: day}\n\
             - {name: c, match: {model: m, team: sales}, unit: concurrent, amount: 1}\n\
             - {name: d, match: {route: openai.embeddings}, unit: requests, amount: 0, per: month, window: bucket}\n\
             - {name: e, match: {consumer: c}, each: consumer, unit: concurrent, amount: 1, mode: bounded}\n",
        );
        let paths: Vec<_> = found.faults.iter().map(|f| f.path.as_str()).collect();
        assert_eq!(
            paths,
            [
                "limits[d].amount",
                "limits[d].burst",
                "limits[d].window",
                "limits[e].match.consumer",
                "limits[e].each",
                "limits[e].mode",
            ]
        );
        assert_eq!(
            found.assumed,
            [
                "tenant acme",
                "tenant beta",
                "consumer beta/c",
                "model m",
                "route beta/r",
                "key acme/k",
                "a consumer in team sales",
            ]
        );
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
