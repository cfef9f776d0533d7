//! A ledger comes back from a checkpoint as it was, and one that does not balance is not taken.

use std::sync::Arc;

use mode_envoy_model::batch::{Evict, Final, Item, Outcome};
use mode_envoy_model::checkpoint::PartsError;
use mode_envoy_model::ledger::ask::{Ask, LeaseUse};
use mode_envoy_model::ledger::parts::LedgerError;
use mode_envoy_model::ledger::rules::Rules;
use mode_envoy_model::ledger::window::Over;
use mode_envoy_model::limit::{Limit, LimitId, Mode, Per, Unit, Window};
use mode_envoy_model::state::State;
use mode_envoy_model::usage::batch::{Register, UsageBatch};
use proptest::collection::vec;
use proptest::prelude::*;

use super::{Cluster, each, item, key, limit, set_limits};
use crate::arb;

fn limits() -> Vec<(LimitId, Limit)> {
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
        ledger.over.push(Arc::clone(&ledger.over[0]))
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
        },
        node: 9,
        former: [1, 2, 3].into(),
        old_root: [1; 32],
        new_root: [2; 32],
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
    assert_eq!(
        reports[1].overshoot,
        Some(0),
        "one percent of 40 is nothing"
    );
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

/// What nodes say, sound or not.
#[derive(Clone, Debug)]
enum Say {
    Ask(u64, Vec<(u64, u64, u64, u64)>),
    Use(u64, prop::sample::Index, u64, u64),
    Nonsense(u64, u64, u64),
    Register(u64),
    Final(u64, u64),
    Evict(u64, bool),
    Pass(u64),
    Amount(u64, u64),
    Remove(u64),
}

fn say() -> impl Strategy<Value = Say> {
    let needs = vec((1_u64..7, 0_u64..30, 0_u64..60, 0_u64..40), 0..4);
    let amount = prop_oneof![1_u64..50, Just(u64::MAX), Just(0)];
    let gap = prop_oneof![0_u64..3_000, 30_000_u64..120_000, Just(3 * 86_400_000_u64)];
    prop_oneof![
        6 => (1_u64..4, needs).prop_map(|(node, needs)| Say::Ask(node, needs)),
        6 => (1_u64..4, any::<prop::sample::Index>(), 0_u64..20, 0_u64..20).prop_map(|(n, at, s, r)| Say::Use(n, at, s, r)),
        1 => (1_u64..4, 0_u64..9, any::<u64>()).prop_map(|(n, lease, x)| Say::Nonsense(n, lease, x)),
        2 => (1_u64..4).prop_map(Say::Register),
        2 => (1_u64..4, 0_u64..3).prop_map(|(node, end)| Say::Final(node, end)),
        1 => (1_u64..4, any::<bool>()).prop_map(|(node, current)| Say::Evict(node, current)),
        3 => gap.prop_map(Say::Pass),
        2 => (1_u64..6, amount).prop_map(|(id, amount)| Say::Amount(id, amount)),
        1 => (1_u64..6).prop_map(Say::Remove),
    ]
}

/// A cluster on which things are said, and the limits that are in force.
struct Talk {
    cluster: Cluster,
    limits: Vec<(LimitId, Limit)>,
}

impl Talk {
    fn items(&self, say: &Say) -> Vec<Item> {
        let state = &self.cluster.state;
        let batch = |node, uses, asks| {
            let batch: UsageBatch = self.cluster.batch(node, uses, asks);
            vec![Item::Usage(batch)]
        };
        match say {
            Say::Ask(node, needs) => {
                let mut items: Vec<_> = needs
                    .iter()
                    .map(|(id, need, want, demand)| {
                        let value = if *id == 2 { "v" } else { "" };
                        item(&key(*id, value), *need, *want, *demand)
                    })
                    .collect();
                items.sort_by(|a, b| a.pool.cmp(&b.pool));
                items.dedup_by(|a, b| a.pool == b.pool);
                batch(*node, vec![], vec![Ask { items }])
            }
            Say::Use(node, at, spent, returned) => {
                let leases: Vec<_> = state.ledger.leases_of(*node).map(|(_, _, l)| *l).collect();
                if leases.is_empty() {
                    return vec![];
                }
                let lease = at.get(&leases);
                let left = lease.outstanding();
                let spent = spent.min(&left);
                let returned = *returned.min(&(left - spent));
                let (lease, spent) = (lease.id, *spent);
                batch(
                    *node,
                    vec![LeaseUse {
                        lease,
                        spent,
                        returned,
                    }],
                    vec![],
                )
            }
            Say::Nonsense(node, lease, x) => {
                let one = LeaseUse {
                    lease: *lease,
                    spent: *x,
                    returned: x / 2,
                };
                batch(*node, vec![one], vec![])
            }
            Say::Register(node) => vec![Item::Register(Register {
                node: *node,
                follows: self.cluster.incarnation(*node),
                spools: vec![(0, [1; 16])],
            })],
            Say::Final(node, end) => state
                .ledger
                .unfinished(*node)
                .map(|(incarnation, spools)| {
                    let ends = spools.iter().map(|uuid| (*uuid, *end)).collect();
                    Item::Final(Final {
                        node: *node,
                        incarnation,
                        ends,
                    })
                })
                .collect(),
            Say::Evict(node, current) => {
                let old = state.ledger.unfinished(*node).next().map(|(life, _)| life);
                let incarnation = if *current {
                    self.cluster.incarnation(*node)
                } else {
                    old.unwrap_or_default()
                };
                vec![Item::Evict(Evict {
                    node: *node,
                    incarnation,
                })]
            }
            Say::Pass(_) | Say::Amount(..) | Say::Remove(_) => vec![],
        }
    }

    fn hear(&mut self, say: &Say) -> Vec<Outcome> {
        match say {
            Say::Pass(ms) => {
                self.cluster.clock_ms += ms / 2;
                self.cluster.wall_ms += ms;
            }
            Say::Amount(id, amount) => {
                self.limits.retain(|(known, _)| known != id);
                let mut new = limits().remove(usize::try_from(*id).expect("few") - 1);
                new.1.amount = *amount;
                self.limits.push(new);
                set_limits(&mut self.cluster.state, &self.limits);
            }
            Say::Remove(id) => {
                self.limits.retain(|(known, _)| known != id);
                set_limits(&mut self.cluster.state, &self.limits);
            }
            _ => {}
        }
        let items = self.items(say);
        self.cluster.apply_all(items)
    }
}

proptest! {
    #![proptest_config(arb::cases(256))]

    /// I1, I7: whatever is said, the books balance after every entry, what comes back from a checkpoint is equal and stays so.
    #[test]
    fn whatever_is_said_the_books_balance_and_come_back(says in vec(say(), 1..60), cut in any::<prop::sample::Index>()) {
        let cluster = Cluster::new(3, &limits());
        let mut talk = Talk { cluster, limits: limits() };
        let cut = cut.index(says.len());
        let mut late: Option<Talk> = None;
        for (at, say) in says.iter().enumerate() {
            let outcomes = talk.hear(say);
            if let Some(late) = &mut late {
                prop_assert_eq!(late.hear(say), outcomes);
                prop_assert!(late.cluster.state == talk.cluster.state);
            }
            if at == cut {
                let mut state = State::from_parts(talk.cluster.state.parts()).expect("sound");
                set_limits(&mut state, &talk.limits);
                prop_assert!(state == talk.cluster.state);
                let cluster = Cluster { state, ..talk.cluster };
                late = Some(Talk { cluster, limits: talk.limits.clone() });
                talk.cluster = Cluster { state: talk.cluster.state.clone(), ..talk.cluster };
            }
            for (_, pool) in talk.cluster.state.ledger.pools() {
                for lease in &pool.window.leases {
                    prop_assert!(lease.returned + lease.settled <= lease.granted);
                }
            }
        }
    }
}
