//! The run-books of `docs/operating.md`, followed as they stand, and what is so afterwards.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mode_envoy_cluster_tests::cluster::{Cluster, Node};
use mode_envoy_cluster_tests::http::{self, CHAT};
use mode_envoy_cluster_tests::members::{leader, settled};
use mode_envoy_cluster_tests::run_book::{RunBook, Serving};
use mode_envoy_cluster_tests::upstream::Upstream;
use mode_envoy_cluster_tests::wait;
use serde_json::Value;

const NODE: &str = env!("CARGO_BIN_EXE_mode-envoy-under-test");

/// From the start of a node to its being ready.
const READY: Duration = Duration::from_mins(1);

/// What a user sees of a cluster.
#[derive(Debug, PartialEq)]
struct Printed {
    export: String,
    audit: Value,
    usage: Value,
}

#[tokio::test]
async fn a_dead_node_is_replaced_and_the_new_one_leads() -> Result<()> {
    let (mut cluster, upstream, key) = cluster().await?;
    let mut book = book(&cluster)?;
    cluster.node_mut(3).kill().await?;
    book.ask(cluster.node(1));

    let serving = add(&mut book, &mut cluster).await?;
    let joined = cluster.node(4);
    book.ask(joined);
    let shown = wait::until("the new node to be shown", READY, async || {
        let status = joined.status().await?;
        let nodes = status["nodes"].as_array().context("no nodes")?.clone();
        let new = nodes.into_iter().find(|node| node["id"] == 4);
        new.filter(|node| node["reachable"] == true)
            .with_context(|| format!("{status}"))
    });
    shown.await?;
    book.set("ID", "3");
    book.run("remove-node").await?;
    settled(joined, &[1, 2, 4], &[]).await?;

    book.set("ID", "4");
    book.run("transfer-leader").await?;
    wait::until("node 4 to lead", READY, async || {
        ensure!(leader(cluster.node(1)).await? == 4, "another leads");
        Ok(())
    })
    .await?;
    call(joined, &key).await?;
    ensure!(calls(cluster.node(1)).await? == 2, "two calls");
    upstream.check()?;
    serving.term().await?;
    cluster.finish().await
}

#[tokio::test]
async fn what_is_left_of_a_lost_quorum_becomes_a_cluster_of_three_again() -> Result<()> {
    let (mut cluster, upstream, key) = cluster().await?;
    let mut book = book(&cluster)?;
    let before = printed(cluster.node(1)).await?;
    for id in [2, 3] {
        cluster.node_mut(id).kill().await?;
    }
    book.ask(cluster.node(1));
    let about = book.run("survivor-backup").await?;
    ensure!(about.contains("applied_index"), "{about}");
    let survivor = cluster.node_mut(1);
    ensure!(survivor.term().await? == Some(0), "the survivor's end");

    // The new ones stand at other addresses, as on other machines.
    let first = cluster.plan_joiner("", "");
    book.sit_at(first)?;
    book.run("survivor-restore").await?;
    let mut running = vec![book.serve("serve-restored", first)?];
    ready(first).await?;
    book.ask(first);
    let checked = book.run("survivor-check").await?;
    ensure!(checked.contains("mobile-app"), "{checked}");
    ensure!(
        printed_before_restore(first).await? == before,
        "the restored one prints what was there"
    );
    for _ in 0..2 {
        running.push(add(&mut book, &mut cluster).await?);
    }
    let last = cluster.node(6);
    settled(last, &[4, 5, 6], &[]).await?;
    ensure!(
        printed(last).await?.usage == before.usage,
        "usage is the same everywhere"
    );
    call(last, &key).await?;
    last.ok("audit --verify").await?;
    upstream.check()?;
    end(running).await?;
    cluster.finish().await
}

#[tokio::test]
async fn a_backup_is_restored_with_the_secret_that_was_kept_after_a_rotation() -> Result<()> {
    let (mut cluster, upstream, key) = cluster().await?;
    let mut book = book(&cluster)?;
    book.ask(cluster.node(1));
    let secret = cluster.node(1).launch.secret_file.clone();
    let secret = secret.context("a secret")?;
    let old_secret = std::fs::read(&secret)?;
    let old = root_token(cluster.node(2))?;
    let rotated: Value = serde_json::from_str(&book.run("rotate-secret").await?)?;
    ensure!(
        rotated["done"] == true && rotated["waiting"] == serde_json::json!([]),
        "{rotated}"
    );
    let line = format!("export --token {old}");
    let said = cluster.node(2).refuses(&line).await?;
    ensure!(said.contains("no such admin token"), "{said}");
    book.sit_at(cluster.node(1))?;
    book.run("keep-secret").await?;
    ensure!(
        std::fs::read(secret.with_extension("before"))? == old_secret
            && std::fs::read(&secret)? != old_secret,
        "the old one is kept beside the new one"
    );

    let before = printed(cluster.node(1)).await?;
    let about = book.run("backup").await?;
    ensure!(about.contains("REVISION"), "{about}");
    for node in cluster.nodes_mut() {
        ensure!(node.term().await? == Some(0), "node {}", node.id());
    }
    let restored = cluster.plan_joiner("", "");
    book.sit_at(restored)?;
    book.run("restore").await?;
    let serving = book.serve("serve-restored", restored)?;
    ready(restored).await?;
    ensure!(
        printed_before_restore(restored).await? == before,
        "the restored one prints what was there"
    );
    call(restored, &key).await?;
    restored.ok("audit --verify").await?;
    upstream.check()?;
    serving.term().await?;
    cluster.finish().await
}

// === helpers ===

/// Three nodes that have counted a call.
async fn cluster() -> Result<(Cluster, Upstream, String)> {
    let cluster = Cluster::start(NODE, 3).await?;
    let upstream = Upstream::start().await?;
    cluster.apply(&upstream.document(&["remote"])).await?;
    let key = cluster.key("acme", "mobile-app", "first").await?;
    call(cluster.node(2), &key).await?;
    Ok((cluster, upstream, key))
}

fn book(cluster: &Cluster) -> Result<RunBook> {
    let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/operating.md");
    let mut book = RunBook::open(&document, NODE, cluster)?;
    let backups = cluster.dir().join("backups");
    std::fs::create_dir(&backups)?;
    book.set("BACKUPS", &path(&backups)?);
    let secret = cluster.node(1).launch.secret_file.clone();
    book.set("SECRET", &path(&secret.context("a secret")?)?);
    Ok(book)
}

/// "Add a node": a token, then a node that joins with it.
async fn add(book: &mut RunBook, cluster: &mut Cluster) -> Result<Serving> {
    let made: Value = serde_json::from_str(&book.run("add-node").await?)?;
    let text = |field: &str| made[field].as_str().with_context(|| format!("{made}"));
    book.set("MODE_ENVOY_JOIN_TOKEN", text("join_token")?);
    book.set("MEMBER", text("join")?);
    let node = cluster.plan_joiner("", "");
    book.sit_at(node)?;
    let serving = book.serve("join", node)?;
    ready(node).await?;
    Ok(serving)
}

/// Waits for a node that a block started.
async fn ready(node: &Node) -> Result<()> {
    wait::until("a node to be ready", READY, async || {
        let answer = http::get(node.admin(), "/readyz", None).await;
        answer
            .and_then(|answer| answer.expect(200))
            .with_context(|| node.log())
    })
    .await
    .map(drop)
}

async fn end(running: Vec<Serving>) -> Result<()> {
    for serving in running {
        serving.term().await?;
    }
    Ok(())
}

async fn call(node: &Node, key: &str) -> Result<()> {
    let body = http::chat("remote", "hello");
    let answer = http::post(node.gateway(), CHAT, key, &body).await?;
    answer.expect(200).map(drop)
}

async fn calls(node: &Node) -> Result<u64> {
    let question = ["--filter", "model=remote", "--linearizable"];
    let answer = node.usage(&question).await?;
    let rows = answer["rows"].as_array().context("no rows")?;
    Ok(rows.iter().filter_map(|row| row["calls"].as_u64()).sum())
}

async fn printed(node: &Node) -> Result<Printed> {
    let question = ["--group-by", "tenant,key,model,status", "--linearizable"];
    let audit: Value = serde_json::from_str(&node.ok("audit --limit 500 -o json").await?)?;
    Ok(Printed {
        export: node.ok("export").await?,
        audit: audit["entries"].clone(),
        usage: node.usage(&question).await?["rows"].clone(),
    })
}

/// The same of a restored node, without the newest change, which says that it was restored.
async fn printed_before_restore(node: &Node) -> Result<Printed> {
    let mut printed = printed(node).await?;
    let entries = printed.audit.as_array_mut().context("entries")?;
    ensure!(!entries.is_empty(), "there is no change at all");
    let restored = entries.remove(0);
    let origin = restored["origin"].as_str().unwrap_or_default();
    ensure!(origin.starts_with("restore of "), "{restored}");
    Ok(printed)
}

fn root_token(node: &Node) -> Result<String> {
    let text = std::fs::read_to_string(node.launch.data_dir.join("admin.token"))?;
    Ok(text.trim().to_owned())
}

fn path(path: &Path) -> Result<String> {
    Ok(path.to_str().context("a path")?.to_owned())
}
