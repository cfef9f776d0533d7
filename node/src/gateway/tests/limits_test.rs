//! Limits of what clients send.

use std::time::Duration;

use tokio::time::Instant;

use super::super::harness::{Harness, KEY, example, passes, run};
use super::super::settings::GatewayLimits;

fn small() -> Harness {
    let limits = GatewayLimits {
        head_bytes: 1_024,
        ai_body_bytes: 64,
        proxied_body_bytes: 8,
        ..GatewayLimits::default()
    };
    Harness::with(example(), limits)
}

fn post(path: &str, framing: &str, body: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: a\r\nX-Api-Key: {KEY}\r\n{framing}\r\n\r\n{body}")
}

#[test]
fn a_body_that_announces_too_much_is_refused_before_anything_is_sent() {
    run(async {
        let harness = small();
        for path in ["/orders/1", "/v1/chat/completions"] {
            let mut client = harness.client();
            client.send(post(path, "Content-Length: 1000", "")).await;
            let (head, _) = client.message().await;
            assert!(head.starts_with("HTTP/1.1 413 "), "{head}");
            assert!(
                head.contains("x-mode-envoy-error: request_too_large\r\n"),
                "{head}"
            );
        }
        assert_eq!(harness.connects(), 0);
    });
}

#[test]
fn a_body_that_turns_out_too_long_is_refused_and_the_upstream_let_go() {
    run(async {
        let harness = small();
        let mut client = harness.client();
        client
            .send(post(
                "/orders/1",
                "Transfer-Encoding: chunked",
                "4\r\nfour\r\n",
            ))
            .await;
        let (_, mut upstream) = harness.upstream().await;
        upstream.until("four").await;
        client.send("5\r\nfives\r\n0\r\n\r\n").await;
        let (head, _) = client.message().await;
        assert!(head.starts_with("HTTP/1.1 413 "), "{head}");
        assert!(!upstream.rest().await.contains("0\r\n\r\n"));
        let (opened, close, _) = harness.one_call();
        assert!(opened);
        assert_eq!(close.status, 413);
    });
}

#[test]
fn an_ai_body_is_bounded_though_it_does_not_announce_its_length() {
    run(async {
        let harness = small();
        let mut client = harness.client();
        let chunk = format!("60\r\n{}\r\n0\r\n\r\n", "x".repeat(0x60));
        client
            .send(post(
                "/v1/chat/completions",
                "Transfer-Encoding: chunked",
                &chunk,
            ))
            .await;
        let (head, body) = client.message().await;
        assert!(head.starts_with("HTTP/1.1 413 "), "{head}");
        assert!(body.contains("\"code\":\"request_too_large\""), "{body}");
    });
}

#[test]
fn a_head_that_is_too_long_is_told_so() {
    run(async {
        let harness = small();
        let mut client = harness.client();
        client
            .send(format!(
                "GET /open HTTP/1.1\r\nHost: a\r\nX-Long: {}\r\n\r\n",
                "x".repeat(2_000)
            ))
            .await;
        let (head, _) = client.message().await;
        assert!(head.starts_with("HTTP/1.1 431 "), "{head}");
        assert!(
            head.contains("x-mode-envoy-error: header_too_large\r\n"),
            "{head}"
        );
    });
}

/// Sends what hyper refuses; the answer must be complete and the connection's last.
async fn assert_refused(harness: &Harness, request: &str, status: u16, code: &str) {
    let mut client = harness.client();
    // The connection may be closed before everything is taken.
    let _ = client.try_send(request).await;
    assert_complete(client.message().await, status, code);
    assert_eq!(client.rest().await, "");
}

fn assert_complete((head, body): (String, String), status: u16, code: &str) {
    assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
    for field in [
        &format!("x-mode-envoy-error: {code}\r\n"),
        "content-type: application/problem+json\r\n",
        "connection: close\r\n",
        "date: ",
    ] {
        assert!(head.contains(field), "{field} in {head}");
    }
    let (_, id) = head.split_once("x-request-id: ").unwrap();
    assert_eq!(id.find("\r\n"), Some(32), "{head}");
    let problem: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(problem["status"], status);
    assert_eq!(problem["code"], code);
}

#[test]
fn a_head_that_hyper_refuses_is_answered_in_full_and_the_connection_closed() {
    run(async {
        let harness = Harness::new();
        let long = "x".repeat(100 << 10);
        let lines = "X-A: b\r\n".repeat(150);
        for request in [
            format!("GET /open HTTP/1.1\r\nHost: a\r\n{lines}\r\n"),
            format!("GET /open HTTP/1.1\r\nHost: a\r\nX-Long: {long}\r\n\r\n"),
            format!("GET /open/{long} HTTP/1.1\r\nHost: a\r\n\r\n"),
        ] {
            assert_refused(&harness, &request, 431, "header_too_large").await;
        }
        for request in [
            "GET\r\n\r\n",
            "GET /open HTTP/7.0\r\n\r\n",
            "GET /open HTTP/1.1\r\nno field\r\n\r\n",
            "POST /open HTTP/1.1\r\nHost: a\r\nContent-Length: many\r\n\r\n",
        ] {
            assert_refused(&harness, request, 400, "request_invalid").await;
        }
        assert_eq!(harness.connects(), 0);
    });
}

#[test]
fn a_head_that_hyper_refuses_behind_a_good_request_is_answered_in_full_too() {
    run(async {
        let harness = Harness::new();
        let mut client = harness.client();
        client
            .send("GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\nGET\r\n\r\n")
            .await;
        let (head, body) = client.message().await;
        assert!(head.starts_with("HTTP/1.1 404 "), "{head}");
        assert!(body.contains("\"code\":\"not_found\""), "{body}");
        assert_complete(client.message().await, 400, "request_invalid");
        assert_eq!(client.rest().await, "");
    });
}

#[test]
fn a_body_that_reads_like_a_refusal_of_hyper_is_relayed_as_it_is() {
    run(async {
        let harness = Harness::new();
        let mut client = harness.client();
        client.send("GET /open HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let (_, mut upstream) = harness.upstream().await;
        upstream.message().await;
        let looks = "HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n";
        upstream
            .send(format!(
                "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n",
                2 * looks.len()
            ))
            .await;
        // Each piece is a write of its own; the call is over before the last is written.
        client.until("\r\n\r\n").await;
        upstream.send(looks).await;
        client.until(looks).await;
        upstream.send(looks).await;
        client.until(looks).await;
        client
            .send("GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n")
            .await;
        let (head, _) = client.message().await;
        assert!(head.starts_with("HTTP/1.1 404 "), "{head}");
    });
}

#[test]
fn an_idle_connection_is_closed_after_keep_alive_whether_it_has_served_or_not() {
    run(async {
        let harness = Harness::new();
        let start = Instant::now();
        assert_eq!(harness.client().rest().await, "");
        assert_eq!(start.elapsed().as_secs(), 75);
        let mut client = harness.client();
        client.send("GET /x HTTP/1.1\r\nHost: a\r\n\r\n").await;
        client.message().await;
        let start = Instant::now();
        assert_eq!(client.rest().await, "");
        assert_eq!(start.elapsed().as_secs(), 75);
    });
}

#[test]
fn a_head_that_trickles_has_no_longer_than_one_that_stalls() {
    run(async {
        let harness = Harness::new();
        let mut client = harness.client();
        let start = Instant::now();
        for byte in "GET /x HTTP/1.1\r\nHost: a".bytes() {
            if start.elapsed() >= Duration::from_secs(10) {
                break;
            }
            client.send([byte]).await;
            passes(Duration::from_secs(3)).await;
        }
        assert_eq!(client.rest().await, "");
        assert_eq!(harness.worker.connections.count(), 0);
    });
}

#[test]
fn a_client_that_takes_nothing_of_its_answer_is_given_up() {
    run(async {
        let harness = Harness::new();
        let mut client = harness.client();
        client.send("GET /open HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let (_, mut upstream) = harness.upstream().await;
        upstream.message().await;
        let start = Instant::now();
        let big = "x".repeat(1 << 20);
        upstream
            .send("HTTP/1.1 200 OK\r\ncontent-length: 1048576\r\n\r\n")
            .await;
        assert!(upstream.try_send(&big).await.is_err());
        assert_eq!(start.elapsed().as_secs(), 60);
        let (_, close, _) = harness.one_call();
        assert!(close.cut());
    });
}

#[test]
fn a_body_that_trickles_has_an_end_too() {
    run(async {
        let harness = Harness::new();
        let mut client = harness.client();
        client
            .send(post("/v1/chat/completions", "Content-Length: 1000", "{"))
            .await;
        // A byte every 30 s is never idle for a minute.
        for _ in 0..10 {
            let _ = client.try_send(" ").await;
            passes(Duration::from_secs(30)).await;
        }
        let (head, _) = client.message().await;
        assert!(head.starts_with("HTTP/1.1 400 "), "{head}");
        assert!(
            head.contains("x-mode-envoy-error: request_invalid\r\n"),
            "{head}"
        );
        let (_, close, _) = harness.one_call();
        assert_eq!(close.latency_us / 1_000_000, 120);
    });
}
