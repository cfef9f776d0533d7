//! Usage, from a worker's record to an answer on any node.
//!
//! ```text
//! worker: Recorder -> spool (memory map, survives kill -9)         recovery: Opens without a Close are presumed
//!                       -> flusher (one thread): rows per (minute, series) -> raft -> cells on every node
//!                       <- trims what is counted                                -> queries <- projection of sums
//!                       -> call log: a record of each call, on this node (calls.rs)
//! ```
//!
//! Invariant of the whole: a Close that was written is counted once. Position is identity: a batch names the range
//! of each spool that it covers, and is counted only if the range starts where the last one ended.

pub mod record;
pub mod recorder;

pub(crate) mod aggregate;
pub(crate) mod chance;
pub(crate) mod opens;
pub(crate) mod projection;
pub(crate) mod recovery;
pub(crate) mod totals;

pub(crate) use mode_envoy_model::usage::sender as stream;

pub mod calls;
pub mod flush;
pub(crate) mod flusher;
pub mod queries;

#[cfg(feature = "sim")]
pub mod sim;

#[cfg(test)]
mod end_to_end_test;
#[cfg(test)]
pub(crate) mod testing;

pub use queries::Queries;
