//! How nodes become a cluster, and which nodes are turned away.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mode_envoy_cluster_tests::cluster::{Cluster, Node, write_secret};
use mode_envoy_cluster_tests::load::{self, Pace, Rng};
use mode_envoy_cluster_tests::{http, wait};

const NODE: &str = env!("CARGO_BIN_EXE_mode-envoy-under-test");
const SOON: Duration = Duration::from_secs(20);

#[tokio::test]
async fn three_nodes_form_one_cluster_from_a_list_and_one_secret() -> Result<()> {
    let cluster = Cluster::start(NODE, 3).await?;
    let first = settled_status(cluster.node(1)).await?;
    ensure!(
        first["cluster_id"]
            .as_str()
            .is_some_and(|id| id.len() == 32),
        "no cluster id: {first}"
    );
    for node in cluster.nodes() {
        http::get(node.admin(), "/readyz", None)
            .await?
            .expect(200)?;
        http::get(node.admin(), "/healthz", None)
            .await?
            .expect(200)?;
        let status = settled_status(node).await?;
        ensure!(
            status["cluster_id"] == first["cluster_id"],
            "node {}: {status}",
            node.id()
        );
        ensure!(
            status["leader"] == first["leader"],
            "node {}: {status}",
            node.id()
        );
        check_members(&cluster, &status)?;
    }

    // The same tokens open every node, and each has left its own file for its user.
    let token =
        |id: usize| std::fs::read_to_string(cluster.node(id).launch.data_dir.join("admin.token"));
    let (one, three) = (token(1)?, token(3)?);
    ensure!(one == three, "the root token differs between nodes");
    let by_flag = cluster
        .node(2)
        .cli(&["cluster", "status", "--token", one.trim()])
        .await?;
    ensure!(
        by_flag.ok()?.contains("leader"),
        "the table of cluster status names no leader"
    );
    cluster.finish().await
}

#[tokio::test]
async fn while_forming_a_node_names_the_peers_it_lacks_and_why() -> Result<()> {
    let mut cluster = Cluster::plan(NODE, 3)?;
    cluster.node_mut(1).start()?;
    let two = cluster.node(2).launch.peer.clone();
    let three = cluster.node(3).launch.peer.clone();
    said(
        cluster.node(1),
        &["node 2", &two, "node 3", &three, "refuses connections"],
    )
    .await?;

    // A node with another secret is turned away by both sides, and both name the secret.
    let right = cluster.node(2).launch.secret_file.clone();
    let wrong = cluster.dir().join("another-secret");
    write_secret(&wrong)?;
    cluster.node_mut(2).launch.secret_file = Some(wrong);
    cluster.node_mut(2).start()?;
    said(cluster.node(1), &["node 2", "secret"]).await?;
    said(cluster.node(2), &["node 1", "secret"]).await?;
    logged(cluster.node(2), "secret").await?;
    let health = cluster.node(2).cli(&["cluster", "status"]).await?;
    health.fails(1)?;

    // With the right one the same directories form.
    cluster.node_mut(2).kill().await?;
    cluster.node_mut(2).launch.secret_file = right;
    cluster.start_all()?;
    cluster.wait_ready().await?;
    cluster.finish().await
}

#[tokio::test]
async fn a_cluster_forms_once_whichever_processes_die_on_the_way() -> Result<()> {
    let seed = load::seed()?;
    let mut rng = Rng::new(seed);
    let mut cluster = Cluster::plan(NODE, 3)?;
    let mut ids = BTreeSet::new();
    for _ in 0..8 {
        cluster.start_all()?;
        let moment = u64::try_from(rng.below(400))?;
        Pace::every(Duration::from_millis(moment)).tick().await;
        for node in cluster.nodes_mut() {
            if rng.below(3) > 0 {
                node.kill().await?;
            }
        }
        ids.extend(cluster.nodes().iter().filter_map(cluster_id_on_disk));
    }
    cluster.start_all()?;
    cluster
        .wait_ready()
        .await
        .with_context(|| format!("the choices are those of seed {seed}"))?;
    for node in cluster.nodes() {
        let status = settled_status(node).await?;
        ids.extend(status["cluster_id"].as_str().map(str::to_owned));
    }
    ensure!(
        ids.len() == 1,
        "seed {seed}: more than one cluster id was seen: {ids:?}"
    );
    cluster.finish().await
}

#[tokio::test]
async fn a_member_that_comes_back_with_another_secret_is_told_so() -> Result<()> {
    let mut cluster = Cluster::start(NODE, 3).await?;
    let wrong = cluster.dir().join("another-secret");
    write_secret(&wrong)?;
    let node = cluster.node_mut(3);
    node.kill().await?;
    std::fs::write(&node.launch.log, "")?;
    let right = node.launch.secret_file.replace(wrong);
    node.start()?;
    logged(cluster.node(3), "secret").await?;
    cluster
        .node(1)
        .run(&["apply", "-f", "-"], "tenants: [{name: acme}]")
        .await?
        .ok()?;
    let status = cluster.node(1).status().await?;
    ensure!(
        status["nodes"][2]["reachable"] == false,
        "node 3 counts as reachable: {status}"
    );

    let node = cluster.node_mut(3);
    node.term().await?;
    node.launch.secret_file = right;
    node.start()?;
    cluster.wait_ready().await?;
    let export = cluster.node(3).cli(&["export"]).await?.ok()?;
    ensure!(export.contains("acme"), "{export}");
    cluster.finish().await
}

#[tokio::test]
async fn a_wiped_node_never_comes_back_under_its_old_id() -> Result<()> {
    let mut cluster = Cluster::start(NODE, 3).await?;
    let node = cluster.node_mut(3);
    node.kill().await?;
    std::fs::remove_dir_all(&node.launch.data_dir)?;
    node.start()?;
    let code = node.wait_end().await?;
    ensure!(
        code.is_some_and(|code| code != 0),
        "the wiped node ended with {code:?}"
    );
    for text in ["node 3", "remove-node 3", "add-node"] {
        logged(cluster.node(3), text).await?;
    }

    // The others are a majority and go on.
    cluster
        .node(1)
        .run(&["apply", "-f", "-"], "tenants: [{name: acme}]")
        .await?
        .ok()?;
    cluster.finish().await
}

#[tokio::test]
async fn a_directory_has_one_node_of_one_cluster() -> Result<()> {
    let mut cluster = Cluster::start(NODE, 1).await?;
    let home = cluster.node(1).launch.clone();

    // While it is in use, nobody else may have it.
    let mut second = Node::new(home.clone());
    second.launch.gateway = home.gateway.replace(":8080", ":8081");
    second.launch.admin = home.admin.replace(":7070", ":7080");
    second.launch.peer = home.peer.replace(":7071", ":7081");
    second.launch.log = cluster.dir().join("second.log");
    refused(&mut second, "another process").await?;

    // Nor another node, once it is free.
    ensure!(
        cluster.node_mut(1).term().await? == Some(0),
        "node 1 did not end in order"
    );
    second.launch.node_id = 2;
    second.launch.initial_cluster = Some(format!("1={},2={}", home.peer, second.launch.peer));
    refused(&mut second, "belongs to node 1").await?;

    // Its own node takes it back.
    cluster.start_all()?;
    cluster.wait_ready().await?;
    cluster.finish().await
}

#[tokio::test]
async fn a_node_of_another_cluster_is_turned_away_by_name() -> Result<()> {
    // Two clusters of the same nodes and the same secret, one after the other.
    let mut cluster = Cluster::start(NODE, 3).await?;
    let before = cluster.node(1).status().await?;
    for node in cluster.nodes_mut() {
        ensure!(
            node.term().await? == Some(0),
            "node {} did not end in order",
            node.id()
        );
        node.launch.data_dir = node.launch.data_dir.with_extension("new");
    }
    cluster.start_all()?;
    cluster.wait_ready().await?;
    let after = cluster.node(1).status().await?;
    ensure!(
        before["cluster_id"] != after["cluster_id"],
        "both clusters have one id"
    );

    let node = cluster.node_mut(3);
    node.kill().await?;
    node.launch.data_dir = node.launch.data_dir.with_extension("");
    std::fs::write(&node.launch.log, "")?;
    node.start()?;
    let id = after["cluster_id"].as_str().context("a cluster id")?;
    logged(cluster.node(3), "cluster").await?;
    logged(cluster.node(3), id).await?;

    // It is not counted in: the cluster goes on without it.
    cluster
        .node(1)
        .run(&["apply", "-f", "-"], "tenants: [{name: acme}]")
        .await?
        .ok()?;
    let status = cluster.node(1).status().await?;
    ensure!(
        status["nodes"][2]["reachable"] == false,
        "node 3 counts as reachable: {status}"
    );
    let node = cluster.node_mut(3);
    let code = node.term().await?;
    ensure!(code.is_some(), "node 3 did not end by itself");
    cluster.finish().await
}

// === helpers ===

/// The cluster id that a node has written down, if it has.
fn cluster_id_on_disk(node: &Node) -> Option<String> {
    let text = std::fs::read_to_string(node.launch.data_dir.join("node.json")).ok()?;
    let record: serde_json::Value = serde_json::from_str(&text).ok()?;
    record["cluster_id"].as_str().map(str::to_owned)
}

/// The status of a node, once it knows a leader and has heard from everybody.
async fn settled_status(node: &Node) -> Result<serde_json::Value> {
    wait::until("every member to be reachable", SOON, async || {
        let status = node.status().await?;
        let nodes = status["nodes"].as_array().context("no nodes")?;
        ensure!(
            nodes.iter().all(|node| node["reachable"] == true),
            "{status}"
        );
        ensure!(
            status["leader"].as_u64().is_some_and(|id| id > 0),
            "no leader: {status}"
        );
        Ok(status)
    })
    .await
}

fn check_members(cluster: &Cluster, status: &serde_json::Value) -> Result<()> {
    let members = status["nodes"].as_array().context("no nodes")?;
    ensure!(members.len() == cluster.nodes().len(), "{status}");
    for (member, node) in members.iter().zip(cluster.nodes()) {
        ensure!(member["id"] == node.id(), "{member}");
        let role = if member["id"] == status["leader"] {
            "leader"
        } else {
            "follower"
        };
        ensure!(member["role"] == role, "{member}");
        ensure!(member["gateway"] == node.launch.gateway, "{member}");
        ensure!(member["admin"] == node.launch.admin, "{member}");
        ensure!(member["peer"] == node.launch.peer, "{member}");
        ensure!(
            member["applied_index"]
                .as_u64()
                .is_some_and(|index| index > 0),
            "{member}"
        );
        ensure!(member["revision"].as_u64().is_some(), "{member}");
        ensure!(
            member["version"]
                .as_str()
                .is_some_and(|version| !version.is_empty()),
            "{member}"
        );
    }
    Ok(())
}

/// Waits until `/readyz` is 503 and names all of these.
async fn said(node: &Node, words: &[&str]) -> Result<()> {
    let what = format!("node {} to name {words:?} as what it lacks", node.id());
    wait::until(&what, SOON, async || {
        let answer = http::get(node.admin(), "/readyz", None)
            .await?
            .expect(503)?
            .text();
        ensure!(words.iter().all(|word| answer.contains(word)), "{answer}");
        Ok(())
    })
    .await
}

/// Waits until the node's log says this.
async fn logged(node: &Node, text: &str) -> Result<()> {
    let what = format!("node {} to log {text:?}", node.id());
    wait::until(&what, SOON, async || {
        let log = node.log();
        ensure!(
            log.contains(text),
            "{}",
            log.lines().last().unwrap_or_default()
        );
        Ok(())
    })
    .await
}

/// Starts a node that must end by itself and say this.
async fn refused(node: &mut Node, reason: &str) -> Result<()> {
    node.start()?;
    let code = node.wait_end().await?;
    ensure!(
        code.is_some_and(|code| code != 0),
        "a node that must not start ended with {code:?}"
    );
    ensure!(
        node.log().contains(reason),
        "its log does not say {reason:?}: {}",
        node.log()
    );
    Ok(())
}
