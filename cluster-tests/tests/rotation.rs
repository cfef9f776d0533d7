//! One cluster secret takes the place of another while clients call, also where a node is away, or comes and goes in between.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mode_envoy_cluster_tests::cluster::{Cluster, Launch, Node};
use mode_envoy_cluster_tests::members::{Balancer, settled};
use mode_envoy_cluster_tests::upstream::Upstream;
use mode_envoy_cluster_tests::{http, wait};
use serde_json::Value;
use tokio::task::JoinSet;

const NODE: &str = env!("CARGO_BIN_EXE_mode-envoy-under-test");
const SOON: Duration = Duration::from_mins(1);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_secret_is_in_force_without_a_failed_call_and_the_old_one_is_worth_nothing()
-> Result<()> {
    let mut cluster = Cluster::start(NODE, 3).await?;
    let upstream = Upstream::start().await?;
    cluster.apply(&upstream.document(&["remote"])).await?;
    let key = cluster.key("acme", "mobile-app", "first").await?;
    let old_token = root_token(cluster.node(1))?;
    let stale = cluster.node(1).join_token("1h").await?;

    let balancer = Balancer::default();
    for node in cluster.nodes() {
        balancer.put_in(node);
    }
    let stop = Arc::new(AtomicBool::new(false));
    let mut load = JoinSet::new();
    {
        let (balancer, stop, key) = (balancer.clone(), Arc::clone(&stop), key.clone());
        load.spawn(async move { balancer.load(60, &key, "remote", stop).await });
    }
    let rotated = rotate(cluster.node(2)).await?;
    ensure!(rotated["done"] == true, "{rotated}");
    one_secret(&cluster, &[1, 2, 3]).await?;
    // Writes go on, and every node leads on: usage of all of them is counted.
    for number in 0..20 {
        let document = format!("tenants: [{{name: later-{number}}}]");
        cluster.node(3).apply(&document).await?;
    }
    stop.store(true, Ordering::SeqCst);
    let calls = load.join_next().await.context("the load")???;
    let failed: Vec<_> = calls
        .iter()
        .filter_map(|call| call.as_ref().err())
        .collect();
    ensure!(
        failed.is_empty() && calls.len() > 10,
        "{failed:?} of {}",
        calls.len()
    );

    // The token of the old secret is refused everywhere, the new one is the same everywhere.
    for node in cluster.nodes() {
        let said = node.refuses(&format!("export --token {old_token}")).await?;
        ensure!(said.contains("no such admin token"), "{said}");
        ensure!(
            root_token(node)? == root_token(cluster.node(1))?,
            "one token"
        );
    }
    // A node comes back although it is told the file of the old secret; provider keys open still.
    let node = cluster.node_mut(1);
    ensure!(node.term().await? == Some(0), "node 1 did not end in order");
    node.start()?;
    node.wait_ready().await?;
    settled(cluster.node(1), &[1, 2, 3], &[]).await?;
    let body = http::chat("remote", "after the restart");
    http::post(cluster.node(1).gateway(), http::CHAT, &key, &body)
        .await?
        .expect(200)?;

    // Whoever has the old secret is not let in, nor is a join token of that time any good; a new one is.
    impostor(&mut cluster).await?;
    let address = cluster.node(2).launch.peer.clone();
    let node = cluster.plan_joiner(&address, &stale);
    node.start()?;
    ensure!(
        node.wait_end().await? == Some(1),
        "a stale token: {}",
        node.log()
    );
    cluster.forget_last();
    cluster.join(3).await?;
    settled(cluster.node(2), &[1, 2, 3], &[4]).await?;
    one_secret(&cluster, &[1, 2, 3, 4]).await?;
    cluster.finish().await
}

#[tokio::test]
async fn a_rotation_waits_for_a_node_that_is_away_and_outlives_crashes() -> Result<()> {
    let mut cluster = Cluster::start(NODE, 3).await?;
    cluster.node(1).apply("tenants: [{name: acme}]").await?;
    cluster.node_mut(3).kill().await?;
    let rotated = rotate(cluster.node(1)).await?;
    ensure!(
        rotated["done"] == false && rotated["waiting"] == serde_json::json!([3]),
        "{rotated}"
    );
    let said = cluster.node(2).refuses("cluster add-node").await?;
    ensure!(
        said.contains("the cluster secret is being replaced"),
        "{said}"
    );

    // Those that hold both come back, and the one that was away learns of it.
    for id in [1, 2] {
        cluster.node_mut(id).kill().await?;
    }
    for id in [1, 2, 3] {
        cluster.node_mut(id).start()?;
    }
    cluster.wait_ready().await?;
    one_secret(&cluster, &[1, 2, 3]).await?;
    let status = cluster.node(3).status().await?;
    ensure!(
        status["rotating"].is_null() || status["rotating"] == false,
        "{status}"
    );
    cluster.node(3).apply("tenants: [{name: later}]").await?;
    cluster.node(1).ok("audit --verify").await?;
    cluster.finish().await
}

#[tokio::test]
async fn a_rotation_that_cannot_go_on_may_be_given_up_and_begun_again() -> Result<()> {
    let mut cluster = Cluster::start(NODE, 3).await?;
    let token = root_token(cluster.node(1))?;
    cluster.node_mut(3).kill().await?;
    let rotated = rotate(cluster.node(2)).await?;
    ensure!(rotated["done"] == false, "{rotated}");
    let given_up = cluster
        .node(1)
        .ok("cluster rotate-secret --abort -o json")
        .await?;
    let given_up: Value = serde_json::from_str(&given_up)?;
    ensure!(given_up["done"] == true, "{given_up}");
    cluster.node_mut(3).start()?;
    cluster.node_mut(3).wait_ready().await?;
    for node in cluster.nodes() {
        ensure!(root_token(node)? == token, "the old token stays");
        nothing_beside(node).await?;
    }
    let rotated = rotate(cluster.node(3)).await?;
    ensure!(rotated["done"] == true, "{rotated}");
    one_secret(&cluster, &[1, 2, 3]).await?;
    ensure!(root_token(cluster.node(1))? != token, "a new token");
    cluster.finish().await
}

#[tokio::test]
async fn the_admin_listeners_own_certificate_follows_the_secret() -> Result<()> {
    let mut cluster = Cluster::plan(NODE, 1)?;
    let old = cluster.dir().join("old-ca.pem");
    let port = std::net::TcpListener::bind("0.0.0.0:0")?
        .local_addr()?
        .port();
    let node = cluster.node_mut(1);
    node.launch.admin = format!("0.0.0.0:{port}");
    node.launch.more = vec!["--advertise-admin".to_owned(), format!("127.0.0.1:{port}")];
    node.start()?;

    let url = format!("https://127.0.0.1:{port}");
    let get = ["get", "tenants", "--admin", &url];
    let run = async |words: &[&str]| node.launch.program.run(words, "").await;
    wait::until("the admin API", SOON, async || run(&get).await?.ok()).await?;
    let ca = node.launch.data_dir.join("admin-ca.pem");
    std::fs::copy(&ca, &old)?;
    run(&["cluster", "rotate-secret", "--admin", &url])
        .await?
        .ok()?;
    // What the context file names is trusted, and that is the new one.
    wait::until("the new certificate", SOON, async || {
        let renewed = std::fs::read(&ca)? != std::fs::read(&old)?;
        ensure!(renewed, "the CA is the old one");
        run(&get).await?.ok()
    })
    .await?;
    let old = old.to_string_lossy();
    let said = run(&[&get[..], &["--ca", &old]].concat()).await?.fails(1)?;
    ensure!(said.contains("invalid peer certificate"), "{said}");
    cluster.finish().await
}

// === helpers ===

async fn rotate(node: &Node) -> Result<Value> {
    let rotated = node.ok("cluster rotate-secret -o json").await?;
    serde_json::from_str(&rotated).context("an answer")
}

fn root_token(node: &Node) -> Result<String> {
    let token = std::fs::read_to_string(node.launch.data_dir.join("admin.token"))?;
    Ok(token.trim().to_owned())
}

/// Waits until these nodes hold one secret, which is another than that of the file they are told, and none beside it.
async fn one_secret(cluster: &Cluster, ids: &[usize]) -> Result<()> {
    let told = cluster.node(1).launch.secret_file.clone();
    let told = std::fs::read_to_string(told.context("a file")?)?;
    let mut secrets = std::collections::BTreeSet::new();
    for id in ids {
        let node = cluster.node(*id);
        nothing_beside(node).await?;
        let secret = std::fs::read_to_string(node.launch.data_dir.join("cluster.secret"))?;
        secrets.insert(secret.trim().to_owned());
    }
    ensure!(
        secrets.len() == 1 && !secrets.contains(told.trim()),
        "one new secret"
    );
    Ok(())
}

async fn nothing_beside(node: &Node) -> Result<()> {
    let what = format!("node {} to hold one secret", node.id());
    wait::until(&what, SOON, async || {
        for name in ["cluster.secret.next", "cluster.secret.old"] {
            let there = node.launch.data_dir.join(name).exists();
            ensure!(!there, "{name} is there");
        }
        Ok(())
    })
    .await
}

/// A node that forms with the others under an id of theirs and the old secret must wait for ever, and say why.
async fn impostor(cluster: &mut Cluster) -> Result<()> {
    let dir = cluster.dir().to_owned();
    let real = cluster.node_mut(3);
    ensure!(real.term().await? == Some(0), "node 3");
    let mut impostor = Node::new(Launch {
        data_dir: dir.join("impostor"),
        log: dir.join("impostor.log"),
        ..real.launch.clone()
    });
    impostor.start()?;
    wait::until("the impostor to say why it waits", SOON, async || {
        let log = impostor.log();
        ensure!(log.contains("another cluster secret"), "{log}");
        Ok(())
    })
    .await?;
    impostor.kill().await?;
    let real = cluster.node_mut(3);
    real.start()?;
    real.wait_ready().await
}
