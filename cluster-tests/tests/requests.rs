//! Changes that their client named: each is carried out once, and an id that is used again brings nothing back. And what a tenant's
//! token may add to the history.

use anyhow::{Context, Result, ensure};
use mode_envoy_cluster_tests::cluster::{Cluster, Node};
use mode_envoy_cluster_tests::members::settled;
use serde_json::Value;

const NODE: &str = env!("CARGO_BIN_EXE_mode-envoy-under-test");
const REQUEST: &str = "0123456789abcdef0123456789abcdef";
const ANOTHER: &str = "fedcba9876543210fedcba9876543210";

#[tokio::test]
async fn a_request_id_that_is_used_again_does_not_bring_back_a_revoked_secret() -> Result<()> {
    let cluster = Cluster::start(NODE, 1).await?;
    cluster
        .apply("tenants: [{name: acme}]\nconsumers: [{name: app, tenant: acme}]\n")
        .await?;
    let node = cluster.node(1);
    let create = async || -> Result<(String, String)> {
        let token = made(
            node,
            "tokens create --name ci --role admin -o json",
            "token",
        )
        .await?;
        let line = format!(
            "keys create --tenant acme --consumer app --name k --request-id {REQUEST} -o json --token {token}"
        );
        let key = made(node, &line, "secret").await?;
        ensure!(
            made(node, &line, "secret").await? == key,
            "a retry shows the same"
        );
        Ok((key, line))
    };
    let (first, line) = create().await?;
    node.wait_key(&first, 200).await?;
    node.ok("keys revoke k --tenant acme").await?;
    node.wait_key(&first, 401).await?;
    let refused = node.refuses(&line).await?;
    ensure!(
        refused.contains("was rotated or removed since"),
        "{refused}"
    );

    // With the token, what it asked for is forgotten, as it is after an hour.
    node.ok("tokens revoke ci").await?;
    let (second, _) = create().await?;
    ensure!(second != first, "the revoked secret is back");
    node.wait_key(&second, 200).await?;
    node.wait_key(&first, 401).await?;
    cluster.finish().await
}

#[tokio::test]
async fn a_verb_about_members_or_the_secret_is_carried_out_once_for_one_request_id() -> Result<()> {
    let mut cluster = Cluster::start(NODE, 1).await?;
    let line = format!("cluster add-node --request-id {REQUEST} -o json");
    let first = cluster.node(1).ok(&line).await?;
    ensure!(cluster.node(1).ok(&line).await? == first, "the same token");
    let token = made(cluster.node(1), &line, "join_token").await?;
    let address = cluster.node(1).launch.peer.clone();
    let joiner = cluster.plan_joiner(&address, &token);
    joiner.start()?;
    joiner.wait_ready().await?;
    settled(cluster.node(1), &[1, 2], &[]).await?;
    let other = format!("cluster remove-node 2 --request-id {REQUEST}");
    let refused = cluster.node(1).refuses(&other).await?;
    ensure!(
        refused.contains("this id named another request"),
        "{refused}"
    );

    let rotate = format!("cluster rotate-secret --request-id {ANOTHER} -o json");
    let rotated = cluster.node(1).ok(&rotate).await?;
    let secret = || std::fs::read_to_string(cluster.node(1).launch.data_dir.join("cluster.secret"));
    let in_force = secret()?;
    let again = cluster.node(1).ok(&rotate).await?;
    ensure!(
        again == rotated && secret()? == in_force,
        "{again} is not {rotated}"
    );
    let remove = format!("cluster remove-node 2 --request-id {ANOTHER}x -o json");
    let removed = cluster.node(1).ok(&remove).await?;
    ensure!(
        cluster.node(1).ok(&remove).await? == removed,
        "removed once"
    );
    cluster.finish().await
}

#[tokio::test]
async fn a_tenants_token_adds_a_bounded_amount_to_the_history_in_a_day() -> Result<()> {
    let cluster = Cluster::start(NODE, 1).await?;
    cluster.node(1).apply("tenants: [{name: acme}]").await?;
    let line = "tokens create --name ours --role admin --tenant acme -o json";
    let token = made(cluster.node(1), line, "token").await?;
    let document = |round: usize| {
        let consumers = (0..6_000).map(|number| {
            let team = format!("{round}-{}", "t".repeat(60));
            format!(
                "  - {{tenant: acme, name: c-{number}-{}, team: {team}}}\n",
                "n".repeat(50)
            )
        });
        format!("consumers:\n{}", consumers.collect::<String>())
    };
    let apply = ["apply", "-f", "-", "--token", &token];
    let mut refused = None;
    for round in 0..20 {
        let done = cluster.node(1).run(&apply, &document(round)).await?;
        if done.stdout.is_empty() {
            refused = Some((round, done.fails(1)?));
            break;
        }
    }
    let (round, said) = refused.context("it is bounded")?;
    ensure!(round > 5, "refused in round {round}");
    ensure!(
        said.contains("more than 8 MiB") && said.contains("try again at 00:00 UTC, in "),
        "{said}"
    );
    // Whoever runs the cluster is not bounded, and what changes nothing is no growth.
    cluster.node(1).apply("tenants: [{name: later}]").await?;
    cluster
        .node(1)
        .run(&apply, &document(round - 1))
        .await?
        .ok()?;
    cluster.finish().await
}

// === helpers ===

/// Runs a command line that makes something; a field of what it printed.
async fn made(node: &Node, line: &str, field: &str) -> Result<String> {
    let printed: Value = serde_json::from_str(&node.ok(line).await?)?;
    let value = printed[field].as_str();
    value
        .map(str::to_owned)
        .with_context(|| format!("no {field} in {printed}"))
}
