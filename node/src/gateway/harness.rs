//! A worker whose clients and upstreams are in memory, for tests in paused time.

use std::cell::RefCell;
use std::future::Future;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use mode_envoy_model::catalog::{Catalog, Record};
use mode_envoy_model::consumer::Consumer;
use mode_envoy_model::key::Key;
use mode_envoy_model::model::{AccessEntry, Model, Target};
use mode_envoy_model::price::Price;
use mode_envoy_model::provider::{Protocol, Provider};
use mode_envoy_model::route::{Auth, Route};
use mode_envoy_model::service::{Endpoint, Service, Timeouts};
use mode_envoy_model::tenant::Tenant;
use mode_envoy_raft::ClusterSecret;
use mode_envoy_storage::spool::{self, SpoolOptions, SpoolReader};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::LocalSet;

use super::Shared;
use super::connection;
use super::settings::GatewayLimits;
use super::table::Table;
use super::worker::Worker;
use crate::freshness::Freshness;
use crate::secrets::{Keyring, Place, Secret, hash_api_key};
use crate::upstream::memory;
use crate::usage::record::{CloseHead, Dims, Record as UsageRecord};
use crate::usage::recorder::{Notice, Recorder};

/// The key of consumer `app` of tenant `acme`.
pub(super) const KEY: &str = "me-acme";
/// The key of consumer `other` of tenant `beta`.
pub(super) const OTHER_KEY: &str = "me-beta";
/// Expired long ago.
pub(super) const OLD_KEY: &str = "me-old";
/// The provider's own key.
pub(super) const PROVIDER_KEY: &str = "sk-provider";

const PIPE_BYTES: usize = 64 << 10;
const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7));

/// A worker under test.
pub(super) struct Harness {
    pub(super) worker: Rc<Worker>,
    pub(super) notice: Arc<Notice>,
    accepted: tokio::sync::Mutex<UnboundedReceiver<(String, DuplexStream)>>,
    reader: RefCell<SpoolReader>,
    _dir: tempfile::TempDir,
}

/// One end of a connection in memory.
pub(super) struct Peer {
    io: DuplexStream,
    read: Vec<u8>,
}

/// A call as its spool tells it.
#[derive(Debug)]
pub(super) enum Told {
    Open,
    Close(Box<(CloseHead, Dims)>),
}

/// Runs a test on one thread, in paused time.
pub(super) fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, test);
}

/// Lets so much of the test's own time pass; everything that is due meanwhile happens.
pub(super) async fn passes(time: Duration) {
    tokio::time::sleep(time).await;
}

// === impl Harness ===

impl Harness {
    /// A worker with the example's table and default limits.
    pub(super) fn new() -> Self {
        Self::with(example(), GatewayLimits::default())
    }

    pub(super) fn with(records: Vec<Record>, limits: GatewayLimits) -> Self {
        Self::standing(records, limits, Freshness::connected())
    }

    /// A worker of a node that may be cut off.
    pub(super) fn standing(
        records: Vec<Record>,
        limits: GatewayLimits,
        freshness: Freshness,
    ) -> Self {
        let (catalog, keyring) = catalog(records);
        let table = Table::compile(&catalog, Some(&keyring), &Table::empty()).unwrap();
        let (accept, accepted) = unbounded_channel();
        let network = memory::network(move |origin| {
            if origin.host.starts_with("down") {
                return Err(std::io::ErrorKind::ConnectionRefused.into());
            }
            let (ours, theirs) = duplex(PIPE_BYTES);
            let _ = accept.send((origin.host.to_string(), theirs));
            Ok(ours)
        });
        let dir = tempfile::tempdir().unwrap();
        let options = SpoolOptions {
            segment_bytes: 1 << 20,
            ..SpoolOptions::new(dir.path(), 0, [1; 16], 1, [2; 16])
        };
        let (writer, reader, _) = spool::open(options).unwrap();
        let notice = Arc::<Notice>::default();
        let recorder = Recorder::new(writer, Arc::clone(&notice));
        let table = Arc::new(ArcSwap::from_pointee(table));
        let shared = Shared {
            network,
            freshness,
            tls: None,
            limiter: crate::limits::channel(mode_envoy_raft::Contact::default(), true).0,
        };
        let worker = Worker::new(limits, table, shared, recorder).unwrap();
        Self {
            worker: Rc::new(worker),
            notice,
            accepted: tokio::sync::Mutex::new(accepted),
            reader: RefCell::new(reader),
            _dir: dir,
        }
    }

    /// A client's connection.
    pub(super) fn client(&self) -> Peer {
        let (ours, theirs) = duplex(PIPE_BYTES);
        let ticket = self
            .worker
            .connections
            .open(CLIENT, &self.worker.limits)
            .unwrap();
        let serving = connection::connection(Rc::clone(&self.worker), ours, CLIENT, ticket);
        tokio::task::spawn_local(serving);
        Peer {
            io: theirs,
            read: Vec::new(),
        }
    }

    /// The next connection that the worker opens, with the host it is meant for.
    pub(super) async fn upstream(&self) -> (String, Peer) {
        let accepted = self.accepted.lock().await.recv().await;
        let (host, io) = accepted.unwrap();
        (
            host,
            Peer {
                io,
                read: Vec::new(),
            },
        )
    }

    /// How many connections wait to be taken by [`Harness::upstream`].
    pub(super) fn connects(&self) -> usize {
        self.accepted.try_lock().unwrap().len()
    }

    /// Every record so far.
    pub(super) fn told(&self) -> Vec<Told> {
        let mut reader = self.reader.borrow_mut();
        if reader.next_seq() == 1 {
            return Vec::new();
        }
        let records = reader.read(1, 1_000, 1 << 20).unwrap();
        records
            .iter()
            .map(
                |record| match UsageRecord::parse(record.kind, record.version, &record.payload) {
                    Ok(UsageRecord::Close(head, dims)) => {
                        Told::Close(Box::new((head, dims.decode().unwrap())))
                    }
                    Ok(_) => Told::Open,
                    Err(error) => panic!("{error}"),
                },
            )
            .collect()
    }

    /// How each call so far was closed, in that order: its status, and whether it was cut.
    pub(super) fn closes(&self) -> Vec<(u16, bool)> {
        let told = self.told();
        told.iter()
            .filter_map(|told| match told {
                Told::Open => None,
                Told::Close(close) => Some((close.0.status, close.0.cut())),
            })
            .collect()
    }

    /// The one call so far: that it was opened, and how it was closed.
    pub(super) fn one_call(&self) -> (bool, CloseHead, Dims) {
        let mut told = self.told();
        let Some(Told::Close(close)) = told.pop() else {
            panic!("no close: {told:?}")
        };
        let (close, dims) = *close;
        match told.as_slice() {
            [] => (false, close, dims),
            [Told::Open] => (true, close, dims),
            other => panic!("more than one call: {other:?}"),
        }
    }
}

// === impl Peer ===

impl Peer {
    /// The connection itself.
    pub(super) fn into_io(self) -> DuplexStream {
        self.io
    }

    pub(super) async fn send(&mut self, text: impl AsRef<[u8]>) {
        self.io.write_all(text.as_ref()).await.unwrap();
    }

    /// Sends where the other side may close before it has taken everything.
    pub(super) async fn try_send(&mut self, text: &str) -> std::io::Result<()> {
        self.io.write_all(text.as_bytes()).await
    }

    /// Reads until `needle` has come, and gives everything up to its end.
    pub(super) async fn until(&mut self, needle: &str) -> String {
        loop {
            if let Some(at) = memchr::memmem::find(&self.read, needle.as_bytes()) {
                let rest = self.read.split_off(at + needle.len());
                return String::from_utf8(std::mem::replace(&mut self.read, rest)).unwrap();
            }
            let read = self.io.read_buf(&mut self.read).await.unwrap();
            let so_far = String::from_utf8_lossy(&self.read);
            assert!(read > 0, "closed before {needle:?} came: {so_far:?}");
        }
    }

    /// Reads until these bytes have come, whatever is around them.
    pub(super) async fn until_bytes(&mut self, needle: &[u8]) {
        while memchr::memmem::find(&self.read, needle).is_none() {
            let read = self.io.read_buf(&mut self.read).await.unwrap();
            assert!(read > 0, "closed before {needle:?} came: {:?}", self.read);
        }
    }

    /// A message with a content-length, or without a body.
    pub(super) async fn message(&mut self) -> (String, String) {
        let head = self.until("\r\n\r\n").await;
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = length.map_or(0, |length| length.parse().unwrap());
        while self.read.len() < length {
            assert!(
                self.io.read_buf(&mut self.read).await.unwrap() > 0,
                "closed within a body"
            );
        }
        let rest = self.read.split_off(length);
        let body = std::mem::replace(&mut self.read, rest);
        (head, String::from_utf8(body).unwrap())
    }

    /// Reads what there is, up to the size of the pipe.
    pub(super) async fn read_some(&mut self) -> usize {
        let before = std::mem::take(&mut self.read).len();
        let mut buffer = vec![0; PIPE_BYTES];
        before + self.io.read(&mut buffer).await.unwrap()
    }

    /// Everything until the other side closes.
    pub(super) async fn rest(&mut self) -> String {
        let mut rest = std::mem::take(&mut self.read);
        // A connection that is broken off has ended as well.
        let _ = self.io.read_to_end(&mut rest).await;
        String::from_utf8(rest).unwrap()
    }
}

// === the example ===

/// Tenants `acme` and `beta`; a service with one endpoint and one with two; a provider over HTTP and one in process.
pub(super) fn example() -> Vec<Record> {
    let mut records = vec![
        Record::Tenant(Arc::new(Tenant {
            name: "acme".into(),
            hosts: Vec::new(),
        })),
        Record::Tenant(Arc::new(Tenant {
            name: "beta".into(),
            hosts: Vec::new(),
        })),
        consumer("acme", "app", Some("retail")),
        consumer("beta", "other", None),
        key("acme", "app", KEY, None),
        key("beta", "other", OTHER_KEY, None),
        key("acme", "app", OLD_KEY, Some(1)),
        provider("openai", Protocol::Openai, "http://openai.test/v1"),
        provider("local", Protocol::Embedded, ""),
        model("fast", "openai", "gpt-4o-mini", None),
        model("echo", "local", "echo-1", None),
        model("private", "local", "echo-1", Some("beta")),
        service("orders", &["http://orders.test:7001"]),
        service(
            "pair",
            &["http://down.test:1", "http://second.test:2/base/"],
        ),
    ];
    records.push(route("orders", "orders", &[], "/orders/{*rest}", Auth::Key));
    records.push(route("open", "orders", &[], "/open", Auth::None));
    records.push(route("pair", "pair", &[], "/pair/{*rest}", Auth::Key));
    records.push(route(
        "host",
        "orders",
        &["api.acme.test"],
        "/v1/{*rest}",
        Auth::Key,
    ));
    records
}

pub(super) fn route(name: &str, service: &str, hosts: &[&str], path: &str, auth: Auth) -> Record {
    let strip = (name == "orders").then(|| Arc::from("/orders"));
    let methods = if name == "open" {
        vec![Arc::from("GET"), Arc::from("HEAD")]
    } else {
        vec![]
    };
    Record::Route(Arc::new(Route {
        tenant: "acme".into(),
        name: name.into(),
        service: service.into(),
        hosts: hosts.iter().map(|host| Arc::from(*host)).collect(),
        paths: vec![Arc::from(path)],
        methods,
        auth,
        strip_prefix: strip,
    }))
}

pub(super) fn service(name: &str, urls: &[&str]) -> Record {
    let endpoints = urls
        .iter()
        .map(|url| Endpoint {
            url: Arc::from(*url),
        })
        .collect();
    let timeouts = Timeouts::default();
    Record::Service(Arc::new(Service {
        name: name.into(),
        endpoints,
        access: Vec::new(),
        timeouts,
    }))
}

pub(super) fn consumer(tenant: &str, name: &str, team: Option<&str>) -> Record {
    let team = team.map(Into::into);
    Record::Consumer(Arc::new(Consumer {
        tenant: tenant.into(),
        name: name.into(),
        team,
    }))
}

pub(super) fn key(tenant: &str, consumer: &str, secret: &str, expires_ms: Option<u64>) -> Record {
    Record::Key(Arc::new(Key {
        tenant: tenant.into(),
        consumer: consumer.into(),
        name: secret.trim_start_matches("me-").into(),
        id: format!("id-{secret}").into(),
        hash: hash_api_key(secret),
        created_ms: 0,
        expires_ms,
        previous: None,
    }))
}

fn provider(name: &str, protocol: Protocol, base_url: &str) -> Record {
    Record::Provider(Arc::new(Provider {
        name: name.into(),
        protocol,
        base_url: base_url.into(),
        keys: Vec::new(),
        timeouts: Timeouts::default(),
    }))
}

fn model(name: &str, provider: &str, upstream: &str, only: Option<&str>) -> Record {
    let price = Price {
        input: 150_000,
        output: 600_000,
        cached_input: None,
        cache_write: None,
    };
    let access = only.map(|tenant| {
        vec![AccessEntry {
            tenant: tenant.into(),
            consumer: None,
        }]
    });
    Record::Model(Arc::new(Model {
        name: name.into(),
        targets: vec![Target {
            provider: provider.into(),
            model: upstream.into(),
            price: None,
        }],
        price: Some(price),
        access,
    }))
}

/// A catalog of `records`, each at a revision of its own; providers over HTTP get their key.
pub(super) fn catalog(records: Vec<Record>) -> (Catalog, Keyring) {
    let secret = ClusterSecret::parse(&"07".repeat(32)).unwrap();
    let (keyring, _) = Keyring::create(&secret, &[1; 16]).unwrap();
    let records: Vec<(u64, Record)> = (1..)
        .zip(records.into_iter().map(|r| sealed(r, &keyring)))
        .collect();
    let revision = records.len() as u64;
    (Catalog::restore(None, 1, revision, records), keyring)
}

fn sealed(record: Record, keyring: &Keyring) -> Record {
    match record {
        Record::Provider(provider) if provider.protocol == Protocol::Openai => {
            let secret = Secret::new(PROVIDER_KEY.to_owned());
            let place = Place::provider_keys(&provider.name);
            let keys = vec![keyring.seal(&secret, place).unwrap()];
            Record::Provider(Arc::new(Provider {
                keys,
                ..(*provider).clone()
            }))
        }
        other => other,
    }
}
