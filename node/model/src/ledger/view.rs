//! A pool as one node sees it after an entry was applied: all that the node's side of a limit works from.

use std::sync::Arc;

use super::Ledger;
use super::ask::{LeaseId, PoolKey};
use super::pool::Pool;
use super::window::Lease;
use crate::limit::Limit;

/// One pool, and a node's own lease of it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PoolView {
    /// Which pool.
    pub key: PoolKey,
    /// Its limit.
    pub limit: Arc<Limit>,
    /// When its window began, Unix milliseconds; 0 where it has none (total, buckets, concurrent calls).
    pub window: u64,
    /// When its window ends.
    pub ends_ms: Option<u64>,
    /// The amount of the window; for a bucket, what it holds at most.
    pub cap: u64,
    /// What nobody has; below 0 where the amount was lowered.
    pub free: i64,
    /// What other nodes hold.
    pub elsewhere: u64,
    /// So little is left that every call asks for itself.
    pub central: bool,
    /// Counts how often the nodes were told to give back what they hold; what is newer than a node has seen is meant for it.
    pub recalls: u64,
    /// Counts what may make a refusal untrue: units that came back, another amount, another window.
    pub epoch: u64,
    /// The node's own lease in this window.
    pub lease: Option<LeaseView>,
}

/// A node's lease; all its counts only grow.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct LeaseView {
    /// Which lease.
    pub id: LeaseId,
    /// What was granted.
    pub granted: u64,
    /// What was given back, as far as it is applied.
    pub returned: u64,
    /// What is used for good, as far as it is applied.
    pub settled: u64,
}

// === impl Ledger ===

impl Ledger {
    /// A pool as an incarnation of a node sees it, whether anybody asked for it before or not; nothing where its limit is not
    /// in force, or does not go through the log.
    pub fn view(&self, key: &PoolKey, node: u64, incarnation: u64) -> Option<PoolView> {
        let limit = self.limit_of(key)?;
        let Some(pool) = self.pools.get(key) else {
            let pool = Pool::new(0, self.terms(&limit), self.now.wall_ms);
            return Some(view_of(key, &pool, pool.window.free, None, limit));
        };
        let (free, _) = pool.filled(&limit, self.now.clock_ms);
        let own = pool.window.lease_of(node, incarnation);
        let elsewhere = pool.window.elsewhere(node, incarnation);
        let view = view_of(key, pool, free, own, limit);
        Some(PoolView { elsewhere, ..view })
    }
}

fn view_of(
    key: &PoolKey,
    pool: &Pool,
    free: i64,
    own: Option<&Lease>,
    limit: Arc<Limit>,
) -> PoolView {
    PoolView {
        key: key.clone(),
        limit,
        window: pool.window.start,
        ends_ms: pool.window.ends,
        cap: pool.cap,
        free,
        elsewhere: 0,
        central: pool.central,
        recalls: pool.recalls,
        epoch: pool.epoch,
        lease: own.map(|lease| LeaseView {
            id: lease.id,
            granted: lease.granted,
            returned: lease.returned,
            settled: lease.settled,
        }),
    }
}
