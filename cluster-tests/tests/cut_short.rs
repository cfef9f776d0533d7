//! Usage of calls that did not end as they should: their node died, or their client left.

use std::time::Duration;

use anyhow::{Result, ensure};
use mode_envoy_cluster_tests::cluster::Cluster;
use mode_envoy_cluster_tests::http::{self, CHAT};
use mode_envoy_cluster_tests::upstream::{Fault, Upstream};
use mode_envoy_cluster_tests::{usage, wait};

const NODE: &str = env!("CARGO_BIN_EXE_mode-envoy-under-test");
const CALLS: &str = "route=openai.chat_completions";

#[tokio::test]
async fn a_call_that_was_open_when_its_node_died_is_presumed_once() -> Result<()> {
    let mut cluster = Cluster::start(NODE, 3).await?;
    let upstream = Upstream::start().await?;
    cluster
        .apply(&upstream.document(&["remote", "last"]))
        .await?;
    let key = cluster.key("acme", "mobile-app", "first").await?;

    // The node dies twice: in the middle of a stream, and again after it has told of it.
    upstream.fault("up-remote", Fault::Held);
    let request = http::json_request(CHAT, &key, &http::chat_stream("remote", "a long story"))?;
    let mut stream = http::open(cluster.node(2).gateway(), request).await?;
    stream.until("you ").await?;
    for _ in 0..2 {
        cluster.node_mut(2).kill().await?;
        cluster.node_mut(2).start()?;
        cluster.node_mut(2).wait_ready().await?;
        for node in cluster.nodes() {
            let row = usage::row(
                &node
                    .usage(&[
                        "--filter",
                        CALLS,
                        "--group-by",
                        "model,status",
                        "--linearizable",
                    ])
                    .await?,
            )?;
            ensure!(
                (row.calls, row.errors, row.presumed_calls, row.rejected) == (1, 1, 1, 0),
                "{row:?}"
            );
            ensure!(
                row.dimension("status") == "5xx" && row.dimension("model") == "remote",
                "{row:?}"
            );
            // What it had reserved: the input's estimate, a quarter of its bytes.
            ensure!((row.input_tokens, row.output_tokens) == (3, 0), "{row:?}");
        }
    }
    upstream.check()?;
    cluster.finish().await
}

#[tokio::test]
async fn usage_of_workers_that_are_no_more_is_counted() -> Result<()> {
    let mut cluster = Cluster::start(NODE, 1).await?;
    let upstream = Upstream::start().await?;
    cluster
        .apply(&upstream.document(&["remote", "last"]))
        .await?;
    let key = cluster.key("acme", "mobile-app", "first").await?;

    // Connections are spread over the workers, so each of them has calls that ended and calls that are open.
    let workers = [2, 5, 1, 3];
    upstream.fault("up-remote", Fault::Held);
    for (round, workers) in (1..).zip(workers) {
        let node = cluster.node_mut(1);
        let mut streams = Vec::new();
        for number in 0..10 {
            let body = http::chat("last", &format!("ended {round} {number}"));
            http::post(node.gateway(), CHAT, &key, &body)
                .await?
                .expect(200)?;
            let body = http::chat_stream("remote", &format!("open {round} {number}"));
            let request = http::json_request(CHAT, &key, &body)?;
            let mut stream = http::open(node.gateway(), request).await?;
            stream.until("you ").await?;
            streams.push(stream);
        }
        node.kill().await?;
        node.launch.workers = workers;
        node.start()?;
        node.wait_ready().await?;
        let question = ["--filter", CALLS, "--group-by", "model", "--linearizable"];
        let rows = usage::rows(&node.usage(&question).await?)?;
        let counts: Vec<_> = rows
            .iter()
            .map(|row| (row.calls, row.presumed_calls))
            .collect();
        ensure!(
            counts == [(10 * round, 0), (10 * round, 10 * round)],
            "round {round}: {rows:?}"
        );
    }
    upstream.check()?;
    cluster.finish().await
}

#[tokio::test]
async fn a_client_that_leaves_ends_the_providers_work_and_is_recorded() -> Result<()> {
    let cluster = Cluster::start(NODE, 1).await?;
    let upstream = Upstream::start().await?;
    cluster
        .apply(&upstream.document(&["remote", "last"]))
        .await?;
    let key = cluster.key("acme", "mobile-app", "first").await?;
    let node = cluster.node(1);

    upstream.fault("up-remote", Fault::Held);
    let request = http::json_request(CHAT, &key, &http::chat_stream("remote", "never mind"))?;
    let mut stream = http::open(node.gateway(), request).await?;
    stream.until("you ").await?;
    drop(stream);
    let row = wait::until(
        "the call to be closed",
        Duration::from_secs(10),
        async || {
            usage::row(
                &node
                    .usage(&["--filter", CALLS, "--group-by", "status", "--linearizable"])
                    .await?,
            )
        },
    )
    .await?;
    ensure!(
        (
            row.calls,
            row.errors,
            row.estimated_calls,
            row.presumed_calls
        ) == (1, 1, 1, 0),
        "{row:?}"
    );
    ensure!(row.input_tokens == 3 && row.output_tokens > 0, "{row:?}");

    // The provider was told: what it still had to say was never taken.
    upstream.release();
    let done = http::post(node.gateway(), CHAT, &key, &http::chat("last", "after it")).await?;
    done.expect(200)?;
    ensure!(
        upstream
            .find("never mind")
            .is_some_and(|seen| !seen.finished),
        "the answer was read to its end"
    );
    upstream.check()?;
    cluster.finish().await
}
