//! What a token of one tenant sees, and what may be decided for it.
//!
//! Its commands are decided twice: on the part of the catalog that it sees, whose refusals can tell it nothing else, and
//! then on all of it. Where only the second refuses, it is told that much and not why.
//!
//! Whether such a token may give a command at all is decided elsewhere.

use crate::catalog::faults::refuse;
use crate::catalog::{Catalog, Owned, Record, Versioned, share};
use crate::command::{Command, Decision, Rejected, RejectedCode};
use crate::object::Name;

// === impl Catalog ===

impl Catalog {
    /// The part that is a tenant's: itself, its consumers, routes and keys.
    #[must_use]
    pub fn of_tenant(&self, tenant: &str) -> Self {
        let itself = self.tenant(tenant).map(|v| share(v, Record::Tenant));
        let records = itself
            .into_iter()
            .chain(owned(&self.consumers, tenant).map(|v| share(v, Record::Consumer)))
            .chain(owned(&self.routes, tenant).map(|v| share(v, Record::Route)))
            .chain(owned(&self.keys, tenant).map(|v| share(v, Record::Key)));
        Self::restore(
            self.founded.clone(),
            self.format_version,
            self.revision,
            records,
        )
    }

    /// Decides a command of a token of `tenant`, or of the whole cluster.
    ///
    /// # Errors
    /// As [`Self::decide`]; what is not the tenant's is never told.
    pub fn decide_within(
        &self,
        tenant: Option<&str>,
        command: &Command,
        now_ms: u64,
    ) -> Result<Decision, Rejected> {
        let Some(tenant) = tenant else {
            return self.decide(command, now_ms);
        };
        let mut seen = self.of_tenant(tenant);
        // What its routes may go to; nothing else of these is told.
        for service in self.services().filter(|s| s.value.is_shared_with(tenant)) {
            let (revision, record) = share(service, Record::Service);
            seen.set(revision, record);
        }
        seen.decide(command, now_ms)?;
        self.decide(command, now_ms).map_err(|refused| {
            let problem = match refused.code {
                RejectedCode::Limit => "the cluster holds as much of it as it can; ask who runs it",
                _ => "something outside of this tenant stands in the way; choose other names and hosts, or ask who runs \
                      the cluster",
            };
            refuse(refused.code, "tenant", problem)
        })
    }
}

/// What a tenant owns of a kind.
fn owned<'a, T>(all: &'a Owned<T>, tenant: &'a str) -> impl Iterator<Item = &'a Versioned<T>> {
    let from = (Name::from(tenant), Name::from(""));
    let ours = all
        .range(from..)
        .take_while(move |((owner, _), _)| **owner == *tenant);
    ours.map(|(_, value)| value)
}
