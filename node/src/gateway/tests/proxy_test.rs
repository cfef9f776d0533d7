//! Requests to services: what crosses, when it leaves, how it is recorded.

use std::time::Duration;

use tokio::time::Instant;

use super::super::harness::{Harness, KEY, passes, run};

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: gw.test\r\nAuthorization: Bearer {KEY}\r\n\r\n")
}

#[test]
fn a_request_reaches_its_service_without_the_credential_and_its_answer_comes_back() {
    run(async {
        let harness = Harness::new();
        let mut client = harness.client();
        client
            .send(format!(
                "GET /orders/7?a=b&key={KEY} HTTP/1.1\r\nHost: GW.test:8080\r\nX-Api-Key: {KEY}\r\n\
                 Connection: x-hop\r\nX-Hop: 1\r\nX-Mode-Envoy-Tenant: evil\r\nX-Forwarded-For: 198.51.100.1\r\n\
                 X-Forwarded-Proto: https\r\nForwarded: for=evil\r\nX-Request-Id: my-id.1\r\nAccept: */*\r\n\r\n"
            ))
            .await;
        let (host, mut upstream) = harness.upstream().await;
        let (head, _) = upstream.message().await;
        assert_eq!(host, "orders.test");
        assert_eq!(
            head,
            "GET /7?a=b HTTP/1.1\r\nhost: orders.test:7001\r\naccept: */*\r\nx-request-id: my-id.1\r\n\
             x-forwarded-for: 198.51.100.1, 192.0.2.7\r\nx-forwarded-proto: http\r\n\
             x-forwarded-host: GW.test:8080\r\n\r\n"
        );
        upstream
            .send("HTTP/1.1 201 Made\r\nContent-Length: 5\r\nX-App: 1\r\nX-Mode-Envoy-Error: fake\r\nKeep-Alive: 5\r\n\r\nhello")
            .await;
        let (head, body) = client.message().await;
        assert!(head.starts_with("HTTP/1.1 201 Created\r\n"), "{head}");
        assert!(
            head.contains("x-app: 1\r\n") && head.contains("x-request-id: my-id.1\r\n"),
            "{head}"
        );
        assert!(head.contains("x-mode-envoy-call-id: "), "{head}");
        assert!(
            !head.contains("fake") && !head.contains("keep-alive"),
            "{head}"
        );
        assert_eq!(body, "hello");
        let (opened, close, dims) = harness.one_call();
        assert!(opened && close.answered() && !close.rejected() && !close.cut());
        assert_eq!((close.status, close.bytes_in, close.bytes_out), (201, 0, 5));
        assert_eq!(
            (&*dims.tenant, &*dims.team, &*dims.consumer),
            ("acme", "retail", "app")
        );
        assert_eq!(
            (&*dims.key, &*dims.route, &*dims.model),
            ("acme", "orders", "")
        );
    });
}

#[test]
fn one_upstream_connection_serves_one_request_after_another() {
    run(async {
        let harness = Harness::new();
        let mut client = harness.client();
        client.send(get("/orders/1")).await;
        let (_, mut upstream) = harness.upstream().await;
        for (path, next) in [("/1", Some("/orders/2")), ("/2", None)] {
            let (head, _) = upstream.message().await;
            assert!(
                head.starts_with(&format!("GET {path} HTTP/1.1\r\n")),
                "{head}"
            );
            upstream
                .send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                .await;
            assert_eq!(client.message().await.1, "ok");
            if let Some(next) = next {
                client.send(get(next)).await;
            }
        }
        assert_eq!(harness.connects(), 0);
        assert_eq!(harness.worker.pool.idle(), 1);
    });
}

#[test]
fn what_came_so_far_leaves_before_the_upstream_has_ended() {
    run(async {
        let harness = Harness::new();
        let mut client = harness.client();
        client.send(get("/orders/stream")).await;
        let (_, mut upstream) = harness.upstream().await;
        upstream.message().await;
        upstream
            .send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n")
            .await;
        client.until("3\r\none\r\n").await;
        upstream.send("3\r\ntwo\r\n5\r\nthree\r\n").await;
        // Two chunks of one read are one chunk on the way out.
        client.until("8\r\ntwothree\r\n").await;
        upstream.send("0\r\n\r\n").await;
        client.until("0\r\n\r\n").await;
        let (_, close, _) = harness.one_call();
        assert_eq!(
            (close.status, close.cut(), close.bytes_out),
            (200, false, 11)
        );
    });
}

#[test]
fn a_body_is_passed_on_as_it_comes() {
    run(async {
        let harness = Harness::new();
        let mut client = harness.client();
        client
            .send(format!(
                "POST /orders/up HTTP/1.1\r\nHost: a\r\nApiKey: {KEY}\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n"
            ))
            .await;
        let (_, mut upstream) = harness.upstream().await;
        let head = upstream.until("3\r\none\r\n").await;
        assert!(head.contains("transfer-encoding: chunked\r\n"), "{head}");
        client.send("3\r\ntwo\r\n0\r\n\r\n").await;
        upstream.until("3\r\ntwo\r\n0\r\n\r\n").await;
        upstream.send("HTTP/1.1 204 No Content\r\n\r\n").await;
        let (head, _) = client.message().await;
        assert!(head.starts_with("HTTP/1.1 204 No Content\r\n"), "{head}");
        let (_, close, _) = harness.one_call();
        assert_eq!((close.bytes_in, close.bytes_out), (6, 0));
    });
}

#[test]
fn a_small_body_leaves_in_one_write_with_its_head() {
    run(async {
        let harness = Harness::new();
        let mut client = harness.client();
        client
            .send(format!("PUT /orders/x HTTP/1.1\r\nHost: a\r\nApi-Key: {KEY}\r\nContent-Length: 4\r\n\r\nbody"))
            .await;
        let (_, mut upstream) = harness.upstream().await;
        let (head, body) = upstream.message().await;
        assert!(head.contains("content-length: 4\r\n"), "{head}");
        assert_eq!(body, "body");
    });
}

#[test]
fn answers_without_a_body_keep_the_length_they_speak_of() {
    run(async {
        let harness = Harness::new();
        let mut client = harness.client();
        client.send("HEAD /open HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let (_, mut upstream) = harness.upstream().await;
        upstream.message().await;
        upstream
            .send("HTTP/1.1 200 OK\r\ncontent-length: 42\r\n\r\n")
            .await;
        let head = client.until("\r\n\r\n").await;
        assert!(head.contains("content-length: 42\r\n"), "{head}");
        client
            .send("GET /open HTTP/1.1\r\nHost: a\r\nIf-None-Match: x\r\n\r\n")
            .await;
        upstream.message().await;
        upstream
            .send("HTTP/1.1 304 Not Modified\r\netag: x\r\n\r\n")
            .await;
        let head = client.until("\r\n\r\n").await;
        assert!(
            head.starts_with("HTTP/1.1 304") && head.contains("etag: x"),
            "{head}"
        );
    });
}

#[test]
fn an_open_route_passes_the_clients_own_authorization() {
    run(async {
        let harness = Harness::new();
        let mut client = harness.client();
        client
            .send(
                "GET /open?key=mine HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer app-token\r\n\r\n",
            )
            .await;
        let (_, mut upstream) = harness.upstream().await;
        let (head, _) = upstream.message().await;
        assert!(
            head.starts_with("GET /open?key=mine HTTP/1.1\r\n"),
            "{head}"
        );
        assert!(
            head.contains("authorization: Bearer app-token\r\n"),
            "{head}"
        );
    });
}

#[test]
fn an_endpoint_that_cannot_be_connected_to_is_passed_over() {
    run(async {
        let harness = Harness::new();
        let mut client = harness.client();
        client.send(get("/pair/x")).await;
        let (host, mut upstream) = harness.upstream().await;
        assert_eq!(host, "second.test");
        let (head, _) = upstream.message().await;
        assert!(head.starts_with("GET /base/pair/x HTTP/1.1\r\n"), "{head}");
        upstream
            .send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            .await;
        client.message().await;
        let (opened, close, _) = harness.one_call();
        assert!(opened && close.status == 200);
    });
}

#[test]
fn a_connection_that_was_closed_while_idle_costs_no_request() {
    run(async {
        let harness = Harness::new();
        let mut client = harness.client();
        client.send(get("/orders/1")).await;
        let (_, mut first) = harness.upstream().await;
        first.message().await;
        first
            .send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            .await;
        client.message().await;
        // It takes the request, and closes without an answer.
        client.send(get("/orders/2")).await;
        first.message().await;
        drop(first);
        let (_, mut second) = harness.upstream().await;
        second.message().await;
        second
            .send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
            .await;
        assert_eq!(client.message().await.1, "ok");
    });
}

#[test]
fn a_request_that_must_not_be_repeated_is_not() {
    run(async {
        let harness = Harness::new();
        let mut client = harness.client();
        client.send(get("/orders/1")).await;
        let (_, mut upstream) = harness.upstream().await;
        upstream.message().await;
        upstream
            .send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            .await;
        client.message().await;
        client
            .send(format!("POST /orders/2 HTTP/1.1\r\nHost: a\r\nX-Api-Key: {KEY}\r\nContent-Length: 1\r\n\r\nx"))
            .await;
        upstream.message().await;
        drop(upstream);
        let (head, _) = client.message().await;
        assert!(
            head.contains("x-mode-envoy-error: upstream_failed\r\n"),
            "{head}"
        );
        assert_eq!(harness.connects(), 0);
    });
}

#[test]
fn a_client_that_leaves_before_the_answer_is_recorded_as_499_and_the_upstream_is_let_go() {
    run(async {
        let harness = Harness::new();
        let mut client = harness.client();
        client.send(get("/orders/1")).await;
        let (_, mut upstream) = harness.upstream().await;
        upstream.message().await;
        drop(client);
        assert_eq!(upstream.rest().await, "");
        let (opened, close, _) = harness.one_call();
        assert!(opened && close.cut() && close.answered());
        assert_eq!(close.status, 499);
    });
}

#[test]
fn a_client_that_leaves_within_the_answer_is_recorded_as_cut() {
    run(async {
        let harness = Harness::new();
        let mut client = harness.client();
        client.send(get("/orders/1")).await;
        let (_, mut upstream) = harness.upstream().await;
        upstream.message().await;
        upstream
            .send("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf")
            .await;
        client.until("half").await;
        drop(client);
        assert_eq!(upstream.rest().await, "");
        let (_, close, _) = harness.one_call();
        assert_eq!((close.status, close.cut(), close.bytes_out), (200, true, 4));
    });
}

#[test]
fn an_answer_that_breaks_off_is_cut_for_the_client_too() {
    run(async {
        let harness = Harness::new();
        let mut client = harness.client();
        client.send(get("/orders/1")).await;
        let (_, mut upstream) = harness.upstream().await;
        upstream.message().await;
        upstream
            .send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n")
            .await;
        client.until("half\r\n").await;
        drop(upstream);
        assert!(!client.rest().await.contains("0\r\n\r\n"));
        let (_, close, _) = harness.one_call();
        assert_eq!((close.status, close.cut()), (200, true));
    });
}

#[test]
fn an_upstream_that_does_not_answer_in_time_is_a_504() {
    run(async {
        let harness = Harness::new();
        let mut client = harness.client();
        client.send(get("/orders/1")).await;
        let start = Instant::now();
        let (_, mut upstream) = harness.upstream().await;
        upstream.message().await;
        let (head, body) = client.message().await;
        assert_eq!(start.elapsed().as_secs(), 30);
        assert!(
            head.starts_with("HTTP/1.1 504 Gateway Timeout\r\n"),
            "{head}"
        );
        assert!(
            head.contains("x-mode-envoy-error: upstream_timeout\r\n"),
            "{head}"
        );
        assert!(body.contains("first_byte"), "{body}");
        let (opened, close, _) = harness.one_call();
        assert!(opened && !close.rejected());
        assert_eq!(close.status, 504);
    });
}

#[test]
fn an_answer_that_stalls_is_cut_after_the_idle_timeout_and_one_that_trickles_after_the_total() {
    run(async {
        let harness = Harness::new();
        let mut client = harness.client();
        client.send(get("/orders/1")).await;
        let start = Instant::now();
        let (_, mut upstream) = harness.upstream().await;
        upstream.message().await;
        upstream.send("HTTP/1.1 200 OK\r\n\r\nx").await;
        client.rest().await;
        assert_eq!(start.elapsed().as_secs(), 60);

        let mut client = harness.client();
        client.send(get("/orders/2")).await;
        let start = Instant::now();
        let (_, mut upstream) = harness.upstream().await;
        upstream.message().await;
        upstream.send("HTTP/1.1 200 OK\r\n\r\n").await;
        let trickle = async {
            loop {
                passes(Duration::from_secs(20)).await;
                upstream.send("x").await;
            }
        };
        tokio::select! {
            () = trickle => {}
            _ = client.rest() => {}
        }
        assert_eq!(start.elapsed().as_secs(), 300);
    });
}

#[test]
fn a_client_that_reads_slowly_is_no_timeout_of_the_upstream() {
    run(async {
        let harness = Harness::new();
        let mut client = harness.client();
        client.send(get("/orders/big")).await;
        let (_, mut upstream) = harness.upstream().await;
        upstream.message().await;
        let big = "x".repeat(500 << 10);
        let sending = tokio::task::spawn_local(async move {
            upstream
                .send(format!(
                    "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n",
                    big.len()
                ))
                .await;
            upstream.send(big).await;
            upstream
        });
        client.until("\r\n\r\n").await;
        let (start, mut read) = (Instant::now(), 0);
        while read < 500 << 10 {
            // Shorter than the client may take; all together longer than the upstream may be idle.
            passes(Duration::from_secs(30)).await;
            read += client.read_some().await;
        }
        assert!(start.elapsed().as_secs() > 120);
        drop(sending.await.unwrap());
        let (_, close, _) = harness.one_call();
        assert_eq!(
            (close.status, close.cut(), close.bytes_out),
            (200, false, 500 << 10)
        );
    });
}

#[test]
fn a_client_that_reads_slowly_gets_no_longer_than_everything_may_take() {
    run(async {
        let harness = Harness::new();
        let mut client = harness.client();
        client.send(get("/orders/big")).await;
        let start = Instant::now();
        let (_, mut upstream) = harness.upstream().await;
        upstream.message().await;
        let sending = tokio::task::spawn_local(async move {
            upstream
                .send("HTTP/1.1 200 OK\r\ncontent-length: 8388608\r\n\r\n")
                .await;
            // The gateway hangs up before it has taken everything.
            let _ = upstream.try_send(&"x".repeat(8 << 20)).await;
        });
        client.until("\r\n\r\n").await;
        loop {
            passes(Duration::from_secs(20)).await;
            if client.read_some().await == 0 {
                break;
            }
        }
        let took = start.elapsed().as_secs();
        assert!((300..=400).contains(&took), "{took} s");
        sending.abort();
        let (_, close, _) = harness.one_call();
        assert_eq!((close.status, close.cut()), (200, true));
    });
}

#[test]
fn a_client_that_stalls_within_its_body_is_told_so() {
    run(async {
        let harness = Harness::new();
        let mut client = harness.client();
        client
            .send(format!("POST /orders/1 HTTP/1.1\r\nHost: a\r\nX-Api-Key: {KEY}\r\nContent-Length: 10\r\n\r\nhalf"))
            .await;
        let start = Instant::now();
        let (_, mut upstream) = harness.upstream().await;
        upstream.until("half").await;
        let (head, _) = client.message().await;
        assert_eq!(start.elapsed().as_secs(), 60);
        assert!(
            head.contains("x-mode-envoy-error: request_invalid\r\n"),
            "{head}"
        );
        assert_eq!(upstream.rest().await, "");
    });
}

#[test]
fn an_answer_that_can_be_read_in_two_ways_is_not_passed_on() {
    run(async {
        let harness = Harness::new();
        let mut client = harness.client();
        client.send(get("/orders/1")).await;
        let (_, mut upstream) = harness.upstream().await;
        upstream.message().await;
        upstream
            .send("HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n")
            .await;
        let (head, _) = client.message().await;
        assert!(
            head.contains("x-mode-envoy-error: upstream_failed\r\n"),
            "{head}"
        );
        assert_eq!(harness.worker.pool.idle(), 0);
    });
}
