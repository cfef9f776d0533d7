//! A service is a set of HTTP upstreams that answer the same requests.

use std::sync::Arc;

use crate::check::Check;
use crate::command::Violation;
use crate::limits;
use crate::object::Name;
use crate::url::BaseUrl;

/// Limits of time in milliseconds; absent means the default.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[expect(
    clippy::struct_field_names,
    reason = "the unit belongs in the name of a number"
)]
pub struct Timeouts {
    /// To connect, TLS included.
    pub connect_ms: Option<u64>,
    /// From the request's end to the first byte of the answer.
    pub first_byte_ms: Option<u64>,
    /// Between two reads of the answer.
    pub idle_ms: Option<u64>,
    /// For everything.
    pub total_ms: Option<u64>,
}

/// One address.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Endpoint {
    /// `http://` or `https://`, host, optional port and path prefix.
    pub url: Arc<str>,
}

/// A set of HTTP upstreams.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Service {
    /// Unique in the cluster.
    pub name: Name,
    /// Addresses, used in turn.
    pub endpoints: Vec<Endpoint>,
    /// Limits of time.
    pub timeouts: Timeouts,
    /// Tenants whose own admins may route to it.
    pub access: Vec<Name>,
}

// === impl Service ===

impl Service {
    /// Whether a tenant's own admins may route to it.
    pub fn is_shared_with(&self, tenant: &str) -> bool {
        self.access.iter().any(|name| **name == *tenant)
    }

    /// What is wrong with it, taken by itself.
    pub fn validate(&self) -> Vec<Violation> {
        let mut check = Check::of(format!("services[{}]", self.name));
        check.name("name", &self.name);
        check.timeouts(&self.timeouts);
        check.count("endpoints", self.endpoints.len(), 1, limits::ENDPOINTS);
        let endpoints = &self.endpoints[..self.endpoints.len().min(limits::ENDPOINTS)];
        check.distinct("endpoints", endpoints);
        check.count("access", self.access.len(), 0, limits::SERVICE_ACCESS);
        let access = &self.access[..self.access.len().min(limits::SERVICE_ACCESS)];
        check.distinct("access", access);
        for (at, endpoint) in endpoints.iter().enumerate() {
            if let Err(error) = BaseUrl::parse(&endpoint.url) {
                check.fault(format!("endpoints[{at}].url"), error.to_string());
            }
        }
        check.done()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(urls: &[&str]) -> Vec<String> {
        let service = Service {
            name: "orders".into(),
            endpoints: urls
                .iter()
                .map(|&url| Endpoint { url: url.into() })
                .collect(),
            timeouts: Timeouts::default(),
            access: Vec::new(),
        };
        service.validate().into_iter().map(|v| v.path).collect()
    }

    #[test]
    fn endpoints_are_distinct_urls() {
        assert_eq!(
            faults(&["http://a:1", "http://a:2/x"]),
            Vec::<String>::new()
        );
        assert_eq!(
            faults(&["http://a", "http://a", "a:80"]),
            [
                "services[orders].endpoints[1]",
                "services[orders].endpoints[2].url"
            ]
        );
    }

    #[test]
    fn a_service_has_one_to_256_endpoints() {
        assert_eq!(faults(&[]), ["services[orders].endpoints"]);
        let urls: Vec<String> = (1..=257).map(|port| format!("http://a:{port}")).collect();
        let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
        assert_eq!(faults(&urls), ["services[orders].endpoints"]);
        assert_eq!(faults(&urls[..256]), Vec::<String>::new());
    }
}
