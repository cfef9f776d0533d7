//! Requests of clients: each is carried out once, and remembered for an hour, alike on every replica.

use mode_envoy_model::batch::{Batch, ChangeSet, Item};
use mode_envoy_model::catalog::Catalog;
use mode_envoy_model::command::{Command, RejectedCode};
use mode_envoy_model::event::Event;
use mode_envoy_model::limits;
use mode_envoy_model::requests::{ClientRequest, Requests};
use mode_envoy_model::state::State;
use mode_envoy_model::token::Role;
use proptest::collection::vec;
use proptest::prelude::*;

use crate::arb;
use crate::samples::{self, NOW, base, put, token};

const HOUR: u64 = limits::REQUEST_MS;

fn request(id: u64, body: u8) -> ClientRequest {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&id.to_le_bytes());
    ClientRequest {
        id: bytes,
        body: [body; 32],
        nonce: [7; 16],
    }
}

/// Applies events as the request of somebody, at a wall clock.
fn carry_out(state: &mut State, actor: &str, id: u64, wall_ms: u64, events: Vec<Event>) {
    let set = ChangeSet {
        base_revision: state.catalog.revision(),
        actor: actor.to_owned(),
        events,
        request: Some(request(id, 1)),
        ..ChangeSet::default()
    };
    let batch = Batch {
        wall_ms,
        items: vec![Item::ChangeSet(set)],
        ..Batch::default()
    };
    state.apply(state.catalog.revision() + 7, &batch);
}

fn nothing_new() -> Vec<Event> {
    vec![Event::FormatRaised { version: 1 }]
}

fn is_known(requests: &Requests, actor: &str, id: u64) -> bool {
    let known = requests.answer(actor, &request(id, 1));
    known.expect("it is the same request").is_some()
}

#[test]
fn a_request_is_known_by_its_token_and_id_and_refused_for_something_else() {
    let mut state = State::new();
    carry_out(&mut state, "ci", 1, NOW, nothing_new());
    let known = state.requests.answer("ci", &request(1, 1)).unwrap();
    let known = known.expect("it is remembered");
    assert_eq!((known.revision, known.index, known.wall_ms), (1, 7, NOW));
    assert!(!is_known(&state.requests, "ci", 2));
    assert!(!is_known(&state.requests, "cd", 1));
    let refused = state.requests.answer("ci", &request(1, 2)).unwrap_err();
    assert_eq!(refused.code, RejectedCode::Exists);
}

#[test]
fn a_void_change_set_is_not_remembered() {
    let mut state = State::new();
    let set = ChangeSet {
        base_revision: 9,
        actor: "ci".to_owned(),
        events: nothing_new(),
        request: Some(request(1, 1)),
        ..ChangeSet::default()
    };
    let items = vec![Item::ChangeSet(set)];
    state.apply(
        1,
        &Batch {
            items,
            ..Batch::default()
        },
    );
    assert!(!is_known(&state.requests, "ci", 1));
}

#[test]
fn a_request_is_forgotten_after_an_hour_of_the_log() {
    let mut state = State::new();
    carry_out(&mut state, "ci", 1, NOW, nothing_new());
    carry_out(&mut state, "ci", 2, NOW + HOUR - 1, nothing_new());
    assert!(is_known(&state.requests, "ci", 1));
    carry_out(&mut state, "ci", 3, NOW + HOUR, nothing_new());
    assert!(!is_known(&state.requests, "ci", 1));
    assert!(is_known(&state.requests, "ci", 2) && is_known(&state.requests, "ci", 3));
}

#[test]
fn the_oldest_requests_make_room_for_new_ones() {
    let mut state = State::new();
    let limit = u64::try_from(limits::REQUESTS).unwrap();
    for id in 0..limit + 3 {
        carry_out(&mut state, "ci", id, NOW, nothing_new());
    }
    assert_eq!(state.requests.iter().count(), limits::REQUESTS);
    for (id, known) in [(0, false), (2, false), (3, true), (limit + 2, true)] {
        assert_eq!(is_known(&state.requests, "ci", id), known, "{id}");
    }
}

#[test]
fn the_lines_of_all_answers_together_are_bounded() {
    let mut state = State::new();
    let many = limits::EVENTS_PER_CHANGE_SET;
    let fit = u64::try_from(limits::REQUEST_LINES / many).unwrap();
    for id in 0..=fit {
        let events = vec![Event::FormatRaised { version: 1 }; many];
        carry_out(&mut state, "ci", id, NOW, events);
    }
    assert!(!is_known(&state.requests, "ci", 0));
    assert!(is_known(&state.requests, "ci", 1) && is_known(&state.requests, "ci", fit));
}

#[test]
fn the_requests_of_a_revoked_token_are_forgotten() {
    let mut state = State::new();
    let made = vec![Event::TokenPut(token("ci", Role::Admin, 1))];
    carry_out(&mut state, "root", 1, NOW, made);
    carry_out(&mut state, "ci", 2, NOW, nothing_new());
    carry_out(
        &mut state,
        "root",
        3,
        NOW,
        vec![Event::TokenRevoked("ci".into())],
    );
    assert!(!is_known(&state.requests, "ci", 2));
    assert!(is_known(&state.requests, "root", 1) && is_known(&state.requests, "root", 3));
}

#[test]
fn what_stayed_as_it_was_is_told_again_in_its_place() {
    let mut catalog = samples::catalog();
    let mut objects = base();
    objects.push(samples::tenant("gamma"));
    let command = put(objects);
    let decision = catalog.decide(&command, NOW).unwrap();
    let report = answered(&mut catalog, &command).expect("it changes something");
    assert_eq!(report.len(), 9);
    assert_eq!(report, decision.changes);
}

/// Decides, remembers and applies a command; what a retry is told.
fn answered(
    catalog: &mut Catalog,
    command: &Command,
) -> Option<Vec<mode_envoy_model::command::Change>> {
    let decision = catalog.decide(command, NOW).ok()?;
    let set = ChangeSet {
        base_revision: catalog.revision(),
        actor: "ci".to_owned(),
        events: decision.events,
        request: Some(request(1, 1)),
        ..ChangeSet::default()
    };
    if set.events.is_empty() {
        return None;
    }
    let mut requests = Requests::default();
    requests.note(catalog, &set, 1, NOW);
    catalog.apply_change_set(&set);
    let known = requests.answer("ci", &request(1, 1)).unwrap();
    // A token that revokes itself is not asked again.
    known.map(|known| known.report(command))
}

proptest! {
    #[test]
    fn a_retry_is_told_what_the_first_try_was_told(commands in vec(arb::command(), 1..30)) {
        let mut catalog = Catalog::empty();
        for command in &commands {
            let decision = catalog.decide(command, NOW);
            let report = answered(&mut catalog, command);
            if let (Ok(decision), Some(report)) = (decision, report) {
                prop_assert_eq!(report, decision.changes);
            }
        }
    }
}
