//! When this node writes a checkpoint, and how much of the log it keeps.
//!
//! A batch may be a hundred bytes or a megabyte, so both are decided by entries and by bytes, whichever comes first. The consensus
//! library's own policies know entries only and are switched off.
//!
//! Invariant: the log is purged up to the older kept checkpoint at most ([`Checkpoints::reach`]).

use mode_envoy_storage::wal::Wal;

use crate::checkpoint::{Checkpoints, blocking};
use crate::tasks::Tasks;
use crate::types::{Raft, RaftMetrics};

/// When to write a checkpoint, and what to keep of the log.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keeping {
    /// Entries between two checkpoints.
    pub(super) every: u64,
    /// Bytes of log between two checkpoints.
    pub(super) every_bytes: u64,
    /// Entries kept behind the newest checkpoint.
    pub(super) keep: u64,
    /// Bytes kept behind the newest checkpoint.
    pub(super) keep_bytes: u64,
}

/// Log that came after the newest checkpoint.
struct Since {
    index: u64,
    bytes: u64,
    /// What the log had written in all by then.
    written: u64,
}

/// What is worked with.
struct Keeper {
    raft: Raft,
    wal: Wal,
    checkpoints: Checkpoints,
    keeping: Keeping,
}

/// Starts the task.
pub(super) fn start(
    tasks: &Tasks,
    raft: &Raft,
    wal: &Wal,
    checkpoints: &Checkpoints,
    keeping: Keeping,
) {
    let keeper = Keeper {
        raft: raft.clone(),
        wal: wal.clone(),
        checkpoints: checkpoints.clone(),
        keeping,
    };
    tasks.spawn("checkpoints", keeper.run());
}

// === impl Keeping ===

impl Keeping {
    fn is_due(&self, entries: u64, bytes: u64) -> bool {
        entries >= self.every || (entries > 0 && bytes >= self.every_bytes)
    }

    /// Up to which index the log may go, where nothing up to `reach` is needed, and where what fits into the bytes to keep
    /// behind a checkpoint at `newest` begins at `within`.
    fn purge_upto(&self, reach: u64, newest: u64, within: u64) -> u64 {
        let by_count = newest.saturating_sub(self.keep);
        reach.min(by_count.max(within.saturating_sub(1)))
    }
}

// === impl Since ===

impl Since {
    fn checkpoint(index: u64, wal: &Wal) -> Self {
        Self {
            index,
            bytes: wal.bytes_from(index.saturating_add(1)),
            written: wal.stats().bytes,
        }
    }

    fn bytes(&self, wal: &Wal) -> u64 {
        self.bytes + wal.stats().bytes.saturating_sub(self.written)
    }
}

// === impl Keeper ===

impl Keeper {
    async fn run(self) {
        let mut metrics = self.raft.metrics();
        let index = newest(&metrics.borrow());
        let mut since = Since::checkpoint(index, &self.wal);
        let mut asked = None;
        self.purge(index).await;
        while metrics.changed().await.is_ok() {
            let (index, applied) = {
                let metrics = metrics.borrow_and_update();
                let applied = metrics.last_applied.map_or(0, |id| id.index);
                (newest(&metrics), applied)
            };
            if index > since.index {
                since = Since::checkpoint(index, &self.wal);
                asked = asked.filter(|asked| *asked > index);
                self.purge(index).await;
            }
            let entries = applied.saturating_sub(since.index);
            let due = self.keeping.is_due(entries, since.bytes(&self.wal));
            if due && asked.is_none() {
                asked = Some(applied);
                // Where consensus has ended, the failure watch says so.
                let _ = self.raft.trigger().snapshot().await;
            }
        }
    }

    /// Lets go of the log that nothing needs.
    async fn purge(&self, newest: u64) {
        let checkpoints = self.checkpoints.clone();
        let reach = match blocking(move || checkpoints.reach()).await {
            Ok(Some(reach)) => reach,
            Ok(None) => return,
            Err(error) => {
                tracing::warn!(%error, "the log is not purged: the checkpoints could not be read");
                return;
            }
        };
        let within = self.wal.first_within(newest, self.keeping.keep_bytes);
        let upto = self.keeping.purge_upto(reach, newest, within);
        let purged = self.wal.purged().map_or(0, |purged| purged.index);
        if upto > purged {
            tracing::debug!(upto, newest, reach, "purging the log");
            let _ = self.raft.trigger().purge_log(upto).await;
        }
    }
}

fn newest(metrics: &RaftMetrics) -> u64 {
    metrics.snapshot.map_or(0, |id| id.index)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEEPING: Keeping = Keeping {
        every: 100,
        every_bytes: 1_000,
        keep: 50,
        keep_bytes: 5_000,
    };

    #[test]
    fn a_checkpoint_is_due_by_entries_or_by_bytes() {
        for (entries, bytes, due) in [
            (99, 999, false),
            (100, 0, true),
            (1, 1_000, true),
            (0, 1_000, false),
        ] {
            assert_eq!(KEEPING.is_due(entries, bytes), due, "{entries} {bytes}");
        }
    }

    #[test]
    fn the_log_is_kept_by_entries_and_bytes_and_always_back_to_the_older_checkpoint() {
        for (reach, newest, within, upto) in [
            (400, 500, 0, 400),   // the older checkpoint is nearer than what is to be kept
            (480, 500, 0, 450),   // 50 entries are kept
            (480, 500, 470, 469), // fewer, because they are large
            (480, 500, 501, 480), // even one of them is too large
            (10, 20, 0, 0),
        ] {
            let found = KEEPING.purge_upto(reach, newest, within);
            assert_eq!(found, upto, "{reach} {newest} {within}");
        }
    }
}
