//! What is refused before anything is sent, and how that is told and recorded.

use super::super::harness::{Harness, KEY, OLD_KEY, OTHER_KEY, run};

/// Sends a request that is refused, and gives the head and the body of the answer.
async fn refused(harness: &Harness, request: &str) -> (String, String) {
    let mut client = harness.client();
    client.send(request).await;
    let answer = client.message().await;
    assert_eq!(harness.connects(), 0, "something was sent for {request}");
    answer
}

fn assert_code(head: &str, status: u16, code: &str) {
    assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
    assert!(
        head.contains(&format!("x-mode-envoy-error: {code}\r\n")),
        "{head}"
    );
    assert!(head.contains("x-request-id: "), "{head}");
}

#[test]
fn an_unknown_path_or_method_is_refused_without_asking_who_it_is() {
    run(async {
        let harness = Harness::new();
        let (head, body) = refused(&harness, "GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert_code(&head, 404, "not_found");
        assert!(
            head.contains("content-type: application/problem+json\r\n"),
            "{head}"
        );
        assert!(body.contains("\"code\":\"not_found\""), "{body}");
        let (_, close, dims) = harness.one_call();
        assert!(close.rejected() && close.answered());
        assert_eq!((&*dims.tenant, &*dims.key), ("", ""));
        let (head, _) = refused(
            &harness,
            "POST /open HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
        )
        .await;
        assert_code(&head, 405, "request_invalid");
        assert!(head.contains("allow: GET, HEAD\r\n"), "{head}");
    });
}

#[test]
fn every_kind_of_bad_credential_is_a_401() {
    run(async {
        let harness = Harness::new();
        for credential in [
            String::new(),
            "Authorization: Bearer me-wrong\r\n".to_owned(),
            format!("Authorization: Basic {KEY}\r\n"),
            format!("Authorization: Bearer {OLD_KEY}\r\n"),
            format!("Authorization: Bearer {KEY}\r\nX-Api-Key: {OTHER_KEY}\r\n"),
        ] {
            let request = format!("GET /orders/1 HTTP/1.1\r\nHost: a\r\n{credential}\r\n");
            let (head, _) = refused(&harness, &request).await;
            assert_code(&head, 401, "unauthenticated");
        }
        let request =
            format!("GET /orders/1?key=me-wrong HTTP/1.1\r\nHost: a\r\nX-Api-Key: {KEY}\r\n\r\n");
        assert_code(&refused(&harness, &request).await.0, 401, "unauthenticated");
    });
}

#[test]
fn a_key_of_another_tenant_is_forbidden_and_the_routes_tenant_is_not_told_whose_it_was() {
    run(async {
        let harness = Harness::new();
        let request =
            format!("GET /orders/1 HTTP/1.1\r\nHost: a\r\nX-Goog-Api-Key: {OTHER_KEY}\r\n\r\n");
        let (head, _) = refused(&harness, &request).await;
        assert_code(&head, 403, "forbidden");
        let (opened, close, dims) = harness.one_call();
        assert!(!opened && close.rejected());
        assert_eq!((&*dims.tenant, &*dims.route), ("acme", "orders"));
        assert_eq!((&*dims.consumer, &*dims.key, &*dims.team), ("", "", ""));
    });
}

#[test]
fn heads_that_a_proxy_must_not_pass_on_are_refused() {
    run(async {
        let harness = Harness::new();
        for bad in [
            "GET /open/../orders/1 HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /open/%2e%2e/x HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /open HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
            "GET /open HTTP/1.1\r\n\r\n",
            "GET /open HTTP/1.1\r\nHost: a@b\r\n\r\n",
        ] {
            let (head, _) = refused(&harness, bad).await;
            assert_code(&head, 400, "request_invalid");
        }
    });
}

#[test]
fn framing_that_can_be_read_in_two_ways_carries_no_second_request() {
    run(async {
        let harness = Harness::new();
        let second = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
        for framing in [
            "Content-Length: 4\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: chunked\r\nContent-Length: 4",
            "Content-Length: 4\r\nContent-Length: 5",
            "Transfer-Encoding: chunked, identity",
            "Transfer-Encoding: \x0bchunked",
            "Content-Length: +4",
            "Content-Length : 4",
        ] {
            let mut client = harness.client();
            let first =
                format!("POST /nowhere HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n0\r\n\r\n{second}");
            client.send(&first).await;
            let answers = client.rest().await;
            assert_eq!(
                answers.matches("HTTP/1.1 ").count(),
                1,
                "{framing}: {answers}"
            );
            assert!(answers.starts_with("HTTP/1.1 4"), "{framing}: {answers}");
        }
        assert_eq!(harness.connects(), 0);
    });
}

#[test]
fn what_cannot_be_recorded_is_not_sent() {
    run(async {
        let harness = Harness::new();
        harness.notice.set_failed();
        let (head, _) = refused(&harness, "GET /open HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert_code(&head, 503, "overloaded");
    });
}

#[test]
fn when_no_endpoint_can_be_connected_to_the_upstream_has_failed() {
    run(async {
        use super::super::harness::{example, route, service};
        use super::super::settings::GatewayLimits;
        use mode_envoy_model::route::Auth;
        let mut records = example();
        records.push(service(
            "gone",
            &["http://down.test:1", "http://down2.test:1"],
        ));
        records.push(route("gone", "gone", &[], "/gone", Auth::None));
        let harness = Harness::with(records, GatewayLimits::default());
        let (head, body) = refused(&harness, "GET /gone HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert_code(&head, 502, "upstream_failed");
        assert!(!body.contains("down"), "{body}");
        let (opened, close, _) = harness.one_call();
        assert!(opened && !close.rejected());
        assert_eq!(close.status, 502);
    });
}

#[test]
fn a_label_that_is_none_is_replaced() {
    run(async {
        let harness = Harness::new();
        let request = "GET /x HTTP/1.1\r\nHost: a\r\nX-Request-Id: no spaces\r\n\r\n";
        let (head, _) = refused(&harness, request).await;
        assert!(!head.contains("no spaces"), "{head}");
        let of = |name: &str| {
            head.lines()
                .find_map(|line| line.strip_prefix(name))
                .unwrap()
        };
        assert_eq!(of("x-request-id: "), of("x-mode-envoy-call-id: "));
    });
}

#[test]
fn a_refusal_of_head_has_the_length_of_the_body_that_it_leaves_out() {
    run(async {
        let harness = Harness::new();
        let mut client = harness.client();
        client
            .send("HEAD /nowhere HTTP/1.1\r\nHost: a\r\n\r\n")
            .await;
        let head = client.until("\r\n\r\n").await;
        assert_code(&head, 404, "not_found");
        assert!(
            head.contains("content-length: ") && !head.contains("content-length: 0"),
            "{head}"
        );
        let (_, close, _) = harness.one_call();
        assert!(close.rejected() && !close.cut());
    });
}

#[test]
fn what_follows_a_head_that_is_refused_is_not_read_as_a_request() {
    run(async {
        let harness = Harness::new();
        // A client that is sure of its tunnel sends at once what is meant for the other end.
        let second = "GET /open HTTP/1.1\r\nHost: a\r\n\r\n";
        for bad in [
            "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n",
            "GET /open HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
            "GET /open/%2e%2e/x HTTP/1.1\r\nHost: a\r\n\r\n",
        ] {
            let mut client = harness.client();
            client.send(&format!("{bad}{second}")).await;
            let answers = client.rest().await;
            assert_code(&answers, 400, "request_invalid");
            assert!(answers.contains("connection: close\r\n"), "{answers}");
            assert_eq!(answers.matches("HTTP/1.1 ").count(), 1, "{bad}: {answers}");
        }
        assert_eq!(harness.connects(), 0);
    });
}
