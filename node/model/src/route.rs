//! A route says which requests go to a service, and who may send them.

use std::sync::Arc;

use crate::check::{Check, shorten};
use crate::command::Violation;
use crate::limits;
use crate::object::Name;
use crate::url;

/// How a request proves who it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Auth {
    /// Not at all; never implied.
    None,
    /// By an API key.
    Key,
}

/// Which requests go to a service.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Route {
    /// Owner.
    pub tenant: Name,
    /// Unique within the tenant.
    pub name: Name,
    /// Where matching requests go.
    pub service: Name,
    /// Exact host names in lower case, no port; empty for any.
    pub hosts: Vec<Arc<str>>,
    /// Exact paths, or prefixes that end in `{*rest}`.
    pub paths: Vec<Arc<str>>,
    /// Upper case; empty for any.
    pub methods: Vec<Arc<str>>,
    /// How requests authenticate.
    pub auth: Auth,
    /// Removed from the front of the path before the upstream sees it.
    pub strip_prefix: Option<Arc<str>>,
}

/// Names of the routes that the gateway itself answers: chat completions, embeddings and models.
pub const BUILT_IN_NAMES: [&str; 3] = [
    "openai.chat_completions",
    "openai.embeddings",
    "openai.models",
];

/// What a path that stands for everything below it ends in.
pub const REST: &str = "/{*rest}";

/// The methods that a route may name.
const METHODS: [&str; limits::ROUTE_METHODS] =
    ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];

/// First segments of the paths that the gateway itself answers.
const BUILT_IN: [&str; 3] = ["v1", "v1beta", "prompts"];

// === impl Route ===

impl Route {
    /// What is wrong with it, taken by itself.
    pub fn validate(&self) -> Vec<Violation> {
        let mut check = Check::of(format!("routes[{}/{}]", self.tenant, self.name));
        check.name("tenant", &self.tenant);
        check.name("name", &self.name);
        check.name("service", &self.service);
        check.hosts(&self.hosts, limits::ROUTE_HOSTS);
        self.check_paths(&mut check);
        self.check_methods(&mut check);
        if self.hosts.len().max(1) * self.paths.len() > limits::ROUTE_PATTERNS {
            let problem = format!(
                "hosts times paths are more than {}; split the route",
                limits::ROUTE_PATTERNS
            );
            check.fault("paths", problem);
        }
        self.check_strip_prefix(&mut check);
        check.done()
    }

    /// Whether both match some method.
    pub fn shares_a_method(&self, other: &Self) -> bool {
        self.methods.is_empty()
            || other.methods.is_empty()
            || self
                .methods
                .iter()
                .any(|method| other.methods.contains(method))
    }

    fn check_paths(&self, check: &mut Check) {
        check.count("paths", self.paths.len(), 1, limits::ROUTE_PATHS);
        let paths = &self.paths[..self.paths.len().min(limits::ROUTE_PATHS)];
        check.distinct("paths", paths);
        for (at, path) in paths.iter().enumerate() {
            let field = format!("paths[{at}]");
            if !is_pattern(path) {
                let problem = format!(
                    "`{}` is not a path: it must start with `/`, be at most {} bytes, escape (in capitals) only what \
                     must be escaped, and either be exact or end in `{REST}`",
                    shorten(path),
                    limits::PATH
                );
                check.fault(field, problem);
            } else if self.hosts.is_empty() && is_built_in(path) {
                let problem = "the gateway itself answers paths under /v1, /v1beta and /prompts; give the route hosts \
                               of its own, or another path";
                check.fault(field, problem);
            }
        }
    }

    fn check_methods(&self, check: &mut Check) {
        check.count("methods", self.methods.len(), 0, limits::ROUTE_METHODS);
        let methods = &self.methods[..self.methods.len().min(limits::ROUTE_METHODS)];
        check.distinct("methods", methods);
        for (at, method) in methods.iter().enumerate() {
            if !METHODS.contains(&&**method) {
                let problem = format!(
                    "`{}` is not a method that routes match; use {}",
                    shorten(method),
                    METHODS.join(", ")
                );
                check.fault(format!("methods[{at}]"), problem);
            }
        }
    }

    fn check_strip_prefix(&self, check: &mut Check) {
        let Some(prefix) = self.strip_prefix.as_deref() else {
            return;
        };
        let covers = |path: &str| {
            let literal = path.strip_suffix(REST).unwrap_or(path);
            literal
                .strip_prefix(prefix)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        if prefix.len() > limits::PATH || !url::is_path(prefix) {
            check.fault(
                "strip_prefix",
                "it must be a path such as `/orders`, without a slash at its end",
            );
        } else if !self.paths.iter().all(|path| covers(path)) {
            check.fault("strip_prefix", "every path of the route must begin with it");
        }
    }
}

/// Whether a route of this name is built in.
pub fn is_built_in_name(name: &str) -> bool {
    BUILT_IN_NAMES.contains(&name)
}

/// Whether this is an exact path or a prefix that ends in [`REST`].
fn is_pattern(path: &str) -> bool {
    let literal = match path.strip_suffix(REST) {
        Some(prefix) => prefix,
        None if path.starts_with('/') => path.strip_suffix('/').unwrap_or(path),
        None => return false,
    };
    let sound = literal.is_empty() || (url::is_path(literal) && is_normal(literal));
    path.len() <= limits::PATH && sound
}

/// Whether escapes are in capitals and stand only for what must be escaped: requests are matched in that form
/// (RFC 3986, 6.2.2), so another one would never match.
fn is_normal(path: &str) -> bool {
    path.split('%').skip(1).all(|part| {
        let hex = part.get(..2).unwrap_or_default();
        let byte = u8::from_str_radix(hex, 16).unwrap_or_default();
        let plain = byte.is_ascii_alphanumeric() || b"-._~/\\".contains(&byte);
        !plain && !byte.is_ascii_control() && !hex.bytes().any(|b| b.is_ascii_lowercase())
    })
}

fn is_built_in(path: &str) -> bool {
    path.split('/')
        .nth(1)
        .is_some_and(|segment| BUILT_IN.contains(&segment))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(paths: &[&str]) -> Route {
        Route {
            tenant: "acme".into(),
            name: "orders".into(),
            service: "orders".into(),
            hosts: Vec::new(),
            paths: paths.iter().map(|&p| p.into()).collect(),
            methods: Vec::new(),
            auth: Auth::Key,
            strip_prefix: None,
        }
    }

    fn faults(route: &Route) -> Vec<String> {
        let strip = |v: Violation| {
            v.path
                .strip_prefix("routes[acme/orders].")
                .unwrap()
                .to_owned()
        };
        route.validate().into_iter().map(strip).collect()
    }

    const NONE: [&str; 0] = [];

    #[test]
    fn paths_are_exact_or_end_in_rest() {
        assert_eq!(
            faults(&route(&[
                "/",
                "/a",
                "/a/",
                "/caf%C3%A9",
                "/a/{*rest}",
                "/{*rest}"
            ])),
            NONE
        );
        for path in [
            "",
            "a",
            "/a/{id}",
            "/{*rest}/a",
            "/a{*rest}",
            "/a//b",
            "/a/../b",
            "/a?x",
            "/%61",
            "/caf%c3%a9",
            "/a%2Fb",
            "{*rest}",
        ] {
            assert_eq!(faults(&route(&[path])), ["paths[0]"], "{path}");
        }
        assert_eq!(faults(&route(&["/a", "/a"])), ["paths[1]"]);
        assert_eq!(faults(&route(&[])), ["paths"]);
        let many: Vec<String> = (0..33).map(|n| format!("/{n}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(faults(&route(&many)), ["paths"]);
    }

    #[test]
    fn paths_of_the_gateway_itself_need_a_host() {
        for path in ["/v1", "/v1/x", "/v1beta/{*rest}", "/prompts/{*rest}"] {
            let mut route = route(&[path]);
            assert_eq!(faults(&route), ["paths[0]"], "{path}");
            route.hosts = vec!["api.acme.test".into()];
            assert_eq!(faults(&route), NONE, "{path}");
        }
        assert_eq!(faults(&route(&["/v10/x", "/v1x", "/a/v1"])), NONE);
    }

    #[test]
    fn hosts_are_names_or_addresses_without_ports_or_wildcards() {
        let hosts = [
            "a.test",
            "A.test",
            "*.a.test",
            "a:80",
            "127.0.0.1",
            "[::1]",
            "",
        ];
        let route = Route {
            hosts: hosts.map(Into::into).to_vec(),
            ..route(&["/a"])
        };
        assert_eq!(
            faults(&route),
            ["hosts[1]", "hosts[2]", "hosts[3]", "hosts[5]", "hosts[6]"]
        );
    }

    #[test]
    fn methods_are_known_tokens() {
        let methods = ["GET", "get", "CONNECT", "GET"];
        let route = Route {
            methods: methods.map(Into::into).to_vec(),
            ..route(&["/a"])
        };
        assert_eq!(faults(&route), ["methods[3]", "methods[1]", "methods[2]"]);
    }

    #[test]
    fn a_stripped_prefix_begins_every_path_at_a_segment() {
        let with = |prefix: &str, paths: &[&str]| {
            faults(&Route {
                strip_prefix: Some(prefix.into()),
                ..route(paths)
            })
        };
        assert_eq!(with("/a", &["/a", "/a/", "/a/b", "/a/{*rest}"]), NONE);
        assert_eq!(with("/a", &["/ab"]), ["strip_prefix"]);
        assert_eq!(with("/a", &["/a", "/b"]), ["strip_prefix"]);
        for bad in ["", "/", "a", "/a/", "/{*rest}"] {
            assert_eq!(with(bad, &["/a/b"]), ["strip_prefix"], "{bad}");
        }
    }

    #[test]
    fn hosts_times_paths_are_bounded() {
        let hosts = (0..32).map(|n| format!("h{n}.test").into()).collect();
        let paths: Vec<String> = (0..9).map(|n| format!("/{n}")).collect();
        let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
        assert_eq!(
            faults(&Route {
                hosts,
                ..route(&paths)
            }),
            ["paths"]
        );
    }
}
