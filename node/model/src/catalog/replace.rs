//! Changes that delete as well as put: `apply --prune` and `rollback`, each decided as one change set.
//!
//! Both touch declarative objects only. Keys, tokens and what was revoked are no objects of this kind, so no path leads
//! back to them; a provider's keys stay the ones that are stored now, and where none are stored they are asked for.

use std::collections::BTreeSet;

use crate::catalog::Catalog;
use crate::catalog::faults::{Faults, refuse};
use crate::command::{Decision, Rejected, RejectedCode, Violation};
use crate::object::{Kind, Name, Object, ObjectRef};
use crate::provider::Provider;
use crate::url::BaseUrl;

/// A prune that deletes more than one in this many objects asks for a confirmation.
const PRUNED_AT_MOST_ONE_IN: usize = 5;

/// What `apply --prune` would delete.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Prunable {
    /// Objects beside those of the document, of its kinds and tenants.
    pub beside: Vec<ObjectRef>,
    /// How many objects there are of its kinds and tenants, before the change.
    pub of: usize,
}

/// What makes the declarative objects of a catalog those of another one.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct WayBack {
    /// To put.
    pub put: Vec<Object>,
    /// To delete.
    pub delete: Vec<ObjectRef>,
}

// === impl Catalog ===

impl Catalog {
    /// Where every declarative object of a kind is.
    pub fn references(&self, kind: Kind) -> Vec<ObjectRef> {
        let global = |name: &Name| ObjectRef {
            kind,
            tenant: None,
            name: Name::clone(name),
        };
        let owned = |(tenant, name): &(Name, Name)| ObjectRef {
            kind,
            tenant: Some(Name::clone(tenant)),
            name: Name::clone(name),
        };
        match kind {
            Kind::Tenant => self.tenants.keys().map(global).collect(),
            Kind::Consumer => self.consumers.keys().map(owned).collect(),
            Kind::Provider => self.providers.keys().map(global).collect(),
            Kind::Model => self.models.keys().map(global).collect(),
            Kind::Service => self.services.keys().map(global).collect(),
            Kind::Route => self.routes.keys().map(owned).collect(),
            Kind::Limit => {
                let places = self.limits.iter().map(|(place, _)| place);
                let at = |(tenant, name): &(Name, Name)| ObjectRef {
                    kind,
                    tenant: (!tenant.is_empty()).then(|| Name::clone(tenant)),
                    name: Name::clone(name),
                };
                places.map(at).collect()
            }
        }
    }

    /// Whether there is a declarative object.
    pub fn has(&self, at: &ObjectRef) -> bool {
        let name = &*at.name;
        let owner = at.tenant.as_deref().unwrap_or_default();
        match at.kind {
            Kind::Tenant => self.tenant(name).is_some(),
            Kind::Consumer => self.consumer(owner, name).is_some(),
            Kind::Provider => self.provider(name).is_some(),
            Kind::Model => self.model(name).is_some(),
            Kind::Service => self.service(name).is_some(),
            Kind::Route => self.route(owner, name).is_some(),
            Kind::Limit => self.limits.get(owner, name).is_some(),
        }
    }

    /// What is there beside these objects, of their kinds and tenants. A tenant itself is never among it: what the
    /// objects do not name is not theirs to delete. The operator's own limits are, where the objects have one.
    pub fn prunable(&self, objects: &[Object]) -> Prunable {
        let kept: BTreeSet<ObjectRef> = objects.iter().map(Object::reference).collect();
        let kinds: BTreeSet<Kind> = kept.iter().map(|at| at.kind).collect();
        let tenants: BTreeSet<&Name> = kept
            .iter()
            .filter_map(|at| match at.kind {
                Kind::Tenant => Some(&at.name),
                _ => at.tenant.as_ref(),
            })
            .collect();
        let operators = |at: &ObjectRef| at.kind == Kind::Limit && at.tenant.is_none();
        let has_operators = kept.iter().any(operators);
        let mut found = Prunable::default();
        for kind in kinds.into_iter().filter(|kind| *kind != Kind::Tenant) {
            for at in self.references(kind) {
                let elsewhere = match &at.tenant {
                    Some(tenant) => !tenants.contains(tenant),
                    None => operators(&at) && !has_operators,
                };
                if elsewhere {
                    continue;
                }
                found.of += 1;
                if !kept.contains(&at) {
                    found.beside.push(at);
                }
            }
        }
        found
    }

    /// The same, for a token of `tenant`: the operator's limits, which it may name as they are, are never beside its own.
    pub fn prunable_within(&self, tenant: Option<&str>, objects: &[Object]) -> Prunable {
        match tenant {
            Some(_) => self.prunable(&without_operators(objects)),
            None => self.prunable(objects),
        }
    }

    /// What makes the declarative objects of this catalog those of `old`, an earlier one.
    ///
    /// # Errors
    /// Each provider whose keys would have to come back, since those never move back.
    pub fn way_back(&self, old: &Self) -> Result<WayBack, Rejected> {
        let mut back = WayBack::default();
        let mut faults = Faults::default();
        for kind in Kind::ALL {
            for (_, object) in old.objects(kind) {
                let at = object.reference();
                let object = match object {
                    Object::Provider(provider) => self.with_keys_of_now(provider, &mut faults),
                    other => other,
                };
                if self.object(&at).is_none_or(|(_, now)| now != object) {
                    back.put.push(object);
                }
            }
            let gone = self.references(kind).into_iter();
            back.delete.extend(gone.filter(|at| !old.has(at)));
        }
        faults.done()?;
        Ok(back)
    }

    pub(super) fn decide_prune(
        &self,
        objects: &[Object],
        confirmed: bool,
        dry_run: bool,
    ) -> Result<Decision, Rejected> {
        let found = self.prunable(objects);
        let (deleted, of) = (found.beside.len(), found.of);
        if !confirmed && !dry_run && deleted * PRUNED_AT_MOST_ONE_IN > of {
            let problem = format!(
                "{deleted} of {of} objects would be deleted, more than 20 %; see which with `diff --prune`, and add \
                 `--yes` if that is what you want"
            );
            return Err(refuse(RejectedCode::Invalid, "prune", problem));
        }
        self.decide_replace(objects, &found.beside, dry_run)
    }

    pub(super) fn decide_rollback(
        &self,
        base_revision: u64,
        back: &WayBack,
        dry_run: bool,
    ) -> Result<Decision, Rejected> {
        if base_revision != self.revision {
            let problem = format!(
                "the configuration went from revision {base_revision} to {} meanwhile; try again",
                self.revision
            );
            return Err(refuse(RejectedCode::Conflict, "revision", problem));
        }
        self.decide_replace(&back.put, &back.delete, dry_run)
    }

    /// A provider as it was, with the keys that are stored for it now.
    fn with_keys_of_now(&self, old: Provider, faults: &mut Faults) -> Object {
        if old.keys.is_empty() {
            return Object::Provider(old);
        }
        let now = self.provider(&old.name).map(|now| &now.value);
        let moved = now.is_some_and(|now| place(now) != place(&old));
        if moved {
            let problem = "it is at another address now, with keys for that one, which a rollback would send to the old \
                           one; apply it as it was, with its keys, then roll back"
                .to_owned();
            let path = format!("providers[{}].base_url", old.name);
            faults.add(RejectedCode::InUse, Violation { path, problem });
        }
        let keys = now.map(|now| now.keys.clone()).unwrap_or_default();
        if keys.is_empty() {
            let problem = "it had keys, which are not stored any more and never come back by a rollback; apply it with \
                           its keys first, then roll back"
                .to_owned();
            let path = format!("providers[{}].keys", old.name);
            faults.add(RejectedCode::NotFound, Violation { path, problem });
        }
        Object::Provider(Provider { keys, ..old })
    }
}

/// The objects that are not the operator's limits.
pub(super) fn without_operators(objects: &[Object]) -> Vec<Object> {
    let operators = |o: &&Object| matches!(o, Object::Limit(limit) if limit.tenant.is_none());
    objects.iter().filter(|o| !operators(o)).cloned().collect()
}

/// To whom a provider's keys are sent.
fn place(provider: &Provider) -> Option<(bool, String)> {
    let url = BaseUrl::parse(&provider.base_url).ok()?;
    Some((url.tls, url.authority()))
}
