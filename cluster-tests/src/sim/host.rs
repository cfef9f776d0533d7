//! A node's process: its disk, its member, the task that writes its log, its gateway and its flusher.
//!
//! Invariant: what outlives a crash of a node is its disk, with what was stored in maps of its files; the rest of the
//! [`Slot`] is what the simulation knows.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mode_envoy_node::usage::flush::FlushHandle;
use mode_envoy_raft::Departure;
use mode_envoy_raft::cluster::{Addresses, Hooks, Settings, Timers};
use mode_envoy_raft::identity::Identity;
use mode_envoy_raft::secret::ClusterSecret;
use mode_envoy_raft::sim::{self, Founding, Member, SimDisk};
use mode_envoy_storage::testing::FaultDisk;
use mode_envoy_storage::wal::Stepper;
use tokio::io::AsyncReadExt as _;
use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;
use turmoil::net::{TcpListener, TcpStream};

use super::plan::{Kind, Plan};
use super::usage::{self, Books, Usage};
use super::world::{PORT, World, address, pass, spawn};

/// Of every cluster here.
pub(crate) const CLUSTER: [u8; 16] = [0x51; 16];

/// Why a process ended whose node the cluster has removed.
pub(crate) const REMOVED: &str = "it was removed";

/// Small, so that segments roll within a run.
pub(crate) const SEGMENT_BYTES: u64 = 64 * 1024;

/// So few, that a node which was away for a second or two lacks what no log has any more.
const CHECKPOINT_EVERY: u64 = 12;
const LOG_KEEP: u64 = 4;

/// So slow, that a transfer meets faults.
const SNAPSHOT_PACE: u64 = 64 * 1024;

/// How long a node that is told to end may take to hand over what it has.
const SETTLE: Duration = Duration::from_secs(1);

/// How long one that is told to end waits for its last usage to be counted.
const LAST_FLUSH: Duration = Duration::from_millis(800);

const TIMERS: Timers = Timers {
    heartbeat_ms: 100,
    election_min_ms: 300,
    election_max_ms: 450,
};

/// A node, running or not.
pub(crate) struct Slot {
    pub(crate) disk: FaultDisk,
    pub(crate) identity: Arc<Identity>,
    pub(crate) dir: PathBuf,
    /// The first members, on the node that forms the cluster.
    founders: Option<BTreeMap<u64, String>>,
    /// How often it was started.
    pub(crate) life: u64,
    pub(crate) member: Option<Member>,
    pub(crate) stepper: Option<Arc<Mutex<Stepper>>>,
    /// Whether its log has held a membership: what a node's data directory remembers.
    pub(crate) log_expected: bool,
    /// Whether this life was told to end, and no accident came before it did.
    pub(crate) in_order: bool,
    /// Why the process ended by itself.
    pub(crate) exited: Option<String>,
    /// What the spools on its disk hold.
    pub(crate) books: Books,
    /// Whether a sync of its disk fails, or has failed.
    pub(crate) disk_is_broken: bool,
    stop: Arc<Notify>,
}

/// The usage of a life: who stops it, and how it ends.
struct Counting {
    gateway: CancellationToken,
    flusher: CancellationToken,
    flush: FlushHandle,
    ended: oneshot::Receiver<Result<(), String>>,
}

/// Every node of a run. Clones share it.
#[derive(Clone)]
pub(crate) struct Nodes {
    slots: Arc<Mutex<BTreeMap<u64, Slot>>>,
    pub(crate) world: World,
    pub(crate) plan: Plan,
    secret: ClusterSecret,
}

// === impl Nodes ===

impl Nodes {
    pub(crate) fn new(world: World, plan: Plan, secret: ClusterSecret) -> Self {
        Self {
            slots: Arc::default(),
            world,
            plan,
            secret,
        }
    }

    pub(crate) fn add(
        &self,
        node: u64,
        identity: Arc<Identity>,
        dir: PathBuf,
        founders: Option<BTreeMap<u64, String>>,
    ) {
        let slot = Slot {
            disk: FaultDisk::new(),
            identity,
            dir,
            founders,
            life: 0,
            member: None,
            stepper: None,
            log_expected: false,
            in_order: false,
            exited: None,
            books: Books::default(),
            disk_is_broken: false,
            stop: Arc::default(),
        };
        self.lock().insert(node, slot);
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `f` on one node.
    pub(crate) fn with<R>(&self, node: u64, f: impl FnOnce(&mut Slot) -> R) -> Option<R> {
        self.lock().get_mut(&node).map(f)
    }

    /// The member and which life of the node it is, if it runs.
    pub(crate) fn member(&self, node: u64) -> Option<(Member, u64)> {
        let slots = self.lock();
        let slot = slots.get(&node)?;
        Some((slot.member.clone()?, slot.life))
    }

    /// Asks a node to end in order.
    pub(crate) fn stop(&self, node: u64) {
        self.with(node, |slot| {
            if slot.member.is_some() {
                slot.in_order = true;
                slot.stop.notify_one();
            }
        });
    }

    /// The process of a node, from its start to its end.
    pub(crate) async fn run(self, node: u64) -> turmoil::Result {
        let ended = self.process(node).await;
        let reason = ended.err().unwrap_or_else(|| "stopped in order".to_owned());
        let said = self.with(node, |slot| {
            slot.member = None;
            slot.exited = Some(reason.clone());
            // The directory has another name in every run.
            reason.replace(&slot.dir.display().to_string(), "its directory")
        });
        let said = said.unwrap_or_default();
        self.world.note(&format!("n{node} ended: {said}"));
        // What a process leaves behind ends with it: the host is crashed as soon as this is seen.
        std::future::pending().await
    }

    async fn process(&self, node: u64) -> Result<(), String> {
        let cancel = CancellationToken::new();
        let member = self.start(node, cancel.clone()).await?;
        let stop = self
            .with(node, |slot| {
                slot.member = Some(member.clone());
                Arc::clone(&slot.stop)
            })
            .ok_or("an unknown node")?;
        let mut counting = self.count(node, usage::start(self, node, member.handle())?);
        let mut failed = member.handle().failed();
        let mut departure = member.handle().watch_departure();
        let listener = TcpListener::bind(("0.0.0.0", PORT));
        let listener = listener.await.map_err(|e| e.to_string())?;
        loop {
            tokio::select! {
                biased;
                () = stop.notified() => break,
                Ok(why) = failed.wait_for(Option::is_some) => {
                    return Err(why.clone().unwrap_or_default());
                }
                Ok(Err(why)) = &mut counting.ended => return Err(why),
                Ok(_) = departure.wait_for(|now| *now == Departure::Left) => {
                    return Err(REMOVED.to_owned());
                }
                Ok((stream, _)) = listener.accept() => {
                    let member = member.clone();
                    spawn(async move { serve(&member, stream).await });
                }
            }
        }
        self.world.note(&format!("n{node} ends in order"));
        self.end(member, &listener, counting).await;
        Ok(())
    }

    /// Begins to record and to count.
    fn count(&self, node: u64, usage: Usage) -> Counting {
        let (gateway, flusher) = (CancellationToken::new(), CancellationToken::new());
        let (told, ended) = oneshot::channel();
        spawn(usage.gateway.run(gateway.clone()));
        spawn(usage::ask(
            self.world.clone(),
            usage.flush.clone(),
            gateway.clone(),
        ));
        let flushing = usage::flush(self.clone(), node, usage.flushing, flusher.clone());
        spawn(async move {
            // A process that is gone is told nothing.
            let _ = told.send(flushing.await);
        });
        Counting {
            gateway,
            flusher,
            flush: usage.flush,
            ended,
        }
    }

    /// Hands over what it has, and serves the others meanwhile.
    async fn end(&self, member: Member, listener: &TcpListener, counting: Counting) {
        counting.gateway.cancel();
        if self.world.chance(70) {
            member.handle().set_draining();
            let settled = async {
                // What is not counted is in the spools.
                let _ = tokio::time::timeout(LAST_FLUSH, counting.flush.flush()).await;
                member.handle().settle(SETTLE).await;
            };
            tokio::pin!(settled);
            loop {
                tokio::select! {
                    biased;
                    () = &mut settled => break,
                    Ok((stream, _)) = listener.accept() => {
                        let member = member.clone();
                        spawn(async move { serve(&member, stream).await });
                    }
                }
            }
        }
        counting.flusher.cancel();
        // One that failed has said so itself.
        let _ = counting.ended.await;
        member.handle().shutdown().await;
    }

    async fn start(&self, node: u64, cancel: CancellationToken) -> Result<Member, String> {
        let wake = Arc::new(Notify::new());
        let (settings, founding, disk) = {
            let mut slots = self.lock();
            let slot = slots.get_mut(&node).ok_or("an unknown node")?;
            slot.life += 1;
            slot.books.open = 0;
            slot.in_order = false;
            slot.stop = Arc::default();
            let advertise = Addresses {
                peer: address(node),
                ..Addresses::default()
            };
            let mut settings =
                Settings::new(node, slot.dir.clone(), advertise, self.secret.clone());
            settings.timers = TIMERS;
            settings.wal_segment_bytes = SEGMENT_BYTES;
            settings.checkpoint_every = CHECKPOINT_EVERY;
            settings.log_keep = LOG_KEEP;
            settings.snapshot_bytes_per_second = SNAPSHOT_PACE;
            let founding = Founding {
                identity: Arc::clone(&slot.identity),
                cluster_id: CLUSTER,
                members: slot.founders.clone(),
                log_expected: slot.log_expected,
                keeps_members: self.plan.kind == Kind::Faults,
            };
            (settings, founding, slot.disk.clone())
        };
        let (nodes, woken) = (self.clone(), Arc::clone(&wake));
        let disk = SimDisk {
            disk: Arc::new(disk),
            wake: Box::new(move || wake.notify_one()),
            drive: Box::new(move |stepper| {
                let stepper = Arc::new(Mutex::new(stepper));
                nodes.with(node, |slot| slot.stepper = Some(Arc::clone(&stepper)));
                spawn(async move { nodes.write_log(stepper, woken).await });
            }),
        };
        let hooks = Hooks {
            authorize: Arc::new(|_, _, _| Ok(())),
            flush: Arc::new(|| Box::pin(async { Ok(()) })),
            table_revision: Arc::new(AtomicU64::new(0)),
            alarms: Arc::new(Vec::new),
            calls: Arc::new(()),
        };
        sim::start(settings, hooks, founding, disk, cancel)
            .await
            .map_err(|e| format!("the start failed: {e}"))
    }

    /// What the log's thread does in a node: waits for work, and for the disk.
    async fn write_log(&self, stepper: Arc<Mutex<Stepper>>, woken: Arc<Notify>) {
        let step = |lingered: bool| {
            let mut stepper = stepper.lock().unwrap_or_else(PoisonError::into_inner);
            if lingered {
                stepper.step_after_a_while()
            } else {
                stepper.step()
            }
        };
        loop {
            let linger = Duration::from_millis(50);
            if tokio::time::timeout(linger, woken.notified())
                .await
                .is_err()
            {
                step(true);
                continue;
            }
            pass(self.sync_takes()).await;
            while step(false) {
                pass(self.sync_takes()).await;
            }
        }
    }

    /// A disk is as fast as it is, and now and then it stalls.
    fn sync_takes(&self) -> Duration {
        if self.world.below(200) == 0 {
            return self.world.time_below(Duration::from_millis(300));
        }
        self.world.time_below(self.plan.sync)
    }
}

async fn serve(member: &Member, mut stream: TcpStream) {
    if let Ok(from) = stream.read_u64().await {
        member.serve(from, Box::new(stream)).await;
    }
}
