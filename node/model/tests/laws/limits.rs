//! Limits: what they may name, which numbers they have, and what a tenant sees and does with them.

use mode_envoy_model::catalog::Catalog;
use mode_envoy_model::command::{ChangeKind, Command, RejectedCode};
use mode_envoy_model::consumer::Consumer;
use mode_envoy_model::event::Event;
use mode_envoy_model::limit::{Dimension, Limit, Match, Mode, Per, Unit, Window};
use mode_envoy_model::object::{Kind, Object};
use mode_envoy_model::state::State;

use crate::samples::{NOW, catalog, delete, key, put, refusal, run, tenant, what};

pub(crate) fn limit(name: &str, fields: &[(Dimension, &str)]) -> Limit {
    let mut matches = Match::default();
    for (dimension, value) in fields {
        *matches.value_mut(*dimension) = Some((*value).into());
    }
    Limit {
        name: name.into(),
        tenant: None,
        matches,
        each: None,
        unit: Unit::Requests,
        amount: 10,
        per: Per::Minute,
        window: Window::Calendar,
        mode: Mode::Bounded,
        shadow: false,
    }
}

pub(crate) fn owned(tenant: &str, limit: Limit) -> Limit {
    Limit {
        tenant: Some(tenant.into()),
        ..limit
    }
}

pub(crate) fn with_team(name: &str, team: &str) -> Object {
    Object::Consumer(Consumer {
        tenant: "acme".into(),
        name: name.into(),
        team: Some(team.into()),
    })
}

pub(crate) fn put_limits(limits: impl IntoIterator<Item = Limit>) -> Command {
    put(limits.into_iter().map(Object::Limit).collect())
}

/// The sample catalog, with a key and a team for limits to name.
pub(crate) fn peopled() -> Catalog {
    let mut catalog = catalog();
    run(&mut catalog, &put(vec![with_team("till", "retail")])).unwrap();
    run(&mut catalog, &Command::CreateKey(key("acme", "k", 1))).unwrap();
    catalog
}

fn id_of(catalog: &Catalog, name: &str) -> u64 {
    catalog.limit(None, name).expect("the limit").0
}

#[test]
fn what_a_limit_names_is_there() {
    use Dimension::{Consumer, Key, Model, Route, Team, Tenant};
    let mut catalog = peopled();
    let acme = (Tenant, "acme");
    for (there, absent, field) in [
        (vec![acme], vec![(Tenant, "nobody")], "match.tenant"),
        (
            vec![acme, (Consumer, "app")],
            vec![acme, (Consumer, "x")],
            "match.consumer",
        ),
        (vec![acme, (Key, "k")], vec![acme, (Key, "x")], "match.key"),
        (
            vec![acme, (Route, "orders")],
            vec![acme, (Route, "x")],
            "match.route",
        ),
        (
            vec![(Route, "openai.embeddings")],
            vec![acme, (Route, "openai.x")],
            "match.route",
        ),
        (vec![(Model, "fast")], vec![(Model, "x")], "match.model"),
        (vec![(Team, "retail")], vec![(Team, "x")], "match.team"),
        (
            vec![acme, (Team, "retail")],
            vec![(Tenant, "beta"), (Team, "retail")],
            "match.team",
        ),
    ] {
        run(&mut catalog, &put_limits([limit("l", &there)])).unwrap();
        let refused = refusal(&catalog, &put_limits([limit("m", &absent)]));
        let path = format!("limits[m].{field}");
        assert_eq!(refused, (RejectedCode::NotFound, vec![path]), "{absent:?}");
    }
    let theirs = put_limits([owned("nobody", limit("l", &[]))]);
    let path = "limits[nobody/l].tenant".to_owned();
    assert_eq!(
        refusal(&catalog, &theirs),
        (RejectedCode::NotFound, vec![path])
    );
}

#[test]
fn what_a_limit_names_is_not_deleted() {
    use Dimension::{Consumer, Model, Route, Tenant};
    let acme = (Tenant, "acme");
    for (fields, kind, tenant, name) in [
        (
            vec![acme, (Consumer, "till")],
            Kind::Consumer,
            Some("acme"),
            "till",
        ),
        (
            vec![acme, (Route, "orders")],
            Kind::Route,
            Some("acme"),
            "orders",
        ),
        (vec![(Model, "fast")], Kind::Model, None, "fast"),
        (vec![(Tenant, "gamma")], Kind::Tenant, None, "gamma"),
    ] {
        let mut catalog = peopled();
        run(&mut catalog, &put(vec![crate::samples::tenant("gamma")])).unwrap();
        run(&mut catalog, &put_limits([limit("guard", &fields)])).unwrap();
        let refused = catalog
            .decide(&delete(kind, tenant, name), NOW)
            .unwrap_err();
        assert_eq!(refused.code, RejectedCode::InUse);
        let text = refused.to_string();
        assert!(text.contains("limit guard still refers to it"), "{text}");
        run(&mut catalog, &delete(Kind::Limit, None, "guard")).unwrap();
        run(&mut catalog, &delete(kind, tenant, name)).unwrap();
    }
    let mut catalog = peopled();
    let all = vec![
        tenant("gamma"),
        Object::Limit(owned("gamma", limit("own", &[]))),
    ];
    run(&mut catalog, &put(all)).unwrap();
    let refused = catalog
        .decide(&delete(Kind::Tenant, None, "gamma"), NOW)
        .unwrap_err();
    assert!(
        refused.to_string().contains("limit gamma/own still"),
        "{refused}"
    );
}

#[test]
fn a_key_is_revoked_whatever_limits_name_it() {
    let mut catalog = peopled();
    let fields = [(Dimension::Tenant, "acme"), (Dimension::Key, "k")];
    let named = put_limits([limit("l", &fields)]);
    run(&mut catalog, &named).unwrap();
    let revoke = Command::RevokeKey {
        tenant: Some("acme".into()),
        name: "k".into(),
    };
    assert_eq!(what(&mut catalog, &revoke), [ChangeKind::Deleted]);
    // The limit stays as it is, for a key that gets the name again.
    assert_eq!(what(&mut catalog, &named), [ChangeKind::Unchanged]);
    assert_eq!(
        refusal(&catalog, &put_limits([limit("m", &fields)])).0,
        RejectedCode::NotFound
    );
}

#[test]
fn a_number_stays_while_what_was_used_counts_and_is_never_given_twice() {
    let mut catalog = peopled();
    let first = limit("a", &[]);
    run(&mut catalog, &put_limits([first.clone(), limit("b", &[])])).unwrap();
    assert_eq!((id_of(&catalog, "a"), id_of(&catalog, "b")), (1, 2));
    let more = Limit {
        amount: 20,
        mode: Mode::Strict,
        shadow: true,
        ..first.clone()
    };
    run(&mut catalog, &put_limits([more])).unwrap();
    assert_eq!(id_of(&catalog, "a"), 1);
    let hourly = Limit {
        per: Per::Hour,
        ..first.clone()
    };
    run(&mut catalog, &put_limits([hourly])).unwrap();
    assert_eq!(id_of(&catalog, "a"), 3);
    assert!(catalog.limit_by_id(1).is_none());
    run(&mut catalog, &delete(Kind::Limit, None, "a")).unwrap();
    // Also not after a checkpoint, which has only those that are there.
    let restored = Catalog::restore(
        catalog.founded().cloned(),
        catalog.format_version(),
        catalog.revision(),
        catalog.records(),
    );
    let mut restored = restored.with_last_limit_id(catalog.last_limit_id());
    assert_eq!(restored, catalog);
    run(
        &mut restored,
        &put_limits([first, owned("acme", limit("a", &[]))]),
    )
    .unwrap();
    assert_eq!(id_of(&restored, "a"), 4);
    let (own, _) = restored.limit(Some("acme"), "a").unwrap();
    assert_eq!(own, 5, "another limit than the operator's of that name");
}

#[test]
fn the_last_number_outlives_its_limit_in_the_parts_of_a_state() {
    let mut state = State::new();
    let catalog = std::sync::Arc::make_mut(&mut state.catalog);
    let put = Event::LimitPut {
        id: 7,
        limit: limit("a", &[]),
    };
    catalog.evolve(&put);
    let (tenant, name) = (None, "a".into());
    catalog.evolve(&Event::LimitDeleted { tenant, name });
    let restored = State::from_parts(state.parts()).unwrap();
    assert_eq!(restored.catalog.last_limit_id(), 7);
    assert_eq!(restored, state);
}

#[test]
fn an_event_that_takes_another_limits_number_is_void() {
    let mut catalog = peopled();
    let put = |name| Event::LimitPut {
        id: 1,
        limit: limit(name, &[]),
    };
    catalog.evolve(&put("a"));
    catalog.evolve(&put("b"));
    assert_eq!(id_of(&catalog, "a"), 1);
    assert!(catalog.limit(None, "b").is_none());
}

#[test]
fn a_prune_takes_the_operators_limits_only_where_the_document_has_one() {
    let mut catalog = peopled();
    let all = [
        limit("a", &[]),
        limit("b", &[]),
        owned("acme", limit("c", &[])),
        owned("acme", limit("d", &[])),
    ];
    run(&mut catalog, &put_limits(all.clone())).unwrap();
    let beside = |kept: &Limit| {
        let found = catalog.prunable(&[Object::Limit(kept.clone())]);
        found
            .beside
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
    };
    assert_eq!(beside(&all[0]), ["limit b"]);
    assert_eq!(beside(&all[2]), ["limit acme/d"]);
}

#[test]
fn a_token_of_a_tenant_sees_the_limits_on_it_and_prunes_its_own() {
    use Dimension::{Model, Team, Tenant};
    let mut catalog = peopled();
    let mut team = limit("beta-team", &[(Team, "x")]);
    team.each = None;
    let beta = Object::Consumer(Consumer {
        tenant: "beta".into(),
        name: "app".into(),
        team: Some("x".into()),
    });
    run(&mut catalog, &put(vec![beta])).unwrap();
    let mut closed = crate::samples::model("closed", "local");
    closed.access = Some(vec![crate::samples::access("beta", None)]);
    run(&mut catalog, &put(vec![Object::Model(closed)])).unwrap();
    let all = [
        limit("all", &[]),
        limit("on-acme", &[(Tenant, "acme")]),
        limit("on-beta", &[(Tenant, "beta")]),
        limit("on-closed", &[(Model, "closed")]),
        limit("on-fast", &[(Model, "fast")]),
        limit("on-team", &[(Team, "retail")]),
        team,
        owned("acme", limit("own", &[])),
        owned("acme", limit("more", &[])),
        owned("beta", limit("theirs", &[])),
    ];
    run(&mut catalog, &put_limits(all)).unwrap();
    let seen = catalog.of_tenant("acme");
    let seen: Vec<_> = seen
        .references(Kind::Limit)
        .iter()
        .map(ToString::to_string)
        .collect();
    let expected = [
        "limit all",
        "limit on-acme",
        "limit on-fast",
        "limit on-team",
        "limit acme/more",
        "limit acme/own",
    ];
    assert_eq!(seen, expected);

    // An export of theirs, but for one of their own: nothing else goes.
    let mut objects: Vec<_> = catalog
        .of_tenant("acme")
        .objects(Kind::Limit)
        .into_iter()
        .map(|(_, o)| o)
        .collect();
    objects.retain(|o| &*o.reference().name != "more");
    let prune = Command::Prune {
        objects,
        confirmed: true,
        dry_run: false,
    };
    let decision = catalog.decide_within(Some("acme"), &prune, NOW).unwrap();
    let (tenant, name) = (Some("acme".into()), "more".into());
    assert_eq!(decision.events, [Event::LimitDeleted { tenant, name }]);

    // A model that is not open to them is not there.
    for (model, there) in [("fast", true), ("closed", false), ("absent", false)] {
        let own = put_limits([owned("acme", limit("m", &[(Model, model)]))]);
        let said = catalog.decide_within(Some("acme"), &own, NOW);
        assert_eq!(said.is_ok(), there, "{model}: {said:?}");
    }
}
