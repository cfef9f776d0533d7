//! What clients are told.

use mode_envoy_limits::header::{policy, quotas, rate_limit, tightest};
use mode_envoy_model::limit::{Limit, Mode, Per};

use crate::arb::{at, bucket, concurrent, limit};
use crate::node::Node;

#[test]
fn the_tightest_limit_is_told_of_and_all_are_named() {
    let daily = Limit {
        name: "daily".into(),
        ..limit(5_000, Per::Day, Mode::Strict)
    };
    let shadow = Limit {
        shadow: true,
        name: "trial".into(),
        ..limit(2, Per::Minute, Mode::Strict)
    };
    let open = Limit {
        name: "open".into(),
        ..concurrent(300, Mode::Strict)
    };
    let mut node = Node::new(&[limit(60, Per::Minute, Mode::Strict), daily, shadow, open]);
    for _ in 0..10 {
        let taken = node.admit(&[1, 1, 1, 1], at(20_000)).unwrap();
        node.end(taken);
    }
    let all = quotas(node.slices.iter().cloned(), at(20_500));
    assert_eq!(
        all.iter().map(|quota| quota.remaining).collect::<Vec<_>>(),
        [50, 4_990, 300]
    );
    let tight = tightest(&all).unwrap();
    assert_eq!(
        (
            &*tight.limit.name,
            tight.most,
            tight.remaining,
            tight.reset_s
        ),
        ("acme-rpm", 60, 50, Some(40))
    );
    assert_eq!(rate_limit(tight), "\"acme-rpm\";r=50;t=40");
    assert_eq!(
        policy(&all),
        "\"acme-rpm\";q=60;w=60, \"daily\";q=5000;w=86400, \"open\";q=300;qu=\"concurrent-requests\""
    );
}

#[test]
fn a_bucket_is_reset_when_it_is_full() {
    let mut node = Node::new(&[bucket(10, Per::Second, 30, Mode::Local)]);
    assert_eq!(node.admits(at(0)), 10, "a third of the burst");
    let all = quotas(node.slices.iter().cloned(), at(0));
    assert_eq!(rate_limit(&all[0]), "\"acme-rpm\";r=0;t=1");
    assert_eq!(policy(&all), "\"acme-rpm\";q=10;w=1");
}

#[test]
fn before_the_log_was_heard_of_all_of_it_remains() {
    let node = Node::new(&[
        limit(60, Per::Hour, Mode::Strict),
        limit(7, Per::Total, Mode::Strict),
    ]);
    let all = quotas(node.slices.iter().cloned(), at(3_590_001));
    assert_eq!(rate_limit(&all[0]), "\"acme-rpm\";r=60;t=10");
    assert_eq!(rate_limit(&all[1]), "\"acme-rpm\";r=7");
    assert_eq!(policy(&all), "\"acme-rpm\";q=60;w=3600, \"acme-rpm\";q=7");
    assert_eq!(tightest(&all).unwrap().most, 7);
    assert!(tightest(&[]).is_none());
}

#[test]
fn numbers_and_names_fit_a_structured_field() {
    let odd = Limit {
        name: "a\"b\\é".into(),
        ..limit(1_000_000_000_000_000, Per::Total, Mode::Strict)
    };
    let node = Node::new(&[odd]);
    let all = quotas(node.slices.iter().cloned(), at(0));
    assert_eq!(rate_limit(&all[0]), "\"ab\";r=999999999999999");
}
