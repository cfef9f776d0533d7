//! Limits of a cluster, kept by real processes: judged by what the upstream itself counts, never by what the gateway says.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mode_envoy_cluster_tests::cluster::{Cluster, Node};
use mode_envoy_cluster_tests::http::{self, Answer};
use mode_envoy_cluster_tests::upstream::{Fault, Upstream};
use mode_envoy_cluster_tests::wait::until;
use tokio::task::JoinSet;

const NODE: &str = env!("CARGO_BIN_EXE_mode-envoy-under-test");
const CHAT: &str = "/v1/chat/completions";
/// A limit's model is named so, with its amount.
const AMOUNTS: [usize; 6] = [1, 2, 3, 5, 10, 100];
/// Bursts, each of three times the amount, until all of it must be used: a loaded machine may not answer in time.
const BURSTS: usize = 40;
const SOON: Duration = Duration::from_secs(30);

fn model(amount: usize) -> String {
    format!("m{amount}")
}

/// A limit of so many calls in total for each of these models.
fn totals(amounts: &[usize]) -> String {
    let limits = amounts.iter().map(|amount| {
        let model = model(*amount);
        format!(
            "  - {{name: {model}, match: {{tenant: acme, model: {model}}}, unit: requests, amount: {amount}, per: total}}\n"
        )
    });
    format!("limits:\n{}", limits.collect::<String>())
}

/// How often the upstream was asked for a model.
fn admitted(upstream: &Upstream, model: &str) -> usize {
    let name = format!("up-{model}");
    let seen = upstream.seen();
    seen.iter().filter(|seen| seen.model == name).count()
}

async fn call(gateway: &str, key: &str, model: &str) -> Result<Answer> {
    http::post(gateway, CHAT, key, &http::chat(model, "hello")).await
}

/// A node records soon after its start that it ran in this boot of the machine; one that was killed before that cannot tell a kill
/// from a power cut.
async fn boot_is_recorded(node: &Node) -> Result<()> {
    let path = node.launch.data_dir.join("contact.json");
    until("the boot to be recorded", SOON, async || {
        ensure!(path.exists());
        Ok(())
    })
    .await
}

/// So many calls at once, over all nodes; how many had which status.
async fn burst(
    nodes: &[Node],
    key: &str,
    model: &str,
    calls: usize,
) -> Result<BTreeMap<u16, usize>> {
    let mut all = JoinSet::new();
    for number in 0..calls {
        let gateway = nodes[number % nodes.len()].gateway().to_owned();
        let (key, model) = (key.to_owned(), model.to_owned());
        all.spawn(async move { call(&gateway, &key, &model).await });
    }
    let mut statuses = BTreeMap::new();
    while let Some(answer) = all.join_next().await {
        *statuses.entry(answer??.status).or_default() += 1;
    }
    Ok(statuses)
}

/// An answer of 429 that says which limit, and what its client needs to know.
fn is_limited(answer: &Answer, limit: &str) -> Result<()> {
    ensure!(answer.status == 429, "{}: {}", answer.status, answer.text());
    ensure!(answer.header("x-mode-envoy-error") == "limited");
    ensure!(answer.header("x-ratelimit-remaining-requests") == "0");
    ensure!(answer.header("ratelimit").contains(limit), "{answer:?}");
    ensure!(answer.text().contains(limit), "{}", answer.text());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_the_amount_three_nodes_admit_exactly_that_from_bursts() -> Result<()> {
    let (cluster, upstream) = (Cluster::start(NODE, 3).await?, Upstream::start().await?);
    let models: Vec<String> = AMOUNTS.iter().map(|amount| model(*amount)).collect();
    let models: Vec<&str> = models.iter().map(String::as_str).collect();
    cluster.apply(&upstream.document(&models)).await?;
    cluster.apply(&totals(&AMOUNTS)).await?;
    let key = cluster.key("acme", "mobile-app", "k").await?;
    for (amount, model) in AMOUNTS.into_iter().zip(models) {
        let mut bursts = 0;
        while admitted(&upstream, model) < amount {
            bursts += 1;
            ensure!(
                bursts <= BURSTS,
                "{} of {amount} are admitted",
                admitted(&upstream, model)
            );
            let statuses = burst(cluster.nodes(), &key, model, 3 * amount.max(2)).await?;
            let known = statuses
                .keys()
                .all(|status| [200, 429, 503].contains(status));
            ensure!(known, "{statuses:?}");
        }
        for node in cluster.nodes() {
            let refused = until("the limit to be known as used up", SOON, async || {
                let answer = call(node.gateway(), &key, model).await?;
                ensure!(answer.status == 429, "{}", answer.status);
                Ok(answer)
            });
            is_limited(&refused.await?, model)?;
        }
        ensure!(
            admitted(&upstream, model) == amount,
            "{amount} became {}",
            admitted(&upstream, model)
        );
    }
    upstream.check()?;
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_node_held_is_free_again_when_it_is_back_and_no_more_than_the_amount_is_admitted()
-> Result<()> {
    const AMOUNT: usize = 400;
    let (mut cluster, upstream) = (Cluster::start(NODE, 3).await?, Upstream::start().await?);
    let model = model(AMOUNT);
    cluster.apply(&upstream.document(&[&model])).await?;
    cluster.apply(&totals(&[AMOUNT])).await?;
    let key = cluster.key("acme", "mobile-app", "k").await?;
    // All nodes hold something of it then.
    for _ in 0..10 {
        for node in cluster.nodes() {
            call(node.gateway(), &key, &model).await?.expect(200)?;
        }
    }
    for killed in [2, 1] {
        boot_is_recorded(cluster.node(killed)).await?;
        cluster.node_mut(killed).kill().await?;
        let alive = cluster.node(3).gateway().to_owned();
        for _ in 0..10 {
            call(&alive, &key, &model).await?;
        }
        cluster.node_mut(killed).start()?;
        cluster.node_mut(killed).wait_ready().await?;
        cluster.node(killed).wait_key(&key, 200).await?;
    }
    let used = until("all of the amount to be used", SOON * 2, async || {
        let nodes = cluster.nodes();
        burst(nodes, &key, &model, 60).await?;
        let used = admitted(&upstream, &model);
        ensure!(used >= AMOUNT, "{used}");
        Ok(used)
    });
    let used = used
        .await
        .context("what the killed nodes held did not come back")?;
    burst(cluster.nodes(), &key, &model, 60).await?;
    ensure!(
        used == AMOUNT && admitted(&upstream, &model) == AMOUNT,
        "{used} of {AMOUNT}"
    );
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_calls_are_open_at_the_same_time_than_a_limit_says_and_places_come_back()
-> Result<()> {
    let (cluster, upstream) = (Cluster::start(NODE, 3).await?, Upstream::start().await?);
    cluster.apply(&upstream.document(&["m"])).await?;
    let limits = "limits: [{name: open, match: {tenant: acme}, unit: concurrent, amount: 4}]";
    cluster.apply(limits).await?;
    let key = cluster.key("acme", "mobile-app", "k").await?;
    upstream.fault("up-m", Fault::Held);
    let mut open = JoinSet::new();
    let mut refused = 0;
    for number in 0..16 {
        let gateway = cluster.nodes()[number % 3].gateway().to_owned();
        let key = key.clone();
        open.spawn(async move { call(&gateway, &key, "m").await });
    }
    while admitted(&upstream, "m") + refused < 16 {
        let Some(answer) = open.join_next().await else {
            break;
        };
        let answer = answer??;
        ensure!(
            [429, 503].contains(&answer.status),
            "{}: {}",
            answer.status,
            answer.text()
        );
        refused += 1;
    }
    ensure!(
        (1..=4).contains(&admitted(&upstream, "m")),
        "{} are open",
        admitted(&upstream, "m")
    );
    upstream.release();
    while let Some(answer) = open.join_next().await {
        answer??.expect(200)?;
    }
    for node in cluster.nodes() {
        until("a place to be free", SOON, async || {
            let answer = call(node.gateway(), &key, "m").await?;
            ensure!(answer.status == 200, "{}", answer.status);
            Ok(())
        })
        .await?;
    }
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_amount_holds_at_once_and_a_limit_that_is_gone_refuses_nobody() -> Result<()> {
    let (cluster, upstream) = (Cluster::start(NODE, 3).await?, Upstream::start().await?);
    cluster.apply(&upstream.document(&["m"])).await?;
    let limit = |amount: usize, more: &str| {
        format!(
            "limits: [{{name: day, match: {{tenant: acme}}, each: key, unit: requests, amount: {amount}, per: day{more}}}]"
        )
    };
    let (a, b) = (
        cluster.key("acme", "mobile-app", "a").await?,
        cluster.key("acme", "mobile-app", "b").await?,
    );
    // After the keys: to see them in force is a call as well.
    cluster.apply(&limit(2, "")).await?;
    let node = cluster.node(2).gateway();
    let settled = |key: String, wanted: u16| async move {
        until("the limit to say so", SOON, async || {
            let answer = call(node, &key, "m").await?;
            ensure!(answer.status == wanted, "{}", answer.status);
            Ok(answer)
        })
        .await
    };
    is_limited(&settled(a.clone(), 429).await?, "day")?;
    let before = admitted(&upstream, "m");
    ensure!(before == 2, "{before}");
    // Every key has an amount of its own.
    settled(b.clone(), 200).await?;
    cluster.apply(&limit(3, "")).await?;
    settled(a.clone(), 200).await?;
    settled(a.clone(), 429).await?;
    cluster.apply(&limit(3, ", shadow: true")).await?;
    settled(a.clone(), 200).await?;
    until(
        "the refusals that were none to be counted",
        SOON,
        async || {
            let page = http::get(cluster.node(2).admin(), "/metrics", None).await?;
            let counted = "mode_envoy_limit_shadow_refusals_total{limit=\"day\"}";
            ensure!(page.text().contains(counted));
            call(node, &a, "m").await?.expect(200)?;
            Ok(())
        },
    )
    .await?;
    cluster.apply(&limit(3, "")).await?;
    settled(a.clone(), 429).await?;
    cluster.node(1).ok("delete limit day").await?;
    settled(a, 200).await?;
    cluster.finish().await
}

/// What one node alone is admitted of a total of 60, while others hold some of it.
async fn admitted_by(node: &Node, upstream: &Upstream, key: &str, model: &str) -> Result<usize> {
    let before = admitted(upstream, model);
    let refused = until("the limit to be used up", SOON, async || {
        let answer = call(node.gateway(), key, model).await?;
        ensure!(answer.status == 429, "{}", answer.status);
        Ok(())
    });
    refused.await?;
    Ok(admitted(upstream, model) - before)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_ends_in_order_leaves_all_that_it_held_to_the_others() -> Result<()> {
    const AMOUNT: usize = 60;
    let (mut cluster, upstream) = (Cluster::start(NODE, 3).await?, Upstream::start().await?);
    let model = model(AMOUNT);
    cluster.apply(&upstream.document(&[&model])).await?;
    let key = cluster.key("acme", "mobile-app", "k").await?;
    cluster.apply(&totals(&[AMOUNT])).await?;
    for id in [1, 2] {
        let node = cluster.node(id).gateway().to_owned();
        call(&node, &key, &model).await?.expect(200)?;
    }
    for id in [1, 2] {
        ensure!(cluster.node_mut(id).term().await? == Some(0));
        // Two of three are needed for the log to grant anything.
        cluster.node_mut(id).start()?;
        cluster.node_mut(id).wait_ready().await?;
    }
    let rest = admitted_by(cluster.node(3), &upstream, &key, &model).await?;
    ensure!(rest == AMOUNT - 2, "{rest} of {} were left", AMOUNT - 2);
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_node_held_when_its_machine_failed_counts_as_used() -> Result<()> {
    const AMOUNT: usize = 60;
    let (mut cluster, upstream) = (Cluster::start(NODE, 3).await?, Upstream::start().await?);
    let model = model(AMOUNT);
    cluster.apply(&upstream.document(&[&model])).await?;
    let key = cluster.key("acme", "mobile-app", "k").await?;
    cluster.apply(&totals(&[AMOUNT])).await?;
    let failed = cluster.node(1).gateway().to_owned();
    let holds = until("the node to hold something", SOON, async || {
        call(&failed, &key, &model).await?.expect(200)?;
        let told = cluster.node(1).cli(&["limits", "-o", "json"]).await?.ok()?;
        let told: serde_json::Value = serde_json::from_str(&told)?;
        let units = told["limits"][0]["leased"][0]["units"].as_u64();
        ensure!(units.is_some_and(|units| units > 1), "{told}");
        Ok(())
    });
    holds.await?;
    boot_is_recorded(cluster.node(1)).await?;
    cluster.node_mut(1).kill().await?;
    // A power cut takes the records of the last moment, and this file, or leaves one of another boot.
    let contact = cluster.node(1).launch.data_dir.join("contact.json");
    std::fs::remove_file(contact)?;
    cluster.node_mut(1).start()?;
    cluster.node_mut(1).wait_ready().await?;
    let told = until("the node to say so", SOON, async || {
        ensure!(cluster.node(1).log().contains("counts as used"));
        Ok(())
    });
    told.await?;
    for node in cluster.nodes() {
        admitted_by(node, &upstream, &key, &model).await?;
    }
    let used = admitted(&upstream, &model);
    ensure!(
        used < AMOUNT,
        "{used}: what may have been used was given out again"
    );
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_amount_holds_while_nodes_stand_still_and_leaders_change() -> Result<()> {
    const AMOUNT: usize = 300;
    let (cluster, upstream) = (Cluster::start(NODE, 3).await?, Upstream::start().await?);
    let model = model(AMOUNT);
    cluster.apply(&upstream.document(&[&model])).await?;
    let key = cluster.key("acme", "mobile-app", "k").await?;
    cluster.apply(&totals(&[AMOUNT])).await?;
    for still in [1, 2, 3] {
        burst(cluster.nodes(), &key, &model, 15).await?;
        cluster.node(still).freeze()?;
        let others = [1, 2, 3].into_iter().filter(|id| *id != still);
        for id in others {
            // Without a leader nothing is granted; what a node holds it may spend.
            let node = cluster.node(id).gateway();
            for _ in 0..10 {
                let answer = call(node, &key, &model).await?;
                let known = [200, 429, 503].contains(&answer.status);
                ensure!(known, "{}: {}", answer.status, answer.text());
            }
        }
        until("the others to grant without it", SOON, async || {
            let node = cluster.node(1 + still % 3).gateway();
            call(node, &key, &model).await?.expect(200)?;
            Ok(())
        })
        .await?;
        cluster.node(still).thaw()?;
    }
    let used = until("all of the amount to be used", SOON, async || {
        burst(cluster.nodes(), &key, &model, 30).await?;
        let used = admitted(&upstream, &model);
        ensure!(used >= AMOUNT, "{used}");
        Ok(used)
    });
    let used = used.await?;
    burst(cluster.nodes(), &key, &model, 30).await?;
    ensure!(
        used == AMOUNT && admitted(&upstream, &model) == AMOUNT,
        "{used} of {AMOUNT}"
    );
    cluster.finish().await
}
