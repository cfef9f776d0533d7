//! One of everything that stands in the log or goes over the wire.

use std::collections::BTreeMap;
use std::sync::Arc;

use mode_envoy_model::catalog::WayBack;
use mode_envoy_model::command::Command;
use mode_envoy_model::consumer::Consumer;
use mode_envoy_model::event::Event;
use mode_envoy_model::key::Key;
use mode_envoy_model::limit::{Dimension, Limit, Match, Mode, Per, Unit, Window};
use mode_envoy_model::member::{JoinToken, JoinedNode};
use mode_envoy_model::model::{AccessEntry, Model, Target};
use mode_envoy_model::object::{Kind, Object, ObjectRef};
use mode_envoy_model::price::Price;
use mode_envoy_model::provider::{Protocol, Provider, Resealed, SealedSecret};
use mode_envoy_model::requests::ClientRequest;
use mode_envoy_model::restored::Restored;
use mode_envoy_model::route::{Auth, Route};
use mode_envoy_model::service::{Endpoint, Service, Timeouts};
use mode_envoy_model::tenant::Tenant;
use mode_envoy_model::token::{Role, Token};
use mode_envoy_model::usage::batch::{Register, SeriesRef, SpoolRange, UsageBatch, UsageRow};
use mode_envoy_model::usage::counters::Counters;
use mode_envoy_model::usage::histogram::Histogram;
use mode_envoy_model::usage::series::SeriesKey;

pub(super) fn tenant() -> Tenant {
    Tenant {
        name: "acme".into(),
        hosts: vec!["api.acme.test".into()],
    }
}

pub(super) fn consumer(team: Option<&str>) -> Consumer {
    Consumer {
        tenant: "acme".into(),
        name: "shop".into(),
        team: team.map(Into::into),
    }
}

pub(super) fn timeouts() -> Timeouts {
    Timeouts {
        connect_ms: Some(1),
        first_byte_ms: Some(2),
        idle_ms: None,
        total_ms: Some(3_600_000),
    }
}

pub(super) fn provider() -> Provider {
    Provider {
        name: "openai".into(),
        protocol: Protocol::Openai,
        base_url: "https://api.openai.com/v1".into(),
        keys: vec![SealedSecret {
            wrapped_data_key: Arc::from([1, 2]),
            ciphertext: Arc::from([3, 4, 5]),
            fingerprint: [6; 16],
            generation: 2,
        }],
        timeouts: timeouts(),
    }
}

pub(super) fn embedded() -> Provider {
    Provider {
        name: "demo".into(),
        protocol: Protocol::Embedded,
        base_url: "".into(),
        keys: Vec::new(),
        timeouts: Timeouts::default(),
    }
}

pub(super) fn model() -> Model {
    let price = Price {
        input: 1,
        output: 2,
        cached_input: Some(0),
        cache_write: None,
    };
    Model {
        name: "gpt".into(),
        targets: vec![Target {
            provider: "openai".into(),
            model: "gpt-5".into(),
            price: Some(price),
        }],
        price: None,
        access: Some(vec![
            AccessEntry {
                tenant: "acme".into(),
                consumer: None,
            },
            AccessEntry {
                tenant: "acme".into(),
                consumer: Some("shop".into()),
            },
        ]),
    }
}

pub(super) fn service() -> Service {
    Service {
        name: "orders".into(),
        endpoints: vec![Endpoint {
            url: "http://127.0.0.1:9000".into(),
        }],
        access: vec!["acme".into()],
        timeouts: timeouts(),
    }
}

pub(super) fn route(auth: Auth) -> Route {
    Route {
        tenant: "acme".into(),
        name: "orders".into(),
        service: "orders".into(),
        hosts: vec!["api.acme.test".into()],
        paths: vec!["/orders/{*rest}".into()],
        methods: vec!["GET".into()],
        auth,
        strip_prefix: (auth == Auth::Key).then(|| "/orders".into()),
    }
}

pub(super) fn key(previous: bool) -> Key {
    Key {
        tenant: "acme".into(),
        consumer: "shop".into(),
        name: "k".into(),
        id: "key-1".into(),
        hash: [1; 32],
        created_ms: 5,
        expires_ms: previous.then_some(9),
        previous: previous.then_some(([2; 32], 7)),
    }
}

pub(super) fn token(role: Role) -> Token {
    Token {
        name: "root".into(),
        role,
        hash: [3; 32],
        created_ms: 1,
        tenant: (role != Role::Root).then(|| "acme".into()),
    }
}

pub(super) fn events() -> Vec<Event> {
    vec![
        Event::Founded {
            cluster_id: [9; 16],
            wrapped_key: vec![1, 2, 3],
        },
        Event::FormatRaised { version: 2 },
        Event::TenantPut(tenant()),
        Event::TenantDeleted("acme".into()),
        Event::ConsumerPut(consumer(None)),
        Event::ConsumerPut(consumer(Some("web"))),
        Event::ConsumerDeleted {
            tenant: "acme".into(),
            name: "shop".into(),
        },
        Event::ProviderPut(provider()),
        Event::ProviderPut(embedded()),
        Event::ProviderDeleted("openai".into()),
        Event::ModelPut(model()),
        Event::ModelPut(Model {
            access: Some(Vec::new()),
            ..model()
        }),
        Event::ModelPut(Model {
            access: None,
            ..model()
        }),
        Event::ModelDeleted("gpt".into()),
        Event::ServicePut(service()),
        Event::ServiceDeleted("orders".into()),
        Event::RoutePut(route(Auth::Key)),
        Event::RoutePut(route(Auth::None)),
        Event::RouteDeleted {
            tenant: "acme".into(),
            name: "orders".into(),
        },
        Event::KeyPut(key(false)),
        Event::KeyPut(key(true)),
        Event::KeyRevoked {
            tenant: "acme".into(),
            name: "k".into(),
        },
        Event::TokenPut(token(Role::Viewer)),
        Event::TokenPut(token(Role::Admin)),
        Event::TokenPut(token(Role::Root)),
        Event::TokenRevoked("root".into()),
    ]
    .into_iter()
    .chain(cluster_events())
    .chain(limit_events())
    .collect()
}

fn cluster_events() -> Vec<Event> {
    vec![
        Event::JoinTokenPut(join_token(1, None)),
        Event::JoinTokenPut(join_token(2, Some((7, [3; 32])))),
        Event::NodeJoined {
            node: JoinedNode {
                id: 4,
                peer: "h:1".into(),
                joined_ms: 8,
            },
            token: [1; 32],
            nonce: [5; 32],
        },
        Event::NodeRemoved(2),
        Event::RotationBegan(rotation()),
        Event::RotationSwitched,
        Event::RotationEnded,
        Event::RotationAborted,
        Event::Resealed(resealed()),
        Event::Restored(Restored {
            cluster_id: [31; 16],
            from_cluster_id: [32; 16],
            from_revision: 33,
            from_index: 34,
            node: 4,
        }),
    ]
}

/// Every unit, time, window, mode and dimension.
fn limits() -> Vec<Limit> {
    let units = Unit::ALL.into_iter().cycle();
    let modes = Mode::ALL.into_iter().cycle();
    let each = Dimension::ALL.into_iter().map(Some).chain([None]);
    let pers = Per::ALL.into_iter().cycle();
    let all = each.zip(pers).zip(units.zip(modes));
    let limit = |(at, ((each, per), (unit, mode))): (u64, ((_, _), (_, _)))| {
        let mut matches = Match::default();
        if let Some(dimension) = each {
            *matches.value_mut(dimension) = Some("x".into());
        }
        Limit {
            name: "rpm".into(),
            tenant: at.is_multiple_of(2).then(|| "acme".into()),
            matches,
            each,
            unit,
            amount: at,
            per,
            window: if at.is_multiple_of(3) {
                Window::Calendar
            } else {
                Window::Bucket { burst: at }
            },
            mode,
            shadow: at.is_multiple_of(2),
        }
    };
    (1..).zip(all).map(limit).collect()
}

fn limit_events() -> Vec<Event> {
    let deleted = [None, Some("acme".into())].map(|tenant| Event::LimitDeleted {
        tenant,
        name: "rpm".into(),
    });
    let puts = (1..).zip(limits());
    let puts = puts.map(|(id, limit)| Event::LimitPut { id, limit });
    deleted.into_iter().chain(puts).collect()
}

fn join_token(hash: u8, used: Option<(u64, [u8; 32])>) -> JoinToken {
    JoinToken {
        hash: [hash; 32],
        expires_ms: u64::MAX,
        used,
    }
}

fn rotation() -> mode_envoy_model::rotation::Rotation {
    mode_envoy_model::rotation::Rotation {
        check: [21; 32],
        wrapped_key: [22, 23].into(),
        old_wrapped_key: [26].into(),
        generation: 1,
        old_root: [24; 32],
        new_root: [25; 32],
        switched: false,
    }
}

fn resealed() -> Resealed {
    Resealed {
        provider: "openai".into(),
        keys: provider().keys,
    }
}

fn member_commands() -> Vec<Command> {
    let members = BTreeMap::from([(1, "a:1".to_owned()), (2, "b:2".to_owned())]);
    vec![
        Command::CreateJoinToken {
            hash: [6; 32],
            valid_ms: 9,
        },
        Command::Join {
            token: [6; 32],
            nonce: [7; 32],
            peer: "c:3".to_owned(),
            members: members.clone(),
        },
        Command::RemoveNode { node: 2, members },
        Command::BeginRotation(rotation()),
        Command::AdvanceRotation {
            end: true,
            check: [8; 32],
        },
        Command::AbortRotation,
        Command::Reseal {
            generation: 2,
            providers: vec![resealed()],
        },
    ]
}

pub(super) fn commands() -> Vec<Command> {
    let mut objects = vec![
        Object::Tenant(tenant()),
        Object::Consumer(consumer(Some("web"))),
        Object::Provider(provider()),
        Object::Model(model()),
        Object::Service(service()),
        Object::Route(route(Auth::Key)),
    ];
    objects.extend(limits().into_iter().map(Object::Limit));
    let mut commands = vec![
        Command::Found {
            cluster_id: [9; 16],
            wrapped_key: vec![1],
            root: token(Role::Root),
        },
        Command::RaiseFormat { version: 2 },
        Command::Put {
            objects: objects.clone(),
            dry_run: false,
        },
        Command::Put {
            objects,
            dry_run: true,
        },
        Command::CreateKey(key(true)),
        Command::RotateKey {
            tenant: None,
            name: "k".into(),
            hash: [4; 32],
            grace_ms: 5,
        },
        Command::RevokeKey {
            tenant: Some("acme".into()),
            name: "k".into(),
        },
        Command::CreateToken(token(Role::Admin)),
        Command::RevokeToken {
            name: "root".into(),
        },
        Command::Prune {
            objects: vec![Object::Tenant(tenant())],
            confirmed: true,
            dry_run: true,
        },
        Command::Rollback {
            revision: 3,
            base_revision: 9,
            back: WayBack {
                put: vec![Object::Tenant(tenant())],
                delete: vec![ObjectRef {
                    kind: Kind::Route,
                    tenant: Some("acme".into()),
                    name: "orders".into(),
                }],
            },
            dry_run: true,
        },
    ];
    commands.extend(member_commands());
    commands.extend(Kind::ALL.map(|kind| {
        let tenant = kind.takes_tenant().then(|| "acme".into());
        Command::Delete(ObjectRef {
            kind,
            tenant,
            name: "x".into(),
        })
    }));
    commands
}

pub(super) fn series() -> SeriesKey {
    SeriesKey {
        tenant: "acme".into(),
        team: "".into(),
        consumer: "shop".into(),
        key: "k".into(),
        route: "".into(),
        api: "".into(),
        model: "gpt".into(),
        provider: "openai".into(),
        upstream_model: "gpt-5".into(),
        status_class: 2,
        folded: false,
    }
}

pub(super) fn request() -> ClientRequest {
    ClientRequest {
        id: [3; 32],
        body: [4; 32],
        nonce: [5; 16],
    }
}

pub(super) fn register() -> Register {
    Register {
        node: 2,
        follows: 0,
        spools: vec![(0, [1; 16]), (1, [2; 16])],
    }
}

pub(super) fn usage_batch(incarnation: u64, known: bool) -> UsageBatch {
    let mut latency = Histogram::default();
    latency.record(3);
    latency.record(123_456);
    let counters = Counters {
        calls: 2,
        output: u64::MAX,
        nano_usd: 7,
        ..Counters::default()
    };
    let mut names = vec![SeriesRef::New(series())];
    names.extend(known.then_some(SeriesRef::Known(4)));
    UsageBatch {
        node: 2,
        incarnation,
        seq: 1,
        ranges: vec![SpoolRange {
            worker: 0,
            uuid: [1; 16],
            from: 1,
            to: 3,
        }],
        series: names,
        rows: vec![UsageRow {
            minute: 29_000_000,
            series: 0,
            counters,
            latency,
            ttft: Histogram::default(),
        }],
        uses: Vec::new(),
        asks: Vec::new(),
    }
}
