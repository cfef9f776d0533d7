//! What is counted of checkpoints and of their way between nodes, for whoever exports it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::types::SnapshotMeta;

/// Checkpoints of this node, and what was sent and received of them since the start.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct CheckpointStats {
    /// The log index of the newest one; 0 if there is none.
    pub index: u64,
    /// The cluster's wall clock there, Unix milliseconds; 0 before the first entry.
    pub wall_ms: u64,
    /// Its bytes.
    pub bytes: u64,
    /// How long the last one that this process wrote took, in microseconds.
    pub took_micros: u64,
    /// Snapshots that another node has installed.
    pub sent: u64,
    /// Snapshots of a leader that were installed here.
    pub received: u64,
    /// Chunks sent to others.
    pub chunks_sent: u64,
    /// Chunks that others had already.
    pub chunks_skipped: u64,
    /// Bytes of chunks sent to others.
    pub bytes_sent: u64,
    /// Bytes of chunks received.
    pub bytes_received: u64,
}

/// The same, as it is counted.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    index: AtomicU64,
    wall_ms: AtomicU64,
    bytes: AtomicU64,
    took_micros: AtomicU64,
    pub(crate) sent: AtomicU64,
    pub(crate) received: AtomicU64,
    pub(crate) chunks_sent: AtomicU64,
    pub(crate) chunks_skipped: AtomicU64,
    pub(crate) bytes_sent: AtomicU64,
    pub(crate) bytes_received: AtomicU64,
}

// === impl Counters ===

impl Counters {
    pub(super) fn newest(&self, at: &SnapshotMeta, wall_ms: u64, bytes: u64) {
        let index = at.last_log_id.map_or(0, |id| id.index);
        self.index.store(index, Ordering::Relaxed);
        self.wall_ms.store(wall_ms, Ordering::Relaxed);
        self.bytes.store(bytes, Ordering::Relaxed);
    }

    pub(super) fn took(&self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.took_micros.store(micros, Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> CheckpointStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        CheckpointStats {
            index: read(&self.index),
            wall_ms: read(&self.wall_ms),
            bytes: read(&self.bytes),
            took_micros: read(&self.took_micros),
            sent: read(&self.sent),
            received: read(&self.received),
            chunks_sent: read(&self.chunks_sent),
            chunks_skipped: read(&self.chunks_skipped),
            bytes_sent: read(&self.bytes_sent),
            bytes_received: read(&self.bytes_received),
        }
    }
}
