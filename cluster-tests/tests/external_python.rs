//! Clients that are not ours: the official OpenAI client, and gRPC with nothing but reflection.
//!
//! They need a virtual environment with `external/requirements.txt`, by default in `target/external-venv`;
//! `MODE_ENVOY_EXTERNAL_VENV` names another. A tool that is missing is a failure, never a pass.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mode_envoy_cluster_tests::cluster::Cluster;
use mode_envoy_cluster_tests::upstream::{PROVIDER_KEY, Upstream};
use tokio::process::Command;

const NODE: &str = env!("CARGO_BIN_EXE_mode-envoy-under-test");
const WITHIN: Duration = Duration::from_mins(2);

#[tokio::test]
async fn the_openai_client_lists_chats_and_streams_through_each_node() -> Result<()> {
    let cluster = Cluster::start(NODE, 3).await?;
    let upstream = Upstream::start().await?;
    let document = format!(
        r#"
tenants: [{{name: acme}}]
consumers: [{{name: mobile-app, tenant: acme}}]
providers:
  - {{name: local, protocol: embedded}}
  - {{name: up, protocol: openai, base_url: "{}", keys: [{{value: {PROVIDER_KEY}}}]}}
models:
  - {{name: fast, targets: [{{provider: local, model: echo}}]}}
  - {{name: remote, targets: [{{provider: up, model: up-remote}}]}}
"#,
        upstream.base_url()
    );
    cluster.apply(&document).await?;
    let key = cluster.key("acme", "mobile-app", "first").await?;
    for node in cluster.nodes() {
        let base_url = format!("http://{}/v1", node.gateway());
        python("openai_client.py", &[&base_url, &key, "fast", "remote"]).await?;
    }
    upstream.check()?;
    cluster.finish().await
}

#[tokio::test]
async fn grpc_with_reflection_lists_applies_and_queries_on_each_node() -> Result<()> {
    let cluster = Cluster::start(NODE, 3).await?;
    let token = std::fs::read_to_string(cluster.node(1).launch.data_dir.join("admin.token"))?;
    for node in cluster.nodes() {
        let tenant = format!("by-node-{}", node.id());
        python(
            "admin_by_reflection.py",
            &[node.admin(), token.trim(), &tenant],
        )
        .await?;
    }
    let export = cluster.node(1).cli(&["export"]).await?.ok()?;
    for id in 1..=3 {
        ensure!(
            export.contains(&format!("by-node-{id}")),
            "what node {id} applied is not here: {export}"
        );
    }
    cluster.finish().await
}

/// Runs a script of `external/`; it says what did not hold by its exit code and standard error.
async fn python(script: &str, arguments: &[&str]) -> Result<()> {
    let crate_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    let venv = std::env::var_os("MODE_ENVOY_EXTERNAL_VENV")
        .map_or_else(|| crate_dir.join("../target/external-venv"), PathBuf::from);
    let output = Command::new(venv.join("bin/python"))
        .arg(crate_dir.join("external").join(script))
        .args(arguments)
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(WITHIN, output)
        .await
        .with_context(|| format!("{script} does not end"))?
        .with_context(|| {
            format!("running {script} with the Python of {}: make that environment from external/requirements.txt", venv.display())
        })?;
    ensure!(
        output.status.success(),
        "{script} failed: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
