//! Many threads take from the same slices while the keeper gives, recalls and rolls windows: no unit is admitted twice.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use mode_envoy_limits::{Reservation, Slice, take_all};
use mode_envoy_model::ledger::ask::LeaseId;
use mode_envoy_model::limit::{Mode, Per};

use crate::arb::{Chance, at, limit};
use crate::node::Node;

const THREADS: u64 = 4;
const ROUNDS: u64 = 400;
const SETTLED: u64 = 5_000;

#[test]
fn what_all_threads_admit_is_what_was_granted_and_not_returned() {
    let limits = [
        limit(3_000, Per::Minute, Mode::Strict),
        limit(50_000, Per::Hour, Mode::Strict),
    ];
    let mut node = Node::new(&limits);
    let spent: Arc<Mutex<BTreeMap<LeaseId, u64>>> = Arc::default();
    let ever: Mutex<BTreeMap<(usize, u64), u64>> = Mutex::default();
    let (clock, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let slices = node.slices.clone();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (slices, spent, ever, clock, stop) = (&slices, &spent, &ever, &clock, &stop);
            scope.spawn(move || {
                let end = |taken| settled(taken, spent, ever);
                calls(slices, Chance(thread), clock, stop, end);
            });
        }
        let mut chance = Chance(99);
        let settled = || ever.lock().unwrap().values().sum::<u64>();
        let rounds = (0..).take_while(|round| *round < ROUNDS || settled() < SETTLED);
        let _stops = Stops(&stop);
        for round in rounds {
            let now = at(round * 700);
            clock.store(round * 700, Ordering::Release);
            if let Ok(taken) = node.admit(&[1 + chance.below(40), 1], now) {
                taken.release();
            }
            if chance.below(5) == 0 {
                let amount = 1_000 + chance.below(3_000);
                node.ledger.change(&crate::arb::key(0), amount);
                node.tell(&[crate::arb::key(0)].into(), now);
            }
            node.spent = std::mem::take(&mut *spent.lock().unwrap());
            // The model ends the test where a use is not covered by its lease.
            node.commit(now);
            std::thread::yield_now();
        }
    });
    node.spent = std::mem::take(&mut *spent.lock().unwrap());
    node.commit(at(clock.load(Ordering::Acquire) + 700));
    let ever = ever.lock().unwrap();
    let windows: Vec<_> = ever.iter().filter(|((which, _), _)| *which == 0).collect();
    assert!(windows.len() > 3, "{windows:?}");
    assert!(
        windows.iter().all(|(_, units)| **units <= 4_000),
        "{windows:?}"
    );
}

/// Stops the threads, also when the test fails.
struct Stops<'a>(&'a AtomicBool);

impl Drop for Stops<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Takes, settles and releases until it is told to stop.
fn calls(
    slices: &[Arc<Slice>],
    mut chance: Chance,
    clock: &AtomicU64,
    stop: &AtomicBool,
    mut settle: impl FnMut(Reservation),
) {
    let mut open: Vec<Reservation> = Vec::new();
    while !stop.load(Ordering::Acquire) {
        let now = at(clock.load(Ordering::Acquire));
        let needs = [(&slices[0], 1 + chance.below(3)), (&slices[1], 1)];
        if let Ok(taken) = take_all(&needs, now) {
            open.push(taken);
        }
        if open.len() > 20 || chance.below(3) == 0 {
            let Some(taken) = open.pop() else {
                continue;
            };
            if chance.below(4) == 0 {
                taken.release();
            } else {
                settle(taken);
            }
        }
    }
    open.into_iter().for_each(settle);
}

fn settled(
    taken: Reservation,
    spent: &Mutex<BTreeMap<LeaseId, u64>>,
    ever: &Mutex<BTreeMap<(usize, u64), u64>>,
) {
    for (which, charge) in taken.charges().enumerate() {
        *ever
            .lock()
            .unwrap()
            .entry((which, charge.window))
            .or_default() += charge.need;
        *spent.lock().unwrap().entry(charge.lease).or_default() += charge.need;
    }
    taken.settle();
}

#[test]
fn threads_that_count_alone_admit_exactly_their_share() {
    let node = Node::new(&[
        limit(30_000, Per::Minute, Mode::Local),
        limit(90_000, Per::Hour, Mode::Local),
    ]);
    let slices = &node.slices;
    let admitted: u64 = std::thread::scope(|scope| {
        let takes = |slices: &[Arc<Slice>]| {
            let needs = [(&slices[0], 1), (&slices[1], 1)];
            (0..20_000)
                .filter(|_| take_all(&needs, at(5)).map(Reservation::settle).is_ok())
                .count() as u64
        };
        let threads: Vec<_> = (0..THREADS)
            .map(|_| scope.spawn(move || takes(slices)))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .sum()
    });
    assert_eq!(admitted, 10_000);
}
