//! A worker's view of one table: the table, the dimensions of the facts that requests on it are about, and their limits.
//!
//! Dimensions are nine shared names, and limits follow from them. They are the same for every request with the same key, route and model, so
//! they are put together once for each such combination; a request then shares them without touching a counter that
//! another core touches too.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use mode_envoy_limits::{PoolsFull, Slice};
use mode_envoy_model::limit::matching::Subject;
use mode_envoy_model::object::Name;

use super::table::{KeyEntry, ModelEntry, RouteEntry, Table};
use crate::limits::Limiter;
use crate::usage::record::Dims;

/// Combinations remembered; beyond it all are forgotten and made again.
const REMEMBERED_MAX: usize = 16_384;

/// A key, a route and a model, by the addresses of what they come from, which live as long as the table does; 0 where there is
/// none.
type About = (usize, usize, usize);

/// One table, as one worker uses it.
#[derive(Debug)]
pub(crate) struct View {
    table: Arc<Table>,
    limiter: Limiter,
    empty: Rc<Known>,
    remembered: RefCell<HashMap<About, Rc<Known>>>,
}

/// What a request is about.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) dims: Dims,
    /// The limits that it matches, in the order in which they are taken.
    pub(crate) limits: Result<Box<[Arc<Slice>]>, PoolsFull>,
}

// === impl View ===

impl View {
    pub(crate) fn new(table: Arc<Table>, limiter: Limiter) -> Self {
        let empty = Known {
            dims: Dims::empty(),
            limits: Ok(Box::default()),
        };
        Self {
            table,
            limiter,
            empty: Rc::new(empty),
            remembered: RefCell::default(),
        }
    }

    pub(crate) fn table(&self) -> &Arc<Table> {
        &self.table
    }

    /// Nothing is known.
    pub(crate) fn empty(&self) -> Rc<Known> {
        Rc::clone(&self.empty)
    }

    /// A route, with the key that its request carries, if any.
    pub(crate) fn of_route(&self, key: Option<&KeyEntry>, route: &RouteEntry) -> Rc<Known> {
        let about = (key.map_or(0, address), address(route), 0);
        self.of(about, || Dims {
            tenant: Name::clone(route.tenant()),
            route: Name::clone(route.name()),
            ..of_key(key)
        })
    }

    /// A built-in route that concerns no model.
    pub(crate) fn of_builtin(&self, key: &KeyEntry, route: &'static str) -> Rc<Known> {
        let about = (address(key), route.as_ptr().addr(), 0);
        self.of(about, || Dims {
            route: Name::from(route),
            ..of_key(Some(key))
        })
    }

    /// A built-in route and the model that it asks.
    pub(crate) fn of_model(
        &self,
        key: &KeyEntry,
        route: &'static str,
        model: &ModelEntry,
    ) -> Rc<Known> {
        let about = (address(key), route.as_ptr().addr(), address(model));
        self.of(about, || Dims {
            route: Name::from(route),
            model: Name::clone(&model.name),
            provider: Name::clone(&model.provider.name),
            upstream_model: Name::clone(&model.upstream_model),
            ..of_key(Some(key))
        })
    }

    fn of(&self, about: About, make: impl FnOnce() -> Dims) -> Rc<Known> {
        let mut remembered = self.remembered.borrow_mut();
        if let Some(known) = remembered.get(&about) {
            return Rc::clone(known);
        }
        if remembered.len() >= REMEMBERED_MAX {
            remembered.clear();
        }
        let dims = make();
        let limits = self.limits_of(&dims);
        let known = Rc::new(Known { dims, limits });
        remembered.insert(about, Rc::clone(&known));
        known
    }

    fn limits_of(&self, dims: &Dims) -> Result<Box<[Arc<Slice>]>, PoolsFull> {
        let subject = Subject {
            tenant: &dims.tenant,
            team: &dims.team,
            consumer: &dims.consumer,
            key: &dims.key,
            route: &dims.route,
            api: &dims.api,
            model: &dims.model,
        };
        let matched = self.table.limits().matching(&subject);
        let matched = matched.iter();
        matched
            .map(|matched| self.limiter.open(&matched.pool(), matched.limit))
            .collect()
    }
}

fn of_key(key: Option<&KeyEntry>) -> Dims {
    let Some(entry) = key else {
        return Dims::empty();
    };
    Dims {
        tenant: Name::clone(&entry.key.tenant),
        team: Name::clone(&entry.team),
        consumer: Name::clone(&entry.key.consumer),
        key: Name::clone(&entry.key.name),
        ..Dims::empty()
    }
}

fn address<T>(entry: &T) -> usize {
    std::ptr::from_ref(entry).addr()
}
