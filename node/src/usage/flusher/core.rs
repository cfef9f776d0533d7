//! What the flusher does between two waits: read, add up, compose, trim. It reads files and knows no log.
//!
//! Invariants:
//! * only records that are durable are composed, so the log never counts what a power cut could take back;
//! * a spool is trimmed below what is counted, below what the call log has made durable and below every open attempt,
//!   never above;
//! * a record is counted by the batch whose range holds it, and ranges meet without gap or overlap.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use mode_envoy_model::batch::Outcome;
use mode_envoy_model::ledger::ask::{Ask, LeaseId, LeaseUse};
use mode_envoy_model::usage::batch::{Register, SpoolRange, SpoolUuid, UsageBatch};
use mode_envoy_model::usage::series::SeriesKey;
use mode_envoy_model::usage::streams;
use mode_envoy_storage::spool;

use super::fill::Fill;
use super::side::{FlushFailure, Side};
use crate::usage::aggregate::Aggregate;
use crate::usage::calls::CallSink;
use crate::usage::recorder::Recorder;
use crate::usage::recovery::{PAGE_RECORDS, Spool};
use crate::usage::stream::{Meaning, Need, Stream};

/// Records of one batch, all spools together.
const BATCH_RECORDS: usize = 262_144;
/// Records that the call log is fed with at a time; the rest comes at the next.
const FEED_RECORDS: usize = 65_536;

/// The flusher without its waits.
#[derive(Debug)]
pub(crate) struct Core {
    dir: PathBuf,
    stream: Stream,
    sides: Vec<Side>,
    calls: Option<CallSink>,
    /// Of workers that exist no more: what they owe is written by whoever reads their spools.
    owing: Vec<Recorder>,
    /// Of what is presumed of earlier lives, some was not written at the start: it may be at any time.
    owes: bool,
    /// Which spool is read first, so that none starves.
    turn: usize,
    /// Spools that are counted to their end are kept: the log is to be told so of an earlier life.
    keeps_drained: bool,
}

/// What a batch says of limits.
pub(crate) type Said = (Vec<LeaseUse>, Vec<Ask>);

/// What a node's spools hold up to, by worker.
pub(crate) type Marks = BTreeMap<u32, u64>;

// === impl Core ===

impl Core {
    pub(crate) fn new(node: u64, dir: PathBuf, spools: Vec<Spool>) -> Self {
        let stream = Stream::new(node, spools.iter().map(|s| (s.worker, s.reader.uuid())));
        Self {
            dir,
            stream,
            sides: spools.into_iter().map(Side::new).collect(),
            calls: None,
            owing: Vec::new(),
            owes: false,
            turn: 0,
            keeps_drained: false,
        }
    }

    /// Where the spools are.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The same, with a call log to feed.
    pub(crate) fn with_calls(mut self, mut calls: CallSink) -> Self {
        for side in &mut self.sides {
            side.start_feed(&mut calls);
        }
        let workers: Vec<u32> = self.sides.iter().map(Side::worker).collect();
        calls.keep_only(&workers);
        self.calls = Some(calls);
        self
    }

    /// The same, with recorders whose workers exist no more; `owes` says whether what is presumed has yet to be written.
    pub(crate) fn with_owing(self, owing: Vec<Recorder>, owes: bool) -> Self {
        Self {
            owing,
            owes,
            ..self
        }
    }

    /// Whether everything that earlier lives of this node left is in their spools.
    pub(crate) const fn is_settled(&self) -> bool {
        !self.owes
    }

    /// Feeds the call log with what is durable; `true` if it has caught up.
    pub(crate) fn feed_calls(&mut self, now_ms: u64) -> Result<bool, FlushFailure> {
        let Some(calls) = &mut self.calls else {
            return Ok(true);
        };
        let mut room = FEED_RECORDS;
        for side in &mut self.sides {
            side.feed(calls, &mut room)?;
        }
        if calls.tick(now_ms) && !matches!(self.stream.need(), Need::Register) {
            self.trim_all()?;
            self.remove_drained()?;
        }
        Ok(room > 0)
    }

    /// Feeds the call log to the end and makes it durable.
    pub(crate) fn finish_calls(&mut self, now_ms: u64) -> Result<(), FlushFailure> {
        while !self.feed_calls(now_ms)? {}
        if let Some(calls) = &mut self.calls {
            calls.finish(now_ms);
        }
        Ok(())
    }

    pub(crate) fn need(&self) -> Need<'_> {
        self.stream.need()
    }

    /// What starts a new incarnation, given the stream as the state has it.
    pub(crate) fn register(&self, state: Option<&streams::Stream>) -> Register {
        self.stream.register(state)
    }

    /// Takes over the positions of the state after a Register was applied.
    pub(crate) fn registered(
        &mut self,
        incarnation: u64,
        state: Option<&streams::Stream>,
    ) -> Result<(), FlushFailure> {
        self.stream.registered(incarnation, state);
        if matches!(self.stream.need(), Need::Register) {
            return Ok(());
        }
        for side in &self.sides {
            let (acked_to, next_seq) = (self.stream.acked_to(side.worker()), side.next_seq());
            if acked_to > next_seq {
                let (worker, dir) = (side.worker(), self.dir.clone());
                return Err(FlushFailure::Lost {
                    worker,
                    dir,
                    next_seq,
                    acked_to,
                });
            }
        }
        self.remove_drained()
    }

    /// Makes everything written so far durable, and tells recorders what they need to know.
    pub(crate) fn sync(&mut self, now_ms: u64) -> Result<(), FlushFailure> {
        self.owing.retain(|recorder| {
            recorder.settle();
            recorder.has_waiting()
        });
        let result = self.sides.iter_mut().try_for_each(|side| side.sync(now_ms));
        if result.is_err() {
            let notices = self
                .sides
                .iter()
                .filter_map(|side| side.spool.notice.as_ref());
            notices.for_each(|notice| notice.set_failed());
        }
        result
    }

    /// The spool that is nearest to its bound.
    pub(crate) fn fullest(&self) -> Option<Fill> {
        let share = |fill: &Fill| {
            (
                fill.level,
                fill.bytes.saturating_mul(1_000) / fill.max_bytes.max(1),
            )
        };
        self.sides.iter().map(Side::fill).max_by_key(share)
    }

    /// Composes a batch of what is durable and not yet counted, and of what there is to say of limits, given what leases
    /// paid for what is counted; `false` if there is nothing.
    pub(crate) fn compose(
        &mut self,
        say: impl FnOnce(&BTreeMap<LeaseId, u64>) -> Said,
        known: impl Fn(&SeriesKey) -> Option<u32>,
    ) -> Result<bool, FlushFailure> {
        let mut aggregate = Aggregate::default();
        let mut room = BATCH_RECORDS;
        let mut ranges = Vec::new();
        let count = self.sides.len();
        for offset in 0..count {
            let Some(side) = self.sides.get_mut((self.turn + offset) % count) else {
                continue;
            };
            let from = self.stream.acked_to(side.worker());
            let to = side.read(from, &mut aggregate, &mut room)?;
            if to > from {
                ranges.extend(self.stream.range(side.worker(), to));
            }
        }
        self.turn = self.turn.wrapping_add(1);
        let said = say(aggregate.spent());
        if ranges.is_empty() && said.0.is_empty() && said.1.is_empty() {
            return Ok(false);
        }
        self.stream
            .compose(ranges, aggregate.into_parts(), said, known);
        Ok(true)
    }

    /// Takes the answer to a batch; trims what is counted.
    pub(crate) fn answered(&mut self, outcome: &Outcome) -> Result<Meaning, FlushFailure> {
        let meaning = self.stream.answered(outcome);
        if let Meaning::Counted(ranges) = &meaning {
            self.trim(ranges)?;
            self.remove_drained()?;
        }
        Ok(meaning)
    }

    /// How far each spool is written.
    pub(crate) fn written(&self) -> Marks {
        self.sides
            .iter()
            .map(|side| (side.worker(), side.next_seq()))
            .collect()
    }

    /// The same, by the spools' identities.
    pub(crate) fn ends(&self) -> Vec<(SpoolUuid, u64)> {
        let end = |side: &Side| (side.spool.reader.uuid(), side.next_seq());
        self.sides.iter().map(end).collect()
    }

    /// How far each spool is counted.
    pub(crate) fn acked(&self) -> impl Iterator<Item = (SpoolUuid, u64)> {
        let acked = |side: &Side| {
            let acked_to = self.stream.acked_to(side.worker());
            (side.spool.reader.uuid(), acked_to)
        };
        self.sides.iter().map(acked)
    }

    /// Whether spools that are counted to their end are kept.
    pub(crate) fn keep_drained(&mut self, keep: bool) {
        self.keeps_drained = keep;
    }

    /// Whether everything below the marks is counted. A spool that is gone was counted to its end.
    pub(crate) fn covers(&self, marks: &Marks) -> bool {
        self.sides.iter().all(|side| {
            let mark = marks.get(&side.worker()).copied().unwrap_or(0);
            self.stream.acked_to(side.worker()) >= mark
        })
    }

    /// Whether another batch is due at once.
    pub(crate) fn is_behind(&self) -> bool {
        let left = |side: &Side| {
            side.durable_to()
                .saturating_sub(self.stream.acked_to(side.worker()))
        };
        self.sides
            .iter()
            .any(|side| left(side) > PAGE_RECORDS as u64)
    }

    /// Bytes of all spools on disk.
    pub(crate) fn bytes(&self) -> u64 {
        self.sides
            .iter()
            .map(|side| side.spool.reader.bytes())
            .sum()
    }

    /// The batch that waits for an answer, for tests and for sending.
    pub(crate) fn sent(&self) -> Option<&UsageBatch> {
        match self.stream.need() {
            Need::Answer(batch) => Some(batch),
            Need::Register | Need::Compose => None,
        }
    }

    fn trim(&mut self, ranges: &[SpoolRange]) -> Result<(), FlushFailure> {
        for side in &mut self.sides {
            if ranges.iter().any(|range| range.worker == side.worker()) {
                side.trim(done_to(&self.stream, self.calls.as_ref(), side.worker()))?;
            }
        }
        Ok(())
    }

    fn trim_all(&mut self) -> Result<(), FlushFailure> {
        for side in &mut self.sides {
            side.trim(done_to(&self.stream, self.calls.as_ref(), side.worker()))?;
        }
        Ok(())
    }

    /// Removes the spools of workers that exist no more and are counted to their end.
    fn remove_drained(&mut self) -> Result<(), FlushFailure> {
        if self.keeps_drained {
            return Ok(());
        }
        let (stream, calls) = (&self.stream, self.calls.as_ref());
        let drained = |side: &mut Side| {
            let gone = side.spool.notice.is_none();
            let fed = calls.is_none() || side.fed_to() >= side.next_seq();
            gone && fed && done_to(stream, calls, side.worker()) >= side.next_seq()
        };
        let drained: Vec<Side> = self.sides.extract_if(.., drained).collect();
        let place = |side: &Side| (side.worker(), side.spool.reader.disk());
        let workers: Vec<_> = drained.iter().map(place).collect();
        // A spool that is open is not removed.
        drop(drained);
        for (worker, disk) in workers {
            self.stream.forget(worker);
            if let Some(calls) = &mut self.calls {
                calls.forget(worker);
            }
            spool::remove(&*disk, &self.dir, worker)
                .map_err(|source| FlushFailure::Spool { worker, source })?;
            tracing::info!(
                worker,
                "removed the drained usage spool of a worker that exists no more"
            );
        }
        Ok(())
    }
}

/// The first record of a spool that somebody still needs.
fn done_to(stream: &Stream, calls: Option<&CallSink>, worker: u32) -> u64 {
    let kept_to = calls.map_or(u64::MAX, |calls| calls.kept_to(worker));
    stream.acked_to(worker).min(kept_to)
}
