//! One node whose batches are applied at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mode_envoy_limits::{
    Decision, Enqueued, Keeper, NotTaken, Now, Plan, Pools, Reason, Refusal, Reservation, Slice,
    Ticket, Verdict, take_all,
};
use mode_envoy_model::ledger::ask::{LeaseId, PoolKey};
use mode_envoy_model::limit::Limit;

use crate::arb::{MIDNIGHT, at};
use crate::ledger::Ledger;

pub(crate) struct Node {
    pub(crate) ledger: Ledger,
    pub(crate) keeper: Keeper,
    pub(crate) pools: Arc<Pools>,
    pub(crate) slices: Vec<Arc<Slice>>,
    pub(crate) spent: BTreeMap<LeaseId, u64>,
}

impl Node {
    /// A node and its limits; `each` has its number, from 0, for a key.
    pub(crate) fn new(limits: &[Limit]) -> Self {
        let (keeper, pools) = Keeper::new();
        let mut node = Self {
            ledger: Ledger::new(),
            keeper,
            pools,
            slices: Vec::new(),
            spent: BTreeMap::new(),
        };
        for (number, limit) in limits.iter().enumerate() {
            let (key, limit) = (crate::arb::key(number as u64), Arc::new(limit.clone()));
            node.ledger.add(key.clone(), Arc::clone(&limit), MIDNIGHT);
            node.slices.push(node.pools.open(&key, &limit).unwrap());
        }
        node
    }

    pub(crate) fn take(&self, needs: &[u64], now: Now) -> Result<Reservation, NotTaken> {
        let limits: Vec<_> = self.slices.iter().zip(needs.iter().copied()).collect();
        take_all(&limits, now)
    }

    pub(crate) fn enqueue(&mut self, needs: &[u64], now: Now) -> Enqueued {
        let slices = self.slices.clone();
        let limits: Vec<_> = slices.iter().zip(needs.iter().copied()).collect();
        self.keeper.enqueue(&limits, now)
    }

    /// Waits for what was cold, with the log's answer at once.
    pub(crate) fn admit(&mut self, needs: &[u64], now: Now) -> Result<Reservation, Box<Refusal>> {
        match self.take(needs, now) {
            Ok(taken) => return Ok(taken),
            Err(NotTaken::Refused(refusal)) => return Err(refusal),
            Err(NotTaken::TooMany) => panic!("too many limits"),
            Err(NotTaken::Cold(_)) => {}
        }
        let ticket = match self.enqueue(needs, now) {
            Enqueued::Decided(verdict) => return result(verdict),
            Enqueued::Waits(ticket) => ticket,
        };
        let mut decisions = Vec::new();
        for _ in 0..10 {
            if decisions.is_empty() {
                decisions.extend(self.commit(now).1);
            }
        }
        if decisions.is_empty() {
            decisions.extend(self.keeper.overdue(later(now, 200)));
        }
        result(verdict_of(ticket, decisions))
    }

    /// Asks with a need that nobody holds, until the node has so much at hand.
    pub(crate) fn warm(&mut self, needs: &[u64], now: Now) {
        self.admit(needs, now).unwrap().release();
    }

    /// Plans, applies what was planned, and tells of it.
    pub(crate) fn commit(&mut self, now: Now) -> (Plan, Vec<Decision>) {
        let plan = self.keeper.plan(&std::mem::take(&mut self.spent), now);
        let touched = if plan.is_empty() {
            BTreeSet::new()
        } else {
            self.ledger.apply(0, &plan, now.wall_ms)
        };
        let mut decisions = self.tell(&touched, now);
        let ledger = &self.ledger;
        decisions.extend(
            self.keeper
                .counted(ledger.index, |key| ledger.view(key, 0), now),
        );
        (plan, decisions)
    }

    pub(crate) fn tell(&mut self, touched: &BTreeSet<PoolKey>, now: Now) -> Vec<Decision> {
        let views = touched.iter().filter_map(|key| self.ledger.view(key, 0));
        let views: Vec<_> = views.collect();
        self.keeper.applied(&views, self.ledger.index, now)
    }

    /// Ends a call, and has its record counted with the next batch.
    pub(crate) fn end(&mut self, taken: Reservation) {
        for charge in taken.charges().filter(|charge| charge.spent() > 0) {
            *self.spent.entry(charge.lease).or_default() += charge.spent();
        }
        taken.settle();
    }

    /// How many calls of one unit are admitted now.
    pub(crate) fn admits(&mut self, now: Now) -> u64 {
        let needs = vec![1; self.slices.len()];
        let mut admitted = 0;
        while let Ok(taken) = self.admit(&needs, now) {
            self.end(taken);
            admitted += 1;
            assert!(admitted < 1_000_000, "without end");
        }
        admitted
    }
}

pub(crate) fn later(now: Now, ms: u64) -> Now {
    let by = |at: u64| at + ms;
    Now {
        wall_ms: by(now.wall_ms),
        boot_ms: by(now.boot_ms),
        contact_boot_ms: now.contact_boot_ms.map(by),
        ..now
    }
}

pub(crate) fn verdict_of(ticket: Ticket, decisions: Vec<Decision>) -> Verdict {
    let mut found = decisions
        .into_iter()
        .filter(|decision| decision.ticket == ticket);
    let verdict = found.next().expect("a decision").verdict;
    assert!(found.next().is_none(), "decided twice");
    verdict
}

pub(crate) fn result(verdict: Verdict) -> Result<Reservation, Box<Refusal>> {
    match verdict {
        Verdict::Admitted(taken) => Ok(*taken),
        Verdict::Refused(refusal) => Err(refusal),
    }
}

pub(crate) fn reason(result: Result<Reservation, NotTaken>) -> Reason {
    match result {
        Err(NotTaken::Refused(refusal)) => refusal.reason,
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn a_node_alone_gets_all_of_an_amount_and_no_more() {
    for amount in [1, 2, 7, 60, 1_000] {
        let mut node = Node::new(&[crate::arb::limit(
            amount,
            mode_envoy_model::limit::Per::Minute,
            mode_envoy_model::limit::Mode::Strict,
        )]);
        assert_eq!(node.admits(at(10)), amount);
    }
}
