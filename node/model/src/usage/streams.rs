//! How far each node's usage is counted: the bookkeeping that makes usage exactly-once.
//!
//! A position in a spool is the number of its record, so a gap or an overlap cannot be expressed: a batch counts
//! only if its incarnation is current, its number is next and each of its ranges starts where the last one ended.
//! Register keeps the position of every spool whose identity is known, whichever worker names it now; a spool of
//! a new identity starts at record 1; spools that it does not list are forgotten. It counts only if it follows the
//! current incarnation, so that one which arrives late forgets nothing.

use std::collections::BTreeSet;
use std::sync::Arc;

use imbl::OrdMap;

use crate::batch::Outcome;
use crate::limits;
use crate::usage::batch::{Register, SpoolUuid, UsageBatch};

/// One spool.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Spool {
    /// Its identity.
    pub uuid: SpoolUuid,
    /// The first record that is not yet counted.
    pub acked_to: u64,
}

/// One node's stream.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Stream {
    /// The log index of the Register that began it.
    pub incarnation: u64,
    /// The number of the batch that counts next.
    pub next_seq: u64,
    /// Its spools, by worker.
    pub spools: OrdMap<u32, Spool>,
}

/// Every node's stream.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Streams {
    by_node: OrdMap<u64, Arc<Stream>>,
}

// === impl Streams ===

impl Streams {
    /// One node's stream.
    pub fn get(&self, node: u64) -> Option<&Stream> {
        self.by_node.get(&node).map(|stream| &**stream)
    }

    /// Every stream, by node.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &Arc<Stream>)> {
        self.by_node.iter().map(|(&node, stream)| (node, stream))
    }

    pub(crate) fn register(&mut self, index: u64, register: &Register) -> Outcome {
        let old = self.by_node.get(&register.node);
        let workers: BTreeSet<u32> = register.spools.iter().map(|&(worker, _)| worker).collect();
        let uuids: BTreeSet<SpoolUuid> = register.spools.iter().map(|&(_, uuid)| uuid).collect();
        if register.spools.len() > limits::SPOOLS
            || workers.len() != register.spools.len()
            || uuids.len() != register.spools.len()
            || (old.is_none() && self.by_node.len() >= limits::STREAMS)
        {
            return Outcome::Malformed;
        }
        if old.map_or(0, |stream| stream.incarnation) != register.follows {
            return Outcome::Fenced;
        }
        let acked_to = |uuid: &SpoolUuid| {
            old.and_then(|stream| stream.spools.values().find(|spool| spool.uuid == *uuid))
                .map_or(1, |spool| spool.acked_to)
        };
        let spools = register
            .spools
            .iter()
            .map(|&(worker, uuid)| {
                (
                    worker,
                    Spool {
                        uuid,
                        acked_to: acked_to(&uuid),
                    },
                )
            })
            .collect();
        let stream = Stream {
            incarnation: index,
            next_seq: 1,
            spools,
        };
        self.by_node.insert(register.node, Arc::new(stream));
        Outcome::Registered { incarnation: index }
    }

    /// Whether a batch is the one that counts next; else why not.
    pub(crate) fn check(&self, batch: &UsageBatch) -> Result<(), Outcome> {
        let stream = self.get(batch.node).ok_or(Outcome::Fenced)?;
        if stream.incarnation != batch.incarnation {
            return Err(Outcome::Fenced);
        }
        if stream.next_seq != batch.seq {
            return Err(Outcome::ExpectSeq(stream.next_seq));
        }
        let workers: BTreeSet<u32> = batch.ranges.iter().map(|range| range.worker).collect();
        if batch.ranges.len() > limits::SPOOLS || workers.len() != batch.ranges.len() {
            return Err(Outcome::Malformed);
        }
        for range in &batch.ranges {
            if range.to < range.from {
                return Err(Outcome::Malformed);
            }
            let next = stream.spools.get(&range.worker);
            if next.is_none_or(|s| s.uuid != range.uuid || s.acked_to != range.from) {
                return Err(Outcome::RangeMismatch);
            }
        }
        Ok(())
    }

    /// Moves past a batch that [`Self::check`] accepted.
    pub(crate) fn advance(&mut self, batch: &UsageBatch) {
        let Some(stream) = self.by_node.get_mut(&batch.node) else {
            return;
        };
        let stream = Arc::make_mut(stream);
        stream.next_seq = stream.next_seq.saturating_add(1);
        for range in &batch.ranges {
            if let Some(spool) = stream.spools.get_mut(&range.worker) {
                spool.acked_to = range.to;
            }
        }
    }

    /// Puts a stream of a checkpoint back.
    pub(crate) fn restore(&mut self, node: u64, stream: Arc<Stream>) {
        self.by_node.insert(node, stream);
    }
}
