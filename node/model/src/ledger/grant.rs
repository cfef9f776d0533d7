//! What a node gets for what it asks: all or nothing of what calls wait for, then a share by demand of what is left.
//!
//! Invariant: nothing is granted that is not free. Only the current incarnation of a node that belongs to the cluster gets anything.

use std::sync::Arc;

use super::ask::{Ask, AskItem, PoolKey};
use super::pool::{Demand, Pool, Terms};
use super::rules::is_bucket;
use super::window::{Lease, MOST};
use super::{Home, Ledger};
use crate::limit::Limit;
use crate::limits;

// === impl Ledger ===

impl Ledger {
    /// Grants what an incarnation asks for, as far as the rules allow.
    pub(crate) fn grant_all(&mut self, node: u64, incarnation: u64, asks: &[Ask]) {
        if self.index.current.get(&node) != Some(&incarnation) {
            return;
        }
        for ask in asks {
            self.grant_ask(node, ask);
        }
    }

    fn grant_ask(&mut self, node: u64, ask: &Ask) {
        let known: Vec<(&AskItem, Arc<Limit>)> = ask
            .items
            .iter()
            .filter_map(|item| Some((item, self.limit_of(&item.pool)?)))
            .collect();
        for (item, limit) in &known {
            self.hear(node, item, limit);
        }
        let short = |ledger: &Self, item: &AskItem| {
            item.need > 0 && !ledger.has(&item.pool, node, item.need)
        };
        // Each may need a lease of its own.
        let room = self.index.homes.len() + known.len() <= limits::LEASES;
        let enough = room && !known.iter().any(|(item, _)| short(self, item));
        for (item, limit) in &known {
            if enough {
                self.grant(&item.pool, node, item.need);
            } else if short(self, item) {
                self.recall_from_others(&item.pool, node, limit);
                continue;
            }
            self.grant_share(&item.pool, node, item.want, limit);
        }
        for (item, limit) in &known {
            self.look_at_rest(&item.pool, limit);
        }
    }

    /// The limit of a pool that goes through the log; a value belongs to a limit with `each`, and to no other.
    pub(super) fn limit_of(&self, key: &PoolKey) -> Option<Arc<Limit>> {
        let limit = self.limits.get(&key.limit)?;
        (limit.each.is_some() != key.value.is_empty()).then(|| Arc::clone(limit))
    }

    /// Opens the pool if need be, lets it fill, and notes who needs how much of it.
    fn hear(&mut self, node: u64, item: &AskItem, limit: &Limit) {
        let (nodes, now, rules) = (self.nodes(), self.now, self.rules);
        let terms = Terms {
            limit,
            rules: &rules,
            clock_ms: now.clock_ms,
            nodes,
        };
        if !self.pools.contains_key(&item.pool) {
            if self.pools.len() >= limits::POOLS {
                return;
            }
            let pool = Pool::new(self.count_up(), terms, now.wall_ms);
            self.insert_pool(item.pool.clone(), pool);
        }
        if let Some(pool) = self.pool_mut(&item.pool) {
            pool.fill_up(limit, now.clock_ms);
            pool.note(Demand {
                node,
                rate: item.demand,
                typical: item.typical,
                seen_ms: now.clock_ms,
            });
        }
    }

    /// Whether a node can be given so much.
    fn has(&self, key: &PoolKey, node: u64, units: u64) -> bool {
        let (Some(pool), Some(incarnation)) = (self.pools.get(key), self.index.current.get(&node))
        else {
            return false;
        };
        if self.is_fenced(node, *incarnation) {
            return false;
        }
        let room = match pool.window.lease_of(node, *incarnation) {
            Some(lease) => lease.granted.saturating_add(units) <= MOST,
            None => {
                pool.window.leases.len() < limits::POOL_LEASES
                    && self.index.homes.len() < limits::LEASES
            }
        };
        room && i128::from(pool.window.free) >= i128::from(units)
    }

    /// Moves units from `free` to a node's lease, or does nothing where they are not there.
    pub(super) fn grant(&mut self, key: &PoolKey, node: u64, units: u64) {
        if units == 0 || !self.has(key, node, units) {
            return;
        }
        let Some(incarnation) = self.index.current.get(&node).copied() else {
            return;
        };
        let id = self.last_lease.saturating_add(1);
        let Some(pool) = self.pool_mut(key) else {
            return;
        };
        let number = pool.window.number;
        if let Some(lease) = pool.window.lease_of(node, incarnation) {
            let id = lease.id;
            pool.window.take(id, units);
        } else {
            pool.window.leases.push(Lease {
                id,
                node,
                incarnation,
                ..Lease::default()
            });
            pool.window.take(id, units);
            self.last_lease = id;
            self.remember_lease(id, (node, incarnation), key, number);
        }
        self.touch(key);
    }

    fn remember_lease(
        &mut self,
        id: u64,
        (node, incarnation): (u64, u64),
        pool: &PoolKey,
        window: u64,
    ) {
        let home = Home {
            pool: pool.clone(),
            window,
            node,
            incarnation,
        };
        self.index.homes.insert(id, home);
        self.index.of_node.insert((node, incarnation, id));
    }

    fn grant_share(&mut self, key: &PoolKey, node: u64, want: u64, limit: &Limit) {
        let share = match self.pools.get(key) {
            Some(pool) if want > 0 && !pool.central => pool.share(node, self.terms(limit)),
            _ => 0,
        };
        self.grant(key, node, want.min(share));
    }

    /// Nodes give back what they hold, if others than this one hold anything: somebody needs it.
    fn recall_from_others(&mut self, key: &PoolKey, node: u64, limit: &Limit) {
        let incarnation = self.index.current.get(&node).copied().unwrap_or_default();
        let pool = self.pools.get(key);
        if pool.is_some_and(|pool| pool.window.elsewhere(node, incarnation) > 0) {
            self.recall(key, limit);
        }
    }

    /// Tells every node to give back what it holds; not again within a moment. What a bucket gave out does not come back to it.
    pub(super) fn recall(&mut self, key: &PoolKey, limit: &Limit) {
        let (clock_ms, pause) = (self.now.clock_ms, self.rules.recall_ms);
        let told = self.pools.get(key).and_then(|pool| pool.recalled_ms);
        let just_told = told.is_some_and(|told| clock_ms.saturating_sub(told) < pause);
        if just_told || is_bucket(limit) {
            return;
        }
        let recalls = self.count_up();
        if let Some(pool) = self.pool_mut(key) {
            pool.recalls = recalls;
            pool.recalled_ms = Some(clock_ms);
            self.touch(key);
        }
    }

    /// Sees whether every call has to ask for itself from now on.
    pub(super) fn look_at_rest(&mut self, key: &PoolKey, limit: &Limit) {
        let Some(pool) = self.pools.get(key) else {
            return;
        };
        let central = pool.should_be_central(self.terms(limit));
        if central == pool.central {
            return;
        }
        let held = pool.window.outstanding() > 0;
        if let Some(pool) = self.pool_mut(key) {
            pool.central = central;
        }
        self.touch(key);
        if central && held {
            self.recall(key, limit);
        }
    }

    pub(super) fn terms<'a>(&'a self, limit: &'a Limit) -> Terms<'a> {
        Terms {
            limit,
            rules: &self.rules,
            clock_ms: self.now.clock_ms,
            nodes: self.nodes(),
        }
    }
}
