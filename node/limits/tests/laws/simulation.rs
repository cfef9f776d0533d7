//! How much of an amount three nodes admit: never more, and how little less.
//!
//! The bands are those of the specification: all of it while every node is connected, and nearly all of it with a busy
//! node cut off for half of a window.

use mode_envoy_model::ledger::ask::PoolKey;
use mode_envoy_model::limit::{Mode, Per};

use crate::arb::{Chance, bucket, concurrent, key, limit};
use crate::cluster::{Arrival, Cluster, Outcome};

const SECOND: u64 = 1_000_000;
const EVEN: [f64; 3] = [1.0, 1.0, 1.0];
const SKEWED: [f64; 3] = [80.0, 15.0, 5.0];
const ONE: [f64; 3] = [1.0, 0.0, 0.0];

fn node(chance: &mut Chance, skew: [f64; 3]) -> usize {
    let mut at = chance.unit() * skew.iter().sum::<f64>();
    for (node, weight) in skew.into_iter().enumerate() {
        at -= weight;
        if at <= 0.0 {
            return node;
        }
    }
    0
}

/// Poisson arrivals.
fn arrivals(
    chance: &mut Chance,
    keys: &[PoolKey],
    per_second: f64,
    skew: [f64; 3],
    until_us: u64,
) -> Vec<Arrival> {
    let mut all = Vec::new();
    let mut at = 0.0;
    loop {
        at += chance.exponential(per_second) * SECOND as f64;
        if at as u64 >= until_us {
            return all;
        }
        all.push(arrival(chance, keys, at as u64, skew));
    }
}

fn arrival(chance: &mut Chance, keys: &[PoolKey], at_us: u64, skew: [f64; 3]) -> Arrival {
    Arrival {
        at_us,
        node: node(chance, skew),
        needs: keys.iter().map(|key| (key.clone(), 1)).collect(),
        lasts_us: 5_000 + chance.below(40_000),
    }
}

/// A minute of one strict limit.
fn minute(
    amount: u64,
    load: f64,
    skew: [f64; 3],
    seed: u64,
    cut: Option<(usize, u64, u64)>,
) -> Outcome {
    let mut chance = Chance(seed);
    let keys = [key(1)];
    let mut cluster = Cluster::new(&[(key(1), limit(amount, Per::Minute, Mode::Strict))], seed);
    cluster.cut = cut;
    let calls = arrivals(
        &mut chance,
        &keys,
        amount as f64 * load / 60.0,
        skew,
        59 * SECOND,
    );
    cluster.run(calls, 59 * SECOND + 900_000);
    assert!(cluster.is_quiet());
    cluster.outcome
}

/// Percent of what could be admitted.
fn used(outcome: &Outcome, amount: u64) -> f64 {
    let admitted = outcome.total(&key(1));
    assert!(admitted <= amount, "{admitted} of {amount} were admitted");
    assert_eq!(outcome.unleased, 0);
    admitted as f64 * 100.0 / amount.min(outcome.calls) as f64
}

#[test]
fn tiny_amounts_are_used_up_and_never_exceeded() {
    for amount in [1, 2, 3, 5, 10] {
        for skew in [EVEN, SKEWED, ONE] {
            for seed in 0..20 {
                let outcome = minute(amount, 6.0, skew, seed, None);
                let used = used(&outcome, amount);
                assert!(
                    used >= 100.0,
                    "{used} % of {amount}, seed {seed}: {outcome:?}"
                );
            }
        }
    }
}

#[test]
fn whole_amounts_are_used_under_even_skewed_and_single_load() {
    for (amount, seeds) in [(100, 20), (6_000, 3)] {
        for skew in [EVEN, SKEWED, ONE] {
            for seed in 0..seeds {
                let outcome = minute(amount, 1.5, skew, seed, None);
                let used = used(&outcome, amount);
                assert!(
                    used >= 99.5,
                    "{used} % of {amount}, seed {seed}: {:?}",
                    outcome.refused
                );
                assert!(
                    outcome.entries < 60 * 30,
                    "{} entries for one limit",
                    outcome.entries
                );
                assert!(
                    outcome.waited_us(500) < 30_000,
                    "half of those that waited: {} µs",
                    outcome.waited_us(500)
                );
            }
        }
    }
}

#[test]
fn a_burst_of_three_times_the_amount_gets_the_amount() {
    for amount in [1, 3, 10, 100] {
        for skew in [EVEN, SKEWED] {
            for seed in 0..20 {
                let mut chance = Chance(seed);
                let calls = (0..(3 * amount).max(12))
                    .map(|_| {
                        let at = 10 * SECOND + chance.below(10_000);
                        arrival(&mut chance, &[key(1)], at, skew)
                    })
                    .collect();
                let mut cluster =
                    Cluster::new(&[(key(1), limit(amount, Per::Minute, Mode::Strict))], seed);
                cluster.run(calls, 20 * SECOND);
                let used = used(&cluster.outcome, amount);
                assert!(
                    used >= 100.0,
                    "{used} % of {amount}, seed {seed}: {:?}",
                    cluster.outcome.refused
                );
                assert!(cluster.is_quiet());
            }
        }
    }
}

#[test]
fn demand_that_moves_between_nodes_finds_the_amount() {
    for seed in 0..3 {
        let mut chance = Chance(seed);
        let mut calls = arrivals(&mut chance, &[key(1)], 150.0, ONE, 59 * SECOND);
        for call in &mut calls {
            call.node = (call.at_us / (5 * SECOND)) as usize % 3;
        }
        let mut cluster = Cluster::new(&[(key(1), limit(6_000, Per::Minute, Mode::Strict))], seed);
        cluster.run(calls, 60 * SECOND - 50_000);
        let used = used(&cluster.outcome, 6_000);
        assert!(
            used >= 99.5,
            "{used} %, seed {seed}: {:?}",
            cluster.outcome.refused
        );
    }
}

#[test]
fn a_busy_node_that_is_cut_off_leaves_most_of_the_amount_to_use() {
    let seeds = 10;
    let all: Vec<f64> = (0..seeds)
        .map(|seed| {
            used(
                &minute(
                    6_000,
                    1.5,
                    SKEWED,
                    seed,
                    Some((0, 20 * SECOND, 50 * SECOND)),
                ),
                6_000,
            )
        })
        .collect();
    let mean = all.iter().sum::<f64>() / seeds as f64;
    assert!(
        mean >= 92.0 && all.iter().all(|used| *used >= 88.0),
        "{mean} %: {all:?}"
    );
}

#[test]
fn an_idle_node_that_is_cut_off_costs_nothing() {
    for seed in 0..3 {
        let outcome = minute(
            6_000,
            1.5,
            SKEWED,
            seed,
            Some((2, 20 * SECOND, 50 * SECOND)),
        );
        let used = used(&outcome, 6_000);
        assert!(used >= 98.0, "{used} %: {:?}", outcome.refused);
    }
}

#[test]
fn windows_that_roll_under_load_are_each_used_and_never_exceeded() {
    for seed in 0..3 {
        let mut chance = Chance(seed);
        let calls = arrivals(&mut chance, &[key(1)], 30.0, SKEWED, 200 * SECOND);
        let mut cluster = Cluster::new(&[(key(1), limit(600, Per::Minute, Mode::Strict))], seed);
        cluster.run(calls, 210 * SECOND);
        let windows = cluster.outcome.of(&key(1));
        assert!(
            windows.len() >= 4 && windows.iter().all(|units| *units <= 600),
            "{windows:?}"
        );
        assert!(
            windows[..3].iter().all(|units| *units >= 597),
            "{windows:?}"
        );
        assert!(cluster.is_quiet());
    }
}

#[test]
fn calls_with_several_limits_get_all_of_them_or_none() {
    for seed in 0..5 {
        let mut chance = Chance(seed);
        let limits = [
            (key(1), limit(900, Per::Minute, Mode::Strict)),
            (key(2), limit(300, Per::Hour, Mode::Strict)),
        ];
        let both = [key(1), key(2)];
        let mut calls = arrivals(&mut chance, &both, 12.0, EVEN, 50 * SECOND);
        calls.extend(arrivals(&mut chance, &[key(1)], 14.0, SKEWED, 50 * SECOND));
        let mut cluster = Cluster::new(&limits, seed);
        cluster.run(calls, 55 * SECOND);
        let (first, second) = (
            cluster.outcome.total(&key(1)),
            cluster.outcome.total(&key(2)),
        );
        assert!(first <= 900 && second <= 300, "{first} {second}");
        assert!(
            first >= 895 && second >= 298,
            "{first} {second}: {:?}",
            cluster.outcome.refused
        );
    }
}

/// What a single bucket on a single node would admit.
fn one_bucket(calls: &[Arrival], amount: u64, burst: u64) -> u64 {
    let (mut level, mut last, mut admitted) = (burst * SECOND, 0, 0);
    for call in calls {
        level = (level + (call.at_us - last) * amount).min(burst * SECOND);
        last = call.at_us;
        if level >= SECOND {
            (level, admitted) = (level - SECOND, admitted + 1);
        }
    }
    admitted
}

#[test]
fn buckets_admit_their_burst_and_their_pace_and_never_more() {
    for (amount, burst) in [(100, 100), (10, 20), (1, 1), (1_000, 500), (5, 1)] {
        for seed in 0..3 {
            let mut chance = Chance(seed);
            let calls = arrivals(
                &mut chance,
                &[key(1)],
                amount as f64 * 2.0,
                EVEN,
                20 * SECOND,
            );
            let mut cluster = Cluster::new(
                &[(key(1), bucket(amount, Per::Second, burst, Mode::Strict))],
                seed,
            );
            cluster.run(calls.clone(), 25 * SECOND);
            let at = &cluster.outcome.admitted_at;
            for (first, from) in at.iter().enumerate() {
                for (last, to) in at.iter().enumerate().skip(first).step_by(7) {
                    let (units, most) = (
                        (last - first + 1) as u64,
                        burst * SECOND + amount * (to - from + 1_000),
                    );
                    assert!(
                        units * SECOND <= most + SECOND,
                        "{units} in {} µs",
                        to - from
                    );
                }
            }
            let ideal = one_bucket(&calls, amount, burst);
            let used = at.len() as f64 * 100.0 / ideal as f64;
            // A slow bucket is asked by the second, and what it has of a unit is not told.
            let least = if amount < 10 { 80.0 } else { 90.0 };
            assert!(
                used >= least,
                "{used} % of {ideal} at {amount}, {burst}: {:?}",
                cluster.outcome.refused
            );
        }
    }
}

#[test]
fn calls_that_are_open_at_once_are_never_more_than_the_amount() {
    for (amount, load) in [(5, 400.0), (50, 4_000.0), (1, 100.0)] {
        for skew in [EVEN, SKEWED] {
            let mut chance = Chance(7);
            let calls = arrivals(&mut chance, &[key(1)], load, skew, 5 * SECOND);
            let count = calls.len();
            let mut cluster = Cluster::new(&[(key(1), concurrent(amount, Mode::Strict))], 7);
            cluster.run(calls, 8 * SECOND);
            let outcome = &cluster.outcome;
            assert!(
                outcome.most_open <= amount,
                "{} of {amount} were open",
                outcome.most_open
            );
            assert_eq!(outcome.most_open, amount);
            assert!(
                outcome.admitted_at.len() * 4 > count.min(amount as usize * 200) * 3 / 2,
                "{} of {count}: {:?}",
                outcome.admitted_at.len(),
                outcome.refused
            );
            assert!(cluster.is_quiet());
        }
    }
}
