//! Windows end and begin with the wall clock of the log, whatever leases are out.

use mode_envoy_model::batch::Outcome;
use mode_envoy_model::ledger::ask::LeaseUse;
use mode_envoy_model::limit::Per;

use super::{Cluster, WALL, each, item, key, limit};

const HOUR_MS: u64 = 3_600_000;

#[test]
fn a_window_ends_and_its_leases_are_charged_to_it() {
    let mut cluster = Cluster::new(2, &[(1, limit(100, Per::Minute))]);
    let pool = key(1, "");
    cluster.ask(1, vec![item(&pool, 60, 0, 0)]);
    let old = cluster.view(1, &pool);
    assert_eq!(
        (old.window, old.ends_ms),
        (WALL - 20_000, Some(WALL + 40_000))
    );
    assert_eq!(cluster.state.ledger.next_due(), old.ends_ms);
    let lease = old.lease.expect("granted").id;
    cluster.pass(39_999);
    assert_eq!(cluster.view(1, &pool).window, old.window);
    cluster.pass(1);
    let new = cluster.view(1, &pool);
    assert_eq!((new.window, new.cap), (old.window + 60_000, 100));
    assert!(new.free < 100 || new.lease.is_none());
    // A call that was admitted before is told late.
    let use_of = |spent, returned| LeaseUse {
        lease,
        spent,
        returned,
    };
    assert_eq!(
        cluster.say(1, vec![use_of(50, 0)], Vec::new()),
        Outcome::Counted
    );
    assert_eq!(cluster.view(1, &pool).free, new.free);
    let leases: Vec<_> = cluster
        .state
        .ledger
        .leases_of(1)
        .map(|(_, window, _)| window)
        .collect();
    assert!(leases.contains(&old.window));
    assert_eq!(
        cluster.say(1, vec![use_of(4, 6)], Vec::new()),
        Outcome::Counted
    );
    assert_eq!(cluster.state.ledger.lease(lease), None);
    assert_eq!(cluster.state.ledger.over().count(), 0);
}

#[test]
fn the_entry_that_rolls_a_window_gives_every_node_its_share_of_the_new_one() {
    let mut cluster = Cluster::new(3, &[(1, limit(6_000, Per::Minute))]);
    let pool = key(1, "");
    cluster.pass(39_000);
    cluster.ask(1, vec![item(&pool, 0, 1_000, 300)]);
    cluster.ask(2, vec![item(&pool, 0, 10, 100)]);
    let epoch = cluster.view(3, &pool).epoch;
    cluster.pass(1_000);
    // Five seconds of demand, and no more than three quarters of a half.
    assert_eq!(cluster.granted(1, &pool), 1_500);
    assert_eq!(cluster.granted(2, &pool), 500);
    assert_eq!(cluster.granted(3, &pool), 0);
    assert!(cluster.view(3, &pool).epoch > epoch);
    assert!(cluster.state.ledger.take_touched().contains(&pool));
}

#[test]
fn idle_pools_go_with_their_window_and_are_whole_again() {
    let mut cluster = Cluster::new(1, &[(1, each(100, Per::Hour))]);
    for value in ["a", "b", "c"] {
        cluster.ask(1, vec![item(&key(1, value), 0, 0, 1)]);
    }
    cluster.ask(1, vec![item(&key(1, "b"), 5, 0, 1)]);
    assert_eq!(cluster.spend(1, &key(1, "b"), 5, 0), Outcome::Counted);
    assert_eq!(cluster.view(1, &key(1, "b")).free, 95);
    cluster.pass(HOUR_MS);
    assert_eq!(cluster.state.ledger.pools().count(), 0);
    assert_eq!(cluster.state.ledger.over().count(), 0);
    assert_eq!(cluster.view(1, &key(1, "b")).free, 100);
    assert_eq!(cluster.state.ledger.next_due(), None);
}

#[test]
fn what_nobody_told_for_two_days_after_its_window_is_burned() {
    let mut cluster = Cluster::new(1, &[(1, limit(100, Per::Hour))]);
    let pool = key(1, "");
    cluster.ask(1, vec![item(&pool, 60, 0, 0)]);
    let lease = cluster.lease(1, &pool).expect("granted").id;
    cluster.clock_ms += HOUR_MS;
    cluster.pass(HOUR_MS);
    assert_eq!(cluster.state.ledger.over().count(), 1);
    let due = cluster.state.ledger.next_due().expect("it is burned");
    cluster.pass(due - cluster.wall_ms - 1);
    assert!(cluster.state.ledger.lease(lease).is_some());
    cluster.pass(1);
    assert_eq!(cluster.state.ledger.lease(lease), None);
    let one = LeaseUse {
        lease,
        spent: 1,
        returned: 0,
    };
    assert_eq!(
        cluster.say(1, vec![one], Vec::new()),
        Outcome::Unbacked(lease)
    );
}

#[test]
fn clocks_that_leap_to_their_end_stop_nothing() {
    let limits = [Per::Minute, Per::Hour, Per::Day, Per::Month].map(|per| limit(100, per));
    let limits: Vec<_> = (1..).zip(limits).collect();
    let mut cluster = Cluster::new(1, &limits);
    let pools: Vec<_> = limits.iter().map(|(id, _)| key(*id, "")).collect();
    for wall_ms in [u64::MAX - 1, u64::MAX] {
        cluster.ask(1, pools.iter().map(|pool| item(pool, 1, 9, 9)).collect());
        cluster.wall_ms = wall_ms;
        cluster.clock_ms = wall_ms;
        cluster.apply_all(Vec::new());
    }
    cluster.ask(1, pools.iter().map(|pool| item(pool, 1, 9, 9)).collect());
}

#[test]
fn a_calendar_month_is_the_window_of_a_monthly_limit() {
    let mut cluster = Cluster::new(1, &[(1, limit(100, Per::Month))]);
    let pool = key(1, "");
    // March 2026 begins with day 20513 since 1970, and April with day 20544.
    let view = cluster.view(1, &pool);
    assert_eq!(view.window, 20_513 * 24 * HOUR_MS);
    assert_eq!(view.ends_ms, Some(20_544 * 24 * HOUR_MS));
    cluster.ask(1, vec![item(&pool, 1, 0, 0)]);
    assert_eq!(cluster.view(1, &pool).ends_ms, view.ends_ms);
}
