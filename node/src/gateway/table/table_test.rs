//! The table: what is found in it, and what of it is taken over by the next one.

use http::Method;
use mode_envoy_model::catalog::{Catalog, Record};
use mode_envoy_model::provider::{Protocol, Provider};
use mode_envoy_model::route::Auth;
use mode_envoy_model::service::Timeouts;

use super::super::harness::{KEY, catalog, example, key, route, service};
use super::*;
use crate::secrets::{Place, Secret, hash_api_key};

fn table(records: Vec<Record>, previous: &Table) -> Table {
    let (catalog, keyring) = catalog(records);
    Table::compile(&catalog, Some(&keyring), previous).unwrap()
}

fn name(found: &Found<'_>) -> String {
    match found {
        Found::Route(route) => route.name().to_string(),
        Found::OtherMethods(allow) => format!("only {}", allow.to_str().unwrap()),
        Found::Nothing => "nothing".to_owned(),
    }
}

#[test]
fn exact_paths_win_over_prefixes_and_longer_prefixes_over_shorter_ones() {
    let mut records = vec![service("s", &["http://a"])];
    for (name, path) in [
        ("all", "/{*rest}"),
        ("a", "/a/{*rest}"),
        ("ab", "/a/b/{*rest}"),
        ("exact", "/a/b/c"),
    ] {
        records.push(route(name, "s", &[], path, Auth::None));
    }
    let table = table(records, &Table::empty());
    let find = |path: &str| name(&table.route_of_any(path, &Method::GET));
    let found = ["/", "/x", "/a", "/a/", "/a/x", "/a/b", "/a/b/x/y", "/a/b/c"].map(find);
    assert_eq!(found, ["all", "all", "all", "a", "a", "a", "ab", "exact"]);
}

#[test]
fn a_host_has_its_own_routes_and_a_path_its_methods() {
    let table = table(example(), &Table::empty());
    let host = |host: &str| name(&table.route_of_host(host, "/v1/models", &Method::GET));
    assert_eq!(host("api.acme.test"), "host");
    assert_eq!(host("other.test"), "nothing");
    assert_eq!(name(&table.route_of_any("/open", &Method::HEAD)), "open");
    assert_eq!(
        name(&table.route_of_any("/open", &Method::PUT)),
        "only GET, HEAD"
    );
    assert_eq!(name(&table.route_of_any("/none", &Method::PUT)), "nothing");
}

#[test]
fn a_prefix_is_stripped_by_whole_segments() {
    let table = table(example(), &Table::empty());
    let Found::Route(orders) = table.route_of_any("/orders/1", &Method::GET) else {
        panic!("no route")
    };
    let stripped = ["/orders/1", "/orders", "/orders/", "/ordersx", "/orders//x"]
        .map(|p| orders.upstream_path(p));
    assert_eq!(stripped, ["/1", "/", "/", "/ordersx", "//x"]);
}

#[test]
fn what_did_not_change_is_the_same_entry_in_the_next_table() {
    let (catalog, keyring) = catalog(example());
    let first = Table::compile(&catalog, Some(&keyring), &Table::empty()).unwrap();
    let second = Table::compile(&catalog, Some(&keyring), &first).unwrap();
    assert!(Arc::ptr_eq(&first.keys, &second.keys));
    assert!(Arc::ptr_eq(
        first.model("fast").unwrap(),
        second.model("fast").unwrap()
    ));
    assert!(Arc::ptr_eq(
        &first.services["orders"],
        &second.services["orders"]
    ));

    let mut next = catalog.clone();
    let added = [
        (99, key("acme", "app", "me-new", None)),
        (99, service("orders", &["http://elsewhere"])),
    ];
    let records: Vec<(u64, Record)> = catalog.records().chain(added).collect();
    next.clone_from(&Catalog::restore(None, 1, 99, records));
    let third = Table::compile(&next, Some(&keyring), &second).unwrap();
    assert_eq!(third.revision(), 99);
    assert!(third.key(&hash_api_key("me-new")).is_some());
    let (old, new) = (hash_api_key(KEY), hash_api_key(KEY));
    assert!(Arc::ptr_eq(
        second.key(&old).unwrap(),
        third.key(&new).unwrap()
    ));
    assert!(!Arc::ptr_eq(
        &second.services["orders"],
        &third.services["orders"]
    ));
    assert!(Arc::ptr_eq(
        &second.services["pair"],
        &third.services["pair"]
    ));
    let Found::Route(route) = third.route_of_any("/orders/1", &Method::GET) else {
        panic!("no route")
    };
    assert!(Arc::ptr_eq(&route.service, &third.services["orders"]));
}

#[test]
fn a_catalog_that_does_not_compile_says_what_is_wrong() {
    let compile = |records, keyring: bool| {
        let (catalog, opened) = catalog(records);
        Table::compile(&catalog, keyring.then_some(&opened), &Table::empty())
            .unwrap_err()
            .to_string()
    };
    let missing = compile(vec![route("r", "nowhere", &[], "/x", Auth::None)], true);
    assert_eq!(
        missing,
        "compiling route acme/r: there is no service nowhere"
    );
    let url = compile(vec![service("s", &["ftp://x"])], true);
    assert!(
        url.contains("service s") && url.contains("ftp://x"),
        "{url}"
    );
    let sealed = compile(example(), false);
    assert_eq!(
        sealed,
        "compiling provider openai: the cluster's keyring is not open yet"
    );
}

#[test]
fn endpoints_take_turns() {
    let table = table(
        vec![service("s", &["http://a", "http://b", "http://c"])],
        &Table::empty(),
    );
    let service = &table.services["s"];
    let order = || {
        service
            .in_turn()
            .map(|e| e.origin.host.to_string())
            .collect::<String>()
    };
    assert_eq!(
        [order(), order(), order(), order()],
        ["abc", "bca", "cab", "abc"]
    );
}

#[test]
fn a_providers_key_is_never_printed() {
    let table = table(example(), &Table::empty());
    let provider = &table.providers["openai"];
    assert_eq!(
        provider.authorization.as_ref().unwrap(),
        "Bearer sk-provider"
    );
    assert!(!format!("{table:?}").contains("sk-provider"));
}

#[test]
fn a_provider_whose_key_cannot_be_sent_keeps_nothing_else_out_of_force() {
    let (_, keyring) = catalog(Vec::new());
    let sealed = keyring.seal(
        &Secret::new("two\nlines".to_owned()),
        Place::provider_keys("odd"),
    );
    let odd = Record::Provider(Arc::new(Provider {
        name: "odd".into(),
        protocol: Protocol::Openai,
        base_url: "https://odd.test/v1".into(),
        keys: vec![sealed.unwrap()],
        timeouts: Timeouts::default(),
    }));
    let mut records = example();
    records.push(odd);
    let catalog = Catalog::restore(None, 1, 7, records.into_iter().map(|record| (7, record)));
    let table = Table::compile(&catalog, Some(&keyring), &Table::empty()).unwrap();
    assert_eq!(table.revision(), 7);
    assert!(table.providers["odd"].unusable);
    assert!(table.key(&hash_api_key(KEY)).is_some());
}

#[test]
fn a_catalog_that_does_not_compile_still_takes_its_keys_away() {
    let before = table(example(), &Table::empty());
    assert!(before.key(&hash_api_key(KEY)).is_some());
    let dangling = route("r", "nowhere", &[], "/x", Auth::None);
    let (broken, keyring) = catalog(vec![dangling]);
    assert!(Table::compile(&broken, Some(&keyring), &before).is_err());
    let after = before.with_keys_of(&broken);
    assert_eq!(after.revision(), before.revision());
    assert!(after.key(&hash_api_key(KEY)).is_none());
    assert_eq!(name(&after.route_of_any("/open", &Method::HEAD)), "open");
}
