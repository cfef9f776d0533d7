//! The lives of nodes: a new one freezes the leases of the old, and only what is certain gives them back.
//!
//! Invariant: what a node may have used is never free again. `Final` is taken once every spool that the old incarnation had is
//! counted to the end that it had; so what is not settled by then was not used. Everything else burns it.

use std::sync::Arc;

use super::Ledger;
use super::ask::LeaseId;
use crate::batch::{Evict, Final, Outcome};
use crate::limit::Unit;
use crate::limits;
use crate::usage::streams::Stream;

// === impl Ledger ===

impl Ledger {
    /// Whether an incarnation gets and tells nothing any more, although no other has begun.
    pub(crate) fn is_fenced(&self, node: u64, incarnation: u64) -> bool {
        self.frozen.contains_key(&(node, incarnation))
    }

    /// A node began a new incarnation; `old` is its stream before.
    pub(crate) fn registered(&mut self, node: u64, incarnation: u64, old: Option<&Stream>) {
        if let Some(old) = old {
            self.freeze(node, old);
        }
        self.index.current.insert(node, incarnation);
        let of_node = self.frozen.range((node, 0)..=(node, u64::MAX));
        let lives: Vec<u64> = of_node.map(|((_, incarnation), _)| *incarnation).collect();
        for life in &lives {
            self.thaw_if_empty(node, *life);
        }
        let unfinished = self.unfinished(node).map(|(life, _)| life);
        let unfinished: Vec<u64> = unfinished.collect();
        let beyond = unfinished.len().saturating_sub(limits::UNFINISHED);
        for life in unfinished.into_iter().take(beyond) {
            self.burn_life(node, life);
        }
    }

    /// A batch claimed what is not backed: its incarnation gets and tells nothing any more.
    pub(crate) fn fence(&mut self, node: u64, stream: Option<&Stream>) {
        self.refused = self.refused.saturating_add(1);
        if let Some(stream) = stream {
            self.freeze(node, stream);
        }
    }

    fn freeze(&mut self, node: u64, stream: &Stream) {
        let life = (node, stream.incarnation);
        if !self.frozen.contains_key(&life) {
            let spools = stream.spools.values().map(|spool| spool.uuid);
            self.frozen.insert(life, spools.collect());
        }
    }

    /// Gives back what an old incarnation left, once everything that it recorded is counted.
    pub(crate) fn finish(&mut self, stream: Option<&Stream>, done: &Final) -> Outcome {
        let Some(stream) = stream else {
            return Outcome::Fenced;
        };
        if done.ends.len() > limits::SPOOLS {
            return Outcome::Malformed;
        }
        if done.incarnation >= stream.incarnation {
            return Outcome::Fenced;
        }
        let life = (done.node, done.incarnation);
        let Some(spools) = self.frozen.get(&life).cloned() else {
            return Outcome::Closed;
        };
        for uuid in &*spools {
            let mut ends = done.ends.iter();
            let end = ends.find(|(of, _)| of == uuid).map(|(_, end)| *end);
            let mut known = stream.spools.values();
            let known = known.find(|spool| spool.uuid == *uuid);
            match (end, known) {
                (Some(end), Some(known)) if known.acked_to >= end => {}
                (Some(_), Some(_)) => return Outcome::Unfinished,
                _ => return Outcome::RangeMismatch,
            }
        }
        for id in self.leases_of_life(done.node, done.incarnation) {
            self.end_lease(id, false);
        }
        self.frozen.remove(&life);
        Outcome::Closed
    }

    /// Burns what an incarnation has: whoever asks for it says that nobody will ever tell what became of it.
    pub(crate) fn evict(&mut self, stream: Option<&Stream>, evict: &Evict) -> Outcome {
        self.burn_life(evict.node, evict.incarnation);
        if let Some(stream) = stream.filter(|s| s.incarnation == evict.incarnation) {
            self.freeze(evict.node, stream);
        }
        Outcome::Closed
    }

    /// Burns what a removed node has, in all its lives. It is nobody to share with any more.
    pub(crate) fn remove_node(&mut self, node: u64) {
        self.index.current.remove(&node);
        let lives = self
            .index
            .of_node
            .range((node, 0, 0)..=(node, u64::MAX, u64::MAX));
        let mut lives: Vec<u64> = lives.map(|(_, life, _)| *life).collect();
        lives.dedup();
        for life in lives {
            self.burn_life(node, life);
        }
    }

    /// None of these nodes is there any more.
    pub(crate) fn remove_all_nodes(&mut self) {
        let leases = self.index.of_node.iter().map(|(node, _, _)| *node);
        let all = leases.chain(self.index.current.keys().copied());
        let mut nodes: Vec<u64> = all.collect();
        nodes.sort_unstable();
        nodes.dedup();
        for node in nodes {
            self.remove_node(node);
        }
        self.frozen.clear();
    }

    fn burn_life(&mut self, node: u64, incarnation: u64) {
        for id in self.leases_of_life(node, incarnation) {
            self.end_lease(id, true);
        }
        if self.index.current.get(&node) != Some(&incarnation) {
            self.frozen.remove(&(node, incarnation));
        }
    }

    fn thaw_if_empty(&mut self, node: u64, incarnation: u64) {
        let current = self.index.current.get(&node) == Some(&incarnation);
        if !current && self.leases_of_life(node, incarnation).is_empty() {
            self.frozen.remove(&(node, incarnation));
        }
    }

    fn leases_of_life(&self, node: u64, incarnation: u64) -> Vec<LeaseId> {
        let range = (node, incarnation, 0)..=(node, incarnation, u64::MAX);
        let leases = self.index.of_node.range(range);
        leases.map(|(_, _, id)| *id).collect()
    }

    /// A call that was open on a node that is gone is open no more, so its place is free whatever became of the rest.
    fn end_lease(&mut self, id: LeaseId, burn: bool) {
        let Some(home) = self.index.homes.get(&id).cloned() else {
            return;
        };
        let limit = self.limits.get(&home.pool.limit);
        let concurrent = limit.is_some_and(|limit| limit.unit == Unit::Concurrent);
        let (back, useful) = (!burn || concurrent, self.comes_back(id));
        if let Some(window) = self.window_of_mut(id) {
            if back {
                window.finish(id, useful);
            } else {
                window.burn(id);
            }
        }
        if back && useful {
            self.came_back(id);
        }
        self.touch(&home.pool);
        self.forget_lease(id);
        self.drop_if_empty(home.window);
    }
}

/// Those that are in a list of the streams that a checkpoint has.
pub(super) fn current_of<'a>(
    streams: impl Iterator<Item = (u64, &'a Arc<Stream>)>,
    is_removed: impl Fn(u64) -> bool,
) -> imbl::OrdMap<u64, u64> {
    streams
        .filter(|(node, _)| !is_removed(*node))
        .map(|(node, stream)| (node, stream.incarnation))
        .collect()
}
