//! The history through real processes: what changed is told, drift is found, a revision comes back without the credentials
//! that were taken away, and the record of all of it is verified, also after restarts and damage.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mode_envoy_cluster_tests::cluster::{Cluster, Node};
use mode_envoy_cluster_tests::wait;
use serde_json::Value;

const NODE: &str = env!("CARGO_BIN_EXE_mode-envoy-under-test");
const SOON: Duration = Duration::from_secs(20);

const SHOP: &str = r#"
tenants: [{name: acme}, {name: beta}]
consumers:
  - {name: mobile-app, tenant: acme}
  - {name: batch-jobs, tenant: beta}
providers:
  - {name: local, protocol: embedded}
  - {name: vendor, protocol: openai, keys: [{value: sk-first}]}
models:
  - {name: fast, targets: [{provider: local, model: echo}]}
services:
  - {name: orders, endpoints: [{url: "http://127.0.0.1:9"}]}
routes:
  - {name: orders, tenant: acme, service: orders, auth: [key], match: {paths: ["/orders/{*rest}"]}}
"#;

#[tokio::test]
async fn what_changed_is_listed_compared_and_rolled_back_without_the_credentials() -> Result<()> {
    let cluster = Cluster::start(NODE, 3).await?;
    cluster.apply(SHOP).await?;
    let key = cluster.key("acme", "mobile-app", "first").await?;
    let good = cluster.node(1).revision().await?;
    let declared = cluster.node(1).ok("export").await?;

    drift_is_found(&cluster).await?;

    // Somebody changes a lot, rotates the vendor's key and revokes an API key.
    let worse = SHOP
        .replace("model: echo}", "model: other}")
        .replace("sk-first", "sk-second")
        .replace("/orders/{*rest}", "/broken/{*rest}")
        + "\n  - {name: more, tenant: acme, service: orders, auth: [key], match: {paths: [/more]}}";
    cluster.node(2).apply(&worse).await?;
    cluster
        .node(3)
        .ok("keys revoke first --tenant acme")
        .await?;
    for node in cluster.nodes() {
        node.wait_key(&key, 401).await?;
    }
    the_history_tells_who_did_what(&cluster, good).await?;

    let then = cluster
        .node(3)
        .ok(&format!("export --revision {good}"))
        .await?;
    ensure!(then == declared, "{then} is not {declared}");
    let then = cluster
        .node(1)
        .ok(&format!("get model fast --revision {good}"))
        .await?;
    ensure!(then.contains("local/echo"), "{then}");

    // Looked at, then done, on a node that may not lead.
    let node = cluster.node(2);
    let before = node.revision().await?;
    let dry = node.ok(&format!("rollback {good} --dry-run")).await?;
    ensure!(
        dry.contains("route acme/more deleted") && dry.contains("model fast updated"),
        "{dry}"
    );
    ensure!(
        node.revision().await? == before,
        "a dry run changed something"
    );
    let done = node.ok(&format!("rollback {good} --wait")).await?;
    ensure!(done.contains(&format!("revision {}", before + 1)), "{done}");
    let back = node.ok("export").await?;
    ensure!(
        without_secrets(&back) == without_secrets(&declared),
        "{back} is not {declared}"
    );
    ensure!(back != declared, "the vendor's first key came back");
    for node in cluster.nodes() {
        node.wait_key(&key, 401).await?;
    }
    let again = node.ok(&format!("rollback {good}")).await?;
    ensure!(again == format!("revision {}\n", before + 1), "{again}");

    a_rollback_among_other_changes_is_whole(&cluster, good, &back).await?;
    what_cannot_come_back_is_refused(&cluster, good).await?;
    cluster.finish().await
}

#[tokio::test]
async fn a_prune_deletes_what_the_documents_left_out_and_asks_before_it_deletes_much() -> Result<()>
{
    let cluster = Cluster::start(NODE, 1).await?;
    let node = cluster.node(1);
    node.apply(SHOP).await?;
    node.create_key("acme", "mobile-app", "first").await?;
    let many: Vec<_> = (0..9)
        .map(|n| format!("{{name: s{n}, endpoints: [{{url: \"http://127.0.0.1:9\"}}]}}"))
        .collect();
    node.apply(&format!("services: [{}]", many.join(", ")))
        .await?;
    let revision = node.revision().await?;

    // One of ten services, in one change set; kinds and tenants that are not named stay.
    let orders = "{name: orders, endpoints: [{url: \"http://127.0.0.1:9\"}]}";
    let kept = format!("services: [{orders}, {}]", many[..8].join(", "));
    let prune = |extra: &'static [&'static str]| [&["apply", "-f", "-", "--prune"], extra].concat();
    let dry = node.run(&prune(&["--dry-run"]), &kept).await?.ok()?;
    ensure!(dry.contains("service s8 deleted"), "{dry}");
    ensure!(
        node.revision().await? == revision,
        "a dry run changed something"
    );
    let drift = node.run(&["diff", "-f", "-", "--prune"], &kept).await?;
    ensure!(
        drift.code == Some(2) && drift.stdout == "service s8 deleted\n",
        "{drift}"
    );
    let done = node.run(&prune(&[]), &kept).await?.ok()?;
    ensure!(
        done.contains("service s8 deleted") && done.contains("service s7 unchanged"),
        "{done}"
    );
    ensure!(
        node.revision().await? == revision + 1,
        "it took several changes"
    );

    // More than a fifth.
    let few = format!("services: [{orders}, {}]", many[..6].join(", "));
    let refused = node.run(&prune(&[]), &few).await?.fails(1)?;
    ensure!(
        refused.contains("2 of 9") && refused.contains("--yes"),
        "{refused}"
    );
    ensure!(
        node.revision().await? == revision + 1,
        "a refusal changed something"
    );
    node.run(&prune(&["--yes"]), &few).await?.ok()?;
    let services = node.ok("get services -o csv").await?;
    ensure!(
        !services.contains("s7") && services.contains("s5"),
        "{services}"
    );

    // What is in use is not deleted, and keys never are.
    let without = format!("services: [{}]", many[..6].join(", "));
    let refused = node.run(&prune(&["--yes"]), &without).await?.fails(1)?;
    ensure!(refused.contains("route acme/orders"), "{refused}");
    let other = "tenants: [{name: acme}]\nconsumers: [{name: other, tenant: acme}]";
    let refused = node.run(&prune(&["--yes"]), other).await?.fails(1)?;
    ensure!(refused.contains("key acme/first"), "{refused}");
    let left = node.ok("export").await?;
    for name in ["beta", "batch-jobs", "mobile-app", "vendor", "fast"] {
        ensure!(left.contains(name), "{name} is gone: {left}");
    }
    cluster.finish().await
}

#[tokio::test]
async fn the_record_is_verified_on_every_node_after_restarts_checkpoints_and_damage() -> Result<()>
{
    let mut cluster = Cluster::start(NODE, 3).await?;
    cluster.apply(SHOP).await?;
    // Enough changes for a sealed chunk and a checkpoint of each node.
    let node = cluster.node(1);
    for round in 0..70 {
        for name in ["a", "b", "c", "d"] {
            let text = format!(
                "services: [{{name: {name}, endpoints: [{{url: \"http://127.0.0.1:{}\"}}]}}]",
                round + 10
            );
            node.apply(&text).await?;
        }
    }
    let verified = verified_everywhere(&cluster).await?;
    ensure!(verified["revision"].as_u64() > Some(280), "{verified}");
    for node in cluster.nodes() {
        let dir = node.launch.data_dir.join("checkpoint/chunks");
        wait::until("a checkpoint", SOON, async || {
            let files = std::fs::read_dir(&dir)?.count();
            ensure!(files > 0, "no chunk in {}", dir.display());
            Ok(())
        })
        .await?;
    }

    for id in 1..=3 {
        cluster.node_mut(id).kill().await?;
    }
    cluster.start_all()?;
    cluster.wait_ready().await?;
    let again = verified_everywhere(&cluster).await?;
    ensure!(
        again["hash"] == verified["hash"],
        "{again} is not {verified}"
    );

    damage_is_never_served(&mut cluster, &verified).await?;
    cluster.finish().await
}

// === phases ===

/// `diff` ends with 0, 2 and 1, and says which field differs.
async fn drift_is_found(cluster: &Cluster) -> Result<()> {
    let node = cluster.node(3);
    let revision = node.revision().await?;
    let diff = ["diff", "-f", "-"];
    let same = node.run(&diff, SHOP).await?;
    ensure!(same.code == Some(0) && same.stdout.is_empty(), "{same}");
    let other = SHOP
        .replace("[{value: sk-first}]", "[{value: sk-second}]")
        .replace("http://127.0.0.1:9", "http://127.0.0.1:99")
        + "\n  - {name: new, tenant: acme, service: orders, auth: [key], match: {paths: [/new]}}";
    let found = node.run(&diff, &other).await?;
    ensure!(found.code == Some(2), "{found}");
    let said = "provider vendor updated\n  keys: changed (secret)\nservice orders updated\n  endpoints[0].url: \
                http://127.0.0.1:9 -> http://127.0.0.1:99\nroute acme/new created\n";
    ensure!(found.stdout == said, "{found}");
    let json = node.run(&["diff", "-f", "-", "-o", "json"], &other).await?;
    let json: Value = serde_json::from_str(&json.stdout)?;
    ensure!(
        json["differs"] == true && json["objects"][1]["fields"][0]["path"] == "endpoints[0].url",
        "{json}"
    );
    let wrong = node.run(
        &diff,
        "models: [{name: m, targets: [{provider: nobody, model: x}]}]",
    );
    let refused = wrong.await?.fails(1)?;
    ensure!(refused.contains("nobody"), "{refused}");
    ensure!(
        node.revision().await? == revision,
        "a diff changed something"
    );
    Ok(())
}

async fn the_history_tells_who_did_what(cluster: &Cluster, good: u64) -> Result<()> {
    let lines = |revisions: &Value| -> Vec<String> {
        let told = |r: &Value| {
            let words = ["origin", "actor"].map(|f| r[f].as_str().unwrap_or_default().to_owned());
            format!("{} {}", r["revision"], words.join(" by "))
        };
        revisions
            .as_array()
            .into_iter()
            .flatten()
            .map(told)
            .collect()
    };
    for node in cluster.nodes() {
        let told = node.cli(&["history", "-o", "json"]).await?.json()?;
        let first = lines(&told["revisions"]);
        ensure!(
            first[..2]
                == [
                    format!("{} keys revoke by root", good + 2),
                    format!("{} apply by root", good + 1)
                ],
            "node {}: {told}",
            node.id()
        );
        ensure!(told["since_revision"] == 1, "{told}");
    }
    let node = cluster.node(2);
    let words = [
        "history", "route", "orders", "--tenant", "acme", "-o", "json",
    ];
    let one = node.cli(&words).await?.json()?;
    let changes: Vec<_> = one["revisions"]
        .as_array()
        .context("revisions")?
        .iter()
        .map(|r| r["changes"][0]["change"].as_str().unwrap_or_default())
        .collect();
    ensure!(changes == ["updated", "created"], "{one}");
    let page = node.cli(&["history", "--limit", "1"]).await?;
    ensure!(
        page.stdout.contains("key acme/first deleted") && page.stderr.contains("--before"),
        "{page}"
    );
    let older = node
        .ok(&format!("history --limit 1 --before {}", good + 2))
        .await?;
    ensure!(older.contains("route acme/more created"), "{older}");
    let none = node.refuses("history prompts").await?;
    ensure!(none.contains("kinds are"), "{none}");

    let audit = node
        .cli(&["audit", "--since", "1h", "-o", "json"])
        .await?
        .json()?;
    let entry = &audit["entries"][0];
    ensure!(
        entry["origin"] == "keys revoke" && entry["hash"].as_str().map(str::len) == Some(64),
        "{audit}"
    );
    let nothing = node.ok("audit --to 2020-01-01T00:00:00Z -o json").await?;
    ensure!(nothing.contains("\"entries\": []"), "{nothing}");
    Ok(())
}

/// Changes that come in between are either undone with the rest or made after it; never is half of it done.
async fn a_rollback_among_other_changes_is_whole(
    cluster: &Cluster,
    good: u64,
    declared: &str,
) -> Result<()> {
    for round in 0..8 {
        let document = format!("tenants: [{{name: between-{round}}}]");
        let back = format!("rollback {good}");
        let words: Vec<_> = back.split(' ').collect();
        let (changed, back) = tokio::join!(
            cluster.node(1).apply(&document),
            cluster.node(3).cli(&words)
        );
        changed?;
        let back = back?;
        ensure!(
            back.code == Some(0) || back.stderr.contains("meanwhile; try again"),
            "{back}"
        );
    }
    let node = cluster.node(2);
    node.ok(&format!("rollback {good}")).await?;
    ensure!(node.ok("export").await? == declared, "not what it was");
    verified_everywhere(cluster).await.map(drop)
}

async fn what_cannot_come_back_is_refused(cluster: &Cluster, good: u64) -> Result<()> {
    let node = cluster.node(3);
    let refused = node.refuses("rollback 100000").await?;
    ensure!(refused.contains("no revision 100000"), "{refused}");
    // A provider that is gone took its keys along.
    node.ok("delete provider vendor").await?;
    let refused = node.refuses(&format!("rollback {good}")).await?;
    ensure!(
        refused.contains("providers[vendor].keys") && refused.contains("apply it with its keys"),
        "{refused}"
    );
    node.apply("providers: [{name: vendor, protocol: openai, keys: [{value: sk-third}]}]")
        .await?;
    node.ok(&format!("rollback {good}")).await?;
    // Whom a key belongs to cannot vanish.
    node.apply("tenants: [{name: late}]\nconsumers: [{name: app, tenant: late}]")
        .await?;
    node.create_key("late", "app", "kept").await?;
    let refused = node.refuses(&format!("rollback {good}")).await?;
    ensure!(refused.contains("key late/kept"), "{refused}");
    // A viewer may look at all of it, and change nothing.
    let made = node
        .ok("tokens create --name v --role viewer -o json")
        .await?;
    let made: Value = serde_json::from_str(&made)?;
    let token = made["token"].as_str().context("a token")?;
    node.ok(&format!("history --token {token}")).await?;
    node.ok(&format!("audit --verify --token {token}")).await?;
    let refused = node
        .refuses(&format!("rollback {good} --token {token}"))
        .await?;
    ensure!(refused.contains("viewer"), "{refused}");
    Ok(())
}

/// Each node's records hold, and every node has the same; what the last one said.
async fn verified_everywhere(cluster: &Cluster) -> Result<Value> {
    let mut last = Value::Null;
    for node in cluster.nodes() {
        let said = node
            .cli(&["audit", "--verify", "-o", "json"])
            .await?
            .json()?;
        let nodes = said["nodes"].as_array().context("nodes")?;
        ensure!(
            said["verified"] == true
                && nodes.len() == 3
                && nodes.iter().all(|n| n["result"] == "same"),
            "node {}: {said}",
            node.id()
        );
        last = said;
    }
    Ok(last)
}

/// A byte of the history's chunk flips while its node is down.
async fn damage_is_never_served(cluster: &mut Cluster, verified: &Value) -> Result<()> {
    cluster.node_mut(3).term().await?;
    let chunk = history_chunk(cluster.node(3))?;
    let mut bytes = std::fs::read(&chunk)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&chunk, bytes)?;
    cluster.node_mut(3).start()?;
    // Either it begins from what is intact and tells the same, or it says what is damaged and does not serve.
    if cluster.node_mut(3).wait_ready().await.is_ok() {
        let again = verified_everywhere(cluster).await?;
        ensure!(
            again["hash"] == verified["hash"],
            "{again} is not {verified}"
        );
    }
    let log = cluster.node(3).log();
    ensure!(
        log.contains("damaged") || log.contains("checksum"),
        "the damage of {} was not named",
        chunk.display()
    );
    Ok(())
}

/// The sealed chunk: the file that holds a change of the first rounds.
fn history_chunk(node: &Node) -> Result<PathBuf> {
    let dir = node.launch.data_dir.join("checkpoint/chunks");
    let mut largest = None;
    for entry in std::fs::read_dir(&dir)? {
        let path = entry?.path();
        let bytes = std::fs::read(&path)?;
        let holds = |text: &str| bytes.windows(text.len()).any(|w| w == text.as_bytes());
        if holds("apply") && holds("http://127.0.0.1:11") {
            largest = largest.max(Some((bytes.len(), path)));
        }
    }
    let (_, path) = largest.with_context(|| format!("no history in {}", dir.display()))?;
    Ok(path)
}

/// A document without its references to stored secrets.
fn without_secrets(document: &str) -> String {
    let lines = document.lines().filter(|line| !line.contains("stored:"));
    lines.collect::<Vec<_>>().join("\n")
}
