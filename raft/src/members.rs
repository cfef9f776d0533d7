//! Who the members are to be, and how the membership gets there, one change at a time; and how leadership moves.
//!
//! ```text
//! log: NodeJoined, NodeRemoved --> catalog: who is to be a member
//! leader: plan(membership, catalog, who answers and how far it is) --> one step --> membership entry --> plan again
//! ```
//!
//! The rule: there are as many voters as there are members, but an odd number and five at most; of two members both vote, so
//! that what is acknowledged is on two disks. A member that votes is not made a learner again to get an odd number. A learner
//! becomes a voter when it answers and has caught up, the lowest id first. Where a voter goes and a learner can take its
//! place, both happen in one change.
//!
//! Invariants:
//! * What is wanted stands in the log, so that any leader goes on where the last one stopped; the plan is pure.
//! * A set of voters is only changed to one of which most answer. A leader that is to go hands over first.
//! * A removed node is refused in consensus once the membership no longer has it, and is told so when it asks.

mod keeper;
mod plan;
mod removed;
mod service;
mod transfer;

pub(crate) use keeper::keep;
pub(crate) use plan::{View, goal};
pub use removed::Departure;
pub(crate) use removed::{left, watch_removal};
pub(crate) use service::MembersService;
pub use transfer::TransferError;
pub(crate) use transfer::{Leadership, transfer};
