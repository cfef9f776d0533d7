//! What documents read as, what they are written as, and what is said about each kind of fault.

use proptest::prelude::*;

use super::*;
use crate::secrets::Secret;
use mode_envoy_model::consumer::Consumer;
use mode_envoy_model::model::{AccessEntry, Model, Target};
use mode_envoy_model::object::Name;
use mode_envoy_model::price::Price;
use mode_envoy_model::provider::{Protocol, Provider};
use mode_envoy_model::route::{Auth, Route};
use mode_envoy_model::service::{Endpoint, Service, Timeouts};
use mode_envoy_model::tenant::Tenant;

mod limits;

const EVERYTHING: &str = include_str!("golden/everything.yaml");
const EVERYTHING_WRITTEN: &str = include_str!("golden/everything.written.yaml");
const FAULTS: &str = include_str!("golden/faults.yaml");
const FAULTS_FOUND: &str = include_str!("golden/faults.found.txt");

fn faults(text: &str) -> String {
    let faults = read(text).expect_err("this document has faults");
    let lines: Vec<_> = faults.list.iter().map(ToString::to_string).collect();
    lines.join("\n") + "\n"
}

fn draft(document: &Document, label: &str) -> Draft {
    document
        .drafts
        .iter()
        .find(|d| super::label(&d.reference()) == label)
        .unwrap()
        .clone()
}

#[test]
fn every_field_of_this_version_is_written_as_the_golden_file_says() {
    let document = read(EVERYTHING).unwrap();
    let written = write(&document.drafts).unwrap();
    assert_eq!(written, EVERYTHING_WRITTEN, "written:\n{written}");
}

#[test]
fn each_kind_of_fault_is_reported_with_its_line_and_column() {
    let found = faults(FAULTS);
    assert_eq!(found, FAULTS_FOUND, "found:\n{found}");
}

#[test]
fn values_arrive_in_the_model_as_they_were_meant() {
    let document = read(EVERYTHING).unwrap();
    let Object::Route(route) = draft(&document, "routes[acme/orders]").object else {
        panic!()
    };
    assert_eq!(route.hosts, ["api.acme.test".into()]);
    assert_eq!(route.methods, ["GET".into(), "POST".into()]);
    assert_eq!(route.auth, Auth::Key);
    let openai = draft(&document, "providers[openai]");
    let Object::Provider(provider) = &openai.object else {
        panic!()
    };
    assert_eq!(&*provider.base_url, "https://api.openai.com/v1");
    assert_eq!(provider.timeouts.idle_ms, Some(1_500));
    assert_eq!(
        openai.keys[0].source,
        SecretSource::Env("OPENAI_API_KEY".to_owned())
    );
    assert_eq!(
        openai.keys[2].source,
        SecretSource::Value(Secret::new("sk: # tricky".to_owned()))
    );
    assert_eq!(
        openai.keys[2].at,
        Position {
            line: 25,
            column: 9
        }
    );
    let Object::Model(model) = draft(&document, "models[fast]").object else {
        panic!()
    };
    assert_eq!(model.targets[0].price.unwrap().input, 150_000);
    assert_eq!(model.price.unwrap().output, 10_000_001);
    let Object::Model(closed) = draft(&document, "models[closed]").object else {
        panic!()
    };
    assert_eq!(closed.access, Some(Vec::new()));
}

#[test]
fn json_is_taken_as_it_is_yaml() {
    let document = read(r#"{"tenants": [{"name": "acme"}]}"#).unwrap();
    assert_eq!(document.drafts.len(), 1);
    assert_eq!(
        document.drafts[0].at,
        Position {
            line: 1,
            column: 14
        }
    );
}

#[test]
fn an_empty_document_holds_nothing() {
    for text in ["", "# nothing\n", "---\n", "tenants:\n", "tenants: []\n"] {
        assert!(read(text).unwrap().drafts.is_empty(), "{text:?}");
    }
}

#[test]
fn text_that_is_not_yaml_is_refused_at_its_place() {
    assert_eq!(
        faults("tenants:\n  - name: [acme\n"),
        "2:11: unclosed bracket '['\n"
    );
    assert_eq!(
        faults("tenants"),
        "1:1: a document has fields such as `tenants:`, and this is a text\n"
    );
}

#[test]
fn a_field_stated_twice_is_refused() {
    let found = faults("tenants:\n  - name: acme\n    name: beta\n");
    assert!(
        found.starts_with("3:5: duplicate mapping key: name"),
        "{found}"
    );
}

#[test]
fn aliases_share_values_but_a_bomb_of_them_is_refused() {
    let shared = "tenants: [&a {name: acme}]\nconsumers: [{name: x, tenant: &t acme}, {name: y, tenant: *t}]\n";
    assert_eq!(read(shared).unwrap().drafts.len(), 3);
    let mut bomb = "a: &a [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for (from, to) in ('a'..'i').zip('b'..='i') {
        let aliases = vec![format!("*{from}"); 10].join(", ");
        bomb = format!("{bomb}{to}: &{to} [{aliases}]\n");
    }
    assert_eq!(read(&bomb).unwrap_err().list.len(), 1);
}

#[test]
fn a_document_that_is_too_long_or_too_deep_is_refused() {
    let long = " ".repeat(MAX_BYTES + 1);
    assert!(faults(&long).contains("apply it in parts"));
    let deep = "[".repeat(100_000);
    assert_eq!(read(&deep).unwrap_err().list.len(), 1);
    let nested = format!("tenants: {}{}", "[".repeat(40), "]".repeat(40));
    assert_eq!(read(&nested).unwrap_err().list.len(), 1);
}

#[test]
fn faults_beyond_a_hundred_are_only_counted() {
    let text = format!("tenants:\n{}", "  - {}\n".repeat(150));
    let faults = read(&text).unwrap_err();
    assert_eq!((faults.list.len(), faults.omitted), (MAX_FAULTS, 50));
}

#[test]
fn a_path_of_the_catalog_is_found_in_the_text() {
    let locator = read(EVERYTHING).unwrap().locator;
    let places = [
        ("routes[acme/orders].service", Some((5, 14))),
        ("routes[acme/orders].paths[1]", Some((8, 34))),
        ("routes[acme/orders].match.paths[1]", Some((8, 34))),
        ("routes[acme/orders].nothing.like.it", Some((3, 5))),
        ("providers[openai].timeouts.connect_ms", Some((27, 25))),
        ("models[fast].targets[0].price.output", Some((34, 40))),
        ("services[orders].endpoints[1].url", Some((43, 14))),
        ("limits[acme/per-key].match.team", Some((51, 19))),
        ("limits[acme/per-key].burst", Some((57, 12))),
        ("limits[acme-rpm].match.tenant", Some((48, 38))),
        ("services[absent].endpoints", None),
        ("revision", None),
    ];
    for (path, place) in places {
        let found = locator.find(path).map(|at| (at.line, at.column));
        assert_eq!(found, place, "{path}");
    }
}

#[test]
fn what_the_catalog_holds_is_written_with_fingerprints_only() {
    let sealed = mode_envoy_model::provider::SealedSecret {
        wrapped_data_key: [1; 8].into(),
        ciphertext: [2; 8].into(),
        fingerprint: [0xab; 16],
        generation: 0,
    };
    let provider = Provider {
        name: "openai".into(),
        protocol: Protocol::Openai,
        base_url: "https://api.openai.com/v1".into(),
        keys: vec![sealed],
        timeouts: Timeouts::default(),
    };
    let text = write(&[from_object(Object::Provider(provider))]).unwrap();
    assert!(
        text.contains("stored: abababababababababababababababab"),
        "{text}"
    );
    let again = read(&text).unwrap();
    assert_eq!(
        again.drafts[0].keys[0].source,
        SecretSource::Stored([0xab; 16])
    );
}

#[test]
fn as_json_a_document_keeps_the_order_of_its_fields() {
    let json = |text| serde_json::to_string(&tree(text).unwrap()).unwrap();
    assert_eq!(
        json("tenants:\n- name: acme\nconsumers:\n- {tenant: acme, name: app}\n"),
        r#"{"tenants":[{"name":"acme"}],"consumers":[{"tenant":"acme","name":"app"}]}"#
    );
    assert_eq!(json(""), "{}");
    assert!(tree("{").is_err());
}

#[test]
fn a_fingerprint_that_looks_like_a_number_is_written_as_a_text() {
    for byte in [0x00, 0x11, 0x99, 0x1e] {
        let source = SecretSource::Stored([byte; 16]);
        let provider = read("providers: [{name: p, protocol: openai}]")
            .unwrap()
            .drafts
            .remove(0);
        let keys = vec![SecretRef {
            source,
            at: Position::default(),
        }];
        let draft = Draft {
            keys,
            at: Position::default(),
            ..provider
        };
        let text = write(std::slice::from_ref(&draft)).unwrap();
        assert_eq!(read(&text).unwrap().drafts[0].keys, draft.keys, "{text}");
    }
    let unquoted = format!(
        "providers: [{{name: p, protocol: openai, keys: [{{stored: {}}}]}}]",
        "0".repeat(32)
    );
    assert!(
        faults(&unquoted).contains("put it in quotes"),
        "{}",
        faults(&unquoted)
    );
    assert_eq!(read(&unquoted).unwrap_err().list.len(), 1);
}

// === any document reads back as it was written ===

fn name() -> impl Strategy<Value = Name> {
    // Names, and texts that YAML would take for something else if they were not quoted.
    prop_oneof![
        "[a-z0-9][a-z0-9._-]{0,8}",
        Just("null".to_owned()),
        Just("true".to_owned()),
        Just("1e3".to_owned()),
        Just("0x10".to_owned()),
        Just("no".to_owned()),
        Just("2026-01-01".to_owned()),
    ]
    .prop_map(Name::from)
}

fn free_text() -> impl Strategy<Value = std::sync::Arc<str>> {
    prop_oneof!["[ -~]{1,120}", "\\PC{1,40}", "[a-z\n\t\r :#]{1,20}"].prop_map(std::sync::Arc::from)
}

fn timeouts() -> impl Strategy<Value = Timeouts> {
    let ms = || proptest::option::of(any::<u64>());
    (ms(), ms(), ms(), ms()).prop_map(|(connect_ms, first_byte_ms, idle_ms, total_ms)| Timeouts {
        connect_ms,
        first_byte_ms,
        idle_ms,
        total_ms,
    })
}

fn price() -> impl Strategy<Value = Price> {
    let pico = || 0..=1_000_000_000_000_u64;
    let maybe = || proptest::option::of(pico());
    (pico(), pico(), maybe(), maybe()).prop_map(|(input, output, cached_input, cache_write)| {
        Price {
            input,
            output,
            cached_input,
            cache_write,
        }
    })
}

fn secret() -> impl Strategy<Value = SecretRef> {
    let text = || free_text().prop_map(|text| text.to_string());
    prop_oneof![
        text().prop_map(SecretSource::Env),
        text().prop_map(SecretSource::File),
        text().prop_map(|text| SecretSource::Value(Secret::new(text))),
        any::<[u8; 16]>().prop_map(SecretSource::Stored),
    ]
    .prop_map(|source| SecretRef {
        source,
        at: Position::default(),
    })
}

fn model() -> impl Strategy<Value = Object> {
    let target = (name(), free_text(), proptest::option::of(price())).prop_map(
        |(provider, model, price)| Target {
            provider,
            model,
            price,
        },
    );
    let entry = (name(), proptest::option::of(name()))
        .prop_map(|(tenant, consumer)| AccessEntry { tenant, consumer });
    let access = proptest::option::of(proptest::collection::vec(entry, 0..3));
    let targets = proptest::collection::vec(target, 1..3);
    (name(), targets, proptest::option::of(price()), access).prop_map(
        |(name, targets, price, access)| {
            Object::Model(Model {
                name,
                targets,
                price,
                access,
            })
        },
    )
}

fn hosts() -> impl Strategy<Value = Vec<std::sync::Arc<str>>> {
    proptest::collection::vec("[a-z.]{1,9}".prop_map(std::sync::Arc::from), 0..3)
}

fn route() -> impl Strategy<Value = Object> {
    let texts = || proptest::collection::vec(free_text(), 0..3);
    let methods = proptest::collection::vec("[A-Z]{1,9}".prop_map(std::sync::Arc::from), 0..3);
    let auth = prop_oneof![Just(Auth::Key), Just(Auth::None)];
    let prefix = proptest::option::of(free_text());
    (
        (name(), name(), name()),
        hosts(),
        texts(),
        methods,
        auth,
        prefix,
    )
        .prop_map(
            |((tenant, name, service), hosts, paths, methods, auth, strip_prefix)| {
                Object::Route(Route {
                    tenant,
                    name,
                    service,
                    hosts,
                    paths,
                    methods,
                    auth,
                    strip_prefix,
                })
            },
        )
}

fn object() -> impl Strategy<Value = Draft> {
    let plain = |object: Object| Draft {
        object,
        keys: Vec::new(),
        at: Position::default(),
    };
    let consumer = (name(), name(), proptest::option::of(name()))
        .prop_map(|(tenant, name, team)| Object::Consumer(Consumer { tenant, name, team }));
    let provider = (
        name(),
        free_text(),
        timeouts(),
        proptest::collection::vec(secret(), 0..3),
    )
        .prop_map(|(name, base_url, timeouts, keys)| {
            let protocol = Protocol::Openai;
            let provider = Provider {
                name,
                protocol,
                base_url,
                keys: Vec::new(),
                timeouts,
            };
            Draft {
                object: Object::Provider(provider),
                keys,
                at: Position::default(),
            }
        });
    let endpoints = proptest::collection::vec(free_text().prop_map(|url| Endpoint { url }), 0..3);
    let access = proptest::collection::vec(name(), 0..3);
    let service =
        (name(), endpoints, timeouts(), access).prop_map(|(name, endpoints, timeouts, access)| {
            Object::Service(Service {
                name,
                endpoints,
                timeouts,
                access,
            })
        });
    prop_oneof![
        (name(), hosts())
            .prop_map(|(name, hosts)| Object::Tenant(Tenant { name, hosts }))
            .prop_map(plain),
        consumer.prop_map(plain),
        provider,
        model().prop_map(plain),
        service.prop_map(plain),
        route().prop_map(plain),
        limits::limit().prop_map(Object::Limit).prop_map(plain),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_document_reads_back_as_it_was_written(drafts in proptest::collection::vec(object(), 0..12)) {
        let mut drafts = drafts;
        drafts.sort_by_key(Draft::reference);
        drafts.dedup_by_key(|draft| draft.reference());
        let text = write(&drafts).unwrap();
        let mut again = read(&text).map_err(|faults| {
            let list: Vec<_> = faults.list.iter().map(ToString::to_string).collect();
            TestCaseError::fail(format!("{list:?}\n{text}"))
        })?.drafts;
        for draft in &mut again {
            draft.at = Position::default();
        }
        prop_assert_eq!(again, drafts, "{}", text);
    }

    #[test]
    fn no_text_whatever_makes_the_reader_panic(text in "[a-z:\\-\\[\\]{}&*<!|>#'\" \n\t0-9.]{0,200}") {
        let _ = read(&text);
    }
}
