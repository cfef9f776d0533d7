//! Rules between routes: no two match the same request, and a host belongs to the routes of one tenant.
//!
//! Only routes that change are looked up, against one pass over all. Routes that share a pattern without a conflict
//! have different methods, so there are few of them; the pass ends once a refusal can list no more.

use std::collections::{BTreeMap, BTreeSet};

use crate::catalog::Catalog;
use crate::catalog::faults::Faults;
use crate::command::{RejectedCode, Violation};
use crate::object::{Kind, Name, Object, ObjectRef};
use crate::route::Route;

// === impl Catalog ===

impl Catalog {
    /// Adds a fault for each route among these objects that another route contradicts.
    pub(super) fn check_routing(&self, changed: &[&Object], faults: &mut Faults) {
        let mut by_pattern: BTreeMap<(&str, &str), Vec<&Route>> = BTreeMap::new();
        let mut by_host: BTreeMap<&str, Vec<&Route>> = BTreeMap::new();
        let mut seen = BTreeSet::new();
        for route in changed.iter().copied().filter_map(as_route) {
            if !seen.insert(place(route)) {
                continue; // The same route twice is a fault of its own.
            }
            for (host, path) in patterns(route) {
                by_pattern.entry((host, path)).or_default().push(route);
            }
            for host in &route.hosts {
                by_host.entry(host).or_default().push(route);
            }
        }
        if seen.is_empty() {
            return;
        }
        for other in self.routes() {
            if faults.is_full() {
                return;
            }
            check_patterns(&by_pattern, &other.value, &seen, faults);
            check_hosts(&by_host, &other.value, &seen, faults);
        }
    }
}

const fn as_route(object: &Object) -> Option<&Route> {
    match object {
        Object::Route(route) => Some(route),
        _ => None,
    }
}

fn check_patterns(
    changed: &BTreeMap<(&str, &str), Vec<&Route>>,
    other: &Route,
    seen: &BTreeSet<(&Name, &Name)>,
    faults: &mut Faults,
) {
    for (host, path) in patterns(other) {
        let routes = changed.get(&(host, path)).map_or(&[][..], Vec::as_slice);
        for route in routes {
            if faults.is_full() {
                return;
            }
            if reported(route, other, seen) && route.shares_a_method(other) {
                let at = route.paths.iter().position(|p| **p == *path).unwrap_or(0);
                let problem = format!(
                    "route {}/{} matches the same host, path and method; change one of them",
                    other.tenant, other.name
                );
                fault(route, &format!("paths[{at}]"), problem, faults);
            }
        }
    }
}

fn check_hosts(
    changed: &BTreeMap<&str, Vec<&Route>>,
    other: &Route,
    seen: &BTreeSet<(&Name, &Name)>,
    faults: &mut Faults,
) {
    for host in &other.hosts {
        for route in changed.get(&**host).map_or(&[][..], Vec::as_slice) {
            if faults.is_full() {
                return;
            }
            if route.tenant != other.tenant && reported(route, other, seen) {
                let at = route.hosts.iter().position(|h| h == host).unwrap_or(0);
                let problem = format!(
                    "it shadows route {}/{}: the host `{host}` is another tenant's; use a host of {}'s own",
                    other.tenant, other.name, route.tenant
                );
                fault(route, &format!("hosts[{at}]"), problem, faults);
            }
        }
    }
}

/// Whether this pair is spoken about at this route: each pair once, at the one that changed or comes later.
fn reported(route: &Route, other: &Route, changed: &BTreeSet<(&Name, &Name)>) -> bool {
    place(route) > place(other)
        || (place(route) != place(other) && !changed.contains(&place(other)))
}

fn fault(route: &Route, field: &str, problem: String, faults: &mut Faults) {
    let at = ObjectRef {
        kind: Kind::Route,
        tenant: Some(Name::clone(&route.tenant)),
        name: Name::clone(&route.name),
    };
    faults.add(
        RejectedCode::Invalid,
        Violation {
            path: format!("{}.{field}", at.path()),
            problem,
        },
    );
}

const fn place(route: &Route) -> (&Name, &Name) {
    (&route.tenant, &route.name)
}

/// Every (host, path) of a route; the host is empty for any.
pub(super) fn patterns(route: &Route) -> impl Iterator<Item = (&str, &str)> {
    let any = route.hosts.is_empty().then_some("");
    let hosts = any
        .into_iter()
        .chain(route.hosts.iter().map(|host| &**host));
    hosts.flat_map(|host| route.paths.iter().map(move |path| (host, &**path)))
}
