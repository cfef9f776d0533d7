//! Whatever nodes say, sound or not, in whatever order: the books balance after every entry, and replicas stay equal.

use mode_envoy_model::batch::{Evict, Final, Item, Outcome};
use mode_envoy_model::ledger::ask::{Ask, LeaseUse};
use mode_envoy_model::limit::{Limit, LimitId};
use mode_envoy_model::state::State;
use mode_envoy_model::usage::batch::Register;
use proptest::collection::vec;
use proptest::prelude::*;

use super::checkpoints::limits;
use super::{Cluster, item, key, set_limits};
use crate::arb;

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
        let ledger = &self.cluster.state.ledger;
        match say {
            Say::Ask(node, needs) => self.asked(*node, needs),
            Say::Use(node, at, spent, returned) => self.used(*node, *at, (*spent, *returned)),
            Say::Nonsense(node, lease, x) => {
                let one = LeaseUse {
                    lease: *lease,
                    spent: *x,
                    returned: x / 2,
                };
                vec![Item::Usage(self.cluster.batch(*node, vec![one], vec![]))]
            }
            Say::Register(node) => vec![Item::Register(Register {
                node: *node,
                follows: self.cluster.incarnation(*node),
                spools: vec![(0, [1; 16])],
            })],
            Say::Final(node, end) => {
                let unfinished = ledger.unfinished(*node);
                let done = unfinished.map(|(incarnation, spools)| Final {
                    node: *node,
                    incarnation,
                    ends: spools.iter().map(|uuid| (*uuid, *end)).collect(),
                });
                done.map(Item::Final).collect()
            }
            Say::Evict(node, current) => {
                let old = ledger.unfinished(*node).next().map(|(life, _)| life);
                let current = current.then(|| self.cluster.incarnation(*node));
                vec![Item::Evict(Evict {
                    node: *node,
                    incarnation: current.or(old).unwrap_or_default(),
                })]
            }
            Say::Pass(_) | Say::Amount(..) | Say::Remove(_) => vec![],
        }
    }

    fn asked(&self, node: u64, needs: &[(u64, u64, u64, u64)]) -> Vec<Item> {
        let items = needs.iter().map(|(id, need, want, demand)| {
            let value = if *id == 2 { "v" } else { "" };
            item(&key(*id, value), *need, *want, *demand)
        });
        let mut items: Vec<_> = items.collect();
        items.sort_by(|a, b| a.pool.cmp(&b.pool));
        items.dedup_by(|a, b| a.pool == b.pool);
        let batch = self.cluster.batch(node, vec![], vec![Ask { items }]);
        vec![Item::Usage(batch)]
    }

    fn used(&self, node: u64, at: prop::sample::Index, (spent, returned): (u64, u64)) -> Vec<Item> {
        let leases = self.cluster.state.ledger.leases_of(node);
        let leases: Vec<_> = leases.map(|(_, _, lease)| *lease).collect();
        if leases.is_empty() {
            return vec![];
        }
        let lease = at.get(&leases);
        let spent = spent.min(lease.outstanding());
        let one = LeaseUse {
            lease: lease.id,
            spent,
            returned: returned.min(lease.outstanding() - spent),
        };
        vec![Item::Usage(self.cluster.batch(node, vec![one], vec![]))]
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
