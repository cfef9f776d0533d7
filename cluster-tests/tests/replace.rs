//! Nodes that are restarted and replaced while clients call: no call is lost, and every call is counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mode_envoy_cluster_tests::cluster::Cluster;
use mode_envoy_cluster_tests::members::{Balancer, settled};
use mode_envoy_cluster_tests::upstream::Upstream;
use mode_envoy_cluster_tests::usage;
use tokio::task::JoinSet;

const NODE: &str = env!("CARGO_BIN_EXE_mode-envoy-under-test");
const PER_SECOND: u32 = 60;
/// A call takes a while, so that some are open whenever a node goes.
const THINK: Duration = Duration::from_millis(15);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_node_restarts_in_turn_and_no_call_fails_on_the_others() -> Result<()> {
    let mut cluster = Cluster::start(NODE, 3).await?;
    let upstream = Upstream::start().await?;
    let under_load = Load::begin(&cluster, &upstream).await?;
    for id in [1, 2, 3] {
        under_load.balancer.take_out(cluster.node(id)).await?;
        let node = cluster.node_mut(id);
        ensure!(
            node.term().await? == Some(0),
            "node {id} did not end in order"
        );
        // The others go on deciding at once: leadership was handed over before the leader ended.
        let other = cluster.node(1 + id % 3);
        other.apply(&format!("tenants: [{{name: t{id}}}]")).await?;
        cluster.node_mut(id).start()?;
        cluster.node_mut(id).wait_ready().await?;
        under_load.balancer.put_in(cluster.node(id));
    }
    settled(cluster.node(1), &[1, 2, 3], &[]).await?;
    under_load.end(&cluster, &upstream, &[1, 2, 3]).await?;
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_replaced_nodes_one_after_the_other_under_load_lose_no_call() -> Result<()> {
    let mut cluster = Cluster::start(NODE, 3).await?;
    let upstream = Upstream::start().await?;
    let under_load = Load::begin(&cluster, &upstream).await?;
    let before = cluster.node(1).cli(&["export"]).await?.ok()?;
    for old in [1, 2, 3] {
        let by = old + 1;
        let new = cluster.join(by).await?;
        ensure!(new == old + 3, "the new node is number {new}");
        under_load.balancer.put_in(cluster.node(new));

        under_load.balancer.take_out(cluster.node(old)).await?;
        cluster
            .node(by)
            .ok(&format!("cluster remove-node {old}"))
            .await?;
        let node = cluster.node_mut(old);
        ensure!(
            node.wait_end().await? == Some(0),
            "node {old}: {}",
            node.log()
        );
        let all: Vec<u64> = (by..=new).map(u64::try_from).collect::<Result<_, _>>()?;
        settled(cluster.node(by), &all, &[]).await?;
    }
    for id in [4, 5, 6] {
        let after = cluster.node(id).cli(&["export"]).await?.ok()?;
        ensure!(
            after == before,
            "node {id} has another configuration: {after}"
        );
    }
    under_load.end(&cluster, &upstream, &[4, 5, 6]).await?;
    cluster.finish().await
}

// === helpers ===

/// Clients that call until they are told to end.
struct Load {
    balancer: Balancer,
    stop: Arc<AtomicBool>,
    calls: JoinSet<Result<Vec<Result<()>>>>,
}

impl Load {
    async fn begin(cluster: &Cluster, upstream: &Upstream) -> Result<Self> {
        upstream.slow(THINK);
        cluster.apply(&upstream.document(&["remote"])).await?;
        let key = cluster.key("acme", "mobile-app", "first").await?;
        let (balancer, stop) = (Balancer::default(), Arc::new(AtomicBool::new(false)));
        for node in cluster.nodes() {
            balancer.put_in(node);
        }
        let mut calls = JoinSet::new();
        let (spread, until) = (balancer.clone(), Arc::clone(&stop));
        calls.spawn(async move { spread.load(PER_SECOND, &key, "remote", until).await });
        Ok(Self {
            balancer,
            stop,
            calls,
        })
    }

    /// Ends the load, and holds what clients, provider and each node say against one another.
    async fn end(mut self, cluster: &Cluster, upstream: &Upstream, nodes: &[usize]) -> Result<()> {
        self.stop.store(true, Ordering::SeqCst);
        let calls = self.calls.join_next().await.context("the load")??;
        let calls = calls?;
        let made = u64::try_from(calls.len())?;
        for call in calls {
            call?;
        }
        ensure!(made > 100, "only {made} calls were made");
        let (mut input, mut output) = (0, 0);
        let seen = upstream.seen();
        ensure!(
            u64::try_from(seen.len())? == made,
            "{} of {made} were seen",
            seen.len()
        );
        for call in seen {
            input += call.prompt_tokens;
            output += call.completion_tokens;
        }
        for id in nodes {
            let question = ["--filter", "model=remote", "--linearizable"];
            let row = usage::row(&cluster.node(*id).usage(&question).await?)?;
            ensure!(
                (row.calls, row.errors, row.presumed_calls) == (made, 0, 0),
                "node {id}, {made} calls: {row:?}"
            );
            ensure!(
                (row.input_tokens, row.output_tokens) == (input, output),
                "node {id}: {row:?}, not {input} and {output}"
            );
        }
        upstream.check()
    }
}
