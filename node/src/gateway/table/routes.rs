//! Routes by host, path and method.
//!
//! A host's routes are looked at before those of any host. Within one, an exact path wins over a prefix, and the
//! longest prefix wins. A prefix `/a/{*rest}` also takes `/a/` itself.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use http::{HeaderValue, Method};
use matchit::Router;
use mode_envoy_model::catalog::Catalog;
use mode_envoy_model::object::Name;
use mode_envoy_model::route::{Auth, Route};

use super::{CompileError, ServiceEntry};

const REST: &str = "{*rest}";

/// A route, ready to be taken.
#[derive(Debug)]
pub(crate) struct RouteEntry {
    source: Arc<Route>,
    pub(crate) service: Arc<ServiceEntry>,
}

/// What a look into the routes gave.
#[derive(Debug)]
pub(crate) enum Found<'a> {
    /// A route.
    Route(&'a Arc<RouteEntry>),
    /// The path has routes, but not for this method.
    OtherMethods(HeaderValue),
    /// Nothing.
    Nothing,
}

/// Every route.
#[derive(Clone, Debug, Default)]
pub(super) struct Routes {
    entries: BTreeMap<(Name, Name), Arc<RouteEntry>>,
    hosts: HashMap<Arc<str>, Arc<HostRoutes>>,
    any: Arc<HostRoutes>,
}

/// The routes of one host.
#[derive(Debug, Default)]
struct HostRoutes {
    /// In the order of their names: equal lists make equal routers.
    entries: Vec<Arc<RouteEntry>>,
    router: Router<Methods>,
}

/// The routes of one path.
#[derive(Clone, Debug, Default)]
struct Methods {
    any: Option<Arc<RouteEntry>>,
    named: Vec<(Method, Arc<RouteEntry>)>,
}

// === impl RouteEntry ===

impl RouteEntry {
    pub(crate) fn tenant(&self) -> &Name {
        &self.source.tenant
    }

    pub(crate) fn name(&self) -> &Name {
        &self.source.name
    }

    pub(crate) fn auth(&self) -> Auth {
        self.source.auth
    }

    /// The path as the service sees it.
    pub(crate) fn upstream_path<'a>(&self, path: &'a str) -> &'a str {
        let Some(prefix) = &self.source.strip_prefix else {
            return path;
        };
        let prefix = prefix.trim_end_matches('/');
        match path.strip_prefix(prefix) {
            Some("") => "/",
            Some(rest) if rest.starts_with('/') => rest,
            // Only a part of a segment would be cut off.
            _ => path,
        }
    }
}

// === impl Routes ===

impl Routes {
    pub(super) fn of_host(&self, host: &str, path: &str, method: &Method) -> Found<'_> {
        if self.hosts.is_empty() {
            return Found::Nothing;
        }
        self.hosts
            .get(host)
            .map_or(Found::Nothing, |routes| routes.find(path, method))
    }

    pub(super) fn of_any(&self, path: &str, method: &Method) -> Found<'_> {
        self.any.find(path, method)
    }
}

// === impl HostRoutes ===

impl HostRoutes {
    fn find(&self, path: &str, method: &Method) -> Found<'_> {
        match self.router.at(path) {
            Ok(found) => found.value.find(method),
            Err(_) => Found::Nothing,
        }
    }

    fn compile(host: &str, entries: Vec<Arc<RouteEntry>>) -> Result<Self, CompileError> {
        let mut paths: BTreeMap<Arc<str>, Methods> = BTreeMap::new();
        for entry in &entries {
            for path in &entry.source.paths {
                paths.entry(Arc::clone(path)).or_default().add(entry);
            }
        }
        // `{*rest}` takes at least one character; what stands before it is a path of its own.
        let bases: Vec<(Arc<str>, Methods)> = paths
            .iter()
            .filter_map(|(path, methods)| {
                Some((Arc::from(path.strip_suffix(REST)?), methods.clone()))
            })
            .collect();
        for (base, methods) in bases {
            paths.entry(base).or_insert(methods);
        }
        let mut router = Router::new();
        for (path, methods) in paths {
            let what = methods.what(host);
            router
                .insert(&*path, methods)
                .map_err(|error| CompileError::Path {
                    what,
                    path: path.to_string(),
                    problem: error.to_string(),
                })?;
        }
        Ok(Self { entries, router })
    }
}

// === impl Methods ===

impl Methods {
    fn add(&mut self, entry: &Arc<RouteEntry>) {
        if entry.source.methods.is_empty() {
            self.any.get_or_insert_with(|| Arc::clone(entry));
        }
        for method in &entry.source.methods {
            if let Ok(method) = Method::from_bytes(method.as_bytes()) {
                self.named.push((method, Arc::clone(entry)));
            }
        }
    }

    fn find(&self, method: &Method) -> Found<'_> {
        let named = self
            .named
            .iter()
            .find(|(named, _)| named == method)
            .map(|(_, entry)| entry);
        match named.or(self.any.as_ref()) {
            Some(entry) => Found::Route(entry),
            None => Found::OtherMethods(self.allow()),
        }
    }

    /// The value of `Allow` (RFC 9110, 10.2.1).
    fn allow(&self) -> HeaderValue {
        let mut names: Vec<&str> = self
            .named
            .iter()
            .map(|(method, _)| method.as_str())
            .collect();
        names.sort_unstable();
        HeaderValue::from_str(&names.join(", ")).unwrap_or_else(|_| HeaderValue::from_static(""))
    }

    fn what(&self, host: &str) -> String {
        let entry = self
            .any
            .as_ref()
            .or_else(|| self.named.first().map(|(_, entry)| entry));
        match entry {
            Some(entry) => format!("route {}/{}", entry.tenant(), entry.name()),
            None => format!("the routes of host {host}"),
        }
    }
}

// === free functions ===

pub(super) fn compile(
    catalog: &Catalog,
    services: &BTreeMap<Name, Arc<ServiceEntry>>,
    previous: &Routes,
) -> Result<Routes, CompileError> {
    let mut entries = BTreeMap::new();
    let mut by_host: BTreeMap<Arc<str>, Vec<Arc<RouteEntry>>> = BTreeMap::new();
    let mut any = Vec::new();
    for route in catalog.routes() {
        let entry = entry(&route.value, services, previous)?;
        for host in &route.value.hosts {
            by_host
                .entry(Arc::clone(host))
                .or_default()
                .push(Arc::clone(&entry));
        }
        if route.value.hosts.is_empty() {
            any.push(Arc::clone(&entry));
        }
        entries.insert(
            (Name::clone(entry.tenant()), Name::clone(entry.name())),
            entry,
        );
    }
    let mut hosts = HashMap::with_capacity(by_host.len());
    for (host, entries) in by_host {
        let routes = compile_host(&host, entries, previous.hosts.get(&host))?;
        hosts.insert(host, routes);
    }
    Ok(Routes {
        entries,
        hosts,
        any: compile_host("any", any, Some(&previous.any))?,
    })
}

fn compile_host(
    host: &str,
    entries: Vec<Arc<RouteEntry>>,
    previous: Option<&Arc<HostRoutes>>,
) -> Result<Arc<HostRoutes>, CompileError> {
    match previous {
        Some(previous) if super::same(&previous.entries, &entries) => Ok(Arc::clone(previous)),
        _ => Ok(Arc::new(HostRoutes::compile(host, entries)?)),
    }
}

fn entry(
    source: &Arc<Route>,
    services: &BTreeMap<Name, Arc<ServiceEntry>>,
    previous: &Routes,
) -> Result<Arc<RouteEntry>, CompileError> {
    let Some(service) = services.get(&source.service) else {
        let what = format!("route {}/{}", source.tenant, source.name);
        return Err(CompileError::Missing {
            what,
            wanted: format!("service {}", source.service),
        });
    };
    let old = previous
        .entries
        .get(&(Name::clone(&source.tenant), Name::clone(&source.name)));
    Ok(match old {
        Some(old) if Arc::ptr_eq(&old.source, source) && Arc::ptr_eq(&old.service, service) => {
            Arc::clone(old)
        }
        _ => Arc::new(RouteEntry {
            source: Arc::clone(source),
            service: Arc::clone(service),
        }),
    })
}
