//! A node that was away for long: the others have let go of the log that it lacks, so it is sent the state.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mode_envoy_cluster_tests::cluster::{Cluster, Node};
use mode_envoy_cluster_tests::http::{self, CHAT};
use mode_envoy_cluster_tests::upstream::Upstream;
use mode_envoy_cluster_tests::{load, usage, wait};

const NODE: &str = env!("CARGO_BIN_EXE_mode-envoy-under-test");

/// Checkpoints often, and nothing of the log behind them.
const KEEP_LITTLE: &str = "--checkpoint-every 20 --log-keep 0";
/// A transfer takes seconds.
const SLOWLY: &str = "--checkpoint-every 20 --log-keep 0 --snapshot-bytes-per-second 65536";
/// Catching up, on a machine that does much else.
const SOON: Duration = Duration::from_mins(1);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_away_for_long_gets_the_state_while_the_others_go_on_serving() -> Result<()>
{
    let mut cluster = start(KEEP_LITTLE).await?;
    let upstream = Upstream::start().await?;
    cluster.apply(&upstream.document(&["remote"])).await?;
    fill(&cluster).await?;
    let key = cluster.key("acme", "mobile-app", "first").await?;
    let (leader, away) = leader_and_follower(&cluster).await?;
    let there: Vec<String> = cluster
        .nodes()
        .iter()
        .filter(|node| node.id() != away as u64)
        .map(|node| node.gateway().to_owned())
        .collect();
    let ended = Arc::new(AtomicBool::new(false));
    let stop = Arc::clone(&ended);
    let calls = load::paced(20, Duration::from_mins(5), move |number| {
        let (address, key) = (there[number % there.len()].clone(), key.clone());
        let call = async move {
            let body = http::chat("remote", &format!("call {number}"));
            http::post(&address, CHAT, &key, &body).await?.expect(200)
        };
        (!ended.load(Ordering::SeqCst)).then_some(call)
    });

    let story = async {
        let told = away_twice(&mut cluster, leader, away).await;
        stop.store(true, Ordering::SeqCst);
        told
    };
    let (calls, told) = tokio::join!(calls, story);
    told?;
    let calls = calls.context("the load")?;
    let made = calls.len();
    for call in calls {
        call.context("a call failed while a node caught up")?;
    }
    same_everywhere(&cluster, made).await?;
    upstream.check()?;
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transfer_that_breaks_at_the_receiver_is_made_again_and_leaves_nothing() -> Result<()> {
    let mut cluster = start(SLOWLY).await?;
    let (leader, away) = leader_and_follower(&cluster).await?;
    let index = metric(cluster.node(away), "mode_envoy_raft_applied_index").await?;
    cluster.node_mut(away).kill().await?;
    fill(&cluster).await?;
    outrun(&cluster, leader, index, 1).await?;

    let term = metric(cluster.node(leader), "mode_envoy_raft_term").await?;
    cluster.node_mut(away).start()?;
    arriving(cluster.node(away)).await?;
    cluster.node_mut(away).kill().await?;
    ensure!(
        parts(cluster.node(away))?,
        "a part of a chunk stays behind a kill"
    );
    cluster.node_mut(away).start()?;
    cluster.node_mut(away).wait_ready().await?;
    received(cluster.node(away)).await?;
    same_catalog(&cluster).await?;
    ensure!(!parts(cluster.node(away))?, "a part of a chunk is left");
    let now = metric(cluster.node(leader), "mode_envoy_raft_term").await?;
    ensure!(
        now == term,
        "the node that received for seconds unseated its leader: term {term}, then {now}"
    );

    // The one that was received is damaged on the disk of a node that stands still, then both that there are.
    let node = cluster.node_mut(away);
    ensure!(node.term().await? == Some(0));
    for manifest in manifests(node)? {
        damage(&manifest)?;
    }
    node.start()?;
    let code = node.wait_end().await?;
    ensure!(code == Some(1), "the node ended with {code:?}");
    let said = node.log();
    for told in ["checkpoint", "damaged", "new node id"] {
        ensure!(said.contains(told), "it does not say {told:?}: {said}");
    }
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transfer_whose_sender_dies_is_made_again_by_the_next_leader() -> Result<()> {
    let mut cluster = start(SLOWLY).await?;
    let (leader, away) = leader_and_follower(&cluster).await?;
    let index = metric(cluster.node(away), "mode_envoy_raft_applied_index").await?;
    cluster.node_mut(away).kill().await?;
    fill(&cluster).await?;
    outrun(&cluster, leader, index, 1).await?;
    let other = (1..=3)
        .find(|id| *id != leader && *id != away)
        .context("three nodes")?;
    outrun(&cluster, other, index, 2).await?;

    cluster.node_mut(away).start()?;
    arriving(cluster.node(away)).await?;
    cluster.node_mut(leader).kill().await?;
    // Two of three are left, and one of them lacks everything: nothing can be decided before it has the state.
    wait::until("a change to be taken", SOON, async || {
        cluster
            .node(other)
            .apply("tenants: [{name: after}]")
            .await
            .map(drop)
    })
    .await?;
    cluster.node_mut(leader).start()?;
    cluster.wait_ready().await?;
    same_catalog(&cluster).await?;
    ensure!(!parts(cluster.node(away))?, "a part of a chunk is left");
    let export = cluster.node(away).ok("export").await?;
    ensure!(export.contains("name: after"), "{export}");
    cluster.finish().await
}

#[tokio::test]
async fn a_damaged_checkpoint_is_left_behind_since_the_log_reaches_back_to_the_one_before()
-> Result<()> {
    let mut cluster = start(KEEP_LITTLE).await?;
    outrun(&cluster, 3, 1, 1).await?;
    same_catalog(&cluster).await?;
    let node = cluster.node_mut(3);
    node.kill().await?;
    let kept = manifests(node)?;
    ensure!(kept.len() == 2, "{kept:?}");
    damage(&kept[1])?;
    node.start()?;
    node.wait_ready().await?;
    ensure!(node.log().contains("falling back to the one before"));
    same_catalog(&cluster).await?;
    cluster.finish().await
}

/// Kills a node, and starts it when the others have let go of what it lacks; and again.
async fn away_twice(cluster: &mut Cluster, leader: usize, away: usize) -> Result<()> {
    let (mut sent, mut skipped) = (0, 0);
    for round in 1..=2_u64 {
        let index = metric(cluster.node(away), "mode_envoy_raft_applied_index").await?;
        cluster.node_mut(away).kill().await?;
        outrun(cluster, leader, index, round).await?;
        cluster.node_mut(away).start()?;
        cluster.node_mut(away).wait_ready().await?;
        let back = cluster.node(away);
        received(back).await?;
        wait::until("the log to begin behind the snapshot", SOON, async || {
            let first = metric(back, "mode_envoy_wal_first_index").await?;
            ensure!(first > index, "{first}");
            Ok(())
        })
        .await?;
        sent = wait::until("the sender to count", SOON, async || {
            let now = on_all(cluster, "mode_envoy_snapshot_sent_total").await?;
            ensure!(now > sent, "{now} snapshots sent, as before");
            Ok(now)
        })
        .await?;
        let now = on_all(cluster, "mode_envoy_snapshot_skipped_chunks_total").await?;
        let before = std::mem::replace(&mut skipped, now);
        ensure!(round == 1 || skipped > before, "everything was sent again");
        let said = back.log();
        ensure!(said.contains("a snapshot was installed"), "{said}");
    }
    Ok(())
}

// === the setting ===

async fn start(words: &str) -> Result<Cluster> {
    let mut cluster = Cluster::plan(NODE, 3)?;
    for node in cluster.nodes_mut() {
        node.launch.more = words.split_whitespace().map(str::to_owned).collect();
    }
    cluster.start_all()?;
    cluster.wait_ready().await?;
    Ok(cluster)
}

/// Gives the catalog so many objects that a slow transfer of it takes seconds, and that it is more than one chunk: the
/// first does not change when others are added that come later in the order of names.
async fn fill(cluster: &Cluster) -> Result<()> {
    let leader = leader_and_follower(cluster).await?.0;
    for part in 0..5 {
        let mut document = "tenants:\n".to_owned();
        for number in 0..1_000 {
            let long = "a-name-of-more-letters-than-one-would-like-to-type";
            writeln!(document, "  - {{name: {long}-{part}-{number:03}}}")?;
        }
        cluster.node(leader).apply(&document).await?;
    }
    Ok(())
}

async fn leader_and_follower(cluster: &Cluster) -> Result<(usize, usize)> {
    let running = cluster.nodes().iter().find(|node| node.is_started());
    let status = running.context("a node that runs")?.status().await?;
    let leader = usize::try_from(status["leader"].as_u64().context("a leader")?)?;
    let follower = if leader == 3 { 1 } else { 3 };
    Ok((leader, follower))
}

/// Makes changes until a node's log begins behind an index.
async fn outrun(cluster: &Cluster, id: usize, index: u64, round: u64) -> Result<()> {
    for number in 0..200 {
        let tenant = format!("tenants: [{{name: t{round}-{number}}}]");
        let node = cluster.nodes().iter().find(|node| node.is_started());
        node.context("a node that runs")?.apply(&tenant).await?;
        if metric(cluster.node(id), "mode_envoy_wal_first_index").await? > index {
            return Ok(());
        }
    }
    anyhow::bail!("node {id} still has the log behind {index} after 200 changes")
}

// === what is seen ===

async fn metric(node: &Node, name: &str) -> Result<u64> {
    let page = http::get(node.admin(), "/metrics", None)
        .await?
        .expect(200)?;
    let text = page.text();
    let mut lines = text.lines().filter_map(|line| line.split_once(' '));
    let found = lines.find(|(found, _)| *found == name);
    let (_, value) = found.with_context(|| format!("no {name} in {text}"))?;
    value.parse().with_context(|| format!("{name} is {value}"))
}

async fn on_all(cluster: &Cluster, name: &str) -> Result<u64> {
    let mut sum = 0;
    for node in cluster.nodes() {
        sum += metric(node, name).await?;
    }
    Ok(sum)
}

/// Waits until a node has installed a snapshot since its start.
async fn received(node: &Node) -> Result<()> {
    wait::until("a snapshot to be installed", SOON, async || {
        ensure!(metric(node, "mode_envoy_snapshot_received_total").await? > 0);
        Ok(())
    })
    .await
}

/// Waits until a node has received the beginning of a chunk.
async fn arriving(node: &Node) -> Result<()> {
    wait::until("a chunk to arrive", SOON, async || {
        ensure!(parts(node)?, "no part of a chunk");
        Ok(())
    })
    .await
}

fn names(node: &Node, dir: &str, suffix: &str) -> Result<Vec<std::path::PathBuf>> {
    let dir = node.launch.data_dir.join(dir);
    let entries = std::fs::read_dir(&dir).with_context(|| format!("listing {}", dir.display()))?;
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|found| found == suffix) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn parts(node: &Node) -> Result<bool> {
    Ok(!names(node, "checkpoint/chunks", "part")?.is_empty())
}

fn manifests(node: &Node) -> Result<Vec<std::path::PathBuf>> {
    names(node, "checkpoint", "manifest")
}

fn damage(path: &Path) -> Result<()> {
    let mut bytes = std::fs::read(path)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(path, bytes).with_context(|| format!("damaging {}", path.display()))
}

async fn same_catalog(cluster: &Cluster) -> Result<()> {
    let first = cluster.node(1).ok("export").await?;
    for node in cluster.nodes() {
        let export = node.ok("export").await?;
        ensure!(export == first, "node {} has another catalog", node.id());
    }
    Ok(())
}

async fn same_everywhere(cluster: &Cluster, calls: usize) -> Result<()> {
    same_catalog(cluster).await?;
    for node in cluster.nodes() {
        let question = ["--filter", "model=remote", "--linearizable"];
        let row = usage::row(&node.usage(&question).await?)?;
        let counted = (row.calls, row.errors, row.presumed_calls);
        ensure!(counted == (calls as u64, 0, 0), "{calls} calls: {row:?}");
    }
    Ok(())
}
