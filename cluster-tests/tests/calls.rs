//! Single calls: each has one record, on the node that served it, and any node tells them all.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mode_envoy_cluster_tests::calls::{Call, Following, call_id, calls, explanations, labelled};
use mode_envoy_cluster_tests::cluster::{Cluster, Node};
use mode_envoy_cluster_tests::http::{self, CHAT};
use mode_envoy_cluster_tests::origin::Origin;
use mode_envoy_cluster_tests::upstream::{PROVIDER_KEY, Upstream};
use mode_envoy_cluster_tests::wait;

const NODE: &str = env!("CARGO_BIN_EXE_mode-envoy-under-test");

#[tokio::test]
async fn every_node_tells_each_call_once_and_names_who_does_not_answer() -> Result<()> {
    let mut cluster = Cluster::start(NODE, 3).await?;
    let (upstream, origin) = (Upstream::start().await?, Origin::start("one").await?);
    cluster.apply(&document(&upstream, &origin)).await?;
    let key = cluster.key("acme", "mobile-app", "first").await?;
    let mut made = BTreeSet::new();
    for node in cluster.nodes() {
        let chat = http::chat("remote", "hello");
        let answer = http::post(node.gateway(), CHAT, &key, &chat)
            .await?
            .expect(200)?;
        made.insert(call_id(&answer));
        let answer = http::get(node.gateway(), "/orders?secret=1", Some(&key)).await?;
        made.insert(call_id(&answer.expect(200)?));
    }
    for node in cluster.nodes() {
        let told = node
            .cli(&["calls", "--linearizable", "-o", "json"])
            .await?
            .json()?;
        ensure!(told["missing_nodes"] == serde_json::json!([]), "{told}");
        let told: Vec<_> = calls(&told)?
            .into_iter()
            .filter(|call| made.contains(&call.call_id))
            .collect();
        let ids: BTreeSet<_> = told.iter().map(|call| call.call_id.clone()).collect();
        ensure!(
            told.len() == 6 && ids == made,
            "node {} tells {told:?}",
            node.id()
        );
        ensure!(told.is_sorted_by_key(|call| call.time.clone()), "{told:?}");
        for id in 1..=3 {
            let of_node: Vec<_> = told.iter().filter(|call| call.node == id).collect();
            ensure!(of_node.len() == 2, "{told:?}");
            of_node
                .into_iter()
                .try_for_each(|call| has_the_right_fields(call, &upstream, &origin))?;
        }
    }
    filters_narrow(cluster.node(2)).await?;
    what_cannot_be_asked_is_refused(cluster.node(1)).await?;

    cluster.node_mut(3).kill().await?;
    let told = cluster
        .node(1)
        .cli(&["calls", "-o", "json"])
        .await?
        .json()?;
    ensure!(told["missing_nodes"] == serde_json::json!([3]), "{told}");
    let left = calls(&told)?
        .iter()
        .filter(|call| made.contains(&call.call_id))
        .count();
    ensure!(left == 4, "{told}");
    let table = cluster.node(1).cli(&["calls"]).await?;
    ensure!(table.stderr.contains("node 3 did not answer"), "{table}");
    cluster.finish().await
}

#[tokio::test]
async fn who_follows_sees_calls_of_other_nodes_and_who_is_gone() -> Result<()> {
    let mut cluster = Cluster::start(NODE, 3).await?;
    let (upstream, origin) = (Upstream::start().await?, Origin::start("one").await?);
    cluster.apply(&document(&upstream, &origin)).await?;
    let key = cluster.key("acme", "mobile-app", "first").await?;
    let mut following = Following::start(cluster.node(1), &["--route", "orders"])?;
    // When the first is told, the following has begun on that node.
    for id in [2, 3, 1] {
        let gateway = cluster.node(id).gateway().to_owned();
        wait::until(
            "a call to be followed",
            Duration::from_secs(20),
            async || {
                let answer = http::get(&gateway, "/orders", Some(&key))
                    .await?
                    .expect(200)?;
                let within = Duration::from_secs(2);
                let call = following
                    .until(within, |call| call.call_id == call_id(&answer))
                    .await?;
                ensure!(
                    (call.node, &*call.route) == (id as u64, "orders"),
                    "{call:?}"
                );
                Ok(())
            },
        )
        .await?;
    }
    let chat = http::chat("remote", "not by this route");
    http::post(cluster.node(2).gateway(), CHAT, &key, &chat)
        .await?
        .expect(200)?;
    cluster.node_mut(3).kill().await?;
    following.says("node 3 did not answer").await?;
    cluster.node_mut(3).start()?;
    cluster.node_mut(3).wait_ready().await?;
    following.says("every node answers again").await?;
    let answer = http::get(cluster.node(3).gateway(), "/orders", Some(&key)).await?;
    let id = call_id(&answer.expect(200)?);
    following
        .until(Duration::from_secs(10), |call| call.call_id == id)
        .await?;
    let seen = following.end().await?;
    let ids: BTreeSet<_> = seen.iter().map(|call| &call.call_id).collect();
    ensure!(ids.len() == seen.len(), "a call is told twice: {seen:?}");
    ensure!(seen.iter().all(|call| call.route == "orders"), "{seen:?}");
    cluster.finish().await
}

#[tokio::test]
async fn explain_tells_why_a_call_ended_as_it_did_from_any_node() -> Result<()> {
    let cluster = Cluster::start(NODE, 3).await?;
    let (upstream, origin) = (Upstream::start().await?, Origin::start("one").await?);
    cluster.apply(&document(&upstream, &origin)).await?;
    let key = cluster.key("acme", "mobile-app", "first").await?;
    let gateway = cluster.node(2).gateway();
    let chat = http::chat("remote", "hello");
    let answers = [
        (
            http::post(gateway, CHAT, &key, &chat).await?,
            200,
            vec![
                "POST /v1/chat/completions reached node 2",
                "key `first`",
                "team `retail`",
                "model `remote`",
                "`up-remote` of provider `up`",
                "was answered with 200",
                "which cost",
            ],
        ),
        (
            http::get(gateway, "/orders", None).await?,
            401,
            vec!["`unauthenticated`", "it carried no API key"],
        ),
        (
            http::get(gateway, "/nowhere", Some(&key)).await?,
            404,
            vec!["GET /nowhere", "`not_found`", "no route serves"],
        ),
        (
            http::get(gateway, "/dead", Some(&key)).await?,
            502,
            vec![
                "route `dead`",
                "Attempt 1 at http://127.0.0.1:1 failed",
                "no connection could be made",
                "`upstream_failed`",
            ],
        ),
    ];
    for (answer, status, told) in answers {
        let answer = answer.expect(status)?;
        for id in [
            answer.header("x-request-id"),
            answer.header("x-mode-envoy-call-id"),
        ] {
            let text = cluster.node(3).ok(&format!("explain {id}")).await?;
            for part in &told {
                ensure!(text.contains(part), "{part:?} is not in {text}");
            }
        }
    }
    a_label_that_was_used_twice_is_two_calls(&cluster, &key).await?;
    cluster.finish().await
}

// === phases ===

fn has_the_right_fields(call: &Call, upstream: &Upstream, origin: &Origin) -> Result<()> {
    ensure!(
        (&*call.tenant, &*call.consumer, &*call.key, call.status)
            == ("acme", "mobile-app", "first", 200),
        "{call:?}"
    );
    ensure!(
        call.error.is_none() && !call.rejected && !call.presumed && !call.cut,
        "{call:?}"
    );
    ensure!(
        call.revision > 0 && call.latency_ms > 0.0 && call.request_id == call.call_id,
        "{call:?}"
    );
    let [attempt] = call.attempts.as_slice() else {
        anyhow::bail!("one attempt was expected: {call:?}");
    };
    ensure!((attempt.number, attempt.status) == (1, 200), "{call:?}");
    if call.route == "orders" {
        ensure!(
            (&*call.method, &*call.path) == ("GET", "/orders"),
            "a query is no part of it: {call:?}"
        );
        ensure!(origin.url().starts_with(&attempt.endpoint), "{call:?}");
        return Ok(());
    }
    let seen = upstream.seen();
    let seen = seen
        .iter()
        .find(|seen| seen.model == "up-remote")
        .context("a call at the provider")?;
    ensure!(
        (&*call.model, &*call.provider) == ("remote", "up"),
        "{call:?}"
    );
    ensure!(call.usage_source.as_deref() == Some("reported"), "{call:?}");
    ensure!(
        (call.input_tokens, call.output_tokens) == (seen.prompt_tokens, seen.completion_tokens),
        "{call:?} {seen:?}"
    );
    let nano = seen.prompt_tokens * 2_000 + seen.completion_tokens * 8_000;
    let cost = format!("{}.{:09}", nano / 1_000_000_000, nano % 1_000_000_000);
    let cost = cost.trim_end_matches('0').trim_end_matches('.');
    ensure!(call.priced && call.cost_usd == cost, "{call:?}");
    Ok(())
}

async fn filters_narrow(node: &Node) -> Result<()> {
    let ask = async |words: &[&str]| {
        let told = node
            .cli(&[&["calls", "-o", "json"], words].concat())
            .await?
            .json()?;
        calls(&told)
    };
    let orders = ask(&["--route", "orders", "--status", "2xx"]).await?;
    ensure!(orders.len() == 3, "{orders:?}");
    ensure!(
        ask(&[
            "--key", "first", "--status", "200", "--tenant", "acme", "--route", "orders"
        ])
        .await?
        .len()
            == 3
    );
    for nothing in [
        ["--key", "second"],
        ["--tenant", "nobody"],
        ["--status", "504"],
    ] {
        ensure!(ask(&nothing).await?.is_empty(), "{nothing:?}");
    }
    let newest = ask(&["--route", "orders", "--limit", "2"]).await?;
    ensure!(
        newest.len() == 2 && newest[1].call_id == orders[2].call_id,
        "{newest:?} {orders:?}"
    );
    let csv = node
        .cli(&["calls", "--route", "orders", "-o", "csv"])
        .await?
        .ok()?;
    ensure!(
        csv.lines().count() == 4 && csv.starts_with("time,call_id,"),
        "{csv}"
    );
    let yaml = node
        .cli(&["calls", "--route", "orders", "-o", "yaml"])
        .await?
        .ok()?;
    ensure!(yaml.contains("missing_nodes"), "{yaml}");
    Ok(())
}

async fn what_cannot_be_asked_is_refused(node: &Node) -> Result<()> {
    for words in [
        ["--status", "fine"],
        ["--since", "soon"],
        ["--limit", "0"],
        ["--limit", "1000000"],
    ] {
        node.cli(&[&["calls"], &words[..]].concat())
            .await?
            .fails(2)?;
    }
    let refused = node.refuses("calls --from yesterday").await?;
    ensure!(refused.contains("yesterday"), "{refused}");
    Ok(())
}

async fn a_label_that_was_used_twice_is_two_calls(cluster: &Cluster, key: &str) -> Result<()> {
    let chat = http::chat("remote", "hello");
    for (id, path, status) in [(2, CHAT, 200), (1, "/nowhere", 404)] {
        let request = labelled(path, key, &chat, "nightly-7")?;
        http::send(cluster.node(id).gateway(), request)
            .await?
            .expect(status)?;
    }
    let told = cluster
        .node(3)
        .cli(&["explain", "nightly-7", "-o", "json"])
        .await?
        .json()?;
    let told = explanations(&told)?;
    let statuses: BTreeSet<_> = told.iter().map(|(call, _)| call.status).collect();
    ensure!(statuses == BTreeSet::from([200, 404]), "{told:?}");
    let refused = cluster.node(1).refuses("explain no-such-call").await?;
    ensure!(refused.contains("no node knows such a call"), "{refused}");
    Ok(())
}

// === helpers ===

fn document(upstream: &Upstream, origin: &Origin) -> String {
    format!(
        r#"
tenants: [{{name: acme}}]
consumers: [{{name: mobile-app, tenant: acme, team: retail}}]
providers:
  - {{name: up, protocol: openai, base_url: "{}", keys: [{{value: {PROVIDER_KEY}}}]}}
models:
  - {{name: remote, targets: [{{provider: up, model: up-remote}}], price: {{input: "2", output: "8"}}}}
services:
  - {{name: orders, endpoints: [{{url: "{}"}}]}}
  - {{name: dead, endpoints: [{{url: "http://127.0.0.1:1"}}]}}
routes:
  - {{name: orders, tenant: acme, service: orders, match: {{paths: [/orders]}}, auth: [key]}}
  - {{name: dead, tenant: acme, service: dead, match: {{paths: [/dead]}}, auth: [key]}}
"#,
        upstream.base_url(),
        origin.url()
    )
}
