//! Put and replace: creates or replaces objects and deletes others, all or none.
//!
//! The list is tried on a draft, a copy of the catalog; what objects refer to is looked up there, so references may
//! point within the list in any order.

use std::collections::BTreeSet;

use crate::catalog::Catalog;
use crate::catalog::decide::{deleted, deletion, token_change};
use crate::catalog::faults::{Faults, refuse};
use crate::command::{Change, ChangeKind, Decision, Rejected, RejectedCode, Violation};
use crate::event::Event;
use crate::limits;
use crate::object::{Kind, Name, Object, ObjectRef};
use crate::provider::Provider;

// === impl Catalog ===

impl Catalog {
    pub(super) fn decide_put(
        &self,
        objects: &[Object],
        dry_run: bool,
    ) -> Result<Decision, Rejected> {
        self.decide_replace(objects, &[], dry_run)
    }

    /// Puts objects and deletes others, which are not among them.
    pub(super) fn decide_replace(
        &self,
        objects: &[Object],
        delete: &[ObjectRef],
        dry_run: bool,
    ) -> Result<Decision, Rejected> {
        check_size(objects.len() + delete.len())?;
        let mut objects: Vec<Object> = objects
            .iter()
            .map(|o| self.with_stored_secrets(o))
            .collect();
        objects.sort_by_key(|object| object.reference().kind);
        let mut changes: Vec<Change> = objects
            .iter()
            .map(|object| self.change_by(object))
            .collect();
        let changed: Vec<&Object> = objects
            .iter()
            .zip(&changes)
            .filter(|(_, change)| change.what != ChangeKind::Unchanged)
            .map(|(object, _)| object)
            .collect();
        let mut events = self.put_events(&changed);
        let delete = self.in_order_of_deletion(delete);

        let mut faults = Faults::default();
        check_distinct(&objects, &mut faults);
        let mut draft = self.clone();
        for (object, event) in changed.iter().zip(&events) {
            faults.add_all(RejectedCode::Invalid, object.validate());
            draft.evolve(event);
        }
        for at in &delete {
            events.push(deleted(at));
            draft.evolve(&deleted(at));
        }
        let tokens: Vec<_> = delete.iter().flat_map(|at| self.tokens_of(at)).collect();
        for token in &tokens {
            let revoked = Event::TokenRevoked(Name::clone(token));
            draft.evolve(&revoked);
            events.push(revoked);
        }
        for at in &delete {
            if let Some(problem) = draft.in_use(at) {
                let path = at.path();
                faults.add(RejectedCode::InUse, Violation { path, problem });
            }
        }
        for object in &changed {
            self.check_generation(object, &mut faults);
            draft.check_references(object, &mut faults);
        }
        draft.check_routing(&changed, &mut faults);
        draft.check_hosts(&changed, &mut faults);
        draft.check_matched(&changed, &mut faults);
        draft.check_counts(&mut faults);
        faults.done()?;
        // What is deleted may take tokens along.
        check_size(events.len())?;
        changes.extend(delete.iter().map(deletion));
        changes.extend(tokens.iter().map(|t| token_change(t, ChangeKind::Deleted)));
        Ok(Decision {
            events: if dry_run { Vec::new() } else { events },
            changes,
        })
    }

    /// Those that are there, so that what refers to another one goes before it.
    fn in_order_of_deletion(&self, delete: &[ObjectRef]) -> Vec<ObjectRef> {
        let there = delete.iter().filter(|at| self.has(at)).cloned();
        let mut there: Vec<ObjectRef> = there.collect();
        there.sort_by(|a, b| b.kind.cmp(&a.kind).then_with(|| a.cmp(b)));
        there
    }

    /// What putting an object would do to it.
    fn change_by(&self, object: &Object) -> Change {
        let at = object.reference();
        let what = match self.object(&at) {
            Some((_, stored)) if stored == *object => ChangeKind::Unchanged,
            Some(_) => ChangeKind::Updated,
            None => ChangeKind::Created,
        };
        Change {
            kind: at.kind.singular(),
            tenant: at.tenant,
            name: at.name,
            what,
        }
    }

    /// A provider's secrets, as they are stored where the cluster knows them: the same secret is encrypted to other
    /// bytes each time, and a secret that is only referred to comes without any.
    fn with_stored_secrets(&self, object: &Object) -> Object {
        let Object::Provider(provider) = object else {
            return object.clone();
        };
        let Some(stored) = self.provider(&provider.name) else {
            return object.clone();
        };
        let stored = &stored.value.keys;
        let keys = provider.keys.iter().map(|key| {
            stored
                .iter()
                .find(|s| s.fingerprint == key.fingerprint)
                .unwrap_or(key)
                .clone()
        });
        Object::Provider(Provider {
            keys: keys.collect(),
            ..provider.clone()
        })
    }

    /// What puts these objects; a limit that is new, or under which what was used does not count, gets a number.
    fn put_events(&self, objects: &[&Object]) -> Vec<Event> {
        let mut last = self.limits.last_id();
        let event = |object: &&Object| match object {
            Object::Tenant(o) => Event::TenantPut(o.clone()),
            Object::Consumer(o) => Event::ConsumerPut(o.clone()),
            Object::Provider(o) => Event::ProviderPut(o.clone()),
            Object::Model(o) => Event::ModelPut(o.clone()),
            Object::Service(o) => Event::ServicePut(o.clone()),
            Object::Route(o) => Event::RoutePut(o.clone()),
            Object::Limit(o) => Event::LimitPut {
                id: self.limits.id_for(o, &mut last),
                limit: o.clone(),
            },
        };
        objects.iter().map(event).collect()
    }

    fn check_counts(&self, faults: &mut Faults) {
        let counts = [
            (Kind::Tenant, self.tenants.len(), limits::TENANTS),
            (Kind::Consumer, self.consumers.len(), limits::CONSUMERS),
            (Kind::Provider, self.providers.len(), limits::PROVIDERS),
            (Kind::Model, self.models.len(), limits::MODELS),
            (Kind::Service, self.services.len(), limits::SERVICES),
            (Kind::Route, self.routes.len(), limits::ROUTES),
            (Kind::Limit, self.limits.len(), limits::LIMITS),
        ];
        for (kind, count, limit) in counts {
            if count > limit {
                let path = kind.plural().to_owned();
                let problem =
                    format!("there would be {count}, and a cluster holds {limit} at most");
                faults.add(RejectedCode::Limit, Violation { path, problem });
            }
        }
    }
}

fn check_size(objects: usize) -> Result<(), Rejected> {
    if objects <= limits::PUT_OBJECTS {
        return Ok(());
    }
    let problem = format!(
        "there are {objects} objects, and at most {} go in one request; send them in parts",
        limits::PUT_OBJECTS
    );
    Err(refuse(RejectedCode::Limit, "objects", problem))
}

fn check_distinct(objects: &[Object], faults: &mut Faults) {
    let mut seen = BTreeSet::new();
    for at in objects.iter().map(Object::reference) {
        let path = at.path();
        if !seen.insert(at) {
            let problem = "it is there twice; keep one".to_owned();
            faults.add(RejectedCode::Invalid, Violation { path, problem });
        }
    }
}
