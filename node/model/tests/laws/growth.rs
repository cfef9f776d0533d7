//! What the tokens of one tenant may add to the history in a day.

use mode_envoy_model::batch::{Batch, ChangeSet, Item};
use mode_envoy_model::command::{Command, RejectedCode};
use mode_envoy_model::event::Event;
use mode_envoy_model::limits;
use mode_envoy_model::state::State;
use mode_envoy_model::token::{Role, Token};

use crate::samples::{NOW, base, found, put};

const DAY: u64 = 86_400_000;
const MIB: usize = 1 << 20;

fn apply(state: &mut State, actor: &str, wall_ms: u64, events: Vec<Event>, bytes: usize) {
    let set = ChangeSet {
        base_revision: state.catalog.revision(),
        actor: actor.to_owned(),
        events,
        encoded: vec![7; bytes].into(),
        ..ChangeSet::default()
    };
    let batch = Batch {
        wall_ms,
        items: vec![Item::ChangeSet(set)],
        ..Batch::default()
    };
    state.apply(1, &batch);
}

/// With a token of the cluster and one of acme.
fn state() -> State {
    let mut state = State::new();
    let token = Token {
        name: "ours".into(),
        role: Role::Admin,
        hash: [77; 32],
        created_ms: NOW,
        tenant: Some("acme".into()),
    };
    for command in [found(), put(base()), Command::CreateToken(token)] {
        let decision = state.catalog.decide(&command, NOW).expect("it is accepted");
        apply(&mut state, "root", NOW, decision.events, 10);
    }
    state
}

fn change() -> Vec<Event> {
    vec![Event::FormatRaised { version: 1 }]
}

#[test]
fn a_tenants_tokens_are_refused_for_the_rest_of_the_day_and_others_are_not() {
    let mut state = state();
    let noon = NOW - NOW % DAY + DAY / 2;
    apply(&mut state, "root", noon, change(), 20 * MIB);
    assert!(
        state.growth.check("acme", 100, noon).is_ok(),
        "not a token of the tenant"
    );
    for _ in 0..7 {
        apply(&mut state, "ours", noon, change(), MIB);
    }
    let counted = 7 * (MIB as u64 + limits::RECORD_BYTES);
    let left = limits::TENANT_HISTORY_BYTES - counted - limits::RECORD_BYTES;
    assert!(state.growth.check("acme", left, noon).is_ok());
    let refused = state
        .growth
        .check("acme", left + 1, noon)
        .expect_err("it is full");
    assert_eq!(refused.code, RejectedCode::Limit);
    let told = refused.to_string();
    assert!(
        told.contains("try again at 00:00 UTC, in 12 h 0 min"),
        "{told}"
    );
    assert!(state.growth.check("beta", left + 1, noon).is_ok());
    // A checkpoint does not forget it, the next day does.
    let again = State::from_parts(state.parts()).expect("it holds together");
    assert_eq!(again.growth, state.growth);
    assert!(again.growth.check("acme", left + 1, noon + DAY).is_ok());
    apply(&mut state, "ours", noon + DAY, change(), 10);
    assert!(state.growth.check("acme", left + 1, noon + DAY).is_ok());
}
