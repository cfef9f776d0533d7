//! Which objects refer to which: what a put object needs, and what a deletion would leave dangling.

use crate::catalog::Catalog;
use crate::catalog::faults::Faults;
use crate::command::{RejectedCode, Violation};
use crate::consumer::Consumer;
use crate::limit::Limit;
use crate::model::{AccessEntry, Model};
use crate::object::{Kind, Name, Object, ObjectRef};
use crate::route::is_built_in_name;

/// Users that a refusal names; what is beyond is only counted.
const NAMED_USERS: usize = 3;

// === impl Catalog ===

impl Catalog {
    /// Adds a fault for everything an object refers to that is not there.
    pub(super) fn check_references(&self, object: &Object, faults: &mut Faults) {
        let mut missing = self.missing_references(object);
        if let Object::Limit(limit) = object {
            self.missing_names_of_limit(limit, &mut missing);
        }
        for (field, missing) in missing {
            let path = format!("{}.{field}", object.reference().path());
            let problem = format!("there is no {missing}; define it, or correct the name");
            faults.add(RejectedCode::NotFound, Violation { path, problem });
        }
    }

    /// What an object refers to that is not there: field, and what is missing.
    pub(super) fn missing_references(&self, object: &Object) -> Vec<(String, String)> {
        let mut missing = Vec::new();
        match object {
            Object::Tenant(_) | Object::Provider(_) => {}
            Object::Service(service) => {
                for (at, tenant) in service.access.iter().enumerate() {
                    if self.tenant(tenant).is_none() {
                        missing.push((format!("access[{at}]"), format!("tenant {tenant}")));
                    }
                }
            }
            Object::Consumer(consumer) => {
                if self.tenant(&consumer.tenant).is_none() {
                    missing.push(("tenant".to_owned(), format!("tenant {}", consumer.tenant)));
                }
            }
            Object::Model(model) => self.missing_of_model(model, &mut missing),
            Object::Route(route) => {
                if self.tenant(&route.tenant).is_none() {
                    missing.push(("tenant".to_owned(), format!("tenant {}", route.tenant)));
                }
                if self.service(&route.service).is_none() {
                    missing.push(("service".to_owned(), format!("service {}", route.service)));
                }
            }
            Object::Limit(limit) => self.missing_of_limit(limit, &mut missing),
        }
        missing
    }

    /// Why an object cannot be deleted; `None` where nothing refers to it.
    pub(super) fn in_use(&self, at: &ObjectRef) -> Option<String> {
        let users = self.users_of(at);
        let (last, rest) = users.split_last()?;
        Some(match rest {
            [] => format!("{last} still refers to it; change or delete that first"),
            _ => format!(
                "{} and {last} still refer to it; change or delete those first",
                rest.join(", ")
            ),
        })
    }

    /// What refers to an object, as a refusal lists it.
    fn users_of(&self, at: &ObjectRef) -> Vec<String> {
        let mut users: Vec<String> = Vec::new();
        let mut beyond = 0_usize;
        self.each_user(at, |user| {
            if users.len() < NAMED_USERS {
                users.push(user);
            } else {
                beyond += 1;
            }
        });
        if beyond > 0 {
            users.push(format!("{beyond} more"));
        }
        users
    }

    fn missing_of_model(&self, model: &Model, missing: &mut Vec<(String, String)>) {
        for (at, target) in model.targets.iter().enumerate() {
            if self.provider(&target.provider).is_none() {
                let field = format!("targets[{at}].provider");
                missing.push((field, format!("provider {}", target.provider)));
            }
        }
        for (at, entry) in model.access.iter().flatten().enumerate() {
            let what = match &entry.consumer {
                _ if self.tenant(&entry.tenant).is_none() => format!("tenant {}", entry.tenant),
                Some(consumer) if self.consumer(&entry.tenant, consumer).is_none() => {
                    format!("consumer {}/{consumer}", entry.tenant)
                }
                _ => continue,
            };
            missing.push((format!("access[{at}]"), what));
        }
    }

    fn each_user(&self, at: &ObjectRef, mut user: impl FnMut(String)) {
        let name = &at.name;
        match at.kind {
            Kind::Tenant => {
                let consumers = self.consumers().filter(|c| c.value.tenant == *name);
                consumers.for_each(|c| user(format!("consumer {name}/{}", c.value.name)));
                let routes = self.routes().filter(|r| r.value.tenant == *name);
                routes.for_each(|r| user(format!("route {name}/{}", r.value.name)));
                let keys = self.keys().filter(|k| k.value.tenant == *name);
                keys.for_each(|k| user(format!("key {name}/{}", k.value.name)));
                let services = self.services().filter(|s| s.value.access.contains(name));
                services.for_each(|s| user(format!("the access list of service {}", s.value.name)));
                let limits = self.limits().filter(|(_, l)| l.names_tenant(name));
                limits.for_each(|(_, l)| user(limit_text(l)));
                self.each_admitting(|entry| entry.tenant == *name, user);
            }
            Kind::Consumer => {
                let tenant = at.tenant.clone().unwrap_or_default();
                let keys = self
                    .keys()
                    .filter(|k| k.value.tenant == tenant && k.value.consumer == *name);
                keys.for_each(|k| user(format!("key {tenant}/{}", k.value.name)));
                let ours =
                    |e: &AccessEntry| e.tenant == tenant && e.consumer.as_ref() == Some(name);
                let named = |l: &Limit| l.matches.consumer.as_ref() == Some(name);
                self.each_limit_on(&tenant, named, &mut user);
                self.each_admitting(ours, user);
            }
            Kind::Provider => {
                let uses = |model: &Model| model.targets.iter().any(|t| t.provider == *name);
                let models = self.models().filter(|m| uses(&m.value));
                models.for_each(|m| user(format!("model {}", m.value.name)));
            }
            Kind::Service => {
                let routes = self.routes().filter(|r| r.value.service == *name);
                routes.for_each(|r| user(format!("route {}/{}", r.value.tenant, r.value.name)));
            }
            Kind::Model => {
                let limits = self.limits();
                let named = limits.filter(|(_, l)| l.matches.model.as_ref() == Some(name));
                named.for_each(|(_, l)| user(limit_text(l)));
            }
            Kind::Route => {
                let tenant = at.tenant.clone().unwrap_or_default();
                // A built-in route of the same name is there whatever happens to this one.
                let named =
                    |l: &Limit| l.matches.route.as_ref() == Some(name) && !is_built_in_name(name);
                self.each_limit_on(&tenant, named, &mut user);
            }
            Kind::Limit => {}
        }
    }

    /// Limits that match nothing but a tenant's requests, and of these such ones.
    fn each_limit_on(
        &self,
        tenant: &Name,
        such: impl Fn(&Limit) -> bool,
        user: &mut impl FnMut(String),
    ) {
        for (_, limit) in self.limits() {
            if limit.only_tenant() == Some(tenant) && such(limit) {
                user(limit_text(limit));
            }
        }
    }

    fn missing_of_limit(&self, limit: &Limit, missing: &mut Vec<(String, String)>) {
        let mut need = |field: &str, there: bool, what: String| {
            if !there {
                missing.push((field.to_owned(), what));
            }
        };
        let matches = &limit.matches;
        for (field, tenant) in [("tenant", &limit.tenant), ("match.tenant", &matches.tenant)] {
            if let Some(tenant) = tenant {
                need(
                    field,
                    self.tenant(tenant).is_some(),
                    format!("tenant {tenant}"),
                );
            }
        }
        if let Some(model) = &matches.model {
            need(
                "match.model",
                self.model(model).is_some(),
                format!("model {model}"),
            );
        }
        // Without a tenant, these are refused as such.
        let Some(tenant) = limit.only_tenant() else {
            return;
        };
        if let Some(name) = &matches.consumer {
            let there = self.consumer(tenant, name).is_some();
            need("match.consumer", there, format!("consumer {tenant}/{name}"));
        }
        if let Some(name) = &matches.route {
            let there = is_built_in_name(name) || self.route(tenant, name).is_some();
            need("match.route", there, format!("route {tenant}/{name}"));
        }
    }

    /// What must be there when a limit is put, and may go later: a key is revoked whatever names it, and a team is only what
    /// consumers say. A limit that names one then matches nothing.
    fn missing_names_of_limit(&self, limit: &Limit, missing: &mut Vec<(String, String)>) {
        let tenant = limit.only_tenant();
        if let (Some(tenant), Some(name)) = (tenant, &limit.matches.key)
            && self.key(tenant, name).is_none()
        {
            missing.push(("match.key".to_owned(), format!("key {tenant}/{name}")));
        }
        let Some(team) = &limit.matches.team else {
            return;
        };
        let has = |consumer: &Consumer| {
            consumer.team.as_ref() == Some(team) && tenant.is_none_or(|t| *t == consumer.tenant)
        };
        if !self.consumers().any(|consumer| has(&consumer.value)) {
            let of = tenant
                .map(|t| format!(" of tenant {t}"))
                .unwrap_or_default();
            missing.push((
                "match.team".to_owned(),
                format!("consumer{of} in a team {team}"),
            ));
        }
    }

    /// Models whose access list has such an entry.
    fn each_admitting(&self, entry: impl Fn(&AccessEntry) -> bool, mut user: impl FnMut(String)) {
        for model in self.models() {
            if model.value.access.iter().flatten().any(&entry) {
                user(format!("the access list of model {}", model.value.name));
            }
        }
    }
}

/// A limit, as a refusal names it.
fn limit_text(limit: &Limit) -> String {
    match &limit.tenant {
        Some(tenant) => format!("limit {tenant}/{}", limit.name),
        None => format!("limit {}", limit.name),
    }
}
