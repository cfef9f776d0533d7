//! Three nodes and a log in simulated time: arrivals, commits of about 3 ms, followers that apply late, a node that is cut
//! off. Everything follows from a seed.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::sync::Arc;

use mode_envoy_limits::{
    Decision, Enqueued, Keeper, NotTaken, Now, Plan, Pools, Reason, Reservation, Slice, Ticket,
    Verdict, take_all,
};
use mode_envoy_model::ledger::ask::{LeaseId, PoolKey};
use mode_envoy_model::ledger::view::PoolView;
use mode_envoy_model::limit::Limit;

use crate::arb::{Chance, MIDNIGHT};
use crate::ledger::{Ledger, NODES};

const HOP_US: u64 = 500;
const LAG_US: u64 = 5_000;
const RESEND_US: u64 = 200_000;

/// A call that comes to a node: what it needs of each limit, and how long it lasts.
#[derive(Clone, Debug)]
pub(crate) struct Arrival {
    pub(crate) at_us: u64,
    pub(crate) node: usize,
    pub(crate) needs: Vec<(PoolKey, u64)>,
    pub(crate) lasts_us: u64,
}

#[derive(Debug)]
enum Event {
    Arrives(Arrival),
    Ends(usize, u64),
    Commits(usize),
    Applies {
        node: usize,
        index: u64,
        views: Vec<PoolView>,
        own: bool,
    },
    Wakes(usize),
}

struct Node {
    keeper: Keeper,
    pools: Arc<Pools>,
    slices: BTreeMap<PoolKey, Arc<Slice>>,
    spent: BTreeMap<LeaseId, u64>,
    flight: Option<Plan>,
    applied_us: u64,
    waiting: BTreeMap<Ticket, (Arrival, u64)>,
}

/// What came of it all.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// By pool and window.
    pub(crate) admitted: BTreeMap<(PoolKey, u64), u64>,
    pub(crate) admitted_at: Vec<u64>,
    pub(crate) unleased: u64,
    pub(crate) calls: u64,
    pub(crate) refused: BTreeMap<&'static str, u64>,
    pub(crate) waited_us: Vec<u64>,
    pub(crate) entries: u64,
    /// Most that were open at the same time.
    pub(crate) most_open: u64,
}

pub(crate) struct Cluster {
    pub(crate) ledger: Ledger,
    limits: BTreeMap<PoolKey, Arc<Limit>>,
    nodes: Vec<Node>,
    events: BinaryHeap<Reverse<(u64, u64, usize)>>,
    bodies: BTreeMap<usize, Event>,
    serial: usize,
    chance: Chance,
    now_us: u64,
    /// When each node looks around next.
    wakes: [u64; NODES],
    /// A node, and from when to when it is alone.
    pub(crate) cut: Option<(usize, u64, u64)>,
    open: BTreeMap<u64, Reservation>,
    calls: u64,
    pub(crate) outcome: Outcome,
}

impl Cluster {
    pub(crate) fn new(limits: &[(PoolKey, Limit)], seed: u64) -> Self {
        let mut ledger = Ledger::new();
        let limits: BTreeMap<_, _> = limits
            .iter()
            .map(|(key, limit)| (key.clone(), Arc::new(limit.clone())))
            .collect();
        for (key, limit) in &limits {
            ledger.add(key.clone(), Arc::clone(limit), MIDNIGHT);
        }
        let nodes = (0..NODES).map(|_| Node::new()).collect();
        Self {
            ledger,
            limits,
            nodes,
            events: BinaryHeap::new(),
            bodies: BTreeMap::new(),
            serial: 0,
            chance: Chance(seed),
            now_us: 0,
            wakes: [u64::MAX; NODES],
            cut: None,
            open: BTreeMap::new(),
            calls: 0,
            outcome: Outcome::default(),
        }
    }

    /// Runs until nothing happens any more, or until `end_us`.
    pub(crate) fn run(&mut self, arrivals: Vec<Arrival>, end_us: u64) {
        for arrival in arrivals {
            self.push(arrival.at_us, Event::Arrives(arrival));
        }
        (0..NODES).for_each(|node| self.wakes_by(node, 0));
        while let Some(Reverse((at_us, _, serial))) = self.events.pop() {
            if at_us > end_us {
                break;
            }
            self.now_us = at_us;
            let event = self.bodies.remove(&serial).unwrap();
            self.happens(event);
        }
    }

    fn push(&mut self, at_us: u64, event: Event) {
        self.serial += 1;
        self.events
            .push(Reverse((at_us, self.serial as u64, self.serial)));
        self.bodies.insert(self.serial, event);
    }

    fn is_cut(&self, node: usize) -> bool {
        let inside =
            |(who, from, to): (usize, u64, u64)| who == node && (from..to).contains(&self.now_us);
        self.cut.is_some_and(inside)
    }

    fn now(&self, node: usize) -> Now {
        let ms = self.now_us / 1_000;
        let contact = if self.is_cut(node) {
            self.cut.unwrap().1 / 1_000
        } else {
            ms
        };
        Now {
            wall_ms: MIDNIGHT + ms,
            boot_ms: 5_000 + ms,
            contact_boot_ms: Some(5_000 + contact),
            nodes: NODES as u64,
        }
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Arrives(arrival) => self.arrives(arrival),
            Event::Ends(node, call) => self.ends(node, call),
            Event::Commits(node) => self.commits(node),
            Event::Applies {
                node,
                index,
                views,
                own,
            } => self.applies(node, index, &views, own),
            Event::Wakes(node) if self.wakes[node] != self.now_us => {}
            Event::Wakes(node) => {
                let now = self.now(node);
                let decisions = self.nodes[node].keeper.overdue(now);
                self.decided(node, decisions);
                self.flush(node);
                self.wakes[node] = u64::MAX;
                let due = self.nodes[node]
                    .keeper
                    .next_due_ms(now)
                    .saturating_sub(5_000)
                    * 1_000;
                self.wakes_by(node, due.clamp(self.now_us + 1_000, self.now_us + 100_000));
            }
        }
    }

    fn wakes_by(&mut self, node: usize, at_us: u64) {
        if at_us < self.wakes[node] {
            self.wakes[node] = at_us;
            self.push(at_us, Event::Wakes(node));
        }
    }

    fn arrives(&mut self, arrival: Arrival) {
        let (node, now) = (arrival.node, self.now(arrival.node));
        self.outcome.calls += 1;
        let slices: Vec<_> = arrival
            .needs
            .iter()
            .map(|(key, need)| (self.slice(node, key), *need))
            .collect();
        let needs: Vec<_> = slices.iter().map(|(slice, need)| (slice, *need)).collect();
        match take_all(&needs, now) {
            Ok(taken) => self.admitted(&arrival, taken, 0),
            Err(NotTaken::Refused(refusal)) => self.refused(refusal.reason),
            Err(NotTaken::TooMany) => panic!("too many limits"),
            Err(NotTaken::Cold(_)) => match self.nodes[node].keeper.enqueue(&needs, now) {
                Enqueued::Decided(Verdict::Admitted(taken)) => self.admitted(&arrival, *taken, 0),
                Enqueued::Decided(Verdict::Refused(refusal)) => self.refused(refusal.reason),
                Enqueued::Waits(ticket) => {
                    let since = self.now_us;
                    self.nodes[node].waiting.insert(ticket, (arrival, since));
                    self.wakes_by(node, self.now_us + 1_000);
                }
            },
        }
        self.flush(node);
    }

    fn slice(&mut self, node: usize, key: &PoolKey) -> Arc<Slice> {
        let limit = &self.limits[key];
        let Node { pools, slices, .. } = &mut self.nodes[node];
        Arc::clone(
            slices
                .entry(key.clone())
                .or_insert_with(|| pools.open(key, limit).unwrap()),
        )
    }

    fn admitted(&mut self, arrival: &Arrival, taken: Reservation, waited_us: u64) {
        let charges: Vec<_> = taken.charges().collect();
        self.outcome.unleased += u64::from(charges.len() < arrival.needs.len());
        for charge in &charges {
            let key = self.limit_of(charge.lease, arrival);
            *self
                .outcome
                .admitted
                .entry((key, charge.window))
                .or_default() += charge.need;
        }
        self.outcome.admitted_at.push(self.now_us);
        self.outcome.waited_us.push(waited_us);
        self.calls += 1;
        self.open.insert(self.calls, taken);
        self.outcome.most_open = self.outcome.most_open.max(self.open.len() as u64);
        self.push(
            self.now_us + arrival.lasts_us,
            Event::Ends(arrival.node, self.calls),
        );
    }

    fn limit_of(&self, lease: LeaseId, arrival: &Arrival) -> PoolKey {
        let owns = |key: &&PoolKey| self.ledger.owns(key, lease);
        arrival
            .needs
            .iter()
            .map(|(key, _)| key)
            .find(owns)
            .unwrap()
            .clone()
    }

    fn refused(&mut self, reason: Reason) {
        *self.outcome.refused.entry(reason.as_str()).or_default() += 1;
    }

    fn ends(&mut self, node: usize, call: u64) {
        let taken = self.open.remove(&call).unwrap();
        for charge in taken.charges().filter(|charge| charge.spent() > 0) {
            *self.nodes[node].spent.entry(charge.lease).or_default() += charge.spent();
        }
        taken.settle();
    }

    /// Composes a batch, if there is reason to and none is on its way.
    fn flush(&mut self, node: usize) {
        let now = self.now(node);
        let Node {
            keeper,
            spent,
            flight,
            ..
        } = &mut self.nodes[node];
        if flight.is_some() || keeper.next_due_ms(now) > now.boot_ms {
            return;
        }
        let plan = keeper.plan(&std::mem::take(spent), now);
        if !plan.is_empty() {
            *flight = Some(plan);
            self.send(node);
        }
    }

    fn send(&mut self, node: usize) {
        let commit = (3_000.0 * (0.5 * self.chance.normal()).exp()) as u64;
        self.push(self.now_us + HOP_US + commit, Event::Commits(node));
    }

    /// The batch that was sent is committed, or has to be sent again.
    fn commits(&mut self, node: usize) {
        if self.is_cut(node) {
            return self.push(self.now_us + RESEND_US, Event::Commits(node));
        }
        let plan = self.nodes[node].flight.clone().unwrap();
        let touched = self
            .ledger
            .apply(node, &plan, MIDNIGHT + self.now_us / 1_000);
        self.outcome.entries += 1;
        self.tell(Some(node), &touched);
    }

    pub(crate) fn tell(&mut self, sender: Option<usize>, touched: &BTreeSet<PoolKey>) {
        let index = self.ledger.index;
        for node in 0..NODES {
            let views = touched
                .iter()
                .filter_map(|key| self.ledger.view(key, node))
                .collect();
            let lag = if sender == Some(node) { HOP_US } else { LAG_US };
            let mut at_us = (self.now_us + lag).max(self.nodes[node].applied_us);
            if let Some((who, from, to)) = self.cut
                && who == node
                && (from..to).contains(&at_us)
            {
                at_us = to + LAG_US;
            }
            self.nodes[node].applied_us = at_us;
            let own = sender == Some(node);
            self.push(
                at_us,
                Event::Applies {
                    node,
                    index,
                    views,
                    own,
                },
            );
        }
    }

    fn applies(&mut self, node: usize, index: u64, views: &[PoolView], own: bool) {
        let now = self.now(node);
        let mut decisions = self.nodes[node].keeper.applied(views, index, now);
        if own {
            self.nodes[node].flight = None;
            // What this node has applied is what the ledger was just after its batch, or a little later.
            let ledger = &self.ledger;
            decisions.extend(self.nodes[node].keeper.counted(
                ledger.index,
                |key| ledger.view(key, node),
                now,
            ));
        }
        self.decided(node, decisions);
        self.flush(node);
    }

    fn decided(&mut self, node: usize, decisions: Vec<Decision>) {
        for Decision { ticket, verdict } in decisions {
            let (arrival, since) = self.nodes[node]
                .waiting
                .remove(&ticket)
                .expect("decided once");
            match verdict {
                Verdict::Admitted(taken) => self.admitted(&arrival, *taken, self.now_us - since),
                Verdict::Refused(refusal) => self.refused(refusal.reason),
            }
        }
    }

    /// Nobody waits for ever.
    pub(crate) fn is_quiet(&self) -> bool {
        self.nodes.iter().all(|node| node.waiting.is_empty())
    }
}

impl Node {
    fn new() -> Self {
        let (keeper, pools) = Keeper::new();
        Self {
            keeper,
            pools,
            slices: BTreeMap::new(),
            spent: BTreeMap::new(),
            flight: None,
            applied_us: 0,
            waiting: BTreeMap::new(),
        }
    }
}

impl Outcome {
    /// What was admitted of a pool, window by window.
    pub(crate) fn of(&self, key: &PoolKey) -> Vec<u64> {
        self.admitted
            .iter()
            .filter(|((of, _), _)| of == key)
            .map(|(_, units)| *units)
            .collect()
    }

    pub(crate) fn total(&self, key: &PoolKey) -> u64 {
        self.of(key).iter().sum()
    }

    /// The wait that so many of a thousand calls that waited did not exceed.
    pub(crate) fn waited_us(&self, permille: usize) -> u64 {
        let mut waited: Vec<u64> = self
            .waited_us
            .iter()
            .copied()
            .filter(|us| *us > 0)
            .collect();
        waited.sort_unstable();
        waited
            .get(waited.len() * permille / 1_000)
            .copied()
            .unwrap_or(0)
    }
}
