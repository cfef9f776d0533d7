//! A tenant owns consumers, keys and routes.

use crate::check::Check;
use crate::command::Violation;
use crate::object::Name;

/// An owner.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Tenant {
    /// Unique in the cluster.
    pub name: Name,
}

// === impl Tenant ===

impl Tenant {
    /// What is wrong with it, taken by itself.
    pub fn validate(&self) -> Vec<Violation> {
        let mut check = Check::of(format!("tenants[{}]", self.name));
        check.name("name", &self.name);
        check.done()
    }
}
