//! What each mode promises, with and without a quorum.

use std::sync::Arc;

use mode_envoy_limits::{LIMITS_PER_CALL, NotTaken, Reason, take_all};
use mode_envoy_model::limit::{Limit, Mode, Per};

use crate::arb::{MIDNIGHT, at, bucket, concurrent, cut_off, key, limit};
use crate::node::{Node, later, reason, result, verdict_of};

fn one(limit: Limit) -> Node {
    Node::new(&[limit])
}

#[test]
fn a_strict_limit_that_is_used_up_refuses_without_the_log_until_its_window_ends() {
    let mut node = one(limit(10, Per::Minute, Mode::Strict));
    assert_eq!(node.admits(at(1_000)), 10);
    let entries = node.ledger.index;
    for _ in 0..5 {
        let Err(NotTaken::Refused(refusal)) = node.take(&[1], at(2_000)) else {
            panic!("not refused by what is remembered");
        };
        assert_eq!(
            (refusal.reason, refusal.mode(), refusal.which),
            (Reason::Exhausted, Mode::Strict, 0)
        );
        assert!(refusal.reason.is_limited());
        assert_eq!(refusal.retry_at_ms, Some(MIDNIGHT + 60_000));
        assert_eq!(refusal.retry_after_s(at(2_000).wall_ms), Some(58));
        assert_eq!(
            (refusal.window_begins_ms, refusal.window_ends_ms),
            (MIDNIGHT, Some(MIDNIGHT + 60_000))
        );
        assert_eq!(
            (refusal.need, refusal.slice, refusal.free, refusal.elsewhere),
            (1, 0, 0, 0)
        );
        assert!(refusal.applied_index > 0);
        assert_eq!((&*refusal.limit.name, refusal.pool.limit), ("acme-rpm", 0));
    }
    assert_eq!(node.ledger.index, entries, "nobody asked the log");
    assert_eq!(node.admits(at(60_001)), 10, "the next window");
}

#[test]
fn a_refusal_is_void_once_units_come_back() {
    let mut node = one(limit(10, Per::Minute, Mode::Strict));
    node.admits(at(1_000));
    assert_eq!(reason(node.take(&[1], at(1_500))), Reason::Exhausted);
    node.ledger.change(&key(0), 12);
    node.tell(&[key(0)].into(), at(2_000));
    assert_eq!(node.admits(at(2_000)), 2);
}

#[test]
fn a_call_that_needs_more_than_there_can_be_is_refused_at_once() {
    let mut node = one(limit(10, Per::Minute, Mode::Strict));
    assert_eq!(reason(node.take(&[11], at(0))), Reason::NeverFits);
    assert!(node.admit(&[10], at(0)).is_ok());
}

#[test]
fn a_strict_node_without_quorum_spends_its_lease_for_its_time_and_not_longer() {
    let mut node = one(limit(1_000_000, Per::Day, Mode::Strict));
    for step in 0..50 {
        for _ in 0..50 {
            let taken = node.admit(&[1], at(step * 100)).unwrap();
            node.end(taken);
        }
        node.commit(at(step * 100));
    }
    assert!(
        node.take(&[1], cut_off(15_000, 5_000)).is_ok(),
        "of its lease"
    );
    assert!(node.take(&[1], cut_off(19_700, 5_000)).is_ok());
    let late = node.take(&[1], cut_off(19_701, 5_000));
    let Err(NotTaken::Refused(refusal)) = late else {
        panic!("{late:?}");
    };
    assert_eq!(refusal.reason, Reason::NoQuorum);
    assert!(!refusal.reason.is_limited(), "503, not 429");
    assert!(refusal.slice > 0, "although there is something left");
    assert!(
        node.take(&[1], at(30_000)).is_ok(),
        "with the quorum it goes on"
    );
}

#[test]
fn a_node_that_started_without_quorum_refuses_strict_limits_and_uses_the_allowance_of_bounded_ones()
{
    let never = mode_envoy_limits::Now {
        contact_boot_ms: None,
        ..at(0)
    };
    let node = Node::new(&[limit(500, Per::Minute, Mode::Strict)]);
    assert_eq!(reason(node.take(&[1], never)), Reason::NoQuorum);

    let node = Node::new(&[limit(500, Per::Minute, Mode::Bounded)]);
    let admitted: Vec<_> = std::iter::from_fn(|| node.take(&[1], never).ok()).collect();
    assert_eq!(admitted.len(), 5, "one percent");
    assert!(
        admitted
            .iter()
            .all(|taken| taken.charges().next().is_none()),
        "no lease pays"
    );
    assert_eq!(reason(node.take(&[1], never)), Reason::NoQuorum);
    admitted
        .into_iter()
        .for_each(mode_envoy_limits::Reservation::settle);
    assert_eq!(
        reason(node.take(&[1], never)),
        Reason::NoQuorum,
        "what is used stays used"
    );
    let next = mode_envoy_limits::Now {
        contact_boot_ms: None,
        ..at(60_000)
    };
    assert!(
        node.take(&[1], next).is_ok(),
        "in the next window there is an allowance again"
    );
}

#[test]
fn an_allowance_is_paid_from_the_next_lease() {
    let mut node = one(limit(500, Per::Minute, Mode::Bounded));
    let alone = mode_envoy_limits::Now {
        contact_boot_ms: None,
        ..at(0)
    };
    for _ in 0..4 {
        node.take(&[1], alone).unwrap().settle();
    }
    node.take(&[1], alone).unwrap().release();
    node.commit(at(1_000));
    let (plan, _) = node.commit(at(1_100));
    let paid: u64 = plan.uses.iter().map(|used| used.spent).sum();
    assert_eq!(paid, 4, "{plan:?}");
    assert_eq!(node.admits(at(2_000)), 496);
}

#[test]
fn the_smallest_amount_has_an_allowance_of_one() {
    let alone = cut_off(40_000, 0);
    let node = one(limit(3, Per::Hour, Mode::Bounded));
    assert!(
        node.take(&[1], alone)
            .map(mode_envoy_limits::Reservation::settle)
            .is_ok()
    );
    assert_eq!(reason(node.take(&[1], alone)), Reason::NoQuorum);
}

#[test]
fn a_local_limit_is_shared_out_and_asks_nobody() {
    let mut node = one(limit(90, Per::Minute, Mode::Local));
    let alone = cut_off(1_000, 0);
    assert_eq!(
        node.admits(alone),
        30,
        "a third of it, whether or not there is a quorum"
    );
    let Err(NotTaken::Refused(refusal)) = node.take(&[1], alone) else {
        panic!("not refused");
    };
    assert_eq!(
        (refusal.reason, refusal.retry_at_ms),
        (Reason::Exhausted, Some(MIDNIGHT + 60_000))
    );
    assert_eq!(reason(node.take(&[31], alone)), Reason::NeverFits);
    assert_eq!(node.admits(at(60_000)), 30);
    assert!(
        node.keeper
            .plan(&std::collections::BTreeMap::new(), at(61_000))
            .is_empty()
    );
    assert_eq!(
        one(limit(1, Per::Day, Mode::Local)).admits(at(0)),
        1,
        "never nothing at all"
    );
}

#[test]
fn a_local_bucket_gives_its_share_of_burst_and_pace() {
    let mut node = one(bucket(30, Per::Second, 9, Mode::Local));
    assert_eq!(node.admits(at(0)), 3);
    let Err(NotTaken::Refused(refusal)) = node.take(&[1], at(0)) else {
        panic!("not refused");
    };
    assert_eq!(refusal.retry_at_ms, Some(MIDNIGHT + 100));
    assert_eq!((1..=1_000).map(|ms| node.admits(at(ms))).sum::<u64>(), 10);
    node.take(&[1], at(2_000)).unwrap().release();
    assert_eq!(
        node.admits(at(2_000)),
        3,
        "what was released is there again"
    );
}

#[test]
fn calls_open_at_once_give_their_place_to_the_next() {
    for mode in [Mode::Strict, Mode::Local] {
        let mut node = one(concurrent(6, mode));
        let most = if mode == Mode::Local { 2 } else { 6 };
        let mut open: Vec<_> = (0..most)
            .map(|_| node.admit(&[1], at(0)).unwrap())
            .collect();
        let refusal = node.admit(&[1], at(1)).unwrap_err();
        assert_eq!(
            (refusal.reason, refusal.retry_at_ms),
            (Reason::Exhausted, None),
            "{mode:?}"
        );
        open.pop().unwrap().settle();
        open.push(node.admit(&[1], at(2)).unwrap());
        assert!(node.admit(&[1], at(3)).is_err());
        open.pop().unwrap().release();
        assert!(node.admit(&[1], at(4)).is_ok());
    }
}

#[test]
fn a_shadow_limit_refuses_nobody_and_says_whom_it_would_have_refused() {
    let shadow = Limit {
        shadow: true,
        ..limit(10, Per::Minute, Mode::Strict)
    };
    let mut node = one(shadow);
    let mut over = 0;
    for step in 0..40 {
        let taken = node.take(&[1], at(step * 10)).expect("never refused");
        over += taken.exceeded().count();
        node.end(taken);
        node.commit(at(step * 10 + 5));
    }
    assert!((28..=30).contains(&over), "{over} of 40 were over the ten");
    assert_eq!(
        node.ledger.view(&key(0), 0).unwrap().free,
        0,
        "what fits is counted"
    );
    assert!(node.ledger.outstanding(&key(0)) <= 1);

    let open = Limit {
        shadow: true,
        ..concurrent(4, Mode::Strict)
    };
    let mut node = one(open);
    let mut kept = Vec::new();
    for step in 0..10 {
        kept.push(node.take(&[1], at(step * 10)).expect("never refused"));
        node.commit(at(step * 10 + 5));
    }
    let over = kept.iter().filter(|taken| taken.exceeded().count() > 0);
    assert!(
        (2..=6).contains(&over.count()),
        "six came when four were open; two of them beside what the log knew"
    );

    let local = Limit {
        shadow: true,
        ..limit(9, Per::Minute, Mode::Local)
    };
    let node = one(local);
    let over = (0..10).filter(|_| node.take(&[1], at(0)).unwrap().exceeded().count() > 0);
    assert_eq!(over.count(), 0, "each was dropped, and so given back");
    let kept: Vec<_> = (0..10).map(|_| node.take(&[1], at(0)).unwrap()).collect();
    assert_eq!(
        kept.iter()
            .filter(|taken| taken.exceeded().count() > 0)
            .count(),
        7
    );
}

#[test]
fn one_limit_that_refuses_gives_the_others_their_units_back() {
    let mut node = Node::new(&[
        limit(100, Per::Minute, Mode::Strict),
        limit(6, Per::Hour, Mode::Strict),
    ]);
    node.warm(&[50, 1], at(0));
    let held = (0..6)
        .map(|_| node.admit(&[1, 1], at(10)).unwrap())
        .collect::<Vec<_>>();
    let refusal = node.admit(&[1, 1], at(20)).unwrap_err();
    assert_eq!((refusal.which, refusal.pool.limit), (1, 1));
    drop(held);
    assert_eq!(node.ledger.outstanding(&key(0)), 50);
    let slices = [(&node.slices[0], 50)];
    assert!(
        take_all(&slices, at(30)).is_ok(),
        "nothing of the first is lost"
    );
}

#[test]
fn a_call_has_at_most_sixteen_limits() {
    let node = one(limit(100, Per::Minute, Mode::Local));
    let many = vec![(&node.slices[0], 0); LIMITS_PER_CALL + 1];
    assert!(matches!(take_all(&many, at(0)), Err(NotTaken::TooMany)));
    assert!(take_all(&many[1..], at(0)).is_ok());
    assert!(take_all(&[], at(0)).is_ok());
}

#[test]
fn a_call_is_charged_to_the_window_that_it_was_admitted_in() {
    let mut node = one(limit(10, Per::Minute, Mode::Strict));
    let long = node.admit(&[1], at(59_000)).unwrap();
    let other = node.admit(&[1], at(59_000)).unwrap();
    assert_eq!(node.admits(at(61_000)), 10, "the new window is whole");
    let charge = long.charges().next().unwrap();
    assert_eq!(charge.window, MIDNIGHT);
    let current = node.ledger.view(&key(0), 0).unwrap().lease.unwrap();
    assert_ne!(charge.lease, current.id);
    node.end(long);
    let lease = other.charges().next().unwrap().lease;
    other.release();
    let (plan, _) = node.commit(at(62_000));
    let old = plan.uses.iter().find(|used| used.lease == lease).unwrap();
    assert_eq!((old.spent, old.returned), (1, 1), "{plan:?}");
}

#[test]
fn a_limit_that_is_no_more_refuses_nobody_and_gives_back_what_it_held() {
    let mut node = one(limit(100, Per::Minute, Mode::Strict));
    node.warm(&[20], at(0));
    node.keeper.gone(&key(0), at(10));
    assert!(node.take(&[1_000], at(20)).is_ok());
    let plan = node.keeper.plan(&std::collections::BTreeMap::new(), at(30));
    assert_eq!(plan.uses.iter().map(|used| used.returned).sum::<u64>(), 20);
}

#[test]
fn a_limit_that_is_lowered_admits_nothing_more_under_the_old_amount() {
    let mut node = one(limit(1_000, Per::Minute, Mode::Strict));
    node.warm(&[500], at(0));
    node.ledger.change(&key(0), 100);
    node.tell(&[key(0)].into(), at(50));
    assert!(matches!(node.take(&[1], at(51)), Err(NotTaken::Cold(0))));
    assert!(node.keeper.is_urgent());
    let (plan, _) = node.commit(at(52));
    assert_eq!(plan.uses[0].returned, 500);
    assert_eq!(node.admits(at(60)), 100);
}

#[test]
fn another_incarnation_spends_nothing_of_the_one_before() {
    let mut node = one(limit(1_000, Per::Minute, Mode::Strict));
    node.warm(&[500], at(0));
    let open = node.admit(&[5], at(5)).unwrap();
    node.keeper.fenced();
    assert!(matches!(node.take(&[1], at(10)), Err(NotTaken::Cold(0))));
    let lease = open.charges().next().unwrap().lease;
    node.end(open);
    let plan = node.keeper.plan(&std::mem::take(&mut node.spent), at(20));
    assert_eq!(plan.uses.len(), 1, "{plan:?}");
    assert_eq!(
        (
            plan.uses[0].lease,
            plan.uses[0].spent,
            plan.uses[0].returned
        ),
        (lease, 5, 0)
    );
}

#[test]
fn what_is_not_used_for_long_goes_back_but_for_one_call() {
    let mut node = one(limit(100_000, Per::Hour, Mode::Strict));
    node.warm(&[300], at(0));
    node.warm(&[2], at(100));
    let (plan, _) = node.commit(at(5_000));
    assert!(plan.uses.is_empty(), "{plan:?}");
    let (plan, _) = node.commit(at(70_000));
    assert_eq!(
        plan.uses.iter().map(|used| used.returned).sum::<u64>(),
        299,
        "{plan:?}"
    );
    assert!(
        node.keeper.next_due_ms(at(70_000)) >= at(70_900).boot_ms,
        "then there is nothing to do"
    );
}

#[test]
fn pools_that_nobody_uses_are_forgotten() {
    let (mut keeper, pools) = mode_envoy_limits::Keeper::new();
    let rule = Arc::new(limit(5, Per::Minute, Mode::Local));
    let used = pools.open(&key(1), &rule).unwrap();
    take_all(&[(&used, 1)], at(0)).unwrap().settle();
    drop(used);
    drop(pools.open(&key(2), &rule).unwrap());
    keeper.sweep(at(1_000));
    assert_eq!(pools.len(), 1, "what was used in this window is remembered");
    keeper.sweep(at(60_000));
    assert!(pools.is_empty());
}

#[test]
fn an_order_of_the_log_that_comes_late_changes_nothing() {
    let mut node = one(limit(100_000, Per::Minute, Mode::Strict));
    let before = node.ledger.view(&key(0), 0).unwrap();
    node.warm(&[500], at(0));
    node.keeper.applied(&[before], 0, at(10));
    assert!(node.take(&[500], at(20)).is_ok());
}

#[test]
fn a_call_that_waits_behind_others_is_served_after_them() {
    let mut node = one(limit(100, Per::Minute, Mode::Strict));
    let wait = |node: &mut Node, needs: &[u64]| match node.enqueue(needs, at(0)) {
        mode_envoy_limits::Enqueued::Waits(ticket) => ticket,
        decided @ mode_envoy_limits::Enqueued::Decided(_) => panic!("{decided:?}"),
    };
    let (first, second) = (wait(&mut node, &[60]), wait(&mut node, &[60]));
    let (plan, decisions) = node.commit(at(1));
    assert_eq!(plan.asks[0].items[0].need, 60, "{plan:?}");
    assert!(result(verdict_of(first, decisions)).is_ok_and(|taken| taken.charges().count() == 1));
    let decisions = node.commit(later(at(1), 5)).1;
    assert!(decisions.iter().all(|decision| decision.ticket == second));
}
