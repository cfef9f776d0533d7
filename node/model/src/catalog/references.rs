//! Which objects refer to which: what a put object needs, and what a deletion would leave dangling.

use crate::catalog::Catalog;
use crate::catalog::faults::Faults;
use crate::command::{RejectedCode, Violation};
use crate::model::{AccessEntry, Model};
use crate::object::{Kind, Object, ObjectRef};

/// Users that a refusal names; what is beyond is only counted.
const NAMED_USERS: usize = 3;

// === impl Catalog ===

impl Catalog {
    /// Adds a fault for everything an object refers to that is not there.
    pub(super) fn check_references(&self, object: &Object, faults: &mut Faults) {
        for (field, missing) in self.missing_references(object) {
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
            Kind::Model | Kind::Route => {}
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
