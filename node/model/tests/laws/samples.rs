//! Small values to build tests from, and a driver that decides and applies as a leader does.

use mode_envoy_model::batch::{ChangeSet, Outcome};
use mode_envoy_model::catalog::Catalog;
use mode_envoy_model::command::{ChangeKind, Command, Decision, Rejected, RejectedCode};
use mode_envoy_model::consumer::Consumer;
use mode_envoy_model::key::Key;
use mode_envoy_model::model::{AccessEntry, Model, Target};
use mode_envoy_model::object::{Kind, Object, ObjectRef};
use mode_envoy_model::provider::{Protocol, Provider, SealedSecret};
use mode_envoy_model::route::{Auth, Route};
use mode_envoy_model::service::{Endpoint, Service, Timeouts};
use mode_envoy_model::tenant::Tenant;
use mode_envoy_model::token::{Role, Token};

pub(crate) const NOW: u64 = 1_000_000;

pub(crate) fn tenant(name: &str) -> Object {
    Object::Tenant(Tenant {
        name: name.into(),
        hosts: Vec::new(),
    })
}

pub(crate) fn consumer(tenant: &str, name: &str) -> Object {
    Object::Consumer(Consumer {
        tenant: tenant.into(),
        name: name.into(),
        team: None,
    })
}

pub(crate) fn embedded(name: &str) -> Object {
    Object::Provider(Provider {
        name: name.into(),
        protocol: Protocol::Embedded,
        base_url: "".into(),
        keys: Vec::new(),
        timeouts: Timeouts::default(),
    })
}

pub(crate) fn openai(name: &str, keys: Vec<SealedSecret>) -> Object {
    Object::Provider(Provider {
        name: name.into(),
        protocol: Protocol::Openai,
        base_url: "https://api.openai.com/v1".into(),
        keys,
        timeouts: Timeouts::default(),
    })
}

pub(crate) fn secret(fingerprint: u8, ciphertext: &[u8]) -> SealedSecret {
    SealedSecret {
        wrapped_data_key: [1].into(),
        ciphertext: ciphertext.into(),
        fingerprint: [fingerprint; 16],
        generation: 0,
    }
}

pub(crate) fn model(name: &str, provider: &str) -> Model {
    let target = Target {
        provider: provider.into(),
        model: "gpt".into(),
        price: None,
    };
    Model {
        name: name.into(),
        targets: vec![target],
        price: None,
        access: None,
    }
}

pub(crate) fn access(tenant: &str, consumer: Option<&str>) -> AccessEntry {
    AccessEntry {
        tenant: tenant.into(),
        consumer: consumer.map(Into::into),
    }
}

pub(crate) fn service(name: &str) -> Object {
    let endpoints = vec![Endpoint {
        url: "http://10.0.0.5:7001".into(),
    }];
    Object::Service(Service {
        name: name.into(),
        endpoints,
        access: Vec::new(),
        timeouts: Timeouts::default(),
    })
}

pub(crate) fn route(tenant: &str, name: &str, path: &str) -> Route {
    Route {
        tenant: tenant.into(),
        name: name.into(),
        service: "orders".into(),
        hosts: Vec::new(),
        paths: vec![path.into()],
        methods: Vec::new(),
        auth: Auth::Key,
        strip_prefix: None,
    }
}

pub(crate) fn key(tenant: &str, name: &str, n: u8) -> Key {
    Key {
        tenant: tenant.into(),
        consumer: "app".into(),
        name: name.into(),
        id: format!("id{n}").as_str().into(),
        hash: [n; 32],
        created_ms: NOW,
        expires_ms: None,
        previous: None,
    }
}

pub(crate) fn token(name: &str, role: Role, n: u8) -> Token {
    Token {
        name: name.into(),
        role,
        hash: [n; 32],
        created_ms: NOW,
        tenant: None,
    }
}

pub(crate) fn put(objects: Vec<Object>) -> Command {
    Command::Put {
        objects,
        dry_run: false,
    }
}

pub(crate) fn delete(kind: Kind, tenant: Option<&str>, name: &str) -> Command {
    Command::Delete(ObjectRef {
        kind,
        tenant: tenant.map(Into::into),
        name: name.into(),
    })
}

pub(crate) fn found() -> Command {
    Command::Found {
        cluster_id: [7; 16],
        wrapped_key: vec![1, 2, 3],
        root: token("root", Role::Root, 200),
    }
}

/// One of each kind, in an order in which nothing is defined before its use.
pub(crate) fn base() -> Vec<Object> {
    let mut fast = model("fast", "local");
    fast.access = Some(vec![access("acme", Some("app")), access("beta", None)]);
    vec![
        Object::Route(route("acme", "orders", "/orders")),
        Object::Model(fast),
        consumer("acme", "app"),
        consumer("beta", "app"),
        service("orders"),
        embedded("local"),
        tenant("acme"),
        tenant("beta"),
    ]
}

/// Decides and applies, as a leader does.
pub(crate) fn run(catalog: &mut Catalog, command: &Command) -> Result<Decision, Rejected> {
    let decision = catalog.decide(command, NOW)?;
    if !decision.events.is_empty() {
        let set = ChangeSet {
            base_revision: catalog.revision(),
            actor: "root".to_owned(),
            events: decision.events.clone(),
            ..ChangeSet::default()
        };
        let revision = catalog.revision() + 1;
        assert_eq!(
            catalog.apply_change_set(&set),
            Outcome::Changed { revision }
        );
    }
    assert_eq!(catalog.invariants(), Vec::<String>::new());
    Ok(decision)
}

/// A founded catalog with [`base`] in it.
pub(crate) fn catalog() -> Catalog {
    let mut catalog = Catalog::empty();
    run(&mut catalog, &found()).expect("a new cluster is founded");
    run(&mut catalog, &put(base())).expect("the base is sound");
    catalog
}

/// What a command did, one word per change.
pub(crate) fn what(catalog: &mut Catalog, command: &Command) -> Vec<ChangeKind> {
    let decision = run(catalog, command).expect("the command is accepted");
    decision
        .changes
        .into_iter()
        .map(|change| change.what)
        .collect()
}

/// Code and paths of a refusal.
pub(crate) fn refusal(catalog: &Catalog, command: &Command) -> (RejectedCode, Vec<String>) {
    let rejected = catalog
        .decide(command, NOW)
        .expect_err("the command is refused");
    assert!(rejected.violations.iter().all(|v| !v.problem.is_empty()));
    (
        rejected.code,
        rejected.violations.into_iter().map(|v| v.path).collect(),
    )
}
