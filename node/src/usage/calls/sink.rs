//! From the spools into the call log: each answered Close once, with where the feed stands in every block.
//!
//! Three sets of marks say how far each spool is fed, how far of that is in blocks, and how far of that is durable. The
//! spool is freed below the last one alone. Where the log fails the feed goes on, for those who follow, and a spool is
//! freed below what is fed.

use std::collections::BTreeMap;
use std::sync::Arc;

use metrics::{Counter, counter, gauge};
use mode_envoy_model::usage::batch::SpoolUuid;
use mode_envoy_storage::call_log::{CallEntry, CallLog, CallLogError, CallLogOptions};
use mode_envoy_storage::disk::Disk;

use super::CallStore;
use super::record::Kept;
use crate::metrics as names;
use crate::usage::record::{CloseHead, EncodedDims, EncodedTrail, RecordFault, Trail};

/// Records wait so long for a block to fill.
const BLOCK_AFTER_MS: u64 = 5_000;
/// Blocks are made durable so often.
const SYNC_AFTER_MS: u64 = 1_000;
/// Old segments are looked for so often.
const TIDY_AFTER_MS: u64 = 10_000;
/// Bytes of one mark in a position.
const MARK_BYTES: usize = 4 + 16 + 8;

/// The first record of each spool that is not there yet.
type Marks = BTreeMap<u32, (SpoolUuid, u64)>;

/// Feeds the call log. The flusher owns it.
#[derive(Debug)]
pub(crate) struct CallSink {
    node: u64,
    store: CallStore,
    log: Option<CallLog>,
    fed: Marks,
    written: Marks,
    synced: Marks,
    block_ms: u64,
    sync_ms: u64,
    tidy_ms: u64,
    dirty: bool,
    buffer: Vec<u8>,
    records: Counter,
}

/// A Close as it stands in its spool.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SpooledClose<'a> {
    pub(crate) wall_ms: u64,
    pub(crate) head: &'a CloseHead,
    pub(crate) dims: EncodedDims<'a>,
    pub(crate) trail: Option<EncodedTrail<'a>>,
}

// === impl CallSink ===

impl CallSink {
    /// Opens the log. One that cannot be opened is a failed one: calls are served, and counted, without it.
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        options: CallLogOptions,
        store: CallStore,
        now_ms: u64,
    ) -> Self {
        let mut sink = Self {
            node: options.node_id,
            store,
            log: None,
            fed: Marks::new(),
            written: Marks::new(),
            synced: Marks::new(),
            block_ms: now_ms,
            sync_ms: now_ms,
            tidy_ms: now_ms,
            dirty: false,
            buffer: Vec::new(),
            records: counter!(names::CALL_LOG_RECORDS),
        };
        gauge!(names::CALL_LOG_FAILED).set(0.0);
        match CallLog::open(disk, options, now_ms) {
            Ok((log, reader, found)) => {
                if found.torn_bytes > 0 {
                    let bytes = found.torn_bytes;
                    tracing::info!(bytes, "the call log had a torn tail; its calls come again");
                }
                sink.fed = found
                    .position
                    .as_deref()
                    .map(read_position)
                    .unwrap_or_default();
                sink.synced.clone_from(&sink.fed);
                sink.log = Some(log);
                sink.store.opened(reader);
                sink.tell();
            }
            Err(error) => sink.fail(&error),
        }
        sink
    }

    /// Where the feed of a spool goes on.
    pub(crate) fn start(
        &mut self,
        worker: u32,
        uuid: SpoolUuid,
        kept: std::ops::Range<u64>,
    ) -> u64 {
        let known = self.fed.get(&worker).filter(|(known, _)| *known == uuid);
        let seq = known.map_or(kept.start, |(_, seq)| *seq);
        let seq = seq.clamp(kept.start, kept.end.max(kept.start));
        self.fed.insert(worker, (uuid, seq));
        self.synced.insert(worker, (uuid, seq));
        seq
    }

    /// Forgets a spool that is gone.
    pub(crate) fn forget(&mut self, worker: u32) {
        for marks in [&mut self.fed, &mut self.written, &mut self.synced] {
            marks.remove(&worker);
        }
    }

    /// Spools that are not among these exist no more.
    pub(crate) fn keep_only(&mut self, workers: &[u32]) {
        self.fed.retain(|worker, _| workers.contains(worker));
        self.synced.retain(|worker, _| workers.contains(worker));
    }

    /// A spool's record is fed; `close` is there where it makes a record of a call.
    pub(crate) fn take(
        &mut self,
        worker: u32,
        seq: u64,
        close: Option<SpooledClose<'_>>,
    ) -> Result<(), RecordFault> {
        if let Some(close) = close.filter(|close| close.head.answered()) {
            self.keep(&close)?;
        }
        if let Some((_, fed)) = self.fed.get_mut(&worker) {
            *fed = seq.saturating_add(1);
        }
        Ok(())
    }

    /// The first record of a spool that must be kept for the call log.
    pub(crate) fn kept_to(&self, worker: u32) -> u64 {
        match &self.log {
            Some(_) => self.synced.get(&worker).map_or(0, |(_, seq)| *seq),
            // Those who follow are still to be told of it. A spool that has no mark is not fed at all.
            None => self.fed.get(&worker).map_or(u64::MAX, |(_, seq)| *seq),
        }
    }

    /// What is due by time; whether more of the spools may be freed now.
    pub(crate) fn tick(&mut self, now_ms: u64) -> bool {
        let pending = self.log.as_ref().is_some_and(CallLog::has_pending);
        if !pending {
            self.block_ms = now_ms;
        } else if now_ms.saturating_sub(self.block_ms) >= BLOCK_AFTER_MS {
            self.block(now_ms);
        }
        let mut freed = false;
        if self.dirty && now_ms.saturating_sub(self.sync_ms) >= SYNC_AFTER_MS {
            self.sync(now_ms);
            freed = true;
        }
        if now_ms.saturating_sub(self.tidy_ms) >= TIDY_AFTER_MS {
            self.tidy_ms = now_ms;
            self.with_log(|log| log.tick(now_ms));
            // Behind the last block there may be records that make no call; nothing waits for them.
            if !self.dirty && self.log.as_ref().is_none_or(|log| !log.has_pending()) {
                self.synced.clone_from(&self.fed);
                freed = true;
            }
            self.tell();
        }
        freed
    }

    /// Makes everything durable that was fed.
    pub(crate) fn finish(&mut self, now_ms: u64) {
        self.block(now_ms);
        self.sync(now_ms);
    }

    fn keep(&mut self, close: &SpooledClose<'_>) -> Result<(), RecordFault> {
        // The block that is full ends before this record, so the marks fit it.
        if self.log.as_ref().is_some_and(CallLog::wants_block) {
            self.block(close.wall_ms);
        }
        let trail = close.trail.map(EncodedTrail::read).transpose();
        let trail = trail.map(Option::unwrap_or_default);
        let trail = trail.unwrap_or_else(|error| {
            tracing::error!(%error, "a call's record is kept without what was asked");
            Trail::default()
        });
        let kept = Kept {
            node: self.node,
            wall_ms: close.wall_ms,
            head: close.head,
            dims: close.dims.read()?,
            trail,
        };
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        kept.encode_into(&mut buffer);
        let (hashes, time_ms) = (kept.hashes(), kept.start_ms());
        self.with_log(|log| {
            log.append(&CallEntry {
                time_ms,
                hashes: hashes.as_slice(),
                bytes: &buffer,
            })
        });
        self.records.increment(1);
        self.store.tail_of().push(&buffer);
        self.buffer = buffer;
        Ok(())
    }

    fn block(&mut self, now_ms: u64) {
        let position = write_position(&self.fed);
        self.with_log(|log| log.write_block(&position, now_ms));
        self.written.clone_from(&self.fed);
        (self.block_ms, self.dirty) = (now_ms, true);
    }

    fn sync(&mut self, now_ms: u64) {
        self.with_log(CallLog::sync);
        self.synced.clone_from(&self.written);
        (self.sync_ms, self.dirty) = (now_ms, false);
    }

    /// Does something with the log, if it works. Where that fails, the log has failed.
    fn with_log(&mut self, work: impl FnOnce(&mut CallLog) -> Result<(), CallLogError>) {
        if let Some(log) = &mut self.log
            && let Err(error) = work(log)
        {
            self.fail(&error);
        }
    }

    fn fail(&mut self, error: &CallLogError) {
        self.log = None;
        let error = error as &dyn std::error::Error;
        tracing::error!(
            error,
            "no call records are kept from now on; usage is counted as before"
        );
        gauge!(names::CALL_LOG_FAILED).set(1.0);
        self.store
            .failed(format!("no call records are kept any more: {error}"));
    }

    fn tell(&self) {
        let bytes = self.log.as_ref().map_or(0, CallLog::bytes);
        gauge!(names::CALL_LOG_BYTES).set(names::number(bytes));
        gauge!(names::CALL_LOG_DAMAGED).set(names::number(self.store.damaged()));
    }
}

fn write_position(marks: &Marks) -> Vec<u8> {
    let mut out = Vec::with_capacity(marks.len() * MARK_BYTES);
    for (worker, (uuid, seq)) in marks {
        out.extend_from_slice(&worker.to_le_bytes());
        out.extend_from_slice(uuid);
        out.extend_from_slice(&seq.to_le_bytes());
    }
    out
}

/// A position that is not ours is none: the feed goes on where the spools begin.
fn read_position(bytes: &[u8]) -> Marks {
    let mark = |mark: &[u8]| {
        let (worker, rest) = mark.split_first_chunk()?;
        let (uuid, seq) = rest.split_first_chunk()?;
        let seq = u64::from_le_bytes(seq.try_into().ok()?);
        Some((u32::from_le_bytes(*worker), (*uuid, seq)))
    };
    bytes.chunks(MARK_BYTES).filter_map(mark).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_read_back_and_another_one_is_none() {
        let marks = Marks::from([(0, ([1; 16], 7)), (9, ([2; 16], u64::MAX))]);
        assert_eq!(read_position(&write_position(&marks)), marks);
        assert_eq!(read_position(b"something else"), Marks::new());
    }
}
