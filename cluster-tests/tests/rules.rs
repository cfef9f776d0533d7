//! Limits as configuration, through real processes: declared on one node, read on all, after a crash too; faults found where they
//! stand; and what a token of a tenant may do with them.

use anyhow::{Context, Result, ensure};
use mode_envoy_cluster_tests::cluster::{Cluster, Node};
use serde_json::Value;

const NODE: &str = env!("CARGO_BIN_EXE_mode-envoy-under-test");

const SHOP: &str = r"
tenants: [{name: acme}, {name: zebra}]
consumers:
  - {name: app, tenant: acme, team: retail}
  - {name: till, tenant: acme}
providers: [{name: local, protocol: embedded}]
models: [{name: fast, targets: [{provider: local, model: echo}]}]
";

const LIMITS: &str = r"
limits:
  - {name: acme-daily, match: {tenant: acme}, unit: requests, amount: 10000, per: day}
  - {name: zebra-daily, match: {tenant: zebra}, unit: requests, amount: 10000, per: day}
  - {name: per-key, each: key, unit: requests, amount: 600, per: minute}
  - {name: app-burst, match: {tenant: acme, consumer: app}, unit: requests, amount: 10, per: second, burst: 50}
  - {name: app-open, tenant: acme, match: {consumer: app}, unit: concurrent, amount: 8}
";

/// A document that breaks one rule: what is said, and where.
const FAULTS: [(&str, &str); 12] = [
    (
        "unit: tokens, amount: 5, per: day",
        "3:21: limits[l].unit: `unit: tokens` is not in this version; use requests or concurrent",
    ),
    (
        "unit: usd, amount: \"5.00\", per: month",
        "is not in this version; use requests or concurrent",
    ),
    (
        "unit: requests, amount: 0, per: day",
        "3:39: limits[l].amount: it must be from 1 to 1000000000000000",
    ),
    (
        "unit: requests, amount: -1, per: day",
        "3:39: limits[l].amount: -1 is not a whole number",
    ),
    (
        "unit: requests, amount: 0.5, per: day",
        "3:39: limits[l].amount: 0.5 is not a whole number",
    ),
    (
        "unit: requests, amount: 1000000000000001, per: day",
        "3:39: limits[l].amount: it must be from 1",
    ),
    ("unit: requests, amount: 5", "`per` is missing"),
    (
        "unit: requests, amount: 5, per: day, on_tail: clamp",
        "its units are requests or concurrent",
    ),
    (
        "unit: concurrent, amount: 5, mode: bounded",
        "3:50: limits[l].mode: concurrent calls are limited strict or local",
    ),
    (
        "match: {consumer: app}, unit: concurrent, amount: 5",
        "limits[l].match.consumer: a consumer belongs to a tenant",
    ),
    (
        "match: {tenant: acme, key: k}, each: key, unit: concurrent, amount: 5",
        "limits[l].each: the limit is for one key alone",
    ),
    (
        "unit: requests, amount: 5, per: month, window: bucket",
        "limits[l].window: a bucket is for a second",
    ),
];

#[tokio::test]
async fn limits_are_declared_on_one_node_read_on_all_and_there_after_a_crash() -> Result<()> {
    let mut cluster = Cluster::start(NODE, 3).await?;
    cluster.apply(SHOP).await?;
    let said = cluster.node(2).apply(LIMITS).await?;
    ensure!(
        said.contains("limit acme/app-open") && said.contains("created"),
        "{said}"
    );
    let export = cluster.node(3).ok("export").await?;
    for node in cluster.nodes() {
        ensure!(
            node.ok("export").await? == export,
            "node {} exports another",
            node.id()
        );
        let table = node.ok("get limits").await?;
        let line = table.lines().find(|line| line.contains("app-burst"));
        let line = line.context("a line for app-burst")?;
        ensure!(
            line.contains("tenant=acme consumer=app") && line.contains("bucket of 50"),
            "{table}"
        );
    }
    let again = cluster.node(1).apply(&export).await?;
    ensure!(
        !again.contains("created") && !again.contains("updated"),
        "{again}"
    );
    names_are_kept_apart(&cluster).await?;

    // What a limit names stays, and the refusal says which limit that is.
    let node = cluster.node(1);
    let refused = node.refuses("delete consumer app --tenant acme").await?;
    ensure!(
        refused.contains("limit app-burst") && refused.contains("limit acme/app-open"),
        "{refused}"
    );
    let refused = node.refuses("delete tenant zebra").await?;
    ensure!(
        refused.contains("limit zebra-daily still refers to it"),
        "{refused}"
    );

    let before = node.ok("get limits -o yaml").await?;
    for id in 1..=3 {
        cluster.node_mut(id).kill().await?;
    }
    cluster.start_all()?;
    cluster.wait_ready().await?;
    for node in cluster.nodes() {
        ensure!(
            node.ok("get limits -o yaml").await? == before,
            "node {} forgot",
            node.id()
        );
    }
    changes_are_told_and_taken_back(cluster.node(2)).await?;
    cluster.finish().await
}

/// The operator's limit and a tenant's of one name are two.
async fn names_are_kept_apart(cluster: &Cluster) -> Result<()> {
    let node = cluster.node(3);
    let operators = "limits: [{name: app-open, unit: concurrent, amount: 100}]";
    ensure!(
        node.apply(operators).await?.contains("limit app-open"),
        "it is another one"
    );
    let own = node.ok("get limit app-open --tenant acme -o json").await?;
    let own: Value = serde_json::from_str(&own)?;
    ensure!(
        own["limits"].as_array().is_some_and(|all| all.len() == 1),
        "{own}"
    );
    ensure!(own["limits"][0]["amount"] == 8, "a number is one: {own}");
    node.ok("delete limit app-open").await?;
    node.refuses("delete limit app-open").await?;
    let left = node.ok("get limits").await?;
    ensure!(left.contains("app-open"), "the tenant's is left: {left}");
    Ok(())
}

/// Diff, prune, history and rollback speak of limits as of everything else.
async fn changes_are_told_and_taken_back(node: &Node) -> Result<()> {
    let revision = node.revision().await?;
    let changed = LIMITS.replace("amount: 600", "amount: 300, shadow: true");
    let diff = node.run(&["diff", "-f", "-"], &changed).await?;
    ensure!(diff.code == Some(2), "{diff}");
    ensure!(
        diff.stdout.contains("600")
            && diff.stdout.contains("300")
            && diff.stdout.contains("shadow"),
        "{diff}"
    );
    let fewer: Vec<_> = changed
        .lines()
        .filter(|line| !line.contains("zebra"))
        .collect();
    let words = ["apply", "-f", "-", "--prune"];
    let pruned = node.run(&words, &fewer.join("\n")).await?.ok()?;
    ensure!(
        pruned.contains("limit zebra-daily deleted") && pruned.contains("limit per-key updated"),
        "{pruned}"
    );
    let history = node.ok("history limit zebra-daily").await?;
    ensure!(
        history.contains("deleted") && history.contains("created"),
        "{history}"
    );
    let back = node.ok(&format!("rollback {revision}")).await?;
    ensure!(back.contains("limit zebra-daily created"), "{back}");
    let same = node.run(&["diff", "-f", "-"], LIMITS).await?;
    ensure!(same.code == Some(0), "{same}");
    Ok(())
}

#[tokio::test]
async fn what_is_wrong_with_a_limit_is_said_where_it_stands() -> Result<()> {
    let cluster = Cluster::start(NODE, 1).await?;
    let node = cluster.node(1);
    node.apply(SHOP).await?;
    node.ok("keys create --tenant acme --consumer app --name k")
        .await?;
    let revision = node.revision().await?;
    for (fields, said) in FAULTS {
        let document = format!("# one limit\nlimits:\n  - {{name: l, {fields}}}\n");
        let refused = node.refuses_document(&document).await?;
        ensure!(refused.contains(said), "{fields}: {refused}");
        let file = cluster.file("wrong.yaml", &document)?;
        let checked = node.cli(&["check", "-f", &file]).await?;
        ensure!(
            checked.code == Some(1) && checked.stdout.contains(said),
            "{fields}: {checked}"
        );
    }
    for (fields, said) in [
        (
            "match: {tenant: nobody}",
            "match.tenant: there is no tenant nobody",
        ),
        (
            "match: {tenant: acme, key: x}",
            "match.key: there is no key acme/x",
        ),
        (
            "match: {team: retial}",
            "match.team: there is no consumer in a team retial",
        ),
        (
            "match: {model: slow}",
            "match.model: there is no model slow",
        ),
        (
            "tenant: zebra, match: {route: r}",
            "match.route: there is no route zebra/r",
        ),
    ] {
        let document = format!("limits:\n  - {{name: l, {fields}, unit: concurrent, amount: 5}}\n");
        let refused = node.refuses_document(&document).await?;
        ensure!(
            refused.contains(said) && refused.contains("2:"),
            "{fields}: {refused}"
        );
        // It may be there in some cluster.
        let file = cluster.file("sound.yaml", &document)?;
        node.ok(&format!("check -f {file}")).await?;
    }
    let many = (0..17).map(|n| {
        format!("  - {{name: l{n}, match: {{tenant: acme}}, unit: concurrent, amount: 5}}\n")
    });
    let many = format!("limits:\n{}", many.collect::<String>());
    let refused = node.refuses_document(&many).await?;
    ensure!(
        refused.contains("a request of tenant acme could match 17 limits, and 16 is the most"),
        "{refused}"
    );
    ensure!(node.revision().await? == revision, "something was changed");
    cluster.finish().await
}

#[tokio::test]
async fn a_token_of_a_tenant_limits_the_tenant_and_no_more() -> Result<()> {
    let cluster = Cluster::start(NODE, 1).await?;
    let node = cluster.node(1);
    node.apply(&format!("{SHOP}{LIMITS}")).await?;
    let made = node
        .ok("tokens create --name ops --role admin --tenant acme -o json")
        .await?;
    let made: Value = serde_json::from_str(&made)?;
    let token = made["token"].as_str().context("a token")?;
    let ops = async |line: &str, input: &str| {
        let words: Vec<_> = line.split_whitespace().chain(["--token", token]).collect();
        node.run(&words, input).await
    };
    let seen = ops("get limits -o yaml", "").await?.ok()?;
    ensure!(!seen.contains("zebra"), "{seen}");
    for name in ["acme-daily", "per-key", "app-burst", "app-open"] {
        ensure!(seen.contains(name), "{name}: {seen}");
    }

    // Its export is its own to apply; a limit of its own comes beside it.
    let export = ops("export", "").await?.ok()?;
    let again = ops("apply -f -", &export).await?.ok()?;
    ensure!(
        !again.contains("updated") && !again.contains("created"),
        "{again}"
    );
    let own = "limits: [{name: till, tenant: acme, match: {consumer: till}, unit: requests, amount: 5, per: minute}]";
    let made = ops("apply -f -", own).await?.ok()?;
    ensure!(made.contains("limit acme/till created"), "{made}");
    let pruned = ops("apply -f - --prune --yes", &export).await?.ok()?;
    ensure!(pruned.contains("limit acme/till deleted"), "{pruned}");
    let left = node.ok("get limits").await?;
    ensure!(
        left.contains("zebra-daily") && left.contains("per-key"),
        "a prune went too far: {left}"
    );

    for (line, input, said) in [
        (
            "delete limit acme-daily",
            "",
            "this limit is the operator's",
        ),
        (
            "delete limit zebra-daily",
            "",
            "there is no limit zebra-daily",
        ),
        (
            "apply -f -",
            "limits: [{name: acme-daily, unit: concurrent, amount: 9}]",
            "this limit is the operator's",
        ),
        (
            "apply -f -",
            "limits: [{name: zebra-daily, match: {tenant: zebra}, unit: requests, amount: 10000, per: day}]",
            "add `tenant: acme`",
        ),
        (
            "apply -f -",
            "limits: [{name: x, tenant: zebra, unit: concurrent, amount: 9}]",
            "there is no tenant zebra",
        ),
        (
            "apply -f -",
            "limits: [{name: x, tenant: acme, match: {tenant: zebra}, unit: concurrent, amount: 9}]",
            "the limit is tenant acme's",
        ),
    ] {
        let refused = ops(line, input).await?.fails(1)?;
        ensure!(refused.contains(said), "{line} {input}: {refused}");
    }
    cluster.finish().await
}
