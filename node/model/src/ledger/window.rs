//! The books of one pool in one window: what is free, and every node's lease.
//!
//! Every change here moves units from one place to another, so that [`Window::balances`] stays true. `issued` changes in three
//! cases only: the amount is changed, a bucket fills, or what comes back to a bucket goes.

use super::ask::{LeaseId, PoolKey};

/// More than any amount that goes through the books: what a count may grow to.
pub const MOST: u64 = i64::MAX as u64 / 4;

/// One pool in one window.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Window {
    /// Unique.
    pub number: u64,
    /// When it began, Unix milliseconds; 0 where it has no end.
    pub start: u64,
    /// When it ends.
    pub ends: Option<u64>,
    /// What the rest adds up to.
    pub issued: u64,
    /// What nobody has; below 0 where the amount was lowered, or where nodes that were cut off used more than they had.
    pub free: i64,
    /// Used for good.
    pub settled: u64,
    /// Lost with a node: it may have been used.
    pub burned: u64,
    /// By their ids.
    pub leases: Vec<Lease>,
}

/// A node's share; all its counts only grow.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Lease {
    /// Which lease.
    pub id: LeaseId,
    /// Whose.
    pub node: u64,
    /// Of which of its lives.
    pub incarnation: u64,
    /// What was granted, and what was used beyond it.
    pub granted: u64,
    /// What was given back.
    pub returned: u64,
    /// What is used for good.
    pub settled: u64,
    /// The part of `granted` that was used before it was granted.
    pub owed: u64,
}

/// A window that is over.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Over {
    /// Whose.
    pub pool: PoolKey,
    /// The books.
    pub window: Window,
    /// When what is outstanding is burned; Unix milliseconds.
    pub burns_ms: u64,
}

// === impl Lease ===

impl Lease {
    /// What the node has, or has used and not yet told.
    pub const fn outstanding(&self) -> u64 {
        self.granted
            .saturating_sub(self.returned)
            .saturating_sub(self.settled)
    }
}

// === impl Window ===

impl Window {
    /// With everything free.
    pub(super) const fn new(number: u64, (start, ends): (u64, Option<u64>), issued: u64) -> Self {
        Self {
            number,
            start,
            ends,
            issued,
            free: issued.cast_signed(),
            settled: 0,
            burned: 0,
            leases: Vec::new(),
        }
    }

    /// Whether the books balance.
    pub fn balances(&self) -> bool {
        let all = i128::from(self.free)
            + i128::from(self.settled)
            + i128::from(self.burned)
            + i128::from(self.outstanding());
        let sound = |lease: &Lease| {
            lease
                .returned
                .checked_add(lease.settled)
                .is_some_and(|gone| gone <= lease.granted)
        };
        all == i128::from(self.issued) && self.leases.iter().all(sound)
    }

    /// What all nodes have.
    pub fn outstanding(&self) -> u64 {
        let all = self.leases.iter().map(Lease::outstanding);
        all.fold(0, u64::saturating_add)
    }

    /// What an amount of it is left: free, or still with a node.
    pub fn left(&self) -> i128 {
        i128::from(self.free) + i128::from(self.outstanding())
    }

    /// One lease.
    pub fn lease(&self, id: LeaseId) -> Option<&Lease> {
        let at = self.position(id)?;
        self.leases.get(at)
    }

    /// The lease of an incarnation.
    pub fn lease_of(&self, node: u64, incarnation: u64) -> Option<&Lease> {
        let mut leases = self.leases.iter();
        leases.find(|lease| (lease.node, lease.incarnation) == (node, incarnation))
    }

    /// What others than this incarnation have.
    pub fn elsewhere(&self, node: u64, incarnation: u64) -> u64 {
        let others = self.leases.iter();
        let others = others.filter(|lease| (lease.node, lease.incarnation) != (node, incarnation));
        others.map(Lease::outstanding).fold(0, u64::saturating_add)
    }

    /// Units move from `free` to a lease, which must be there.
    pub(super) fn take(&mut self, id: LeaseId, units: u64) {
        if let Some(lease) = self.lease_mut(id) {
            lease.granted = lease.granted.saturating_add(units);
            self.free = self.free.saturating_sub_unsigned(units);
        }
    }

    /// Units of a lease are used for good. What is used beyond it is granted now: it is owed by all.
    pub(super) fn spend(&mut self, id: LeaseId, units: u64) {
        let Some(lease) = self.lease_mut(id) else {
            return;
        };
        let owed = units.saturating_sub(lease.outstanding());
        lease.owed = lease.owed.saturating_add(owed);
        lease.granted = lease.granted.saturating_add(owed);
        lease.settled = lease.settled.saturating_add(units);
        self.free = self.free.saturating_sub_unsigned(owed);
        self.settled = self.settled.saturating_add(units);
    }

    /// Units of a lease come back, to be used by others or to be gone.
    pub(super) fn give_back(&mut self, id: LeaseId, units: u64, useful: bool) {
        let Some(lease) = self.lease_mut(id) else {
            return;
        };
        lease.returned = lease.returned.saturating_add(units);
        self.take_in(units, useful);
    }

    /// A lease ends and what is left of it comes back; how much.
    pub(super) fn finish(&mut self, id: LeaseId, useful: bool) -> u64 {
        let left = self.remove(id);
        self.take_in(left, useful);
        left
    }

    /// A lease ends, and what is left of it counts as used.
    pub(super) fn burn(&mut self, id: LeaseId) {
        let left = self.remove(id);
        self.burned = self.burned.saturating_add(left);
    }

    fn take_in(&mut self, units: u64, useful: bool) {
        if useful {
            self.free = self.free.saturating_add_unsigned(units);
        } else {
            self.issued = self.issued.saturating_sub(units);
        }
    }

    fn remove(&mut self, id: LeaseId) -> u64 {
        let at = self.position(id);
        at.map_or(0, |at| self.leases.remove(at).outstanding())
    }

    fn lease_mut(&mut self, id: LeaseId) -> Option<&mut Lease> {
        let at = self.position(id)?;
        self.leases.get_mut(at)
    }

    fn position(&self, id: LeaseId) -> Option<usize> {
        self.leases.binary_search_by_key(&id, |lease| lease.id).ok()
    }
}
