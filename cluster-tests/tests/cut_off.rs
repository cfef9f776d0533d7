//! A node that has lost the rest of its cluster: what it goes on with, what it says, and when it ends taking keys.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mode_envoy_cluster_tests::cluster::{Cluster, Node};
use mode_envoy_cluster_tests::http::{self, Answer, CHAT};
use mode_envoy_cluster_tests::load::Pace;
use mode_envoy_cluster_tests::origin::Origin;
use mode_envoy_cluster_tests::{usage, wait};
use tokio::task::JoinSet;

const NODE: &str = env!("CARGO_BIN_EXE_mode-envoy-under-test");
const STALE: &str = "x-mode-envoy-stale";
const SOON: Duration = Duration::from_secs(30);
/// What the contract gives an admin call without a quorum, and the time that a process takes to start on a busy machine.
const REFUSED_WITHIN: Duration = Duration::from_secs(5 + 3);

#[tokio::test]
async fn a_node_that_is_cut_off_serves_then_says_so_then_takes_no_keys() -> Result<()> {
    let (mut cluster, origin) = start(&["--stale-after", "3s", "--stale-deny", "12s"]).await?;
    let key = cluster.key("acme", "app", "kept").await?;
    let revoked = cluster.key("acme", "app", "revoked").await?;
    cluster.node(1).ok("keys revoke revoked").await?;
    let alone = leader(&cluster).await?;
    cluster.node(alone).wait_key(&revoked, 401).await?;
    for other in others(alone) {
        cluster.node_mut(other).kill().await?;
    }

    let node = cluster.node(alone);
    says_that_it_is_stale(node, &key).await?;
    node.wait_key(&revoked, 401).await?;
    ends_taking_keys(node, &key).await?;
    denies(node, &revoked).await?;

    // A restart does not make it forget.
    let node = cluster.node_mut(alone);
    node.kill().await?;
    node.start()?;
    let node = cluster.node(alone);
    let still = wait::until("the gateway to be back", SOON, async || {
        call(node, &key).await?.expect(503)
    })
    .await?;
    ensure!(
        still.header("x-mode-envoy-error") == "config_stale",
        "{still:?}"
    );
    ensure!(still.header(STALE).parse::<u64>()? >= 12, "{still:?}");
    denies(node, &key).await?;

    // The others are back, and all is as before.
    cluster.start_all()?;
    cluster.wait_ready().await?;
    for node in cluster.nodes() {
        let answer = call(node, &key).await?.expect(200)?;
        ensure!(answer.header(STALE).is_empty(), "{answer:?}");
        node.wait_key(&revoked, 401).await?;
    }
    drop(origin);
    cluster.finish().await
}

#[tokio::test]
async fn without_a_quorum_nothing_is_decided_and_every_verb_says_so_in_time() -> Result<()> {
    for leads in [true, false] {
        let (mut cluster, _origin) = start(&[]).await?;
        let key = cluster.key("acme", "app", "kept").await?;
        let leader = leader(&cluster).await?;
        let alone = if leads { leader } else { 1 + leader % 3 };
        for other in others(alone) {
            cluster.node_mut(other).kill().await?;
        }
        let node = cluster.node(alone);
        // A leader takes a moment to notice; what it is told meanwhile has an outcome that is not known.
        wait::until("the node to know", SOON, async || {
            ensure!(contact_age(node).await? > 3.0, "it does not");
            Ok(())
        })
        .await?;
        let writes = [
            "keys create --tenant acme --consumer app --name late",
            "keys revoke kept",
            "keys rotate kept",
            "tokens create --name late --role viewer",
            "delete route orders --tenant acme",
            "apply -f -",
        ];
        for (line, said) in refused_in_time(node, &writes).await? {
            ensure!(
                said.contains("no quorum") && said.contains("nothing was changed"),
                "{line} on a node that leads ({leads}): {said}"
            );
        }
        let reads = ["export", "get tenants", "keys list", "tokens list"];
        for (line, said) in refused_in_time(node, &reads).await? {
            ensure!(said.contains("--local"), "{line}: {said}");
            let local = format!("{line} --local");
            node.ok(&local).await.with_context(|| local.clone())?;
        }
        for (_, said) in refused_in_time(node, &["usage --linearizable"]).await? {
            ensure!(said.contains("without --linearizable"), "{said}");
        }
        node.ok("usage").await?;
        node.ok("cluster status").await?;
        call(node, &key).await?.expect(200)?;

        // What was refused is not done later, and the key that could not be revoked is as it was.
        cluster.start_all()?;
        cluster.wait_ready().await?;
        let export = cluster.node(alone).ok("export").await?;
        ensure!(!export.contains("name: late"), "{export}");
        cluster.finish().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_node_that_stood_still_counts_the_time_also_where_messages_waited_for_it() -> Result<()> {
    for leads in [true, false] {
        let (mut cluster, _origin) = start(&["--stale-after", "3s"]).await?;
        let leader = leader(&cluster).await?;
        let still = if leads { leader } else { 1 + leader % 3 };
        cluster.node(still).freeze()?;
        // The others speak to it in vain, and are gone when it goes on.
        Pace::every(Duration::from_millis(500)).tick().await;
        for other in others(still) {
            cluster.node_mut(other).kill().await?;
        }
        Pace::every(Duration::from_secs(6)).tick().await;
        let node = cluster.node(still);
        node.thaw()?;
        for _ in 0..20 {
            let age = contact_age(node).await?;
            ensure!(
                age > 5.0,
                "it leads ({leads}) and takes itself for fresh: {age} s"
            );
        }
        let said = http::get(node.admin(), "/readyz", None)
            .await?
            .expect(503)?;
        ensure!(said.text().contains("cut off"), "{said:?}");
        cluster.start_all()?;
        cluster.wait_ready().await?;
        cluster.finish().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_node_that_is_started_alone_serves_what_it_had_and_counts_it_later() -> Result<()> {
    let (mut cluster, origin) = start(&["--stale-after", "2s", "--stale-deny", "never"]).await?;
    let key = cluster.key("acme", "app", "kept").await?;
    let revoked = cluster.key("acme", "app", "revoked").await?;
    cluster.node(2).ok("keys revoke revoked").await?;
    for node in cluster.nodes() {
        node.wait_key(&revoked, 401).await?;
    }
    // So is an admin token, although only the log behind what is known to be committed may say so.
    let line = with_a_revoked_token(&cluster).await?;
    let alone = 1 + leader(&cluster).await? % 3;
    for node in cluster.nodes_mut() {
        node.kill().await?;
    }

    cluster.node_mut(alone).start()?;
    let node = cluster.node(alone);
    let mut calls = 0;
    wait::until(
        "the gateway to serve without the others, and to say so",
        SOON,
        async || {
            let served = call(node, &key).await?.expect(200)?;
            calls += 1;
            ensure!(!served.header(STALE).is_empty(), "it says nothing");
            Ok(())
        },
    )
    .await?;
    node.wait_key(&revoked, 401).await?;
    let said = node.refuses(&line).await?;
    ensure!(said.contains("no such admin token"), "{said}");
    node.ok("get tenants --local").await?;
    http::get(node.gateway(), "/orders/1", Some(&key))
        .await?
        .expect(200)?;
    for _ in 0..10 {
        call(node, &key).await?.expect(200)?;
        calls += 1;
    }

    cluster.start_all()?;
    cluster.wait_ready().await?;
    for node in cluster.nodes() {
        let row = usage::row(
            &node
                .usage(&["--filter", "model=fast", "--linearizable"])
                .await?,
        )?;
        ensure!(
            (row.calls, row.errors) == (calls, 0),
            "node {}: {row:?}",
            node.id()
        );
    }
    drop(origin);
    cluster.finish().await
}

// === phases ===

async fn says_that_it_is_stale(node: &Node, key: &str) -> Result<()> {
    // It serves all along: first as if nothing had happened, then it says since when it is alone.
    call(node, key).await?.expect(200)?;
    let stale = wait::until("the node to say that it is cut off", SOON, async || {
        let answer = call(node, key).await?.expect(200)?;
        ensure!(!answer.header(STALE).is_empty(), "it does not");
        Ok(answer)
    })
    .await?;
    ensure!(stale.header(STALE).parse::<u64>()? >= 3, "{stale:?}");
    let ready = http::get(node.admin(), "/readyz", None)
        .await?
        .expect(503)?;
    ensure!(
        ready
            .text()
            .starts_with("cut off: no contact with a majority"),
        "{}",
        ready.text()
    );
    http::get(node.admin(), "/healthz", None)
        .await?
        .expect(200)?;
    ensure!(
        contact_age(node).await? >= 3.0,
        "the metric does not say so"
    );
    Ok(())
}

async fn ends_taking_keys(node: &Node, key: &str) -> Result<()> {
    // In the end no key is taken; what needs none flows.
    let denied = wait::until("keys to be refused", SOON, async || {
        call(node, key).await?.expect(503)
    })
    .await?;
    ensure!(
        denied.json()?["error"]["code"] == "config_stale",
        "{denied:?}"
    );
    ensure!(
        denied.header("x-mode-envoy-error") == "config_stale",
        "{denied:?}"
    );
    denies(node, key).await
}

// === helpers ===

/// Three nodes with a model, a route that takes keys and one that needs none.
async fn start(arguments: &[&str]) -> Result<(Cluster, Origin)> {
    let origin = Origin::start("orders").await?;
    let mut cluster = Cluster::plan(NODE, 3)?;
    for node in cluster.nodes_mut() {
        node.launch.more = arguments.iter().map(|&word| word.to_owned()).collect();
    }
    cluster.start_all()?;
    cluster.wait_ready().await?;
    let document = format!(
        r#"
tenants: [{{name: acme}}]
consumers: [{{name: app, tenant: acme}}]
providers: [{{name: local, protocol: embedded}}]
models: [{{name: fast, targets: [{{provider: local, model: echo}}]}}]
services: [{{name: orders, endpoints: [{{url: "{}"}}]}}]
routes:
  - {{name: orders, tenant: acme, service: orders, auth: [key], match: {{paths: ["/orders/{{*rest}}"]}}}}
  - {{name: open, tenant: acme, service: orders, auth: [none], match: {{paths: [/open]}}}}
"#,
        origin.url()
    );
    cluster.apply(&document).await?;
    Ok((cluster, origin))
}

/// A command line that root might have given before its token was revoked.
async fn with_a_revoked_token(cluster: &Cluster) -> Result<String> {
    let made = cluster
        .node(2)
        .ok("tokens create --name gone --role root -o json")
        .await?;
    let made: serde_json::Value = serde_json::from_str(&made)?;
    let token = made["token"].as_str().unwrap_or_default();
    let line = format!("get tenants --local --token {token}");
    for node in cluster.nodes() {
        wait::until("the token to be known", SOON, async || {
            node.ok(&line).await.map(drop)
        })
        .await?;
    }
    cluster.node(2).ok("tokens revoke gone").await?;
    Ok(line)
}

async fn leader(cluster: &Cluster) -> Result<usize> {
    let status = cluster.node(1).status().await?;
    Ok(usize::try_from(
        status["leader"].as_u64().context("a leader")?,
    )?)
}

fn others(alone: usize) -> impl Iterator<Item = usize> {
    (1..=3).filter(move |id| *id != alone)
}

async fn call(node: &Node, key: &str) -> Result<Answer> {
    http::post(node.gateway(), CHAT, key, &http::chat("fast", "hello")).await
}

/// A keyed route is refused, and not for the key's sake; one without authentication is served.
async fn denies(node: &Node, key: &str) -> Result<()> {
    let keyed = http::get(node.gateway(), "/orders/1", Some(key))
        .await?
        .expect(503)?;
    ensure!(keyed.json()?["code"] == "config_stale", "{keyed:?}");
    let open = http::get(node.gateway(), "/open", None)
        .await?
        .expect(200)?;
    ensure!(!open.header(STALE).is_empty(), "{open:?}");
    Ok(())
}

/// Runs verbs that must fail before the contract's time is over, all at once; what each said.
async fn refused_in_time(node: &Node, lines: &[&str]) -> Result<Vec<(String, String)>> {
    let mut running = JoinSet::new();
    for line in lines {
        let (program, url, line) = (
            node.launch.program.clone(),
            node.admin_url(),
            line.to_string(),
        );
        running.spawn(async move {
            let began = Instant::now();
            let words: Vec<_> = line.split_whitespace().chain(["--admin", &url]).collect();
            let said = program.run(&words, "tenants: [{name: late}]").await?;
            let took = began.elapsed();
            ensure!(took < REFUSED_WITHIN, "{line} took {took:?}");
            Ok((line.clone(), said.fails(1)?))
        });
    }
    running.join_all().await.into_iter().collect()
}

async fn contact_age(node: &Node) -> Result<f64> {
    let page = http::get(node.admin(), "/metrics", None)
        .await?
        .expect(200)?
        .text();
    let name = "mode_envoy_raft_contact_age_seconds ";
    let line = page.lines().find_map(|line| line.strip_prefix(name));
    Ok(line.context("the age of the last contact")?.parse()?)
}
