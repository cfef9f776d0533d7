//! A drain that begins in the moment in which a client's first bytes have come.

use std::time::Duration;

use super::super::harness::{Harness, passes, run};

/// What an HTTP/2 client begins with: the preface, settings, and a GET of `/open`, all in one write.
const H2_CALL: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\
    \x00\x00\x00\x04\x00\x00\x00\x00\x00\
    \x00\x00\x0c\x01\x05\x00\x00\x00\x01\x82\x86\x04\x05/open\x41\x01a";

#[test]
fn a_request_that_came_before_the_drain_is_answered_in_both_versions() {
    for call in [&b"GET /open HTTP/1.1\r\nHost: a\r\n\r\n"[..], H2_CALL] {
        run(async {
            let harness = Harness::new();
            let mut client = harness.client();
            client.send(call).await;
            // The connection's task has not run yet: it reads the bytes, and then learns of the drain.
            harness.worker.connections.drain();
            let (_, mut upstream) = harness.upstream().await;
            upstream.until("\r\n\r\n").await;
            upstream
                .send("HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\ndrained")
                .await;
            client.until_bytes(b"drained").await;
            drop(client);
            passes(Duration::from_secs(1)).await;
            assert_eq!(harness.worker.connections.count(), 0);
            assert_eq!(harness.closes(), [(200, false)]);
        });
    }
}

#[test]
fn bytes_that_are_no_whole_request_hold_up_a_drain_no_longer_than_a_head_may_take() {
    run(async {
        let harness = Harness::new();
        let mut client = harness.client();
        client.send("GET /open HT").await;
        harness.worker.connections.drain();
        passes(Duration::from_secs(5)).await;
        assert_eq!(harness.worker.connections.count(), 1);
        passes(harness.worker.limits.head_timeout).await;
        assert_eq!(harness.worker.connections.count(), 0);
    });
}
