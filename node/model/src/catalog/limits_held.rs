//! The limits of a catalog, by place and by number.
//!
//! Invariants: a number belongs to one limit at most, and none is given twice, also not after its limit is gone; so a lease of
//! an old limit is never one of a new limit. What says otherwise is void.

use std::sync::Arc;

use imbl::OrdMap;

use crate::catalog::{Catalog, Record, Versioned};
use crate::limit::{Limit, LimitId};
use crate::object::Name;

/// A limit and its number.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Held {
    pub(super) id: LimitId,
    pub(super) limit: Versioned<Limit>,
}

/// Owner, empty for the operator, and name.
type Place = (Name, Name);

/// Every limit.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct LimitsHeld {
    by_place: OrdMap<Place, Held>,
    by_id: OrdMap<LimitId, Place>,
    last_id: LimitId,
}

// === impl Held ===

impl Held {
    pub(super) fn record(&self) -> (u64, Record) {
        let record = Record::Limit(self.id, Arc::clone(&self.limit.value));
        (self.limit.revision, record)
    }
}

// === impl LimitsHeld ===

impl LimitsHeld {
    pub(super) fn get(&self, tenant: &str, name: &str) -> Option<&Held> {
        self.by_place.get(&(Name::from(tenant), Name::from(name)))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Place, &Held)> {
        self.by_place.iter()
    }

    pub(super) fn len(&self) -> usize {
        self.by_place.len()
    }

    pub(super) const fn last_id(&self) -> LimitId {
        self.last_id
    }

    /// The number that a limit is put with: its own where what was used still counts, else one after `last`.
    pub(super) fn id_for(&self, limit: &Limit, last: &mut LimitId) -> LimitId {
        let stored = self
            .by_place
            .get(&place(limit.tenant.as_ref(), &limit.name));
        match stored {
            Some(held) if held.limit.value.counts_as(limit) => held.id,
            _ => {
                *last = last.saturating_add(1);
                *last
            }
        }
    }

    pub(super) fn put(&mut self, id: LimitId, limit: Versioned<Limit>) {
        let at = place(limit.value.tenant.as_ref(), &limit.value.name);
        if self.by_id.get(&id).is_some_and(|owner| *owner != at) {
            return;
        }
        if let Some(old) = self.by_place.insert(at.clone(), Held { id, limit }) {
            self.by_id.remove(&old.id);
        }
        self.by_id.insert(id, at);
        self.last_id = self.last_id.max(id);
    }

    pub(super) fn remove(&mut self, tenant: Option<&Name>, name: &Name) {
        if let Some(old) = self.by_place.remove(&place(tenant, name)) {
            self.by_id.remove(&old.id);
        }
    }
}

// === impl Catalog ===

impl Catalog {
    /// One limit; without a tenant, the operator's of that name.
    pub fn limit(&self, tenant: Option<&str>, name: &str) -> Option<(LimitId, &Arc<Limit>)> {
        let held = self.limits.get(tenant.unwrap_or_default(), name)?;
        Some((held.id, &held.limit.value))
    }

    /// One limit, by its number.
    pub fn limit_by_id(&self, id: LimitId) -> Option<&Arc<Limit>> {
        let held = self.limits.by_place.get(self.limits.by_id.get(&id)?)?;
        Some(&held.limit.value)
    }

    /// Every limit with its number: the operator's by name, then those of tenants by tenant and name.
    pub fn limits(&self) -> impl Iterator<Item = (LimitId, &Arc<Limit>)> {
        let all = self.limits.iter();
        all.map(|(_, held)| (held.id, &held.limit.value))
    }

    /// The largest number that a limit was ever given; 0 before the first.
    pub const fn last_limit_id(&self) -> LimitId {
        self.limits.last_id()
    }

    /// With numbers up to this one given, as a checkpoint says it.
    #[must_use]
    pub fn with_last_limit_id(mut self, last: LimitId) -> Self {
        self.limits.last_id = self.limits.last_id.max(last);
        self
    }
}

fn place(tenant: Option<&Name>, name: &Name) -> Place {
    (tenant.cloned().unwrap_or_default(), Name::clone(name))
}
