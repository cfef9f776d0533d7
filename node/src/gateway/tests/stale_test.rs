//! What a node that is cut off from its cluster tells its clients.

use std::time::Duration;

use mode_envoy_raft::Contact;

use super::super::harness::{Harness, KEY, example, run};
use super::super::settings::GatewayLimits;
use crate::freshness::{Freshness, StaleRules};

fn cut_off_for(seconds: u64) -> Harness {
    let age = Duration::from_secs(seconds);
    let freshness = Freshness::since(Contact::default(), StaleRules::default(), age);
    Harness::standing(example(), GatewayLimits::default(), freshness)
}

fn models(key: &str) -> String {
    format!("GET /v1/models HTTP/1.1\r\nHost: a\r\nX-Api-Key: {key}\r\n\r\n")
}

#[test]
fn a_node_that_is_stale_serves_and_says_since_when() {
    run(async {
        let harness = cut_off_for(100);
        let mut client = harness.client();
        client.send(models(KEY)).await;
        let (head, _) = client.message().await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        assert!(head.contains("x-mode-envoy-stale: 10"), "{head}");
        client.send(models("me-wrong")).await;
        let (head, _) = client.message().await;
        assert!(head.starts_with("HTTP/1.1 401 "), "{head}");
        assert!(head.contains("x-mode-envoy-stale: 10"), "{head}");
        client.send("no head at all\r\n\r\n").await;
        assert!(client.rest().await.contains("x-mode-envoy-stale: 10"));
    });
}

#[test]
fn a_node_that_is_fresh_says_nothing() {
    run(async {
        let harness = cut_off_for(1);
        let mut client = harness.client();
        client.send(models(KEY)).await;
        let (head, _) = client.message().await;
        assert!(!head.contains("x-mode-envoy-stale"), "{head}");
    });
}

#[test]
fn a_node_that_is_too_stale_takes_no_key_and_does_not_call_it_wrong() {
    run(async {
        let harness = cut_off_for(4_000);
        let mut client = harness.client();
        for key in [KEY, "me-wrong"] {
            client.send(models(key)).await;
            let (head, body) = client.message().await;
            assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
            assert!(
                head.contains("x-mode-envoy-error: config_stale\r\n"),
                "{head}"
            );
            assert!(head.contains("x-mode-envoy-stale: 400"), "{head}");
            assert!(body.contains("\"code\":\"config_stale\""), "{body}");
        }
        let keyed = format!("GET /orders/1 HTTP/1.1\r\nHost: a\r\nX-Api-Key: {KEY}\r\n\r\n");
        client.send(keyed).await;
        let (head, _) = client.message().await;
        assert!(
            head.contains("x-mode-envoy-error: config_stale\r\n"),
            "{head}"
        );
        assert!(head.contains("application/problem+json"), "{head}");
        assert_eq!(harness.connects(), 0);

        client.send("GET /open HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let (_, mut upstream) = harness.upstream().await;
        upstream.until("\r\n\r\n").await;
        upstream
            .send("HTTP/1.1 204 No Content\r\nx-mode-envoy-stale: 1\r\n\r\n")
            .await;
        let (head, _) = client.message().await;
        assert!(head.starts_with("HTTP/1.1 204 "), "{head}");
        assert_eq!(head.matches("x-mode-envoy-stale: 400").count(), 1, "{head}");
        assert_eq!(head.matches("x-mode-envoy-stale").count(), 1, "{head}");
    });
}
