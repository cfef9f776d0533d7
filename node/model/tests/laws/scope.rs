//! Tenants: what belongs to one, what nobody else can take, and what is told of it to others.

use mode_envoy_model::catalog::Catalog;
use mode_envoy_model::command::{ChangeKind, Command, RejectedCode};
use mode_envoy_model::object::{Kind, Object};
use mode_envoy_model::route::Route;
use mode_envoy_model::service::Service;
use mode_envoy_model::tenant::Tenant;
use mode_envoy_model::token::{Role, Token};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::arb;
use crate::samples::{
    NOW, catalog, consumer, delete, key, put, refusal, route, run, service, tenant, token, what,
};

fn with_hosts(name: &str, hosts: &[&str]) -> Object {
    Object::Tenant(Tenant {
        name: name.into(),
        hosts: hosts.iter().map(|&host| host.into()).collect(),
    })
}

fn on(tenant: &str, name: &str, host: &str) -> Object {
    Object::Route(Route {
        hosts: vec![host.into()],
        ..route(tenant, name, "/x")
    })
}

fn shared_with(name: &str, tenant: &str) -> Object {
    let Object::Service(service) = service(name) else {
        panic!("a service")
    };
    Object::Service(Service {
        access: vec![tenant.into()],
        ..service
    })
}

fn of(tenant: &str, role: Role) -> Token {
    Token {
        tenant: Some(tenant.into()),
        ..token("ops", role, 9)
    }
}

#[test]
fn a_host_is_one_tenants_and_so_are_the_routes_on_it() {
    let mut catalog = catalog();
    run(&mut catalog, &put(vec![with_hosts("acme", &["a.test"])])).unwrap();
    for (object, path) in [
        (
            with_hosts("beta", &["b.test", "a.test"]),
            "tenants[beta].hosts[1]",
        ),
        (on("beta", "mine", "a.test"), "routes[beta/mine].hosts[0]"),
        (with_hosts("acme", &["A.test"]), "tenants[acme].hosts[0]"),
    ] {
        let refused = refusal(&catalog, &put(vec![object]));
        assert_eq!(refused, (RejectedCode::Invalid, vec![path.to_owned()]));
    }
    run(&mut catalog, &put(vec![on("acme", "mine", "a.test")])).unwrap();
    // A host with another tenant's routes is not to be had.
    run(&mut catalog, &put(vec![on("acme", "other", "c.test")])).unwrap();
    let refused = refusal(&catalog, &put(vec![with_hosts("beta", &["c.test"])]));
    assert_eq!(
        refused,
        (
            RejectedCode::Invalid,
            vec!["tenants[beta].hosts".to_owned()]
        )
    );
    // Handed over in one change.
    let handed = vec![
        with_hosts("beta", &["c.test"]),
        on("acme", "other", "a.test"),
    ];
    let refused = refusal(&catalog, &put(handed));
    assert_eq!(refused.0, RejectedCode::Invalid, "two routes on one path");
    run(&mut catalog, &delete(Kind::Route, Some("acme"), "other")).unwrap();
    run(&mut catalog, &put(vec![with_hosts("beta", &["c.test"])])).unwrap();
}

#[test]
fn a_service_is_shared_with_tenants_that_are_there() {
    let mut catalog = catalog();
    let shared = |with: &str| put(vec![shared_with("orders", with)]);
    let refused = refusal(&catalog, &shared("nobody"));
    assert_eq!(
        refused,
        (
            RejectedCode::NotFound,
            vec!["services[orders].access[0]".to_owned()]
        )
    );
    run(&mut catalog, &put(vec![tenant("gamma")])).unwrap();
    run(&mut catalog, &shared("gamma")).unwrap();
    let refused = refusal(&catalog, &delete(Kind::Tenant, None, "gamma"));
    assert_eq!(refused.0, RejectedCode::InUse);
}

#[test]
fn a_token_of_a_tenant_is_no_root_and_goes_with_its_tenant() {
    let mut catalog = catalog();
    run(&mut catalog, &put(vec![tenant("gamma")])).unwrap();
    let refused = refusal(&catalog, &Command::CreateToken(of("gamma", Role::Root)));
    assert_eq!(
        refused,
        (RejectedCode::Invalid, vec!["tokens[ops].role".to_owned()])
    );
    let refused = refusal(&catalog, &Command::CreateToken(of("nobody", Role::Admin)));
    assert_eq!(refused, (RejectedCode::NotFound, vec!["tenant".to_owned()]));
    run(
        &mut catalog,
        &Command::CreateToken(of("gamma", Role::Admin)),
    )
    .unwrap();
    let gone = what(&mut catalog, &delete(Kind::Tenant, None, "gamma"));
    assert_eq!(gone, [ChangeKind::Deleted, ChangeKind::Deleted]);
    assert!(catalog.token("ops").is_none());
    assert!(catalog.token("root").is_some());
}

#[test]
fn a_tenant_sees_itself_its_consumers_routes_and_keys() {
    let mut catalog = catalog();
    run(&mut catalog, &Command::CreateKey(key("acme", "k", 1))).unwrap();
    run(&mut catalog, &Command::CreateKey(key("beta", "k", 2))).unwrap();
    let seen = catalog.of_tenant("acme");
    assert_eq!(seen.revision(), catalog.revision());
    let mut found: Vec<_> = Kind::ALL
        .into_iter()
        .flat_map(|kind| seen.references(kind))
        .map(|at| at.to_string())
        .collect();
    found.extend(seen.keys().map(|k| format!("key {}", k.value.id)));
    assert_eq!(
        found,
        [
            "tenant acme",
            "consumer acme/app",
            "route acme/orders",
            "key id1"
        ]
    );
    assert!(seen.token("root").is_none());
    assert_eq!(catalog.of_tenant("nobody").records().count(), 0);
}

/// A catalog in which a tenant of that name has one of everything.
fn with_hidden() -> Catalog {
    let mut catalog = Catalog::empty();
    let mut hidden = key("hidden-1", "hidden-2", 5);
    hidden.consumer = "hidden-3".into();
    let objects = vec![
        tenant("a"),
        shared_with("orders", "a"),
        service("hidden-5"),
        with_hosts("hidden-1", &["a.test"]),
        consumer("hidden-1", "hidden-3"),
        on("hidden-1", "hidden-4", "b.test"),
        Object::Route(route("hidden-1", "hidden-6", "/x")),
    ];
    run(&mut catalog, &put(objects)).expect("it is sound");
    run(&mut catalog, &Command::CreateKey(hidden)).expect("it is sound");
    catalog
}

#[test]
fn a_refusal_that_rests_on_other_tenants_does_not_say_on_what() {
    let catalog = with_hidden();
    for object in [
        on("a", "mine", "a.test"),
        on("a", "mine", "b.test"),
        Object::Route(route("a", "mine", "/x")),
    ] {
        let command = put(vec![object]);
        let told = catalog.decide(&command, NOW).unwrap_err().to_string();
        assert!(told.contains("hidden"), "{told}");
        let refused = catalog.decide_within(Some("a"), &command, NOW).unwrap_err();
        assert_eq!(refused.violations[0].path, "tenant", "{refused}");
    }
    let unshared = put(vec![Object::Route(Route {
        service: "hidden-5".into(),
        ..route("a", "mine", "/free")
    })]);
    assert!(catalog.decide(&unshared, NOW).is_ok());
    let refused = catalog
        .decide_within(Some("a"), &unshared, NOW)
        .unwrap_err();
    assert_eq!(refused.code, RejectedCode::NotFound, "{refused}");
}

fn of_operator(object: &Object) -> bool {
    matches!(object, Object::Limit(limit) if limit.tenant.is_none())
}

proptest! {
    #[test]
    fn a_tenant_is_never_told_of_another_one(commands in vec(arb::command(), 1..30)) {
        let mut catalog = with_hidden();
        for command in &commands {
            if let Err(refused) = catalog.decide_within(Some("a"), command, NOW) {
                prop_assert!(!refused.to_string().contains("hidden"), "{}", refused);
            }
            let _ = run(&mut catalog, command);
        }
    }

    #[test]
    fn what_may_be_decided_for_a_tenant_may_be_decided_at_all(commands in vec(arb::command(), 1..30)) {
        let mut catalog = with_hidden();
        for command in &commands {
            let within = catalog.decide_within(Some("a"), command, NOW);
            let whole = catalog.decide(command, NOW);
            // A tenant's prune leaves the operator's limits out, whatever the document names of them.
            let leaves_out = matches!(command, Command::Prune { objects, .. } if objects.iter().any(of_operator));
            if within.is_ok() && !leaves_out {
                prop_assert_eq!(&within, &whole);
            }
            let _ = run(&mut catalog, command);
        }
    }
}
