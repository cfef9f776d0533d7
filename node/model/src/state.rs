//! The replicated state, and how a batch of the log changes it.
//!
//! `apply` is total and deterministic: replicas that apply the same batches are equal. It never fails and never
//! panics; an item that breaks a rule changes nothing and says so in its outcome. Clocks only move forward.

use std::sync::Arc;

use crate::batch::{Batch, ChangeSet, Item, Outcome};
use crate::catalog::Catalog;
use crate::event::Event;
use crate::growth::Growth;
use crate::history::History;
use crate::ledger::Ledger;
use crate::requests::Requests;
use crate::usage::Usage;
use crate::usage::batch::{Register, UsageBatch};
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
    /// What is left of limits, and who has it.
    pub ledger: Ledger,
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
            ledger: Ledger::default(),
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
        self.ledger.pass(self.lease_clock_ms, self.wall_ms);
        let items = batch.items.iter();
        let outcomes = items.map(|item| self.apply_item(index, item)).collect();
        debug_assert_eq!(self.ledger.recent_violation(), None, "books balance");
        outcomes
    }

    fn apply_item(&mut self, index: u64, item: &Item) -> Outcome {
        match item {
            Item::ChangeSet(set) => self.change(index, set),
            Item::Register(register) => self.register(index, register),
            Item::Usage(batch) => self.count(batch),
            Item::Final(done) => {
                let stream = self.usage.streams.get(done.node);
                self.ledger.finish(stream, done)
            }
            Item::Evict(evict) => {
                let stream = self.usage.streams.get(evict.node);
                self.ledger.evict(stream, evict)
            }
        }
    }

    fn register(&mut self, index: u64, register: &Register) -> Outcome {
        let node = register.node;
        let old = self.usage.streams.get(node).cloned();
        let outcome = self.usage.register(index, register);
        if let Outcome::Registered { incarnation } = outcome
            && !self.catalog.members().is_removed(node)
        {
            self.ledger.registered(node, incarnation, old.as_ref());
        }
        outcome
    }

    /// Usage, leases and asks of a batch count together or not at all.
    fn count(&mut self, batch: &UsageBatch) -> Outcome {
        if self.ledger.is_fenced(batch.node, batch.incarnation) {
            return Outcome::Fenced;
        }
        let checked = self.usage.check(batch);
        let checked =
            checked.and_then(|()| self.ledger.check(batch.node, &batch.uses, &batch.asks));
        if let Err(outcome) = checked {
            if let Outcome::Unbacked(_) = outcome {
                let stream = self.usage.streams.get(batch.node);
                self.ledger.fence(batch.node, stream);
            }
            return outcome;
        }
        self.usage.count(batch, self.wall_ms);
        self.ledger.settle_all(&batch.uses);
        self.ledger
            .grant_all(batch.node, batch.incarnation, &batch.asks);
        Outcome::Counted
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
            self.follow(&set.events);
        }
        outcome
    }

    /// What changes of the configuration mean for the books of limits.
    fn follow(&mut self, events: &[Event]) {
        let mut limits_change = false;
        for event in events {
            match event {
                Event::NodeRemoved(node) => self.ledger.remove_node(*node),
                Event::LimitPut { .. } | Event::LimitDeleted { .. } => limits_change = true,
                _ => {}
            }
        }
        if limits_change {
            self.ledger.set_limits(self.catalog.limits());
        }
    }
}

impl Default for State {
    fn default() -> Self {
        Self::new()
    }
}
