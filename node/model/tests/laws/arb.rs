//! Generators. Names, hosts and secrets come from small pools, so that things meet.

use mode_envoy_model::command::Command;
use mode_envoy_model::consumer::Consumer;
use mode_envoy_model::event::Event;
use mode_envoy_model::key::Key;
use mode_envoy_model::limit::{Dimension, Limit, Match, Mode, Per, Unit, Window};
use mode_envoy_model::model::{AccessEntry, Model, Target};
use mode_envoy_model::object::{Kind, Name, Object, ObjectRef};
use mode_envoy_model::price::Price;
use mode_envoy_model::provider::{Protocol, Provider, SealedSecret};
use mode_envoy_model::route::{Auth, Route};
use mode_envoy_model::service::{Endpoint, Service, Timeouts};
use mode_envoy_model::tenant::Tenant;
use mode_envoy_model::token::{Role, Token};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

mod log;
mod members;

pub(crate) use log::{Mend, counters, histogram, log, series};

/// How many cases a property runs; without files of failures beside the tests.
pub(crate) fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

pub(crate) fn name() -> impl Strategy<Value = Name> {
    prop_oneof![99 => select(vec!["a", "b"]), 1 => Just("Bad Name")].prop_map(Name::from)
}

fn texts(pool: &'static [&'static str], max: usize) -> impl Strategy<Value = Vec<Name>> {
    vec(select(pool).prop_map(Name::from), 0..=max)
}

pub(crate) fn secret() -> impl Strategy<Value = SealedSecret> {
    (0_u8..3, vec(any::<u8>(), 0..3)).prop_map(|(n, ciphertext)| SealedSecret {
        wrapped_data_key: [n].into(),
        ciphertext: ciphertext.into(),
        fingerprint: [n; 16],
        generation: 0,
    })
}

fn consumer() -> impl Strategy<Value = Consumer> {
    (name(), name(), option::of(name())).prop_map(|(tenant, name, team)| Consumer {
        tenant,
        name,
        team,
    })
}

fn provider() -> impl Strategy<Value = Provider> {
    let keys = vec(secret(), 0..3);
    (name(), any::<bool>(), keys, option::of(0_u64..3)).prop_map(|(name, openai, keys, idle_ms)| {
        Provider {
            name,
            protocol: if openai {
                Protocol::Openai
            } else {
                Protocol::Embedded
            },
            base_url: if openai {
                "https://a.test/v1".into()
            } else {
                "".into()
            },
            keys: if openai { keys } else { Vec::new() },
            timeouts: Timeouts {
                idle_ms,
                ..Timeouts::default()
            },
        }
    })
}

fn price() -> impl Strategy<Value = Price> {
    (0_u64..10, 0_u64..10, option::of(0_u64..10)).prop_map(|(input, output, cached_input)| Price {
        input,
        output,
        cached_input,
        cache_write: None,
    })
}

fn model() -> impl Strategy<Value = Model> {
    let target = (name(), option::of(price())).prop_map(|(provider, price)| Target {
        provider,
        model: "m".into(),
        price,
    });
    let entry = (name(), option::of(name()))
        .prop_map(|(tenant, consumer)| AccessEntry { tenant, consumer });
    (
        name(),
        vec(target, 1..=1),
        option::of(price()),
        option::weighted(0.3, vec(entry, 1..3)),
    )
        .prop_map(|(name, targets, price, access)| Model {
            name,
            targets,
            price,
            access,
        })
}

fn service() -> impl Strategy<Value = Service> {
    let urls = prop_oneof![
        30 => select(vec!["http://a:1", "http://b:2", "https://c/d"]),
        1 => Just("nonsense"),
    ];
    (name(), vec(urls, 1..3), vec(name(), 0..2)).prop_map(|(name, urls, access)| Service {
        name,
        endpoints: urls
            .into_iter()
            .map(|url| Endpoint { url: url.into() })
            .collect(),
        access,
        timeouts: Timeouts::default(),
    })
}

fn hosts() -> impl Strategy<Value = Vec<Name>> {
    subsequence(vec!["a.test", "b.test", "c.test"], 0..=2)
        .prop_map(|hosts| hosts.into_iter().map(Name::from).collect())
}

fn route() -> impl Strategy<Value = Route> {
    let paths = subsequence(vec!["/x", "/y", "/x/{*rest}", "/z"], 1..=2);
    let paths = prop_oneof![30 => paths, 1 => Just(vec!["/v1/x"])];
    let paths = paths.prop_map(|paths| paths.into_iter().map(Name::from).collect());
    let methods = texts(&["GET", "POST"], 1);
    (name(), name(), name(), hosts(), paths, methods).prop_map(
        |(tenant, name, service, hosts, paths, methods)| Route {
            tenant,
            name,
            service,
            hosts,
            paths,
            methods,
            auth: Auth::Key,
            strip_prefix: None,
        },
    )
}

fn key() -> impl Strategy<Value = Key> {
    let previous = option::weighted(0.2, (0_u8..6, 0_u64..2_000_000));
    (name(), name(), name(), 0_u8..6, 0_u8..6, previous).prop_map(
        |(tenant, consumer, name, id, hash, previous)| Key {
            tenant,
            consumer,
            name,
            id: format!("id{id}").as_str().into(),
            hash: [hash; 32],
            created_ms: 0,
            expires_ms: None,
            previous: previous.map(|(hash, until)| ([hash; 32], until)),
        },
    )
}

fn token() -> impl Strategy<Value = Token> {
    let tenant = option::weighted(0.4, name());
    (name(), select(Role::ALL.to_vec()), 0_u8..4, tenant).prop_map(|(name, role, hash, tenant)| {
        Token {
            name,
            role,
            hash: [hash; 32],
            created_ms: 0,
            tenant,
        }
    })
}

pub(crate) fn object() -> impl Strategy<Value = Object> {
    prop_oneof![
        (name(), hosts()).prop_map(|(name, hosts)| Object::Tenant(Tenant { name, hosts })),
        consumer().prop_map(Object::Consumer),
        provider().prop_map(Object::Provider),
        model().prop_map(Object::Model),
        service().prop_map(Object::Service),
        route().prop_map(Object::Route),
        limit().prop_map(Object::Limit),
    ]
}

fn matches() -> impl Strategy<Value = Match> {
    let seldom = || option::weighted(0.2, name());
    let route = prop_oneof![9 => seldom(), 1 => Just(Some("openai.embeddings".into()))];
    (
        option::weighted(0.6, name()),
        (seldom(), seldom(), seldom()),
        route,
        option::weighted(0.01, name()),
        seldom(),
    )
        .prop_map(|(tenant, (team, consumer, key), route, api, model)| Match {
            tenant,
            team,
            consumer,
            key,
            route,
            api,
            model,
        })
}

pub(crate) fn limit() -> impl Strategy<Value = Limit> {
    let time = prop_oneof![
        4 => Just((Unit::Requests, Per::Minute, Window::Calendar)),
        2 => Just((Unit::Requests, Per::Second, Window::Bucket { burst: 3 })),
        2 => Just((Unit::Concurrent, Per::Total, Window::Calendar)),
        1 => select(Per::ALL.to_vec()).prop_map(|per| (Unit::Requests, per, Window::Bucket { burst: 1 })),
    ];
    let names = (select(vec!["a", "b", "c"]), option::weighted(0.4, name()));
    let each = option::weighted(0.4, select(Dimension::ALL.to_vec()));
    (
        names,
        matches(),
        each,
        time,
        0_u64..9,
        select(Mode::ALL.to_vec()),
    )
        .prop_map(
            |((name, tenant), matches, each, (unit, per, window), amount, mode)| Limit {
                name: name.into(),
                tenant,
                matches,
                each,
                unit,
                amount,
                per,
                window,
                mode,
                shadow: amount % 2 == 0,
            },
        )
}

fn object_ref() -> impl Strategy<Value = ObjectRef> {
    let place = (select(Kind::ALL.to_vec()), any::<bool>());
    (place, name(), name()).prop_map(|((kind, owned), tenant, name)| ObjectRef {
        kind,
        tenant: (kind.has_tenant() || owned && kind.takes_tenant()).then_some(tenant),
        name,
    })
}

pub(crate) fn command() -> impl Strategy<Value = Command> {
    let key_name = || {
        prop_oneof![
            name(),
            (0_u8..6).prop_map(|n| format!("id{n}").as_str().into())
        ]
    };
    prop_oneof![
        8 => (vec(object(), 1..4), prop::bool::weighted(0.1))
            .prop_map(|(objects, dry_run)| Command::Put { objects, dry_run }),
        3 => (vec(object(), 1..4), any::<bool>(), prop::bool::weighted(0.1)).prop_map(
            |(objects, confirmed, dry_run)| Command::Prune { objects, confirmed, dry_run }
        ),
        4 => object_ref().prop_map(Command::Delete),
        4 => key().prop_map(|key| Command::CreateKey(Key { previous: None, ..key })),
        4 => (option::of(name()), key_name(), 0_u8..9, 0_u64..100).prop_map(|(tenant, name, hash, grace_ms)| {
            Command::RotateKey { tenant, name, hash: [hash; 32], grace_ms }
        }),
        2 => (option::of(name()), key_name())
            .prop_map(|(tenant, name)| Command::RevokeKey { tenant, name }),
        2 => token().prop_map(Command::CreateToken),
        1 => name().prop_map(|name| Command::RevokeToken { name }),
        1 => (0_u8..2, token()).prop_map(|(id, root)| Command::Found {
            cluster_id: [id; 16],
            wrapped_key: vec![1],
            root,
        }),
        1 => (0_u32..3).prop_map(|version| Command::RaiseFormat { version }),
        2 => members::command(),
    ]
}

/// Any event at all, whether or not `decide` would ever make it.
pub(crate) fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => object().prop_map(|object| match object {
            Object::Tenant(o) => Event::TenantPut(o),
            Object::Consumer(o) => Event::ConsumerPut(o),
            Object::Provider(o) => Event::ProviderPut(o),
            Object::Model(o) => Event::ModelPut(o),
            Object::Service(o) => Event::ServicePut(o),
            Object::Route(o) => Event::RoutePut(o),
            Object::Limit(limit) => Event::LimitPut { id: 1, limit },
        }),
        3 => (0_u64..5, limit()).prop_map(|(id, limit)| Event::LimitPut { id, limit }),
        1 => (option::of(name()), name()).prop_map(|(tenant, name)| Event::LimitDeleted { tenant, name }),
        4 => key().prop_map(Event::KeyPut),
        2 => token().prop_map(Event::TokenPut),
        1 => (any::<[u8; 16]>(), vec(any::<u8>(), 0..3))
            .prop_map(|(cluster_id, wrapped_key)| Event::Founded { cluster_id, wrapped_key }),
        1 => any::<u32>().prop_map(|version| Event::FormatRaised { version }),
        1 => name().prop_map(Event::TenantDeleted),
        1 => name().prop_map(Event::ProviderDeleted),
        1 => name().prop_map(Event::ModelDeleted),
        1 => name().prop_map(Event::ServiceDeleted),
        1 => name().prop_map(Event::TokenRevoked),
        1 => (name(), name()).prop_map(|(tenant, name)| Event::ConsumerDeleted { tenant, name }),
        1 => (name(), name()).prop_map(|(tenant, name)| Event::RouteDeleted { tenant, name }),
        2 => (name(), name()).prop_map(|(tenant, name)| Event::KeyRevoked { tenant, name }),
        2 => members::event(),
    ]
}
