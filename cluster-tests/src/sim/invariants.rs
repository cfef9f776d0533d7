//! What must hold at every moment of a run, one file each.
//!
//! | invariant | says |
//! |---|---|
//! | `election` | a leader has the votes of a majority, and a vote never goes back, not even over a crash |
//! | `logs` | logs that agree on an entry agree on all before it |
//! | `commits` | what was applied anywhere is never another thing elsewhere, and a majority has it on its disks |
//! | `states` | equal applied indexes, equal states |
//! | `usage` | what is counted of a spool is what its records below the stream's position say, and at the end every record, once |
//! | `answers` | what was acknowledged is there, and a read that waited for the barrier has seen it |

use std::collections::BTreeMap;
use std::fmt;

use mode_envoy_raft::sim::{Member, Probe};

use super::clients::History;
use super::host::Nodes;

mod answers;
mod commits;
mod election;
mod logs;
mod states;
mod usage;

/// Something that must never be.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Violation {
    /// What was to hold.
    pub invariant: &'static str,
    /// What was found.
    pub what: String,
}

/// A running node at one moment.
pub(crate) struct Running {
    pub(crate) node: u64,
    pub(crate) life: u64,
    pub(crate) member: Member,
    pub(crate) probe: Probe,
}

/// All of them.
#[derive(Default)]
pub(crate) struct Invariants {
    election: election::Election,
    logs: logs::Logs,
    commits: commits::Commits,
    states: states::States,
    usage: usage::Usage,
}

// === impl Violation ===

impl Violation {
    pub(crate) const fn new(invariant: &'static str, what: String) -> Self {
        Self { invariant, what }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.invariant, self.what)
    }
}

// === impl Invariants ===

impl Invariants {
    /// Checks what can be seen between two steps.
    pub(crate) fn check(
        &mut self,
        nodes: &Nodes,
        running: &[Running],
        seen: &History,
    ) -> Result<(), Violation> {
        self.election.check(nodes, running)?;
        for node in running {
            self.logs.check(node)?;
        }
        for node in running {
            self.commits.check(nodes, node, &self.logs)?;
            self.states.check(node)?;
            self.usage.check(nodes, node)?;
        }
        usage::check_lives(nodes)?;
        answers::check(seen)
    }

    /// Checks what must hold in the end, when all is whole and quiet.
    pub(crate) fn check_end(
        &self,
        nodes: &Nodes,
        running: &[Running],
        seen: &History,
    ) -> Result<(), Violation> {
        for node in running {
            usage::check_end(nodes, node, running)?;
            answers::check_end(node, seen, &self.commits)?;
        }
        Ok(())
    }

    /// How far all nodes together have come.
    pub(crate) fn committed(&self) -> u64 {
        self.commits.last()
    }

    /// What is known of each node's votes.
    pub(crate) fn votes(&self) -> &BTreeMap<u64, (u64, u64)> {
        self.election.votes()
    }
}
