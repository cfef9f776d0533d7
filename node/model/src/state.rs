//! The replicated state, and how a batch of the log changes it.
//!
//! `apply` is total and deterministic: replicas that apply the same batches are equal. It never fails and never
//! panics; an item that breaks a rule changes nothing and says so in its outcome. Clocks only move forward.

use std::sync::Arc;

use crate::batch::{Batch, ChangeSet, Item, Outcome};
use crate::catalog::Catalog;
use crate::growth::Growth;
use crate::history::History;
use crate::requests::Requests;
use crate::usage::Usage;
use crate::usage::cells::minute_of;

/// Everything the cluster agrees on.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct State {
    /// The configuration; replaced by a changed copy, so that readers keep theirs.
    pub catalog: Arc<Catalog>,
    /// Every change set that made the configuration.
    pub history: History,
    /// Requests that retries are answered from.
    pub requests: Requests,
    /// How much the tokens of tenants have changed today.
    pub growth: Growth,
    /// What was used.
    pub usage: Usage,
    /// The leader's monotone clock, as of the last batch.
    pub lease_clock_ms: u64,
    /// The leader's wall clock, as of the last batch; Unix milliseconds.
    pub wall_ms: u64,
}

// === impl State ===

impl State {
    /// Before the first entry of the log.
    pub fn new() -> Self {
        Self {
            catalog: Arc::new(Catalog::empty()),
            history: History::default(),
            requests: Requests::default(),
            growth: Growth::default(),
            usage: Usage::default(),
            lease_clock_ms: 0,
            wall_ms: 0,
        }
    }

    /// Applies the entry at `index` of the log; one outcome per item, in order.
    pub fn apply(&mut self, index: u64, batch: &Batch) -> Vec<Outcome> {
        self.lease_clock_ms = self.lease_clock_ms.max(batch.lease_clock_ms);
        if batch.wall_ms > self.wall_ms {
            let before_ms = std::mem::replace(&mut self.wall_ms, batch.wall_ms);
            self.requests.expire(self.wall_ms);
            if minute_of(self.wall_ms) > minute_of(before_ms) {
                self.usage.pass(before_ms, self.wall_ms);
                if self.catalog.has_expired_join_tokens(self.wall_ms) {
                    Arc::make_mut(&mut self.catalog).expire_join_tokens(self.wall_ms);
                }
            }
        }
        batch
            .items
            .iter()
            .map(|item| self.apply_item(index, item))
            .collect()
    }

    fn apply_item(&mut self, index: u64, item: &Item) -> Outcome {
        match item {
            Item::ChangeSet(set) => self.change(index, set),
            Item::Register(register) => self.usage.register(index, register),
            Item::Usage(batch) => self.usage.count(batch, self.wall_ms),
        }
    }

    fn change(&mut self, index: u64, set: &ChangeSet) -> Outcome {
        if let Err(outcome) = self.catalog.check_change_set(set) {
            return outcome;
        }
        self.requests.note(&self.catalog, set, index, self.wall_ms);
        let bytes = set.encoded.len() as u64;
        self.growth
            .note(&self.catalog, &set.actor, bytes, self.wall_ms);
        let outcome = Arc::make_mut(&mut self.catalog).apply_change_set(set);
        if let Outcome::Changed { revision } = outcome {
            let encoded = Arc::clone(&set.encoded);
            self.history.record(revision, self.wall_ms, encoded);
        }
        outcome
    }
}

impl Default for State {
    fn default() -> Self {
        Self::new()
    }
}
