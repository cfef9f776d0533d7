//! A ledger comes back from a checkpoint as it was, and one that does not balance is not taken.

use std::sync::Arc;

use mode_envoy_model::checkpoint::PartsError;
use mode_envoy_model::ledger::parts::LedgerError;
use mode_envoy_model::ledger::rules::Rules;
use mode_envoy_model::ledger::window::Over;
use mode_envoy_model::limit::{Limit, LimitId, Mode, Per, Unit, Window};
use mode_envoy_model::state::State;

use super::{Cluster, each, item, key, limit, set_limits};

pub(super) fn limits() -> Vec<(LimitId, Limit)> {
    let bucket = Limit {
        window: Window::Bucket { burst: 200 },
        ..limit(1_000, Per::Second)
    };
    let places = Limit {
        unit: Unit::Concurrent,
        ..limit(20, Per::Total)
    };
    let bounded = Limit {
        mode: Mode::Bounded,
        ..each(40, Per::Minute)
    };
    vec![
        (1, limit(100, Per::Minute)),
        (2, bounded),
        (3, bucket),
        (4, places),
        (5, limit(500, Per::Total)),
    ]
}

/// One of everything: pools of each kind, leases of old lives, windows that are over.
fn full() -> Cluster {
    let mut cluster = Cluster::new(3, &limits());
    let pools = [key(1, ""), key(2, "a"), key(3, ""), key(4, ""), key(5, "")];
    for node in 1..=3 {
        cluster.ask(
            node,
            pools.iter().map(|pool| item(pool, 3, 20, 7)).collect(),
        );
    }
    cluster.spend(1, &pools[1], 2, 0);
    cluster.register(2);
    cluster.pass(45_000);
    cluster.ask(3, pools.iter().map(|pool| item(pool, 2, 9, 7)).collect());
    assert!(cluster.state.ledger.over().count() > 0);
    assert!(cluster.state.ledger.unfinished(2).count() > 0);
    cluster
}

#[test]
fn a_ledger_comes_back_as_it_was() {
    let cluster = full();
    let mut back = State::from_parts(cluster.state.parts()).expect("sound");
    assert_eq!(
        back.ledger.view(&key(1, ""), 1, 1),
        None,
        "the catalog says what is in force"
    );
    set_limits(&mut back, &limits());
    assert!(back == cluster.state);
    assert_eq!(back.parts(), cluster.state.parts());
}

#[test]
fn books_that_do_not_hold_together_are_refused() {
    let spoil = |f: &dyn Fn(&mut mode_envoy_model::ledger::parts::LedgerParts)| {
        let mut parts = full().state.parts();
        f(&mut parts.ledger);
        State::from_parts(parts)
    };
    let window = |f: fn(&mut mode_envoy_model::ledger::window::Window)| {
        spoil(&|ledger| f(&mut Arc::make_mut(&mut ledger.pools[0].1).window))
    };
    let unbalanced = Err(PartsError::Ledger(LedgerError::Unbalanced {
        limit: 1,
        value: String::new(),
    }));
    assert_eq!(window(|w| w.free += 1), unbalanced);
    assert_eq!(window(|w| w.settled += 1), unbalanced);
    assert_eq!(window(|w| w.burned += 1), unbalanced);
    assert_eq!(window(|w| w.issued -= 1), unbalanced);
    assert_eq!(window(|w| w.leases[0].granted += 1), unbalanced);
    assert_eq!(
        window(|w| (w.issued, w.free) = (u64::MAX, i64::MAX)),
        unbalanced
    );
    assert_eq!(
        window(|w| {
            w.leases.pop();
        }),
        unbalanced
    );
    assert_eq!(window(|w| w.leases[0].returned = u64::MAX), unbalanced);

    let is_number = |result: Result<State, PartsError>| {
        assert!(
            matches!(result, Err(PartsError::Ledger(LedgerError::Number { .. }))),
            "{result:?}"
        );
    };
    is_number(window(|w| w.leases[0].id = u64::MAX));
    is_number(window(|w| w.number = u64::MAX));
    is_number(spoil(&|ledger| ledger.pools.push(ledger.pools[0].clone())));
    is_number(spoil(&|ledger| {
        ledger.over.push(Arc::clone(&ledger.over[0]));
    }));
    is_number(spoil(&|ledger| ledger.last_lease = 0));
    let newer = spoil(&|ledger| {
        ledger.rules = Rules {
            version: 2,
            ..Rules::default()
        };
    });
    assert_eq!(newer, Err(PartsError::Ledger(LedgerError::Rules(2))));
    let many = spoil(&|ledger| {
        ledger.over = vec![Arc::<Over>::clone(&ledger.over[0]); 200_001];
    });
    assert!(matches!(
        many,
        Err(PartsError::Ledger(LedgerError::TooMany { .. }))
    ));
    let error = window(|w| w.free += 1).expect_err("unbalanced").to_string();
    assert!(
        error.ends_with("take the checkpoint of another node"),
        "{error}"
    );
}

#[test]
fn a_restored_cluster_burns_what_the_old_nodes_had() {
    let mut cluster = full();
    let new = mode_envoy_model::adopt::NewCluster {
        founded: mode_envoy_model::catalog::Founded {
            cluster_id: [1; 16],
            wrapped_key: Arc::from([1]),
            generation: 0,
        },
        node: 9,
        former: [1, 2, 3].into(),
        old_root: [1; 32],
        new_root: [2; 32],
        resealed: Vec::new(),
    };
    cluster.state.adopt(&new).expect("a new id");
    let ledger = &cluster.state.ledger;
    assert_eq!(ledger.violation(), None);
    assert!((1..=3).all(|node| ledger.leases_of(node).next().is_none()));
    assert_eq!(ledger.over().count(), 0);
    let total = &ledger.report(Some(5), 1)[0];
    assert_eq!(
        u128::from(total.burned),
        500 - u128::from(total.free.unsigned_abs())
    );
    assert_eq!(ledger.view(&key(4, ""), 9, 0).expect("in force").free, 20);
    let mut back = State::from_parts(cluster.state.parts()).expect("sound");
    set_limits(&mut back, &limits());
    assert!(back == cluster.state);
}

#[test]
fn a_report_says_who_has_what() {
    let cluster = full();
    let reports = cluster.state.ledger.report(None, 100);
    assert_eq!(reports.len(), 5);
    for report in &reports {
        let leased: u64 = report.leased.values().sum();
        let all = report.free + (report.used + report.burned + leased).cast_signed();
        if report.limit.window == Window::Calendar {
            assert_eq!(all, report.cap.cast_signed(), "{report:?}");
        }
    }
    assert_eq!(reports[0].overshoot, Some(0));
    assert_eq!(reports[1].overshoot, Some(3), "one call on each node");
    assert!(reports[0].unsettled > 0);
    assert_eq!(cluster.state.ledger.report(None, 2).len(), 2);
    assert_eq!(cluster.state.ledger.report(Some(2), 9)[0].key, key(2, "a"));
    let fresh = Cluster::new(1, &limits());
    assert_eq!(
        fresh.state.ledger.report(None, 9).len(),
        4,
        "no value was seen"
    );
}
