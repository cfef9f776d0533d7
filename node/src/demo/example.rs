//! The demo's configuration, applied through the admin API of one node and in force on all.

use std::net::SocketAddr;

use anyhow::{Context, Result};

use super::directory::Directory;
use super::nodes::Nodes;
use super::{at, say};

/// USD per million tokens, as in the document below: (model, input, output).
pub(crate) const PRICES: [(&str, &str, &str); 2] =
    [("fast", "0.15", "0.60"), ("smart", "2.50", "10")];

/// What the calls need.
pub(crate) struct Setup {
    /// A key of acme's mobile app.
    pub(crate) key: String,
    /// A key of beta's batch jobs, which may not call `smart`.
    pub(crate) other_key: String,
}

/// Applies the example and makes two keys.
pub(crate) async fn apply(nodes: &Nodes, directory: &Directory, shop: SocketAddr) -> Result<Setup> {
    let first = nodes.iter().next().context("no node was started")?;
    let last = nodes.iter().last().context("no node was started")?;
    let file = directory.path().join("example.yaml");
    std::fs::write(&file, document(shop)).with_context(|| format!("writing {}", file.display()))?;
    let file = file.to_string_lossy().into_owned();

    say(&format!(
        "\n$ mode-envoy apply -f {file} --wait --admin {}",
        first.admin_url()
    ))?;
    say(first
        .cli(&["apply", "-f", &file, "--wait"])
        .await?
        .trim_end())?;

    let key = [
        "keys",
        "create",
        "--tenant",
        "acme",
        "--consumer",
        "mobile-app",
        "--name",
        "demo",
        "-o",
        "json",
    ];
    let other = [
        "keys",
        "create",
        "--tenant",
        "beta",
        "--consumer",
        "batch-jobs",
        "--name",
        "night",
        "-o",
        "json",
    ];
    let setup = Setup {
        key: secret(&first.cli(&key).await?)?,
        other_key: secret(&last.cli(&other).await?)?,
    };
    // Changes nothing; its answer means that the keys are in force on every node too.
    first.cli(&["apply", "-f", &file, "--wait"]).await?;
    Ok(setup)
}

fn secret(printed: &str) -> Result<String> {
    let answer: serde_json::Value = serde_json::from_str(printed).context("reading a new key")?;
    Ok(at(&answer, "/secret")?
        .as_str()
        .context("the secret is not a string")?
        .to_owned())
}

fn document(shop: SocketAddr) -> String {
    let [(fast, fast_in, fast_out), (smart, smart_in, smart_out)] = PRICES;
    format!(
        r#"tenants:
  - name: acme
  - name: beta
consumers:
  - {{name: mobile-app, tenant: acme, team: retail}}
  - {{name: batch-jobs, tenant: beta}}
providers:
  - {{name: local, protocol: embedded}}
models:
  - name: {fast}
    targets: [{{provider: local, model: echo-small}}]
    price: {{input: "{fast_in}", output: "{fast_out}"}}
  - name: {smart}
    targets: [{{provider: local, model: echo-large}}]
    price: {{input: "{smart_in}", output: "{smart_out}"}}
    access: [acme]
services:
  - name: orders
    endpoints: [{{url: "http://{shop}"}}]
routes:
  - name: orders
    tenant: acme
    service: orders
    match: {{paths: ["/orders/{{*rest}}"], methods: [GET, POST]}}
    auth: [key]
    strip_prefix: /orders
"#
    )
}
