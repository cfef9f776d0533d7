//! The flusher's part of limits: it hears what the log applied and what calls wait for, and has its batches say what the
//! keeper plans.
//!
//! ```text
//! asked | pools changed | due --> Keeper --> decisions to those who wait; `is_urgent`: the flusher composes at once
//! ```
//!
//! Invariants:
//! * what a batch says a lease paid is what the records that it counts say, and only of leases that the books still have;
//! * an earlier life is given back once all its records are counted and no call holds any of its leases.

use std::collections::BTreeMap;
use std::time::Duration;

use metrics::{counter, gauge};
use mode_envoy_limits::{Decision, Enqueued, Now, Ticket, Verdict};
use mode_envoy_model::batch::Final;
use mode_envoy_model::ledger::ask::{LeaseId, PoolKey};
use mode_envoy_model::ledger::view::PoolView;
use mode_envoy_model::usage::batch::SpoolUuid;
use mode_envoy_raft::{Handle, PoolWatch};
use tokio::sync::oneshot;
use tokio::time::sleep;

use super::core::Said;
use crate::limits::{Asked, Limits, Question};
use crate::metrics as names;

/// Pools are looked through for those that nobody needs this often.
const SWEEP_EVERY_MS: u64 = 10_000;
/// While a batch is in flight nothing can be said, and what calls gave back is looked for this often.
const IN_FLIGHT_MS: u64 = 10;

/// The keeper and its ears.
pub(super) struct Limiting {
    limits: Limits,
    answers: BTreeMap<Ticket, oneshot::Sender<Verdict>>,
    /// Who waits for all to be given back.
    leaving: Vec<oneshot::Sender<()>>,
    watch: PoolWatch,
    handle: Handle,
    incarnation: u64,
    /// The first of this process; 0 before it has one.
    first: u64,
    /// Of each spool the first record that is none of an earlier life's; once nothing of that is held any more.
    ends: Option<Vec<(SpoolUuid, u64)>>,
    sweep_ms: u64,
}

/// Something to do about limits.
pub(super) enum Event {
    Asked(Question),
    Changed,
    Due,
}

// === impl Limiting ===

impl Limiting {
    pub(super) fn new(limits: Limits, handle: Handle) -> Self {
        Self {
            limits,
            answers: BTreeMap::new(),
            leaving: Vec::new(),
            watch: handle.watch_pools(),
            handle,
            incarnation: 0,
            first: 0,
            ends: None,
            sweep_ms: 0,
        }
    }

    /// What is to be done next.
    ///
    /// # Cancel safety
    ///
    /// Safe: nothing is lost.
    pub(super) async fn next(&mut self, in_flight: bool) -> Event {
        let now = self.now();
        let due = self.limits.keeper.next_due_ms(now);
        let least = if in_flight { IN_FLIGHT_MS } else { 1 };
        let wait = due.saturating_sub(now.boot_ms).max(least);
        tokio::select! {
            Some(asked) = self.limits.asked.recv() => Event::Asked(asked),
            () = self.watch.changed() => Event::Changed,
            () = sleep(Duration::from_millis(wait)) => Event::Due,
        }
    }

    /// Does it.
    pub(super) fn on(&mut self, event: Event, in_flight: bool) {
        match event {
            Event::Asked(question) => {
                self.take(question);
                while let Ok(question) = self.limits.asked.try_recv() {
                    self.take(question);
                }
                if !in_flight {
                    self.answer_who_leaves();
                }
            }
            Event::Changed => self.changed(),
            Event::Due => {
                let now = self.now();
                let decisions = self.limits.keeper.overdue(now);
                self.tell(decisions);
                if now.boot_ms >= self.sweep_ms {
                    self.limits.keeper.sweep(now);
                    self.sweep_ms = now.boot_ms + SWEEP_EVERY_MS;
                    gauge!(names::LIMIT_WAITING).set(names::number(self.answers.len() as u64));
                }
            }
        }
    }

    /// Whether a batch should be composed at once.
    pub(super) fn is_urgent(&self) -> bool {
        self.limits.keeper.is_urgent()
    }

    /// Whether the keeper wants to be asked for what it plans.
    pub(super) fn is_due(&self) -> bool {
        let now = self.now();
        self.limits.keeper.next_due_ms(now) <= now.boot_ms
    }

    /// What the next batch says, given what its records say that leases paid.
    pub(super) fn say(&mut self, spent: &BTreeMap<LeaseId, u64>) -> Said {
        let known = self.handle.read(|state| {
            let known = |lease: &LeaseId| state.ledger.lease(*lease).is_some();
            let known = spent.iter().filter(|(lease, _)| known(lease));
            known.map(|(lease, units)| (*lease, *units)).collect()
        });
        let now = self.now();
        let plan = self.limits.keeper.plan(&known, now);
        (plan.uses, plan.asks)
    }

    /// A new incarnation has begun.
    pub(super) fn registered(&mut self, incarnation: u64) {
        self.incarnation = incarnation;
        if self.first == 0 {
            self.first = incarnation;
        }
        self.changed_all();
    }

    /// A batch is counted, and applied here.
    pub(super) fn counted(&mut self) {
        let (now, index) = (self.now(), self.handle.applied_index());
        let view = |key: &PoolKey| view(&self.handle, self.incarnation, key);
        let decisions = self.limits.keeper.counted(index, view, now);
        self.tell(decisions);
        self.answer_who_leaves();
    }

    /// The log takes no more batches of this incarnation.
    pub(super) fn fenced(&mut self) {
        self.limits.keeper.fenced();
        self.ends = None;
    }

    /// Whether a life may have used what none of its records tells: the machine, and not the process alone, has ended since, and
    /// took what was not durable yet. What it had then is burned, and not given back.
    pub(super) fn is_doubtful(&self, life: u64) -> bool {
        life < self.first && !self.limits.same_boot
    }

    /// What is to be given back of an earlier life, if all that it recorded is counted; `ends` says how far each spool is
    /// written, `acked` how far it is counted.
    pub(super) fn finish(
        &mut self,
        written: impl FnOnce() -> Vec<(SpoolUuid, u64)>,
        acked: impl Fn(&SpoolUuid) -> u64,
    ) -> Option<Final> {
        let node = self.handle.node_id();
        let incarnation = self.unfinished()?;
        if self.ends.is_none() && self.limits.keeper.is_rid_of_what_was_fenced() {
            self.ends = Some(written());
        }
        let ends = self.ends.as_ref()?;
        ends.iter()
            .all(|(uuid, end)| acked(uuid) >= *end)
            .then(|| Final {
                node,
                incarnation,
                ends: ends.clone(),
            })
    }

    /// The oldest of this node's lives that has leases still.
    pub(super) fn unfinished(&self) -> Option<u64> {
        let node = self.handle.node_id();
        self.handle
            .read(|state| state.ledger.unfinished(node).next().map(|(life, _)| life))
    }

    fn take(&mut self, question: Question) {
        match question {
            Question::Call(asked) => self.enqueue(asked),
            Question::Leave(answer) => {
                self.limits.keeper.end();
                self.leaving.push(answer);
            }
        }
    }

    /// Tells whoever waits for it that all is given back, if it is.
    fn answer_who_leaves(&mut self) {
        if !self.limits.keeper.has_returns() {
            for answer in self.leaving.drain(..) {
                // Whoever no longer waits is no failure.
                let _ = answer.send(());
            }
        }
    }

    fn enqueue(&mut self, Asked { limits, answer }: Asked) {
        if answer.is_closed() {
            return;
        }
        let now = self.now();
        let refs: Vec<_> = limits.iter().map(|(slice, need)| (slice, *need)).collect();
        match self.limits.keeper.enqueue(&refs, now) {
            Enqueued::Decided(verdict) => {
                // What was granted to one that waits no more goes back when it is dropped.
                let _ = answer.send(verdict);
            }
            Enqueued::Waits(ticket) => {
                self.answers.insert(ticket, answer);
            }
        }
    }

    fn changed(&mut self) {
        let changes = self.watch.take();
        if changes.all {
            return self.changed_all();
        }
        self.look_at(changes.keys);
    }

    /// Any pool may have changed: those that this node knows are looked at.
    fn changed_all(&mut self) {
        self.look_at(self.limits.keeper.pools());
    }

    /// Has the keeper see pools as they stand now, all at one moment.
    fn look_at(&mut self, keys: impl IntoIterator<Item = PoolKey>) {
        let (node, incarnation) = (self.handle.node_id(), self.incarnation);
        let index = self.handle.applied_index();
        let (views, gone) = self.handle.read(|state| {
            let (mut views, mut gone) = (Vec::new(), Vec::new());
            for key in keys {
                match state.ledger.view(&key, node, incarnation) {
                    Some(view) => views.push(view),
                    None => gone.push(key),
                }
            }
            self.limits.clock.set_nodes(state.ledger.nodes());
            (views, gone)
        });
        let now = self.now();
        let mut decisions = self.limits.keeper.applied(&views, index, now);
        for key in &gone {
            decisions.extend(self.limits.keeper.gone(key, now));
        }
        self.tell(decisions);
    }

    fn tell(&mut self, decisions: Vec<Decision>) {
        for Decision { ticket, verdict } in decisions {
            let admitted = matches!(verdict, Verdict::Admitted(_));
            let outcome = if admitted { "admitted" } else { "refused" };
            counter!(names::LIMIT_WAITED, "outcome" => outcome).increment(1);
            if let Some(answer) = self.answers.remove(&ticket) {
                let _ = answer.send(verdict);
            }
        }
    }

    fn now(&self) -> Now {
        self.limits.clock.now()
    }
}

fn view(handle: &Handle, incarnation: u64, key: &PoolKey) -> Option<PoolView> {
    let node = handle.node_id();
    handle.read(|state| state.ledger.view(key, node, incarnation))
}
