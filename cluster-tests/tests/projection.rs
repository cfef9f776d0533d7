//! The projection may vanish: nothing that a user sees depends on it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mode_envoy_cluster_tests::cluster::{Cluster, Node};
use mode_envoy_cluster_tests::http::{self, CHAT};
use mode_envoy_cluster_tests::{usage, wait};

const NODE: &str = env!("CARGO_BIN_EXE_mode-envoy-under-test");

const DOCUMENT: &str = r"
tenants: [{name: acme}]
consumers: [{name: mobile-app, tenant: acme}]
providers: [{name: here, protocol: embedded}]
models: [{name: fast, targets: [{provider: here, model: small}]}]
";

fn remove(node: &Node) -> Result<()> {
    let dir = node.launch.data_dir.join("projection");
    std::fs::remove_dir_all(&dir).with_context(|| format!("removing {}", dir.display()))
}

async fn wait_for_files(node: &Node) -> Result<()> {
    let current = node.launch.data_dir.join("projection/current");
    wait::until(
        "the projection's files",
        Duration::from_secs(20),
        async || {
            ensure!(current.exists(), "{} is not there", current.display());
            Ok(())
        },
    )
    .await
}

async fn counted(node: &Node, calls: u64) -> Result<()> {
    let answer = node
        .usage(&["--filter", "model=fast", "--linearizable"])
        .await?;
    let row = usage::row(&answer)?;
    ensure!(row.calls == calls, "{} of {calls} calls", row.calls);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deleting_the_projection_while_running_and_while_stopped_loses_nothing() -> Result<()> {
    let mut cluster = Cluster::start(NODE, 1).await?;
    cluster.apply(DOCUMENT).await?;
    let key = cluster.key("acme", "mobile-app", "first").await?;
    let mut calls = 0;
    for round in 0..3 {
        let node = cluster.node_mut(1);
        wait_for_files(node).await?;
        if round > 0 {
            remove(node)?;
        }
        for _ in 0..10 {
            http::post(node.gateway(), CHAT, &key, &http::chat("fast", "hello"))
                .await?
                .expect(200)?;
            calls += 1;
        }
        counted(node, calls).await?;
        ensure!(node.term().await? == Some(0), "{}", node.log());
        if round > 1 {
            // What the node that was stopped had written again, if it had.
            std::fs::remove_dir_all(node.launch.data_dir.join("projection")).ok();
        }
        node.start()?;
        node.wait_ready().await?;
        counted(node, calls).await?;
    }
    cluster.finish().await
}
