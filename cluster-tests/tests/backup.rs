//! A backup restored elsewhere is the same cluster to those who use it, and another one to the old nodes; also of a cluster that
//! has lost its quorum.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use mode_envoy_cluster_tests::cluster::{Cluster, write_secret};
use mode_envoy_cluster_tests::http::{self, CHAT};
use mode_envoy_cluster_tests::members::{leader, settled};
use mode_envoy_cluster_tests::upstream::{PROVIDER_KEY, Upstream};
use serde_json::Value;

const NODE: &str = env!("CARGO_BIN_EXE_mode-envoy-under-test");

/// A range that lies around the test whenever it runs.
const ALWAYS: [&str; 4] = [
    "--from",
    "2026-01-01T00:00:00Z",
    "--to",
    "2036-01-01T00:00:00Z",
];

#[tokio::test]
async fn a_backup_restored_elsewhere_prints_the_same_and_takes_the_same_keys() -> Result<()> {
    let mut old = Cluster::start(NODE, 3).await?;
    let upstream = Upstream::start().await?;
    let key = prepare(&old, &upstream).await?;
    for id in [1, 2, 3] {
        call(&old, id, &key).await?;
    }
    old.node(2).ok("delete tenant spare").await?;
    let file = old.dir().join("b.backup");
    let made = backup(&old, 2, &file, &[]).await?;
    let before = printed(&old, 3).await?;
    ensure!(made["revision"] == before.revision, "{made}");
    ensure!(made["local"] == false, "{made}");
    holds_no_secret(&old, &file, &key)?;

    // Only the secret of that time opens it, and nothing is left of the attempt.
    let mut new = Cluster::plan(NODE, 1)?;
    let data_dir = new.node(1).launch.data_dir.clone();
    let other = old.dir().join("other.secret");
    write_secret(&other)?;
    let said = restore(&old, &file, &data_dir, &other).await?.fails(1)?;
    ensure!(
        said.contains("other.secret") && said.contains("is not the one that cluster"),
        "{said}"
    );
    ensure!(!data_dir.exists(), "a refused restore leaves nothing");

    let restored = restored_node(&old, &mut new, &file).await?;
    ensure!(restored["node_id"] == 4, "{restored}");
    ensure!(restored["cluster_id"] != made["cluster_id"], "{restored}");
    ensure!(
        restored["restored_from"] == made["cluster_id"],
        "{restored}"
    );
    new.node_mut(1).start()?;
    new.node_mut(1).wait_ready().await?;
    let mut after = printed(&new, 1).await?;
    take_out_the_restore(&mut after, &made, before.revision)?;
    ensure!(after == before, "{after:#?}\nis not\n{before:#?}");
    new.node(1).ok("audit --verify").await?;

    // Keys work, provider keys open, and what is new counts; the old root token is nobody's.
    call(&new, 1, &key).await?;
    let root = std::fs::read_to_string(old.node(1).launch.data_dir.join("admin.token"))?;
    let said = new
        .node(1)
        .refuses(&format!("export --token {}", root.trim()))
        .await?;
    ensure!(said.contains("no such admin token"), "{said}");

    // It grows, under ids that were never used, and the old cluster goes on beside it.
    new.join(1).await?;
    settled(new.node(2), &[4, 5], &[]).await?;
    call(&new, 2, &key).await?;
    let calls = total_calls(&new, 2).await?;
    ensure!(calls == 5, "3 calls before and 2 since, not {calls}");
    new.node(2).apply("tenants: [{name: later}]").await?;
    ensure!(
        new.node(1).revision().await? == before.revision + 4,
        "the restore, a token, a node and a tenant"
    );
    ensure!(
        total_calls(&old, 1).await? == 3,
        "the old cluster is as it was"
    );

    // A restart begins from what was restored.
    new.node_mut(1).kill().await?;
    new.node_mut(1).start()?;
    new.node_mut(1).wait_ready().await?;
    call(&new, 1, &key).await?;
    new.finish().await?;
    for node in old.nodes_mut() {
        ensure!(node.term().await? == Some(0), "node {}", node.id());
    }
    old.finish().await
}

#[tokio::test]
async fn what_a_survivor_of_a_lost_quorum_has_becomes_a_cluster_again() -> Result<()> {
    let mut old = Cluster::start(NODE, 3).await?;
    let upstream = Upstream::start().await?;
    let key = prepare(&old, &upstream).await?;
    let leads = usize::try_from(leader(old.node(1)).await?)?;
    let (other, survivor) = (1 + leads % 3, 1 + (leads + 1) % 3);
    call(&old, survivor, &key).await?;
    ensure!(total_calls(&old, survivor).await? == 1, "one call");
    // With one node frozen, what is acknowledged is on the disks of the leader and of the survivor, which may not have heard
    // that it is; then both others are gone.
    old.node(other).freeze()?;
    old.node(leads)
        .apply("tenants: [{name: last-words}]")
        .await?;
    old.node_mut(leads).kill().await?;
    old.node_mut(other).kill().await?;

    let file = old.dir().join("survivor.backup");
    let path = file.to_string_lossy().into_owned();
    let said = old
        .node(survivor)
        .refuses(&format!("cluster backup {path}"))
        .await?;
    ensure!(
        said.contains("--local") && said.contains("quorum"),
        "{said}"
    );
    ensure!(!file.exists(), "no backup without a quorum");
    let output = old
        .node(survivor)
        .cli(&["cluster", "backup", &path, "--local", "-o", "json"])
        .await?;
    let said = output.stderr.clone();
    let made = output.json()?;
    ensure!(made["local"] == true && made["node"] == survivor, "{made}");
    ensure!(said.contains("made with --local"), "{said}");
    old.node_mut(survivor).kill().await?;

    let mut new = Cluster::plan(NODE, 1)?;
    restored_node(&old, &mut new, &file).await?;
    new.node_mut(1).start()?;
    new.node_mut(1).wait_ready().await?;
    let export = new.node(1).ok("export").await?;
    ensure!(
        export.contains("last-words"),
        "what was acknowledged: {export}"
    );
    ensure!(total_calls(&new, 1).await? == 1, "the call before");
    new.join(1).await?;
    new.join(2).await?;
    settled(new.node(3), &[4, 5, 6], &[]).await?;
    for id in [1, 2, 3] {
        call(&new, id, &key).await?;
    }
    ensure!(total_calls(&new, 3).await? == 4, "three more calls");
    new.finish().await?;
    old.finish().await
}

#[tokio::test]
async fn what_is_not_whole_is_refused_and_nobody_but_root_takes_a_backup() -> Result<()> {
    let cluster = Cluster::start(NODE, 1).await?;
    cluster.node(1).apply("tenants: [{name: acme}]").await?;
    let made = cluster
        .node(1)
        .ok("tokens create --name a --role admin -o json")
        .await?;
    let made: Value = serde_json::from_str(&made)?;
    let token = made["token"].as_str().context("a token")?;
    let file = cluster.dir().join("b.backup");
    let path = file.to_string_lossy().into_owned();
    let said = cluster
        .node(1)
        .refuses(&format!("cluster backup {path} --token {token}"))
        .await?;
    ensure!(
        said.contains("backing up the cluster takes the role root"),
        "{said}"
    );
    ensure!(!file.exists(), "a refusal leaves no file");

    backup(&cluster, 1, &file, &[]).await?;
    let whole = std::fs::read(&file)?;
    let mut flipped = whole.clone();
    let middle = whole.len() / 2;
    flipped[middle] ^= 1;
    let secret = secret_of(&cluster)?;
    for (name, bytes, says) in [
        (
            "cut",
            &whole[..whole.len() - 8],
            "before its end was written",
        ),
        ("flipped", &flipped[..], "is damaged at byte"),
        ("text", b"tenants: []", "it is not a backup"),
    ] {
        let damaged = cluster.dir().join(name);
        std::fs::write(&damaged, bytes)?;
        let said = verify(&cluster, &damaged).await?.fails(1)?;
        ensure!(said.contains(says) && said.contains(name), "{said}");
        let into = cluster.dir().join("restored");
        let said = restore(&cluster, &damaged, &into, &secret)
            .await?
            .fails(1)?;
        ensure!(said.contains(says), "{said}");
        ensure!(!into.exists(), "nothing is restored from {name}");
    }

    // Into a directory that is somebody's; under an id that was used.
    let taken = cluster.node(1).launch.data_dir.clone();
    let said = restore(&cluster, &file, &taken, &secret).await?.fails(1)?;
    ensure!(said.contains("another process uses"), "{said}");
    let into = cluster.dir().join("restored");
    let arguments = [
        "cluster",
        "restore",
        &path,
        "--data-dir",
        &into.to_string_lossy(),
        "--cluster-secret-file",
        &secret.to_string_lossy(),
        "--node-id",
        "1",
    ];
    let said = cluster.program().run(&arguments, "").await?.fails(1)?;
    ensure!(said.contains("node id 1 was used"), "{said}");
    ensure!(!into.exists(), "nothing is restored under a used id");

    cluster.finish().await
}

#[tokio::test]
async fn standard_output_carries_the_same_backup() -> Result<()> {
    let cluster = Cluster::start(NODE, 1).await?;
    cluster.node(1).apply("tenants: [{name: acme}]").await?;
    let url = cluster.node(1).admin_url();
    let printed = cluster
        .program()
        .command()
        .args(["cluster", "backup", "-", "--admin", &url])
        .output()
        .await?;
    ensure!(printed.status.success(), "{printed:?}");
    let piped = cluster.dir().join("piped");
    std::fs::write(&piped, &printed.stdout)?;
    let verified = verify(&cluster, &piped).await?.json()?;
    ensure!(verified["holds"]["tenants"] == 1, "{verified}");
    ensure!(verified["holds"]["tokens"] == 1, "{verified}");
    cluster.finish().await
}

// === helpers ===

/// What a user sees of a cluster.
#[derive(Debug, PartialEq)]
struct Printed {
    export: String,
    audit: Value,
    revision: u64,
    usage: Vec<Value>,
}

async fn printed(cluster: &Cluster, id: usize) -> Result<Printed> {
    let node = cluster.node(id);
    let mut usage = Vec::new();
    for dimensions in ["tenant,key,model,status", "consumer"] {
        let question = ["--group-by", dimensions, "--interval", "day"];
        let answer = node.usage(&[&question[..], &ALWAYS].concat()).await?;
        usage.push(answer["rows"].clone());
    }
    let by_node = node.usage(&["--group-by", "node", "--since", "2h"]).await?;
    usage.push(by_node["rows"].clone());
    let audit: Value = serde_json::from_str(&node.ok("audit --limit 500 -o json").await?)?;
    Ok(Printed {
        export: node.ok("export").await?,
        audit: audit["entries"].clone(),
        revision: node.revision().await?,
        usage,
    })
}

/// That it was restored is a change of its own, the newest; the rest is as it was.
fn take_out_the_restore(after: &mut Printed, made: &Value, revision: u64) -> Result<()> {
    let restored = after.audit.as_array_mut().context("entries")?.remove(0);
    let from = made["cluster_id"].as_str().context("an id")?;
    ensure!(
        restored["origin"] == format!("restore of {from} at {revision}"),
        "{restored}"
    );
    after.revision -= 1;
    Ok(())
}

/// A configuration with a provider's key and a client's key in it.
async fn prepare(cluster: &Cluster, upstream: &Upstream) -> Result<String> {
    let document = format!(
        r#"
tenants: [{{name: acme}}, {{name: spare}}]
consumers: [{{name: mobile-app, tenant: acme}}]
providers:
  - {{name: up, protocol: openai, base_url: "{}", keys: [{{value: {PROVIDER_KEY}}}]}}
models:
  - {{name: remote, targets: [{{provider: up, model: up-remote}}], price: {{input: "1", output: "2"}}}}
"#,
        upstream.base_url()
    );
    cluster.apply(&document).await?;
    cluster.key("acme", "mobile-app", "first").await
}

async fn call(cluster: &Cluster, id: usize, key: &str) -> Result<()> {
    let body = http::chat("remote", "hello");
    let answer = http::post(cluster.node(id).gateway(), CHAT, key, &body).await?;
    answer.expect(200).map(drop)
}

async fn total_calls(cluster: &Cluster, id: usize) -> Result<u64> {
    let question = ["--filter", "model=remote", "--linearizable"];
    let node = cluster.node(id);
    let answer = node.usage(&[&question[..], &ALWAYS].concat()).await;
    let answer = answer?;
    let rows = answer["rows"].as_array().context("no rows")?;
    Ok(rows.iter().filter_map(|row| row["calls"].as_u64()).sum())
}

fn secret_of(cluster: &Cluster) -> Result<PathBuf> {
    let file = cluster.node(1).launch.secret_file.clone();
    file.context("the secret is in a file")
}

/// Takes a backup and checks it offline; what was printed.
async fn backup(cluster: &Cluster, id: usize, file: &Path, more: &[&str]) -> Result<Value> {
    let path = file.to_string_lossy();
    let arguments = [&["cluster", "backup", &path, "-o", "json"], more].concat();
    let made = cluster.node(id).cli(&arguments).await?.json()?;
    let verified = verify(cluster, file).await?.json()?;
    for field in ["cluster_id", "revision", "applied_index", "bytes", "made"] {
        ensure!(verified[field] == made[field], "{field}: {verified} {made}");
    }
    Ok(made)
}

async fn verify(
    cluster: &Cluster,
    file: &Path,
) -> Result<mode_envoy_cluster_tests::program::Output> {
    let path = file.to_string_lossy();
    let arguments = ["cluster", "backup", "--verify", &path, "-o", "json"];
    cluster.program().run(&arguments, "").await
}

async fn restore(
    cluster: &Cluster,
    file: &Path,
    data_dir: &Path,
    secret: &Path,
) -> Result<mode_envoy_cluster_tests::program::Output> {
    let (file, data_dir) = (file.to_string_lossy(), data_dir.to_string_lossy());
    let secret = secret.to_string_lossy();
    let arguments = [
        "cluster",
        "restore",
        &file,
        "--data-dir",
        &data_dir,
        "--cluster-secret-file",
        &secret,
        "-o",
        "json",
    ];
    cluster.program().run(&arguments, "").await
}

/// Restores into the first node of a new cluster, which is told neither its id nor any others; what was printed.
async fn restored_node(old: &Cluster, new: &mut Cluster, file: &Path) -> Result<Value> {
    let secret = secret_of(old)?;
    let launch = &mut new.node_mut(1).launch;
    launch.secret_file = Some(secret.clone());
    launch.told_id = false;
    launch.initial_cluster = None;
    let data_dir = launch.data_dir.clone();
    restore(old, file, &data_dir, &secret).await?.json()
}

/// Neither a key, nor a token, nor the secret stands in a backup.
fn holds_no_secret(cluster: &Cluster, file: &Path, key: &str) -> Result<()> {
    let bytes = std::fs::read(file)?;
    let has = |text: &str| {
        bytes
            .windows(text.len())
            .any(|part| part == text.as_bytes())
    };
    ensure!(has("mobile-app"), "a name is there in clear");
    let root = std::fs::read_to_string(cluster.node(1).launch.data_dir.join("admin.token"))?;
    let secret = std::fs::read_to_string(secret_of(cluster)?)?;
    for text in [key, PROVIDER_KEY, root.trim(), secret.trim()] {
        ensure!(!has(text), "a secret is in the backup");
    }
    Ok(())
}
