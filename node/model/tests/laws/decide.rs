//! What each command does and what it refuses.

use mode_envoy_model::catalog::Catalog;
use mode_envoy_model::command::{ChangeKind, Command, RejectedCode};
use mode_envoy_model::limit::Dimension;
use mode_envoy_model::limits;
use mode_envoy_model::model::Model;
use mode_envoy_model::object::{Kind, Object};
use mode_envoy_model::provider::SealedSecret;
use mode_envoy_model::route::Route;

use crate::limits::limit;
use crate::samples::*;

#[test]
fn references_may_point_within_the_list_in_any_order() {
    let mut catalog = catalog();
    assert_eq!(catalog.revision(), 2);
    assert_eq!(catalog.route("acme", "orders").map(|r| r.revision), Some(2));
    let fields = [(Dimension::Tenant, "new"), (Dimension::Consumer, "app")];
    let limit = Object::Limit(limit("l", &fields));
    run(
        &mut catalog,
        &put(vec![limit, consumer("new", "app"), tenant("new")]),
    )
    .unwrap();
    for kind in Kind::ALL {
        assert!(!catalog.objects(kind).is_empty(), "{kind}");
    }
}

#[test]
fn the_report_is_in_the_order_of_kinds() {
    let decision = Catalog::empty()
        .decide(&put(base()), NOW)
        .expect("accepted");
    let kinds: Vec<_> = decision.changes.iter().map(|change| change.kind).collect();
    let expected = [
        "tenant", "tenant", "consumer", "consumer", "provider", "model", "service", "route",
    ];
    assert_eq!(kinds, expected);
}

#[test]
fn an_equal_object_is_unchanged_and_writes_nothing() {
    let mut catalog = catalog();
    assert_eq!(what(&mut catalog, &put(base())), [ChangeKind::Unchanged; 8]);
    assert_eq!(catalog.revision(), 2);
    let list = vec![tenant("acme"), tenant("new")];
    assert_eq!(
        what(&mut catalog, &put(list)),
        [ChangeKind::Unchanged, ChangeKind::Created]
    );
    assert_eq!(catalog.tenant("acme").map(|t| t.revision), Some(2));
    assert_eq!(catalog.tenant("new").map(|t| t.revision), Some(3));
}

#[test]
fn a_dry_run_reports_and_changes_nothing() {
    let mut catalog = catalog();
    let command = Command::Put {
        objects: vec![tenant("new")],
        dry_run: true,
    };
    assert_eq!(what(&mut catalog, &command), [ChangeKind::Created]);
    assert!(catalog.tenant("new").is_none());
}

#[test]
fn a_put_is_all_or_none_and_lists_every_fault() {
    let catalog = catalog();
    let mut bad = model("bad", "nobody");
    bad.access = Some(vec![access("ghost", None), access("acme", Some("ghost"))]);
    let list = vec![
        tenant("fine"),
        consumer("ghost", "app"),
        Object::Model(bad),
        Object::Route(Route {
            service: "ghost".into(),
            ..route("acme", "r", "/r")
        }),
    ];
    let expected = [
        "consumers[ghost/app].tenant",
        "models[bad].targets[0].provider",
        "models[bad].access[0]",
        "models[bad].access[1]",
        "routes[acme/r].service",
    ];
    assert_eq!(
        refusal(&catalog, &put(list)),
        (RejectedCode::NotFound, expected.map(String::from).to_vec())
    );
}

#[test]
fn the_gravest_fault_gives_the_code() {
    let list = vec![tenant("Bad"), consumer("ghost", "app")];
    let (code, paths) = refusal(&catalog(), &put(list));
    assert_eq!(code, RejectedCode::Invalid);
    assert_eq!(paths, ["tenants[Bad].name", "consumers[ghost/app].tenant"]);
}

#[test]
fn an_object_that_is_listed_twice_is_refused() {
    let (code, paths) = refusal(&catalog(), &put(vec![tenant("x"), tenant("x")]));
    assert_eq!(
        (code, paths),
        (RejectedCode::Invalid, vec!["tenants[x]".to_owned()])
    );
}

#[test]
fn a_refusal_lists_a_hundred_faults_and_counts_the_rest() {
    let list = (0..150).map(|n| tenant(&format!("BAD{n}"))).collect();
    let rejected = catalog().decide(&put(list), NOW).expect_err("refused");
    assert_eq!(rejected.violations.len(), limits::VIOLATIONS + 1);
    assert!(
        rejected.violations[limits::VIOLATIONS]
            .problem
            .contains("50 more")
    );
}

#[test]
fn limits_hold_on_requests_and_on_the_cluster() {
    let many = (0..=limits::PUT_OBJECTS)
        .map(|n| tenant(&format!("t{n}")))
        .collect();
    assert_eq!(refusal(&catalog(), &put(many)).0, RejectedCode::Limit);
    let providers = (0..limits::PROVIDERS)
        .map(|n| embedded(&format!("p{n}")))
        .collect();
    let (code, paths) = refusal(&catalog(), &put(providers));
    assert_eq!(
        (code, paths),
        (RejectedCode::Limit, vec!["providers".to_owned()])
    );
}

#[test]
fn the_same_secret_keeps_the_stored_ciphertext() {
    let mut catalog = catalog();
    let first = put(vec![openai(
        "o",
        vec![secret(1, b"one"), secret(2, b"two")],
    )]);
    assert_eq!(what(&mut catalog, &first), [ChangeKind::Created]);
    let again = put(vec![openai(
        "o",
        vec![secret(1, b"other"), secret(2, b"bytes")],
    )]);
    assert_eq!(what(&mut catalog, &again), [ChangeKind::Unchanged]);

    let changed = put(vec![openai(
        "o",
        vec![secret(3, b"new"), secret(1, b"other")],
    )]);
    assert_eq!(what(&mut catalog, &changed), [ChangeKind::Updated]);
    let keys = &catalog.provider("o").expect("it is there").value.keys;
    assert_eq!(*keys, [secret(3, b"new"), secret(1, b"one")]);
}

#[test]
fn a_secret_may_be_referred_to_where_the_provider_has_it() {
    let mut catalog = catalog();
    run(
        &mut catalog,
        &put(vec![openai("o", vec![secret(1, b"one")])]),
    )
    .expect("accepted");
    let stored = |n| SealedSecret {
        wrapped_data_key: [].into(),
        ..secret(n, b"")
    };
    let same = put(vec![openai("o", vec![stored(1)])]);
    assert_eq!(what(&mut catalog, &same), [ChangeKind::Unchanged]);
    let (code, paths) = refusal(&catalog, &put(vec![openai("o", vec![stored(2)])]));
    assert_eq!(
        (code, paths),
        (
            RejectedCode::Invalid,
            vec!["providers[o].keys[0]".to_owned()]
        )
    );
    assert_eq!(
        refusal(&catalog, &put(vec![openai("p", vec![stored(1)])])).0,
        RejectedCode::Invalid
    );
}

#[test]
fn routes_that_match_the_same_are_refused() {
    let catalog = catalog();
    let post = |name: &str, methods: &[&str]| {
        let methods = methods.iter().map(|&m| m.into()).collect();
        Object::Route(Route {
            methods,
            ..route("acme", name, "/new")
        })
    };
    let (code, paths) = refusal(
        &catalog,
        &put(vec![Object::Route(route("beta", "o", "/orders"))]),
    );
    assert_eq!(
        (code, paths),
        (
            RejectedCode::Invalid,
            vec!["routes[beta/o].paths[0]".to_owned()]
        )
    );
    let both = put(vec![post("a", &["GET", "POST"]), post("b", &["POST"])]);
    assert_eq!(refusal(&catalog, &both).1, ["routes[acme/b].paths[0]"]);
    let apart = put(vec![post("a", &["GET"]), post("b", &["POST"])]);
    assert!(catalog.decide(&apart, NOW).is_ok());
}

#[test]
fn a_path_may_move_from_one_route_to_another_in_one_request() {
    let mut catalog = catalog();
    let list = vec![
        Object::Route(route("acme", "orders", "/orders2")),
        Object::Route(route("acme", "a-new-one", "/orders")),
    ];
    assert_eq!(
        what(&mut catalog, &put(list)),
        [ChangeKind::Updated, ChangeKind::Created]
    );
}

#[test]
fn a_host_of_another_tenant_is_refused() {
    let mut catalog = catalog();
    let on = |tenant: &str, name: &str, path: &str| {
        let hosts = vec!["free.test".into(), "api.test".into()];
        Object::Route(Route {
            hosts,
            ..route(tenant, name, path)
        })
    };
    run(&mut catalog, &put(vec![on("acme", "a", "/a")])).expect("accepted");
    assert!(
        catalog
            .decide(&put(vec![on("acme", "b", "/b")]), NOW)
            .is_ok()
    );
    let rejected = catalog
        .decide(&put(vec![on("beta", "b", "/b")]), NOW)
        .expect_err("refused");
    let paths: Vec<_> = rejected
        .violations
        .iter()
        .map(|v| v.path.as_str())
        .collect();
    assert_eq!(
        paths,
        ["routes[beta/b].hosts[0]", "routes[beta/b].hosts[1]"]
    );
    assert!(
        rejected.violations[0]
            .problem
            .contains("shadows route acme/a")
    );
}

#[test]
fn what_is_referred_to_is_not_deleted() {
    let mut catalog = catalog();
    run(&mut catalog, &Command::CreateKey(key("acme", "k", 1))).expect("accepted");
    let in_use = [
        (
            Kind::Tenant,
            None,
            "acme",
            "consumer acme/app, route acme/orders, key acme/k and 1 more",
        ),
        (
            Kind::Tenant,
            None,
            "beta",
            "consumer beta/app and the access list of model fast",
        ),
        (
            Kind::Consumer,
            Some("acme"),
            "app",
            "key acme/k and the access list of model fast",
        ),
        (Kind::Provider, None, "local", "model fast still refers"),
        (
            Kind::Service,
            None,
            "orders",
            "route acme/orders still refers",
        ),
    ];
    for (kind, tenant, name, by) in in_use {
        let rejected = catalog
            .decide(&delete(kind, tenant, name), NOW)
            .expect_err("refused");
        assert_eq!(rejected.code, RejectedCode::InUse, "{kind} {name}");
        assert!(rejected.violations[0].problem.contains(by), "{rejected}");
    }
}

#[test]
fn everything_can_be_deleted_from_the_end() {
    let mut catalog = catalog();
    let order = [
        (Kind::Route, Some("acme"), "orders"),
        (Kind::Service, None, "orders"),
        (Kind::Model, None, "fast"),
        (Kind::Provider, None, "local"),
        (Kind::Consumer, Some("acme"), "app"),
        (Kind::Consumer, Some("beta"), "app"),
        (Kind::Tenant, None, "acme"),
        (Kind::Tenant, None, "beta"),
    ];
    for (kind, tenant, name) in order {
        assert_eq!(
            what(&mut catalog, &delete(kind, tenant, name)),
            [ChangeKind::Deleted]
        );
        let again = refusal(&catalog, &delete(kind, tenant, name));
        assert_eq!(again.0, RejectedCode::NotFound);
    }
    assert!(
        Kind::ALL
            .into_iter()
            .all(|kind| catalog.objects(kind).is_empty())
    );
}

#[test]
fn a_model_that_changes_moves_its_price_version() {
    let mut catalog = catalog();
    let before = catalog.model("fast").map(|m| m.revision);
    run(
        &mut catalog,
        &put(vec![Object::Model(Model {
            access: None,
            ..model("fast", "local")
        })]),
    )
    .expect("accepted");
    assert_eq!(
        (before, catalog.model("fast").map(|m| m.revision)),
        (Some(2), Some(3))
    );
}

#[test]
fn a_deletion_names_the_tenant_of_kinds_that_have_one_and_of_no_other() {
    let catalog = catalog();
    for command in [
        delete(Kind::Route, None, "orders"),
        delete(Kind::Service, Some("acme"), "orders"),
    ] {
        let fault = (RejectedCode::Invalid, vec!["tenant".to_owned()]);
        assert_eq!(refusal(&catalog, &command), fault);
    }
}
