//! What nodes say to the ledger, as part of their usage batches: what they spent and gave back, and what they need.

use crate::limit::LimitId;
use crate::object::Name;

/// Number of a lease: one node's share of one pool in one window in one incarnation of that node; never used twice.
pub type LeaseId = u64;

/// One amount that is shared by the cluster: a limit's, or with `each` that of one value.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct PoolKey {
    /// The limit.
    pub limit: LimitId,
    /// The value of the limit's `each`, qualified by its tenant where names are a tenant's own; empty without `each`.
    pub value: Name,
}

/// What became of a lease since the batch before.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct LeaseUse {
    /// The lease.
    pub lease: LeaseId,
    /// Used for good: it counts against the amount.
    pub spent: u64,
    /// Given back, free again for all.
    pub returned: u64,
}

/// Every `need` of an ask is granted, or none is; every `want` is granted as far as the rules allow.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Ask {
    /// One for each pool, in the order of their keys, none twice.
    pub items: Vec<AskItem>,
}

/// What is asked of one pool.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AskItem {
    /// The pool.
    pub pool: PoolKey,
    /// What calls are waiting for; may be 0.
    pub need: u64,
    /// What would be good to have beyond it; may be 0.
    pub want: u64,
    /// What the node used of late, in units a second, rounded up.
    pub demand: u64,
    /// What one call takes at most; at least 1.
    pub typical: u64,
}
