//! What waiting calls need of the log, as few asks as may be.
//!
//! Calls that lack the same pools are merged into one ask, up to what is free; where so little is left that a pool is
//! central, each call has an ask of its own, so that what one is denied another may get.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mode_envoy_model::ledger::ask::{Ask, AskItem, PoolKey};

use super::pool::Pool;
use super::waiting::Waiter;
use crate::now::Now;
use crate::number::{count, signed};
use crate::slice::Slice;

/// How many asks one batch has.
pub const ASKS: usize = 1_024;
/// How many pools one ask has.
pub const ASK_ITEMS: usize = 256;

/// How many pools all asks of one batch have.
pub const BATCH_ITEMS: usize = 16_000;

/// Asks in the making.
#[derive(Debug, Default)]
pub(super) struct Asks {
    pools: BTreeMap<PoolKey, Left>,
    /// By what is lacking.
    merged: BTreeMap<Vec<PoolKey>, Vec<u64>>,
    single: Vec<Vec<(PoolKey, u64)>>,
    /// Asked for although only others have it.
    pub(super) beyond: BTreeSet<PoolKey>,
}

/// What is left of a pool while calls are matched with it.
#[derive(Debug)]
struct Left {
    here: i64,
    free: i64,
    /// Calls are merged while more than this is free: another node's ask may be served first, and a merged ask is then
    /// denied as a whole.
    merges_above: i64,
    central: bool,
    /// What is not free may be asked for, so that others give back.
    may_go_beyond: bool,
}

/// What an item says beside its need and want.
pub(super) struct Figures {
    pub(super) demand: u64,
    pub(super) typical: u64,
}

// === impl Asks ===

impl Asks {
    /// Matches one more call with what is left, here and free; what it lacks is asked for, where that may help.
    pub(super) fn add(&mut self, waiter: &Waiter, pools: &BTreeMap<PoolKey, Pool>, now: Now) {
        if self.merged.len() + self.single.len() >= ASKS {
            return;
        }
        let mut lacking: Vec<(PoolKey, u64)> = Vec::new();
        for (slice, need) in waiter.limits() {
            let Some(left) = self.left(slice, pools, now) else {
                continue;
            };
            let here = count(left.here).min(need);
            if here < need {
                lacking.push((slice.key().clone(), need - here));
            }
        }
        let fits = |(key, need): &(PoolKey, u64)| {
            self.pools
                .get(key)
                .is_some_and(|left| left.free >= signed(*need))
        };
        if !lacking.iter().all(fits) && !self.goes_beyond(&lacking) {
            return;
        }
        for (slice, need) in waiter.limits() {
            if let Some(left) = self.pools.get_mut(slice.key()) {
                left.here = left.here.saturating_sub(signed(need)).max(0);
            }
        }
        self.keep(lacking);
    }

    /// Units that others hold come back only for an ask: one is enough.
    fn goes_beyond(&mut self, lacking: &[(PoolKey, u64)]) -> bool {
        let mut any = false;
        for (key, need) in lacking {
            if let Some(left) = self.pools.get_mut(key)
                && left.free < signed(*need)
                && left.may_go_beyond
            {
                left.may_go_beyond = false;
                self.beyond.insert(key.clone());
                any = true;
            }
        }
        any
    }

    fn keep(&mut self, lacking: Vec<(PoolKey, u64)>) {
        if lacking.is_empty() {
            return;
        }
        let mut alone = false;
        for (key, need) in &lacking {
            if let Some(left) = self.pools.get_mut(key) {
                alone |= left.central || left.free < left.merges_above.max(signed(*need));
                left.free = left.free.saturating_sub(signed(*need));
            }
        }
        if alone {
            self.single.push(lacking);
            return;
        }
        let (keys, needs): (Vec<_>, Vec<_>) = lacking.into_iter().unzip();
        let sums = self
            .merged
            .entry(keys)
            .or_insert_with(|| vec![0; needs.len()]);
        for (sum, need) in sums.iter_mut().zip(needs) {
            *sum = sum.saturating_add(need);
        }
    }

    /// Pools of local limits, and those that are no more, need nothing.
    fn left(
        &mut self,
        slice: &Arc<Slice>,
        pools: &BTreeMap<PoolKey, Pool>,
        now: Now,
    ) -> Option<&mut Left> {
        let facts = slice.facts();
        if facts.is_local() || facts.gone || facts.limit.shadow {
            return None;
        }
        let spendable = now.boot_ms <= facts.spend_until;
        Some(self.pools.entry(slice.key().clone()).or_insert_with(|| {
            Left {
                here: if spendable { signed(facts.left()) } else { 0 },
                free: facts.free(now),
                merges_above: facts.free(now) / 2,
                central: facts.is_central(),
                may_go_beyond: pools
                    .get(slice.key())
                    .is_some_and(|pool| pool.may_go_beyond(now)),
            }
        }))
    }

    /// Something else is needed of one pool, as far as it is free.
    pub(super) fn owed(&mut self, slice: &Arc<Slice>, units: u64, now: Now) {
        let facts = slice.facts();
        let missing = units
            .saturating_sub(facts.left())
            .min(count(facts.free(now)));
        if missing > 0 && !facts.is_local() && !facts.gone {
            self.single.push(vec![(slice.key().clone(), missing)]);
        }
    }

    /// The asks, in the order in which they are to be served.
    pub(super) fn finish(self, figures: impl Fn(&PoolKey) -> Figures) -> Vec<Ask> {
        let merged = self.merged.into_iter();
        let merged = merged.map(|(keys, needs)| keys.into_iter().zip(needs).collect());
        let asks = merged.chain(self.single).take(ASKS);
        asks.map(|needs: Vec<(PoolKey, u64)>| ask(needs, &figures))
            .collect()
    }
}

fn ask(mut needs: Vec<(PoolKey, u64)>, figures: impl Fn(&PoolKey) -> Figures) -> Ask {
    needs.sort();
    needs.dedup_by(|next, kept| {
        let same = next.0 == kept.0;
        if same {
            kept.1 = kept.1.saturating_add(next.1);
        }
        same
    });
    let items = needs.into_iter().map(|(pool, need)| {
        let Figures { demand, typical } = figures(&pool);
        AskItem {
            pool,
            need,
            want: 0,
            demand,
            typical,
        }
    });
    Ask {
        items: items.collect(),
    }
}

/// What would be good to have, without anybody waiting for it: asks that are never denied as a whole.
pub(super) fn wants(items: Vec<AskItem>) -> impl Iterator<Item = Ask> {
    let mut items = items.into_iter().peekable();
    std::iter::from_fn(move || {
        items.peek()?;
        Some(Ask {
            items: items.by_ref().take(ASK_ITEMS).collect(),
        })
    })
}
