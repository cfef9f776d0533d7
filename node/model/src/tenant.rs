//! A tenant owns consumers, keys, routes, and hosts that only its routes may name.

use std::sync::Arc;

use crate::check::Check;
use crate::command::Violation;
use crate::limits;
use crate::object::Name;

/// An owner.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Tenant {
    /// Unique in the cluster.
    pub name: Name,
    /// Hosts as routes name them. No other tenant has them, nor routes on them; the tenant's own admins route on these
    /// alone.
    pub hosts: Vec<Arc<str>>,
}

// === impl Tenant ===

impl Tenant {
    /// What is wrong with it, taken by itself.
    pub fn validate(&self) -> Vec<Violation> {
        let mut check = Check::of(format!("tenants[{}]", self.name));
        check.name("name", &self.name);
        check.hosts(&self.hosts, limits::TENANT_HOSTS);
        check.done()
    }
}
