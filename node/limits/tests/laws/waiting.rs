//! What becomes of calls that wait, when the log is slow, silent, or has nothing.

use mode_envoy_limits::keeper::{TAIL_WAIT_MS, WAIT_MS};
use mode_envoy_limits::{Enqueued, Now, Reason, Ticket};
use mode_envoy_model::ledger::ask::Ask;
use mode_envoy_model::limit::{Mode, Per};

use crate::arb::{at, cut_off, key, limit};
use crate::node::{Node, result, verdict_of};

fn waits(node: &mut Node, needs: &[u64], now: Now) -> Ticket {
    match node.enqueue(needs, now) {
        Enqueued::Waits(ticket) => ticket,
        Enqueued::Decided(verdict) => panic!("{verdict:?}"),
    }
}

/// What is needed, without what would be good to have.
fn needs(asks: &[Ask]) -> Vec<Vec<(u64, u64)>> {
    let items = |ask: &Ask| {
        ask.items
            .iter()
            .filter(|item| item.need > 0)
            .map(|item| (item.pool.limit, item.need))
            .collect()
    };
    asks.iter()
        .map(items)
        .filter(|items: &Vec<_>| !items.is_empty())
        .collect()
}

#[test]
fn calls_that_wait_for_the_same_are_one_ask() {
    let mut node = Node::new(&[
        limit(1_000, Per::Minute, Mode::Strict),
        limit(5_000, Per::Hour, Mode::Strict),
    ]);
    let tickets: Vec<_> = (0..40).map(|_| waits(&mut node, &[1, 2], at(0))).collect();
    assert!(node.keeper.is_urgent());
    let (plan, mut decisions) = node.commit(at(3));
    assert_eq!(needs(&plan.asks), [vec![(0, 40), (1, 80)]]);
    assert_eq!(decisions.len(), 40);
    decisions.sort_by_key(|decision| decision.ticket);
    assert!(decisions.iter().map(|decision| decision.ticket).eq(tickets));
    assert!(!node.keeper.is_urgent());
}

#[test]
fn of_the_last_units_each_call_asks_for_its_own() {
    let mut node = Node::new(&[limit(3, Per::Minute, Mode::Strict)]);
    node.tell(&[key(0)].into(), at(0));
    for _ in 0..12 {
        waits(&mut node, &[1], at(0));
    }
    let (plan, decisions) = node.commit(at(3));
    assert_eq!(
        needs(&plan.asks),
        [vec![(0, 1)], vec![(0, 1)], vec![(0, 1)]],
        "no more than there are"
    );
    let (admitted, refused): (Vec<_>, Vec<_>) = decisions
        .into_iter()
        .partition(|decision| matches!(decision.verdict, mode_envoy_limits::Verdict::Admitted(_)));
    assert_eq!(
        (admitted.len(), refused.len()),
        (3, 9),
        "those that got nothing need not wait"
    );
}

#[test]
fn one_call_of_a_cold_limit_does_not_hold_up_the_calls_of_a_warm_one() {
    let mut node = Node::new(&[
        limit(10_000, Per::Minute, Mode::Strict),
        limit(6_000, Per::Hour, Mode::Strict),
    ]);
    let slices = node.slices.clone();
    let alone = [(&slices[0], 1)];
    match node.keeper.enqueue(&[(&slices[0], 500)], at(0)) {
        Enqueued::Waits(_) => node.commit(at(0)).1.into_iter().for_each(drop),
        Enqueued::Decided(verdict) => panic!("{verdict:?}"),
    }
    let ticket = waits(&mut node, &[1, 1], at(1));
    assert!(mode_envoy_limits::take_all(&alone, at(2)).is_ok());
    assert!(result(verdict_of(ticket, node.commit(at(4)).1)).is_ok());
}

#[test]
fn a_log_that_does_not_answer_is_not_taken_for_a_limit_that_is_used_up() {
    let mut node = Node::new(&[limit(1_000, Per::Minute, Mode::Strict)]);
    let ticket = waits(&mut node, &[1], at(0));
    node.keeper.plan(&std::collections::BTreeMap::new(), at(1));
    assert!(node.keeper.overdue(at(WAIT_MS - 1)).is_empty());
    let refusal = result(verdict_of(ticket, node.keeper.overdue(at(WAIT_MS)))).unwrap_err();
    assert_eq!(
        (refusal.reason, refusal.reason.is_limited()),
        (Reason::Unanswered, false)
    );
    assert!(node.keeper.overdue(at(10_000)).is_empty(), "decided once");
}

#[test]
fn a_bounded_limit_helps_itself_while_the_log_does_not_answer() {
    let mut node = Node::new(&[limit(1_000, Per::Minute, Mode::Bounded)]);
    let ticket = waits(&mut node, &[1], at(0));
    let taken = result(verdict_of(ticket, node.keeper.overdue(at(WAIT_MS)))).unwrap();
    assert_eq!(taken.charges().count(), 0);
    taken.settle();
}

#[test]
fn a_node_that_is_cut_off_lets_nobody_wait() {
    let mut node = Node::new(&[limit(1_000, Per::Minute, Mode::Strict)]);
    let refusal = match node.enqueue(&[1], cut_off(4_000, 1_999)) {
        Enqueued::Decided(verdict) => result(verdict).unwrap_err(),
        Enqueued::Waits(_) => panic!("it waits"),
    };
    assert_eq!(refusal.reason, Reason::NoQuorum);
}

#[test]
fn units_that_others_hold_are_waited_for_longer_and_then_not_asked_for_at_once() {
    let mut node = Node::new(&[limit(100, Per::Minute, Mode::Strict)]);
    let ask = mode_envoy_limits::Plan {
        uses: Vec::new(),
        asks: vec![Ask {
            items: vec![mode_envoy_model::ledger::ask::AskItem {
                pool: key(0),
                need: 100,
                want: 0,
                demand: 100,
                typical: 1,
            }],
        }],
    };
    let touched = node.ledger.apply(1, &ask, at(0).wall_ms);
    node.tell(&touched, at(0));
    let ticket = waits(&mut node, &[1], at(0));
    let (plan, decisions) = node.commit(at(2));
    assert_eq!(
        needs(&plan.asks),
        [vec![(0, 1)]],
        "so that the others give back"
    );
    assert_eq!(node.ledger.view(&key(0), 1).unwrap().recalls, 1);
    assert!(decisions.is_empty());
    assert!(node.keeper.overdue(at(WAIT_MS)).is_empty());
    let refusal = result(verdict_of(ticket, node.keeper.overdue(at(TAIL_WAIT_MS)))).unwrap_err();
    assert_eq!(
        (refusal.reason, refusal.elsewhere),
        (Reason::HeldElsewhere, 100)
    );
    assert!(refusal.reason.is_limited());
    assert_eq!(refusal.retry_after_s(at(TAIL_WAIT_MS).wall_ms), Some(1));
    assert_eq!(
        crate::node::reason(node.take(&[1], at(TAIL_WAIT_MS + 50))),
        Reason::HeldElsewhere
    );
    assert!(
        node.take(&[1], at(TAIL_WAIT_MS + 101))
            .is_err_and(|e| matches!(e, mode_envoy_limits::NotTaken::Cold(0)))
    );
}

#[test]
fn what_is_recalled_can_no_longer_be_spent_and_goes_back_at_once() {
    let mut node = Node::new(&[limit(100, Per::Minute, Mode::Strict)]);
    node.warm(&[100], at(0));
    let ask = mode_envoy_limits::Plan {
        uses: Vec::new(),
        asks: vec![Ask {
            items: vec![mode_envoy_model::ledger::ask::AskItem {
                pool: key(0),
                need: 5,
                want: 0,
                demand: 5,
                typical: 1,
            }],
        }],
    };
    let touched = node.ledger.apply(1, &ask, at(100).wall_ms);
    node.tell(&touched, at(105));
    assert!(node.keeper.is_urgent() && node.keeper.next_due_ms(at(105)) == at(105).boot_ms);
    assert!(node.take(&[1], at(106)).is_err());
    let (plan, _) = node.commit(at(107));
    assert_eq!(plan.uses[0].returned, 100);
}

#[test]
fn a_client_that_leaves_takes_nothing() {
    let mut node = Node::new(&[limit(1_000, Per::Minute, Mode::Strict)]);
    let ticket = waits(&mut node, &[1], at(0));
    node.keeper.leave(ticket);
    node.keeper.leave(ticket);
    assert!(node.commit(at(1)).1.is_empty());
    assert!(node.keeper.overdue(at(10_000)).is_empty());
    assert_eq!(node.admits(at(20)), 1_000);
}

#[test]
fn a_call_that_ends_makes_room_for_one_that_waits() {
    let mut node = Node::new(&[crate::arb::concurrent(2, Mode::Strict)]);
    let open = [
        node.admit(&[1], at(0)).unwrap(),
        node.admit(&[1], at(0)).unwrap(),
    ];
    let elsewhere =
        |view: &mut mode_envoy_model::ledger::view::PoolView| (view.free, view.elsewhere) = (0, 1);
    let mut view = node.ledger.view(&key(0), 0).unwrap();
    elsewhere(&mut view);
    view.epoch += 1;
    node.keeper.applied(&[view], node.ledger.index + 1, at(1));
    let ticket = waits(&mut node, &[1], at(2));
    for taken in open {
        taken.settle();
    }
    assert!(result(verdict_of(ticket, node.keeper.overdue(at(12)))).is_ok());
}

#[test]
fn more_than_ten_thousand_do_not_wait() {
    let mut node = Node::new(&[limit(100_000, Per::Minute, Mode::Strict)]);
    for _ in 0..mode_envoy_limits::keeper::WAITERS {
        waits(&mut node, &[1], at(0));
    }
    match node.enqueue(&[1], at(0)) {
        Enqueued::Decided(verdict) => {
            assert_eq!(result(verdict).unwrap_err().reason, Reason::Crowded);
        }
        Enqueued::Waits(_) => panic!("it waits"),
    }
    assert_eq!(
        node.commit(at(1)).1.len(),
        mode_envoy_limits::keeper::WAITERS
    );
}
