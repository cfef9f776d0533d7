//! Limits: the books balance whatever happens, and no more is used than there is.
//!
//! `history` and `node` are a cluster in miniature with the node's side modelled; the others hold single rules.

use std::sync::Arc;

use mode_envoy_model::batch::{Batch, Item, Outcome};
use mode_envoy_model::ledger::ask::{Ask, AskItem, LeaseUse, PoolKey};
use mode_envoy_model::ledger::view::PoolView;
use mode_envoy_model::limit::{Dimension, Limit, LimitId, Match, Mode, Per, Unit, Window};
use mode_envoy_model::state::State;
use mode_envoy_model::usage::batch::{Register, SpoolRange, UsageBatch};

mod buckets;
mod checkpoints;
mod grants;
mod histories;
mod history;
mod lives;
mod node;
mod talk;
mod windows;

/// A moment within a minute, an hour, a day and a month: 2026-03-10T12:30:20Z.
const WALL: u64 = 20_522 * 86_400_000 + 12 * 3_600_000 + 30 * 60_000 + 20_000;

fn limit(amount: u64, per: Per) -> Limit {
    Limit {
        name: "l".into(),
        tenant: None,
        matches: Match::default(),
        each: None,
        unit: Unit::Requests,
        amount,
        per,
        window: Window::Calendar,
        mode: Mode::Strict,
        shadow: false,
    }
}

fn each(amount: u64, per: Per) -> Limit {
    Limit {
        each: Some(Dimension::Key),
        ..limit(amount, per)
    }
}

fn key(limit: LimitId, value: &str) -> PoolKey {
    PoolKey {
        limit,
        value: value.into(),
    }
}

fn set_limits(state: &mut State, limits: &[(LimitId, Limit)]) {
    let limits: Vec<_> = limits
        .iter()
        .map(|(id, limit)| (*id, Arc::new(limit.clone())))
        .collect();
    state
        .ledger
        .set_limits(limits.iter().map(|(id, limit)| (*id, limit)));
}

/// A cluster whose nodes say one thing after the other.
struct Cluster {
    state: State,
    index: u64,
    clock_ms: u64,
    wall_ms: u64,
}

impl Cluster {
    /// With nodes 1 to `nodes`, each with one spool.
    fn new(nodes: u64, limits: &[(LimitId, Limit)]) -> Self {
        let mut cluster = Self {
            state: State::new(),
            index: 0,
            clock_ms: 1_000,
            wall_ms: WALL,
        };
        cluster.apply_all(Vec::new());
        set_limits(&mut cluster.state, limits);
        for node in 1..=nodes {
            cluster.register(node);
        }
        cluster
    }

    fn apply_all(&mut self, items: Vec<Item>) -> Vec<Outcome> {
        self.index += 1;
        let batch = Batch {
            lease_clock_ms: self.clock_ms,
            wall_ms: self.wall_ms,
            items,
        };
        let outcomes = self.state.apply(self.index, &batch);
        assert_eq!(self.state.ledger.violation(), None);
        outcomes
    }

    fn apply(&mut self, item: Item) -> Outcome {
        self.apply_all(vec![item]).remove(0)
    }

    /// Time goes by, and an entry says so.
    fn pass(&mut self, ms: u64) {
        self.clock_ms += ms;
        self.wall_ms += ms;
        self.apply_all(Vec::new());
    }

    fn register(&mut self, node: u64) -> u64 {
        let register = Register {
            node,
            follows: self.incarnation(node),
            spools: vec![(0, [u8::try_from(node).expect("few nodes"); 16])],
        };
        match self.apply(Item::Register(register)) {
            Outcome::Registered { incarnation } => incarnation,
            other => panic!("{other:?}"),
        }
    }

    fn incarnation(&self, node: u64) -> u64 {
        let stream = self.state.usage.streams.get(node);
        stream.map_or(0, |stream| stream.incarnation)
    }

    /// The batch that counts next, with nothing in it but these.
    fn batch(&self, node: u64, uses: Vec<LeaseUse>, asks: Vec<Ask>) -> UsageBatch {
        let stream = self.state.usage.streams.get(node).expect("registered");
        UsageBatch {
            node,
            incarnation: stream.incarnation,
            seq: stream.next_seq,
            ranges: Vec::new(),
            series: Vec::new(),
            rows: Vec::new(),
            uses,
            asks,
        }
    }

    fn say(&mut self, node: u64, uses: Vec<LeaseUse>, asks: Vec<Ask>) -> Outcome {
        let batch = self.batch(node, uses, asks);
        self.apply(Item::Usage(batch))
    }

    /// Counts so many more records of a node's spool.
    fn record(&mut self, node: u64, records: u64) {
        let mut batch = self.batch(node, Vec::new(), Vec::new());
        let stream = self.state.usage.streams.get(node).expect("registered");
        let spool = stream.spools[&0];
        batch.ranges = vec![SpoolRange {
            worker: 0,
            uuid: spool.uuid,
            from: spool.acked_to,
            to: spool.acked_to + records,
        }];
        assert_eq!(self.apply(Item::Usage(batch)), Outcome::Counted);
    }

    fn ask(&mut self, node: u64, items: Vec<AskItem>) {
        let outcome = self.say(node, Vec::new(), vec![Ask { items }]);
        assert_eq!(outcome, Outcome::Counted);
    }

    fn spend(&mut self, node: u64, pool: &PoolKey, spent: u64, returned: u64) -> Outcome {
        let lease = self.lease(node, pool).expect("a lease").id;
        let one = LeaseUse {
            lease,
            spent,
            returned,
        };
        self.say(node, vec![one], Vec::new())
    }

    fn view(&self, node: u64, pool: &PoolKey) -> PoolView {
        let view = self.state.ledger.view(pool, node, self.incarnation(node));
        view.expect("the limit is in force")
    }

    fn lease(
        &self,
        node: u64,
        pool: &PoolKey,
    ) -> Option<mode_envoy_model::ledger::view::LeaseView> {
        self.view(node, pool).lease
    }

    fn granted(&self, node: u64, pool: &PoolKey) -> u64 {
        self.lease(node, pool).map_or(0, |lease| lease.granted)
    }
}

fn item(pool: &PoolKey, need: u64, want: u64, demand: u64) -> AskItem {
    AskItem {
        pool: pool.clone(),
        need,
        want,
        demand,
        typical: 1,
    }
}
