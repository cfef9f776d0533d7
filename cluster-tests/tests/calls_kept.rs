//! What is kept of single calls: through kill -9 each once, and no more than there is room for.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mode_envoy_cluster_tests::calls::{call_id, calls, labelled};
use mode_envoy_cluster_tests::cluster::{Cluster, Node};
use mode_envoy_cluster_tests::http;
use mode_envoy_cluster_tests::origin::Origin;
use mode_envoy_cluster_tests::{load, wait};

const NODE: &str = env!("CARGO_BIN_EXE_mode-envoy-under-test");

#[tokio::test]
async fn after_kill_9_under_load_every_answered_call_has_one_record() -> Result<()> {
    let mut cluster = Cluster::start(NODE, 3).await?;
    let origin = Origin::start("one").await?;
    cluster.apply(&document(&origin)).await?;
    let key = cluster.key("acme", "mobile-app", "first").await?;
    let mut answered = BTreeSet::new();
    for round in 0..3_u64 {
        // The first death is before a block is written, later ones are behind some.
        let gateways: Vec<_> = cluster
            .nodes()
            .iter()
            .map(|node| node.gateway().to_owned())
            .collect();
        let call = |number: usize| {
            let (gateway, key) = (gateways[number % 3].clone(), key.clone());
            Some(async move { http::get(&gateway, "/orders", Some(&key)).await })
        };
        let calling = load::paced(120, Duration::from_secs(2 + 3 * round), call);
        let killing = async {
            let pace = Duration::from_millis(1_500 + 3_000 * round);
            load::Pace::every(pace).tick().await;
            for node in cluster.nodes_mut() {
                node.kill().await?;
            }
            Ok::<_, anyhow::Error>(())
        };
        let (results, killed) = tokio::join!(calling, killing);
        killed?;
        let whole = results?
            .into_iter()
            .flatten()
            .filter(|answer| answer.status == 200);
        answered.extend(whole.map(|answer| call_id(&answer)));
        cluster.start_all()?;
        cluster.wait_ready().await?;
        each_is_told_once(cluster.node(1), &answered).await?;
    }
    // And a restart in order changes nothing.
    for id in 1..=3 {
        let node = cluster.node_mut(id);
        let code = node.term().await?;
        ensure!(code == Some(0), "node {id} ended with {code:?}");
        node.start()?;
        node.wait_ready().await?;
    }
    each_is_told_once(cluster.node(2), &answered).await?;
    cluster.finish().await
}

#[tokio::test]
async fn old_calls_are_dropped_when_there_are_too_many_and_damage_takes_few() -> Result<()> {
    let mut cluster = Cluster::plan(NODE, 1)?;
    cluster.node_mut(1).launch.more = ["--call-log-bytes", "1048576"].map(str::to_owned).to_vec();
    cluster.start_all()?;
    cluster.wait_ready().await?;
    let origin = Origin::start("one").await?;
    cluster.apply(&document(&origin)).await?;
    let key = cluster.key("acme", "mobile-app", "first").await?;
    let folder = cluster.node(1).launch.data_dir.join("calls");
    let mut first = None;
    // Labels that do not compress, until the first segments are gone.
    let mut rng = load::Rng::new(load::seed()?);
    wait::until(
        "segments to be dropped",
        Duration::from_mins(2),
        async || {
            for _ in 0..400 {
                let words: Vec<_> = (0..8).map(|_| format!("{:016x}", rng.next_u64())).collect();
                let body = serde_json::json!({});
                let request = labelled("/nowhere", &key, &body, &words.concat())?;
                let answer = http::send(cluster.node(1).gateway(), request).await?;
                first.get_or_insert(call_id(&answer.expect(404)?));
            }
            let is_there = |number: u8| folder.join(format!("calls-{number:010}.calls")).exists();
            ensure!(
                is_there(9) && !is_there(1),
                "the first segment is still there"
            );
            Ok(())
        },
    )
    .await?;
    let bytes: u64 = std::fs::read_dir(&folder)?
        .map(|entry| Ok(entry?.metadata()?.len()))
        .sum::<Result<u64>>()?;
    ensure!(bytes < 1_300_000, "the call log takes {bytes} bytes");
    let first = first.context("a first call")?;
    let refused = cluster.node(1).refuses(&format!("explain {first}")).await?;
    ensure!(refused.contains("older than what is kept"), "{refused}");

    a_flipped_byte_takes_its_block(&mut cluster, &folder).await?;
    cluster.finish().await
}

// === phases ===

/// The node starts, and says how much is damaged.
async fn a_flipped_byte_takes_its_block(cluster: &mut Cluster, folder: &Path) -> Result<()> {
    cluster.node_mut(1).kill().await?;
    let mut files: Vec<_> = std::fs::read_dir(folder)?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    files.sort();
    let newest_sealed = &files[files.len() - 2];
    let mut damaged = std::fs::read(newest_sealed)?;
    let middle = damaged.len() / 3;
    damaged[middle] ^= 0x20;
    std::fs::write(newest_sealed, damaged)?;
    cluster.node_mut(1).start()?;
    cluster.node_mut(1).wait_ready().await?;
    let told = cluster
        .node(1)
        .cli(&["calls", "--since", "1h", "--limit", "5000", "-o", "json"])
        .await?;
    ensure!(told.stderr.contains("passed over: 1;"), "{}", told.stderr);
    ensure!(
        calls(&told.json()?)?.len() > 1_000,
        "damage takes more than a block"
    );
    Ok(())
}

/// Every answered call has one record on any node, and no record is there twice.
async fn each_is_told_once(node: &Node, answered: &BTreeSet<String>) -> Result<()> {
    let words = [
        "calls",
        "--since",
        "1h",
        "--limit",
        "5000",
        "--linearizable",
        "-o",
        "json",
    ];
    let told = node.cli(&words).await?.json()?;
    ensure!(
        told["missing_nodes"] == serde_json::json!([]),
        "{}",
        told["missing_nodes"]
    );
    let told = calls(&told)?;
    let ids: BTreeSet<_> = told.iter().map(|call| call.call_id.clone()).collect();
    ensure!(
        ids.len() == told.len(),
        "of {} records some are there twice",
        told.len()
    );
    let missing: Vec<_> = answered.difference(&ids).collect();
    ensure!(
        missing.is_empty(),
        "of {} answered calls {missing:?} have no record",
        answered.len()
    );
    ensure!(
        answered.len() > 50,
        "only {} calls were answered",
        answered.len()
    );
    Ok(())
}

// === helpers ===

fn document(origin: &Origin) -> String {
    format!(
        r#"
tenants: [{{name: acme}}]
consumers: [{{name: mobile-app, tenant: acme}}]
services: [{{name: orders, endpoints: [{{url: "{}"}}]}}]
routes:
  - {{name: orders, tenant: acme, service: orders, match: {{paths: [/orders]}}, auth: [key]}}
"#,
        origin.url()
    )
}
