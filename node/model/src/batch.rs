//! One entry of the log, as a value, and what applying its items comes to.

use std::sync::Arc;

use crate::event::Event;
use crate::ledger::ask::LeaseId;
use crate::requests::ClientRequest;
use crate::usage::batch::{Register, SpoolUuid, UsageBatch};

/// One entry of the log.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Batch {
    /// The leader's monotone clock.
    pub lease_clock_ms: u64,
    /// The leader's wall clock, made monotone; Unix milliseconds.
    pub wall_ms: u64,
    /// Applied in order.
    pub items: Vec<Item>,
}

/// One item of a batch.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Item {
    /// A change of the configuration.
    ChangeSet(ChangeSet),
    /// A node starts a new incarnation of its usage stream.
    Register(Register),
    /// Usage that a node has aggregated.
    Usage(UsageBatch),
    /// Everything that an old incarnation of a node recorded is counted: what it had left of limits comes back.
    Final(Final),
    /// Nobody will ever tell what an incarnation of a node used of limits: all that it had counts as used.
    Evict(Evict),
}

/// Taken once every spool that the incarnation had is counted to its end.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Final {
    /// Node.
    pub node: u64,
    /// The one that is over.
    pub incarnation: u64,
    /// Of each spool that it had, the first record that is not its own.
    pub ends: Vec<(SpoolUuid, u64)>,
}

/// What an incarnation of a node has of limits is burned.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Evict {
    /// Node.
    pub node: u64,
    /// Which of its lives.
    pub incarnation: u64,
}

/// Accepted as a whole if the state is still at `base_revision`, else void.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ChangeSet {
    /// The revision it was decided on.
    pub base_revision: u64,
    /// Who asked: the name of an admin token, or `cluster`.
    pub actor: String,
    /// What was asked for, in a few words: `apply`, `rollback to 5`.
    pub origin: String,
    /// Never empty.
    pub events: Vec<Event>,
    /// The client's request that it carries out, if the client named it.
    pub request: Option<ClientRequest>,
    /// As it stands in the log, for the history; empty before it is written there.
    pub encoded: Arc<[u8]>,
}

/// What applying an item came to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// The change set is in force.
    Changed {
        /// The revision it made.
        revision: u64,
    },
    /// The change set was decided on another revision and is void.
    Stale {
        /// The revision now.
        revision: u64,
    },
    /// The usage stream has this incarnation now.
    Registered {
        /// The log index of the entry.
        incarnation: u64,
    },
    /// The usage is counted.
    Counted,
    /// The batch is of an incarnation that is over; nothing was counted.
    Fenced,
    /// Another batch is next; nothing was counted.
    ExpectSeq(u64),
    /// A range does not start where the last one ended, or a spool is not the stream's; nothing was counted.
    RangeMismatch,
    /// The batch claims more of this lease than it has, or it is over; nothing was counted, and the incarnation is over.
    Unbacked(LeaseId),
    /// What the incarnation had of limits is free again or burned; also if that was so before.
    Closed,
    /// Not everything that the incarnation recorded is counted; nothing was changed.
    Unfinished,
    /// The batch breaks a rule (an unknown series id, a row that names no series, …); nothing was counted.
    Malformed,
}
