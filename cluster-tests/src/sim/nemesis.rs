//! What goes wrong: links, nodes, disks, clocks, and the set of members, as the seed says.
//!
//! Invariants: everything that is done is noted in the trace; after [`Nemesis::heal`] nothing more goes wrong, every link
//! is whole, and every node that may run does.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mode_envoy_raft::sim::Probe;
use mode_envoy_storage::testing::Op;
use turmoil::Sim;

use super::host::{Nodes, REMOVED};
use super::plan::{Kind, Plan};
use super::world::{World, host_name};

/// What is wrong with a node.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Down {
    /// It starts again then.
    Until(Duration),
    /// Its disk is gone, or it was removed: never again.
    ForGood,
}

/// What is wrong with a link.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Cut {
    Both,
    OneWay,
    /// Nothing is lost, but nothing arrives either.
    Held,
    /// Everything arrives, late.
    Slow,
}

/// What goes wrong in one run.
pub(crate) struct Nemesis {
    nodes: Nodes,
    world: World,
    plan: Plan,
    all: BTreeSet<u64>,
    down: BTreeMap<u64, Down>,
    cuts: BTreeMap<(u64, u64), (Cut, Duration)>,
    next: Duration,
    disks_lost: u32,
    healed: bool,
}

// === impl Nemesis ===

impl Nemesis {
    pub(crate) fn new(nodes: Nodes, plan: Plan, all: BTreeSet<u64>) -> Self {
        Self {
            world: nodes.world.clone(),
            nodes,
            next: plan.first_fault,
            plan,
            all,
            down: BTreeMap::new(),
            cuts: BTreeMap::new(),
            disks_lost: 0,
            healed: false,
        }
    }

    /// The nodes that will never run again.
    pub(crate) fn lost(&self) -> BTreeSet<u64> {
        let lost = self.down.iter().filter(|(_, down)| **down == Down::ForGood);
        lost.map(|(node, _)| *node).collect()
    }

    /// Does what is due.
    pub(crate) fn act(&mut self, sim: &mut Sim<'_>, probes: &BTreeMap<u64, Probe>) {
        let now = self.world.now();
        self.bury(sim);
        self.revive(sim, now);
        self.mend(sim, now);
        if !self.healed && now >= self.next {
            let pause = self.plan.pause.as_millis();
            let pause = u64::try_from(pause).unwrap_or(u64::MAX);
            self.next = now + Duration::from_millis(self.world.below(pause) + pause / 4);
            self.strike(sim, now, probes);
        }
    }

    /// Ends all that is wrong.
    pub(crate) fn heal(&mut self, sim: &mut Sim<'_>) {
        self.world.note("everything heals");
        self.healed = true;
        for ((a, b), (cut, _)) in std::mem::take(&mut self.cuts) {
            self.join(sim, (a, b), cut);
        }
        let waiting = self.down.iter().filter(|(_, d)| **d != Down::ForGood);
        let waiting: Vec<u64> = waiting.map(|(node, _)| *node).collect();
        for node in waiting {
            self.start(sim, node);
        }
    }

    /// Processes that have ended by themselves.
    fn bury(&mut self, sim: &mut Sim<'_>) {
        for node in self.all.clone() {
            let ended = self.nodes.with(node, |slot| slot.exited.take()).flatten();
            let Some(reason) = ended else { continue };
            if self.down.contains_key(&node) {
                continue;
            }
            let down = if reason.contains("fault disk") || reason == REMOVED {
                Down::ForGood
            } else {
                self.back_later()
            };
            self.take_down(sim, node, down);
        }
    }

    fn revive(&mut self, sim: &mut Sim<'_>, now: Duration) {
        let due = |(node, down): (&u64, &Down)| match down {
            Down::Until(until) if *until <= now => Some(*node),
            _ => None,
        };
        for node in self.down.iter().filter_map(due).collect::<Vec<_>>() {
            self.start(sim, node);
        }
    }

    fn start(&mut self, sim: &mut Sim<'_>, node: u64) {
        self.down.remove(&node);
        self.world.note(&format!("n{node} starts"));
        sim.bounce(host_name(node));
    }

    fn mend(&mut self, sim: &mut Sim<'_>, now: Duration) {
        let due = self.cuts.iter().filter(|(_, (_, until))| *until <= now);
        for (pair, cut) in due.map(|(p, (c, _))| (*p, *c)).collect::<Vec<_>>() {
            self.cuts.remove(&pair);
            self.join(sim, pair, cut);
        }
    }

    fn strike(&mut self, sim: &mut Sim<'_>, now: Duration, probes: &BTreeMap<u64, Probe>) {
        let leader = probes.iter().filter(|(_, probe)| probe.leads);
        let leader = leader.max_by_key(|(_, probe)| probe.vote).map(|(n, _)| *n);
        let running: Vec<u64> = probes.keys().copied().collect();
        let Some(any) = self.world.pick(&running) else {
            return;
        };
        let target = leader.filter(|_| self.world.chance(60)).unwrap_or(any);
        let what = match self.plan.kind {
            Kind::Faults => self.world.below(100),
            // Others vote before anybody has died: mostly links, now and then a crash.
            Kind::Churn => 100 + self.world.below(10),
        };
        match what {
            100..104 => self.isolate(sim, now, target, Cut::Slow),
            104..108 => self.cut_one(sim, now),
            108 => self.power_cut(sim, any),
            109 => self.isolate(sim, now, target, Cut::Both),
            0..15 => self.isolate(sim, now, target, Cut::Both),
            15..22 => self.isolate(sim, now, target, Cut::Held),
            22..32 => self.isolate(sim, now, target, Cut::OneWay),
            32..44 => self.split(sim, now),
            44..54 => self.cut_one(sim, now),
            54..74 => self.power_cut(sim, target),
            74..82 => self.kill(sim, target),
            82..88 => {
                self.world.note(&format!("n{target} is told to end"));
                self.nodes.stop(target);
            }
            88..92 => self.power_cut_of_all(sim),
            92..96 => self.set_clock(target),
            _ => self.break_disk(target),
        }
    }

    fn isolate(&mut self, sim: &mut Sim<'_>, now: Duration, node: u64, cut: Cut) {
        self.world.note(&format!("n{node} is isolated ({cut:?})"));
        let inwards = self.world.chance(50);
        for other in self.all.clone() {
            if other != node {
                let pair = if inwards {
                    (other, node)
                } else {
                    (node, other)
                };
                self.cut(sim, now, pair, cut);
            }
        }
    }

    fn split(&mut self, sim: &mut Sim<'_>, now: Duration) {
        let left: BTreeSet<u64> = self
            .all
            .iter()
            .copied()
            .filter(|_| self.world.chance(50))
            .collect();
        self.world
            .note(&format!("{left:?} are cut off from the others"));
        for a in &left {
            for b in self.all.clone() {
                if !left.contains(&b) {
                    self.cut(sim, now, (*a, b), Cut::Both);
                }
            }
        }
    }

    fn cut_one(&mut self, sim: &mut Sim<'_>, now: Duration) {
        let all: Vec<u64> = self.all.iter().copied().collect();
        let (Some(a), Some(b)) = (self.world.pick(&all), self.world.pick(&all)) else {
            return;
        };
        if a != b {
            let kinds = [Cut::Both, Cut::OneWay, Cut::Held, Cut::Slow, Cut::Slow];
            let cut = self.world.pick(&kinds).unwrap_or(Cut::Both);
            self.world
                .note(&format!("the link n{a} -> n{b} fails ({cut:?})"));
            self.cut(sim, now, (a, b), cut);
        }
    }

    fn cut(&mut self, sim: &Sim<'_>, now: Duration, pair: (u64, u64), cut: Cut) {
        let (a, b) = pair;
        if self.cuts.contains_key(&(a, b)) || self.cuts.contains_key(&(b, a)) {
            return;
        }
        let until = now + Duration::from_millis(200) + self.world.time_below(self.plan.outage);
        match cut {
            Cut::Both => sim.partition(host_name(a), host_name(b)),
            Cut::OneWay => sim.partition_oneway(host_name(a), host_name(b)),
            Cut::Held => sim.hold(host_name(a), host_name(b)),
            Cut::Slow => {
                let late = Duration::from_millis(30 + self.world.below(270));
                sim.set_link_max_message_latency(host_name(a), host_name(b), late);
            }
        }
        self.cuts.insert(pair, (cut, until));
    }

    fn join(&self, sim: &Sim<'_>, (a, b): (u64, u64), cut: Cut) {
        match cut {
            Cut::Held => sim.release(host_name(a), host_name(b)),
            Cut::Slow => {
                let latency = self.plan.latency;
                sim.set_link_max_message_latency(host_name(a), host_name(b), latency);
            }
            Cut::Both | Cut::OneWay => {
                sim.repair(host_name(a), host_name(b));
                self.world.break_link(a, b);
            }
        }
    }

    fn power_cut(&mut self, sim: &mut Sim<'_>, node: u64) {
        let seed = self.world.below(u64::MAX);
        let torn = self.world.chance(50);
        self.world.note(&format!("n{node} loses its power"));
        self.nodes.with(node, |slot| {
            slot.in_order = false;
            slot.books.power_was_cut = true;
            let mut image = slot.disk.image();
            // Half of the cuts come while the log is being written, if it has anything to write.
            if torn && let Some(stepper) = &slot.stepper {
                slot.disk.record_steps();
                stepper
                    .lock()
                    .unwrap_or_else(std::sync::PoisonError::into_inner)
                    .step();
                if let Some(within) = slot.disk.take_images().pop() {
                    image = within;
                }
            }
            slot.disk = image.crash(seed);
        });
        let down = self.back_later();
        self.take_down(sim, node, down);
    }

    fn power_cut_of_all(&mut self, sim: &mut Sim<'_>) {
        for node in self.all.clone() {
            if !self.down.contains_key(&node) {
                self.power_cut(sim, node);
            }
        }
    }

    fn kill(&mut self, sim: &mut Sim<'_>, node: u64) {
        self.world.note(&format!("n{node} is killed"));
        self.nodes.with(node, |slot| {
            slot.in_order = false;
            slot.disk = slot.disk.image().kill();
        });
        let down = self.back_later();
        self.take_down(sim, node, down);
    }

    fn take_down(&mut self, sim: &mut Sim<'_>, node: u64, down: Down) {
        self.nodes.with(node, |slot| {
            slot.member = None;
            slot.stepper = None;
            // A process that ended in order leaves the locks of a living one otherwise.
            slot.disk = slot.disk.image().kill();
        });
        sim.crash(host_name(node));
        self.nodes.with(node, |slot| slot.exited = None);
        for other in &self.all {
            self.world.break_link(node, *other);
        }
        self.down.insert(node, down);
    }

    fn back_later(&self) -> Down {
        let outage = Duration::from_millis(100) + self.world.time_below(self.plan.outage);
        Down::Until(self.world.now() + outage)
    }

    fn set_clock(&self, node: u64) {
        let minutes = i64::try_from(self.world.below(41)).unwrap_or(0) - 20;
        self.world
            .note(&format!("the clock of n{node} is {minutes} min off"));
        self.world.set_skew(node, minutes * 60_000);
    }

    fn break_disk(&mut self, node: u64) {
        if self.disks_lost >= self.plan.disks {
            return;
        }
        self.disks_lost += 1;
        self.world
            .note(&format!("the disk of n{node} fails its next sync"));
        self.nodes.with(node, |slot| {
            slot.disk_is_broken = true;
            slot.disk.fail(Op::Sync, 1);
        });
    }
}
