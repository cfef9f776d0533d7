//! What is durable in Mode Envoy, and when.
//!
//! Everything a node keeps on its disk is written here, and nowhere else. One record framing serves
//! every file; what differs is who writes, and what must survive which accident:
//!
//! | module | holds | survives a killed process | survives a power cut |
//! |---|---|---|---|
//! | [`wal`] | vote and log of the replicated state | all that was acknowledged | all that was acknowledged |
//! | [`checkpoint`] | the state at one log position | the last complete one | the last complete one |
//! | [`backup`] | a checkpoint as one file elsewhere | the writer's to see to | the writer's to see to |
//! | [`spool`] | usage not yet replicated | every record | all but what came after the last sync |
//! | [`projection`] | what can be computed again | perhaps | perhaps; never anything wrong |
//! | [`call_log`] | single calls of the last days | what was written; the spool has the rest | what was synced; the spool has the rest |
//!
//! Invariants of the whole crate: bytes are checked before they are believed, a length is bounded
//! before it is allocated, and a file of another cluster, another node or a newer format is refused.

mod bytes_reader;
mod frame;
mod segment;

// The operations on files that tests replace.
pub mod disk;

// The write-ahead log.
pub mod wal;

// Snapshots of the state.
pub mod checkpoint;

// A checkpoint as one file, to be kept elsewhere.
pub mod backup;

// Usage records on their way into the replicated log.
pub mod spool;

// Records of single calls.
pub mod call_log;

// What can be computed again: the only user of sled.
pub mod projection;

// Fixed-layout encoding of what stands in spools and in the projection.
pub mod codec;

// A disk that loses, tears and refuses.
#[cfg(any(test, feature = "testing"))]
pub mod testing;

// What the crate promises to keep, on that disk.
#[cfg(test)]
mod faults;
