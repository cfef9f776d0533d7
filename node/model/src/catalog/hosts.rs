//! Hosts of tenants: each is one tenant's, and no other tenant has routes on it.

use std::collections::BTreeMap;

use crate::catalog::Catalog;
use crate::catalog::faults::Faults;
use crate::command::{RejectedCode, Violation};
use crate::object::{Name, Object};

// === impl Catalog ===

impl Catalog {
    /// Adds a fault for each host that these objects take and another tenant has.
    pub(super) fn check_hosts(&self, changed: &[&Object], faults: &mut Faults) {
        let owners = self.owners_of_hosts();
        if owners.is_empty() {
            return;
        }
        let mut taken: BTreeMap<&str, &Name> = BTreeMap::new();
        for object in changed {
            let (tenant, hosts) = match object {
                Object::Tenant(tenant) => (&tenant.name, &tenant.hosts),
                Object::Route(route) => (&route.tenant, &route.hosts),
                _ => continue,
            };
            for (at, host) in hosts.iter().enumerate() {
                let others = owners.get(&**host).map_or(&[][..], Vec::as_slice);
                if let Some(other) = others.iter().find(|other| **other != tenant) {
                    let path = format!("{}.hosts[{at}]", object.reference().path());
                    let problem = format!("the host `{host}` is tenant {other}'s; use another one");
                    faults.add(RejectedCode::Invalid, Violation { path, problem });
                }
                if matches!(object, Object::Tenant(_)) {
                    taken.insert(host, tenant);
                }
            }
        }
        self.check_routes_on(&taken, faults);
    }

    /// The tenants of each host; more than one only in a draft that is to be refused.
    pub(super) fn owners_of_hosts(&self) -> BTreeMap<&str, Vec<&Name>> {
        let mut owners: BTreeMap<&str, Vec<&Name>> = BTreeMap::new();
        for tenant in self.tenants.values().map(|tenant| &tenant.value) {
            for host in &tenant.hosts {
                owners.entry(host).or_default().push(&tenant.name);
            }
        }
        owners
    }

    /// Routes that are there already are looked at only where a tenant takes hosts.
    fn check_routes_on(&self, taken: &BTreeMap<&str, &Name>, faults: &mut Faults) {
        if taken.is_empty() {
            return;
        }
        for route in self.routes.values().map(|route| &route.value) {
            for host in &route.hosts {
                let Some(tenant) = taken
                    .get(&**host)
                    .filter(|tenant| ***tenant != route.tenant)
                else {
                    continue;
                };
                let path = format!("tenants[{tenant}].hosts");
                let problem = format!(
                    "route {}/{} is on the host `{host}`; move it to another host first",
                    route.tenant, route.name
                );
                faults.add(RejectedCode::Invalid, Violation { path, problem });
            }
        }
    }
}
