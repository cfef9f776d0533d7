//! The log without its thread: whoever owns the [`Stepper`] says when the next batch is written.
//!
//! For simulations, which have one thread and decide themselves how long a disk takes. Everything but the waiting is
//! the writer's own code; what is queued between two steps is read but not durable, as with the thread.

use std::fmt;
use std::sync::{Arc, Mutex};

use super::directory::Preparer;
use super::shared::WakeHook;
use super::writer::Writer;
use super::{Recovered, Wal, WalError, WalOptions, prepare};
use crate::disk::Disk;

/// Writes the log, one batch at a time.
pub struct Stepper {
    writer: Writer,
    ended: bool,
}

// === impl Wal ===

impl Wal {
    /// As [`Wal::open`], but nothing is written by itself: `wake` is called when there is work, and the stepper does it.
    ///
    /// # Errors
    /// As [`Wal::open`].
    pub fn open_stepped(
        disk: Arc<dyn Disk>,
        options: WalOptions,
        wake: impl Fn() + Send + Sync + 'static,
    ) -> Result<(Self, Recovered, Stepper), WalError> {
        let inline = |directory| Ok(Preparer::inline(directory));
        let (writer, recovered) = prepare(disk, options, inline)?;
        let shared = Arc::clone(&writer.shared);
        // It has none yet.
        let _ = shared.wake_hook.set(WakeHook(Box::new(wake)));
        let stepper = Stepper {
            writer,
            ended: false,
        };
        Ok((Self::over(shared, Mutex::new(None)), recovered, stepper))
    }
}

// === impl Stepper ===

impl Stepper {
    /// Writes, syncs and answers for one batch; `false` if there is none, or the log has ended.
    pub fn step(&mut self) -> bool {
        self.advance(false)
    }

    /// As [`Stepper::step`], and writes, without a sync, a committed position that found no batch to travel with.
    pub fn step_after_a_while(&mut self) -> bool {
        self.advance(true)
    }

    fn advance(&mut self, lingered: bool) -> bool {
        if self.ended {
            return false;
        }
        let Some(next) = self.writer.shared.try_next(lingered) else {
            return false;
        };
        let ended = match self.writer.serve_one(next) {
            Ok(false) => return true,
            Ok(true) => Ok(()),
            Err(error) => Err(error),
        };
        self.ended = true;
        self.writer.end(ended);
        true
    }
}

impl fmt::Debug for Stepper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stepper")
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::atomic::{AtomicU64, Ordering};

    use bytes::Bytes;

    use super::*;
    use crate::testing::FaultDisk;
    use crate::wal::{Position, Record};

    fn open(disk: &FaultDisk, wakes: &Arc<AtomicU64>) -> (Wal, Recovered, Stepper) {
        let mut options = WalOptions::new(Path::new("/wal"), [7; 16], 1);
        options.segment_bytes = 32 * 1024;
        let wakes = Arc::clone(wakes);
        let wake = move || {
            wakes.fetch_add(1, Ordering::SeqCst);
        };
        Wal::open_stepped(Arc::new(disk.clone()), options, wake).unwrap()
    }

    fn append(wal: &Wal, index: u64, answered: &Arc<AtomicU64>) {
        let position = Position { term: 1, index };
        let payload = Bytes::from(vec![5; 1_000]);
        let answered = Arc::clone(answered);
        let done = Box::new(move |result: Result<(), WalError>| {
            result.unwrap();
            answered.fetch_add(1, Ordering::SeqCst);
        });
        wal.append(vec![Record { position, payload }], done);
    }

    #[test]
    fn nothing_is_written_or_acknowledged_before_a_step_and_a_crash_then_loses_it() {
        let (disk, wakes) = (FaultDisk::new(), Arc::new(AtomicU64::new(0)));
        let answered = Arc::new(AtomicU64::new(0));
        let (wal, _, mut stepper) = open(&disk, &wakes);
        append(&wal, 1, &answered);
        assert!(stepper.step());
        append(&wal, 2, &answered);
        assert_eq!(wal.read(1, 3, usize::MAX).unwrap().len(), 2);
        let (acknowledged, woken) = (
            answered.load(Ordering::SeqCst),
            wakes.load(Ordering::SeqCst),
        );
        assert_eq!((acknowledged, woken), (1, 2));
        let (_, recovered, _) = open(&disk.image().crash(0), &wakes);
        assert_eq!(recovered.last, Some(Position { term: 1, index: 1 }));
    }

    #[test]
    fn segments_roll_and_the_end_is_marked_without_a_thread() {
        let (disk, wakes) = (FaultDisk::new(), Arc::new(AtomicU64::new(0)));
        let answered = Arc::new(AtomicU64::new(0));
        let (wal, _, mut stepper) = open(&disk, &wakes);
        for index in 1..=100 {
            append(&wal, index, &answered);
            assert!(stepper.step());
        }
        assert_eq!(answered.load(Ordering::SeqCst), 100);
        assert!(wal.stats().segments_created > 1);
        wal.close();
        assert!(stepper.step() && !stepper.step());
        let (_, recovered, _) = open(&disk.image().crash(0), &wakes);
        assert_eq!(recovered.last.map(|last| last.index), Some(100));
    }
}
