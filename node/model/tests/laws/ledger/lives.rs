//! What a new life of a node means for the leases of the old, and what a claim without backing comes to.

use mode_envoy_model::batch::{ChangeSet, Evict, Final, Item, Outcome};
use mode_envoy_model::event::Event;
use mode_envoy_model::ledger::ask::{Ask, LeaseUse};
use mode_envoy_model::limit::{Limit, Mode, Per, Unit};
use mode_envoy_model::state::State;
use mode_envoy_model::usage::batch::Register;

use super::{Cluster, item, key, limit, set_limits};

/// Node 1 has 40 of 100, and used 10 of them.
fn with_lease() -> Cluster {
    let mut cluster = Cluster::new(2, &[(1, limit(100, Per::Total))]);
    let pool = key(1, "");
    cluster.ask(1, vec![item(&pool, 40, 0, 5)]);
    assert_eq!(cluster.spend(1, &pool, 10, 0), Outcome::Counted);
    cluster
}

fn done(incarnation: u64, end: u64) -> Item {
    Item::Final(Final {
        node: 1,
        incarnation,
        ends: vec![([1; 16], end)],
    })
}

#[test]
fn what_an_old_life_left_comes_back_once_everything_it_recorded_is_counted() {
    let mut cluster = with_lease();
    let pool = key(1, "");
    let old = cluster.incarnation(1);
    let lease = cluster.lease(1, &pool).expect("granted").id;
    assert_eq!(cluster.apply(done(old, 1)), Outcome::Fenced, "it lives");
    cluster.register(1);
    assert_eq!(cluster.view(1, &pool).lease, None);
    assert_eq!(cluster.view(1, &pool).elsewhere, 30);

    assert_eq!(cluster.apply(done(old, 5)), Outcome::Unfinished);
    assert_eq!(cluster.view(1, &pool).free, 60);
    // What the old life recorded is told by the new one.
    let one = LeaseUse {
        lease,
        spent: 7,
        returned: 0,
    };
    assert_eq!(cluster.say(1, vec![one], Vec::new()), Outcome::Counted);
    cluster.record(1, 4);
    let before = cluster.view(2, &pool).epoch;
    assert_eq!(cluster.apply(done(old, 5)), Outcome::Closed);
    let view = cluster.view(2, &pool);
    assert_eq!((view.free, view.elsewhere), (83, 0));
    assert!(view.epoch > before, "whoever was refused may try again");
    // Once more changes nothing; the lease is over.
    assert_eq!(cluster.apply(done(old, 5)), Outcome::Closed);
    assert_eq!(cluster.view(2, &pool).free, 83);
    assert_eq!(
        cluster.say(1, vec![one], Vec::new()),
        Outcome::Unbacked(lease)
    );
}

#[test]
fn a_spool_that_is_lost_gives_nothing_back() {
    let mut cluster = with_lease();
    let pool = key(1, "");
    let old = cluster.incarnation(1);
    let register = Register {
        node: 1,
        follows: old,
        spools: vec![(0, [9; 16])],
    };
    cluster.apply(Item::Register(register));
    assert_eq!(cluster.apply(done(old, 1)), Outcome::RangeMismatch);
    let other = Item::Final(Final {
        node: 1,
        incarnation: old,
        ends: vec![([9; 16], 1)],
    });
    assert_eq!(cluster.apply(other), Outcome::RangeMismatch);
    assert_eq!(cluster.view(2, &pool).free, 60);
    let evict = Evict {
        node: 1,
        incarnation: old,
    };
    for _ in 0..2 {
        assert_eq!(cluster.apply(Item::Evict(evict)), Outcome::Closed);
    }
    let view = cluster.view(2, &pool);
    assert_eq!((view.free, view.elsewhere), (60, 0));
    let report = &cluster.state.ledger.report(Some(1), 10)[0];
    assert_eq!((report.burned, report.used), (30, 10));
}

/// I4, I6: a batch is taken as a whole, or nothing of it is, and a life that is over changes nothing.
#[test]
fn a_claim_beyond_a_lease_is_refused_as_a_whole_and_ends_the_life() {
    let cluster = with_lease();
    let pool = key(1, "");
    let lease = cluster.lease(1, &pool).expect("granted").id;
    for (lease, spent, returned) in [
        (lease, 31, 0),
        (lease, 20, 11),
        (lease, u64::MAX, 1),
        (lease + 1, 0, 1),
    ] {
        let mut cluster = Cluster {
            state: cluster.state.clone(),
            ..cluster
        };
        let before = cluster.state.ledger.clone();
        let one = LeaseUse {
            lease,
            spent,
            returned,
        };
        let asks = || {
            vec![Ask {
                items: vec![item(&pool, 5, 0, 1)],
            }]
        };
        let sound = cluster.batch(1, Vec::new(), asks());
        let seq = cluster
            .state
            .usage
            .streams
            .get(1)
            .expect("registered")
            .next_seq;
        assert_eq!(cluster.say(1, vec![one], asks()), Outcome::Unbacked(lease));
        assert_eq!(cluster.state.ledger.refused(), 1);
        assert_eq!(cluster.view(1, &pool), {
            let view = before.view(&pool, 1, cluster.incarnation(1));
            view.expect("in force")
        });
        assert_eq!(
            cluster
                .state
                .usage
                .streams
                .get(1)
                .expect("registered")
                .next_seq,
            seq
        );
        // Nothing is heard of that life any more, until there is another.
        assert_eq!(cluster.apply(Item::Usage(sound.clone())), Outcome::Fenced);
        cluster.register(1);
        let after = cluster.state.ledger.clone();
        assert_eq!(cluster.apply(Item::Usage(sound)), Outcome::Fenced);
        assert_eq!(cluster.state.ledger, after);
        cluster.ask(1, vec![item(&pool, 5, 0, 1)]);
        assert_eq!(cluster.granted(1, &pool), 5);
    }
}

#[test]
fn a_batch_that_comes_twice_is_granted_once() {
    let mut cluster = with_lease();
    let pool = key(1, "");
    let asks = vec![Ask {
        items: vec![item(&pool, 5, 0, 1)],
    }];
    let batch = cluster.batch(1, Vec::new(), asks);
    let next = batch.seq + 1;
    assert_eq!(cluster.apply(Item::Usage(batch.clone())), Outcome::Counted);
    let after = cluster.state.ledger.clone();
    assert_eq!(cluster.apply(Item::Usage(batch)), Outcome::ExpectSeq(next));
    assert_eq!(cluster.state.ledger, after);
    assert_eq!(cluster.granted(1, &pool), 45);
}

#[test]
fn a_lease_of_another_node_backs_nothing() {
    let mut cluster = with_lease();
    let lease = cluster.lease(1, &key(1, "")).expect("granted").id;
    let one = LeaseUse {
        lease,
        spent: 1,
        returned: 0,
    };
    assert_eq!(
        cluster.say(2, vec![one], Vec::new()),
        Outcome::Unbacked(lease)
    );
}

#[test]
fn batches_that_are_out_of_order_or_too_long_are_malformed_and_change_nothing() {
    let mut cluster = with_lease();
    let pool = key(1, "");
    let lease = cluster.lease(1, &pool).expect("granted").id;
    let one = LeaseUse {
        lease,
        spent: 1,
        returned: 0,
    };
    let long = "v".repeat(2_000);
    let ask = |items| vec![Ask { items }];
    let cases = [
        (vec![one, one], Vec::new()),
        (vec![one; 20_000], Vec::new()),
        (
            Vec::new(),
            ask(vec![item(&pool, 1, 0, 0), item(&pool, 1, 0, 0)]),
        ),
        (
            Vec::new(),
            ask(vec![item(&key(2, ""), 1, 0, 0), item(&pool, 1, 0, 0)]),
        ),
        (Vec::new(), ask(vec![item(&key(1, &long), 1, 0, 0)])),
        (Vec::new(), ask(vec![item(&pool, u64::MAX, 0, 0)])),
        (Vec::new(), vec![Ask::default(); 5_000]),
        (Vec::new(), {
            let mut item = item(&pool, 1, 0, 0);
            item.typical = 0;
            ask(vec![item])
        }),
    ];
    let before = cluster.state.clone();
    for (uses, asks) in cases {
        assert_eq!(cluster.say(1, uses, asks), Outcome::Malformed);
    }
    assert!(cluster.state == before);
}

#[test]
fn a_bounded_limit_takes_what_was_used_beyond_and_all_owe_it() {
    let bounded = Limit {
        mode: Mode::Bounded,
        ..limit(100, Per::Total)
    };
    let mut cluster = Cluster::new(2, &[(1, bounded)]);
    let pool = key(1, "");
    cluster.ask(1, vec![item(&pool, 60, 0, 5)]);
    assert_eq!(cluster.spend(1, &pool, 65, 0), Outcome::Counted);
    let lease = cluster.lease(1, &pool).expect("granted");
    assert_eq!((lease.granted, lease.settled), (65, 65));
    assert_eq!(cluster.view(2, &pool).free, 35);
    // Once all of the amount again is owed, a claim is one that nothing backs.
    assert_eq!(cluster.spend(1, &pool, 95, 0), Outcome::Counted);
    assert_eq!(cluster.view(2, &pool).free, -60);
    assert!(matches!(
        cluster.spend(1, &pool, 1, 0),
        Outcome::Unbacked(_)
    ));
    cluster.ask(2, vec![item(&pool, 1, 0, 5)]);
    assert_eq!(cluster.granted(2, &pool), 0);
}

#[test]
fn places_of_concurrent_calls_come_back_and_outlive_no_node() {
    let places = Limit {
        unit: Unit::Concurrent,
        ..limit(50, Per::Total)
    };
    let mut cluster = Cluster::new(2, &[(1, places)]);
    let pool = key(1, "");
    cluster.ask(1, vec![item(&pool, 30, 0, 5)]);
    assert_eq!(cluster.spend(1, &pool, 0, 10), Outcome::Counted);
    assert_eq!(cluster.view(2, &pool).free, 30);
    let lease = cluster.lease(1, &pool).expect("granted").id;
    let mut other = Cluster {
        state: cluster.state.clone(),
        ..cluster
    };
    assert_eq!(
        other.spend(1, &pool, 1, 0),
        Outcome::Unbacked(lease),
        "a place is not used up"
    );
    let incarnation = cluster.incarnation(1);
    cluster.apply(Item::Evict(Evict {
        node: 1,
        incarnation,
    }));
    assert_eq!(cluster.view(2, &pool).free, 50);
    // The life that was ended while it goes on hears so with its next batch.
    assert_eq!(cluster.say(1, Vec::new(), Vec::new()), Outcome::Fenced);
    cluster.register(1);
    assert_eq!(cluster.say(1, Vec::new(), Vec::new()), Outcome::Counted);
}

#[test]
fn a_removed_node_is_nobody_to_share_with_and_what_it_had_is_burned() {
    let mut cluster = with_lease();
    let pool = key(1, "");
    cluster.register(1);
    cluster.ask(1, vec![item(&pool, 5, 0, 5)]);
    let removed = ChangeSet {
        base_revision: 0,
        actor: "root".to_owned(),
        events: vec![Event::NodeRemoved(1)],
        ..ChangeSet::default()
    };
    let outcome = cluster.apply(Item::ChangeSet(removed));
    assert_eq!(outcome, Outcome::Changed { revision: 1 });
    let report = cluster.state.ledger.report(None, 1).remove(0);
    assert_eq!((report.burned, report.used, report.free), (35, 10, 55));
    // It may still register and ask; it gets nothing, and a checkpoint says the same.
    cluster.register(1);
    cluster.ask(1, vec![item(&pool, 5, 0, 5)]);
    assert_eq!(cluster.granted(1, &pool), 0);
    let mut back = State::from_parts(cluster.state.parts()).expect("sound");
    set_limits(&mut back, &[(1, limit(100, Per::Total))]);
    assert!(back == cluster.state);
}

#[test]
fn a_node_that_never_finishes_holds_a_bounded_number_of_lives() {
    let mut cluster = Cluster::new(1, &[(1, limit(1_000, Per::Total))]);
    let pool = key(1, "");
    for _ in 0..100 {
        cluster.ask(1, vec![item(&pool, 1, 0, 5)]);
        cluster.register(1);
    }
    assert_eq!(cluster.state.ledger.unfinished(1).count(), 64);
    let report = &cluster.state.ledger.report(None, 10)[0];
    assert_eq!(
        (report.burned, report.free, report.leased[&1]),
        (36, 900, 64)
    );
}
