//! The workers as threads on real sockets: start, serve, stop.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use mode_envoy_storage::spool::{self, SpoolOptions};

use super::super::{Gateway, GatewayLimits, GatewaySettings, Shared, Table, start};
use crate::freshness::Freshness;
use crate::limits;
use crate::usage::recorder::{Notice, Recorder};
use mode_envoy_raft::Contact;

fn recorder(dir: &std::path::Path, worker: u32) -> Recorder {
    let options = SpoolOptions {
        segment_bytes: 1 << 20,
        ..SpoolOptions::new(dir, worker, [1; 16], 1, [2; 16])
    };
    Recorder::new(spool::open(options).unwrap().0, Arc::<Notice>::default())
}

fn gateway(dir: &std::path::Path, workers: usize) -> Gateway {
    limited(dir, workers, GatewayLimits::default())
}

fn limited(dir: &std::path::Path, workers: usize, limits: GatewayLimits) -> Gateway {
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let table = Arc::new(ArcSwap::from_pointee(Table::empty()));
    let recorders = (0..)
        .take(workers)
        .map(|worker| recorder(dir, worker))
        .collect();
    start(
        GatewaySettings {
            limits,
            ..GatewaySettings::new(addr, workers, 1)
        },
        table,
        recorders,
        Shared::new(
            Freshness::connected(),
            limits::channel(Contact::default(), true).0,
        )
        .unwrap(),
    )
    .unwrap()
}

fn ask(client: &mut TcpStream) -> String {
    client
        .write_all(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n")
        .unwrap();
    let mut read = vec![0; 4_096];
    let count = client.read(&mut read).unwrap();
    String::from_utf8_lossy(&read[..count]).into_owned()
}

#[tokio::test]
async fn every_worker_serves_and_a_drain_ends_them_and_closes_idle_connections() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = gateway(dir.path(), 2);
    let addr = gateway.local_addr();
    let mut clients: Vec<TcpStream> = (0..8).map(|_| TcpStream::connect(addr).unwrap()).collect();
    for client in &mut clients {
        assert!(ask(client).starts_with("HTTP/1.1 404 Not Found\r\n"));
    }
    gateway.drain(Duration::from_secs(30)).await;
    for client in &mut clients {
        assert_eq!(client.read(&mut [0; 16]).unwrap(), 0);
    }
    assert!(TcpStream::connect(addr).is_err());
}

#[tokio::test]
async fn a_connection_that_never_sent_anything_holds_up_no_drain() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = gateway(dir.path(), 1);
    let addr = gateway.local_addr();
    let mut silent = TcpStream::connect(addr).unwrap();
    // The silent one has been accepted once a later one was answered.
    assert!(ask(&mut TcpStream::connect(addr).unwrap()).starts_with("HTTP/1.1 404"));
    let start = std::time::Instant::now();
    gateway.drain(Duration::from_secs(30)).await;
    assert!(start.elapsed() < Duration::from_secs(20));
    assert_eq!(silent.read(&mut [0; 16]).unwrap(), 0);
}

#[tokio::test]
async fn what_does_not_end_in_time_is_cut() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = gateway(dir.path(), 1);
    let mut client = TcpStream::connect(gateway.local_addr()).unwrap();
    // A head that never ends is a call in flight to the connection.
    client.write_all(b"GET /x HTTP/1.1\r\n").unwrap();
    gateway.drain(Duration::ZERO).await;
    assert_eq!(client.read(&mut [0; 16]).unwrap_or(0), 0);
}

#[test]
fn a_worker_without_a_spool_is_refused() {
    let table = Arc::new(ArcSwap::from_pointee(Table::empty()));
    let settings = GatewaySettings::new(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), 1, 1);
    assert!(
        start(
            settings,
            table,
            Vec::new(),
            Shared::new(
                Freshness::connected(),
                limits::channel(Contact::default(), true).0
            )
            .unwrap()
        )
        .is_err()
    );
}

#[tokio::test]
async fn a_connection_too_many_is_told_so_and_closed() {
    let dir = tempfile::tempdir().unwrap();
    let limits = GatewayLimits {
        connections_per_client: 2,
        ..GatewayLimits::default()
    };
    let gateway = limited(dir.path(), 1, limits);
    let addr = gateway.local_addr();
    let mut served: Vec<TcpStream> = (0..2).map(|_| TcpStream::connect(addr).unwrap()).collect();
    for client in &mut served {
        assert!(ask(client).starts_with("HTTP/1.1 404 "));
    }
    let mut refused = String::new();
    TcpStream::connect(addr)
        .unwrap()
        .read_to_string(&mut refused)
        .unwrap();
    let (head, body) = refused.split_once("\r\n\r\n").unwrap();
    assert!(
        head.starts_with("HTTP/1.1 503 Service Unavailable\r\n"),
        "{head}"
    );
    for field in [
        "x-mode-envoy-error: overloaded",
        "x-request-id: ",
        "retry-after: 1",
        "connection: close",
        &format!("content-length: {}", body.len()),
    ] {
        assert!(head.contains(field), "{field} is not in {head}");
    }
    assert!(ask(&mut served[0]).starts_with("HTTP/1.1 404 "));
    gateway.drain(Duration::from_secs(5)).await;
}
