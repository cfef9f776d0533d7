//! A rotation of the cluster secret replaces the encryption key too: what the old secret opened, it opens no more of what comes later.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mode_envoy_cluster_tests::cluster::Cluster;
use mode_envoy_cluster_tests::http::{self, CHAT};
use mode_envoy_cluster_tests::upstream::{PROVIDER_KEY, Upstream};
use mode_envoy_cluster_tests::wait;
use serde_json::Value;
use tokio::task::JoinSet;

const NODE: &str = env!("CARGO_BIN_EXE_mode-envoy-under-test");
const SOON: Duration = Duration::from_mins(1);
/// More than one step seals anew.
const PROVIDERS: usize = 120;

#[tokio::test]
async fn the_old_secret_opens_nothing_of_a_backup_from_after_the_rotation() -> Result<()> {
    let cluster = Cluster::start(NODE, 1).await?;
    let upstream = Upstream::start().await?;
    cluster.apply(&upstream.document(&["remote"])).await?;
    let key = cluster.key("acme", "mobile-app", "first").await?;
    let node = cluster.node(1);
    let declared = node.ok("export").await?;
    let before = node.revision().await?;
    let old_secret = cluster.dir().join("old.secret");
    let told = node.launch.secret_file.clone().context("a file")?;
    std::fs::copy(&told, &old_secret)?;
    let old_backup = backup(&cluster, "old.backup").await?;

    let rotated: Value = serde_json::from_str(&node.ok("cluster rotate-secret -o json").await?)?;
    ensure!(rotated["done"] == true, "{rotated}");
    // A document from before speaks of the providers' keys by their fingerprints, and means the same ones.
    ensure!(node.ok("export").await? == declared, "fingerprints stay");
    let applied = node.apply(&declared).await?;
    ensure!(
        !applied.contains("updated") && !applied.contains("created"),
        "{applied}"
    );
    call(&cluster, &key).await?;
    node.apply("tenants: [{name: later}]").await?;
    node.ok(&format!("rollback {before}")).await?;
    call(&cluster, &key).await?;
    node.ok("audit --verify").await?;

    // Whoever has the old secret gets nothing of it; who has the new one restores all.
    let new_backup = backup(&cluster, "new.backup").await?;
    let new_secret = node.launch.data_dir.join("cluster.secret");
    let into = cluster.dir().join("stolen");
    let said = restore(&cluster, &new_backup, &into, &old_secret).await?;
    let said = said.fails(1)?;
    ensure!(
        said.contains("is not the one that cluster") && !into.exists(),
        "{said}"
    );
    let said = restore(&cluster, &old_backup, &into, &new_secret).await?;
    ensure!(
        said.fails(1)?.contains("is not the one that cluster"),
        "the old one needs the old secret"
    );

    let restored = restored(&cluster, &new_backup, &new_secret).await?;
    call(&restored, &key).await?;
    ensure!(
        restored.node(1).ok("export").await? == declared,
        "as it was declared"
    );
    upstream.check()?;
    restored.finish().await?;
    cluster.finish().await
}

#[tokio::test]
async fn nodes_that_die_while_keys_are_sealed_anew_go_on_where_they_were() -> Result<()> {
    let mut cluster = Cluster::start(NODE, 3).await?;
    let upstream = Upstream::start().await?;
    cluster.apply(&upstream.document(&["remote"])).await?;
    many_providers(&cluster).await?;
    let key = cluster.key("acme", "mobile-app", "first").await?;
    let declared = cluster.node(1).ok("export").await?;
    let before = cluster.node(1).revision().await?;

    everybody_dies_in_a_rotation(&mut cluster, before).await?;
    cluster.start_all()?;
    cluster.wait_ready().await?;
    for node in cluster.nodes() {
        let what = format!("node {} to hold one secret", node.id());
        wait::until(&what, SOON, async || {
            for name in ["cluster.secret.next", "cluster.secret.old"] {
                ensure!(!node.launch.data_dir.join(name).exists(), "{name} is there");
            }
            Ok(())
        })
        .await?;
        let body = http::chat("remote", "after the crash");
        http::post(node.gateway(), CHAT, &key, &body)
            .await?
            .expect(200)?;
        let log = node.log();
        ensure!(!log.contains("cannot be used"), "every key opens: {log}");
    }
    ensure!(
        cluster.node(3).ok("export").await? == declared,
        "nothing is declared otherwise"
    );
    each_is_sealed_once(&cluster).await?;
    cluster.node(2).ok("audit --verify").await?;
    upstream.check()?;
    cluster.finish().await
}

// === helpers ===

/// Restores a backup and starts its cluster. The restore is the first thing in the record of that cluster, and in its chain.
async fn restored(cluster: &Cluster, file: &Path, secret: &Path) -> Result<Cluster> {
    let mut restored = Cluster::plan(NODE, 1)?;
    let launch = &mut restored.node_mut(1).launch;
    launch.secret_file = Some(secret.to_owned());
    launch.told_id = false;
    launch.initial_cluster = None;
    let data_dir = launch.data_dir.clone();
    let made = restore(cluster, file, &data_dir, secret).await?.json()?;
    restored.node_mut(1).start()?;
    restored.node_mut(1).wait_ready().await?;
    let audit = restored.node(1).ok("audit --limit 1 -o json").await?;
    let audit: Value = serde_json::from_str(&audit)?;
    let entry = &audit["entries"][0];
    let from = made["restored_from"].as_str().context("an id")?;
    let at = made["revision"].as_u64().context("a revision")? - 1;
    ensure!(
        entry["origin"] == format!("restore of {from} at {at}"),
        "{entry}"
    );
    let by = entry["actor"].as_str().unwrap_or_default();
    ensure!(by.contains('@'), "{entry}");
    restored.node(1).ok("audit --verify").await?;
    Ok(restored)
}

/// Providers with keys that are long, so that sealing them anew takes a while.
async fn many_providers(cluster: &Cluster) -> Result<()> {
    let provider = |number: usize| {
        let secret = |at: usize| format!("{{value: {}-{number}-{at}}}", "x".repeat(1_000));
        let keys: Vec<_> = (0..16).map(secret).collect();
        let keys = keys.join(", ");
        format!(
            "  - {{name: p-{number}, protocol: openai, base_url: 'http://127.0.0.1:9', keys: [{keys}]}}\n"
        )
    };
    for part in 0..3 {
        let numbers = part * PROVIDERS / 3..(part + 1) * PROVIDERS / 3;
        let providers: String = numbers.map(provider).collect();
        let document = format!("providers:\n{providers}");
        cluster.node(1).apply(&document).await?;
    }
    Ok(())
}

/// Nobody waits for the answer; as soon as the rotation has gone on by itself, everybody dies.
async fn everybody_dies_in_a_rotation(cluster: &mut Cluster, before: u64) -> Result<()> {
    let (program, url) = (cluster.program().clone(), cluster.node(2).admin_url());
    let mut asked = JoinSet::new();
    asked.spawn(async move {
        let words = ["cluster", "rotate-secret", "--admin", &url];
        program.run(&words, "").await
    });
    wait::until("the new key to be in force", SOON, async || {
        let revision = cluster.node(1).revision().await?;
        ensure!(revision >= before + 2, "revision {revision}");
        Ok(())
    })
    .await?;
    for node in cluster.nodes_mut() {
        node.kill().await?;
    }
    asked.abort_all();
    Ok(())
}

async fn each_is_sealed_once(cluster: &Cluster) -> Result<()> {
    let audit = cluster.node(3).ok("audit --limit 100 -o json").await?;
    let audit: Value = serde_json::from_str(&audit)?;
    let entries = audit["entries"].as_array().context("entries")?;
    let steps = entries.iter().filter(|entry| entry["origin"] == "rotation");
    let changes = steps
        .filter_map(|entry| entry["changes"].as_array())
        .flatten();
    let sealed = changes
        .filter(|change| change["kind"] == "provider")
        .count();
    ensure!(sealed == PROVIDERS + 1, "{sealed}");
    Ok(())
}

async fn call(cluster: &Cluster, key: &str) -> Result<()> {
    let body = http::chat("remote", "hello");
    let answer = http::post(cluster.node(1).gateway(), CHAT, key, &body).await?;
    answer.expect(200).map(drop)
}

/// A backup, in which the provider's key does not stand.
async fn backup(cluster: &Cluster, name: &str) -> Result<PathBuf> {
    let file = cluster.dir().join(name);
    let path = file.to_string_lossy();
    cluster
        .node(1)
        .cli(&["cluster", "backup", &path])
        .await?
        .ok()?;
    let bytes = std::fs::read(&file)?;
    let clear = bytes
        .windows(PROVIDER_KEY.len())
        .any(|part| part == PROVIDER_KEY.as_bytes());
    ensure!(!clear, "a secret stands in {name}");
    Ok(file)
}

async fn restore(
    cluster: &Cluster,
    file: &Path,
    data_dir: &Path,
    secret: &Path,
) -> Result<mode_envoy_cluster_tests::program::Output> {
    let [file, data_dir, secret] = [file, data_dir, secret].map(|path| path.to_string_lossy());
    let words = ["cluster", "restore", &file, "--data-dir", &data_dir];
    let more = ["--cluster-secret-file", &secret, "-o", "json"];
    cluster
        .program()
        .run(&[&words[..], &more].concat(), "")
        .await
}
