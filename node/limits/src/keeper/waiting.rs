//! Calls that wait for the log, in the order in which they came.
//!
//! A call waits for one pool at a time: the first of its limits that has too little. Each pool's queue is served from its
//! head; whoever comes to the head and finds another limit short goes to that one's queue.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use mode_envoy_model::ledger::ask::PoolKey;

use crate::slice::Slice;

/// Names a call that waits.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Ticket(pub(super) u64);

/// A call that waits.
#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) limits: Vec<(Arc<Slice>, u64)>,
    pub(super) since_ms: u64,
    pub(super) deadline_ms: u64,
    /// Which of its limits it waits for.
    pub(super) short: usize,
    pub(super) asked: Asked,
}

/// Whether the log was asked for what a call needs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Asked {
    Not,
    InFlight,
    Answered,
}

/// All that wait.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    next: u64,
    calls: BTreeMap<Ticket, Waiter>,
    queues: BTreeMap<PoolKey, VecDeque<Ticket>>,
    deadlines: BTreeSet<(u64, Ticket)>,
}

// === impl Waiter ===

impl Waiter {
    pub(super) fn limits(&self) -> impl ExactSizeIterator<Item = (&Arc<Slice>, u64)> {
        self.limits.iter().map(|(slice, need)| (slice, *need))
    }

    /// The limit that it waits for.
    pub(super) fn short(&self) -> Option<(&Arc<Slice>, u64)> {
        self.limits
            .get(self.short)
            .map(|(slice, need)| (slice, *need))
    }
}

// === impl Waiting ===

impl Waiting {
    pub(super) fn len(&self) -> usize {
        self.calls.len()
    }

    pub(super) fn add(&mut self, waiter: Waiter) -> Ticket {
        let ticket = Ticket(self.next);
        self.next += 1;
        self.insert(ticket, waiter, false);
        ticket
    }

    /// A call goes on waiting, at the head of its queue or at its end.
    pub(super) fn insert(&mut self, ticket: Ticket, waiter: Waiter, at_head: bool) {
        let Some((slice, _)) = waiter.short() else {
            return;
        };
        let queue = self.queues.entry(slice.key().clone()).or_default();
        if at_head {
            queue.push_front(ticket);
        } else {
            queue.push_back(ticket);
        }
        if queue.len() == 1 {
            slice.publish(|facts| facts.queued = true);
        }
        self.deadlines.insert((waiter.deadline_ms, ticket));
        self.calls.insert(ticket, waiter);
    }

    /// Takes the first call of a pool's queue.
    pub(super) fn pop(&mut self, key: &PoolKey) -> Option<(Ticket, Waiter)> {
        let ticket = *self.queues.get(key)?.front()?;
        Some((ticket, self.remove(ticket)?))
    }

    /// Takes a call out of its queue.
    pub(super) fn remove(&mut self, ticket: Ticket) -> Option<Waiter> {
        let waiter = self.calls.remove(&ticket)?;
        self.deadlines.remove(&(waiter.deadline_ms, ticket));
        if let Some((slice, _)) = waiter.short()
            && let Some(queue) = self.queues.get_mut(slice.key())
        {
            if queue.front() == Some(&ticket) {
                queue.pop_front();
            } else {
                queue.retain(|other| *other != ticket);
            }
            if queue.is_empty() {
                self.queues.remove(slice.key());
                slice.publish(|facts| facts.queued = false);
            }
        }
        Some(waiter)
    }

    /// Takes a call whose deadline is over.
    pub(super) fn overdue(&mut self, boot_ms: u64) -> Option<(Ticket, Waiter)> {
        let (deadline, ticket) = *self.deadlines.first()?;
        if deadline > boot_ms {
            return None;
        }
        Some((ticket, self.remove(ticket)?))
    }

    pub(super) fn next_deadline_ms(&self) -> Option<u64> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    pub(super) fn in_order(&self) -> impl Iterator<Item = &Waiter> {
        self.calls.values()
    }

    /// The first of a pool's queue.
    pub(super) fn first(&self, key: &PoolKey) -> Option<&Waiter> {
        let ticket = self.queues.get(key)?.front()?;
        self.calls.get(ticket)
    }

    /// Whether a call that waits needs something of a pool, be it short there or not.
    pub(super) fn needs(&self, key: &PoolKey) -> bool {
        let mut limits = self.calls.values().flat_map(Waiter::limits);
        limits.any(|(slice, _)| slice.key() == key)
    }

    /// Pools that are waited for.
    pub(super) fn queues(&self) -> impl Iterator<Item = &PoolKey> {
        self.queues.keys()
    }

    /// Marks those that were given with `from` as `to`.
    pub(super) fn mark(&mut self, from: Asked, to: Asked) {
        for waiter in self
            .calls
            .values_mut()
            .filter(|waiter| waiter.asked == from)
        {
            waiter.asked = to;
        }
    }

    /// What these pools' queues wait for is asked for.
    pub(super) fn asks_for(&mut self, keys: &BTreeSet<PoolKey>) {
        for ticket in keys.iter().filter_map(|key| self.queues.get(key)).flatten() {
            let waiter = self.calls.get_mut(ticket);
            if let Some(waiter) = waiter.filter(|waiter| waiter.asked == Asked::Not) {
                waiter.asked = Asked::InFlight;
            }
        }
    }

    pub(super) fn queue_len(&self, key: &PoolKey) -> usize {
        self.queues.get(key).map_or(0, VecDeque::len)
    }
}
