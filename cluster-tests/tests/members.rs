//! How nodes join and leave a cluster, and who is turned away.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mode_envoy_cluster_tests::cluster::{Cluster, Node};
use mode_envoy_cluster_tests::http::{self, CHAT};
use mode_envoy_cluster_tests::load::{self, Pace, Rng};
use mode_envoy_cluster_tests::members::{leader, roles, settled};
use mode_envoy_cluster_tests::upstream::Upstream;
use mode_envoy_cluster_tests::{usage, wait};

const NODE: &str = env!("CARGO_BIN_EXE_mode-envoy-under-test");
const SOON: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_node_joins_with_a_token_and_serves_like_the_others() -> Result<()> {
    let mut cluster = Cluster::start(NODE, 3).await?;
    let upstream = Upstream::start().await?;
    cluster.apply(&upstream.document(&["remote"])).await?;
    let key = cluster.key("acme", "mobile-app", "first").await?;
    let before = cluster.node(1).cli(&["export"]).await?.ok()?;

    ensure!(cluster.join(2).await? == 4, "the fourth node");
    settled(cluster.node(1), &[1, 2, 3], &[4]).await?;
    let four = cluster.node(4);
    ensure!(
        four.cli(&["export"]).await?.ok()? == before,
        "node 4 has another configuration"
    );
    // What it serves counts, what is changed through it is changed, and it needs nothing of the user's.
    http::post(
        four.gateway(),
        CHAT,
        &key,
        &http::chat("remote", "through the fourth"),
    )
    .await?
    .expect(200)?;
    four.apply("tenants: [{name: later}]").await?;
    let export = cluster.node(1).cli(&["export"]).await?.ok()?;
    ensure!(export.contains("later"), "{export}");
    let by_node = [
        "--group-by",
        "node",
        "--filter",
        "tenant=acme",
        "--linearizable",
    ];
    let rows = usage::rows(&cluster.node(3).usage(&by_node).await?)?;
    ensure!(
        rows.iter()
            .any(|row| row.dimension("node") == "4" && row.calls > 0),
        "{rows:?}"
    );
    let secret = four.launch.data_dir.join("cluster.secret");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&secret)?.permissions());
    ensure!(mode & 0o777 == 0o600, "{mode:o}");

    // The fifth makes five voters of three.
    ensure!(cluster.join(4).await? == 5, "the fifth node");
    settled(cluster.node(5), &[1, 2, 3, 4, 5], &[]).await?;
    let status = cluster.node(2).status().await?;
    ensure!(status["joining"] == serde_json::json!([]), "{status}");
    ensure!(status["join_tokens"] == serde_json::json!([]), "{status}");

    // It comes back under its id: with the flags of its first start, which mean nothing any more, and without.
    for joined_by_flags in [true, false] {
        let node = cluster.node_mut(4);
        node.kill().await?;
        if !joined_by_flags {
            node.launch.join = None;
        }
        node.start()?;
        node.wait_ready().await?;
        http::get(node.gateway(), "/v1/models", Some(&key))
            .await?
            .expect(200)?;
    }
    ensure!(roles(cluster.node(1)).await?.len() == 5, "no sixth id");
    upstream.check()?;
    cluster.finish().await
}

#[tokio::test]
async fn a_cluster_of_one_grows_and_does_without_its_first_node() -> Result<()> {
    let mut cluster = Cluster::start(NODE, 1).await?;
    cluster.node(1).apply("tenants: [{name: acme}]").await?;
    // Of two both vote, so that what is acknowledged is on two disks.
    cluster.join(1).await?;
    settled(cluster.node(1), &[1, 2], &[]).await?;
    cluster.join(2).await?;
    settled(cluster.node(3), &[1, 2, 3], &[]).await?;
    cluster.node(3).ok("cluster remove-node 1").await?;
    ensure!(cluster.node_mut(1).wait_end().await? == Some(0), "node 1");
    settled(cluster.node(3), &[2, 3], &[]).await?;

    // The two come back without it.
    for id in [2, 3] {
        ensure!(cluster.node_mut(id).term().await? == Some(0), "node {id}");
    }
    for id in [2, 3] {
        cluster.node_mut(id).start()?;
    }
    for id in [2, 3] {
        cluster.node_mut(id).wait_ready().await?;
    }
    cluster.node(2).apply("tenants: [{name: later}]").await?;
    let export = cluster.node(3).cli(&["export"]).await?.ok()?;
    ensure!(
        export.contains("acme") && export.contains("later"),
        "{export}"
    );
    cluster.finish().await
}

#[tokio::test]
async fn whoever_has_no_good_token_is_turned_away_and_told_why() -> Result<()> {
    let mut cluster = Cluster::start(NODE, 3).await?;
    let other = Cluster::start(NODE, 1).await?;
    let address = cluster.node(1).launch.peer.clone();

    // Used twice.
    let token = cluster.node(1).join_token("1h").await?;
    let node = cluster.plan_joiner(&address, &token);
    node.start()?;
    node.wait_ready().await?;
    turned_away(&mut cluster, &address, &token, &["used already", "node 4"]).await?;

    // Expired, which the next node is told whether or not the cluster remembers the token.
    let short = cluster.node(2).join_token("1s").await?;
    Pace::every(Duration::from_millis(1_500)).tick().await;
    turned_away(&mut cluster, &address, &short, &["expired", "add-node"]).await?;

    // Of another cluster: neither is anything sent there, nor does it help with this one.
    let foreign = other.node(1).join_token("1h").await?;
    turned_away(
        &mut cluster,
        &address,
        &foreign,
        &["no node of the cluster"],
    )
    .await?;
    let elsewhere = other.node(1).launch.peer.clone();
    let fresh = cluster.node(1).join_token("1h").await?;
    turned_away(
        &mut cluster,
        &elsewhere,
        &fresh,
        &["no node of the cluster"],
    )
    .await?;

    // Not whole, and of the right shape with a secret that nobody gave out.
    let cut = &fresh[..fresh.len() - 3];
    turned_away(&mut cluster, &address, cut, &["not a whole join token"]).await?;
    turned_away(
        &mut cluster,
        &address,
        "mej-abc",
        &["not a whole join token"],
    )
    .await?;

    // An address that another member has.
    let taken = cluster.node(2).launch.peer.clone();
    let node = cluster.plan_joiner(&address, &fresh);
    node.launch.advertise_peer = Some(taken);
    let turned = refused(node, &["node 2 has the peer address"]).await;
    cluster.forget_last();
    turned?;

    // No id was spent on any of them; the token that was not used still works.
    let node = cluster.plan_joiner(&address, &fresh);
    node.start()?;
    node.wait_ready().await?;
    settled(cluster.node(1), &[1, 2, 3, 4, 5], &[]).await?;

    other.finish().await?;
    cluster.finish().await
}

#[tokio::test]
async fn only_root_changes_who_belongs_to_the_cluster() -> Result<()> {
    let cluster = Cluster::start(NODE, 1).await?;
    let admin = cluster
        .node(1)
        .ok("tokens create --name a --role admin -o json")
        .await?;
    let admin: serde_json::Value = serde_json::from_str(&admin)?;
    let admin = admin["token"].as_str().context("a token")?;
    for line in [
        "cluster add-node",
        "cluster remove-node 2",
        "cluster transfer-leader 2",
    ] {
        let said = cluster
            .node(1)
            .refuses(&format!("{line} --token {admin}"))
            .await?;
        ensure!(said.contains("takes the role root"), "{said}");
    }
    let said = cluster
        .node(1)
        .refuses("cluster add-node --expires 2h")
        .await?;
    ensure!(said.contains("1 hour"), "{said}");
    cluster.finish().await
}

#[tokio::test]
async fn a_node_that_dies_while_it_joins_comes_back_as_the_same_node() -> Result<()> {
    let seed = load::seed()?;
    let mut rng = Rng::new(seed);
    let mut cluster = Cluster::start(NODE, 3).await?;
    for number in 0..30 {
        cluster
            .node(1)
            .apply(&format!("tenants: [{{name: t{number}}}]"))
            .await?;
    }
    let token = cluster.node(1).join_token("1h").await?;
    let address = cluster.node(1).launch.peer.clone();
    cluster.plan_joiner(&address, &token);
    for _ in 0..10 {
        let node = cluster.node_mut(4);
        node.start()?;
        let moment = u64::try_from(rng.below(350))?;
        Pace::every(Duration::from_millis(moment)).tick().await;
        node.kill().await?;
    }
    let node = cluster.node_mut(4);
    node.start()?;
    node.wait_ready()
        .await
        .with_context(|| format!("the choices are those of seed {seed}"))?;
    settled(cluster.node(1), &[1, 2, 3], &[4])
        .await
        .with_context(|| format!("the choices are those of seed {seed}"))?;
    let export = cluster.node(4).cli(&["export"]).await?.ok()?;
    ensure!(export.contains("t29"), "{export}");
    cluster.finish().await
}

#[tokio::test]
async fn a_join_goes_on_under_the_next_leader() -> Result<()> {
    let mut cluster = Cluster::start(NODE, 3).await?;
    let dead = usize::try_from(leader(cluster.node(1)).await?)?;
    let by = (1..=3).find(|id| *id != dead).context("a follower")?;
    let token = cluster.node(by).join_token("1h").await?;
    let address = cluster.node(by).launch.peer.clone();
    cluster.plan_joiner(&address, &token);
    // The leader dies while the node asks, and stays dead: the follower that was asked finds the next one.
    cluster.node_mut(4).start()?;
    cluster.node_mut(dead).kill().await?;
    let node = cluster.node_mut(4);
    node.wait_ready().await?;
    // Without the dead one there are three, but it still votes until somebody removes it.
    settled(cluster.node(by), &[1, 2, 3], &[4]).await?;
    let removed = cluster
        .node(by)
        .ok(&format!("cluster remove-node {dead}"))
        .await?;
    ensure!(
        removed.contains(&format!("node {dead} removed")),
        "{removed}"
    );
    let voters: Vec<u64> = (1..=4)
        .filter(|id| *id != u64::try_from(dead).unwrap_or(0))
        .collect();
    settled(cluster.node(by), &voters, &[]).await?;

    // It was away when it was removed, so it is told when it comes back, and needs nobody to tell it the next time.
    let node = cluster.node_mut(dead);
    refused(node, &["was removed"]).await?;
    std::fs::write(&node.launch.log, "")?;
    refused(node, &["was removed", "add-node"]).await?;
    cluster.finish().await
}

#[tokio::test]
async fn a_removed_node_finishes_its_work_says_so_and_ends() -> Result<()> {
    let mut cluster = Cluster::start(NODE, 3).await?;
    let upstream = Upstream::start().await?;
    cluster.apply(&upstream.document(&["remote"])).await?;
    let key = cluster.key("acme", "mobile-app", "first").await?;
    let gone = usize::try_from(leader(cluster.node(1)).await?)?;
    let other = 1 + gone % 3;
    let said = cluster.node(other).refuses("cluster remove-node 9").await?;
    ensure!(said.contains("there is no node 9"), "{said}");

    // What the node has counted and not flushed is flushed before it goes, even though it led.
    for number in 0..20 {
        let body = http::chat("remote", &format!("last call {number}"));
        http::post(cluster.node(gone).gateway(), CHAT, &key, &body)
            .await?
            .expect(200)?;
    }
    let removed = cluster
        .node(other)
        .ok(&format!("cluster remove-node {gone} -o json"))
        .await?;
    let removed: serde_json::Value = serde_json::from_str(&removed)?;
    ensure!(removed["done"] == true, "{removed}");
    let node = cluster.node_mut(gone);
    ensure!(node.wait_end().await? == Some(0), "{}", node.log());
    ensure!(
        node.log().contains("was removed from the cluster"),
        "{}",
        node.log()
    );
    refused(node, &["was removed", "add-node"]).await?;
    let row = usage::row(
        &cluster
            .node(other)
            .usage(&["--filter", "model=remote", "--linearizable"])
            .await?,
    )?;
    ensure!((row.calls, row.presumed_calls) == (20, 0), "{row:?}");

    // Of the two that are left, the one that does not answer is needed no more than the one that does is needed.
    let last = 1 + other % 3;
    let (last, other) = if last == gone {
        (1 + last % 3, other)
    } else {
        (last, other)
    };
    cluster
        .node(other)
        .ok(&format!("cluster remove-node {gone}"))
        .await?;
    ensure!(roles(cluster.node(other)).await?.len() == 2, "two are left");
    cluster
        .node(other)
        .ok(&format!("cluster remove-node {last}"))
        .await?;
    ensure!(
        cluster.node_mut(last).wait_end().await? == Some(0),
        "node {last}"
    );
    let said = cluster
        .node(other)
        .refuses(&format!("cluster remove-node {other}"))
        .await?;
    ensure!(said.contains("the last one"), "{said}");
    cluster
        .node(other)
        .apply("tenants: [{name: alone}]")
        .await?;
    upstream.check()?;
    cluster.finish().await
}

#[tokio::test]
async fn a_removal_that_would_leave_no_majority_is_refused() -> Result<()> {
    let mut cluster = Cluster::start(NODE, 3).await?;
    cluster.node_mut(3).kill().await?;
    let said = wait::until("node 3 to be missed", SOON, async || {
        cluster.node(1).refuses("cluster remove-node 2").await
    })
    .await?;
    for told in ["nodes 1, 3 would vote", "3 do not answer"] {
        ensure!(said.contains(told), "{said}");
    }
    // The dead one first; then two are two. The second is told itself that it is to go, and says that it has.
    cluster.node(1).ok("cluster remove-node 3").await?;
    settled(cluster.node(1), &[1, 2], &[]).await?;
    let said = cluster
        .node(2)
        .cli(&["cluster", "remove-node", "2"])
        .await?;
    ensure!(said.stderr.is_empty(), "{}", said.stderr);
    ensure!(said.ok()?.contains("node 2 removed"), "the answer");
    settled(cluster.node(1), &[1], &[]).await?;
    ensure!(cluster.node_mut(2).wait_end().await? == Some(0), "node 2");
    cluster.finish().await
}

// === helpers ===

/// A node that asks with this token must end by itself and say all of this; it is forgotten then.
async fn turned_away(
    cluster: &mut Cluster,
    address: &str,
    token: &str,
    says: &[&str],
) -> Result<()> {
    let node = cluster.plan_joiner(address, token);
    let refused = refused(node, says).await;
    let left = node.launch.data_dir.join("node.json").exists();
    cluster.forget_last();
    ensure!(!left, "a node that was turned away is no node");
    refused
}

/// Starts a node that must end by itself and say all of this.
async fn refused(node: &mut Node, says: &[&str]) -> Result<()> {
    node.start()?;
    let code = node.wait_end().await?;
    let log = node.log();
    ensure!(
        code == Some(1),
        "node {} ended with {code:?}: {log}",
        node.id()
    );
    for told in says {
        ensure!(log.contains(told), "its log does not say {told:?}: {log}");
    }
    Ok(())
}
