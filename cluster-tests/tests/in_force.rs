//! From the answer of an admin call to the gateways of every node: what is new is in force, what is gone is refused, and
//! nothing else is disturbed.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mode_envoy_cluster_tests::cluster::Cluster;
use mode_envoy_cluster_tests::http::{self, CHAT, Connection};
use mode_envoy_cluster_tests::load;
use mode_envoy_cluster_tests::origin::Origin;

const NODE: &str = env!("CARGO_BIN_EXE_mode-envoy-under-test");

const SHOP: &str = r"
tenants: [{name: acme}]
consumers: [{name: mobile-app, tenant: acme}]
providers: [{name: local, protocol: embedded}]
models:
  - {name: fast, targets: [{provider: local, model: echo}]}
  - {name: big, targets: [{provider: local, model: echo-large}]}
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_fails_because_of_a_change_that_does_not_concern_it() -> Result<()> {
    let cluster = Cluster::start(NODE, 3).await?;
    cluster.apply(SHOP).await?;
    let key = cluster.key("acme", "mobile-app", "first").await?;
    let gateways: Vec<String> = cluster
        .nodes()
        .iter()
        .map(|node| node.gateway().to_owned())
        .collect();

    // Connections that were open before the changes serve after them.
    let mut kept = Vec::new();
    for gateway in &gateways {
        kept.push(Connection::open(gateway).await?);
    }
    let calls = load::paced(100, Duration::from_secs(4), |number| {
        let (gateway, key) = (gateways[number % gateways.len()].clone(), key.clone());
        Some(async move {
            let body = http::chat("fast", &format!("call {number}"));
            http::post(&gateway, CHAT, &key, &body)
                .await?
                .expect(200)
                .map(drop)
        })
    });
    let changes = async {
        for round in 0..20 {
            let document = format!(
                "tenants: [{{name: t{round}}}]\nmodels: [{{name: big, targets: [{{provider: local, model: echo-{round}}}]}}]"
            );
            cluster
                .node(1 + round % 3)
                .run(&["apply", "-f", "-"], &document)
                .await?
                .ok()?;
        }
        anyhow::Ok(())
    };
    let (calls, changes) = tokio::join!(calls, changes);
    changes?;
    for call in calls? {
        call?;
    }
    for connection in &mut kept {
        let request = http::json_request(CHAT, &key, &http::chat("fast", "still here"))?;
        connection.send(request).await?.expect(200)?;
    }
    cluster.finish().await
}

#[tokio::test]
async fn what_was_applied_with_wait_is_in_force_on_every_gateway() -> Result<()> {
    let cluster = Cluster::start(NODE, 3).await?;
    let origin = Origin::start("one").await?;
    cluster.apply(SHOP).await?;
    let key = cluster.key("acme", "mobile-app", "first").await?;

    // Ten changes, each in force everywhere as soon as `apply --wait` has answered.
    for round in 0..10 {
        let document = format!(
            "services: [{{name: s{round}, endpoints: [{{url: \"{}\"}}]}}]\nroutes: [{{name: r{round}, tenant: acme, \
             service: s{round}, auth: [key], match: {{paths: [/round/{round}]}}}}]\n",
            origin.url()
        );
        let node = cluster.node(1 + round % 3);
        node.run(&["apply", "-f", "-", "--wait"], &document)
            .await?
            .ok()?;
        for other in cluster.nodes() {
            let path = format!("/round/{round}");
            http::get(other.gateway(), &path, Some(&key))
                .await?
                .expect(200)?;
        }
    }

    keys_come_and_go(&cluster, &key).await?;
    cluster.finish().await
}

// === phases ===

async fn keys_come_and_go(cluster: &Cluster, key: &str) -> Result<()> {
    // A new secret works everywhere, and the old one for as long as was asked for.
    let new = secret(&cluster.node(3).ok("keys rotate first -o json").await?)?;
    for node in cluster.nodes() {
        node.wait_key(&new, 200).await?;
        node.wait_key(key, 200).await?;
    }

    // A revoked key is refused everywhere, on AI paths and routes, with both its secrets.
    cluster.node(2).ok("keys revoke first").await?;
    for node in cluster.nodes() {
        let refused = node.wait_key(&new, 401).await?;
        ensure!(
            refused.header("x-mode-envoy-error") == "unauthenticated",
            "{refused:?}"
        );
        let body = http::chat("fast", "hello");
        http::post(node.gateway(), CHAT, &new, &body)
            .await?
            .expect(401)?;
        for secret in [&new, key] {
            http::get(node.gateway(), "/round/1", Some(secret))
                .await?
                .expect(401)?;
        }
    }
    let listed = cluster.node(1).ok("keys list").await?;
    ensure!(
        !listed.contains("first"),
        "a revoked key is listed: {listed}"
    );

    // One that expires is refused from that moment on.
    let line = "keys create --tenant acme --consumer mobile-app --expires 5s -o json";
    let short = secret(&cluster.node(1).ok(line).await?)?;
    for status in [200, 401] {
        cluster.node(3).wait_key(&short, status).await?;
    }
    Ok(())
}

fn secret(printed: &str) -> Result<String> {
    let made: serde_json::Value = serde_json::from_str(printed)?;
    Ok(made["secret"]
        .as_str()
        .with_context(|| format!("no secret in {made}"))?
        .to_owned())
}
