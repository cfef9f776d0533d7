//! Chat through any node: plain and streamed, by the embedded provider and by an OpenAI-compatible one, and errors in the
//! client's dialect.

use anyhow::{Context, Result, ensure};
use http::{Request, header};
use http_body_util::Full;
use mode_envoy_cluster_tests::cluster::{Cluster, Node};
use mode_envoy_cluster_tests::http::{self as client, Answer, CHAT};
use mode_envoy_cluster_tests::upstream::{Fault, PROVIDER_KEY, Upstream};
use serde_json::{Value, json};

const NODE: &str = env!("CARGO_BIN_EXE_mode-envoy-under-test");

#[tokio::test]
async fn chat_is_served_plain_and_streamed_through_every_node() -> Result<()> {
    let cluster = Cluster::start(NODE, 3).await?;
    let upstream = Upstream::start().await?;
    cluster.apply(&models(&upstream)).await?;
    let key = cluster.key("acme", "mobile-app", "first").await?;
    for node in cluster.nodes() {
        for model in ["fast", "remote"] {
            a_plain_answer_tells_usage_and_who_served_it(node, &key, model).await?;
            a_stream_tells_usage_only_if_asked(node, &key, model).await?;
        }
        a_stream_is_relayed_as_it_comes(node, &key, &upstream).await?;
        models_are_listed_for_whom_may_call_them(node, &key).await?;
    }
    upstream.check()?;
    let seen = upstream.seen();
    ensure!(
        seen.iter().all(|seen| seen.model != "remote"),
        "the public name reached the upstream"
    );
    cluster.finish().await
}

#[tokio::test]
async fn errors_of_ai_calls_are_in_the_clients_dialect() -> Result<()> {
    let cluster = Cluster::start(NODE, 1).await?;
    let upstream = Upstream::start().await?;
    cluster.apply(&models(&upstream)).await?;
    let key = cluster.key("acme", "mobile-app", "first").await?;
    let other = cluster.key("beta", "batch-jobs", "night").await?;
    let node = cluster.node(1);
    what_cannot_be_understood_is_refused(node, &key, &other).await?;

    upstream.fault("up-remote", Fault::Status(401));
    let answer = ask(node, &key, &client::chat("remote", "our key is refused")).await?;
    refused(&answer, 502, "upstream_failed")?;

    upstream.fault("up-remote", Fault::Status(429));
    let answer = ask(node, &key, &client::chat("remote", "slow down"))
        .await?
        .expect(429)?;
    ensure!(
        answer.header("x-mode-envoy-error").is_empty(),
        "the provider's own refusal passes through"
    );
    ensure!(
        answer.json()?["error"]["message"] == "this fault was scripted",
        "{}",
        answer.text()
    );

    upstream.fault("up-remote", Fault::Cut);
    let answer = ask(node, &key, &client::chat("remote", "cut before its end")).await?;
    refused(&answer, 502, "upstream_failed")?;
    // A stream that has begun cannot become an error answer: it must not look complete.
    let answer = ask(
        node,
        &key,
        &client::chat_stream("remote", "cut in the middle"),
    )
    .await;
    let complete = answer.is_ok_and(|answer| answer.status == 200 && answer.events().is_ok());
    ensure!(!complete, "a stream that was cut looks complete");

    let gone = ask(node, &key, &client::chat("nowhere", "nobody listens")).await?;
    refused(&gone, 502, "upstream_failed")?;
    ensure!(
        !gone.text().contains("127.0.0.1"),
        "the upstream's address is told: {}",
        gone.text()
    );
    upstream.check()?;
    cluster.finish().await
}

// === phases ===

async fn a_plain_answer_tells_usage_and_who_served_it(
    node: &Node,
    key: &str,
    model: &str,
) -> Result<()> {
    let text = format!("plain {model} through node {}", node.id());
    let answer = ask(node, key, &client::chat(model, &text))
        .await?
        .expect(200)?;
    let provider = if model == "fast" { "local" } else { "up" };
    ensure!(answer.header("x-mode-envoy-model") == model, "{answer:?}");
    ensure!(
        answer.header("x-mode-envoy-provider") == provider,
        "{answer:?}"
    );
    ensure!(
        !answer.header("x-mode-envoy-cost-usd").is_empty(),
        "no cost: {answer:?}"
    );
    ensure!(
        !answer.header("x-request-id").is_empty(),
        "no id: {answer:?}"
    );
    let body = answer.json()?;
    ensure!(body["object"] == "chat.completion", "{body}");
    let said = body
        .pointer("/choices/0/message/content")
        .and_then(Value::as_str);
    ensure!(said.is_some_and(|said| said.contains(&text)), "{body}");
    check_usage(&body["usage"])
}

async fn a_stream_tells_usage_only_if_asked(node: &Node, key: &str, model: &str) -> Result<()> {
    let text = format!("stream {model} through node {}", node.id());
    let asked = ask(node, key, &client::chat_stream(model, &text))
        .await?
        .expect(200)?;
    ensure!(
        asked
            .header("content-type")
            .starts_with("text/event-stream"),
        "{asked:?}"
    );
    let events = asked.events()?;
    ensure!(said_in(&events).contains(&text), "{events:?}");
    let last = events.last().context("an event")?;
    ensure!(
        last["choices"] == json!([]),
        "the last event is not the one with usage: {last}"
    );
    check_usage(&last["usage"])?;

    let mut body = client::chat(model, &format!("{text}, without usage"));
    body["stream"] = json!(true);
    let events = ask(node, key, &body).await?.expect(200)?.events()?;
    ensure!(said_in(&events).contains(&text), "{events:?}");
    for event in &events {
        ensure!(
            !event["usage"].is_object(),
            "usage that was not asked for: {event}"
        );
        ensure!(
            event["choices"] != json!([]),
            "an event without choices: {event}"
        );
    }
    Ok(())
}

async fn a_stream_is_relayed_as_it_comes(
    node: &Node,
    key: &str,
    upstream: &Upstream,
) -> Result<()> {
    let model = format!("held{}", node.id());
    upstream.fault(&format!("up-{model}"), Fault::Held);
    let body = client::chat_stream(&model, "piece by piece");
    let request = client::json_request(CHAT, key, &body)?;
    // The provider writes no further before it is released, so what comes now was not held back.
    let mut stream = client::open(node.gateway(), request).await?;
    stream.until("you ").await?;
    if node.id() == 3 {
        upstream.release();
        stream.until("[DONE]").await?;
    }
    Ok(())
}

async fn models_are_listed_for_whom_may_call_them(node: &Node, key: &str) -> Result<()> {
    let list = client::get(node.gateway(), "/v1/models", Some(key))
        .await?
        .expect(200)?
        .json()?;
    let data = list["data"].as_array().context("a list")?;
    let ids: Vec<_> = data
        .iter()
        .filter_map(|model| model["id"].as_str())
        .collect();
    ensure!(
        ids.contains(&"fast") && ids.contains(&"remote") && !ids.contains(&"secret"),
        "{list}"
    );
    let one = client::get(node.gateway(), "/v1/models/fast", Some(key))
        .await?
        .expect(200)?
        .json()?;
    ensure!(one["id"] == "fast" && one["object"] == "model", "{one}");
    client::get(node.gateway(), "/v1/models/secret", Some(key))
        .await?
        .expect(404)?;
    Ok(())
}

async fn what_cannot_be_understood_is_refused(node: &Node, key: &str, other: &str) -> Result<()> {
    let hello = |model| client::chat(model, "hello");
    let unknown = ask(node, key, &hello("no-such-model")).await?;
    ensure!(
        unknown.json()?["error"]["code"] == "model_not_found",
        "{}",
        unknown.text()
    );
    refused(&unknown, 404, "not_found")?;
    // A model that the key may not use is not told from one that does not exist.
    refused(&ask(node, key, &hello("secret")).await?, 404, "not_found")?;
    ask(node, other, &hello("secret")).await?.expect(200)?;
    refused(
        &ask(node, "me-nobody", &hello("fast")).await?,
        401,
        "unauthenticated",
    )?;
    for (body, param) in [
        (json!({"model": "fast"}), "messages"),
        (json!({"model": "fast", "messages": []}), "messages"),
        (
            json!({"messages": [{"role": "user", "content": "hello"}]}),
            "model",
        ),
        (
            json!({"model": "fast", "messages": [{"role": "user", "content": "hi"}], "stream": "yes"}),
            "stream",
        ),
    ] {
        let answer = ask(node, key, &body).await?;
        refused(&answer, 400, "request_invalid")?;
        ensure!(
            answer.json()?["error"]["param"] == param,
            "{}",
            answer.text()
        );
    }
    let broken = Request::post(CHAT)
        .header(header::AUTHORIZATION, format!("Bearer {key}"))
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::from("{\"model\": "))?;
    refused(
        &client::send(node.gateway(), broken).await?,
        400,
        "request_invalid",
    )
}

// === helpers ===

async fn ask(node: &Node, key: &str, body: &Value) -> Result<Answer> {
    client::post(node.gateway(), CHAT, key, body).await
}

fn refused(answer: &Answer, status: u16, code: &str) -> Result<()> {
    let answer = answer.clone().expect(status)?;
    ensure!(
        answer.header("x-mode-envoy-error") == code,
        "expected {code}: {answer:?}"
    );
    let error = &answer.json()?["error"];
    ensure!(
        error["message"]
            .as_str()
            .is_some_and(|text| !text.is_empty()),
        "{error}"
    );
    for field in ["type", "param", "code"] {
        ensure!(error.get(field).is_some(), "{field} is missing in {error}");
    }
    Ok(())
}

fn check_usage(usage: &Value) -> Result<()> {
    let count = |field: &str| {
        usage[field]
            .as_u64()
            .with_context(|| format!("no {field} in {usage}"))
    };
    let (input, output) = (count("prompt_tokens")?, count("completion_tokens")?);
    ensure!(
        input > 0 && output > 0 && count("total_tokens")? == input + output,
        "{usage}"
    );
    Ok(())
}

fn said_in(events: &[Value]) -> String {
    let pieces = events
        .iter()
        .filter_map(|event| event.pointer("/choices/0/delta/content"));
    pieces.filter_map(Value::as_str).collect()
}

fn models(upstream: &Upstream) -> String {
    let url = upstream.base_url();
    format!(
        r#"
tenants: [{{name: acme}}, {{name: beta}}]
consumers:
  - {{name: mobile-app, tenant: acme}}
  - {{name: batch-jobs, tenant: beta}}
providers:
  - {{name: local, protocol: embedded}}
  - {{name: up, protocol: openai, base_url: "{url}", keys: [{{value: {PROVIDER_KEY}}}]}}
  - {{name: gone, protocol: openai, base_url: "http://127.0.0.1:9/v1", keys: [{{value: {PROVIDER_KEY}}}]}}
models:
  - {{name: fast, targets: [{{provider: local, model: echo}}], price: {{input: "0.15", output: "0.60"}}}}
  - {{name: remote, targets: [{{provider: up, model: up-remote}}], price: {{input: "1", output: "2"}}}}
  - {{name: held1, targets: [{{provider: up, model: up-held1}}]}}
  - {{name: held2, targets: [{{provider: up, model: up-held2}}]}}
  - {{name: held3, targets: [{{provider: up, model: up-held3}}]}}
  - {{name: nowhere, targets: [{{provider: gone, model: x}}]}}
  - {{name: secret, targets: [{{provider: local, model: echo}}], access: [beta]}}
"#
    )
}
