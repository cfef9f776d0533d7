//! What the crate promises to keep, against models, on disks that crash, fail, fill up and rot.
//!
//! One run of a random history shows all its crashes: the disk in memory keeps an image from before
//! each step, and each image is opened after losing some or all of what was unsynced. The model holds
//! every state that the history went through; what is found must be one of them, not older than the
//! newest acknowledged and not newer than what was asked for.

/// Call records: each once, before the position, but for damaged blocks.
mod call_log;
/// Checkpoints: the last acknowledged one or a later one, never a mixture.
mod checkpoint;
/// One changed byte or a cut in a file of each kind.
mod damage;
/// A log driven call by call, and the states it went through.
mod history;
/// Checkpoints that arrive from another node.
mod incoming;
/// Spools, whose maps no disk stands for: images of live files, with blocks taken back.
mod spool;
/// The log: crashes at every step, failing operations, full disks.
mod wal;
