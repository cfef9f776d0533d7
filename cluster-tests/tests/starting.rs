//! How a node is started: what `serve` takes, what it refuses, and what it says while it runs.

use std::net::TcpListener;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mode_envoy_cluster_tests::cluster::{Cluster, Node};
use mode_envoy_cluster_tests::{http, wait};

const NODE: &str = env!("CARGO_BIN_EXE_mode-envoy-under-test");

/// What `serve` refuses: the words, the exit code, and what it says among others.
const REFUSED: &[(&str, i32, &str)] = &[
    // Off loopback the gateway has no TLS by itself, so it must be given or waived, and others need an address to come by.
    (
        "--gateway-addr 0.0.0.0:8080 --advertise-gateway 10.0.0.1:8080",
        2,
        "--insecure gateway",
    ),
    (
        "--gateway-addr 0.0.0.0:8080 --advertise-gateway 10.0.0.1:8080",
        2,
        "--gateway-cert",
    ),
    (
        "--gateway-addr 0.0.0.0:8080 --insecure gateway",
        2,
        "--advertise-gateway",
    ),
    ("--admin-addr 10.0.0.1:7070", 2, "--cluster-secret-file"),
    (
        "--gateway-cert gw.pem",
        2,
        "--gateway-cert and --gateway-key belong together",
    ),
    (
        "--stale-after 2h --stale-deny 1h",
        2,
        "--stale-after 2h is longer than --stale-deny 1h",
    ),
    ("--insecure peer", 2, "peer"),
    ("--gateway-addr nowhere", 2, "nowhere"),
    ("--node-id 0", 2, "node-id"),
    (
        "--node-id 4 --initial-cluster 1=127.0.0.1:1,2=127.0.0.1:2",
        2,
        "4",
    ),
    (
        "--initial-cluster 1=127.0.0.1:1,one",
        2,
        "--initial-cluster",
    ),
    (
        "--cluster-secret-file /no/such/secret",
        1,
        "/no/such/secret",
    ),
    ("--config /no/such/node.toml", 2, "/no/such/node.toml"),
    ("--election-min-ms 900 --election-max-ms 100", 2, "election"),
    ("--no-such-flag", 2, "--no-such-flag"),
];

#[tokio::test]
async fn what_is_unsafe_or_senseless_is_refused_before_anything_is_written() -> Result<()> {
    let cluster = Cluster::plan(NODE, 1)?;
    let data = cluster.dir().join("untouched");
    let data = data.to_str().context("a path")?;
    let unknown = cluster.file("unknown.toml", "gateway-adr = '127.0.0.1:1'\n")?;
    let unknown = (format!("--config {unknown}"), 2, "gateway-adr");
    let known = REFUSED
        .iter()
        .map(|(line, code, told)| ((*line).to_owned(), *code, *told));
    for (line, code, told) in known.chain([unknown]) {
        let words: Vec<_> = line.split_whitespace().collect();
        let arguments = [&["serve", "--data-dir", data], &*words].concat();
        let said = cluster.program().run(&arguments, "").await?.fails(code)?;
        ensure!(
            said.contains(told),
            "{line} is refused without naming {told}: {said}"
        );
    }
    ensure!(
        !std::path::Path::new(data).join("wal").exists(),
        "a refused start left data behind"
    );
    cluster.finish().await
}

#[tokio::test]
async fn a_port_that_is_taken_is_named() -> Result<()> {
    let mut cluster = Cluster::plan(NODE, 1)?;
    let taken = cluster.node(1).gateway().to_owned();
    let listener = TcpListener::bind(&taken)?;
    cluster.start_all()?;
    let code = cluster.node_mut(1).wait_end().await?;
    ensure!(code == Some(1), "the node ended with {code:?}");
    ensure!(
        cluster.node(1).log().contains(&taken),
        "the taken address is not named: {}",
        cluster.node(1).log()
    );

    // Nothing is left in the way of the next start.
    drop(listener);
    cluster.start_all()?;
    cluster.wait_ready().await?;
    cluster.finish().await
}

#[tokio::test]
async fn a_node_alone_needs_nothing_but_a_directory() -> Result<()> {
    let mut cluster = Cluster::plan(NODE, 1)?;
    let launch = &mut cluster.node_mut(1).launch;
    launch.initial_cluster = None;
    // The secret is made on first use, for this user alone.
    launch.secret_file = None;
    cluster.start_all()?;
    cluster.wait_ready().await?;
    let secret = cluster.program().config_home().join("mode-envoy");
    let files: Vec<_> = std::fs::read_dir(&secret)?.collect::<Result<_, _>>()?;
    ensure!(!files.is_empty(), "nothing in {}", secret.display());
    for file in &files {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = file.metadata()?.permissions().mode();
        ensure!(
            mode & 0o777 == 0o600,
            "others may read {}: {mode:o}",
            file.path().display()
        );
    }
    let status = cluster.node(1).status().await?;
    ensure!(
        status["leader"] == 1 && status["nodes"][0]["id"] == 1,
        "{status}"
    );

    // It is the same node after a restart, without being told again.
    ensure!(
        cluster.node_mut(1).term().await? == Some(0),
        "the node did not end in order"
    );
    cluster.start_all()?;
    cluster.wait_ready().await?;
    let again = cluster.node(1).status().await?;
    ensure!(
        again["cluster_id"] == status["cluster_id"],
        "{status} became {again}"
    );
    cluster.finish().await
}

#[tokio::test]
async fn a_running_node_tells_its_state_without_telling_secrets() -> Result<()> {
    let cluster = Cluster::start(NODE, 1).await?;
    cluster.apply("tenants: [{name: acme}]\nconsumers: [{name: app, tenant: acme}]\nproviders: [{name: up, protocol: openai, \
                   keys: [{value: sk-do-not-tell}]}]\n").await?;
    let key = cluster.key("acme", "app", "first").await?;
    let node = cluster.node(1);
    http::get(node.gateway(), &format!("/nothing?key={key}"), None)
        .await?
        .expect(404)?;
    http::get(node.gateway(), "/v1/models", Some(&key))
        .await?
        .expect(200)?;

    let metrics = wait::until(
        "the calls to be counted",
        Duration::from_secs(10),
        async || {
            let text = http::get(node.admin(), "/metrics", None)
                .await?
                .expect(200)?
                .text();
            ensure!(
                value(&text, "mode_envoy_gateway_requests_total").is_some_and(|n| n >= 2.0),
                "{text}"
            );
            Ok(text)
        },
    )
    .await?;
    for (name, expected) in [
        ("mode_envoy_node_ready", 1.0),
        ("mode_envoy_raft_is_leader", 1.0),
    ] {
        ensure!(
            value(&metrics, name) == Some(expected),
            "{name} is not {expected}: {metrics}"
        );
    }
    for name in metrics
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
    {
        ensure!(
            name.starts_with("mode_envoy_"),
            "a metric with another prefix: {name}"
        );
    }

    let token = std::fs::read_to_string(node.launch.data_dir.join("admin.token"))?;
    let secret =
        std::fs::read_to_string(node.launch.secret_file.as_ref().context("a secret file")?)?;
    for (what, secret) in [
        ("key", key.as_str()),
        ("token", token.trim()),
        ("cluster's", secret.trim()),
        ("provider's", "sk-do-not-tell"),
    ] {
        ensure!(
            !node.log().contains(secret),
            "the log tells the {what} secret"
        );
        ensure!(
            !metrics.contains(secret),
            "the metrics tell the {what} secret"
        );
        ensure!(
            !on_disk(node, secret)?,
            "the data directory holds the {what} secret in the open"
        );
    }
    cluster.finish().await
}

// === helpers ===

/// The sum of a metric's samples.
fn value(metrics: &str, name: &str) -> Option<f64> {
    let samples = metrics.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let rest = if rest.starts_with('{') {
            rest.split_once('}')?.1
        } else {
            rest
        };
        rest.strip_prefix(' ')?.trim().parse::<f64>().ok()
    });
    samples.fold(None, |sum, sample| Some(sum.unwrap_or(0.0) + sample))
}

/// Whether any file of the node but its token's holds this text.
fn on_disk(node: &Node, text: &str) -> Result<bool> {
    let mut folders = vec![node.launch.data_dir.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.file_name().is_none_or(|name| name != "admin.token") {
                let bytes = std::fs::read(&path)?;
                if bytes
                    .windows(text.len())
                    .any(|window| window == text.as_bytes())
                {
                    return Ok(true);
                }
            }
        }
    }
    Ok(false)
}
