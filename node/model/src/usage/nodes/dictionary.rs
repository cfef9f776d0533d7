//! What a cell of a node is about, and the dictionary that gives each combination a small number.
//!
//! Invariants: a number is never used twice (the entry with the largest one stays even when no cell needs it any
//! more); every other entry is in some cell; the same batches give the same numbers on every replica.
//!
//! Up to the cap (10,000 series) a series keeps every dimension. Beyond it a new one takes the first of these forms
//! that exists already or still has room; a dimension that is empty stays empty:
//!
//! ```text
//! 1  route is __other__: one row per node, tenant and status     up to twice the cap
//! 2  and tenant: one row per node and status                     always
//! ```

use std::sync::Arc;

use imbl::OrdMap;

use crate::limits;
use crate::object::Name;
use crate::usage::query::{Dimension, class_name};
use crate::usage::series::OTHER;

/// The dimensions of a node's cell. Empty where one does not apply.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct NodeKey {
    /// Who served.
    pub node: u64,
    /// Owner.
    pub tenant: Name,
    /// Route.
    pub route: Name,
    /// 1 to 5: the first digit of the status.
    pub status_class: u8,
}

/// One entry of the dictionary.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Entry {
    key: Arc<NodeKey>,
    /// The node as a report shows it.
    node: Name,
    /// How many chunks have a cell of it.
    chunks: u32,
}

/// Gives each combination of dimensions a small number.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct NodeSeries {
    by_key: OrdMap<Arc<NodeKey>, u32>,
    by_id: OrdMap<u32, Entry>,
}

// === impl NodeKey ===

impl NodeKey {
    /// Whether a dimension was folded at the series cap.
    pub fn is_folded(&self) -> bool {
        *self.tenant == *OTHER || *self.route == *OTHER
    }

    fn without_route(&self) -> Self {
        Self {
            route: other(&self.route),
            ..self.clone()
        }
    }

    fn without_tenant_and_route(&self) -> Self {
        Self {
            tenant: other(&self.tenant),
            ..self.without_route()
        }
    }
}

// === impl Entry ===

impl Entry {
    fn new(key: Arc<NodeKey>) -> Self {
        Self {
            node: key.node.to_string().into(),
            key,
            chunks: 0,
        }
    }

    /// What it has for a dimension; empty for one that nodes' cells do not have.
    pub(crate) fn value(&self, dimension: Dimension) -> &str {
        match dimension {
            Dimension::Node => &self.node,
            Dimension::Tenant => &self.key.tenant,
            Dimension::Route => &self.key.route,
            Dimension::Status => class_name(self.key.status_class),
            _ => "",
        }
    }

    pub(crate) fn is_folded(&self) -> bool {
        self.key.is_folded()
    }
}

// === impl NodeSeries ===

impl NodeSeries {
    /// The series with this number.
    pub fn get(&self, id: u32) -> Option<&Arc<NodeKey>> {
        self.by_id.get(&id).map(|entry| &entry.key)
    }

    /// Every series, by number.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Arc<NodeKey>)> {
        self.by_id.iter().map(|(&id, entry)| (id, &entry.key))
    }

    /// How many series there are.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = (u32, &Entry)> {
        self.by_id.iter().map(|(&id, entry)| (id, entry))
    }

    /// The number of this series, or of what it is folded to.
    pub(super) fn intern(&mut self, key: &NodeKey) -> u32 {
        if let Some(&id) = self.by_key.get(key) {
            return id;
        }
        let count = u32::try_from(self.by_id.len()).unwrap_or(u32::MAX);
        let placed = place(key, count, limits::NODE_SERIES, |form| {
            self.by_key.contains_key(form)
        });
        match self.by_key.get(&placed) {
            Some(&id) => id,
            None => self.insert_next(placed),
        }
    }

    /// A chunk has a cell of this series now.
    pub(crate) fn retain(&mut self, id: u32) {
        if let Some(entry) = self.by_id.get_mut(&id) {
            entry.chunks = entry.chunks.saturating_add(1);
        }
    }

    /// A chunk that had a cell of this series is gone.
    pub(super) fn release(&mut self, id: u32) {
        let Some(entry) = self.by_id.get_mut(&id) else {
            return;
        };
        entry.chunks = entry.chunks.saturating_sub(1);
        if self.by_id.get_max().is_some_and(|&(max, _)| max != id) {
            self.remove_unused(id);
        }
    }

    /// Puts an entry of a checkpoint back; `false` if it clashes with one that is there.
    pub(crate) fn restore(&mut self, id: u32, key: Arc<NodeKey>) -> bool {
        if self.by_id.contains_key(&id) || self.by_key.contains_key(&key) {
            return false;
        }
        self.by_key.insert(Arc::clone(&key), id);
        self.by_id.insert(id, Entry::new(key));
        true
    }

    fn insert_next(&mut self, key: NodeKey) -> u32 {
        let last = self.by_id.get_max().map(|&(id, _)| id);
        let Some(id) = last.map_or(Some(0), |id| id.checked_add(1)) else {
            return u32::MAX;
        };
        self.restore(id, Arc::new(key));
        if let Some(last) = last {
            self.remove_unused(last);
        }
        id
    }

    fn remove_unused(&mut self, id: u32) {
        if self.by_id.get(&id).is_some_and(|entry| entry.chunks == 0)
            && let Some(entry) = self.by_id.remove(&id)
        {
            self.by_key.remove(&entry.key);
        }
    }
}

// === free functions ===

/// The form that a new series takes when there are `count` of them.
fn place(key: &NodeKey, count: u32, cap: u32, exists: impl Fn(&NodeKey) -> bool) -> NodeKey {
    if count < cap {
        return key.clone();
    }
    let form = key.without_route();
    if count < cap.saturating_mul(2) || exists(&form) {
        return form;
    }
    key.without_tenant_and_route()
}

fn other(name: &Name) -> Name {
    if name.is_empty() {
        Arc::clone(name)
    } else {
        OTHER.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAP: u32 = 8;

    fn key(tenant: &str, route: &str) -> NodeKey {
        NodeKey {
            node: 7,
            tenant: tenant.into(),
            route: route.into(),
            status_class: 2,
        }
    }

    #[test]
    fn routes_fold_at_the_cap_and_tenants_at_twice_the_cap() {
        let one = key("t", "r");
        for (count, expected) in [
            (0, one.clone()),
            (CAP - 1, one.clone()),
            (CAP, key("t", OTHER)),
            (CAP * 2 - 1, key("t", OTHER)),
            (CAP * 2, key(OTHER, OTHER)),
            (u32::MAX, key(OTHER, OTHER)),
        ] {
            assert_eq!(place(&one, count, CAP, |_| false), expected, "{count}");
        }
        let exists = |form: &NodeKey| *form == key("t", OTHER);
        assert_eq!(place(&one, u32::MAX, CAP, exists), key("t", OTHER));
    }

    #[test]
    fn what_is_empty_stays_empty_and_only_what_lost_something_is_folded() {
        let bare = place(&key("", ""), u32::MAX, CAP, |_| false);
        assert_eq!((bare.clone(), bare.is_folded()), (key("", ""), false));
        let tenant = place(&key("t", ""), CAP, CAP, |_| false);
        assert_eq!((tenant.clone(), tenant.is_folded()), (key("t", ""), false));
        let neither = place(&key("t", ""), u32::MAX, CAP, |_| false);
        assert_eq!(
            (neither.clone(), neither.is_folded()),
            (key(OTHER, ""), true)
        );
    }

    #[test]
    fn a_series_whose_cells_are_gone_is_forgotten_and_its_number_is_not_used_again() {
        let mut series = NodeSeries::default();
        assert_eq!(series.intern(&key("a", "r")), 0);
        series.retain(0);
        assert_eq!(series.intern(&key("b", "r")), 1);
        series.retain(1);
        series.release(1);
        series.release(0);
        assert_eq!(series.iter().map(|(id, _)| id).collect::<Vec<_>>(), [1]);
        assert_eq!(series.intern(&key("a", "r")), 2);
        assert_eq!((series.get(1), series.len()), (None, 1));
    }
}
