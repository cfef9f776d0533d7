//! The usage of one node in a simulation: its own recorders, recovery, feed of the call log and flusher, on a disk, a
//! clock and chance that are given to it. For simulations only, never in a node.
//!
//! Left out is the gateway: the simulation says when an attempt begins and how it ends.
//!
//! Invariant: with the feature `sim` nothing in usage reads a clock or draws an identity but through the world of the
//! current thread, and as the node that is entered here; so every way into that code enters one.

use std::cell::Cell;
use std::error::Error;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use mode_envoy_raft::Handle;
use mode_envoy_raft::sim as world;
use mode_envoy_storage::call_log::CallLogOptions;
use mode_envoy_storage::disk::Disk;
use mode_envoy_storage::spool::SpoolReader;
use tokio_util::sync::CancellationToken;

use super::calls::{CallSink, CallStore};
use super::flush::{self, FlushHandle};
use super::flusher::{Core, Flusher};
use super::record::{Closed, Opened};
use super::recorder::{RecordError, Recorder};
use super::recovery::{self, SpoolSettings};
use crate::alarms::Alarms;
use crate::limits::{self, Limiter};
use crate::supervisor::TaskError;

pub use super::record::{CARRY, CLOSE, OPEN};

thread_local! {
    static HERE: Cell<u64> = const { Cell::new(0) };
}

/// Call records are kept so long; no run lasts longer.
const CALLS_MAX_AGE_MS: u64 = 86_400_000;

/// Where a node's usage is kept.
#[derive(Clone, Debug)]
pub struct Place {
    /// The disk.
    pub disk: Arc<dyn Disk>,
    /// The node's folder.
    pub dir: PathBuf,
    /// One spool each.
    pub workers: u32,
    /// Bytes of a spool's segment.
    pub segment_bytes: usize,
    /// Bytes of a spool.
    pub max_bytes: u64,
}

/// Usage of one life of a node, the last life settled.
pub struct Started {
    /// Those who record.
    pub workers: Vec<Worker>,
    /// Every spool, those of workers that exist no more too, and somebody who looks on.
    pub spools: Vec<(u32, SpoolReader)>,
    /// Moves usage into the log.
    pub flushing: Flushing,
    /// Asks it for a flush.
    pub flush: FlushHandle,
    /// Calls that were closed as presumed.
    pub presumed: u64,
}

/// One worker's recorder.
#[derive(Debug)]
pub struct Worker {
    node: u64,
    /// Until it is dropped.
    recorder: Option<Recorder>,
}

/// The flusher, which has not begun.
pub struct Flushing {
    node: u64,
    flusher: Flusher,
}

/// Work of a node, whoever polls it.
struct As<F> {
    node: u64,
    work: Pin<Box<F>>,
}

/// Opens the spools and settles the last life, as a node does at its start.
///
/// # Errors
/// Why the node could not start.
pub fn start(place: &Place, handle: &Handle) -> Result<Started, String> {
    let node = handle.node_id();
    here(node, || open(place, handle)).map_err(|error| told(&*error))
}

fn open(place: &Place, handle: &Handle) -> Result<Started, TaskError> {
    let settings = SpoolSettings {
        disk: Arc::clone(&place.disk),
        dir: place.dir.join("usage"),
        workers: place.workers,
        segment_bytes: place.segment_bytes,
        max_bytes: place.max_bytes,
        cluster_id: handle.cluster_id(),
        node_id: handle.node_id(),
    };
    let recovered = recovery::open(&settings)?;
    let calls = place.dir.join("calls");
    let options = CallLogOptions::new(calls, handle.cluster_id(), handle.node_id());
    let (store, settle) = CallStore::new(CALLS_MAX_AGE_MS);
    let sink = CallSink::open(Arc::clone(&place.disk), options, store, wall_ms());
    let onlooker = |spool: &recovery::Spool| (spool.worker, spool.reader.onlooker());
    let spools = recovered.spools.iter().map(onlooker).collect();
    let node = handle.node_id();
    let core = Core::new(node, settings.dir, recovered.spools).with_calls(sink);
    let (flush, requests) = flush::channel();
    let (limiter, limits) = limits::channel(handle.contact(), true);
    let asked = (requests, settle, limits);
    let flusher = Flusher::new(core, handle.clone(), asked, Alarms::default());
    let recorders = recovered.recorders.into_iter().map(Some);
    Ok(Started {
        workers: recorders
            .map(|recorder| Worker { node, recorder })
            .collect(),
        spools,
        flushing: Flushing { node, flusher },
        flush,
        presumed: recovered.presumed,
    })
}

// === impl Worker ===

impl Worker {
    /// As [`Recorder::open`].
    ///
    /// # Errors
    /// As [`Recorder::open`].
    pub fn open(&self, opened: &Opened<'_>) -> Result<(), RecordError> {
        self.record(|recorder| recorder.open(opened))
    }

    /// As [`Recorder::close`].
    ///
    /// # Errors
    /// As [`Recorder::close`].
    pub fn close(&self, closed: &Closed<'_>) -> Result<(), RecordError> {
        self.record(|recorder| recorder.close(closed))
    }

    /// As [`Recorder::refuse`].
    ///
    /// # Errors
    /// As [`Recorder::refuse`].
    pub fn refuse(&self, closed: &Closed<'_>) -> Result<(), RecordError> {
        self.record(|recorder| recorder.refuse(closed))
    }

    fn record(
        &self,
        write: impl FnOnce(&Recorder) -> Result<(), RecordError>,
    ) -> Result<(), RecordError> {
        let recorder = self.recorder.as_ref().ok_or(RecordError::Failed)?;
        here(self.node, || write(recorder))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let recorder = self.recorder.take();
        here(self.node, || drop(recorder));
    }
}

// === impl Flushing ===

impl Flushing {
    /// Works until it is told to stop; then what is written is durable.
    ///
    /// # Errors
    /// Why a node would end.
    pub async fn run(self, stop: &CancellationToken) -> Result<(), String> {
        let work = Box::pin(self.flusher.run_until(stop));
        let node = self.node;
        As { node, work }.await.map_err(|error| told(&*error))
    }
}

// === impl As ===

impl<F: Future> Future for As<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        here(self.node, || self.work.as_mut().poll(cx))
    }
}

/// Unix milliseconds, by the clock of the node that is entered.
pub(crate) fn wall_ms() -> u64 {
    world::wall_ms(HERE.get())
}

/// The identity of a new spool.
#[expect(
    clippy::unnecessary_wraps,
    reason = "in a node the system may give no random bytes"
)]
pub(crate) fn new_uuid() -> Option<[u8; 16]> {
    let bits = u128::from(world::random()) << 64 | u128::from(world::random());
    Some(bits.to_be_bytes())
}

/// Does something as a node.
fn here<R>(node: u64, work: impl FnOnce() -> R) -> R {
    let before = HERE.replace(node);
    let done = work();
    HERE.set(before);
    done
}

/// An error with all that caused it.
fn told(error: &(dyn Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |&error| error.source());
    let causes: Vec<String> = causes.map(ToString::to_string).collect();
    causes.join(": ")
}
