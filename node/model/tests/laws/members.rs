//! Who may join, under which id, and who may be removed.

use std::collections::BTreeMap;

use mode_envoy_model::batch::{Batch, ChangeSet, Item};
use mode_envoy_model::catalog::Catalog;
use mode_envoy_model::command::{ChangeKind, Command, RejectedCode};
use mode_envoy_model::limits;
use mode_envoy_model::state::State;

use crate::samples::{NOW, refusal, run, what};

const HOUR: u64 = 3_600_000;

fn three() -> BTreeMap<u64, String> {
    (1..=3).map(|id| (id, format!("h{id}:7071"))).collect()
}

fn make(token: u8) -> Command {
    Command::CreateJoinToken {
        hash: [token; 32],
        valid_ms: HOUR,
    }
}

fn join(token: u8, nonce: u8, peer: &str) -> Command {
    Command::Join {
        token: [token; 32],
        nonce: [nonce; 32],
        peer: peer.to_owned(),
        members: three(),
    }
}

fn remove(node: u64) -> Command {
    Command::RemoveNode {
        node,
        members: three(),
    }
}

/// The id that a join gives, and what it is called in the report.
fn joined(catalog: &mut Catalog, command: &Command) -> (String, ChangeKind) {
    let decision = run(catalog, command).expect("the join is accepted");
    let change = &decision.changes[0];
    assert_eq!(change.kind, "node");
    (change.name.to_string(), change.what)
}

#[test]
fn ids_go_on_from_the_largest_ever_used_and_never_come_back() {
    let mut catalog = Catalog::empty();
    for token in 1..=4 {
        assert_eq!(what(&mut catalog, &make(token)), [ChangeKind::Created]);
    }
    let created = |id: &str| (id.to_owned(), ChangeKind::Created);
    assert_eq!(joined(&mut catalog, &join(1, 1, "h4:7071")), created("4"));
    assert_eq!(joined(&mut catalog, &join(2, 2, "h5:7071")), created("5"));
    assert_eq!(what(&mut catalog, &remove(5)), [ChangeKind::Deleted]);
    assert_eq!(what(&mut catalog, &remove(5)), [ChangeKind::Unchanged]);
    assert_eq!(joined(&mut catalog, &join(3, 3, "h5:7071")), created("6"));
    // A node of the formation goes as well, and its address is free then.
    assert_eq!(what(&mut catalog, &remove(3)), [ChangeKind::Deleted]);
    assert_eq!(joined(&mut catalog, &join(4, 4, "h3:7071")), created("7"));
    let ids: Vec<u64> = catalog.members().joined().map(|node| node.id).collect();
    assert_eq!(ids, [4, 6, 7]);
    assert!(catalog.members().is_removed(3) && catalog.members().is_removed(5));
}

#[test]
fn a_token_lets_in_one_node_and_the_same_node_as_often_as_it_asks() {
    let mut catalog = Catalog::empty();
    assert_eq!(
        refusal(&catalog, &join(1, 1, "h4:1")).0,
        RejectedCode::NotFound
    );
    run(&mut catalog, &make(1)).unwrap();
    assert_eq!(what(&mut catalog, &make(1)), [ChangeKind::Unchanged]);
    let first = joined(&mut catalog, &join(1, 1, "h4:1"));
    assert_eq!(first, ("4".to_owned(), ChangeKind::Created));
    // Its answer was lost: the same number gets the same id.
    let again = joined(&mut catalog, &join(1, 1, "h4:1"));
    assert_eq!(again, ("4".to_owned(), ChangeKind::Unchanged));
    assert_eq!(
        refusal(&catalog, &join(1, 2, "h5:1")).0,
        RejectedCode::Exists
    );
    run(&mut catalog, &remove(4)).unwrap();
    assert_eq!(
        refusal(&catalog, &join(1, 1, "h4:1")).0,
        RejectedCode::InUse
    );
}

#[test]
fn a_token_ends_with_its_time_and_is_forgotten_then() {
    let mut catalog = Catalog::empty();
    run(&mut catalog, &make(1)).unwrap();
    let late = catalog.decide(&join(1, 1, "h4:1"), NOW + HOUR);
    assert_eq!(late.unwrap_err().code, RejectedCode::NotFound);
    for valid_ms in [0, 999, HOUR + 1] {
        let hash = [9; 32];
        let odd = Command::CreateJoinToken { hash, valid_ms };
        assert_eq!(refusal(&catalog, &odd).0, RejectedCode::Invalid);
    }

    let mut state = State::new();
    let set = ChangeSet {
        base_revision: 0,
        actor: "root".to_owned(),
        events: Catalog::empty().decide(&make(1), NOW).unwrap().events,
        ..ChangeSet::default()
    };
    let at = |wall_ms, items| Batch {
        lease_clock_ms: 1,
        wall_ms,
        items,
    };
    state.apply(1, &at(NOW, vec![Item::ChangeSet(set)]));
    state.apply(2, &at(NOW + HOUR - 1, Vec::new()));
    assert_eq!(state.catalog.members().tokens().count(), 1);
    state.apply(3, &at(NOW + HOUR + 60_000, Vec::new()));
    assert_eq!(state.catalog.members().tokens().count(), 0);
}

#[test]
fn an_address_is_one_nodes_and_must_be_one() {
    let mut catalog = Catalog::empty();
    run(&mut catalog, &make(1)).unwrap();
    let taken = refusal(&catalog, &join(1, 1, "h2:7071"));
    assert_eq!(taken, (RejectedCode::Exists, vec!["peer".to_owned()]));
    for odd in ["", "h", "h:0", "h:70000", ":1", "a b:1", "a/b:1"] {
        assert_eq!(
            refusal(&catalog, &join(1, 1, odd)).0,
            RejectedCode::Invalid,
            "{odd}"
        );
    }
}

#[test]
fn a_node_that_is_not_there_and_the_last_one_are_not_removed() {
    let mut catalog = Catalog::empty();
    assert_eq!(refusal(&catalog, &remove(4)).0, RejectedCode::NotFound);
    run(&mut catalog, &remove(1)).unwrap();
    run(&mut catalog, &remove(2)).unwrap();
    assert_eq!(refusal(&catalog, &remove(3)).0, RejectedCode::InUse);
}

#[test]
fn tokens_nodes_and_ids_have_bounds() {
    let mut catalog = Catalog::empty();
    let token = |n: usize| Command::CreateJoinToken {
        hash: [u8::try_from(n).expect("a small number"); 32],
        valid_ms: HOUR,
    };
    for n in 0..limits::JOIN_TOKENS {
        run(&mut catalog, &token(n)).unwrap();
    }
    assert_eq!(refusal(&catalog, &token(200)).0, RejectedCode::Limit);
    for n in 0..limits::MEMBERS - 3 {
        let n = u8::try_from(n).unwrap();
        run(&mut catalog, &join(n, n, &format!("j{n}:1"))).unwrap();
    }
    assert_eq!(
        refusal(&catalog, &join(90, 90, "z:1")).0,
        RejectedCode::Limit
    );
}
