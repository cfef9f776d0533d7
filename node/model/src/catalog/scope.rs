//! What a token of one tenant sees, and what may be decided for it.
//!
//! Its commands are decided twice: on the part of the catalog that it sees, whose refusals can tell it nothing else, and
//! then on all of it. Where only the second refuses, it is told that much and not why.
//!
//! Whether such a token may give a command at all is decided elsewhere.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::catalog::faults::refuse;
use crate::catalog::limits_held::Held;
use crate::catalog::replace::without_operators;
use crate::catalog::{Catalog, Owned, Record, Versioned, share};
use crate::command::{Command, Decision, Rejected, RejectedCode};
use crate::limit::{Limit, Match};
use crate::model::Model;
use crate::object::Name;

// === impl Catalog ===

impl Catalog {
    /// The part that is a tenant's: itself, its consumers, routes, keys and limits, and the operator's limits on it.
    #[must_use]
    pub fn of_tenant(&self, tenant: &str) -> Self {
        let itself = self.tenant(tenant).map(|v| share(v, Record::Tenant));
        let records = itself
            .into_iter()
            .chain(owned(&self.consumers, tenant).map(|v| share(v, Record::Consumer)))
            .chain(owned(&self.routes, tenant).map(|v| share(v, Record::Route)))
            .chain(self.limits_on(tenant))
            .chain(owned(&self.keys, tenant).map(|v| share(v, Record::Key)));
        Self::restore(
            self.founded.clone(),
            self.format_version,
            self.revision,
            records,
        )
        .with_last_limit_id(self.last_limit_id())
    }

    /// The limits that can match a request of a tenant, and so name nothing that is another's.
    fn limits_on(&self, tenant: &str) -> Vec<(u64, Record)> {
        let consumers = owned(&self.consumers, tenant);
        let teams: BTreeSet<&Name> = consumers.filter_map(|c| c.value.team.as_ref()).collect();
        let asked = |name: &Name| self.model(name).is_some_and(|m| may_ask(&m.value, tenant));
        let on = |limit: &Limit| {
            if let Some(only) = limit.only_tenant() {
                return **only == *tenant;
            }
            let Match { team, model, .. } = &limit.matches;
            team.as_ref().is_none_or(|team| teams.contains(team))
                && model.as_ref().is_none_or(asked)
        };
        let all = self.limits.iter().map(|(_, held)| held);
        let ours = all.filter(|held| on(&held.limit.value));
        ours.map(Held::record).collect()
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
        // What its limits may name: the names of models that it may ask, and nothing else of these.
        for model in self.models().filter(|m| may_ask(&m.value, tenant)) {
            let named = Model {
                name: Name::clone(&model.value.name),
                targets: Vec::new(),
                price: None,
                access: None,
            };
            seen.set(model.revision, Record::Model(Arc::new(named)));
        }
        let own = own_part(command);
        let command = own.as_ref().unwrap_or(command);
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

/// A prune, without the operator's limits: these may be named as they are, and what is beside them is not the tenant's. `None`:
/// the command as it is.
fn own_part(command: &Command) -> Option<Command> {
    match command {
        Command::Prune {
            objects,
            confirmed,
            dry_run,
        } => Some(Command::Prune {
            objects: without_operators(objects),
            confirmed: *confirmed,
            dry_run: *dry_run,
        }),
        _ => None,
    }
}

/// Whether some consumer of a tenant may ask a model.
fn may_ask(model: &Model, tenant: &str) -> bool {
    let access = model.access.as_ref();
    access.is_none_or(|entries| entries.iter().any(|entry| *entry.tenant == *tenant))
}

/// What a tenant owns of a kind.
fn owned<'a, T>(all: &'a Owned<T>, tenant: &'a str) -> impl Iterator<Item = &'a Versioned<T>> {
    let from = (Name::from(tenant), Name::from(""));
    let ours = all
        .range(from..)
        .take_while(move |((owner, _), _)| **owner == *tenant);
    ours.map(|(_, value)| value)
}
