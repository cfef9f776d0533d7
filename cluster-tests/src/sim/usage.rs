//! The gateway of a simulated node: it begins attempts, tries again, ends them and refuses calls, by the node's own
//! recorders; the node's own flusher counts them.
//!
//! Invariant: what the gateway does is in the node's books at once, and what is wrong with it is a violation.

use std::sync::Arc;
use std::time::Duration;

use mode_envoy_model::object::Name;
use mode_envoy_node::usage::flush::FlushHandle;
use mode_envoy_node::usage::record::{Asked, CallId, Closed, Dims, Opened, Takes, UsageSource};
use mode_envoy_node::usage::sim::{self, Flushing, Place, Started, Worker};
use mode_envoy_raft::Handle;
use mode_envoy_storage::spool::SpoolReader;
use tokio_util::sync::CancellationToken;

use super::host::Nodes;
use super::world::{World, pass};

mod books;

pub(crate) use books::{Attempt, Books, Counted};

/// So small, that a run has many.
const SEGMENT_BYTES: usize = 8 * 1024;

/// So large, that no run fills it: what a full spool does is tested elsewhere.
const MAX_BYTES: u64 = 1 << 30;

/// Workers at most; a life has as many as it happens to have.
const WORKERS: u64 = 2;

/// Attempts of one call at most.
const ATTEMPTS: u8 = 3;

/// How long a flush is waited for.
const ASKING: Duration = Duration::from_millis(600);

/// What a node does with usage in one life.
pub(crate) struct Usage {
    pub(crate) gateway: Gateway,
    pub(crate) flushing: Flushing,
    pub(crate) flush: FlushHandle,
}

/// The gateway of one life.
pub(crate) struct Gateway {
    nodes: Nodes,
    node: u64,
    workers: Vec<Worker>,
    spools: Vec<(u32, SpoolReader)>,
    /// Attempts that are open, with their worker and what they reserved.
    open: Vec<(usize, Attempt, u64)>,
}

/// Settles the last life and begins this one. Whatever keeps a node from it, a broken disk apart, is a violation.
pub(crate) fn start(nodes: &Nodes, node: u64, handle: &Handle) -> Result<Usage, String> {
    let workers = u32::try_from(1 + nodes.world.below(WORKERS)).unwrap_or(1);
    let place = nodes.with(node, |slot| Place {
        disk: Arc::new(slot.disk.clone()),
        dir: slot.dir.clone(),
        workers,
        segment_bytes: SEGMENT_BYTES,
        max_bytes: MAX_BYTES,
    });
    let started = sim::start(&place.ok_or("an unknown node")?, handle);
    let started = started.map_err(|why| failed(nodes, node, why))?;
    let Started {
        workers,
        mut spools,
        flushing,
        flush,
        presumed,
    } = started;
    let found = nodes.with(node, |slot| slot.books.settle(&mut spools));
    let found = found.ok_or("an unknown node")?;
    let expected = found.map_err(|why| failed(nodes, node, why))?;
    if presumed != expected {
        let why = format!("{presumed} calls are presumed, {expected} were open");
        return Err(failed(nodes, node, why));
    }
    let (all, workers_now) = (spools.len(), workers.len());
    nodes.world.note(&format!(
        "n{node} has {workers_now} workers and {all} spools; {presumed} calls are presumed"
    ));
    // Who looks on at a spool keeps it from being removed once it is drained.
    spools.truncate(workers_now);
    let gateway = Gateway {
        nodes: nodes.clone(),
        node,
        workers,
        spools,
        open: Vec::new(),
    };
    Ok(Usage {
        gateway,
        flushing,
        flush,
    })
}

/// The flusher of one life; its end is the end of the process.
pub(crate) async fn flush(
    nodes: Nodes,
    node: u64,
    flushing: Flushing,
    stop: CancellationToken,
) -> Result<(), String> {
    let ended = flushing.run(&stop).await;
    ended.map_err(|why| failed(&nodes, node, why))
}

/// Somebody who wants to see the latest usage asks for a flush now and then, and does not wait for long.
pub(crate) async fn ask(world: World, flush: FlushHandle, stop: CancellationToken) {
    while !stop.is_cancelled() {
        pass(Duration::from_millis(50 + world.below(350))).await;
        // What is not counted yet is asked for again.
        let _ = tokio::time::timeout(ASKING, flush.flush()).await;
    }
}

/// What usage may not do, unless the disk is broken: then it has to.
fn failed(nodes: &Nodes, node: u64, why: String) -> String {
    nodes.with(node, |slot| {
        // The directory has another name in every run.
        let said = why.replace(&slot.dir.display().to_string(), "its directory");
        if !said.contains("fault disk") {
            slot.books.fault.get_or_insert(said);
        }
    });
    why
}

/// Which series a spool's calls are counted in: one of its own.
pub(crate) fn team_of(worker: u32, uuid: [u8; 16]) -> String {
    format!("{worker}-{:032x}", u128::from_be_bytes(uuid))
}

// === impl Gateway ===

impl Gateway {
    /// Works until it is told to stop, or a record cannot be written.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            pass(Duration::from_millis(20 + self.nodes.world.below(60))).await;
            let (node, ends) = (
                self.node,
                self.nodes.with(self.node, |slot| slot.books.closing),
            );
            let done = if ends == Some(true) {
                self.close_all()
            } else {
                (0..self.nodes.world.below(5)).try_for_each(|_| self.act())
            };
            if let Err(why) = done {
                // A spool that has failed takes no records; its flusher says why, and the process ends.
                if self.nodes.with(node, |slot| slot.disk_is_broken) != Some(true) {
                    failed(&self.nodes, node, why);
                }
                return;
            }
            let open = self.open.len() as u64;
            self.nodes.with(node, |slot| slot.books.open = open);
        }
    }

    fn act(&mut self) -> Result<(), String> {
        match self.nodes.world.below(10) {
            0..5 => self.begin(),
            5..9 => self.end(),
            _ => self.refuse(),
        }
    }

    fn close_all(&mut self) -> Result<(), String> {
        while !self.open.is_empty() {
            self.end()?;
        }
        Ok(())
    }

    fn begin(&mut self) -> Result<(), String> {
        let mut call = [0; 16];
        call[..8].copy_from_slice(&self.node.to_be_bytes());
        call[8..].copy_from_slice(&self.nodes.world.next_moment().to_be_bytes());
        let worker = self.nodes.world.below(self.workers.len() as u64);
        self.try_upstream(usize::try_from(worker).unwrap_or(0), (CallId(call), 0))
    }

    fn try_upstream(&mut self, worker: usize, attempt: Attempt) -> Result<(), String> {
        let reserved = self.nodes.world.below(1 << 30);
        let dims = self.dims(worker)?;
        let opened = Opened {
            call: attempt.0,
            attempt: attempt.1,
            dims: &dims,
            asked: Asked::default(),
            reserved_input: reserved,
            bytes_in: 4,
            takes: &Takes::NONE,
        };
        self.books(|books| books.begins(attempt, reserved));
        let written = self.recorder(worker)?.open(&opened);
        written.map_err(|error| format!("an Open is not written: {error}"))?;
        self.open.push((worker, attempt, reserved));
        self.follow(worker)
    }

    /// An attempt ends; if it failed, the next one may follow.
    fn end(&mut self) -> Result<(), String> {
        let open = self.open.len();
        if open == 0 {
            return Ok(());
        }
        let at = usize::try_from(self.nodes.world.below(open as u64)).unwrap_or(0);
        let (worker, attempt, reserved) = self.open.swap_remove(at);
        let tries_again = attempt.1 + 1 < ATTEMPTS && self.nodes.world.chance(15);
        let dims = self.dims(worker)?;
        let closed = Closed {
            status: if tries_again { 502 } else { 200 },
            answered: !tries_again,
            usage_source: UsageSource::Reported,
            input_uncached: reserved / 2,
            output: self.nodes.world.below(1 << 30),
            ..Closed::of(attempt.0, attempt.1, &dims)
        };
        let counts = Counted {
            calls: u64::from(closed.answered),
            attempts: 1,
            input: closed.input_uncached,
            output: closed.output,
            ..Counted::default()
        };
        self.write_end(worker, attempt, counts, |worker| worker.close(&closed))?;
        if tries_again {
            return self.try_upstream(worker, (attempt.0, attempt.1 + 1));
        }
        Ok(())
    }

    fn refuse(&mut self) -> Result<(), String> {
        let mut call = [0xff; 16];
        call[8..].copy_from_slice(&self.nodes.world.next_moment().to_be_bytes());
        let worker = self.nodes.world.below(self.workers.len() as u64);
        let worker = usize::try_from(worker).unwrap_or(0);
        let dims = self.dims(worker)?;
        let refused = Closed {
            status: 401,
            ..Closed::of(CallId(call), 0, &dims)
        };
        let counts = Counted {
            calls: 1,
            rejected: 1,
            ..Counted::default()
        };
        let attempt = (CallId(call), 0);
        self.write_end(worker, attempt, counts, |worker| worker.refuse(&refused))
    }

    fn write_end<E: std::fmt::Display>(
        &mut self,
        worker: usize,
        attempt: Attempt,
        counts: Counted,
        write: impl FnOnce(&Worker) -> Result<(), E>,
    ) -> Result<(), String> {
        self.books(|books| books.ends(attempt, counts));
        if let Err(error) = write(self.recorder(worker)?) {
            self.books(|books| books.is_not_written(attempt));
            return Err(format!("a Close is not written: {error}"));
        }
        self.follow(worker)
    }

    fn recorder(&self, worker: usize) -> Result<&Worker, String> {
        let recorder = self.workers.get(worker);
        recorder.ok_or_else(|| format!("there is no worker {worker}"))
    }

    /// Notes in the books what the recorder has written.
    fn follow(&mut self, worker: usize) -> Result<(), String> {
        let spool = self.spools.get_mut(worker);
        let (number, reader) = spool.ok_or_else(|| format!("worker {worker} has no spool"))?;
        let followed = self
            .nodes
            .with(self.node, |slot| slot.books.follow(*number, reader));
        followed.unwrap_or(Ok(()))
    }

    fn books(&self, note: impl FnOnce(&mut Books)) {
        self.nodes.with(self.node, |slot| note(&mut slot.books));
    }

    fn dims(&self, worker: usize) -> Result<Dims, String> {
        let spool = self.spools.get(worker);
        let (number, reader) = spool.ok_or_else(|| format!("worker {worker} has no spool"))?;
        Ok(Dims {
            tenant: Name::from(format!("of-n{}", self.node)),
            team: Name::from(team_of(*number, reader.uuid())),
            ..Dims::empty()
        })
    }
}
