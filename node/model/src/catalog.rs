//! The catalog: the replicated configuration at one revision.
//!
//! Maps are persistent and values sit behind `Arc`, so a copy is cheap and two revisions share what did not change;
//! `Arc::ptr_eq` on a value says that it did not. Invariants:
//! - `evolve` is total and deterministic; the indexes are a function of the objects, whatever the order of events;
//! - a hash or an id belongs to one key at most, a hash to one token at most, a number to one limit at most: an event that
//!   says otherwise is void;
//! - after every accepted command, what objects refer to is there ([`Catalog::invariants`] checks it).

use std::sync::Arc;

use imbl::OrdMap;

use crate::consumer::Consumer;
use crate::key::{Key, SecretHash};
use crate::limit::{Limit, LimitId};
use crate::limits;
use crate::member::Members;
use crate::model::Model;
use crate::object::{Kind, Name, Object, ObjectRef};
use crate::provider::Provider;
use crate::rotation::Rotation;
use crate::route::Route;
use crate::service::Service;
use crate::tenant::Tenant;
use crate::token::Token;

mod changes;
pub(crate) mod decide;
mod evolve;
pub(crate) mod faults;
mod hosts;
mod invariants;
mod keys;
mod limiting;
mod limits_held;
mod members;
mod put;
mod references;
mod replace;
mod reseal;
mod routing;
mod scope;

use limits_held::LimitsHeld;

pub use replace::{Prunable, WayBack};

/// A value and the revision that set it.
#[derive(Debug, Eq, PartialEq)]
pub struct Versioned<T> {
    /// The revision that set it; of a model or a target's price, the price version.
    pub revision: u64,
    /// The value.
    pub value: Arc<T>,
}

/// A cluster's identity.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Founded {
    /// Random, chosen at formation.
    pub cluster_id: [u8; 16],
    /// The cluster's encryption key, wrapped by the cluster secret.
    pub wrapped_key: Arc<[u8]>,
    /// Which one it is: each rotation of the secret makes the next one.
    pub generation: u32,
}

/// Anything a catalog holds, as checkpoints list it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Record {
    /// An owner.
    Tenant(Arc<Tenant>),
    /// An application of a tenant.
    Consumer(Arc<Consumer>),
    /// Who serves models.
    Provider(Arc<Provider>),
    /// A public model name.
    Model(Arc<Model>),
    /// A set of HTTP upstreams.
    Service(Arc<Service>),
    /// Which requests go to a service.
    Route(Arc<Route>),
    /// How much may be used, and its number.
    Limit(LimitId, Arc<Limit>),
    /// An API key.
    Key(Arc<Key>),
    /// An admin token.
    Token(Arc<Token>),
}

type Global<T> = OrdMap<Name, Versioned<T>>;
type Owned<T> = OrdMap<(Name, Name), Versioned<T>>;

/// The replicated configuration at one revision.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Catalog {
    founded: Option<Founded>,
    format_version: u32,
    revision: u64,
    tenants: Global<Tenant>,
    consumers: Owned<Consumer>,
    providers: Global<Provider>,
    models: Global<Model>,
    services: Global<Service>,
    routes: Owned<Route>,
    limits: LimitsHeld,
    keys: Owned<Key>,
    tokens: Global<Token>,
    key_by_hash: OrdMap<SecretHash, (Name, Name)>,
    key_by_id: OrdMap<Name, (Name, Name)>,
    token_by_hash: OrdMap<SecretHash, Name>,
    members: Members,
    rotation: Option<Rotation>,
}

// === impl Versioned ===

impl<T> Clone for Versioned<T> {
    fn clone(&self) -> Self {
        Self {
            revision: self.revision,
            value: Arc::clone(&self.value),
        }
    }
}

// === impl Catalog ===

impl Catalog {
    /// Before anything was configured.
    pub fn empty() -> Self {
        Self {
            founded: None,
            format_version: limits::FORMAT_VERSION,
            revision: 0,
            tenants: OrdMap::new(),
            consumers: OrdMap::new(),
            providers: OrdMap::new(),
            models: OrdMap::new(),
            services: OrdMap::new(),
            routes: OrdMap::new(),
            limits: LimitsHeld::default(),
            keys: OrdMap::new(),
            tokens: OrdMap::new(),
            key_by_hash: OrdMap::new(),
            key_by_id: OrdMap::new(),
            token_by_hash: OrdMap::new(),
            members: Members::default(),
            rotation: None,
        }
    }

    /// From what a checkpoint holds. Records that contradict one another are dropped as `evolve` would.
    pub fn restore(
        founded: Option<Founded>,
        format_version: u32,
        revision: u64,
        records: impl IntoIterator<Item = (u64, Record)>,
    ) -> Self {
        let mut catalog = Self {
            founded,
            format_version,
            revision,
            ..Self::empty()
        };
        for (revision, record) in records {
            catalog.set(revision, record);
        }
        catalog
    }

    /// With these members, as a checkpoint holds them.
    #[must_use]
    pub fn with_members(self, members: Members) -> Self {
        Self { members, ..self }
    }

    /// With this rotation under way, as a checkpoint holds it.
    #[must_use]
    pub fn with_rotation(self, rotation: Option<Rotation>) -> Self {
        Self { rotation, ..self }
    }

    /// The replacement of the cluster secret that is under way.
    pub const fn rotation(&self) -> Option<&Rotation> {
        self.rotation.as_ref()
    }

    pub(crate) fn set_rotation(&mut self, rotation: Option<Rotation>) {
        self.rotation = rotation;
    }

    pub(crate) fn set_founded(&mut self, founded: Founded) {
        self.founded = Some(founded);
    }

    /// The cluster's identity, once it has one.
    pub const fn founded(&self) -> Option<&Founded> {
        self.founded.as_ref()
    }

    /// The version of messages that may stand in the log.
    pub const fn format_version(&self) -> u32 {
        self.format_version
    }

    /// Who joined and who was removed since the formation.
    pub const fn members(&self) -> &Members {
        &self.members
    }

    /// How many change sets were accepted.
    pub const fn revision(&self) -> u64 {
        self.revision
    }

    /// One tenant.
    pub fn tenant(&self, name: &str) -> Option<&Versioned<Tenant>> {
        self.tenants.get(name)
    }

    /// Every tenant, by name.
    pub fn tenants(&self) -> impl Iterator<Item = &Versioned<Tenant>> {
        self.tenants.values()
    }

    /// One consumer.
    pub fn consumer(&self, tenant: &str, name: &str) -> Option<&Versioned<Consumer>> {
        self.consumers.get(&pair(tenant, name))
    }

    /// Every consumer, by tenant and name.
    pub fn consumers(&self) -> impl Iterator<Item = &Versioned<Consumer>> {
        self.consumers.values()
    }

    /// One provider.
    pub fn provider(&self, name: &str) -> Option<&Versioned<Provider>> {
        self.providers.get(name)
    }

    /// Every provider, by name.
    pub fn providers(&self) -> impl Iterator<Item = &Versioned<Provider>> {
        self.providers.values()
    }

    /// One model.
    pub fn model(&self, name: &str) -> Option<&Versioned<Model>> {
        self.models.get(name)
    }

    /// Every model, by name.
    pub fn models(&self) -> impl Iterator<Item = &Versioned<Model>> {
        self.models.values()
    }

    /// One service.
    pub fn service(&self, name: &str) -> Option<&Versioned<Service>> {
        self.services.get(name)
    }

    /// Every service, by name.
    pub fn services(&self) -> impl Iterator<Item = &Versioned<Service>> {
        self.services.values()
    }

    /// One route.
    pub fn route(&self, tenant: &str, name: &str) -> Option<&Versioned<Route>> {
        self.routes.get(&pair(tenant, name))
    }

    /// Every route, by tenant and name.
    pub fn routes(&self) -> impl Iterator<Item = &Versioned<Route>> {
        self.routes.values()
    }

    /// One key, by its name.
    pub fn key(&self, tenant: &str, name: &str) -> Option<&Versioned<Key>> {
        self.keys.get(&pair(tenant, name))
    }

    /// One key, by its id.
    pub fn key_by_id(&self, id: &str) -> Option<&Versioned<Key>> {
        self.keys.get(self.key_by_id.get(id)?)
    }

    /// The key that this secret belongs to, now or before its rotation. Whether it is accepted at this moment is for
    /// [`Key::accepts`] to say.
    pub fn key_by_hash(&self, hash: &SecretHash) -> Option<&Arc<Key>> {
        Some(&self.keys.get(self.key_by_hash.get(hash)?)?.value)
    }

    /// Every key, by tenant and name.
    pub fn keys(&self) -> impl Iterator<Item = &Versioned<Key>> {
        self.keys.values()
    }

    /// One admin token.
    pub fn token(&self, name: &str) -> Option<&Versioned<Token>> {
        self.tokens.get(name)
    }

    /// The admin token that this secret belongs to.
    pub fn token_by_hash(&self, hash: &SecretHash) -> Option<&Arc<Token>> {
        Some(&self.tokens.get(self.token_by_hash.get(hash)?)?.value)
    }

    /// Every admin token, by name.
    pub fn tokens(&self) -> impl Iterator<Item = &Versioned<Token>> {
        self.tokens.values()
    }

    /// One declarative object, with the revision that set it.
    pub fn object(&self, at: &ObjectRef) -> Option<(u64, Object)> {
        let tenant = at.tenant.as_deref().unwrap_or_default();
        let (name, at) = (&*at.name, at.kind);
        match at {
            Kind::Tenant => self.tenant(name).map(|v| wrap(v, Object::Tenant)),
            Kind::Consumer => self
                .consumer(tenant, name)
                .map(|v| wrap(v, Object::Consumer)),
            Kind::Provider => self.provider(name).map(|v| wrap(v, Object::Provider)),
            Kind::Model => self.model(name).map(|v| wrap(v, Object::Model)),
            Kind::Service => self.service(name).map(|v| wrap(v, Object::Service)),
            Kind::Route => self.route(tenant, name).map(|v| wrap(v, Object::Route)),
            Kind::Limit => {
                let held = self.limits.get(tenant, name);
                held.map(|held| wrap(&held.limit, Object::Limit))
            }
        }
    }

    /// Every declarative object of a kind, by tenant and name, with the revision that set it.
    pub fn objects(&self, kind: Kind) -> Vec<(u64, Object)> {
        match kind {
            Kind::Tenant => self.tenants().map(|v| wrap(v, Object::Tenant)).collect(),
            Kind::Consumer => self
                .consumers()
                .map(|v| wrap(v, Object::Consumer))
                .collect(),
            Kind::Provider => self
                .providers()
                .map(|v| wrap(v, Object::Provider))
                .collect(),
            Kind::Model => self.models().map(|v| wrap(v, Object::Model)).collect(),
            Kind::Service => self.services().map(|v| wrap(v, Object::Service)).collect(),
            Kind::Route => self.routes().map(|v| wrap(v, Object::Route)).collect(),
            Kind::Limit => {
                let held = self.limits.iter().map(|(_, held)| held);
                held.map(|held| wrap(&held.limit, Object::Limit)).collect()
            }
        }
    }

    /// Everything in it, in the order in which [`Self::restore`] takes it back.
    pub fn records(&self) -> impl Iterator<Item = (u64, Record)> {
        let tenants = self.tenants().map(|v| share(v, Record::Tenant));
        let consumers = self.consumers().map(|v| share(v, Record::Consumer));
        let providers = self.providers().map(|v| share(v, Record::Provider));
        let models = self.models().map(|v| share(v, Record::Model));
        let services = self.services().map(|v| share(v, Record::Service));
        let routes = self.routes().map(|v| share(v, Record::Route));
        let limits = self.limits.iter().map(|(_, held)| held.record());
        let keys = self.keys().map(|v| share(v, Record::Key));
        let tokens = self.tokens().map(|v| share(v, Record::Token));
        let owned = tenants.chain(consumers).chain(providers).chain(models);
        owned
            .chain(services)
            .chain(routes)
            .chain(limits)
            .chain(keys)
            .chain(tokens)
    }
}

impl Default for Catalog {
    fn default() -> Self {
        Self::empty()
    }
}

fn pair(tenant: &str, name: &str) -> (Name, Name) {
    (Name::from(tenant), Name::from(name))
}

fn wrap<T: Clone>(v: &Versioned<T>, object: impl Fn(T) -> Object) -> (u64, Object) {
    (v.revision, object(T::clone(&v.value)))
}

fn share<T>(v: &Versioned<T>, record: impl Fn(Arc<T>) -> Record) -> (u64, Record) {
    (v.revision, record(Arc::clone(&v.value)))
}
