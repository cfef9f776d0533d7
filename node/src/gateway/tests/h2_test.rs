//! HTTP/2 on the gateway: the same calls, many at once on one connection, and what such a connection may not do.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper::rt::Executor;
use hyper_util::rt::TokioIo;
use tokio::task::JoinHandle;

use super::super::harness::{Harness, KEY, example, passes, run};
use super::super::settings::GatewayLimits;

#[derive(Clone, Copy)]
struct Here;

impl<F: Future<Output: 'static> + 'static> Executor<F> for Here {
    fn execute(&self, task: F) {
        tokio::task::spawn_local(task);
    }
}

struct Client {
    send: SendRequest<Full<Bytes>>,
    connection: JoinHandle<hyper::Result<()>>,
}

impl Client {
    async fn of(harness: &Harness) -> Self {
        let io = TokioIo::new(harness.client().into_io());
        let (send, connection) = http2::Builder::new(Here)
            .initial_stream_window_size(1 << 16)
            .initial_connection_window_size(1 << 20)
            .handshake(io)
            .await
            .unwrap();
        Self {
            send,
            connection: tokio::task::spawn_local(connection),
        }
    }

    fn start(
        &self,
        request: Request<Full<Bytes>>,
    ) -> JoinHandle<hyper::Result<Response<Incoming>>> {
        let mut send = self.send.clone();
        tokio::task::spawn_local(async move { send.send_request(request).await })
    }
}

fn request(method: &Method, path: &str, body: &'static str) -> Request<Full<Bytes>> {
    Request::builder()
        .method(method)
        .uri(format!("http://GW.test:8080{path}"))
        .header("x-api-key", KEY)
        .body(Full::from(body))
        .unwrap()
}

fn get(path: &str) -> Request<Full<Bytes>> {
    request(&Method::GET, path, "")
}

async fn text(response: Response<Incoming>) -> String {
    let body = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(body.to_vec()).unwrap()
}

#[test]
fn a_call_reaches_the_upstream_as_one_request_of_http_1() {
    run(async {
        let harness = Harness::new();
        let client = Client::of(&harness).await;
        let mut asked = request(&Method::POST, "/orders/7?a=b", "hello");
        let headers = asked.headers_mut();
        headers.insert("x-request-id", "mine".parse().unwrap());
        headers.append("cookie", "a=1".parse().unwrap());
        headers.append("cookie", "b=2".parse().unwrap());
        headers.insert("te", "trailers".parse().unwrap());
        let answer = client.start(asked);
        let (_, mut upstream) = harness.upstream().await;
        let head = upstream.until("\r\n\r\n").await;
        assert!(
            head.starts_with("POST /7?a=b HTTP/1.1\r\nhost: orders.test:7001\r\n"),
            "{head}"
        );
        assert!(head.contains("content-length: 5\r\n"), "{head}");
        assert!(head.contains("cookie: a=1; b=2\r\n"), "{head}");
        assert!(
            head.contains("x-forwarded-host: GW.test:8080\r\n"),
            "{head}"
        );
        assert!(!head.contains("te: ") && !head.contains(KEY), "{head}");
        upstream.until("hello").await;
        upstream
            .send("HTTP/1.1 201 Created\r\nConnection: close, x-hop\r\nX-Hop: 1\r\nContent-Length: 2\r\n\r\nok")
            .await;
        let answer = answer.await.unwrap().unwrap();
        assert_eq!(answer.status(), StatusCode::CREATED);
        assert_eq!(answer.headers()["x-request-id"], "mine");
        assert!(answer.headers().get("x-hop").is_none());
        assert_eq!(text(answer).await, "ok");
        let (opened, close, dims) = harness.one_call();
        assert!(opened && close.status == 201);
        assert_eq!((close.bytes_in, close.bytes_out), (5, 2));
        assert_eq!(&*dims.route, "orders");
    });
}

#[test]
fn calls_at_once_do_not_wait_for_each_other_and_one_that_is_cut_cuts_no_other() {
    run(async {
        let harness = Harness::new();
        let client = Client::of(&harness).await;
        let first = client.start(get("/orders/1"));
        let (_, mut one) = harness.upstream().await;
        one.until("\r\n\r\n").await;
        let second = client.start(get("/orders/2"));
        let (_, mut two) = harness.upstream().await;
        two.until("\r\n\r\n").await;
        two.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
            .await;
        let mut cut = second.await.unwrap().unwrap().into_body();
        assert_eq!(
            cut.frame().await.unwrap().unwrap().into_data().unwrap(),
            "half"
        );
        drop(two);
        assert!(cut.frame().await.unwrap().is_err());
        one.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwhole")
            .await;
        assert_eq!(text(first.await.unwrap().unwrap()).await, "whole");
        assert_eq!(harness.closes(), [(200, true), (200, false)]);
    });
}

#[test]
fn a_call_that_is_reset_is_recorded_and_its_upstream_let_go() {
    run(async {
        let harness = Harness::new();
        let client = Client::of(&harness).await;
        let call = client.start(get("/orders/1"));
        let (_, mut upstream) = harness.upstream().await;
        upstream.until("\r\n\r\n").await;
        call.abort();
        assert_eq!(upstream.rest().await, "");
        assert_eq!(harness.closes(), [(499, true)]);
    });
}

#[test]
fn what_the_gateway_refuses_has_its_code_there_too() {
    run(async {
        let harness = Harness::with(
            example(),
            GatewayLimits {
                head_bytes: 1_024,
                ai_body_bytes: 4,
                ..GatewayLimits::default()
            },
        );
        let client = Client::of(&harness).await;
        let long = format!("/{}", "x".repeat(2_000));
        for (request, status, code) in [
            (get("/nowhere"), 404, "not_found"),
            (get(&long), 431, "header_too_large"),
            (get("/a/../b"), 400, "request_invalid"),
            (
                request(&Method::POST, "/v1/chat/completions", "much too long"),
                413,
                "request_too_large",
            ),
        ] {
            let answer = client.start(request).await.unwrap().unwrap();
            assert_eq!(answer.status().as_u16(), status);
            assert_eq!(answer.headers()["x-mode-envoy-error"], code);
            assert!(answer.headers().contains_key("x-request-id"));
        }
        let mut two_hosts = get("/orders/1");
        two_hosts
            .headers_mut()
            .insert("host", "other.test".parse().unwrap());
        let answer = client.start(two_hosts).await.unwrap().unwrap();
        assert_eq!(answer.headers()["x-mode-envoy-error"], "request_invalid");
        assert_eq!(harness.connects(), 0);
    });
}

#[test]
fn an_idle_connection_is_closed_and_one_in_use_is_not() {
    run(async {
        let harness = Harness::new();
        let client = Client::of(&harness).await;
        let call = client.start(get("/orders/1"));
        let (_, mut upstream) = harness.upstream().await;
        passes(Duration::from_secs(25)).await;
        upstream.send("HTTP/1.1 204 No Content\r\n\r\n").await;
        call.await.unwrap().unwrap();
        passes(Duration::from_secs(70)).await;
        assert!(!client.connection.is_finished());
        passes(Duration::from_secs(15)).await;
        assert!(client.connection.is_finished());
    });
}

#[test]
fn a_client_that_opens_calls_only_to_reset_them_is_cut() {
    run(async {
        let harness = Harness::new();
        let client = Client::of(&harness).await;
        for _ in 0..600 {
            let call = client.start(get("/orders/1"));
            passes(Duration::from_millis(1)).await;
            call.abort();
            passes(Duration::from_millis(1)).await;
            if client.connection.is_finished() {
                break;
            }
        }
        assert!(client.connection.is_finished());
        let calls = harness.closes().len();
        assert!((400..=600).contains(&calls), "{calls}");
    });
}

#[test]
fn a_client_that_gives_an_answer_no_room_is_cut() {
    run(async {
        let harness = Harness::new();
        let client = Client::of(&harness).await;
        let call = client.start(get("/orders/1"));
        let (_, mut upstream) = harness.upstream().await;
        upstream.until("\r\n\r\n").await;
        let much = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n{}",
            "x".repeat(300_000)
        );
        let sending = tokio::task::spawn_local(async move {
            let _ = upstream.try_send(&much).await;
            upstream
        });
        let answer = call.await.unwrap().unwrap();
        passes(Duration::from_secs(50)).await;
        assert!(!client.connection.is_finished());
        passes(Duration::from_secs(20)).await;
        assert!(client.connection.is_finished());
        drop(answer);
        sending.abort();
        assert_eq!(harness.closes(), [(200, true)]);
    });
}

/// A megabyte that the gateway reads whole before any of it leaves.
async fn whole_answer(harness: &Harness, client: &Client) -> (String, Incoming) {
    let mut asked = request(
        &Method::POST,
        "/v1/embeddings",
        r#"{"model": "fast", "input": "x"}"#,
    );
    let bearer = format!("Bearer {KEY}").parse().unwrap();
    asked.headers_mut().insert("authorization", bearer);
    let call = client.start(asked);
    let (_, mut upstream) = harness.upstream().await;
    upstream.message().await;
    let body = format!(r#"{{"data": "{}"}}"#, "0123456789".repeat(100_000));
    let length = body.len();
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    );
    upstream.send(head + &body).await;
    let answer = call.await.unwrap().unwrap();
    assert_eq!(answer.headers()["content-length"], length.to_string());
    (body, answer.into_body())
}

#[test]
fn a_client_that_takes_a_large_answer_slowly_but_steadily_gets_all_of_it() {
    run(async {
        let harness = Harness::new();
        let client = Client::of(&harness).await;
        let (sent, mut answer) = whole_answer(&harness, &client).await;
        let begun = tokio::time::Instant::now();
        let mut came = Vec::new();
        while let Some(frame) = answer.frame().await {
            came.extend_from_slice(&frame.unwrap().into_data().unwrap());
            passes(Duration::from_secs(5)).await;
        }
        assert!(came == sent.as_bytes(), "{} bytes", came.len());
        let limits = GatewayLimits::default();
        assert!(begun.elapsed() > limits.keep_alive + limits.client_idle * 2);
        assert_eq!(harness.closes(), [(200, false)]);
    });
}

#[test]
fn a_client_that_stops_in_the_midst_of_a_large_answer_is_cut() {
    run(async {
        let harness = Harness::new();
        let client = Client::of(&harness).await;
        let (_, mut answer) = whole_answer(&harness, &client).await;
        for _ in 0..20 {
            answer.frame().await.unwrap().unwrap();
            passes(Duration::from_secs(5)).await;
        }
        passes(Duration::from_secs(45)).await;
        assert!(!client.connection.is_finished());
        passes(Duration::from_secs(25)).await;
        assert!(client.connection.is_finished());
    });
}

#[test]
fn a_drain_lets_calls_end_and_takes_no_new_ones() {
    run(async {
        let harness = Harness::new();
        let client = Client::of(&harness).await;
        let call = client.start(get("/orders/1"));
        let (_, mut upstream) = harness.upstream().await;
        harness.worker.connections.drain();
        passes(Duration::from_millis(1)).await;
        upstream
            .send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            .await;
        assert_eq!(text(call.await.unwrap().unwrap()).await, "ok");
        passes(Duration::from_secs(1)).await;
        assert!(client.connection.is_finished());
        assert_eq!(harness.worker.connections.count(), 0);
    });
}
