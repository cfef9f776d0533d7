//! The flusher: one thread per node that moves usage from the spools into the log.
//!
//! Beside usage its batches carry what this node says of limits (`limiting.rs`): what leases paid, what goes back, what is
//! asked for. Every 100 ms it makes the spools durable and feeds the call log. Every 500 ms, at once while it is behind, and at once when somebody
//! waits for a flush, it composes a batch and sends it until the log's answer is known. One thing is in flight at a
//! time, and while it is, syncing goes on. Without a quorum it keeps trying and the spools grow to their bound.
//!
//! The thread has a runtime of its own, so that a slow disk holds up nobody else.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use metrics::{counter, gauge};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use mode_envoy_model::batch::{Evict, Final, Outcome};
use mode_envoy_model::state::State;
use mode_envoy_model::usage::batch::{Register, SpoolUuid, UsageBatch};
use mode_envoy_model::usage::streams::Stream;
use mode_envoy_raft::{Handle, ProposeError};

use crate::alarms::Alarms;
use crate::limits::Limits;
use crate::metrics as names;
use crate::supervisor::TaskError;

use self::core::Marks;
use self::fill::Teller;
use self::limiting::Limiting;
use self::pace::Pace;
use super::calls::SettleRequests;
use super::flush::{FlushRequests, Waiter};
use super::recorder::wall_ms;
use super::stream::{Meaning, Need};

#[cfg(test)]
mod calls_test;
mod core;
#[cfg(test)]
mod exactly_once_test;
mod fill;
mod limiting;
mod pace;
mod side;

pub(crate) use self::core::Core;
pub(crate) use self::fill::Level;

const SYNC_EVERY: Duration = Duration::from_millis(100);
const FLUSH_EVERY: Duration = Duration::from_millis(500);
/// How long one answer is waited for before the same thing is sent again.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// After the log did not take what it should, that long it is left alone.
const AGAIN: Duration = Duration::from_secs(1);

type InFlight = Pin<Box<dyn Future<Output = Reply> + Send>>;

/// Moves usage from the spools into the log.
pub(crate) struct Flusher {
    core: Core,
    handle: Handle,
    requests: FlushRequests,
    settle: SettleRequests,
    waiters: Vec<(Marks, Waiter)>,
    pace: Pace,
    teller: Teller,
    limiting: Limiting,
}

/// Whether what was written of late is to be made durable, and so counted, before a batch is composed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Sync {
    First,
    Later,
}

enum Reply {
    Registered(Result<u64, ProposeError>),
    Counted(Result<Outcome, ProposeError>),
    Finished(Result<Outcome, ProposeError>),
}

// === impl Flusher ===

impl Flusher {
    pub(crate) fn new(
        core: Core,
        handle: Handle,
        (requests, settle, limits): (FlushRequests, SettleRequests, Limits),
        alarms: Alarms,
    ) -> Self {
        Self {
            limiting: Limiting::new(limits, handle.clone()),
            pace: Pace::new(wall_ms()),
            teller: Teller::new(core.dir().to_owned(), alarms),
            core,
            handle,
            requests,
            settle,
            waiters: Vec::new(),
        }
    }

    /// Runs on the calling thread until it is told to stop; then what is written is durable.
    pub(crate) fn run(self, stop: &CancellationToken) -> Result<(), TaskError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(self.run_until(stop))
    }

    /// The same, on a runtime of the caller's.
    pub(crate) async fn run_until(mut self, stop: &CancellationToken) -> Result<(), TaskError> {
        let mut sync = interval(SYNC_EVERY);
        let mut cadence = interval(FLUSH_EVERY);
        sync.set_missed_tick_behavior(MissedTickBehavior::Delay);
        cadence.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut in_flight: Option<InFlight> = self.begin()?;
        loop {
            tokio::select! {
                () = stop.cancelled() => {
                    self.core.sync(wall_ms())?;
                    return Ok(self.core.finish_calls(wall_ms())?);
                }
                _ = sync.tick() => {
                    self.core.sync(wall_ms())?;
                    self.core.feed_calls(wall_ms())?;
                    gauge!(names::USAGE_SPOOL_BYTES).set(names::number(self.core.bytes()));
                    self.pace.stuck.waits = in_flight.is_some();
                    self.teller.tell(self.core.fullest(), &self.pace.stuck);
                }
                _ = cadence.tick(), if in_flight.is_none() => in_flight = self.begin()?,
                Some(waiter) = self.settle.0.recv() => {
                    self.core.sync(wall_ms())?;
                    while !self.core.feed_calls(wall_ms())? {}
                    // Whoever no longer waits is no failure.
                    let _ = waiter.send(());
                }
                Some(waiter) = self.requests.0.recv() => {
                    self.waiters.push((self.core.written(), waiter));
                    self.answer_waiters();
                    if in_flight.is_none() {
                        in_flight = self.begin()?;
                    }
                }
                event = self.limiting.next(in_flight.is_some()) => {
                    self.limiting.on(event, in_flight.is_some());
                    let now = self.limiting.is_urgent() || self.limiting.is_due();
                    if in_flight.is_none() && now {
                        in_flight = self.begin_with(Sync::Later)?;
                    }
                }
                reply = answer(&mut in_flight) => {
                    self.take(reply)?;
                    in_flight = if self.goes_on() { self.begin()? } else { None };
                }
            }
        }
    }

    /// Whether there is something to do at once.
    fn goes_on(&self) -> bool {
        let urgent = self.limiting.is_urgent();
        let more = !self.waiters.is_empty() || self.core.is_behind() || urgent;
        more || !matches!(self.core.need(), Need::Compose)
    }

    /// Starts whatever the stream needs next.
    fn begin(&mut self) -> Result<Option<InFlight>, TaskError> {
        self.begin_with(Sync::First)
    }

    fn begin_with(&mut self, sync: Sync) -> Result<Option<InFlight>, TaskError> {
        if matches!(self.core.need(), Need::Compose) {
            if let Some(finish) = self.finish() {
                return Ok(Some(finish));
            }
            if matches!(sync, Sync::First) {
                self.core.sync(wall_ms())?;
            }
            let series = self.handle.usage().series;
            let limiting = &mut self.limiting;
            let composed = self
                .core
                .compose(|spent| limiting.say(spent), |key| series.id_of(key))?;
            if !composed {
                self.pace.counted(wall_ms());
            }
        }
        let (handle, wait) = (self.handle.clone(), self.pace.wait);
        Ok(match self.core.need() {
            Need::Compose => None,
            Need::Register => {
                let register = self.core.register(self.stream().as_ref());
                Some(Box::pin(async move {
                    sleep(wait).await;
                    Reply::Registered(register_and_apply(&handle, register).await)
                }))
            }
            Need::Answer(batch) => {
                let batch = batch.clone();
                Some(Box::pin(async move {
                    sleep(wait).await;
                    Reply::Counted(count_and_apply(&handle, batch).await)
                }))
            }
        })
    }

    /// Gives an earlier life of this node back, once all that it recorded is counted.
    fn finish(&mut self) -> Option<InFlight> {
        let core = &mut self.core;
        core.keep_drained(self.limiting.unfinished().is_some());
        if !core.is_settled() {
            // The next start will do it: what is presumed may be written at any time.
            return None;
        }
        let acked: BTreeMap<_, _> = core.acked().collect();
        let acked = |uuid: &SpoolUuid| acked.get(uuid).copied().unwrap_or(u64::MAX);
        let done = self.limiting.finish(|| core.ends(), acked)?;
        let (handle, wait) = (self.handle.clone(), self.pace.wait);
        let doubtful = self.limiting.is_doubtful(done.incarnation);
        Some(Box::pin(async move {
            sleep(wait).await;
            Reply::Finished(finish_and_apply(&handle, done, doubtful).await)
        }))
    }

    fn take(&mut self, reply: Reply) -> Result<(), TaskError> {
        match reply {
            Reply::Registered(Ok(incarnation)) => self.registered(incarnation)?,
            Reply::Counted(Ok(outcome)) => self.counted(&outcome)?,
            Reply::Finished(Ok(outcome)) => {
                tracing::info!(?outcome, "what an earlier life of this node left of limits");
            }
            Reply::Registered(Err(error))
            | Reply::Counted(Err(error))
            | Reply::Finished(Err(error)) => self.unanswered(&error),
        }
        Ok(())
    }

    /// Our stream as this node's state has it. Behind the log it may be old: a Register that follows it is void
    /// then, and is tried again.
    fn stream(&self) -> Option<Stream> {
        let node = self.handle.node_id();
        self.handle
            .read(|state| state.usage.streams.get(node).cloned())
    }

    fn registered(&mut self, incarnation: u64) -> Result<(), TaskError> {
        let node = self.handle.node_id();
        let stream = self
            .handle
            .read(|state| state.usage.streams.get(node).cloned());
        self.core.registered(incarnation, stream.as_ref())?;
        self.limiting.registered(incarnation);
        tracing::info!(incarnation, "usage stream registered");
        self.answer_waiters();
        Ok(())
    }

    fn counted(&mut self, outcome: &Outcome) -> Result<(), TaskError> {
        let rows = self.core.sent().map_or(0, |batch| batch.rows.len());
        let meaning = self.core.answered(outcome)?;
        self.pace.answered(&meaning, wall_ms());
        match meaning {
            Meaning::Counted(_) => {
                counter!(names::USAGE_BATCHES, "outcome" => "counted").increment(1);
                counter!(names::USAGE_ROWS).increment(rows as u64);
                self.limiting.counted();
                self.answer_waiters();
            }
            Meaning::SendAgain => {}
            Meaning::Register => {
                counter!(names::USAGE_BATCHES, "outcome" => "fenced").increment(1);
                self.limiting.fenced();
                tracing::info!(?outcome, "usage stream registers again");
            }
            Meaning::Refused => {
                counter!(names::USAGE_BATCHES, "outcome" => "refused").increment(1);
                self.limiting.fenced();
                tracing::error!(
                    "the log refuses a usage batch as malformed; usage stays in the spool"
                );
            }
        }
        Ok(())
    }

    fn unanswered(&mut self, error: &ProposeError) {
        self.pace.not_counted(error.to_string());
        counter!(names::USAGE_BATCHES, "outcome" => "unanswered").increment(1);
        tracing::debug!(%error, "the log did not answer the usage stream; it is asked again");
    }

    fn answer_waiters(&mut self) {
        let core = &self.core;
        // Whoever no longer waits is no failure.
        for (_, waiter) in self.waiters.extract_if(.., |(marks, _)| core.covers(marks)) {
            let _ = waiter.send(());
        }
        self.waiters.retain(|(_, waiter)| !waiter.is_closed());
    }
}

async fn register_and_apply(handle: &Handle, register: Register) -> Result<u64, ProposeError> {
    let incarnation = handle.register(register, ANSWER_TIMEOUT).await?;
    handle.wait_applied(incarnation, ANSWER_TIMEOUT).await?;
    Ok(incarnation)
}

/// What became of a batch, once this node has applied it too: its grants are in this node's books then.
async fn count_and_apply(handle: &Handle, batch: UsageBatch) -> Result<Outcome, ProposeError> {
    let (node, seq) = (batch.node, batch.seq);
    let outcome = handle.count(batch, ANSWER_TIMEOUT).await?;
    if outcome == Outcome::Counted {
        let next = |state: &State| state.usage.streams.get(node).map_or(0, |s| s.next_seq);
        applied(handle, |state| next(state) > seq).await;
    }
    Ok(outcome)
}

/// What became of giving a life back, or of burning what it had where a spool of it is lost; once this node has applied it.
async fn finish_and_apply(
    handle: &Handle,
    done: Final,
    doubtful: bool,
) -> Result<Outcome, ProposeError> {
    let (node, incarnation) = (done.node, done.incarnation);
    let lost = if doubtful {
        Some("its machine was started since and may have lost the last records")
    } else {
        None
    };
    let mut outcome = match lost {
        Some(_) => Outcome::RangeMismatch,
        None => handle.finish(done, ANSWER_TIMEOUT).await?,
    };
    if outcome == Outcome::RangeMismatch {
        let why = lost.unwrap_or("a usage spool of it is gone");
        tracing::warn!(
            incarnation,
            why,
            "what an earlier life of this node had of limits counts as used"
        );
        let evict = Evict { node, incarnation };
        outcome = handle.evict(evict, ANSWER_TIMEOUT).await?;
    }
    if outcome == Outcome::Closed {
        let over = |state: &State| {
            !state
                .ledger
                .unfinished(node)
                .any(|(life, _)| life == incarnation)
        };
        applied(handle, over).await;
    } else {
        sleep(AGAIN).await;
    }
    Ok(outcome)
}

/// Returns when this node has applied so much, or has waited for long enough.
async fn applied(handle: &Handle, far: impl Fn(&State) -> bool) {
    let mut index = handle.watch_applied();
    let wait = async {
        while !handle.read(&far) {
            index.mark_unchanged();
            if handle.read(&far) || index.changed().await.is_err() {
                return;
            }
        }
    };
    // Too late is no failure: the state says what is so.
    let _ = timeout(ANSWER_TIMEOUT, wait).await;
}

/// The answer to what is in flight; never, if nothing is.
async fn answer(in_flight: &mut Option<InFlight>) -> Reply {
    match in_flight {
        Some(reply) => reply.as_mut().await,
        None => std::future::pending().await,
    }
}
