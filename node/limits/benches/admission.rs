//! What admission costs a call: six limits with units at hand, one that is known to be used up, and six that this node
//! counts alone.
//!
//! Wall times of one machine; compare them within one run only.

use std::sync::Arc;

use divan::{Bencher, black_box};
use mode_envoy_limits::{Keeper, NotTaken, Now, Reservation, Slice, take_all};
use mode_envoy_model::ledger::ask::PoolKey;
use mode_envoy_model::ledger::view::{LeaseView, PoolView};
use mode_envoy_model::limit::{Limit, Match, Mode, Per, Unit, Window};

const LIMITS: u64 = 6;
const MINUTE_MS: u64 = 60_000;
const PLENTY: u64 = 1 << 40;

fn main() {
    divan::main();
}

fn now() -> Now {
    Now {
        wall_ms: 1_767_225_600_000,
        boot_ms: 5_000_000,
        contact_boot_ms: Some(5_000_000),
        nodes: 3,
    }
}

fn limit(mode: Mode) -> Arc<Limit> {
    Arc::new(Limit {
        name: "acme-rpm".into(),
        tenant: None,
        matches: Match::default(),
        each: None,
        unit: Unit::Requests,
        amount: PLENTY,
        per: Per::Minute,
        window: Window::Calendar,
        mode,
        shadow: false,
    })
}

/// Slices whose leases have so much left.
fn slices(mode: Mode, left: u64) -> (Keeper, Vec<Arc<Slice>>) {
    let (mut keeper, pools) = Keeper::new();
    let mut slices = Vec::new();
    for number in 0..LIMITS {
        let key = PoolKey {
            limit: number,
            value: "acme/mobile-app".into(),
        };
        let limit = limit(mode);
        slices.extend(pools.open(&key, &limit).ok());
        let lease = LeaseView {
            id: number + 1,
            granted: left,
            returned: 0,
            settled: 0,
        };
        let view = PoolView {
            key,
            limit,
            window: now().wall_ms,
            ends_ms: Some(now().wall_ms + MINUTE_MS),
            cap: PLENTY,
            free: 0,
            elsewhere: 0,
            central: false,
            recalls: 0,
            epoch: 0,
            lease: Some(lease),
        };
        keeper.applied(&[view], 1, now());
    }
    (keeper, slices)
}

fn needs(slices: &[Arc<Slice>]) -> Vec<(&Arc<Slice>, u64)> {
    slices.iter().map(|slice| (slice, 1)).collect()
}

/// Without the end of the call.
#[divan::bench]
fn admission_through_six_limits(bencher: Bencher<'_, '_>) {
    let (_keeper, slices) = slices(Mode::Strict, PLENTY);
    let needs = needs(&slices);
    bencher.bench(|| take_all(black_box(&needs), now()));
}

/// With the end of the call.
#[divan::bench(threads = [1, 2])]
fn six_limits_with_units_at_hand(bencher: Bencher<'_, '_>) {
    let (_keeper, slices) = slices(Mode::Strict, PLENTY);
    let needs = needs(&slices);
    bencher.bench(|| {
        take_all(black_box(&needs), now())
            .map(Reservation::settle)
            .is_ok()
    });
}

#[divan::bench]
fn six_limits_that_this_node_counts_alone(bencher: Bencher<'_, '_>) {
    let (_keeper, slices) = slices(Mode::Local, 0);
    let needs = needs(&slices);
    bencher.bench(|| {
        take_all(black_box(&needs), now())
            .map(Reservation::settle)
            .is_ok()
    });
}

#[divan::bench]
fn refused_by_what_is_remembered(bencher: Bencher<'_, '_>) {
    let (mut keeper, slices) = slices(Mode::Strict, 0);
    let needs = needs(&slices);
    keeper.enqueue(&needs, now());
    bencher.bench(|| {
        matches!(
            take_all(black_box(&needs), now()),
            Err(NotTaken::Refused(_))
        )
    });
}
