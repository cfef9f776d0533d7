//! What an operator sees of limits: the same from every node, and of a call that was refused which limit it was and why.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mode_envoy_cluster_tests::calls::{call_id, calls};
use mode_envoy_cluster_tests::cluster::{Cluster, Node};
use mode_envoy_cluster_tests::origin::Origin;
use mode_envoy_cluster_tests::{http, wait};
use serde_json::{Value, json};

const NODE: &str = env!("CARGO_BIN_EXE_mode-envoy-under-test");
const SOON: Duration = Duration::from_secs(20);
const ORDERS: &str = "/orders/1";
const LIMITED: &str = "mode_envoy_limit_decisions_total{outcome=\"refused\"}";
const UNCHECKED: &str = "mode_envoy_limit_decisions_total{outcome=\"unavailable\"}";

fn document(origin: &Origin) -> String {
    format!(
        r#"
tenants: [{{name: acme}}, {{name: beta}}]
consumers: [{{name: app, tenant: acme}}, {{name: app, tenant: beta}}]
services: [{{name: orders, endpoints: [{{url: "{}"}}]}}]
routes:
  - {{name: orders, tenant: acme, service: orders, auth: [key], match: {{paths: ["/orders/{{*rest}}"]}}}}
limits:
  - {{name: daily, match: {{tenant: acme, route: orders}}, each: key, unit: requests, amount: 5, per: day, mode: strict}}
  - {{name: open-calls, tenant: beta, unit: concurrent, amount: 9}}
  - {{name: shared, match: {{model: none-yet}}, unit: requests, amount: 8, per: hour}}
  - {{name: alone, match: {{tenant: beta}}, unit: requests, amount: 7, per: minute, mode: local}}
providers: [{{name: local, protocol: embedded}}]
models: [{{name: none-yet, targets: [{{provider: local, model: echo}}]}}]
"#,
        origin.url()
    )
}

#[tokio::test]
async fn every_node_tells_how_limits_stand_and_explain_names_the_one_that_refused_a_call()
-> Result<()> {
    let origin = Origin::start("orders").await?;
    let mut cluster = Cluster::start(NODE, 3).await?;
    cluster.apply(&document(&origin)).await?;
    let first = cluster.key("acme", "app", "first").await?;
    let second = cluster.key("acme", "app", "second").await?;
    nobody_has_asked_yet(&cluster).await?;

    for (id, count) in [(1, 3), (2, 2)] {
        for _ in 0..count {
            let answer = orders(cluster.node(id), &first).await?.expect(200)?;
            let most = answer.header("x-ratelimit-limit-requests");
            ensure!(most == "5", "the limit is told as {most:?}");
        }
    }
    // Until then what the others used counts as theirs to give back.
    all_of_it_is_used(cluster.node(3)).await?;
    let refused = orders(cluster.node(3), &first).await?.expect(429)?;
    ensure!(refused.header("x-mode-envoy-error") == "limited");
    ensure!(!refused.header("retry-after").is_empty());

    for node in cluster.nodes() {
        all_of_it_is_used(node).await?;
        explains(node, &call_id(&refused)).await?;
    }
    counted(cluster.node(3), LIMITED).await?;
    a_tenant_sees_its_own(cluster.node(2)).await?;
    what_cannot_be_asked_is_refused(cluster.node(1)).await?;

    // Nobody is left to ask, and the limit is strict.
    cluster.node_mut(1).kill().await?;
    cluster.node_mut(2).kill().await?;
    let node = cluster.node(3);
    let unchecked = orders(node, &second).await?.expect(503)?;
    ensure!(unchecked.header("x-mode-envoy-error") == "limiter_unavailable");
    let told = node.ok(&format!("explain {}", call_id(&unchecked))).await?;
    for part in [
        "The limit `daily` (strict) for `acme/second` could not be checked",
        "503 `limiter_unavailable`",
    ] {
        ensure!(told.contains(part), "{part:?} is not in {told}");
    }
    counted(node, UNCHECKED).await?;
    all_of_it_is_used(node).await?;
    cluster.finish().await
}

// === phases ===

/// Every limit is there, with its whole amount free, and in one order.
async fn nobody_has_asked_yet(cluster: &Cluster) -> Result<()> {
    for node in cluster.nodes() {
        let told = limits(node, &[]).await?;
        let told: Vec<_> = told
            .iter()
            .map(|pool| (&pool["tenant"], &pool["name"], &pool["free"], &pool["used"]))
            .map(|fields| json!(fields))
            .collect();
        let expected = [
            json!([null, "alone", 7, null]),
            json!([null, "daily", 5, 0]),
            json!([null, "shared", 8, 0]),
            json!(["beta", "open-calls", 9, 0]),
        ];
        ensure!(told == expected, "node {} tells {told:?}", node.id());
        let table = node.ok("limits daily").await?;
        ensure!(table.contains("any key"), "{table}");
    }
    Ok(())
}

/// It is told as used within a second or so, and the rest as it was.
async fn all_of_it_is_used(node: &Node) -> Result<()> {
    let pool = wait::until("the calls to be counted", SOON, async || {
        let told = limits(node, &["daily"]).await?;
        let pool = told.into_iter().find(|pool| pool["value"] == "acme/first");
        let pool = pool.context("the key's part")?;
        ensure!(pool["used"] == 5 && pool["leased"] == json!([]), "{pool}");
        Ok(pool)
    })
    .await?;
    let expected = json!({
        "each": "key", "unit": "requests", "amount": 5, "per": "day", "window": "calendar", "mode": "strict",
        "shadow": false, "cap": 5, "free": 0, "burned": 0, "central": true, "overshoot": 0,
    });
    for (name, value) in expected.as_object().context("an object")? {
        ensure!(pool[name] == *value, "{name} in {pool}");
    }
    let ends = pool["window_ends"].as_str().context("an end")?;
    ensure!(ends.ends_with("T00:00:00Z"), "{pool}");

    let table = node.ok("limits daily").await?;
    let line = table.lines().find(|line| line.contains("acme/first"));
    let line = line.with_context(|| table.clone())?;
    let cells: Vec<_> = line.split_whitespace().collect();
    ensure!(
        cells
            == [
                "-",
                "daily",
                "acme/first",
                "requests",
                "day",
                "strict",
                ends,
                "-",
                "5",
                "5",
                "0",
                "0"
            ],
        "{table}"
    );
    Ok(())
}

async fn explains(node: &Node, id: &str) -> Result<()> {
    let told = node.ok(&format!("explain {id}")).await?;
    for part in [
        "GET /orders/1 reached node 3",
        "The limit `daily` (strict) for `acme/first` refused it: it is used up",
        "It needed 1; the node had 0 left, 0 were free",
        "T00:00:00Z; then all of the amount is there again",
        "It was rejected with 429 `limited`",
    ] {
        ensure!(told.contains(part), "{part:?} is not in {told}");
    }
    let told = node
        .cli(&["calls", "--status", "429", "-o", "json"])
        .await?
        .json()?;
    let listed = calls(&told)?;
    ensure!(
        listed.len() == 1
            && listed[0].call_id == id
            && listed[0].reason.as_deref() == Some("limit_reached"),
        "{told}"
    );
    let by = &told["calls"][0]["refused"];
    ensure!(
        (&by["limit"], &by["value"], &by["mode"])
            == (&"daily".into(), &"acme/first".into(), &"strict".into()),
        "{by}"
    );
    ensure!(
        by["need"] == 1 && by["applied_index"].as_u64() > Some(0),
        "{by}"
    );
    Ok(())
}

async fn counted(node: &Node, series: &str) -> Result<()> {
    let metrics = http::get(node.admin(), "/metrics", None)
        .await?
        .expect(200)?;
    let metrics = metrics.text();
    let line = metrics.lines().find_map(|line| line.strip_prefix(series));
    ensure!(line.map(str::trim) == Some("1"), "{series} is {line:?}");
    Ok(())
}

/// Neither another tenant's limits nor what several share.
async fn a_tenant_sees_its_own(node: &Node) -> Result<()> {
    let line = "tokens create --name look --role viewer --tenant acme -o json";
    let made: Value = serde_json::from_str(&node.ok(line).await?)?;
    let token = made["token"].as_str().context("a token")?;
    let told = node
        .run(&["limits", "-o", "json", "--token", token], "")
        .await?;
    ensure!(
        told.stderr
            .contains("not told, since other tenants' calls count as well: shared;"),
        "{told}"
    );
    let told = told.json()?;
    let pools = told["limits"].as_array().context("limits")?;
    ensure!(
        pools.len() == 1 && pools[0]["value"] == "acme/first",
        "{told}"
    );
    let refused = node
        .run(&["limits", "open-calls", "--token", token], "")
        .await?
        .fails(1)?;
    ensure!(
        refused.contains("there is no limit `open-calls`"),
        "{refused}"
    );
    // Who runs the cluster may look with a tenant's eyes.
    let told = limits(node, &["--tenant", "beta"]).await?;
    let names: Vec<_> = told.iter().map(|pool| &pool["name"]).collect();
    ensure!(names == ["alone", "open-calls"], "{told:?}");
    Ok(())
}

async fn what_cannot_be_asked_is_refused(node: &Node) -> Result<()> {
    let refused = node.refuses("limits weekly").await?;
    ensure!(refused.contains("there is no limit `weekly`"), "{refused}");
    let refused = node.refuses("limits --tenant nobody").await?;
    ensure!(refused.contains("there is no tenant `nobody`"), "{refused}");
    let cut = node.cli(&["limits", "--limit", "2", "-o", "csv"]).await?;
    ensure!(
        cut.stderr
            .contains("only the first 2 are shown; there are more"),
        "{cut}"
    );
    let lines = cut.ok()?;
    ensure!(lines.lines().count() == 3, "{lines}");
    Ok(())
}

// === helpers ===

async fn orders(node: &Node, key: &str) -> Result<http::Answer> {
    http::get(node.gateway(), ORDERS, Some(key)).await
}

async fn limits(node: &Node, words: &[&str]) -> Result<Vec<Value>> {
    let told = node
        .cli(&[&["limits", "-o", "json"], words].concat())
        .await?;
    let mut told = told.json()?;
    ensure!(told["applied_index"].as_u64() > Some(0), "{told}");
    match told["limits"].take() {
        Value::Array(pools) => Ok(pools),
        other => anyhow::bail!("no limits in {other}"),
    }
}
