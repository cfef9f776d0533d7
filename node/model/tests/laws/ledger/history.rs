//! A cluster in miniature: three nodes, a network that drops, repeats and reorders, replicas that lag, processes that are
//! killed, disks that are lost, limits that change and windows that roll.
//!
//! This is the executable form of the specification of limits. The state is the real one; its lagging replicas are the states
//! as they were at earlier entries, since that replicas are equal is a law of its own.

use std::collections::BTreeMap;

use mode_envoy_model::batch::{Batch, Evict, Final, Item, Outcome};
use mode_envoy_model::limit::Per;
use mode_envoy_model::state::State;
use mode_envoy_model::usage::batch::{Register, SpoolUuid, UsageBatch};

use super::node::Node;
use super::{WALL, key, limit, set_limits};

const NODES: u64 = 3;

/// One rule that is broken.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Mutant {
    /// Batches count whatever their number is.
    AnySeq,
    /// What an evicted incarnation had is free again.
    Reclaim,
    /// Calls that were open at a crash count as nothing.
    OpenIsFree,
    /// What was given back is used all the same.
    SpendAfterReturn,
    /// Records are freed as soon as they are counted, also those of open calls.
    TrimAtAcked,
}

/// What must never be.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Violation {
    /// More was used in a window than its amount ever was.
    OverAdmission { window: u64, used: u64, amount: u64 },
    /// More was counted than calls recorded.
    DoubleBilling { counted: u64, recorded: u64 },
    /// A sound node was told that it claims what it does not have.
    Refused(u64),
    /// Books do not balance.
    Unbalanced,
    /// After everything was told something is missing.
    NotDrained(String),
}

/// Small, fast and the same everywhere.
pub(super) struct Rng(u64);

impl Rng {
    pub(super) const fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Both ends included.
    pub(super) fn within(&mut self, from: u64, to: u64) -> u64 {
        from + self.next() % (to - from + 1)
    }

    pub(super) fn index(&mut self, len: usize) -> usize {
        let at = self.within(0, len as u64 - 1);
        usize::try_from(at).expect("an index")
    }

    pub(super) fn chance(&mut self, percent: u64) -> bool {
        self.within(0, 99) < percent
    }
}

/// What is on its way: from which life of which node.
#[derive(Clone)]
struct Message {
    node: usize,
    life: u64,
    item: Item,
}

/// An entry of the log, or the change set that sets the amount.
#[derive(Clone, Debug)]
pub(super) enum Entry {
    Batch(Batch),
    Amount(u64),
}

pub(super) struct World {
    rng: Rng,
    mutant: Option<Mutant>,
    /// `states[n]`: after `n` entries.
    states: Vec<State>,
    pub(super) log: Vec<Entry>,
    nodes: Vec<Node>,
    network: Vec<Message>,
    amount: u64,
    /// Nothing changes and, rarely, a window rolls.
    calm: bool,
    /// The largest amount that each window had.
    amounts: BTreeMap<u64, u64>,
    counted: u64,
    clock_ms: u64,
    wall_ms: u64,
}

/// Runs one history.
pub(super) fn run(seed: u64, steps: u32, mutant: Option<Mutant>) -> (World, Option<Violation>) {
    let mut world = World::new(seed, mutant);
    for _ in 0..steps {
        world.step();
    }
    let violation = world.check().or_else(|| world.drain());
    (world, violation)
}

/// An entry as a replica applies it.
pub(super) fn apply(state: &mut State, index: u64, entry: &Entry) -> Vec<Outcome> {
    match entry {
        Entry::Batch(batch) => state.apply(index, batch),
        Entry::Amount(amount) => {
            set_limits(state, &[(1, limit(*amount, Per::Minute))]);
            Vec::new()
        }
    }
}

impl World {
    fn new(seed: u64, mutant: Option<Mutant>) -> Self {
        let mut rng = Rng::new(seed);
        let amount = [3, 10, 30, 60][rng.index(4)];
        let calm = rng.chance(60);
        let mut world = Self {
            rng,
            mutant,
            states: vec![State::new()],
            log: Vec::new(),
            nodes: (1..=NODES).map(|id| Node::new(id, mutant)).collect(),
            network: Vec::new(),
            amount,
            calm,
            amounts: BTreeMap::new(),
            counted: 0,
            clock_ms: 1_000,
            wall_ms: WALL,
        };
        world.commit_entry(Entry::Amount(amount));
        world.commit(Vec::new());
        world
    }

    fn state(&self) -> &State {
        &self.states[self.states.len() - 1]
    }

    fn commit_entry(&mut self, entry: Entry) -> Vec<Outcome> {
        let mut state = self.state().clone();
        let index = self.states.len() as u64;
        let outcomes = apply(&mut state, index, &entry);
        self.log.push(entry);
        self.states.push(state);
        let window = self.state().ledger.view(&key(1, ""), 0, 0);
        if let Some(view) = window {
            let most = self.amounts.entry(view.window).or_default();
            *most = (*most).max(view.cap);
        }
        outcomes
    }

    fn commit(&mut self, items: Vec<Item>) -> Vec<Outcome> {
        self.clock_ms += self.rng.within(0, 40);
        self.commit_entry(Entry::Batch(Batch {
            lease_clock_ms: self.clock_ms,
            wall_ms: self.wall_ms,
            items,
        }))
    }

    fn step(&mut self) {
        let at = self.rng.index(self.nodes.len());
        let what = self.rng.within(0, 999);
        if !self.nodes[at].alive {
            if what < 300 {
                self.nodes[at].start();
            }
            return;
        }
        let node = &mut self.nodes[at];
        match what {
            0..200 => self.catch_up(at),
            200..520 => node.admit(&self.states[node.applied], &mut self.rng),
            520..660 => node.settle(&mut self.rng),
            660..800 => self.send(at, false),
            800..930 => self.deliver(),
            930..938 => node.alive = false,
            938..941 => node.lose_disk(&self.states[self.states.len() - 1]),
            941..948 if !self.calm => {
                self.amount = [1, 2, 5, 10, 60][self.rng.index(5)];
                self.commit_entry(Entry::Amount(self.amount));
            }
            948..952 if !self.calm || self.rng.chance(20) => self.roll(),
            _ => {}
        }
    }

    fn roll(&mut self) {
        self.wall_ms += 60_000;
        self.clock_ms += if self.rng.chance(50) { 1_000 } else { 60_000 };
        self.commit(Vec::new());
    }

    fn catch_up(&mut self, at: usize) {
        for _ in 0..self.rng.within(1, 12) {
            let node = &mut self.nodes[at];
            if node.applied + 1 < self.states.len() {
                node.applied += 1;
                node.look(&self.states[node.applied]);
            }
        }
    }

    fn send(&mut self, at: usize, all: bool) {
        let node = &mut self.nodes[at];
        let item = node.speak(&self.states[node.applied], &mut self.rng, all);
        if let Some(item) = item {
            let life = node.life;
            let node = at;
            self.network.push(Message { node, life, item });
        }
    }

    fn deliver(&mut self) {
        for _ in 0..3 {
            if self.network.is_empty() {
                return;
            }
            let at = self.rng.index(self.network.len());
            let message = self.network.swap_remove(at);
            let fate = self.rng.within(0, 9);
            if fate < 2 {
                continue;
            }
            if fate < 4 {
                self.network.push(message.clone());
            }
            let answered = self.rng.chance(80);
            self.take(message, answered);
        }
    }

    /// The leader writes what a node proposes.
    fn take(&mut self, message: Message, answered: bool) {
        let item = self.mutated(message.item);
        let spent = match &item {
            Item::Usage(batch) => batch.uses.iter().map(|one| one.spent).sum(),
            _ => 0,
        };
        match self.commit(vec![item]).remove(0) {
            Outcome::Counted => self.counted += spent,
            Outcome::Registered { incarnation } if answered => {
                let node = &mut self.nodes[message.node];
                if node.alive && node.life == message.life {
                    node.registered(incarnation);
                }
            }
            _ => {}
        }
    }

    fn mutated(&mut self, item: Item) -> Item {
        match (self.mutant, item) {
            (Some(Mutant::AnySeq), Item::Usage(batch)) => Item::Usage(self.as_if_next(batch)),
            (Some(Mutant::Reclaim), Item::Evict(evict)) => self.as_if_finished(evict),
            (_, item) => item,
        }
    }

    fn as_if_next(&self, mut batch: UsageBatch) -> UsageBatch {
        if let Some(stream) = self.state().usage.streams.get(batch.node) {
            batch.seq = stream.next_seq;
            for range in &mut batch.ranges {
                if let Some(spool) = stream.spools.get(&range.worker) {
                    range.from = spool.acked_to;
                    range.to = range.to.max(range.from);
                }
            }
        }
        batch
    }

    /// Claims that every spool of the incarnation is there, and counted.
    fn as_if_finished(&mut self, evict: Evict) -> Item {
        let Evict { node, incarnation } = evict;
        let spools: Option<Vec<SpoolUuid>> = self
            .state()
            .ledger
            .unfinished(node)
            .find(|(life, _)| *life == incarnation)
            .map(|(_, spools)| spools.to_vec());
        let Some(spools) = spools else {
            return Item::Evict(evict);
        };
        let stream = self.state().usage.streams.get(node);
        let follows = stream.map_or(0, |stream| stream.incarnation);
        let register = Register {
            node,
            follows,
            spools: (0..).zip(spools.iter().copied()).collect(),
        };
        self.commit(vec![Item::Register(register)]);
        Item::Final(Final {
            node,
            incarnation,
            ends: spools.into_iter().map(|uuid| (uuid, 1)).collect(),
        })
    }

    /// Safety, at any moment.
    fn check(&self) -> Option<Violation> {
        if let Some(at) = self.states.iter().position(|s| s.ledger.refused() > 0) {
            return Some(Violation::Refused(at as u64));
        }
        if self
            .states
            .iter()
            .any(|state| state.ledger.violation().is_some())
        {
            return Some(Violation::Unbalanced);
        }
        let mut used: BTreeMap<u64, u64> = BTreeMap::new();
        for call in self.nodes.iter().flat_map(Node::all_calls) {
            *used.entry(call.window).or_default() += call.truth;
        }
        for (window, used) in used {
            let amount = self.amounts.get(&window).copied().unwrap_or_default();
            if used > amount {
                return Some(Violation::OverAdmission {
                    window,
                    used,
                    amount,
                });
            }
        }
        let recorded = self.nodes.iter().map(|node| node.billable(false)).sum();
        let counted = self.counted;
        (counted > recorded).then_some(Violation::DoubleBilling { counted, recorded })
    }

    /// Liveness: once the network is whole and every node tells all, nothing is missing, and nothing is counted twice.
    fn drain(&mut self) -> Option<Violation> {
        self.network.clear();
        for round in 0..60 {
            if round > 0 && self.nodes.iter().all(|node| node.is_drained(self.state())) {
                return self.check().or_else(|| self.check_drained());
            }
            for at in 0..self.nodes.len() {
                if !self.nodes[at].alive {
                    self.nodes[at].start();
                }
                while self.nodes[at].applied + 1 < self.states.len() {
                    self.catch_up(at);
                }
                for _ in 0..self.states.len() {
                    self.nodes[at].settle(&mut self.rng);
                }
                self.send(at, true);
                while let Some(message) = self.network.pop() {
                    self.take(message, true);
                }
            }
        }
        let missing = self
            .nodes
            .iter()
            .find(|node| !node.is_drained(self.state()));
        missing.map(|node| Violation::NotDrained(format!("node {}", node.id)))
    }

    fn check_drained(&self) -> Option<Violation> {
        let recorded: u64 = self.nodes.iter().map(|node| node.billable(true)).sum();
        // What was on its way when a disk was lost may count or not; without such calls the two are equal.
        let at_most: u64 = self.nodes.iter().map(|node| node.billable(false)).sum();
        if !(recorded..=at_most).contains(&self.counted) {
            let text = format!("{} counted, {recorded} recorded", self.counted);
            return Some(Violation::NotDrained(text));
        }
        let kept = self.nodes.iter().all(|node| !node.lost_any());
        let mut pools = self.state().ledger.pools();
        pools.find_map(|(_, pool)| {
            let window = &pool.window;
            let exact =
                i128::from(window.free) + i128::from(window.settled) + i128::from(window.burned);
            let whole = exact == i128::from(pool.cap) && (window.burned == 0 || !kept);
            (!whole).then(|| Violation::NotDrained(format!("{window:?}")))
        })
    }

    pub(super) fn states(&self) -> &[State] {
        &self.states
    }

    /// Units that were really used.
    pub(super) fn used(&self) -> u64 {
        self.nodes
            .iter()
            .flat_map(Node::all_calls)
            .map(|call| call.truth)
            .sum()
    }
}
