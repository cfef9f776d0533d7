//! The catalog compiled for the hot path: what a request is decided by.
//!
//! ```text
//! Catalog (persistent maps, names refer to names)  --compile-->  Table (hashes, tries, pointers)  --swap-->  workers
//! ```
//!
//! Invariants:
//! * compiling is all or nothing: a catalog that does not compile leaves the table in force as it was;
//! * only what changed is compiled anew: an entry whose sources are the same objects is the same entry, so that
//!   counters in it (whose turn it is) go on;
//! * a table never changes; a request sees one from its beginning to its end.

mod keys;
mod providers;
mod routes;
mod services;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mode_envoy_model::catalog::Catalog;
use mode_envoy_model::key::SecretHash;
use mode_envoy_model::limit::matching::Matcher;
use mode_envoy_model::limit::{Limit, LimitId};
use mode_envoy_model::object::Name;
use mode_envoy_model::service;
use mode_envoy_model::url::BaseUrl;
use thiserror::Error;

use super::settings::GatewayLimits;
use crate::secrets::Keyring;
use crate::upstream::{Origin, Timeouts};

pub(crate) use self::keys::KeyEntry;
use self::keys::KeyIndex;
pub(crate) use self::providers::{ModelEntry, ProviderEntry};
use self::routes::Routes;
pub(crate) use self::routes::{Found, RouteEntry};
pub(crate) use self::services::ServiceEntry;

/// The compiled catalog.
#[derive(Debug)]
pub struct Table {
    revision: u64,
    keys: Arc<KeyIndex>,
    services: BTreeMap<Name, Arc<ServiceEntry>>,
    providers: BTreeMap<Name, Arc<ProviderEntry>>,
    models: BTreeMap<Name, Arc<ModelEntry>>,
    routes: Routes,
    limits: Arc<LimitIndex>,
}

/// The limits, and what they were compiled from.
#[derive(Debug, Default)]
struct LimitIndex {
    sources: Vec<(LimitId, Arc<Limit>)>,
    matcher: Matcher,
}

/// One address of a service or provider.
#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) origin: Arc<Origin>,
    /// Put before the request's path; without a slash at its end.
    pub(crate) prefix: Box<str>,
}

/// Why a catalog does not compile. The table in force stays.
#[derive(Debug, Error)]
pub enum CompileError {
    /// A URL cannot be used.
    #[error("compiling {what}: its URL `{url}` cannot be used; apply it again with a valid one")]
    Url {
        /// The object.
        what: String,
        /// The URL.
        url: String,
    },
    /// A reference leads nowhere.
    #[error("compiling {what}: there is no {wanted}")]
    Missing {
        /// The object that refers.
        what: String,
        /// What it refers to.
        wanted: String,
    },
    /// A path cannot stand in the routing table.
    #[error("compiling {what}: the path `{path}` cannot be routed: {problem}")]
    Path {
        /// The route.
        what: String,
        /// The path.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A price is out of range.
    #[error("compiling model {model}: its price is out of range")]
    Price {
        /// The model.
        model: Name,
    },
    /// There are sealed secrets, and nothing to open them with yet.
    #[error("compiling provider {provider}: the cluster's keyring is not open yet")]
    NoKeyring {
        /// The provider.
        provider: Name,
    },
}

/// Defaults of the contract, in milliseconds: connect, first byte, idle, total.
pub(super) const SERVICE_TIMEOUTS: [u64; 4] = [2_000, 30_000, 60_000, 300_000];
/// The same for providers, which think for longer.
pub(super) const PROVIDER_TIMEOUTS: [u64; 4] = [5_000, 60_000, 60_000, 600_000];

// === impl Table ===

impl Table {
    /// A table that knows nothing, at revision 0.
    pub fn empty() -> Self {
        Self {
            revision: 0,
            keys: Arc::default(),
            services: BTreeMap::new(),
            providers: BTreeMap::new(),
            models: BTreeMap::new(),
            routes: Routes::default(),
            limits: Arc::default(),
        }
    }

    /// Compiles `catalog`; entries of `previous` whose sources are the same objects are taken over.
    ///
    /// # Errors
    ///
    /// [`CompileError`], naming the object at fault.
    pub fn compile(
        catalog: &Catalog,
        keyring: Option<&Keyring>,
        previous: &Self,
    ) -> Result<Self, CompileError> {
        let services = services::compile(catalog, &previous.services)?;
        let providers = providers::compile(catalog, keyring, &previous.providers)?;
        let models = providers::compile_models(catalog, &providers, &previous.models)?;
        let routes = routes::compile(catalog, &services, &previous.routes)?;
        Ok(Self {
            revision: catalog.revision(),
            keys: keys::compile(catalog, &previous.keys),
            services,
            providers,
            models,
            routes,
            limits: LimitIndex::of(catalog, &previous.limits),
        })
    }

    /// This table with the keys of `catalog`: for a catalog that does not compile, so that a key that was revoked is
    /// refused all the same.
    #[must_use]
    pub fn with_keys_of(&self, catalog: &Catalog) -> Self {
        Self {
            revision: self.revision,
            keys: keys::compile(catalog, &self.keys),
            services: self.services.clone(),
            providers: self.providers.clone(),
            models: self.models.clone(),
            routes: self.routes.clone(),
            limits: Arc::clone(&self.limits),
        }
    }

    /// This table without the keys that `ahead` does not have, or has otherwise: a key is not taken that may have been
    /// revoked.
    #[must_use]
    pub fn without_keys_gone_in(self, ahead: &Catalog) -> Self {
        Self {
            keys: keys::known_to(ahead, &self.keys),
            ..self
        }
    }

    /// The revision of the catalog that this was compiled from.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The limits, to be asked which of them a request matches.
    pub(crate) fn limits(&self) -> &Matcher {
        &self.limits.matcher
    }

    /// The key with this hash of its secret, now or before its last rotation.
    pub(crate) fn key(&self, hash: &SecretHash) -> Option<&Arc<KeyEntry>> {
        self.keys.get(hash)
    }

    /// The model that clients call so.
    pub(crate) fn model(&self, name: &str) -> Option<&Arc<ModelEntry>> {
        self.models.get(name)
    }

    /// Every model, by name.
    pub(crate) fn models(&self) -> impl Iterator<Item = &Arc<ModelEntry>> {
        self.models.values()
    }

    /// Looks among the routes of exactly this host.
    pub(crate) fn route_of_host(&self, host: &str, path: &str, method: &http::Method) -> Found<'_> {
        self.routes.of_host(host, path, method)
    }

    /// Looks among the routes that any host has.
    pub(crate) fn route_of_any(&self, path: &str, method: &http::Method) -> Found<'_> {
        self.routes.of_any(path, method)
    }
}

// === impl LimitIndex ===

impl LimitIndex {
    fn of(catalog: &Catalog, previous: &Arc<Self>) -> Arc<Self> {
        let known = &previous.sources;
        let is_same = known.len() == catalog.limits().count()
            && catalog
                .limits()
                .zip(known)
                .all(|((id, limit), known)| id == known.0 && Arc::ptr_eq(limit, &known.1));
        if is_same {
            return Arc::clone(previous);
        }
        let sources = catalog.limits();
        Arc::new(Self {
            sources: sources.map(|(id, limit)| (id, Arc::clone(limit))).collect(),
            matcher: Matcher::of(catalog),
        })
    }
}

// === impl Endpoint ===

impl Endpoint {
    fn of(url: &str, what: impl Fn() -> String) -> Result<Self, CompileError> {
        let fault = || CompileError::Url {
            what: what(),
            url: url.to_owned(),
        };
        let base = BaseUrl::parse(url).map_err(|_| fault())?;
        let origin = Arc::new(Origin::of(&base).ok_or_else(fault)?);
        Ok(Self {
            origin,
            prefix: Box::from(base.path.trim_end_matches('/')),
        })
    }
}

/// What the object says, else the defaults.
fn timeouts(of: &service::Timeouts, defaults: [u64; 4]) -> Timeouts {
    let [connect, first_byte, idle, total] = defaults;
    let ms = |value: Option<u64>, default: u64| Duration::from_millis(value.unwrap_or(default));
    Timeouts {
        connect: ms(of.connect_ms, connect),
        first_byte: ms(of.first_byte_ms, first_byte),
        idle: ms(of.idle_ms, idle),
        total: ms(of.total_ms, total),
        client_idle: GatewayLimits::default().client_idle,
    }
}

/// Whether two lists hold the same objects.
fn same<T>(a: &[Arc<T>], b: &[Arc<T>]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| Arc::ptr_eq(a, b))
}

#[cfg(test)]
#[path = "table/table_test.rs"]
mod tests;
