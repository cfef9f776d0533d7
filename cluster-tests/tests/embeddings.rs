//! Embeddings through every node: the same vectors everywhere, and usage that has input only.

use anyhow::{Result, ensure};
use mode_envoy_cluster_tests::cluster::Cluster;
use mode_envoy_cluster_tests::http;
use mode_envoy_cluster_tests::usage;
use serde_json::{Value, json};

const NODE: &str = env!("CARGO_BIN_EXE_mode-envoy-under-test");
const EMBEDDINGS: &str = "/v1/embeddings";

#[tokio::test]
async fn every_node_embeds_alike_and_the_calls_are_counted_and_priced() -> Result<()> {
    let cluster = Cluster::start(NODE, 3).await?;
    cluster
        .apply(
            r#"
tenants: [{name: acme}, {name: beta}]
consumers: [{name: app, tenant: acme}, {name: app, tenant: beta}]
providers: [{name: local, protocol: embedded}]
models: [{name: vectors, targets: [{provider: local, model: echo}], price: {input: "1", output: "100"}, access: [acme]}]
"#,
        )
        .await?;
    let key = cluster.key("acme", "app", "first").await?;
    let other = cluster.key("beta", "app", "second").await?;
    let asked = json!({"model": "vectors", "input": ["four and four bytes", "naïve"]});
    let mut first = Value::Null;
    for node in cluster.nodes() {
        let answer = http::post(node.gateway(), EMBEDDINGS, &key, &asked)
            .await?
            .expect(200)?;
        ensure!(
            answer.header("x-mode-envoy-provider") == "local",
            "{answer:?}"
        );
        let body = answer.json()?;
        ensure!(
            body["usage"] == json!({"prompt_tokens": 7, "total_tokens": 7}),
            "{body}"
        );
        if first.is_null() {
            first = body["data"].clone();
        }
        ensure!(body["data"] == first, "node {} embeds otherwise", node.id());

        let refused = http::post(node.gateway(), EMBEDDINGS, &other, &asked)
            .await?
            .expect(404)?;
        ensure!(
            refused.json()?["error"]["code"] == "model_not_found",
            "{refused:?}"
        );
        let empty = json!({"model": "vectors", "input": ""});
        let refused = http::post(node.gateway(), EMBEDDINGS, &key, &empty)
            .await?
            .expect(400)?;
        ensure!(refused.json()?["error"]["param"] == "input", "{refused:?}");
    }
    let question = [
        "--filter",
        "route=openai.embeddings",
        "--filter",
        "model=vectors",
        "--linearizable",
    ];
    let row = usage::row(&cluster.node(2).usage(&question).await?)?;
    ensure!(
        (row.calls, row.errors, row.estimated_calls) == (3, 0, 0),
        "{row:?}"
    );
    ensure!((row.input_tokens, row.output_tokens) == (21, 0), "{row:?}");
    ensure!(row.nano_usd()? == 21_000, "{row:?}");
    cluster.finish().await
}
