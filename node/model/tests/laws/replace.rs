//! Prune and rollback: what they may delete, what they never touch, and what refuses them.

use mode_envoy_model::catalog::{Catalog, WayBack};
use mode_envoy_model::command::{ChangeKind, Command, RejectedCode};
use mode_envoy_model::limits;
use mode_envoy_model::object::{Kind, Object, ObjectRef};
use mode_envoy_model::provider::Provider;
use mode_envoy_model::token::{Role, Token};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::arb;
use crate::samples::{
    self, NOW, base, catalog, consumer, delete, embedded, key, openai, put, refusal, route, run,
    secret, service, tenant,
};

fn prune(objects: Vec<Object>, confirmed: bool) -> Command {
    Command::Prune {
        objects,
        confirmed,
        dry_run: false,
    }
}

fn back_to(catalog: &Catalog, old: &Catalog) -> Command {
    Command::Rollback {
        revision: old.revision(),
        base_revision: catalog.revision(),
        back: catalog.way_back(old).expect("there is a way back"),
        dry_run: false,
    }
}

fn deleted(catalog: &Catalog, command: &Command) -> Vec<String> {
    let decision = catalog.decide(command, NOW).expect("it is accepted");
    let gone = decision
        .changes
        .iter()
        .filter(|c| c.what == ChangeKind::Deleted);
    gone.map(|c| {
        let owner = c.tenant.as_ref().map(|t| format!("{t}/"));
        format!("{} {}{}", c.kind, owner.unwrap_or_default(), c.name)
    })
    .collect()
}

#[test]
fn the_tokens_that_go_with_a_tenant_count_as_well() {
    let mut catalog = catalog();
    run(&mut catalog, &put(vec![tenant("gone")])).expect("one more");
    for n in 100..104 {
        let token = Token {
            tenant: Some("gone".into()),
            ..samples::token(&format!("t-{n}"), Role::Viewer, n)
        };
        run(&mut catalog, &Command::CreateToken(token)).expect("a token");
    }
    let with = |consumers: usize| Command::Rollback {
        revision: 1,
        base_revision: catalog.revision(),
        back: WayBack {
            put: (0..consumers)
                .map(|n| consumer("acme", &format!("c-{n}")))
                .collect(),
            delete: vec![ObjectRef {
                kind: Kind::Tenant,
                tenant: None,
                name: "gone".into(),
            }],
        },
        dry_run: false,
    };
    // What every replica would find unsound is refused before it is written.
    let (code, paths) = refusal(&catalog, &with(limits::PUT_OBJECTS - 4));
    assert_eq!(
        (code, paths),
        (RejectedCode::Limit, vec!["objects".to_owned()])
    );
    let most = with(limits::PUT_OBJECTS - 5);
    let events = catalog.decide(&most, NOW).expect("it fits").events;
    assert_eq!(events.len(), limits::EVENTS_PER_CHANGE_SET);
}

#[test]
fn a_prune_deletes_only_kinds_and_tenants_of_its_objects() {
    let mut catalog = catalog();
    run(&mut catalog, &put(vec![tenant("gamma"), service("spare")])).expect("more objects");
    // Consumers of beta and every service stay: neither that tenant nor that kind is named.
    let objects = vec![tenant("acme"), consumer("acme", "other")];
    let mut fast = samples::model("fast", "local");
    fast.access = None;
    run(&mut catalog, &put(vec![Object::Model(fast)])).expect("nobody is on the list");
    assert_eq!(
        deleted(&catalog, &prune(objects, true)),
        ["consumer acme/app"]
    );
    // Even where tenants are named, those that are not named stay.
    let decision = run(&mut catalog, &prune(vec![tenant("acme")], true)).expect("accepted");
    assert_eq!(decision.events, []);
    assert!(catalog.tenant("gamma").is_some());
}

#[test]
fn a_prune_deletes_users_before_what_they_use_and_refuses_what_is_still_used() {
    let mut catalog = catalog();
    let extra = route("acme", "extra", "/extra");
    let extra = mode_envoy_model::route::Route {
        service: "spare".into(),
        ..extra
    };
    run(
        &mut catalog,
        &put(vec![service("spare"), Object::Route(extra)]),
    )
    .expect("more objects");
    let command = prune(base(), true);
    assert_eq!(
        deleted(&catalog, &command),
        ["route acme/extra", "service spare"]
    );
    run(&mut catalog, &command).expect("in one change set");

    run(&mut catalog, &Command::CreateKey(key("acme", "k", 1))).expect("a key");
    let objects = vec![tenant("acme"), consumer("acme", "other")];
    let (code, paths) = refusal(&catalog, &prune(objects, true));
    assert_eq!(code, RejectedCode::InUse);
    assert_eq!(paths, ["consumers[acme/app]"]);
}

#[test]
fn more_than_a_fifth_is_deleted_only_with_a_confirmation() {
    let mut catalog = catalog();
    let services = (0..9).map(|n| service(&format!("s{n}"))).collect();
    run(&mut catalog, &put(services)).expect("ten services in all");
    let keep = |count: usize| {
        let spare = (0..count).map(|n| service(&format!("s{n}")));
        spare.chain([service("orders")]).collect::<Vec<_>>()
    };
    assert_eq!(
        deleted(&catalog, &prune(keep(7), false)),
        ["service s7", "service s8"]
    );
    let (code, paths) = refusal(&catalog, &prune(keep(6), false));
    assert_eq!(
        (code, paths),
        (RejectedCode::Invalid, vec!["prune".to_owned()])
    );
    assert_eq!(deleted(&catalog, &prune(keep(6), true)).len(), 3);
    // A dry run shows what it would be, and changes nothing.
    let dry = Command::Prune {
        objects: keep(0),
        confirmed: false,
        dry_run: true,
    };
    assert_eq!(deleted(&catalog, &dry).len(), 9);
    assert!(catalog.decide(&dry, NOW).expect("shown").events.is_empty());
}

#[test]
fn a_rollback_gives_back_the_declared_objects_and_leaves_credentials_alone() {
    let mut catalog = catalog();
    run(&mut catalog, &Command::CreateKey(key("acme", "gone", 1))).expect("a key");
    let old = catalog.clone();
    let name = "gone".into();
    run(&mut catalog, &Command::RevokeKey { tenant: None, name }).expect("revoked");
    run(&mut catalog, &Command::CreateKey(key("acme", "new", 2))).expect("a key");
    run(&mut catalog, &put(vec![service("later"), tenant("later")])).expect("more");
    run(&mut catalog, &delete(Kind::Route, Some("acme"), "orders")).expect("less");
    let command = back_to(&catalog, &old);
    run(&mut catalog, &command).expect("rolled back");
    for kind in Kind::ALL {
        let values = |c: &Catalog| {
            c.objects(kind)
                .into_iter()
                .map(|(_, o)| o)
                .collect::<Vec<_>>()
        };
        assert_eq!(values(&catalog), values(&old), "{kind}");
    }
    assert!(catalog.key("acme", "gone").is_none());
    assert!(catalog.key("acme", "new").is_some());
    let again = back_to(&catalog, &old);
    assert!(run(&mut catalog, &again).expect("there").events.is_empty());
}

#[test]
fn a_rollback_keeps_the_secrets_of_now_and_asks_for_those_that_are_gone() {
    let mut catalog = catalog();
    let first = openai("vendor", vec![secret(1, b"first")]);
    run(&mut catalog, &put(vec![first])).expect("a provider");
    let old = catalog.clone();
    let mut now = openai("vendor", vec![secret(2, b"second")]);
    if let Object::Provider(Provider { base_url, .. }) = &mut now {
        *base_url = "https://api.openai.com/v2".into();
    }
    run(&mut catalog, &put(vec![now.clone()])).expect("changed");
    let command = back_to(&catalog, &old);
    run(&mut catalog, &command).expect("rolled back");
    let vendor = &catalog.provider("vendor").expect("there").value;
    assert_eq!(&*vendor.base_url, "https://api.openai.com/v1");
    assert_eq!(vendor.keys, [secret(2, b"second")]);

    // The keys of now are not sent to where others were sent then.
    if let Object::Provider(Provider { base_url, .. }) = &mut now {
        *base_url = "https://other.example/v1".into();
    }
    run(&mut catalog, &put(vec![now])).expect("moved");
    let refused = catalog.way_back(&old).expect_err("it is somewhere else");
    assert_eq!(refused.violations[0].path, "providers[vendor].base_url");

    run(&mut catalog, &delete(Kind::Provider, None, "vendor")).expect("deleted");
    let refused = catalog
        .way_back(&old)
        .expect_err("its keys do not come back");
    assert_eq!(refused.violations[0].path, "providers[vendor].keys");
    // A provider without keys has nothing that would have to come back.
    run(&mut catalog, &put(vec![embedded("vendor")])).expect("embedded");
    let keyless = catalog.clone();
    run(&mut catalog, &delete(Kind::Provider, None, "vendor")).expect("deleted");
    let command = back_to(&catalog, &keyless);
    run(&mut catalog, &command).expect("rolled back");
    assert!(catalog.provider("vendor").is_some());
}

#[test]
fn a_rollback_is_refused_while_a_key_needs_what_would_vanish_or_the_configuration_moved_on() {
    let mut catalog = catalog();
    let old = catalog.clone();
    let more = vec![tenant("later"), consumer("later", "app")];
    run(&mut catalog, &put(more)).expect("more");
    run(&mut catalog, &Command::CreateKey(key("later", "k", 1))).expect("a key");
    let command = back_to(&catalog, &old);
    let (code, paths) = refusal(&catalog, &command);
    assert_eq!(code, RejectedCode::InUse);
    assert_eq!(paths, ["consumers[later/app]", "tenants[later]"]);

    run(&mut catalog, &put(vec![service("meanwhile")])).expect("meanwhile");
    assert_eq!(refusal(&catalog, &command).0, RejectedCode::Conflict);
}

/// The declared objects, without the secrets that never move back.
fn declared(catalog: &Catalog) -> Vec<Object> {
    let objects = Kind::ALL.into_iter().flat_map(|kind| catalog.objects(kind));
    let bare = objects.map(|(_, object)| match object {
        Object::Provider(provider) => Object::Provider(Provider {
            keys: Vec::new(),
            ..provider
        }),
        other => other,
    });
    bare.collect()
}

proptest! {
    #[test]
    fn a_way_back_leads_to_what_was_declared_or_is_refused_as_a_whole(
        before in vec(arb::command(), 0..12),
        after in vec(arb::command(), 1..24),
    ) {
        let mut catalog = catalog();
        for command in &before {
            let _ = run(&mut catalog, command);
        }
        let old = catalog.clone();
        for command in &after {
            let _ = run(&mut catalog, command);
        }
        let Ok(back) = catalog.way_back(&old) else { return Ok(()) };
        let command = Command::Rollback {
            revision: old.revision(),
            base_revision: catalog.revision(),
            back,
            dry_run: false,
        };
        let credentials = |c: &Catalog| (c.keys().cloned().collect::<Vec<_>>(), c.tokens().cloned().collect::<Vec<_>>());
        let (now, mut kept) = (declared(&catalog), credentials(&catalog));
        let done = run(&mut catalog, &command);
        // The tokens of a tenant go with it, however it goes.
        kept.1.retain(|t| t.value.tenant.as_deref().is_none_or(|t| catalog.tenant(t).is_some()));
        prop_assert_eq!(credentials(&catalog), kept);
        let expected = if done.is_ok() { declared(&old) } else { now };
        prop_assert_eq!(declared(&catalog), expected);
    }

    #[test]
    fn a_replay_of_events_tells_what_each_did(events in vec(arb::event(), 1..40)) {
        let mut catalog = catalog();
        for event in &events {
            let change = catalog.change_of(event);
            let count = |c: &Catalog| c.records().count();
            let before = count(&catalog);
            catalog.evolve(event);
            // A void event is told as what it claimed; nothing is told of the wrong sort.
            match change.what {
                ChangeKind::Created => prop_assert!(count(&catalog) >= before),
                ChangeKind::Updated => prop_assert_eq!(count(&catalog), before),
                ChangeKind::Deleted => prop_assert!(count(&catalog) <= before),
                ChangeKind::Unchanged => prop_assert!(false, "an event is a change"),
            }
        }
    }
}
