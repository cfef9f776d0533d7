//! What one node may admit under the limits of its cluster, and what it asks the log for.
//!
//! ```text
//! take_all(limits of a call) --+--> Reservation --settle--> what was not used is free again on this node
//!   (any thread, no lock,      +--> Refused               limited | limiter_unavailable, with the facts
//!    no await, no allocation)  +--> Cold --> Keeper::enqueue --> asks in the next batch --> applied --> Decision
//! ```
//!
//! A node spends nothing but what an applied entry moved to its lease, so that the sum of what the nodes
//! admit is never above the amount, whatever is lost, repeated or late. Everything here is a value or an atomic: time is
//! an argument ([`Now`]), channels and batches belong to the caller. A thread of the data plane calls [`take_all`] and
//! reads [`header`]s; the one owner of the [`Keeper`] tells it what the log applied and composes its batches.
//!
//! Reading order: [`now`], `lease` and `slice` (what is spent), [`taking`] (all limits of a call or none), `local` (limits
//! that no other node knows of), [`keeper`] (what is asked for and given back), [`header`] and [`refusal`] (what is told).

pub mod header;
pub mod keeper;
pub mod now;
pub mod pools;
pub mod refusal;
pub mod slice;
pub mod taking;

mod calendar;
mod facts;
mod lease;
mod local;
mod number;

pub use keeper::{Decision, Enqueued, Keeper, Plan, Ticket, Verdict};
pub use now::Now;
pub use pools::{Pools, PoolsFull};
pub use refusal::{Reason, Refusal};
pub use slice::Slice;
pub use taking::{Charge, LIMITS_PER_CALL, NotTaken, Reservation, take_all};
