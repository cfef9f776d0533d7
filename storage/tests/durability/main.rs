//! What the crate promises to keep, shown by closing, cutting, damaging and opening real files.
#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests fail by panicking, and clippy knows only the tests themselves"
)]

/// Files that tests read and change behind the crate's back.
mod files;
/// A log in a directory of its own, and calls that wait.
mod wal_fixture;

/// Checkpoints: replaced whole, damage seen.
mod checkpoint;
/// The spool: records survive, torn tails go, bounds hold.
mod spool;
/// The log's calls: order, limits, reading back, closing.
mod wal;
/// The log on a disk that fails: it stops, and says so to everyone.
mod wal_failure;
/// The log against a model, over random calls and openings.
mod wal_model;
/// The log after accidents: torn tails are cut, synced damage is refused.
mod wal_recovery;
