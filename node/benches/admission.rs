//! How long a request is held up before anything is sent: head, route, key, dimensions, Open and Close.
//!
//! Budget: a few microseconds at most, whatever the size of the catalog; recording alone is at most 500 ns.

#![expect(
    clippy::unwrap_used,
    reason = "a benchmark that cannot begin has nothing to tell"
)]

use std::sync::Arc;

use divan::Bencher;
use http::Request;
use http::request::Parts;
use mode_envoy_model::catalog::{Catalog, Record};
use mode_envoy_model::consumer::Consumer;
use mode_envoy_model::key::Key;
use mode_envoy_model::route::{Auth, Route};
use mode_envoy_model::service::{Endpoint, Service, Timeouts};
use mode_envoy_model::tenant::Tenant;
use mode_envoy_node::gateway::Admission;
use mode_envoy_node::secrets::hash_api_key;

fn main() {
    divan::main();
}

/// One tenant with so many keys and routes.
fn catalog(keys: usize, routes: usize) -> Catalog {
    let tenant = || Arc::<str>::from("acme");
    let name = |what: &str, number: usize| Arc::<str>::from(format!("{what}{number}"));
    let mut records = vec![
        Record::Tenant(Arc::new(Tenant {
            name: tenant(),
            hosts: Vec::new(),
        })),
        Record::Consumer(Arc::new(Consumer {
            tenant: tenant(),
            name: name("app", 0),
            team: None,
        })),
        Record::Service(Arc::new(Service {
            name: name("service", 0),
            endpoints: vec![Endpoint {
                url: Arc::from("http://127.0.0.1:9"),
            }],
            access: Vec::new(),
            timeouts: Timeouts::default(),
        })),
    ];
    records.extend((0..keys).map(|number| {
        Record::Key(Arc::new(Key {
            tenant: tenant(),
            consumer: name("app", 0),
            name: name("key", number),
            id: name("id", number),
            hash: hash_api_key(&secret(number)),
            created_ms: 0,
            expires_ms: None,
            previous: None,
        }))
    }));
    records.extend((0..routes).map(|number| {
        Record::Route(Arc::new(Route {
            tenant: tenant(),
            name: name("route", number),
            service: name("service", 0),
            hosts: Vec::new(),
            paths: vec![Arc::from(format!("/api/{number}/{{*rest}}"))],
            methods: Vec::new(),
            auth: Auth::Key,
            strip_prefix: None,
        }))
    }));
    Catalog::restore(None, 1, 1, records.into_iter().map(|record| (1, record)))
}

fn secret(number: usize) -> String {
    format!("me-{number:043}")
}

fn request(number: usize) -> Parts {
    let request = Request::get(format!("/api/{number}/orders/17?full=1"))
        .header("host", "gateway.test:8080")
        .header("authorization", format!("Bearer {}", secret(number)))
        .header("user-agent", "bench/1.0")
        .header("accept", "*/*");
    request.body(()).unwrap().into_parts().0
}

#[divan::bench(args = [(100, 10), (100_000, 5_000)], max_time = 2)]
fn admission(bencher: Bencher<'_, '_>, (keys, routes): (usize, usize)) {
    let dir = tempfile::tempdir().unwrap();
    let admission = Admission::new(&catalog(keys, routes), dir.path()).unwrap();
    let parts = request(routes / 2);
    bencher.bench_local(|| assert!(admission.admit(&parts)));
}
