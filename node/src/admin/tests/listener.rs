//! The listener itself: pages, health, reflection, and what it says before there is a cluster.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use mode_envoy_proto::admin::v1 as pb;
use mode_envoy_proto::admin::v1::config_client::ConfigClient;
use mode_envoy_raft::Phase;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use super::harness::{DOCUMENT, Node};
use crate::admin::{AdminContext, serve, services};
use crate::cli::client::Client;
use crate::readiness::{Readiness, Stage};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reflection_lists_the_services_of_this_listener() {
    let node = Node::founded().await;
    let mut reflection = ServerReflectionClient::new(node.channel().await);
    let ask = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut answers = reflection
        .server_reflection_info(tokio_stream::iter([ask]))
        .await
        .unwrap()
        .into_inner();
    let answer = answers
        .message()
        .await
        .unwrap()
        .unwrap()
        .message_response
        .unwrap();
    let MessageResponse::ListServicesResponse(list) = answer else {
        panic!("{answer:?}")
    };
    let names: BTreeSet<_> = list
        .service
        .into_iter()
        .map(|service| service.name)
        .collect();
    for service in services::SERVICES {
        assert!(names.contains(service), "{names:?}");
    }
    assert!(!names.iter().any(|name| name.contains("peer")), "{names:?}");
}

#[tokio::test]
async fn while_the_cluster_is_formed_callers_learn_what_is_waited_for() {
    let node = Node::forming().await;
    let refused = node.apply("met-x", DOCUMENT).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(
        refused
            .message()
            .contains("node 2 at 127.0.0.2:7071: connection refused")
    );

    let (status, rest) = node.page("GET /readyz").await;
    assert_eq!(status, "HTTP/1.1 503 Service Unavailable");
    assert!(
        rest.ends_with("forming: node 2 at 127.0.0.2:7071: connection refused\n"),
        "{rest}"
    );
    let (status, rest) = node.page("GET /healthz").await;
    assert_eq!(
        (status.as_str(), rest.ends_with("ok\n")),
        ("HTTP/1.1 200 OK", true)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_pages_say_what_they_promise() {
    let node = Node::founded().await;
    node.readiness.set(Stage::Serving);
    let (status, rest) = node.page("GET /readyz").await;
    assert_eq!(
        (status.as_str(), rest.ends_with("\r\n\r\nready\n")),
        ("HTTP/1.1 200 OK", true)
    );
    let (_, rest) = node.page("GET /metrics").await;
    assert!(
        rest.ends_with("up 1\n") && rest.contains("version=0.0.4"),
        "{rest}"
    );
    assert!(node.page("GET /").await.1.contains("modeenvoy.admin.v1"));
    assert_eq!(node.page("GET /secrets").await.0, "HTTP/1.1 404 Not Found");
    assert_eq!(
        node.page("POST /metrics").await.0,
        "HTTP/1.1 405 Method Not Allowed"
    );

    let mut health = HealthClient::new(node.channel().await);
    let watched = health.watch(HealthCheckRequest::default()).await.unwrap();
    let mut watched = watched.into_inner();
    let serving = tonic_health::pb::health_check_response::ServingStatus::Serving as i32;
    while watched.message().await.unwrap().unwrap().status != serving {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_line_tries_its_addresses_in_turn() {
    let (forming, node) = (Node::forming().await, Node::founded().await);
    let unused = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let url = |address: SocketAddr| format!("http://{address}");
    let call = async |urls: &[String]| {
        let client = Client::new(urls, Some(&node.root), None).unwrap();
        let send =
            |channel, request| async move { ConfigClient::new(channel).export(request).await };
        client.call(pb::ExportRequest::default(), send).await
    };
    let answered = call(&[url(unused), url(forming.address), url(node.address)])
        .await
        .unwrap();
    assert_eq!(answered.revision, 1);

    let refused = call(&[url(unused)]).await.unwrap_err().to_string();
    assert!(
        refused.starts_with("no node answered: http://127.0.0.1:"),
        "{refused}"
    );
    let refused = call(&[url(unused), url(forming.address)])
        .await
        .unwrap_err()
        .to_string();
    assert!(refused.contains("connection refused"), "{refused}");
}

#[tokio::test]
async fn away_from_loopback_metrics_and_health_take_a_token() {
    let node = Node::forming().await;
    assert_eq!(
        node.page("GET /metrics").await.0,
        "HTTP/1.1 503 Service Unavailable"
    );
    let mut health = HealthClient::new(node.channel().await);
    let refused = health
        .check(HealthCheckRequest::default())
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert_eq!(node.page("GET /healthz").await.0, "HTTP/1.1 200 OK");
}

#[tokio::test]
async fn it_ends_when_it_is_told_to() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let phase = watch::channel(Phase::Starting).1;
    let context = AdminContext {
        readiness: Readiness::new(phase.clone()),
        metrics: Arc::new(String::new),
        phase,
        control: watch::channel(None).1,
        tls: None,
        open: true,
    };
    let shutdown = CancellationToken::new();
    shutdown.cancel();
    serve(listener, context, shutdown).await.unwrap();
}
