//! Usage: counted once, priced exactly, and told alike by every node.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mode_envoy_cluster_tests::cluster::{Cluster, Node};
use mode_envoy_cluster_tests::http::{self, CHAT};
use mode_envoy_cluster_tests::origin::Origin;
use mode_envoy_cluster_tests::upstream::{Fault, PROVIDER_KEY, Upstream};
use mode_envoy_cluster_tests::usage::{self, Row};
use mode_envoy_cluster_tests::wait;
use serde_json::Value;

const NODE: &str = env!("CARGO_BIN_EXE_mode-envoy-under-test");
const CALLS: &str = "route=openai.chat_completions";

#[tokio::test]
async fn every_node_tells_the_same_exact_table() -> Result<()> {
    let cluster = Cluster::start(NODE, 3).await?;
    let upstream = Upstream::start().await?;
    let origin = Origin::start("one").await?;
    cluster.apply(&document(&upstream, &origin)).await?;
    let key = cluster.key("acme", "mobile-app", "first").await?;
    let other = cluster.key("beta", "batch-jobs", "night").await?;

    // Each node serves: two chats, a stream, one without usage, one to a service, one that is refused.
    upstream.fault("up-silent", Fault::NoUsage);
    for node in cluster.nodes() {
        let id = node.id();
        for (key, body, status) in [
            (&key, http::chat("remote", &format!("a{id}")), 200),
            (&other, http::chat("remote", &format!("b{id}")), 200),
            (&key, http::chat_stream("remote", &format!("c{id}")), 200),
            (&key, http::chat("silent", &format!("d{id}")), 200),
            (&key, http::chat("no-such-model", "e"), 404),
        ] {
            http::post(node.gateway(), CHAT, key, &body)
                .await?
                .expect(status)?;
        }
        http::get(node.gateway(), "/orders", Some(&key))
            .await?
            .expect(200)?;
    }
    // Another node's answer covers them all at once; so does every node's.
    let group = [
        "--group-by",
        "tenant,team,consumer,key,route,model,provider,upstream_model,status",
        "--linearizable",
    ];
    let first = cluster.node(1).usage(&group).await?;
    let range = [
        "--from",
        usage::text(&first, "from")?,
        "--to",
        usage::text(&first, "to")?,
    ];
    let rows = usage::rows(&first)?;
    for node in cluster.nodes() {
        let answer = node.usage(&[&group[..], &range].concat()).await?;
        ensure!(
            answer["rows"] == first["rows"],
            "node {} tells another table: {answer} {first}",
            node.id()
        );
        ensure!(
            answer["applied_index"]
                .as_u64()
                .is_some_and(|index| index > 0),
            "{answer}"
        );
        ensure!(answer["interval"] == "total", "{answer}");
        agrees_with_the_provider(&usage::rows(&answer)?, &upstream)?;
    }
    rejected_and_estimated_calls_are_marked(&rows)?;
    an_answer_covers_every_call_that_ended_before_it(&cluster, &key).await?;
    ordinary_lag_is_short(&cluster, &range).await?;
    questions_narrow_and_spread(cluster.node(2), &range).await?;
    tables_come_in_every_form(cluster.node(3), &range).await?;
    what_cannot_be_answered_is_refused(cluster.node(1)).await?;
    upstream.check()?;
    cluster.finish().await
}

#[tokio::test]
async fn usage_by_node_tells_who_served_what() -> Result<()> {
    let cluster = Cluster::start(NODE, 3).await?;
    let upstream = Upstream::start().await?;
    let origin = Origin::start("one").await?;
    cluster.apply(&document(&upstream, &origin)).await?;
    let key = cluster.key("acme", "mobile-app", "first").await?;
    // Node 1 serves one call of each kind, node 2 two, node 3 three.
    for node in cluster.nodes() {
        for _ in 0..node.id() {
            http::get(node.gateway(), "/orders", Some(&key))
                .await?
                .expect(200)?;
            let body = http::chat("no-such-model", "e");
            http::post(node.gateway(), CHAT, &key, &body)
                .await?
                .expect(404)?;
        }
    }
    let served = "route=orders,route=openai.chat_completions";
    let group = [
        "--group-by",
        "node,tenant,route,status",
        "--filter",
        served,
        "--linearizable",
    ];
    let first = cluster.node(1).usage(&group).await?;
    let (from, to) = (usage::text(&first, "from")?, usage::text(&first, "to")?);
    let range = ["--from", from, "--to", to];
    for node in cluster.nodes() {
        let answer = node.usage(&[&group[..], &range].concat()).await?;
        ensure!(answer["rows"] == first["rows"], "{answer} {first}");
        each_node_has_its_own(&answer)?;
        let third = ["--filter", "node=3,route=orders", "--interval", "minute"];
        let answer = node.usage(&[&third[..], &range].concat()).await?;
        let rows = usage::rows(&answer)?;
        ensure!(
            rows.iter().map(|row| row.calls).sum::<u64>() == 3,
            "{answer}"
        );
        let timed = |row: &Row| row.rest["latency_p50_ms"].is_number();
        ensure!(rows.iter().all(timed), "{answer}");
    }
    let question = [
        "usage",
        "--group-by",
        "node",
        "--filter",
        served,
        "--linearizable",
        "-o",
        "csv",
    ];
    let csv = cluster.node(2).cli(&question).await?.ok()?;
    let starts: Vec<_> = csv.lines().map(|line| line.get(..4)).collect();
    ensure!(
        starts == [Some("node"), Some("1,2,"), Some("2,4,"), Some("3,6,")],
        "{csv}"
    );
    cluster.finish().await
}

// === phases ===

fn each_node_has_its_own(answer: &Value) -> Result<()> {
    for node in 1..=3 {
        for (status, rejected) in [("2xx", 0), ("4xx", node)] {
            let rows = usage::rows(answer)?;
            let row = rows
                .iter()
                .find(|row| {
                    row.dimension("node") == node.to_string() && row.dimension("status") == status
                })
                .with_context(|| format!("no {status} of node {node} in {answer}"))?;
            ensure!(
                (row.calls, row.rejected) == (node, rejected) && row.dimension("tenant") == "acme",
                "{row:?}"
            );
        }
    }
    Ok(())
}

/// Tokens and costs are what the provider told: 2 dollars per million tokens in, 8 out.
fn agrees_with_the_provider(rows: &[Row], upstream: &Upstream) -> Result<()> {
    let (mut input, mut output, mut nano) = (0, 0, 0);
    let seen: Vec<_> = upstream
        .seen()
        .into_iter()
        .filter(|seen| seen.model == "up-remote")
        .collect();
    for seen in &seen {
        input += seen.prompt_tokens;
        output += seen.completion_tokens;
        nano += seen.prompt_tokens * 2_000 + seen.completion_tokens * 8_000;
    }
    ensure!(seen.len() == 9, "the provider saw {} calls", seen.len());
    let rows: Vec<_> = rows
        .iter()
        .filter(|row| row.dimension("model") == "remote")
        .collect();
    let sum = |field: fn(&Row) -> u64| rows.iter().map(|row| field(row)).sum::<u64>();
    ensure!(
        sum(|row| row.calls) == 9 && sum(|row| row.errors) == 0,
        "{rows:?}"
    );
    ensure!(
        sum(|row| row.input_tokens) == input,
        "input {input}: {rows:?}"
    );
    ensure!(
        sum(|row| row.output_tokens) == output,
        "output {output}: {rows:?}"
    );
    ensure!(sum(|row| row.total_tokens) == input + output, "{rows:?}");
    let counted = rows.iter().map(|row| row.nano_usd()).sum::<Result<u64>>()?;
    ensure!(
        counted == nano,
        "the provider's tokens cost {nano} nano-dollars, the rows {counted}"
    );
    for row in rows {
        let team = if row.dimension("tenant") == "acme" {
            "retail"
        } else {
            ""
        };
        ensure!(
            row.dimension("team") == team && row.dimension("provider") == "up",
            "{row:?}"
        );
        ensure!(row.dimension("upstream_model") == "up-remote", "{row:?}");
        ensure!(row.dimension("status") == "2xx", "{row:?}");
    }
    Ok(())
}

fn rejected_and_estimated_calls_are_marked(rows: &[Row]) -> Result<()> {
    let find = |test: &dyn Fn(&Row) -> bool, what: &str| {
        rows.iter()
            .find(|row| test(row))
            .cloned()
            .with_context(|| format!("no row of {what}: {rows:?}"))
    };
    let silent = find(
        &|row| row.dimension("model") == "silent",
        "the provider without usage",
    )?;
    ensure!(
        (silent.calls, silent.estimated_calls, silent.errors) == (3, 3, 0),
        "{silent:?}"
    );
    ensure!(
        silent.input_tokens == 3 && silent.output_tokens > 0,
        "{silent:?}"
    );
    let refused = find(
        &|row| row.rejected > 0 && row.dimension("key") == "first",
        "the refused calls",
    )?;
    ensure!(
        (refused.calls, refused.rejected, refused.errors) == (3, 3, 0),
        "{refused:?}"
    );
    ensure!(refused.dimension("status") == "4xx", "{refused:?}");
    ensure!(refused.total_tokens == 0, "{refused:?}");
    let orders = find(&|row| row.dimension("route") == "orders", "the service")?;
    ensure!((orders.calls, orders.total_tokens) == (3, 0), "{orders:?}");
    Ok(())
}

/// Called on one node, asked on another at once.
async fn an_answer_covers_every_call_that_ended_before_it(
    cluster: &Cluster,
    key: &str,
) -> Result<()> {
    for number in 0..12 {
        let (called, asked) = (
            cluster.node(1 + number % 3),
            cluster.node(1 + (number + 1) % 3),
        );
        http::post(called.gateway(), CHAT, key, &http::chat("last", "one more"))
            .await?
            .expect(200)?;
        let row = usage::row(
            &asked
                .usage(&["--filter", "model=last", "--linearizable"])
                .await?,
        )?;
        ensure!(
            row.calls == u64::try_from(number)? + 1,
            "call {number} is not in the answer: {row:?}"
        );
    }
    Ok(())
}

/// Without `--linearizable` a node tells what it has, which is complete after a moment.
async fn ordinary_lag_is_short(cluster: &Cluster, range: &[&str]) -> Result<()> {
    for node in cluster.nodes() {
        wait::until(
            "the local answer to be complete",
            Duration::from_secs(5),
            async || {
                let row = usage::row(&node.usage(&[&["--filter", CALLS], range].concat()).await?)?;
                ensure!(row.calls >= 15 + 12, "{row:?}");
                Ok(())
            },
        )
        .await?;
    }
    Ok(())
}

async fn questions_narrow_and_spread(node: &Node, range: &[&str]) -> Result<()> {
    let ask = async |words: &[&str]| node.usage(&[words, range].concat()).await;
    let beta = usage::row(&ask(&["--filter", "tenant=beta,model=remote"]).await?)?;
    ensure!(beta.calls == 3, "{beta:?}");
    let either = usage::row(&ask(&["--filter", "model=remote,model=silent"]).await?)?;
    ensure!(
        either.calls == 12,
        "values of one dimension are alternatives: {either:?}"
    );
    let nobody = usage::rows(&ask(&["--filter", "tenant=nobody"]).await?)?;
    ensure!(nobody.is_empty(), "{nobody:?}");
    for interval in ["minute", "hour", "day", "month"] {
        let answer = ask(&["--filter", "model=remote", "--interval", interval]).await?;
        let rows = usage::rows(&answer)?;
        let calls: u64 = rows.iter().map(|row| row.calls).sum();
        ensure!(
            calls == 9 && answer["interval"] == interval,
            "{interval}: {answer}"
        );
        for row in &rows {
            let time = row
                .rest
                .get("time")
                .and_then(Value::as_str)
                .unwrap_or_default();
            ensure!(
                time.len() == 20 && time.ends_with(":00Z"),
                "a row without its time: {row:?}"
            );
        }
    }
    Ok(())
}

async fn tables_come_in_every_form(node: &Node, range: &[&str]) -> Result<()> {
    let question = [&["usage", "--group-by", "tenant,model"], range].concat();
    let table = node.cli(&question).await?.ok()?;
    ensure!(
        table.contains("acme") && table.contains("remote"),
        "{table}"
    );
    let csv = node
        .cli(&[&question[..], &["-o", "csv"]].concat())
        .await?
        .ok()?;
    let mut lines = csv.lines();
    let head: Vec<_> = lines.next().context("a head line")?.split(',').collect();
    let place = |name: &str| {
        head.iter()
            .position(|column| *column == name)
            .with_context(|| format!("no {name} in {head:?}"))
    };
    let (tenant, model, calls) = (place("tenant")?, place("model")?, place("calls")?);
    let (mut remote, cells) = (0, head.len());
    for line in lines {
        let line: Vec<_> = line.split(',').collect();
        ensure!(
            line.len() == cells,
            "{line:?} has other columns than {head:?}"
        );
        if line[model] == "remote" {
            ensure!(["acme", "beta"].contains(&line[tenant]), "{line:?}");
            remote += line[calls].parse::<u64>()?;
        }
    }
    ensure!(remote == 9, "{csv}");
    node.cli(&[&question[..], &["-o", "yaml"]].concat())
        .await?
        .ok()?;
    Ok(())
}

async fn what_cannot_be_answered_is_refused(node: &Node) -> Result<()> {
    for (words, told) in [
        (["--group-by", "node,model"], "call records"),
        (["--filter", "node=one"], "node=1"),
        (["--group-by", "color"], "color"),
        (["--interval", "fortnight"], "fortnight"),
        (["--filter", "tenant"], "tenant"),
        (["--from", "yesterday"], "yesterday"),
    ] {
        let output = node.cli(&[&["usage"], &words[..]].concat()).await?;
        ensure!(
            output.code != Some(0) && output.stderr.contains(told),
            "{output}"
        );
    }
    let old = [
        "usage",
        "--from",
        "2020-01-01T00:00:30Z",
        "--to",
        "2020-01-01T00:10:00Z",
        "--interval",
        "minute",
    ];
    let refused = node.cli(&old).await?.fails(1)?;
    ensure!(
        refused.contains("minute") || refused.contains("kept"),
        "{refused}"
    );
    Ok(())
}

// === helpers ===

fn document(upstream: &Upstream, origin: &Origin) -> String {
    format!(
        r#"
tenants: [{{name: acme}}, {{name: beta}}]
consumers:
  - {{name: mobile-app, tenant: acme, team: retail}}
  - {{name: batch-jobs, tenant: beta}}
providers:
  - {{name: up, protocol: openai, base_url: "{}", keys: [{{value: {PROVIDER_KEY}}}]}}
models:
  - {{name: remote, targets: [{{provider: up, model: up-remote}}], price: {{input: "2", output: "8"}}}}
  - {{name: last, targets: [{{provider: up, model: up-last}}]}}
  - {{name: silent, targets: [{{provider: up, model: up-silent}}]}}
services:
  - {{name: orders, endpoints: [{{url: "{}"}}]}}
routes:
  - {{name: orders, tenant: acme, service: orders, match: {{paths: [/orders]}}, auth: [key]}}
"#,
        upstream.base_url(),
        origin.url()
    )
}
