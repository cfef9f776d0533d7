//! How leadership moves on purpose, and how nodes end in order.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mode_envoy_cluster_tests::cluster::{Cluster, Node};
use mode_envoy_cluster_tests::http::{self, CHAT};
use mode_envoy_cluster_tests::load::Pace;
use mode_envoy_cluster_tests::members::{leader, settled};
use mode_envoy_cluster_tests::upstream::Upstream;
use mode_envoy_cluster_tests::usage;

const NODE: &str = env!("CARGO_BIN_EXE_mode-envoy-under-test");

#[tokio::test]
async fn leadership_moves_when_asked_and_writes_hardly_notice() -> Result<()> {
    let mut cluster = Cluster::start(NODE, 3).await?;
    cluster.join(1).await?;
    settled(cluster.node(1), &[1, 2, 3], &[4]).await?;
    // Changes go on all the while, through a node that neither leads nor is to; not one of them fails.
    let moved = AtomicBool::new(false);
    let moves = async {
        for _ in 0..4 {
            let from = leader(cluster.node(1)).await?;
            let to = 1 + (from % 3);
            let said = cluster
                .node(4)
                .ok(&format!("cluster transfer-leader {to}"))
                .await?;
            ensure!(said.contains(&format!("node {to} leads")), "{said}");
            ensure!(leader(cluster.node(2)).await? == to, "another node leads");
        }
        moved.store(true, Ordering::SeqCst);
        Ok(())
    };
    let writes = async {
        let mut written = 0;
        while !moved.load(Ordering::SeqCst) {
            let tenant = format!("tenants: [{{name: t{written}}}]");
            cluster.node(4).apply(&tenant).await?;
            written += 1;
        }
        Ok(written)
    };
    let ((), written) = tokio::try_join!(moves, writes)?;
    let export = cluster.node(1).cli(&["export"]).await?.ok()?;
    ensure!(
        export.contains(&format!("name: t{}", written - 1)),
        "{written} changes were made: {export}"
    );
    // A leadership that is not young moves at once: neither an election timeout nor a lease passes.
    Pace::every(Duration::from_secs(2)).tick().await;
    let to = 1 + (leader(cluster.node(1)).await? % 3);
    cluster
        .node(4)
        .ok(&format!("cluster transfer-leader {to}"))
        .await?;
    let took = handed_over_in(&cluster)?;
    ensure!(took < 1_000, "it took {took} ms");

    let same = leader(cluster.node(1)).await?;
    cluster
        .node(2)
        .ok(&format!("cluster transfer-leader {same}"))
        .await?;
    for (id, says) in [(4, "does not vote"), (9, "does not vote")] {
        let said = cluster
            .node(1)
            .refuses(&format!("cluster transfer-leader {id}"))
            .await?;
        ensure!(said.contains(says), "{said}");
    }
    cluster.finish().await
}

#[tokio::test]
async fn leadership_does_not_move_to_a_node_that_does_not_answer() -> Result<()> {
    let cluster = Cluster::start(NODE, 3).await?;
    let from = leader(cluster.node(1)).await?;
    let to = 1 + (from % 3);
    let (asked, frozen) = (
        cluster.node(usize::try_from(from)?),
        cluster.node(usize::try_from(to)?),
    );
    frozen.freeze()?;
    let line = format!("cluster transfer-leader {to}");
    let (said, written) = tokio::join!(
        asked.refuses(&line),
        asked.apply("tenants: [{name: meanwhile}]"),
    );
    let said = said?;
    ensure!(said.contains("does not answer, or is behind"), "{said}");
    written?;
    asked.apply("tenants: [{name: afterwards}]").await?;
    ensure!(leader(asked).await? == from, "another node leads");
    frozen.thaw()?;
    cluster.finish().await
}

#[tokio::test]
async fn five_voters_hand_leadership_over_too() -> Result<()> {
    let mut cluster = Cluster::start(NODE, 5).await?;
    settled(cluster.node(1), &[1, 2, 3, 4, 5], &[]).await?;
    let from = leader(cluster.node(1)).await?;
    let to = 1 + (from % 5);
    cluster
        .node(1)
        .ok(&format!("cluster transfer-leader {to}"))
        .await?;
    ensure!(leader(cluster.node(2)).await? == to, "another node leads");
    cluster.node(1).apply("tenants: [{name: after}]").await?;
    cluster.node_mut(usize::try_from(to)?).term().await?;
    cluster
        .node(usize::try_from(from)?)
        .apply("tenants: [{name: again}]")
        .await?;
    cluster.finish().await
}

#[tokio::test]
async fn nodes_that_are_asked_to_end_together_flush_all_and_end_soon() -> Result<()> {
    let mut cluster = Cluster::start(NODE, 3).await?;
    let upstream = Upstream::start().await?;
    cluster.apply(&upstream.document(&["remote"])).await?;
    let key = cluster.key("acme", "mobile-app", "first").await?;
    for round in 1..=3_u64 {
        for number in 0..30 {
            let node = cluster.node(1 + number % 3);
            let body = http::chat("remote", &format!("{round}-{number}"));
            http::post(node.gateway(), CHAT, &key, &body)
                .await?
                .expect(200)?;
        }
        let began = Instant::now();
        for node in cluster.nodes() {
            node.ask_to_end()?;
        }
        for node in cluster.nodes_mut() {
            ensure!(node.wait_end().await? == Some(0), "node {}", node.id());
            let log = node.log();
            ensure!(
                !log.contains("could not be counted"),
                "node {} left usage in its spool: {log}",
                node.id()
            );
        }
        ensure!(
            began.elapsed() < Duration::from_secs(10),
            "they took {:?}",
            began.elapsed()
        );
        cluster.start_all()?;
        cluster.wait_ready().await?;
        let question = ["--filter", "model=remote", "--linearizable"];
        let row = usage::row(&cluster.node(1).usage(&question).await?)?;
        ensure!(
            (row.calls, row.presumed_calls) == (30 * round, 0),
            "{row:?}"
        );
    }
    upstream.check()?;
    cluster.finish().await
}

// === helpers ===

/// How long the last handover took, as the node says that led before.
fn handed_over_in(cluster: &Cluster) -> Result<u64> {
    let logs: Vec<String> = cluster.nodes().iter().map(Node::log).collect();
    let mut handovers: Vec<(String, u64)> = Vec::new();
    for line in logs.iter().flat_map(|log| log.lines()) {
        let line: serde_json::Value = serde_json::from_str(line)?;
        if let (Some(at), Some(took)) = (line["timestamp"].as_str(), line["took_ms"].as_u64()) {
            handovers.push((at.to_owned(), took));
        }
    }
    handovers.sort();
    Ok(handovers.pop().context("no handover was logged")?.1)
}
