//! Random histories of one node against the model: what a call may do and what the log may do, in any order.

use mode_envoy_limits::{NotTaken, Reservation};
use mode_envoy_model::limit::{Mode, Per};
use proptest::prelude::*;

use crate::arb::{at, key, limit};
use crate::node::Node;

/// One step of a history.
#[derive(Clone, Debug)]
enum Step {
    Calls { need: u64, times: u8 },
    Waits { need: u64 },
    Ends(usize),
    Leaves(usize),
    Commits,
    OthersAsk(u64),
    Changes(u64),
    Passes(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1_u64..5, 1_u8..20).prop_map(|(need, times)| Step::Calls { need, times }),
        4 => (1_u64..8).prop_map(|need| Step::Waits { need }),
        4 => (0_usize..50).prop_map(Step::Ends),
        2 => (0_usize..50).prop_map(Step::Leaves),
        4 => Just(Step::Commits),
        1 => (1_u64..40).prop_map(Step::OthersAsk),
        1 => (1_u64..200).prop_map(Step::Changes),
        3 => prop_oneof![1_u64..200, 5_000_u64..70_000].prop_map(Step::Passes),
    ]
}

fn others_ask(node: &mut Node, need: u64, ms: u64) {
    let item = mode_envoy_model::ledger::ask::AskItem {
        pool: key(0),
        need,
        want: need,
        demand: need,
        typical: 1,
    };
    let plan = mode_envoy_limits::Plan {
        uses: Vec::new(),
        asks: vec![mode_envoy_model::ledger::ask::Ask { items: vec![item] }],
    };
    let touched = node.ledger.apply(1, &plan, at(ms).wall_ms);
    node.tell(&touched, at(ms));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// The model ends the test where a batch spends or returns what its lease does not cover, or where an amount does not
    /// add up; here what is left on the node is held against what the log says of it.
    #[test]
    fn no_history_spends_what_was_not_granted(amount in 1_u64..120, steps in prop::collection::vec(step(), 1..120)) {
        let mut node = Node::new(&[limit(amount, Per::Minute, Mode::Strict)]);
        let (mut open, mut ms): (Vec<Reservation>, u64) = (Vec::new(), 0);
        for step in steps {
            match step {
                Step::Calls { need, times } => {
                    for _ in 0..times {
                        match node.take(&[need], at(ms)) {
                            Ok(taken) => open.push(taken),
                            Err(NotTaken::TooMany) => prop_assert!(false),
                            Err(NotTaken::Cold(_) | NotTaken::Refused(_)) => break,
                        }
                    }
                }
                Step::Waits { need } => open.extend(node.admit(&[need], at(ms)).ok()),
                Step::Ends(at) if !open.is_empty() => {
                    let taken = open.swap_remove(at % open.len());
                    node.end(taken);
                }
                Step::Leaves(at) if !open.is_empty() => drop(open.swap_remove(at % open.len())),
                Step::Ends(_) | Step::Leaves(_) => {}
                Step::Commits => drop(node.commit(at(ms))),
                Step::OthersAsk(need) => others_ask(&mut node, need, ms),
                Step::Changes(amount) => {
                    node.ledger.change(&key(0), amount);
                    node.tell(&[key(0)].into(), at(ms));
                }
                Step::Passes(by) => ms += by,
            }
            let lease = node.ledger.view(&key(0), 0).unwrap().lease;
            let held: u64 = open.iter().flat_map(Reservation::charges)
                .filter(|charge| lease.is_some_and(|lease| lease.id == charge.lease)).map(|charge| charge.need).sum();
            let unsaid: u64 = node.spent.iter().filter(|(id, _)| lease.is_some_and(|lease| lease.id == **id)).map(|(_, units)| units).sum();
            let outstanding = lease.map_or(0, |lease| lease.granted - lease.returned - lease.settled);
            prop_assert!(held + unsaid <= outstanding, "{held} + {unsaid} of {outstanding}");
        }
        for taken in open {
            node.end(taken);
        }
        // A limit that is used no more comes back whole, but for what one call may need.
        for step in 1..8 {
            node.commit(at(ms + step * 30_000));
        }
        let lease = node.ledger.view(&key(0), 0).unwrap().lease;
        let left = lease.map_or(0, |lease| lease.granted - lease.returned - lease.settled);
        prop_assert!(left <= 8, "{left} were kept");
    }
}
