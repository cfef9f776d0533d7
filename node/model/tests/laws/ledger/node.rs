//! A node as the histories see it: calls that are opened and closed in a spool, and what it says about them.
//!
//! It keeps to the rules of the node's side: a call takes from what is granted in the applied log; a batch is sent again as it
//! is; after a crash every open call counts as it was reserved; a record is freed once it is counted and no open call stands
//! before it. A [`Mutant`] breaks one of them.

use std::collections::BTreeMap;

use mode_envoy_model::batch::{Evict, Final, Item};
use mode_envoy_model::ledger::ask::{Ask, AskItem, LeaseId, LeaseUse};
use mode_envoy_model::ledger::window::Lease;
use mode_envoy_model::state::State;
use mode_envoy_model::usage::batch::{Register, SpoolRange, SpoolUuid, UsageBatch};

use super::history::{Mutant, Rng};
use super::key;

/// A call: what it took of which lease, and what it really used.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) lease: LeaseId,
    pub(super) window: u64,
    pub(super) reserved: u64,
    pub(super) truth: u64,
    opened: u64,
    closed: Option<Close>,
    life: u64,
}

#[derive(Clone, Copy, Debug)]
struct Close {
    at: u64,
    used: u64,
}

pub(super) struct Node {
    pub(super) id: u64,
    pub(super) alive: bool,
    /// Counts the starts of the process.
    pub(super) life: u64,
    /// Entries of the log that it has applied.
    pub(super) applied: usize,
    incarnation: Option<u64>,
    uuid: SpoolUuid,
    calls: Vec<Call>,
    next: u64,
    acked: u64,
    /// Where the spool ended when this life began.
    recovered: u64,
    pub(super) in_flight: Option<UsageBatch>,
    returned: BTreeMap<LeaseId, u64>,
    /// Calls whose records are lost, and whether they were counted before.
    lost: Vec<(Call, bool)>,
    spools: u8,
    mutant: Option<Mutant>,
}

impl Node {
    pub(super) fn new(id: u64, mutant: Option<Mutant>) -> Self {
        let mut node = Self {
            id,
            alive: false,
            life: 0,
            applied: 0,
            incarnation: None,
            uuid: [0; 16],
            calls: Vec::new(),
            next: 1,
            acked: 1,
            recovered: 1,
            in_flight: None,
            returned: BTreeMap::new(),
            lost: Vec::new(),
            spools: 0,
            mutant,
        };
        node.new_spool();
        node.start();
        node
    }

    fn new_spool(&mut self) {
        self.uuid = [0; 16];
        self.uuid[0] = u8::try_from(self.id).expect("few nodes");
        self.uuid[1] = self.spools;
        self.spools += 1;
        (self.next, self.acked) = (1, 1);
    }

    /// The process starts: what was open when it died counts as reserved.
    pub(super) fn start(&mut self) {
        let mutant = self.mutant;
        if mutant == Some(Mutant::TrimAtAcked) {
            let acked = self.acked;
            let (kept, gone) = std::mem::take(&mut self.calls)
                .into_iter()
                .partition(|call| call.closed.is_some() || call.opened >= acked);
            self.calls = kept;
            let gone: Vec<Call> = gone;
            self.lost.extend(gone.into_iter().map(|call| (call, false)));
        }
        for call in self.calls.iter_mut().filter(|call| call.closed.is_none()) {
            let used = if mutant == Some(Mutant::OpenIsFree) {
                0
            } else {
                call.reserved
            };
            call.closed = Some(Close {
                at: self.next,
                used,
            });
            self.next += 1;
        }
        self.alive = true;
        self.life += 1;
        self.incarnation = None;
        self.in_flight = None;
        self.returned.clear();
        self.recovered = self.next;
    }

    /// The disk is gone with the process; another one starts.
    pub(super) fn lose_disk(&mut self, state: &State) {
        let acked = self.counted_to(state).unwrap_or(self.acked);
        let counted = |call: &Call| call.closed.is_some_and(|close| close.at < acked);
        let calls = std::mem::take(&mut self.calls);
        self.lost.extend(calls.into_iter().map(|call| {
            let counted = counted(&call);
            (call, counted)
        }));
        self.new_spool();
        self.start();
    }

    fn counted_to(&self, state: &State) -> Option<u64> {
        let stream = state.usage.streams.get(self.id)?;
        let spool = stream
            .spools
            .values()
            .find(|spool| spool.uuid == self.uuid)?;
        Some(spool.acked_to)
    }

    /// Its proposal to register was taken.
    pub(super) fn registered(&mut self, incarnation: u64) {
        self.incarnation = Some(incarnation);
        self.in_flight = None;
        self.returned.clear();
    }

    /// It has applied more of the log: is its batch counted, is it still the one that is registered?
    pub(super) fn look(&mut self, state: &State) {
        let (Some(incarnation), Some(stream)) =
            (self.incarnation, state.usage.streams.get(self.id))
        else {
            return;
        };
        if stream.incarnation > incarnation {
            self.incarnation = None;
            self.in_flight = None;
            return;
        }
        if stream.incarnation == incarnation {
            self.acked = self.counted_to(state).unwrap_or(self.acked);
            if self
                .in_flight
                .as_ref()
                .is_some_and(|batch| batch.seq < stream.next_seq)
            {
                self.in_flight = None;
            }
        }
    }

    /// The incarnation, once the node has applied its beginning.
    fn ready(&self, state: &State) -> Option<u64> {
        let stream = state.usage.streams.get(self.id)?;
        self.incarnation.filter(|own| *own == stream.incarnation)
    }

    fn leases(&self, state: &State) -> Vec<(u64, Lease)> {
        let leases = state.ledger.leases_of(self.id);
        leases
            .filter(|(_, _, lease)| Some(lease.incarnation) == self.incarnation)
            .map(|(_, window, lease)| (window, *lease))
            .collect()
    }

    fn held(&self, lease: &Lease) -> u64 {
        let taken = self.calls.iter().filter(|call| call.lease == lease.id);
        let taken: u64 = taken
            .map(|call| call.closed.map_or(call.reserved, |close| close.used))
            .sum();
        let returned = self.returned.get(&lease.id).copied().unwrap_or_default();
        lease.granted.saturating_sub(returned).saturating_sub(taken)
    }

    /// A call comes: it is admitted if a lease has enough, of the window now or rarely of an older one.
    pub(super) fn admit(&mut self, state: &State, rng: &mut Rng) {
        let mut leases = self.leases(state);
        let newest = leases.iter().map(|(window, _)| *window).max();
        if rng.chance(90) {
            leases.retain(|(window, _)| Some(*window) == newest);
        }
        let need = rng.within(1, 3);
        let Some((window, lease)) = leases
            .into_iter()
            .find(|(_, lease)| self.held(lease) >= need)
        else {
            return;
        };
        let truth = if rng.chance(70) {
            need
        } else {
            rng.within(0, need)
        };
        self.calls.push(Call {
            lease: lease.id,
            window,
            reserved: need,
            truth,
            opened: self.next,
            closed: None,
            life: self.life,
        });
        self.next += 1;
    }

    /// A call ends.
    pub(super) fn settle(&mut self, rng: &mut Rng) {
        let open: Vec<usize> = (0..self.calls.len())
            .filter(|at| self.calls[*at].closed.is_none() && self.calls[*at].life == self.life)
            .collect();
        if !open.is_empty() {
            let call = &mut self.calls[open[rng.index(open.len())]];
            call.closed = Some(Close {
                at: self.next,
                used: call.truth,
            });
            self.next += 1;
        }
    }

    /// What it says next: who it is, what is over, or what it used and needs. With `all` it gives back everything.
    pub(super) fn speak(&mut self, state: &State, rng: &mut Rng, all: bool) -> Option<Item> {
        let stream = state.usage.streams.get(self.id);
        let Some(incarnation) = self.incarnation else {
            return Some(Item::Register(Register {
                node: self.id,
                follows: stream.map_or(0, |stream| stream.incarnation),
                spools: vec![(0, self.uuid)],
            }));
        };
        self.ready(state)?;
        if self.in_flight.is_none()
            && rng.chance(30)
            && let Some(item) = self.end_old_life(state)
        {
            return Some(item);
        }
        if self.in_flight.is_none() {
            self.in_flight = Some(self.compose(state, incarnation, rng, all));
        }
        self.in_flight.clone().map(Item::Usage)
    }

    fn end_old_life(&self, state: &State) -> Option<Item> {
        let (incarnation, spools) = state.ledger.unfinished(self.id).next()?;
        if spools.iter().any(|uuid| *uuid != self.uuid) {
            let node = self.id;
            return Some(Item::Evict(Evict { node, incarnation }));
        }
        Some(Item::Final(Final {
            node: self.id,
            incarnation,
            ends: vec![(self.uuid, self.recovered)],
        }))
    }

    fn compose(&mut self, state: &State, incarnation: u64, rng: &mut Rng, all: bool) -> UsageBatch {
        let mut uses: BTreeMap<LeaseId, LeaseUse> = BTreeMap::new();
        for call in &self.calls {
            if let Some(close) = call
                .closed
                .filter(|close| close.at >= self.acked && close.used > 0)
            {
                uses.entry(call.lease).or_default().spent += close.used;
            }
        }
        for (_, lease) in self.leases(state) {
            let held = self.held(&lease);
            if held > 0 && (all || rng.chance(15)) {
                let back = if all { held } else { rng.within(1, held) };
                uses.entry(lease.id).or_default().returned += back;
                if self.mutant != Some(Mutant::SpendAfterReturn) {
                    *self.returned.entry(lease.id).or_default() += back;
                }
            }
        }
        for (lease, one) in &mut uses {
            one.lease = *lease;
        }
        let ask = AskItem {
            pool: key(1, ""),
            need: rng.within(0, 4),
            want: rng.within(0, 5),
            demand: rng.within(0, 20),
            typical: rng.within(1, 3),
        };
        let asks = if all {
            vec![]
        } else {
            vec![Ask { items: vec![ask] }]
        };
        let stream = state.usage.streams.get(self.id).expect("registered");
        UsageBatch {
            node: self.id,
            incarnation,
            seq: stream.next_seq,
            ranges: vec![SpoolRange {
                worker: 0,
                uuid: self.uuid,
                from: self.acked,
                to: self.next,
            }],
            series: Vec::new(),
            rows: Vec::new(),
            uses: uses.into_values().collect(),
            asks,
        }
    }

    /// Every call there ever was.
    pub(super) fn all_calls(&self) -> impl Iterator<Item = &Call> {
        self.calls
            .iter()
            .chain(self.lost.iter().map(|(call, _)| call))
    }

    /// What may be billed at most; with `exact`, what must be at least once everything is told.
    pub(super) fn billable(&self, exact: bool) -> u64 {
        let used = |call: &Call| call.closed.map_or(call.reserved, |close| close.used);
        let lost = self.lost.iter().filter(|(_, counted)| *counted || !exact);
        self.calls.iter().map(used).sum::<u64>() + lost.map(|(call, _)| used(call)).sum::<u64>()
    }

    /// Whether its disk was ever lost.
    pub(super) fn lost_any(&self) -> bool {
        self.spools > 1
    }

    /// Everything it recorded is told.
    pub(super) fn is_drained(&self, state: &State) -> bool {
        self.counted_to(state) == Some(self.next)
            && self
                .leases(state)
                .iter()
                .all(|(_, lease)| lease.outstanding() == 0)
            && state.ledger.unfinished(self.id).next().is_none()
    }
}
