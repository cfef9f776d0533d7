//! Which limits a request matches, and that it never matches more than it may.

use mode_envoy_model::catalog::Catalog;
use mode_envoy_model::command::{Command, RejectedCode};
use mode_envoy_model::event::Event;
use mode_envoy_model::limit::matching::{Matcher, Subject};
use mode_envoy_model::limit::{Dimension, Limit};
use mode_envoy_model::limits::{MATCHED_LIMITS, MATCHED_OWN_LIMITS};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use crate::arb;
use crate::limits::{limit, owned, peopled, put_limits, with_team};
use crate::samples::{NOW, consumer, key, put, refusal, run, tenant};

#[test]
fn no_request_matches_more_limits_than_it_may() {
    use Dimension::{Consumer, Key, Tenant};
    let acme = (Tenant, "acme");
    let numbered = |from: usize, to: usize, fields: &[(Dimension, &str)]| {
        let name = |n| limit(&format!("l{n:02}"), fields);
        (from..to).map(name).collect::<Vec<_>>()
    };
    let mut catalog = peopled();
    let half = MATCHED_LIMITS / 2;
    run(&mut catalog, &put_limits(numbered(0, half, &[acme]))).unwrap();
    run(
        &mut catalog,
        &put_limits(numbered(half, MATCHED_LIMITS, &[acme, (Consumer, "app")])),
    )
    .unwrap();
    // Another consumer's are not in the way of anybody's.
    run(
        &mut catalog,
        &put_limits(numbered(20, 28, &[acme, (Consumer, "till")])),
    )
    .unwrap();
    for fields in [
        vec![],
        vec![acme],
        vec![acme, (Consumer, "app")],
        vec![acme, (Key, "k")],
    ] {
        let one_more = put_limits([limit("z", &fields)]);
        let (code, paths) = refusal(&catalog, &one_more);
        assert_eq!(code, RejectedCode::Limit, "{fields:?}");
        assert_eq!(paths, ["limits[z]"], "{fields:?}");
    }
    let refused = catalog.decide(&put_limits([limit("z", &[acme, (Key, "k")])]), NOW);
    let text = refused.unwrap_err().to_string();
    assert!(
        text.contains("a request with key acme/k could match 17 limits"),
        "{text}"
    );
    let beta = put_limits([limit("z", &[(Tenant, "beta")])]);
    run(&mut catalog, &beta).unwrap();
}

#[test]
fn limits_of_different_places_exclude_each_other() {
    use Dimension::{Model, Route, Tenant};
    let mut catalog = peopled();
    let mut all = Vec::new();
    for n in 0..MATCHED_LIMITS / 2 {
        all.push(limit(
            &format!("r{n}"),
            &[(Tenant, "acme"), (Route, "orders")],
        ));
        all.push(limit(
            &format!("e{n}"),
            &[(Tenant, "acme"), (Route, "openai.embeddings")],
        ));
        all.push(limit(
            &format!("m{n}"),
            &[(Tenant, "acme"), (Model, "fast")],
        ));
    }
    run(&mut catalog, &put_limits(all)).unwrap();
    let one_more = |fields: &[(Dimension, &str)]| {
        let command = put_limits([limit("z", fields)]);
        catalog
            .decide(&command, NOW)
            .map(drop)
            .map_err(|refused| refused.code)
    };
    assert_eq!(one_more(&[(Tenant, "acme"), (Route, "orders")]), Ok(()));
    assert_eq!(one_more(&[(Model, "fast")]), Err(RejectedCode::Limit));
}

#[test]
fn a_tenants_own_limits_leave_room_for_the_operators() {
    let mut catalog = peopled();
    let own = |n| owned("acme", limit(&format!("l{n}"), &[]));
    run(&mut catalog, &put_limits((0..MATCHED_OWN_LIMITS).map(own))).unwrap();
    let refused = refusal(&catalog, &put_limits([own(99)]));
    assert_eq!(
        refused,
        (RejectedCode::Limit, vec!["limits[acme/l99]".to_owned()])
    );
    let fields = [(Dimension::Tenant, "acme")];
    let operators = (0..8).map(|n| limit(&format!("o{n}"), &fields));
    run(&mut catalog, &put_limits(operators)).unwrap();
}

#[test]
fn a_consumer_does_not_get_into_a_team_with_too_many_limits() {
    let mut catalog = peopled();
    let team = |n| limit(&format!("t{n}"), &[(Dimension::Team, "retail")]);
    run(&mut catalog, &put_limits((0..10).map(team))).unwrap();
    let fields = [(Dimension::Tenant, "acme"), (Dimension::Consumer, "app")];
    let app = |n| limit(&format!("c{n}"), &fields);
    run(&mut catalog, &put_limits((0..7).map(app))).unwrap();
    let refused = refusal(&catalog, &put(vec![with_team("app", "retail")]));
    assert_eq!(
        refused,
        (
            RejectedCode::Limit,
            vec!["consumers[acme/app].team".to_owned()]
        )
    );
    run(&mut catalog, &put(vec![with_team("app", "other")])).unwrap();
}

#[test]
fn a_key_that_gets_an_old_name_does_not_get_too_many_limits_with_it() {
    let mut catalog = peopled();
    let named = [(Dimension::Tenant, "acme"), (Dimension::Key, "k")];
    let by_key = |n| limit(&format!("k{n}"), &named);
    run(&mut catalog, &put_limits((0..10).map(by_key))).unwrap();
    let revoke = Command::RevokeKey {
        tenant: Some("acme".into()),
        name: "k".into(),
    };
    run(&mut catalog, &revoke).unwrap();
    let till = [(Dimension::Tenant, "acme"), (Dimension::Consumer, "till")];
    let by_consumer = |n| limit(&format!("c{n}"), &till);
    run(&mut catalog, &put_limits((0..7).map(by_consumer))).unwrap();
    let mut again = key("acme", "k", 2);
    again.consumer = "till".into();
    let refused = refusal(&catalog, &Command::CreateKey(again.clone()));
    assert_eq!(refused, (RejectedCode::Limit, vec!["name".to_owned()]));
    again.consumer = "app".into();
    run(&mut catalog, &Command::CreateKey(again)).unwrap();
}

fn named() -> impl Strategy<Value = &'static str> {
    select(vec!["", "a", "b", "openai.embeddings"])
}

fn subject() -> impl Strategy<Value = Subject<'static>> {
    let who = (named(), named(), named(), named());
    (who, named(), named(), named()).prop_map(
        |((tenant, team, consumer, key), route, api, model)| Subject {
            tenant,
            team,
            consumer,
            key,
            route,
            api,
            model,
        },
    )
}

proptest! {
    #![proptest_config(arb::cases(256))]

    #[test]
    fn matching_finds_what_each_limit_says_of_itself(
        limits in vec(arb::limit(), 0..40),
        subjects in vec(subject(), 1..20),
    ) {
        let mut catalog = Catalog::empty();
        for (n, limit) in (0_u64..).zip(limits) {
            // Numbers in another order than places; names that nothing else has.
            let (id, name) = (1 + (n * 17) % 41, format!("l{n}").into());
            catalog.evolve(&Event::LimitPut { id, limit: Limit { name, ..limit } });
        }
        let matcher = Matcher::of(&catalog);
        prop_assert_eq!(matcher.is_empty(), catalog.limits().next().is_none());
        for subject in &subjects {
            let found: Vec<_> = matcher.matching(subject).into_iter()
                .map(|matched| (matched.id, (**matched.limit).clone(), matched.value))
                .collect();
            let mut naive: Vec<_> = catalog.limits()
                .filter_map(|(id, limit)| Some((id, (**limit).clone(), limit.value_in(subject)?)))
                .collect();
            naive.sort_by_key(|(id, ..)| *id);
            prop_assert_eq!(found, naive);
        }
    }

    /// The bound is counted from above, so it holds for whatever request comes.
    #[test]
    fn accepted_limits_are_matched_by_no_request_beyond_the_bound(
        limits in vec(arb::limit(), 1..60),
        subjects in vec(subject(), 1..20),
    ) {
        let mut catalog = peopled();
        let people = ["a", "b"].into_iter().flat_map(|name| {
            [tenant(name), consumer("a", name), consumer("b", name)]
        });
        run(&mut catalog, &put(people.collect())).unwrap();
        for (n, limit) in limits.into_iter().enumerate() {
            let name = format!("l{n}").into();
            let decided = catalog.decide(&put_limits([Limit { name, ..limit }]), NOW);
            for event in decided.map(|decision| decision.events).unwrap_or_default() {
                catalog.evolve(&event);
            }
        }
        prop_assert_eq!(catalog.invariants(), Vec::<String>::new());
        let matcher = Matcher::of(&catalog);
        for subject in &subjects {
            // A consumer of these is in no team.
            let subject = Subject { team: "", ..*subject };
            prop_assert!(matcher.matching(&subject).len() <= MATCHED_LIMITS);
        }
    }
}

#[test]
fn the_value_of_each_is_qualified_where_names_are_a_tenants_own() {
    let subject = Subject {
        tenant: "acme",
        team: "retail",
        consumer: "app",
        key: "k",
        route: "openai.embeddings",
        api: "",
        model: "fast",
    };
    let value = |each| {
        let limit = Limit {
            each,
            ..limit("l", &[])
        };
        limit.value_in(&subject).map(|value| value.to_string())
    };
    let expected = [
        (Dimension::Tenant, Some("acme")),
        (Dimension::Team, Some("acme/retail")),
        (Dimension::Consumer, Some("acme/app")),
        (Dimension::Key, Some("acme/k")),
        (Dimension::Route, Some("acme/openai.embeddings")),
        (Dimension::Api, None),
        (Dimension::Model, Some("fast")),
    ];
    for (each, expected) in expected {
        assert_eq!(value(Some(each)).as_deref(), expected, "{each:?}");
    }
    assert_eq!(value(None).as_deref(), Some(""));
}
