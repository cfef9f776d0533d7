//! Buckets fill by the lease clock, in integers and without drift, and let no more through than they say.

use mode_envoy_model::batch::Outcome;
use mode_envoy_model::ledger::rules::RULES_V1;
use mode_envoy_model::limit::{Dimension, Limit, Per, Window};
use proptest::collection::vec;
use proptest::prelude::*;

use super::{Cluster, item, key, limit};
use crate::arb;

fn bucket(amount: u64, per: Per, burst: u64) -> Limit {
    Limit {
        window: Window::Bucket { burst },
        ..limit(amount, per)
    }
}

#[test]
fn what_nodes_may_hold_and_what_that_takes_from_the_bucket() {
    for (amount, per, burst, hold, cap) in [
        (1_000, Per::Second, 1_000, 250, 750),
        (1_000, Per::Second, 200, 50, 150),
        (100, Per::Second, 100, 250, 75),
        (100, Per::Second, 50, 0, 50), // 12.5 units in 125 ms: not worth a lease
        (1, Per::Second, 1, 0, 1),
        (10, Per::Minute, 10, 0, 10),
        (60_000, Per::Minute, 1_000, 250, 750),
        (1_000_000, Per::Day, 5_000, 0, 5_000), // 11.6 a second
    ] {
        let limit = bucket(amount, per, burst);
        assert_eq!(
            (RULES_V1.hold(&limit), RULES_V1.cap(&limit)),
            (hold, cap),
            "{amount} {per:?} {burst}"
        );
    }
}

#[test]
fn a_bucket_fills_bit_by_bit_up_to_its_brim() {
    // Seven a minute: one in 8571.4 ms.
    let mut cluster = Cluster::new(1, &[(1, bucket(7, Per::Minute, 3))]);
    let pool = key(1, "");
    cluster.ask(1, vec![item(&pool, 3, 0, 1)]);
    let begun = cluster.clock_ms;
    for _ in 0..1_000 {
        cluster.pass(13);
        let flowed = (cluster.clock_ms - begun) * 7 / 60_000;
        assert_eq!(cluster.view(1, &pool).free, flowed.min(3).cast_signed());
    }
    assert_eq!(cluster.view(1, &pool).free, 1);
    cluster.pass(60_000);
    assert_eq!(cluster.view(1, &pool).free, 3);
    assert!(cluster.view(1, &pool).central && cluster.view(1, &pool).ends_ms.is_none());
}

#[test]
fn nothing_is_lost_between_two_looks_however_often_one_looks() {
    let mut often = Cluster::new(1, &[(1, bucket(7, Per::Minute, 100))]);
    let pool = key(1, "");
    often.ask(1, vec![item(&pool, 100, 0, 1)]);
    let mut rarely = Cluster {
        state: often.state.clone(),
        ..often
    };
    for _ in 0..700 {
        often.clock_ms += 101;
        often.ask(1, vec![item(&pool, 0, 0, 1)]);
    }
    rarely.clock_ms += 70_700;
    rarely.ask(1, vec![item(&pool, 0, 0, 1)]);
    assert_eq!(often.view(1, &pool).free, 8);
    assert_eq!(rarely.view(1, &pool).free, 8);
}

#[test]
fn what_comes_back_to_a_bucket_is_gone_and_nobody_is_told_to_give_back() {
    let mut cluster = Cluster::new(2, &[(1, bucket(1_000, Per::Second, 1_000))]);
    let pool = key(1, "");
    cluster.ask(1, vec![item(&pool, 700, 0, 100)]);
    let free = cluster.view(1, &pool).free;
    assert_eq!(cluster.spend(1, &pool, 300, 400), Outcome::Counted);
    assert_eq!(cluster.view(1, &pool).free, free);
    cluster.ask(2, vec![item(&pool, 700, 0, 100)]);
    assert_eq!(
        (cluster.view(1, &pool).recalls, cluster.granted(2, &pool)),
        (0, 0)
    );
}

#[test]
fn an_idle_bucket_goes_and_is_full_again() {
    let limit = Limit {
        each: Some(Dimension::Key),
        ..bucket(1_000, Per::Second, 1_000)
    };
    let mut cluster = Cluster::new(1, &[(1, limit)]);
    let (busy, idle) = (key(1, "busy"), key(1, "idle"));
    cluster.ask(1, vec![item(&busy, 10, 0, 1), item(&idle, 10, 0, 1)]);
    cluster.spend(1, &idle, 4, 6);
    cluster.pass(3_600_000);
    let left: Vec<_> = cluster
        .state
        .ledger
        .pools()
        .map(|(key, _)| key.clone())
        .collect();
    assert_eq!(left, [busy], "its lease is out");
    assert_eq!(cluster.view(1, &idle).free, 750);
}

#[test]
fn a_bucket_of_another_size_has_no_more_than_that() {
    let mut cluster = Cluster::new(1, &[(1, bucket(10, Per::Second, 100))]);
    let pool = key(1, "");
    cluster.ask(1, vec![item(&pool, 10, 0, 1)]);
    super::set_limits(&mut cluster.state, &[(1, bucket(10, Per::Second, 20))]);
    assert_eq!(cluster.view(1, &pool).free, 20);
    super::set_limits(&mut cluster.state, &[(1, bucket(10, Per::Second, 50))]);
    assert_eq!(cluster.view(1, &pool).free, 20, "it has to fill");
    cluster.pass(1_000);
    assert_eq!(cluster.view(1, &pool).free, 30);
    assert_eq!(cluster.state.ledger.violation(), None);
}

proptest! {
    #![proptest_config(arb::cases(64))]

    /// I13: in any time t the nodes admit no more than `burst + rate * t`, if each uses what it got within the time it may
    /// hold it, as late or as early as it likes.
    #[test]
    fn no_more_than_the_burst_and_the_rate_in_any_time(
        (amount, burst) in (20_u64..2_000, 5_u64..2_000),
        steps in vec((0_u64..120, 1_u64..4, 0_u64..400, 0_u64..1_000, 0_u64..3), 1..60),
    ) {
        let limit = bucket(amount, Per::Second, burst);
        let hold = RULES_V1.hold(&limit);
        let mut cluster = Cluster::new(3, &[(1, limit)]);
        let pool = key(1, "");
        // When a unit may have been used at the earliest and at the latest: with its grant, or `hold` later.
        let mut used: Vec<(u64, u64)> = Vec::new();
        for (wait, node, want, lateness, give_back) in steps {
            cluster.pass(wait);
            let before = cluster.granted(node, &pool);
            cluster.ask(node, vec![item(&pool, want / 4, want, want)]);
            let got = cluster.granted(node, &pool) - before;
            let back = if give_back == 0 { got } else { 0 };
            if got > 0 {
                prop_assert_eq!(cluster.spend(node, &pool, got - back, back), Outcome::Counted);
                used.push((cluster.clock_ms + hold * lateness / 1_000, got - back));
            }
        }
        used.sort_unstable();
        for from in 0..used.len() {
            let mut sum = 0;
            for to in from..used.len() {
                sum += used[to].1;
                let time = used[to].0 - used[from].0;
                // Units come whole: one may have begun to flow before.
                let most = u128::from(burst) + (u128::from(amount) * u128::from(time)).div_ceil(1_000);
                prop_assert!(u128::from(sum) <= most, "{} in {} ms, at most {}", sum, time, most);
            }
        }
    }
}
