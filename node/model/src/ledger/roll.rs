//! Time: windows end and begin, what nobody told in time is burned, idle pools go.
//!
//! It moves with the clocks of the log only. A window that is over keeps its leases until each has nothing outstanding.

use std::sync::Arc;

use super::ask::{LeaseId, PoolKey};
use super::pool::{Pool, Terms};
use super::window::{Over, Window};
use super::{Ledger, Now};
use crate::limits;

const HOUR_MS: u64 = 3_600_000;

// === impl Ledger ===

impl Ledger {
    /// The clocks have moved; what the entry before touched is forgotten.
    pub(crate) fn pass(&mut self, clock_ms: u64, wall_ms: u64) {
        self.touched.0.clear();
        let before = std::mem::replace(&mut self.now, Now { clock_ms, wall_ms });
        if wall_ms <= before.wall_ms {
            return;
        }
        // Collected first: no clock, however large, makes a pool roll twice.
        let ended: Vec<PoolKey> = self
            .index
            .ends
            .iter()
            .take_while(|(at, _)| *at <= wall_ms)
            .map(|(_, key)| key.clone())
            .collect();
        for key in &ended {
            self.roll(key);
        }
        self.burn_until(wall_ms);
        if wall_ms / HOUR_MS > before.wall_ms / HOUR_MS {
            self.sweep();
        }
    }

    /// Ends the window of a pool. Where there is demand the next one begins, and each node gets its share of it at once.
    fn roll(&mut self, key: &PoolKey) {
        let Some(old) = self.take_pool(key) else {
            return;
        };
        let (now, nodes, rules) = (self.now, self.nodes(), self.rules);
        let limit = self.limits.get(&key.limit).cloned();
        self.retire(key.clone(), old.window);
        self.touch(key);
        let Some(limit) = limit else {
            return;
        };
        let current = &self.index.current;
        let recent = now.clock_ms.saturating_sub(rules.demand_ms);
        let mut demands = old.demands;
        demands.retain(|d| d.seen_ms >= recent && current.contains_key(&d.node));
        if demands.is_empty() {
            return;
        }
        let terms = Terms {
            limit: &limit,
            rules: &rules,
            clock_ms: now.clock_ms,
            nodes,
        };
        let mut pool = Pool::new(self.count_up(), terms, now.wall_ms);
        pool.epoch = self.count_up();
        pool.recalls = old.recalls;
        pool.recalled_ms = old.recalled_ms;
        pool.demands.clone_from(&demands);
        pool.central = pool.should_be_central(terms);
        let ahead = rules.ahead(limit.per);
        let share = |rate: u64| {
            u64::try_from(u128::from(rate) * u128::from(ahead) / 1_000).unwrap_or(u64::MAX)
        };
        let shares = demands.iter().filter(|_| !pool.central);
        let shares: Vec<(u64, u64)> = shares
            .map(|d| (d.node, share(d.rate).min(pool.share(d.node, terms))))
            .collect();
        self.insert_pool(key.clone(), pool);
        for (node, units) in shares {
            self.grant(key, node, units);
        }
    }

    pub(super) fn insert_pool(&mut self, key: PoolKey, pool: Pool) {
        if let Some(ends) = pool.window.ends {
            self.index.ends.insert((ends, key.clone()));
        }
        self.pools.insert(key, Arc::new(pool));
    }

    pub(super) fn take_pool(&mut self, key: &PoolKey) -> Option<Pool> {
        let pool = self.pools.remove(key)?;
        if let Some(ends) = pool.window.ends {
            self.index.ends.remove(&(ends, key.clone()));
        }
        Some(Arc::unwrap_or_clone(pool))
    }

    /// Keeps the leases of a window that is over, as long as something is outstanding.
    pub(super) fn retire(&mut self, pool: PoolKey, mut window: Window) {
        let spent = window
            .leases
            .iter()
            .filter(|lease| lease.outstanding() == 0);
        let spent: Vec<LeaseId> = spent.map(|lease| lease.id).collect();
        for id in spent {
            window.finish(id, true);
            self.forget_lease(id);
        }
        if window.leases.is_empty() {
            return;
        }
        let from = window.ends.unwrap_or(self.now.wall_ms);
        let burns_ms = from.saturating_add(self.rules.kept_ms);
        let number = window.number;
        self.index.burns.insert((burns_ms, number));
        let over = Over {
            pool,
            window,
            burns_ms,
        };
        self.over.insert(number, Arc::new(over));
        while self.over.len() > limits::WINDOWS_OVER {
            let Some(&(_, first)) = self.index.burns.get_min() else {
                break;
            };
            self.burn_window(first);
        }
    }

    pub(super) fn drop_if_empty(&mut self, number: u64) {
        let over = self.over.get(&number);
        if let Some(over) = over.filter(|over| over.window.leases.is_empty()) {
            self.index.burns.remove(&(over.burns_ms, number));
            self.over.remove(&number);
        }
    }

    pub(super) fn forget_lease(&mut self, id: LeaseId) {
        if let Some(home) = self.index.homes.remove(&id) {
            let whose = (home.node, home.incarnation, id);
            self.index.of_node.remove(&whose);
        }
    }

    fn burn_until(&mut self, wall_ms: u64) {
        while let Some(&(at, number)) = self.index.burns.get_min() {
            if at > wall_ms {
                break;
            }
            self.burn_window(number);
        }
    }

    fn burn_window(&mut self, number: u64) {
        if let Some(over) = self.over.remove(&number) {
            self.index.burns.remove(&(over.burns_ms, number));
            for lease in &over.window.leases {
                self.forget_lease(lease.id);
            }
            self.touch(&over.pool);
        }
    }

    /// Drops pools without windows that nobody uses: a new one would be equal to them.
    fn sweep(&mut self) {
        let (clock_ms, rules) = (self.now.clock_ms, self.rules);
        let endless = self
            .pools
            .iter()
            .filter(|(_, pool)| pool.window.ends.is_none());
        let idle = endless.filter(|(key, pool)| {
            let limit = self.limits.get(&key.limit);
            limit.is_some_and(|limit| pool.is_idle(limit, &rules, clock_ms))
        });
        let idle: Vec<PoolKey> = idle.map(|(key, _)| key.clone()).collect();
        for key in idle {
            if let Some(pool) = self.take_pool(&key) {
                self.retire(key, pool.window);
            }
        }
    }
}
