//! What a cluster keeps when its processes die.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mode_envoy_cluster_tests::cluster::Cluster;
use mode_envoy_cluster_tests::http::{self, CHAT};
use mode_envoy_cluster_tests::load::{self, Rng};
use mode_envoy_cluster_tests::soak::{Account, Harm, Plan};
use mode_envoy_cluster_tests::upstream::{Fault, Upstream};
use mode_envoy_cluster_tests::{usage, wait};

const NODE: &str = env!("CARGO_BIN_EXE_mode-envoy-under-test");
const SOAK_SECONDS: u64 = 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_call_is_counted_exactly_once_while_nodes_die() -> Result<()> {
    let seconds = match std::env::var("MODE_ENVOY_SOAK_SECONDS") {
        Ok(text) => text
            .parse()
            .context("MODE_ENVOY_SOAK_SECONDS is not a number")?,
        Err(_) => SOAK_SECONDS,
    };
    Account::hold(NODE, Plan::lasting(Duration::from_secs(seconds))?).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_call_is_counted_exactly_once_while_leaders_freeze() -> Result<()> {
    let plan = Plan::lasting(Duration::from_secs(12))?;
    Account::hold(
        NODE,
        Plan {
            harm: Harm::Freeze,
            keys: 20,
            ..plan
        },
    )
    .await
}

#[tokio::test]
async fn a_torn_log_is_mended_and_a_damaged_one_is_refused() -> Result<()> {
    let mut cluster = Cluster::start(NODE, 3).await?;
    for number in 0..10 {
        cluster
            .apply(&format!("tenants: [{{name: t{number}}}]"))
            .await?;
    }
    // All of them: a leader that lives would know that node 3 had acknowledged the record which is torn below, and no disk
    // that keeps its promises takes such a one back.
    for node in cluster.nodes_mut() {
        node.kill().await?;
    }
    let log = cluster
        .node(3)
        .launch
        .data_dir
        .join("wal/log-0000000001-00000000000000000000.wal");
    let whole = std::fs::read(&log).with_context(|| format!("reading {}", log.display()))?;
    let used = whole
        .iter()
        .rposition(|byte| *byte != 0)
        .context("a log that is not empty")?;

    // A record that was being written when the power went.
    let mut torn = whole.clone();
    torn[used - 5..=used].fill(0);
    std::fs::write(&log, torn)?;
    cluster.start_all()?;
    cluster.wait_ready().await?;
    let export = cluster.node(3).cli(&["export"]).await?.ok()?;
    ensure!(export.contains("t9"), "{export}");

    // A record that others may rely on: the node names the file, and what to do instead of starting it again.
    let node = cluster.node_mut(3);
    node.kill().await?;
    let mut damaged = whole;
    damaged[used / 2] ^= 0xff;
    std::fs::write(&log, damaged)?;
    node.start()?;
    let code = node.wait_end().await?;
    ensure!(code == Some(1), "the node ended with {code:?}");
    let said = node.log();
    for told in [&*log.to_string_lossy(), "damaged", "new node id"] {
        ensure!(
            said.contains(told),
            "the node does not say {told:?}: {said}"
        );
    }
    cluster
        .node(1)
        .run(&["apply", "-f", "-"], "tenants: [{name: after}]")
        .await?
        .ok()?;
    cluster.finish().await
}

#[tokio::test]
async fn what_was_committed_outlives_the_death_of_all_nodes_at_once() -> Result<()> {
    let mut cluster = Cluster::start(NODE, 3).await?;
    let upstream = Upstream::start().await?;
    cluster
        .apply(&upstream.document(&["remote", "held"]))
        .await?;
    let key = cluster.key("acme", "mobile-app", "first").await?;
    let seed = load::seed()?;
    let mut rng = Rng::new(seed);

    for round in 1_u64..=3 {
        // Changes and calls up to the last moment: what was answered must be there afterwards.
        for number in 0..10 {
            let node = cluster.node(1 + rng.below(3));
            let label = format!("{round}-{number}");
            http::post(node.gateway(), CHAT, &key, &http::chat("remote", &label))
                .await?
                .expect(200)?;
        }
        let tenant = format!("tenants: [{{name: t{round}}}]");
        let node = cluster.node(1 + rng.below(3));
        node.run(&["apply", "-f", "-"], &tenant).await?.ok()?;
        for node in cluster.nodes_mut() {
            node.kill().await?;
        }

        cluster.start_all()?;
        cluster
            .wait_ready()
            .await
            .with_context(|| format!("the choices are those of seed {seed}"))?;
        for node in cluster.nodes() {
            let export = node.cli(&["export"]).await?.ok()?;
            ensure!(
                export.contains(&format!("name: t{round}")),
                "node {} lost it: {export}",
                node.id()
            );
            let answer = node
                .usage(&["--filter", "model=remote", "--linearizable"])
                .await?;
            let row = usage::row(&answer)?;
            ensure!(
                (row.calls, row.presumed_calls) == (10 * round, 0),
                "node {}: {row:?}",
                node.id()
            );
            let (mut input, mut output) = (0, 0);
            for seen in upstream.seen() {
                input += seen.prompt_tokens;
                output += seen.completion_tokens;
            }
            ensure!(
                (row.input_tokens, row.output_tokens) == (input, output),
                "{row:?}"
            );
            // The key is known at once: it was in the log.
            http::get(node.gateway(), "/v1/models", Some(&key))
                .await?
                .expect(200)?;
        }
    }
    upstream.check()?;
    cluster.finish().await
}

#[tokio::test]
async fn a_node_that_is_asked_to_end_finishes_its_calls_and_loses_nothing() -> Result<()> {
    let mut cluster = Cluster::start(NODE, 3).await?;
    let upstream = Upstream::start().await?;
    cluster
        .apply(&upstream.document(&["remote", "held"]))
        .await?;
    let key = cluster.key("acme", "mobile-app", "first").await?;
    upstream.fault("up-held", Fault::Held);

    let request = http::json_request(CHAT, &key, &http::chat_stream("held", "to the end"))?;
    let mut stream = http::open(cluster.node(2).gateway(), request).await?;
    stream.until("you ").await?;
    cluster.node(2).ask_to_end()?;
    // New calls are not taken, the old one goes on.
    let node = cluster.node(2);
    wait::until(
        "the gateway to stop accepting",
        Duration::from_secs(10),
        async || {
            let again = http::get(node.gateway(), "/v1/models", Some(&key)).await;
            ensure!(again.is_err(), "a call was taken");
            Ok(())
        },
    )
    .await?;
    http::get(node.admin(), "/readyz", None)
        .await?
        .expect(503)?;
    upstream.release();
    stream.until("[DONE]").await?;
    ensure!(
        cluster.node_mut(2).wait_end().await? == Some(0),
        "the node did not end in order"
    );

    let question = ["--filter", "model=held", "--linearizable"];
    let row = usage::row(&cluster.node(1).usage(&question).await?)?;
    let seen = upstream.find("to the end").context("the call")?;
    ensure!(
        (
            row.calls,
            row.errors,
            row.presumed_calls,
            row.estimated_calls
        ) == (1, 0, 0, 0),
        "{row:?}"
    );
    ensure!(
        (row.input_tokens, row.output_tokens) == (seen.prompt_tokens, seen.completion_tokens),
        "{row:?}"
    );

    // It comes back with what it missed.
    cluster
        .node(1)
        .run(&["apply", "-f", "-"], "tenants: [{name: meanwhile}]")
        .await?
        .ok()?;
    cluster.start_all()?;
    cluster.wait_ready().await?;
    let export = cluster.node(2).cli(&["export"]).await?.ok()?;
    ensure!(export.contains("meanwhile"), "{export}");
    upstream.check()?;
    cluster.finish().await
}

#[tokio::test]
async fn a_cluster_without_its_leader_takes_changes_again_and_never_stops_serving() -> Result<()> {
    let mut cluster = Cluster::start(NODE, 3).await?;
    let upstream = Upstream::start().await?;
    cluster
        .apply(&upstream.document(&["remote", "held"]))
        .await?;
    let key = cluster.key("acme", "mobile-app", "first").await?;
    let status = cluster.node(1).status().await?;
    let leader = usize::try_from(status["leader"].as_u64().context("a leader")?)?;
    let others: Vec<usize> = (1..=3).filter(|id| *id != leader).collect();

    cluster.node_mut(leader).kill().await?;
    // Calls do not wait for the log.
    for id in &others {
        let body = http::chat("remote", &format!("without a leader {id}"));
        http::post(cluster.node(*id).gateway(), CHAT, &key, &body)
            .await?
            .expect(200)?;
    }
    let survivor = cluster.node(others[0]);
    wait::until(
        "a change to be taken",
        Duration::from_secs(15),
        async || {
            survivor
                .run(&["apply", "-f", "-"], "tenants: [{name: after}]")
                .await?
                .ok()
        },
    )
    .await?;
    let read = cluster.node(others[1]).cli(&["export"]).await?.ok()?;
    ensure!(read.contains("after"), "{read}");
    let status = survivor.status().await?;
    ensure!(
        status["nodes"][leader - 1]["reachable"] == false,
        "{status}"
    );

    // With two of three gone nothing is decided, and the one that is left says so; it still serves.
    cluster.node_mut(others[1]).kill().await?;
    let last = cluster.node(others[0]);
    last.run(&["apply", "-f", "-"], "tenants: [{name: alone}]")
        .await?
        .fails(1)?;
    let body = http::chat("remote", "alone");
    http::post(last.gateway(), CHAT, &key, &body)
        .await?
        .expect(200)?;
    let local = last.cli(&["export", "--local"]).await?.ok()?;
    ensure!(local.contains("after"), "{local}");

    cluster.start_all()?;
    cluster.wait_ready().await?;
    for node in cluster.nodes() {
        let row = usage::row(
            &node
                .usage(&["--filter", "model=remote", "--linearizable"])
                .await?,
        )?;
        ensure!(row.calls == 3, "{row:?}");
    }
    upstream.check()?;
    cluster.finish().await
}
