//! What clients of any node see: routes to services, chat through providers, and errors they can read.

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::{Request, header};
use http_body_util::Full;
use mode_envoy_cluster_tests::cluster::{Cluster, Node};
use mode_envoy_cluster_tests::http::{self as client, Answer, CHAT, Connection};
use mode_envoy_cluster_tests::origin::Origin;
use mode_envoy_cluster_tests::upstream::{Fault, PROVIDER_KEY, Upstream};
use serde_json::{Value, json};

const NODE: &str = env!("CARGO_BIN_EXE_mode-envoy-under-test");

#[tokio::test]
async fn http_calls_reach_their_service_without_the_clients_credential() -> Result<()> {
    let cluster = Cluster::start(NODE, 3).await?;
    let (one, two) = (Origin::start("one").await?, Origin::start("two").await?);
    cluster.apply(&shop(&one.url(), &two.url())).await?;
    let key = cluster.key("acme", "mobile-app", "first").await?;
    let other = cluster.key("beta", "batch-jobs", "night").await?;
    for node in cluster.nodes() {
        a_call_arrives_clean(node, &key).await?;
        every_endpoint_gets_its_turn(node, &key).await?;
        a_key_may_come_in_any_place(node, &key).await?;
        refusals_of_routes_are_problems(node, &key, &other).await?;
        a_connection_serves_many_calls(node, &key).await?;
    }
    cluster.finish().await
}

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
    ensure!(seen.iter().all(|seen| seen.model != "remote"), "the public name reached the upstream");
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
    let answer = ask(node, &key, &client::chat("remote", "slow down")).await?.expect(429)?;
    ensure!(answer.header("x-mode-envoy-error").is_empty(), "the provider's own refusal passes through");
    ensure!(answer.json()?["error"]["message"] == "this fault was scripted", "{}", answer.text());

    upstream.fault("up-remote", Fault::Cut);
    let answer = ask(node, &key, &client::chat("remote", "cut before its end")).await?;
    refused(&answer, 502, "upstream_failed")?;
    // A stream that has begun cannot become an error answer: it must not look complete.
    let answer = ask(node, &key, &client::chat_stream("remote", "cut in the middle")).await;
    let complete = answer.is_ok_and(|answer| answer.status == 200 && answer.events().is_ok());
    ensure!(!complete, "a stream that was cut looks complete");

    let gone = ask(node, &key, &client::chat("nowhere", "nobody listens")).await?;
    refused(&gone, 502, "upstream_failed")?;
    ensure!(!gone.text().contains("127.0.0.1"), "the upstream's address is told: {}", gone.text());
    upstream.check()?;
    cluster.finish().await
}

// === phases: routes ===

async fn a_call_arrives_clean(node: &Node, key: &str) -> Result<()> {
    let request = Request::post("/orders/17?page=2&sort=up")
        .header(header::HOST, "api.acme.test")
        .header(header::AUTHORIZATION, format!("Bearer {key}"))
        .header("x-request-id", "order-17")
        .header("x-mode-envoy-tenant", "forged")
        .header("x-custom", "kept")
        .body(Full::from("a body"))?;
    let answer = client::send(node.gateway(), request).await?.expect(200)?;
    ensure!(answer.header("x-request-id") == "order-17", "{answer:?}");
    ensure!(answer.header("x-mode-envoy-secret").is_empty(), "an upstream spoke in our name: {answer:?}");
    let echo = answer.json()?;
    ensure!(echo["method"] == "POST" && echo["body"] == "a body", "{echo}");
    ensure!(echo["path"] == "/17?page=2&sort=up", "the prefix was to be stripped: {echo}");
    let headers = &echo["headers"];
    ensure!(headers["x-custom"] == "kept", "{echo}");
    ensure!(headers["x-forwarded-host"] == "api.acme.test", "{echo}");
    ensure!(headers["x-forwarded-for"].as_str().is_some_and(|ip| ip.starts_with("127.")), "{echo}");
    ensure!(headers["x-request-id"] == "order-17", "{echo}");
    ensure!(headers["authorization"].is_null(), "the credential reached the upstream: {echo}");
    ensure!(headers["x-mode-envoy-tenant"].is_null(), "a header of ours reached the upstream: {echo}");
    Ok(())
}

async fn every_endpoint_gets_its_turn(node: &Node, key: &str) -> Result<()> {
    let mut turns = [0, 0];
    for _ in 0..8 {
        let origin = client::get(node.gateway(), "/both", Some(key)).await?.expect(200)?.json()?;
        turns[usize::from(origin["origin"] == "two")] += 1;
    }
    ensure!(turns == [4, 4], "node {}: the endpoints took {turns:?} of 8 calls", node.id());
    // An endpoint that nobody listens at is passed over.
    for _ in 0..4 {
        client::get(node.gateway(), "/half", Some(key)).await?.expect(200)?;
    }
    Ok(())
}

async fn a_key_may_come_in_any_place(node: &Node, key: &str) -> Result<()> {
    for name in ["x-api-key", "x-goog-api-key", "api-key", "apikey"] {
        let request = Request::get("/both").header(name, key).body(Full::default())?;
        let echo = client::send(node.gateway(), request).await?.expect(200)?.json()?;
        ensure!(echo["headers"][name].is_null(), "the credential reached the upstream: {echo}");
    }
    let path = format!("/both?a=1&key={key}&b=2");
    let echo = client::get(node.gateway(), &path, None).await?.expect(200)?.json()?;
    ensure!(echo["path"] == "/both?a=1&b=2", "the credential reached the upstream: {echo}");
    client::get(node.gateway(), "/open", None).await?.expect(200)?;
    Ok(())
}

async fn refusals_of_routes_are_problems(node: &Node, key: &str, other: &str) -> Result<()> {
    let post = Request::delete("/orders/17").header(header::HOST, "api.acme.test");
    let post = post.header(header::AUTHORIZATION, format!("Bearer {key}")).body(Full::default())?;
    let wrong_method = client::send(node.gateway(), post).await?;
    ensure!(wrong_method.header("allow").contains("GET"), "{wrong_method:?}");
    let both = Request::get("/both").header("x-api-key", key).header("apikey", other);
    let both = client::send(node.gateway(), both.body(Full::default())?).await?;
    let long = Request::get("/both").header("x-long", "x".repeat(64 << 10)).body(Full::default())?;
    let long = client::send(node.gateway(), long).await?;
    for (answer, status, code) in [
        (client::get(node.gateway(), "/both", None).await?, 401, "unauthenticated"),
        (client::get(node.gateway(), "/both", Some("me-nobody")).await?, 401, "unauthenticated"),
        (client::get(node.gateway(), "/both", Some(other)).await?, 403, "forbidden"),
        (client::get(node.gateway(), "/nothing", Some(key)).await?, 404, "not_found"),
        (client::get(node.gateway(), "/orders/17", Some(key)).await?, 404, "not_found"),
        (client::get(node.gateway(), "/dead", Some(key)).await?, 502, "upstream_failed"),
        (wrong_method, 405, "request_invalid"),
        (both, 401, "unauthenticated"),
        (long, 431, "header_too_large"),
    ] {
        let answer = answer.expect(status)?;
        ensure!(answer.header("x-mode-envoy-error") == code, "expected {code}: {answer:?}");
        ensure!(!answer.header("x-request-id").is_empty() || status == 431, "no id: {answer:?}");
        if status != 431 {
            let problem = answer.json()?;
            ensure!(answer.header("content-type") == "application/problem+json", "{answer:?}");
            ensure!(problem["status"] == status && problem["detail"].is_string(), "{problem}");
        }
    }
    Ok(())
}

async fn a_connection_serves_many_calls(node: &Node, key: &str) -> Result<()> {
    let mut connection = Connection::open(node.gateway()).await?;
    for number in 0..20 {
        let path = if number % 5 == 4 { "/nothing" } else { "/both" };
        let request = Request::get(path).header("apikey", key).body(Full::<Bytes>::default())?;
        let status = connection.send(request).await?.status;
        ensure!(status == if path == "/both" { 200 } else { 404 }, "call {number}: {status}");
    }
    ensure!(connection.is_open(), "an error of one call closed the connection");
    Ok(())
}

// === phases: chat ===

async fn a_plain_answer_tells_usage_and_who_served_it(node: &Node, key: &str, model: &str) -> Result<()> {
    let text = format!("plain {model} through node {}", node.id());
    let answer = ask(node, key, &client::chat(model, &text)).await?.expect(200)?;
    let provider = if model == "fast" { "local" } else { "up" };
    ensure!(answer.header("x-mode-envoy-model") == model, "{answer:?}");
    ensure!(answer.header("x-mode-envoy-provider") == provider, "{answer:?}");
    ensure!(!answer.header("x-mode-envoy-cost-usd").is_empty(), "no cost: {answer:?}");
    ensure!(!answer.header("x-request-id").is_empty(), "no id: {answer:?}");
    let body = answer.json()?;
    ensure!(body["object"] == "chat.completion", "{body}");
    let said = body.pointer("/choices/0/message/content").and_then(Value::as_str);
    ensure!(said.is_some_and(|said| said.contains(&text)), "{body}");
    check_usage(&body["usage"])
}

async fn a_stream_tells_usage_only_if_asked(node: &Node, key: &str, model: &str) -> Result<()> {
    let text = format!("stream {model} through node {}", node.id());
    let asked = ask(node, key, &client::chat_stream(model, &text)).await?.expect(200)?;
    ensure!(asked.header("content-type").starts_with("text/event-stream"), "{asked:?}");
    let events = asked.events()?;
    ensure!(said_in(&events).contains(&text), "{events:?}");
    let last = events.last().context("an event")?;
    ensure!(last["choices"] == json!([]), "the last event is not the one with usage: {last}");
    check_usage(&last["usage"])?;

    let mut body = client::chat(model, &format!("{text}, without usage"));
    body["stream"] = json!(true);
    let events = ask(node, key, &body).await?.expect(200)?.events()?;
    ensure!(said_in(&events).contains(&text), "{events:?}");
    for event in &events {
        ensure!(!event["usage"].is_object(), "usage that was not asked for: {event}");
        ensure!(event["choices"] != json!([]), "an event without choices: {event}");
    }
    Ok(())
}

async fn a_stream_is_relayed_as_it_comes(node: &Node, key: &str, upstream: &Upstream) -> Result<()> {
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
    let list = client::get(node.gateway(), "/v1/models", Some(key)).await?.expect(200)?.json()?;
    let data = list["data"].as_array().context("a list")?;
    let ids: Vec<_> = data.iter().filter_map(|model| model["id"].as_str()).collect();
    ensure!(ids.contains(&"fast") && ids.contains(&"remote") && !ids.contains(&"secret"), "{list}");
    let one = client::get(node.gateway(), "/v1/models/fast", Some(key)).await?.expect(200)?.json()?;
    ensure!(one["id"] == "fast" && one["object"] == "model", "{one}");
    client::get(node.gateway(), "/v1/models/secret", Some(key)).await?.expect(404)?;
    Ok(())
}

async fn what_cannot_be_understood_is_refused(node: &Node, key: &str, other: &str) -> Result<()> {
    let hello = |model| client::chat(model, "hello");
    let unknown = ask(node, key, &hello("no-such-model")).await?;
    ensure!(unknown.json()?["error"]["code"] == "model_not_found", "{}", unknown.text());
    refused(&unknown, 404, "not_found")?;
    // A model that the key may not use is not told from one that does not exist.
    refused(&ask(node, key, &hello("secret")).await?, 404, "not_found")?;
    ask(node, other, &hello("secret")).await?.expect(200)?;
    refused(&ask(node, "me-nobody", &hello("fast")).await?, 401, "unauthenticated")?;
    for (body, param) in [
        (json!({"model": "fast"}), "messages"),
        (json!({"messages": []}), "model"),
        (json!({"model": "fast", "messages": [], "stream": "yes"}), "stream"),
    ] {
        let answer = ask(node, key, &body).await?;
        refused(&answer, 400, "request_invalid")?;
        ensure!(answer.json()?["error"]["param"] == param, "{}", answer.text());
    }
    let broken = Request::post(CHAT)
        .header(header::AUTHORIZATION, format!("Bearer {key}"))
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::from("{\"model\": "))?;
    refused(&client::send(node.gateway(), broken).await?, 400, "request_invalid")
}

// === helpers ===

async fn ask(node: &Node, key: &str, body: &Value) -> Result<Answer> {
    client::post(node.gateway(), CHAT, key, body).await
}

fn refused(answer: &Answer, status: u16, code: &str) -> Result<()> {
    let answer = answer.clone().expect(status)?;
    ensure!(answer.header("x-mode-envoy-error") == code, "expected {code}: {answer:?}");
    let error = &answer.json()?["error"];
    ensure!(error["message"].as_str().is_some_and(|text| !text.is_empty()), "{error}");
    for field in ["type", "param", "code"] {
        ensure!(error.get(field).is_some(), "{field} is missing in {error}");
    }
    Ok(())
}

fn check_usage(usage: &Value) -> Result<()> {
    let count = |field: &str| usage[field].as_u64().with_context(|| format!("no {field} in {usage}"));
    let (input, output) = (count("prompt_tokens")?, count("completion_tokens")?);
    ensure!(input > 0 && output > 0 && count("total_tokens")? == input + output, "{usage}");
    Ok(())
}

fn said_in(events: &[Value]) -> String {
    let pieces = events.iter().filter_map(|event| event.pointer("/choices/0/delta/content"));
    pieces.filter_map(Value::as_str).collect()
}

fn shop(one: &str, two: &str) -> String {
    format!(
        r#"
tenants: [{{name: acme}}, {{name: beta}}]
consumers:
  - {{name: mobile-app, tenant: acme}}
  - {{name: batch-jobs, tenant: beta}}
services:
  - {{name: orders, endpoints: [{{url: "{one}"}}]}}
  - {{name: both, endpoints: [{{url: "{one}"}}, {{url: "{two}"}}]}}
  - {{name: half, endpoints: [{{url: "{one}"}}, {{url: "http://127.0.0.1:9"}}]}}
  - {{name: dead, endpoints: [{{url: "http://127.0.0.1:9"}}]}}
routes:
  - name: orders
    tenant: acme
    service: orders
    match: {{hosts: [api.acme.test], paths: ["/orders/{{*rest}}"], methods: [GET, POST]}}
    auth: [key]
    strip_prefix: /orders
  - {{name: both, tenant: acme, service: both, match: {{paths: [/both]}}, auth: [key]}}
  - {{name: half, tenant: acme, service: half, match: {{paths: [/half]}}, auth: [key]}}
  - {{name: dead, tenant: acme, service: dead, match: {{paths: [/dead]}}, auth: [key]}}
  - {{name: open, tenant: acme, service: both, match: {{paths: [/open]}}, auth: [none]}}
"#
    )
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
