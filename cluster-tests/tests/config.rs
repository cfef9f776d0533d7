//! Configuration as code: applied on one node, read on all; faults found, roles kept.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mode_envoy_cluster_tests::cluster::{Cluster, Node};
use mode_envoy_cluster_tests::wait;

const NODE: &str = env!("CARGO_BIN_EXE_mode-envoy-under-test");
const SOON: Duration = Duration::from_secs(10);

const SHOP: &str = r#"
tenants: [{name: acme}, {name: beta}]
consumers:
  - {name: mobile-app, tenant: acme, team: retail}
  - {name: batch-jobs, tenant: beta}
providers:
  - {name: local, protocol: embedded}
  - name: openai
    protocol: openai
    keys: [{value: sk-first}, {value: sk-second}]
    timeouts: {connect: 5s, first_byte: 60s, idle: 60s, total: 10m}
models:
  - name: fast
    targets: [{provider: local, model: echo}]
    price: {input: "0.15", output: "0.60", cached_input: "0.075"}
    access: [acme, beta/batch-jobs]
  - {name: big, targets: [{provider: openai, model: gpt-4o}]}
services:
  - name: orders
    endpoints: [{url: "http://127.0.0.1:9"}]
    timeouts: {connect: 2s, first_byte: 30s, idle: 60s, total: 5m}
routes:
  - name: orders
    tenant: acme
    service: orders
    match: {hosts: [api.acme.test], paths: ["/orders/{*rest}"], methods: [GET, POST]}
    auth: [key]
    strip_prefix: /orders
"#;

#[tokio::test]
async fn a_change_on_one_node_is_read_on_the_others() -> Result<()> {
    let cluster = Cluster::start(NODE, 3).await?;
    let said = cluster.node(2).apply(SHOP).await?;
    ensure!(
        said.contains("created") && said.contains("mobile-app"),
        "apply said {said}"
    );
    let revision = cluster.node(2).revision().await?;

    // Reads are linearizable: every node has it now.
    let export = cluster.node(2).ok("export").await?;
    ensure!(
        !export.contains("sk-first"),
        "a secret is exported: {export}"
    );
    ensure!(
        export.contains("stored:"),
        "no reference to a secret: {export}"
    );
    for node in cluster.nodes() {
        ensure!(
            node.ok("export").await? == export,
            "node {} exports another",
            node.id()
        );
        let one = node.ok("get models fast -o yaml").await?;
        ensure!(
            one.contains("0.075") && !one.contains("big"),
            "node {}: {one}",
            node.id()
        );
        ensure!(
            node.revision().await? >= revision,
            "node {} is behind",
            node.id()
        );
    }
    what_is_there_already_changes_nothing(&cluster, &export, revision).await?;

    // Nothing that is in use goes away.
    let refused = cluster.node(1).refuses("delete provider local").await?;
    ensure!(
        refused.contains("fast"),
        "the model that needs it is not named: {refused}"
    );
    cluster
        .node(3)
        .ok("delete route orders --tenant acme")
        .await?;
    cluster.node(1).ok("delete service orders").await?;
    let left = cluster.node(2).ok("export").await?;
    ensure!(
        !left.contains("orders"),
        "what was deleted is still here: {left}"
    );
    cluster.finish().await
}

#[tokio::test]
async fn a_viewer_reads_and_cannot_change_anything() -> Result<()> {
    let cluster = Cluster::start(NODE, 3).await?;
    cluster.apply(SHOP).await?;
    let viewer = new_token(cluster.node(1), "viewer").await?;
    let admin = new_token(cluster.node(3), "admin").await?;
    let revision = cluster.node(1).revision().await?;
    for node in cluster.nodes() {
        wait::until("the viewer's token to be known", SOON, async || {
            node.ok(&format!("export --token {viewer}")).await
        })
        .await?;
        node.ok(&format!("usage --token {viewer}")).await?;
        node.ok(&format!("keys list --token {viewer}")).await?;
        for forbidden in [
            "apply -f -",
            "delete route orders --tenant acme",
            "keys create --tenant acme --consumer mobile-app",
            "tokens list",
        ] {
            let words = format!("{forbidden} --token {viewer}");
            let words: Vec<_> = words.split_whitespace().collect();
            let refused = node.run(&words, SHOP).await?.fails(1)?;
            ensure!(refused.contains("viewer"), "node {}: {refused}", node.id());
        }
        let words = ["apply", "-f", "-", "--token", &admin];
        let changed = node.run(&words, SHOP).await?.ok()?;
        ensure!(
            changed.contains("unchanged"),
            "an admin may apply: {changed}"
        );
        let refused = node
            .refuses(&format!("tokens list --token {admin}"))
            .await?;
        ensure!(refused.contains("root"), "node {}: {refused}", node.id());
        let refused = node.refuses("export --token met-of-nobody").await?;
        ensure!(
            refused.contains("MODE_ENVOY_TOKEN"),
            "node {}: {refused}",
            node.id()
        );
    }
    ensure!(
        cluster.node(2).revision().await? == revision,
        "somebody changed something"
    );

    // A token that is revoked is nobody's, on every node.
    cluster.node(2).ok("tokens revoke viewer").await?;
    for node in cluster.nodes() {
        wait::until("the token to be refused", SOON, async || {
            node.refuses(&format!("export --token {viewer}")).await
        })
        .await?;
    }
    cluster.finish().await
}

#[tokio::test]
async fn faults_of_a_document_are_found_before_anything_changes() -> Result<()> {
    let cluster = Cluster::start(NODE, 1).await?;
    let node = cluster.node(1);
    let revision = node.revision().await?;

    let unknown = "tenants:\n  - name: acme\nmodels:\n  - name: fast\n    tragets: []\n";
    let refused = node.run(&["apply", "-f", "-"], unknown).await?.fails(1)?;
    ensure!(
        refused.contains("5:5") && refused.contains("tragets"),
        "{refused}"
    );
    let file = cluster.file("wrong.yaml", unknown)?;
    // The faults are what `check` is asked for, so they are its data.
    let checked = node.cli(&["check", "-f", &file]).await?;
    ensure!(
        checked.code == Some(1) && checked.stdout.contains("wrong.yaml:5:5"),
        "{checked}"
    );

    let later = "prompts:\n  - {name: summarize}\n";
    let refused = node.run(&["apply", "-f", "-"], later).await?.fails(1)?;
    ensure!(
        refused.contains("not in this version") && refused.contains("1:1"),
        "{refused}"
    );

    let dangling = "models: [{name: fast, targets: [{provider: nobody, model: x}]}]";
    let refused = node.run(&["apply", "-f", "-"], dangling).await?.fails(1)?;
    ensure!(
        refused.contains("nobody"),
        "the refusal does not name what is missing: {refused}"
    );

    let shadow = "tenants: [{name: acme}]\nservices: [{name: s, endpoints: [{url: \"http://127.0.0.1:9\"}]}]\nroutes: \
                  [{name: r, tenant: acme, service: s, auth: [key], match: {paths: [\"/v1/{*rest}\"]}}]\n";
    let refused = node.run(&["apply", "-f", "-"], shadow).await?.fails(1)?;
    ensure!(
        refused.contains("/v1"),
        "a route over the AI paths was not refused for that: {refused}"
    );

    let secrets = "providers:\n  - {name: a, protocol: openai, keys: [{env: UNSET_ONE}, {env: UNSET_TWO}, {env: IS_SET}]}\n";
    let url = node.admin_url();
    let arguments = ["apply", "-f", "-", "--admin", &url];
    let set = [("IS_SET", "sk-1")];
    let refused = cluster
        .program()
        .run_with(&arguments, secrets, &set)
        .await?
        .fails(1)?;
    ensure!(
        refused.contains("UNSET_ONE") && refused.contains("UNSET_TWO"),
        "{refused}"
    );
    ensure!(
        !refused.contains("IS_SET"),
        "what is set is no fault: {refused}"
    );
    ensure!(
        node.revision().await? == revision,
        "a refused document changed something"
    );

    let all = [
        ("UNSET_ONE", "sk-1"),
        ("UNSET_TWO", "sk-2"),
        ("IS_SET", "sk-3"),
    ];
    cluster
        .program()
        .run_with(&arguments, secrets, &all)
        .await?
        .ok()?;
    let usage = node.cli(&["no-such-verb"]).await?.fails(2)?;
    ensure!(usage.contains("no-such-verb"), "{usage}");
    cluster.finish().await
}

// === phases ===

/// Neither what was exported, wherever it is applied, nor the same document with its secrets, nor a dry run.
async fn what_is_there_already_changes_nothing(
    cluster: &Cluster,
    export: &str,
    revision: u64,
) -> Result<()> {
    for (node, document) in cluster.nodes().iter().zip([export, export, SHOP]) {
        let same = node.apply(document).await?;
        let moved = ["created", "updated", "deleted"]
            .iter()
            .any(|word| same.contains(word));
        ensure!(
            !moved && same.contains("unchanged"),
            "node {}: {same}",
            node.id()
        );
        ensure!(
            node.revision().await? == revision,
            "node {}: the revision moved",
            node.id()
        );
    }
    let node = cluster.node(3);
    let words = ["apply", "-f", "-", "--dry-run"];
    let dry = node.run(&words, "tenants: [{name: gamma}]").await?.ok()?;
    ensure!(
        dry.contains("created") && dry.contains("gamma"),
        "the dry run said {dry}"
    );
    ensure!(
        node.revision().await? == revision,
        "a dry run moved the revision"
    );
    Ok(())
}

async fn new_token(node: &Node, role: &str) -> Result<String> {
    let made = node
        .ok(&format!(
            "tokens create --name {role} --role {role} -o json"
        ))
        .await?;
    let made: serde_json::Value = serde_json::from_str(&made)?;
    let token = made["token"]
        .as_str()
        .with_context(|| format!("no token in {made}"))?;
    Ok(token.to_owned())
}
