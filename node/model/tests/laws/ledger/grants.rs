//! Who gets how much: what calls wait for at once and together, the rest by demand, and nothing that is not free.

use mode_envoy_model::batch::Outcome;
use mode_envoy_model::ledger::ask::Ask;
use mode_envoy_model::limit::Per;

use super::{Cluster, each, item, key, limit, set_limits};

/// I9.
#[test]
fn every_need_of_an_ask_is_granted_or_none_is() {
    let limits = [
        (1, limit(10, Per::Total)),
        (2, limit(3, Per::Total)),
        (3, limit(100, Per::Total)),
    ];
    let mut cluster = Cluster::new(1, &limits);
    let [a, b, c] = [1, 2, 3].map(|id| key(id, ""));
    let all = |b_need| vec![item(&a, 4, 0, 1), item(&b, b_need, 0, 1), item(&c, 4, 0, 1)];
    cluster.ask(1, all(4));
    assert_eq!([&a, &b, &c].map(|pool| cluster.granted(1, pool)), [0, 0, 0]);
    cluster.ask(1, all(3));
    assert_eq!([&a, &b, &c].map(|pool| cluster.granted(1, pool)), [4, 3, 4]);
    // Of two asks in one batch the second sees what the first left.
    let asks = vec![
        Ask {
            items: vec![item(&a, 5, 0, 1)],
        },
        Ask {
            items: vec![item(&a, 5, 0, 1), item(&c, 1, 0, 1)],
        },
        Ask {
            items: vec![item(&a, 1, 0, 1)],
        },
    ];
    assert_eq!(cluster.say(1, Vec::new(), asks), Outcome::Counted);
    assert_eq!(
        [&a, &b, &c].map(|pool| cluster.granted(1, pool)),
        [10, 3, 4]
    );
}

/// I2.
#[test]
fn what_is_free_is_shared_by_demand_and_never_more_than_half_at_once() {
    let mut cluster = Cluster::new(3, &[(1, limit(1_000, Per::Total))]);
    let pool = key(1, "");
    cluster.ask(1, vec![item(&pool, 0, 5_000, 30)]);
    assert_eq!(cluster.granted(1, &pool), 500, "alone it gets half");
    cluster.ask(2, vec![item(&pool, 0, 5_000, 10)]);
    assert_eq!(cluster.granted(2, &pool), 500 / (2 * 4));
    cluster.ask(3, vec![item(&pool, 0, 7, 40)]);
    assert_eq!(cluster.granted(3, &pool), 7, "no more than it wants");
    // Demand of long ago does not count.
    cluster.pass(10_001);
    let free = u64::try_from(cluster.view(2, &pool).free).expect("some");
    let had = cluster.granted(2, &pool);
    cluster.ask(2, vec![item(&pool, 0, 5_000, 10)]);
    assert_eq!(cluster.granted(2, &pool) - had, free / 2);
    assert!(cluster.view(1, &pool).free >= 0);
}

#[test]
fn a_need_is_granted_whatever_the_share() {
    let mut cluster = Cluster::new(3, &[(1, limit(100, Per::Total))]);
    let pool = key(1, "");
    cluster.ask(2, vec![item(&pool, 0, 0, 1_000)]);
    cluster.ask(1, vec![item(&pool, 95, 0, 1)]);
    assert_eq!(cluster.granted(1, &pool), 95);
}

#[test]
fn little_is_given_out_by_single_calls_only() {
    let mut cluster = Cluster::new(3, &[(1, limit(6, Per::Total)), (2, limit(100, Per::Total))]);
    let (small, large) = (key(1, ""), key(2, ""));
    assert!(
        cluster.view(1, &small).central,
        "born so: two calls for each of three nodes"
    );
    cluster.ask(1, vec![item(&small, 1, 50, 9), item(&large, 80, 50, 9)]);
    assert_eq!(cluster.granted(1, &small), 1);
    assert_eq!(cluster.granted(1, &large), 90);
    assert!(
        !cluster.view(2, &large).central,
        "a node has the rest still"
    );
    cluster.spend(1, &large, 90, 0);
    // Ten are left; calls that take two make that little.
    let mut big = item(&large, 0, 50, 9);
    big.typical = 2;
    let recalls = cluster.view(2, &large).recalls;
    cluster.ask(2, vec![big]);
    assert!(cluster.view(2, &large).central);
    assert_eq!(
        cluster.granted(2, &large),
        2,
        "its share, before that was seen"
    );
    assert!(
        cluster.view(1, &large).recalls > recalls,
        "what is held comes back"
    );
}

#[test]
fn who_is_refused_makes_the_others_give_back_and_not_more_often_than_they_can() {
    let mut cluster = Cluster::new(2, &[(1, limit(100, Per::Total))]);
    let pool = key(1, "");
    cluster.ask(1, vec![item(&pool, 95, 0, 9)]);
    assert_eq!(cluster.view(1, &pool).recalls, 0);
    cluster.ask(2, vec![item(&pool, 10, 0, 9)]);
    let first = cluster.view(1, &pool).recalls;
    assert!(first > 0);
    cluster.clock_ms += 19;
    cluster.ask(2, vec![item(&pool, 10, 0, 9)]);
    assert_eq!(cluster.view(1, &pool).recalls, first, "just told");
    cluster.clock_ms += 1;
    cluster.ask(2, vec![item(&pool, 10, 0, 9)]);
    assert!(cluster.view(1, &pool).recalls > first);

    // I11: with what comes back every refusal may be untrue.
    let epoch = cluster.view(2, &pool).epoch;
    cluster.spend(1, &pool, 5, 50);
    assert!(cluster.view(2, &pool).epoch > epoch);
    let touched = cluster.state.ledger.take_touched();
    assert!(touched.contains(&pool) && cluster.state.ledger.take_touched().is_empty());
    cluster.ask(2, vec![item(&pool, 10, 0, 9)]);
    assert_eq!(cluster.granted(2, &pool), 10);

    // Where nobody else has anything there is nobody to tell.
    let mut alone = Cluster::new(2, &[(1, limit(10, Per::Total))]);
    alone.ask(1, vec![item(&pool, 11, 0, 9)]);
    assert_eq!(alone.view(1, &pool).recalls, 0);
}

#[test]
fn an_amount_that_changes_is_in_force_at_once() {
    let mut cluster = Cluster::new(2, &[(1, limit(100, Per::Total))]);
    let pool = key(1, "");
    cluster.ask(1, vec![item(&pool, 60, 0, 9)]);
    let before = cluster.view(1, &pool);
    set_limits(&mut cluster.state, &[(1, limit(30, Per::Total))]);
    let view = cluster.view(1, &pool);
    assert_eq!((view.free, view.cap), (-30, 30));
    assert!(view.recalls > before.recalls && view.epoch > before.epoch);
    cluster.ask(2, vec![item(&pool, 1, 5, 9)]);
    assert_eq!(cluster.granted(2, &pool), 0);
    cluster.spend(1, &pool, 0, 40);
    cluster.ask(2, vec![item(&pool, 1, 0, 9)]);
    assert_eq!(cluster.granted(2, &pool), 1);
    set_limits(&mut cluster.state, &[(1, limit(200, Per::Total))]);
    assert_eq!(cluster.view(1, &pool).free, 200 - 20 - 1);
    assert_eq!(cluster.state.ledger.violation(), None);
}

#[test]
fn a_limit_that_goes_leaves_its_leases_until_they_are_told() {
    let mut cluster = Cluster::new(1, &[(1, each(100, Per::Total)), (2, limit(5, Per::Total))]);
    let pool = key(1, "k");
    cluster.ask(1, vec![item(&pool, 60, 0, 9)]);
    let lease = cluster.lease(1, &pool).expect("granted").id;
    set_limits(&mut cluster.state, &[(2, limit(5, Per::Total))]);
    assert_eq!(cluster.state.ledger.view(&pool, 1, 1), None);
    assert_eq!(cluster.state.ledger.pools().count(), 0);
    let use_of = |spent| mode_envoy_model::ledger::ask::LeaseUse {
        lease,
        spent,
        returned: 0,
    };
    assert_eq!(
        cluster.say(1, vec![use_of(20)], Vec::new()),
        Outcome::Counted
    );
    assert_eq!(cluster.state.ledger.over().count(), 1);
    assert_eq!(
        cluster.say(1, vec![use_of(40)], Vec::new()),
        Outcome::Counted
    );
    assert_eq!(cluster.state.ledger.over().count(), 0);
    // Asks for what is no limit are asks for nothing.
    cluster.ask(1, vec![item(&pool, 1, 1, 1), item(&key(2, ""), 1, 0, 1)]);
    assert_eq!(cluster.granted(1, &key(2, "")), 1);
}

#[test]
fn a_value_belongs_to_a_limit_with_each_and_to_no_other() {
    let mut cluster = Cluster::new(1, &[(1, each(100, Per::Total)), (2, limit(5, Per::Total))]);
    let odd = [key(1, ""), key(2, "k"), key(3, "")];
    cluster.ask(1, odd.iter().map(|pool| item(pool, 1, 0, 1)).collect());
    assert_eq!(cluster.state.ledger.pools().count(), 0);
    for pool in &odd {
        assert_eq!(cluster.state.ledger.view(pool, 1, 1), None);
    }
}
