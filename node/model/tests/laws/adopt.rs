//! A restored state as another cluster's: what stays, what changes, and what never comes back.

use std::collections::BTreeSet;
use std::sync::Arc;

use mode_envoy_model::adopt::{AdoptError, NewCluster};
use mode_envoy_model::batch::{Batch, ChangeSet, Item};
use mode_envoy_model::catalog::{Catalog, Founded};
use mode_envoy_model::command::Command;
use mode_envoy_model::limits;
use mode_envoy_model::state::State;
use mode_envoy_model::usage::batch::Register;

use crate::samples::{NOW, base, found, put};

const OLD_ROOT: [u8; 32] = [200; 32];
const NEW_ROOT: [u8; 32] = [201; 32];

/// A founded state with configuration in it, which has had four nodes, of which one has sent usage.
fn state() -> State {
    let mut state = State::new();
    let join = Command::Join {
        token: [1; 32],
        nonce: [2; 32],
        peer: "h4:7071".to_owned(),
        members: (1..=3).map(|id| (id, format!("h{id}:7071"))).collect(),
    };
    let make = Command::CreateJoinToken {
        hash: [1; 32],
        valid_ms: 60_000,
    };
    for (index, command) in (1..).zip([found(), put(base()), make, join]) {
        let decision = state.catalog.decide(&command, NOW).expect("it is accepted");
        let set = ChangeSet {
            base_revision: state.catalog.revision(),
            actor: "root".to_owned(),
            events: decision.events,
            encoded: Arc::from([1, 2, 3].as_slice()),
            ..ChangeSet::default()
        };
        apply(&mut state, index, Item::ChangeSet(set));
    }
    let register = Register {
        node: 2,
        follows: 0,
        spools: vec![(0, [8; 16])],
    };
    apply(&mut state, 5, Item::Register(register));
    state
}

fn apply(state: &mut State, index: u64, item: Item) {
    let batch = Batch {
        lease_clock_ms: index,
        wall_ms: NOW,
        items: vec![item],
    };
    state.apply(index, &batch);
}

fn former() -> BTreeSet<u64> {
    BTreeSet::from([1, 2, 3])
}

fn new_cluster(node: u64) -> NewCluster {
    NewCluster {
        founded: Founded {
            cluster_id: [9; 16],
            wrapped_key: [4, 5].into(),
            generation: 3,
        },
        node,
        former: former(),
        old_root: OLD_ROOT,
        new_root: NEW_ROOT,
        resealed: Vec::new(),
    }
}

/// What must be the same before and after.
fn kept(catalog: &Catalog) -> impl PartialEq + std::fmt::Debug + use<> {
    let objects: Vec<_> = mode_envoy_model::object::Kind::ALL
        .into_iter()
        .flat_map(|kind| catalog.objects(kind))
        .collect();
    (catalog.revision(), objects)
}

#[test]
fn configuration_history_and_usage_stay_and_the_identity_changes() {
    let before = state();
    let mut after = before.clone();
    assert_eq!(before.largest_node_id(&former()), 4);
    assert_eq!(after.adopt(&new_cluster(5)), Ok(true));

    assert_eq!(kept(&after.catalog), kept(&before.catalog));
    assert_eq!(after.history, before.history);
    assert_eq!(after.usage, before.usage);
    let founded = after.catalog.founded().expect("it is founded");
    assert_eq!(founded.cluster_id, [9; 16]);
    assert!(after.catalog.token_by_hash(&OLD_ROOT).is_none());
    let root = after
        .catalog
        .token_by_hash(&NEW_ROOT)
        .expect("a root token");
    assert_eq!(&*root.name, "root");
    assert_eq!(after.catalog.invariants(), Vec::<String>::new());
    assert_eq!(State::from_parts(after.parts()), Ok(after));
}

#[test]
fn old_nodes_are_gone_for_good_and_ids_go_on() {
    let mut state = state();
    state.adopt(&new_cluster(5)).expect("5 is a new id");
    let members = state.catalog.members();
    assert_eq!(members.removed().collect::<Vec<_>>(), [1, 2, 3, 4]);
    assert_eq!((members.joined().count(), members.tokens().count()), (0, 0));
    assert_eq!(members.largest_id(), 5);
}

#[test]
fn an_id_that_was_used_is_refused_and_nothing_is_changed() {
    let mut state = state();
    let before = state.clone();
    for node in [0, 1, 4] {
        let refused = AdoptError::UsedId { node, largest: 4 };
        assert_eq!(state.adopt(&new_cluster(node)), Err(refused));
    }
    let node = limits::NODE_IDS + 1;
    assert_eq!(
        state.adopt(&new_cluster(node)),
        Err(AdoptError::NoId { node })
    );
    assert_eq!(state, before);
}

#[test]
fn a_derived_token_that_was_revoked_does_not_come_back() {
    let mut state = state();
    let mut new = new_cluster(5);
    new.old_root = [77; 32];
    assert_eq!(state.adopt(&new), Ok(false));
    assert!(state.catalog.token_by_hash(&NEW_ROOT).is_none());
}
