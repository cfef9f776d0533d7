//! Which limits a request matches, compiled so that it looks at those that can match and not at all there are.
//!
//! Limits lie under their tenant, if they are for one, and there under the most telling name that they fix. A request looks under
//! its own tenant and under none, for each name that it has: in at most fourteen lists. Invariant: [`Matcher::matching`] finds
//! what [`Limit::value_in`] says of each limit alone, in the order of numbers, and leaves nothing out.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::catalog::Catalog;
use crate::ledger::ask::PoolKey;
use crate::limit::{Dimension, Limit, LimitId};
use crate::object::Name;

/// What limits go by, of one request; empty where it has none.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Subject<'a> {
    /// Owner.
    pub tenant: &'a str,
    /// Group.
    pub team: &'a str,
    /// Application.
    pub consumer: &'a str,
    /// Credential, by name.
    pub key: &'a str,
    /// Route.
    pub route: &'a str,
    /// API product.
    pub api: &'a str,
    /// Public model name.
    pub model: &'a str,
}

/// A limit that a request matches.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Matched<'a> {
    /// Its number.
    pub id: LimitId,
    /// The limit.
    pub limit: &'a Arc<Limit>,
    /// The request's value of its `each`, qualified by the tenant where each tenant gives names of its own; empty without
    /// `each`.
    pub value: Name,
}

/// The limits of one catalog, to be asked which of them requests match.
#[derive(Clone, Debug, Default)]
pub struct Matcher {
    any_tenant: Shelf,
    tenants: BTreeMap<Name, Shelf>,
}

/// Limits by the most telling name that they fix beside their tenant.
#[derive(Clone, Debug, Default)]
struct Shelf {
    nothing: List,
    names: BTreeMap<Dimension, BTreeMap<Name, List>>,
}

type List = Vec<(LimitId, Arc<Limit>)>;

/// The most telling first: fewer requests have the same key than the same team.
const BY_TELLING: [Dimension; 6] = [
    Dimension::Key,
    Dimension::Consumer,
    Dimension::Route,
    Dimension::Model,
    Dimension::Api,
    Dimension::Team,
];

// === impl Subject ===

impl<'a> Subject<'a> {
    /// The request's value of one dimension; empty where it has none.
    pub const fn value(&self, dimension: Dimension) -> &'a str {
        match dimension {
            Dimension::Tenant => self.tenant,
            Dimension::Team => self.team,
            Dimension::Consumer => self.consumer,
            Dimension::Key => self.key,
            Dimension::Route => self.route,
            Dimension::Api => self.api,
            Dimension::Model => self.model,
        }
    }
}

// === impl Limit ===

impl Limit {
    /// The value of `each` that a request has, qualified by its tenant where names are a tenant's own; empty where the limit
    /// has no `each`. `None`: the limit does not match the request.
    pub fn value_in(&self, subject: &Subject<'_>) -> Option<Name> {
        let fixed = |dimension| {
            let wanted = self.matches.value(dimension);
            wanted.is_none_or(|name| **name == *subject.value(dimension))
        };
        let own = self.tenant.as_ref();
        if own.is_some_and(|name| **name != *subject.tenant)
            || !Dimension::ALL.into_iter().all(fixed)
        {
            return None;
        }
        let Some(each) = self.each else {
            return Some(Name::default());
        };
        match subject.value(each) {
            "" => None,
            name if each.is_tenants_own() => Some(format!("{}/{name}", subject.tenant).into()),
            name => Some(name.into()),
        }
    }
}

// === impl Matched ===

impl Matched<'_> {
    /// The amount that the request takes from.
    pub fn pool(&self) -> PoolKey {
        PoolKey {
            limit: self.id,
            value: Name::clone(&self.value),
        }
    }
}

// === impl Matcher ===

impl Matcher {
    /// Compiles the limits of a catalog.
    pub fn of(catalog: &Catalog) -> Self {
        let mut matcher = Self::default();
        for (id, limit) in catalog.limits() {
            let shelf = match limit.only_tenant() {
                Some(tenant) => matcher.tenants.entry(Name::clone(tenant)).or_default(),
                None => &mut matcher.any_tenant,
            };
            shelf.list_of(limit).push((id, Arc::clone(limit)));
        }
        matcher
    }

    /// Whether there are no limits at all.
    pub fn is_empty(&self) -> bool {
        self.tenants.is_empty() && self.any_tenant.is_empty()
    }

    /// Every limit that a request matches, in the order of their numbers. Of accepted limits there are at most
    /// [`MATCHED_LIMITS`](crate::limits::MATCHED_LIMITS).
    pub fn matching(&self, subject: &Subject<'_>) -> Vec<Matched<'_>> {
        let mut found = Vec::new();
        let shelves = [Some(&self.any_tenant), self.tenants.get(subject.tenant)];
        for shelf in shelves.into_iter().flatten() {
            let lists = shelf.lists(subject);
            for (id, limit) in lists.flatten() {
                let value = limit.value_in(subject);
                found.extend(value.map(|value| Matched {
                    id: *id,
                    limit,
                    value,
                }));
            }
        }
        found.sort_by_key(|matched| matched.id);
        found
    }
}

// === impl Shelf ===

impl Shelf {
    fn is_empty(&self) -> bool {
        self.nothing.is_empty() && self.names.is_empty()
    }

    /// Where a limit lies.
    fn list_of(&mut self, limit: &Limit) -> &mut List {
        let mut fixed = BY_TELLING.into_iter();
        let found = fixed.find_map(|dimension| Some((dimension, limit.matches.value(dimension)?)));
        match found {
            Some((dimension, name)) => {
                let names = self.names.entry(dimension).or_default();
                names.entry(Name::clone(name)).or_default()
            }
            None => &mut self.nothing,
        }
    }

    /// The lists in which the limits lie that a request can match.
    fn lists(&self, subject: &Subject<'_>) -> impl Iterator<Item = &List> {
        let named = self.names.iter();
        let named = named.filter_map(|(dimension, names)| names.get(subject.value(*dimension)));
        std::iter::once(&self.nothing).chain(named)
    }
}
