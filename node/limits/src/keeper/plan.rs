//! What goes into the next batch: what became of leases, and what is asked for.
//!
//! All pools are looked at ten times a second while any is in use; a batch that a waiting call hurries looks only at those
//! with news, so that its cost does not grow with the number of limits.

use std::collections::{BTreeMap, BTreeSet};

use mode_envoy_model::ledger::ask::{Ask, AskItem, LeaseId, LeaseUse, PoolKey};

use super::Keeper;
use super::asks::{ASKS, Asks, BATCH_ITEMS, Figures, wants};
use super::demand::Demand;
use super::pool::Pool;
use crate::now::Now;
use crate::slice::Slice;

/// Of how many leases one batch tells, about; what is left is told by the next.
pub const USES: usize = 16_000;
/// While a lease is in use, a batch is composed this often.
const BUSY_EVERY_MS: u64 = 100;
const IDLE_EVERY_MS: u64 = 1_000;

/// What goes into the next batch.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Plan {
    /// Of leases, in the order of their ids.
    pub uses: Vec<LeaseUse>,
    /// To be served in this order.
    pub asks: Vec<Ask>,
}

// === impl Plan ===

impl Plan {
    /// Whether there is nothing to say.
    pub fn is_empty(&self) -> bool {
        self.uses.is_empty() && self.asks.is_empty()
    }
}

// === impl Keeper ===

impl Keeper {
    /// What goes into the next batch. `spent` is what its records say that leases paid, by lease; those of earlier
    /// incarnations too. It is planned once: the batch is to be sent until the log has answered.
    pub fn plan(&mut self, spent: &BTreeMap<LeaseId, u64>, now: Now) -> Plan {
        self.urgent = false;
        let mut uses: BTreeMap<LeaseId, LeaseUse> = BTreeMap::new();
        for (&lease, &spent) in spent.iter().filter(|(_, spent)| **spent > 0) {
            uses.insert(
                lease,
                LeaseUse {
                    lease,
                    spent,
                    returned: 0,
                },
            );
            if let Some(key) = self.leases.get(&lease)
                && let Some(pool) = self.held.get_mut(key)
            {
                pool.spent(lease, spent);
                self.touched.insert(key.clone());
            }
        }
        self.hear_the_bell(now);
        let looks = now.boot_ms >= self.next_plan_ms;
        let touched = std::mem::take(&mut self.touched);
        let keys: Vec<PoolKey> = if looks {
            self.held.keys().cloned().collect()
        } else {
            touched.into_iter().collect()
        };
        let mut more = Vec::new();
        for key in &keys {
            let Some(pool) = self.held.get_mut(key) else {
                continue;
            };
            pool.follow(now);
            if uses.len() + more.len() < USES {
                pool.uses(now, &mut more);
            }
        }
        for LeaseUse {
            lease,
            spent,
            returned,
        } in more
        {
            let used = uses.entry(lease).or_insert_with(|| LeaseUse {
                lease,
                ..LeaseUse::default()
            });
            used.spent = used.spent.saturating_add(spent);
            used.returned = used.returned.saturating_add(returned);
        }
        let asks = if self.asked.is_none() && !self.leaving {
            self.asks(&keys, now)
        } else {
            Vec::new()
        };
        if now.boot_ms >= self.forgets_ms {
            self.forget(now);
            self.forgets_ms = now.boot_ms + IDLE_EVERY_MS;
        }
        if looks {
            let busy = self.held.values().any(Pool::is_busy);
            let every = if busy { BUSY_EVERY_MS } else { IDLE_EVERY_MS };
            self.next_plan_ms = now.boot_ms + every;
        }
        Plan {
            uses: uses.into_values().collect(),
            asks,
        }
    }

    /// Pools that owe something want to pay, whether or not a call waits.
    fn hear_the_bell(&mut self, now: Now) {
        let rung: BTreeSet<PoolKey> = self.bell.try_iter().collect();
        for key in rung {
            if let Some(slice) = self.pools.find(&key) {
                self.pool(&slice, now);
            }
        }
    }

    /// What calls wait for, and what would be good to have of these pools.
    fn asks(&mut self, of: &[PoolKey], now: Now) -> Vec<Ask> {
        let mut asks = Asks::default();
        for waiter in self.waiting.in_order() {
            asks.add(waiter, &self.held, now);
        }
        for key in std::mem::take(&mut asks.beyond) {
            if let Some(pool) = self.held.get_mut(&key) {
                pool.goes_beyond(now);
            }
        }
        let mut items = Vec::new();
        for (key, pool) in of.iter().filter_map(|key| self.held.get_key_value(key)) {
            asks.owed(&pool.slice, owed(&pool.slice, now), now);
            let want = pool.want(self.rtt_ms, now);
            if want > 0 {
                items.push(item(key, pool, want));
            }
        }
        let mut asks = asks.finish(|key| self.figures(key));
        let room = ASKS.saturating_sub(asks.len());
        asks.extend(wants(items).take(room));
        let mut items = 0;
        asks.retain(|ask| {
            items += ask.items.len();
            items <= BATCH_ITEMS
        });
        if asks.is_empty() {
            return asks;
        }
        let keys: BTreeSet<PoolKey> = asks
            .iter()
            .flat_map(|ask| &ask.items)
            .map(|item| item.pool.clone())
            .collect();
        self.waiting.asks_for(&keys);
        self.asked = Some((keys, now.boot_ms));
        asks
    }

    fn figures(&self, key: &PoolKey) -> Figures {
        let demand = self.held.get(key).map(|pool| &pool.demand);
        Figures {
            demand: demand.map_or(0, Demand::per_second),
            typical: demand.map_or(1, Demand::typical),
        }
    }

    /// Lets go of pools that hold nothing and that nobody waits for.
    pub(super) fn forget(&mut self, now: Now) {
        let (waiting, leases) = (&self.waiting, &mut self.leases);
        let kept = |pool: &Pool| {
            let idle = pool.demand.idle_ms(now.boot_ms) > IDLE_EVERY_MS && pool.slice.owed() == 0;
            !(pool.is_empty() && idle && waiting.queue_len(pool.slice.key()) == 0)
        };
        self.held.retain(|_, pool| kept(pool));
        let held = &self.held;
        leases.retain(|lease, key| {
            held.get(key)
                .is_some_and(|pool| pool.leases().any(|id| id == *lease))
        });
    }
}

/// What a slice owes and may yet pay: a shadow limit that has nothing to give counts no more than that.
fn owed(slice: &Slice, now: Now) -> u64 {
    let facts = slice.facts();
    if facts.limit.shadow && facts.is_exhausted(1, now) {
        slice.owes_nothing();
    }
    slice.owed()
}

fn item(key: &PoolKey, pool: &Pool, want: u64) -> AskItem {
    AskItem {
        pool: key.clone(),
        need: 0,
        want,
        demand: pool.demand.per_second(),
        typical: pool.demand.typical(),
    }
}
