//! A node whose usage nobody counts: it says so in time, goes on, and in the end no call is missing.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mode_envoy_cluster_tests::cluster::{Cluster, Node};
use mode_envoy_cluster_tests::http::{self, CHAT, Connection};
use mode_envoy_cluster_tests::{usage, wait};

const NODE: &str = env!("CARGO_BIN_EXE_mode-envoy-under-test");

const DOCUMENT: &str = r"
tenants: [{name: acme}]
consumers: [{name: mobile-app, tenant: acme}]
providers: [{name: here, protocol: embedded}]
models: [{name: fast, targets: [{provider: here, model: small}]}]
";

/// Calls between two looks.
const CALLS: u64 = 200;
/// More than a spool of this bound holds.
const CALLS_MAX: u64 = 20_000;

/// The value of a metric, with its labels as they are printed; 0 where it is not there.
async fn metric(node: &Node, name: &str) -> Result<f64> {
    let page = http::get(node.admin(), "/metrics", None)
        .await?
        .expect(200)?
        .text();
    let line = page.lines().find_map(|line| line.strip_prefix(name));
    let value = line.map_or("0", str::trim);
    value
        .parse()
        .with_context(|| format!("{name} is {value:?}"))
}

/// Makes calls until the metric is not 0; how many they were.
async fn call_until(node: &Node, key: &str, name: &str) -> Result<u64> {
    let mut connection = Connection::open(node.gateway()).await?;
    for calls in 1..=CALLS_MAX {
        let request = http::json_request(CHAT, key, &http::chat("fast", "hello"))?;
        connection.send(request).await?.expect(200)?;
        if calls % CALLS == 0 && metric(node, name).await? > 0.0 {
            return Ok(calls);
        }
    }
    anyhow::bail!("{name} is 0 after {CALLS_MAX} calls")
}

async fn alarms(node: &Node) -> Result<String> {
    let status = node.status().await?;
    let nodes = status["nodes"].as_array().context("nodes")?;
    let own = nodes.iter().find(|other| other["id"] == node.id());
    Ok(own.context("this node")?["alarms"].to_string())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spool_that_nobody_empties_raises_alarms_then_adds_up_and_no_call_is_lost() -> Result<()>
{
    let mut cluster = Cluster::plan(NODE, 3)?;
    for node in cluster.nodes_mut() {
        node.launch.workers = 1;
        node.launch.more = ["--usage-spool-bytes", "1048576"].map(str::to_owned).into();
    }
    cluster.start_all()?;
    cluster.wait_ready().await?;
    cluster.apply(DOCUMENT).await?;
    let key = cluster.key("acme", "mobile-app", "first").await?;
    ensure!(alarms(cluster.node(1)).await? == "[]");
    for id in [2, 3] {
        cluster.node_mut(id).kill().await?;
    }

    let node = cluster.node(1);
    let mut calls = 0;
    // Calls come faster than the alarm is told again, so what it says may be of a higher level already.
    for (level, told) in [
        ("50", "nothing was counted since"),
        ("80", "only added up"),
        ("95", "calls that begin now are only added up"),
    ] {
        let name = format!("mode_envoy_usage_spool_alarm{{level=\"{level}\"}}");
        calls += call_until(node, &key, &name).await?;
        // Why it fills is known only when a batch has waited for a while.
        wait::until("the alarm", Duration::from_secs(20), async || {
            let alarms = alarms(node).await?;
            ensure!(
                alarms.contains(told) && alarms.contains("worker 0"),
                "{level}: {alarms}"
            );
            Ok(())
        })
        .await?;
        ensure!(
            node.log().contains("the usage spool of worker 0 is"),
            "{level} is not in the log"
        );
        http::get(node.admin(), "/readyz", None)
            .await?
            .expect(200)?;
    }
    calls += call_until(node, &key, "mode_envoy_usage_totals_only_total").await?;
    let refused = http::get(node.gateway(), "/v1/models", Some("me-nobody")).await?;
    ensure!(refused.status == 401, "{}", refused.status);

    cluster.start_all()?;
    cluster.wait_ready().await?;
    let node = cluster.node(1);
    wait::until(
        "every call to be counted",
        Duration::from_mins(1),
        async || {
            let answer = node
                .usage(&["--filter", "model=fast", "--linearizable"])
                .await?;
            let row = usage::row(&answer)?;
            ensure!(row.calls == calls, "{} of {calls} calls", row.calls);
            ensure!((row.presumed_calls, row.errors) == (0, 0), "{row:?}");
            ensure!(row.rest["folded"] == true, "{row:?}");
            Ok(())
        },
    )
    .await?;
    let all = node.usage(&["--filter", "status=4xx"]).await?;
    let rejected: u64 = usage::rows(&all)?.iter().map(|row| row.rejected).sum();
    ensure!(rejected > 0, "{all}");
    the_alarm_goes(node).await?;
    cluster.finish().await
}

async fn the_alarm_goes(node: &Node) -> Result<()> {
    wait::until("the alarm to go", Duration::from_secs(20), async || {
        let alarms = alarms(node).await?;
        ensure!(alarms == "[]", "{alarms}");
        Ok(())
    })
    .await?;
    ensure!(node.log().contains("the usage spool empties again"));
    Ok(())
}
