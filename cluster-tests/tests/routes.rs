//! Plain HTTP through any node: routes to services, credentials, and errors as problems.

use anyhow::{Result, ensure};
use bytes::Bytes;
use http::{Request, header};
use http_body_util::Full;
use mode_envoy_cluster_tests::cluster::{Cluster, Node};
use mode_envoy_cluster_tests::http::{self as client, Answer, Connection};
use mode_envoy_cluster_tests::origin::Origin;

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

// === phases ===

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
    ensure!(
        answer.header("x-mode-envoy-secret").is_empty(),
        "an upstream spoke in our name: {answer:?}"
    );
    let echo = answer.json()?;
    ensure!(
        echo["method"] == "POST" && echo["body"] == "a body",
        "{echo}"
    );
    ensure!(
        echo["path"] == "/17?page=2&sort=up",
        "the prefix was to be stripped: {echo}"
    );
    let headers = &echo["headers"];
    ensure!(headers["x-custom"] == "kept", "{echo}");
    ensure!(headers["x-forwarded-host"] == "api.acme.test", "{echo}");
    ensure!(
        headers["x-forwarded-for"]
            .as_str()
            .is_some_and(|ip| ip.starts_with("127.")),
        "{echo}"
    );
    ensure!(headers["x-request-id"] == "order-17", "{echo}");
    ensure!(
        headers["authorization"].is_null(),
        "the credential reached the upstream: {echo}"
    );
    ensure!(
        headers["x-mode-envoy-tenant"].is_null(),
        "a header of ours reached the upstream: {echo}"
    );
    Ok(())
}

async fn every_endpoint_gets_its_turn(node: &Node, key: &str) -> Result<()> {
    let mut turns = [0, 0];
    for _ in 0..8 {
        let origin = client::get(node.gateway(), "/both", Some(key))
            .await?
            .expect(200)?
            .json()?;
        turns[usize::from(origin["origin"] == "two")] += 1;
    }
    ensure!(
        turns == [4, 4],
        "node {}: the endpoints took {turns:?} of 8 calls",
        node.id()
    );
    // An endpoint that nobody listens at is passed over.
    for _ in 0..4 {
        client::get(node.gateway(), "/half", Some(key))
            .await?
            .expect(200)?;
    }
    Ok(())
}

async fn a_key_may_come_in_any_place(node: &Node, key: &str) -> Result<()> {
    for name in ["x-api-key", "x-goog-api-key", "api-key", "apikey"] {
        let request = Request::get("/both")
            .header(name, key)
            .body(Full::default())?;
        let echo = client::send(node.gateway(), request)
            .await?
            .expect(200)?
            .json()?;
        ensure!(
            echo["headers"][name].is_null(),
            "the credential reached the upstream: {echo}"
        );
    }
    let path = format!("/both?a=1&key={key}&b=2");
    let echo = client::get(node.gateway(), &path, None)
        .await?
        .expect(200)?
        .json()?;
    ensure!(
        echo["path"] == "/both?a=1&b=2",
        "the credential reached the upstream: {echo}"
    );
    client::get(node.gateway(), "/open", None)
        .await?
        .expect(200)?;
    Ok(())
}

async fn refusals_of_routes_are_problems(node: &Node, key: &str, other: &str) -> Result<()> {
    let get = |path: &'static str, key| client::get(node.gateway(), path, key);
    problem(&get("/both", None).await?, 401, "unauthenticated")?;
    problem(
        &get("/both", Some("me-nobody")).await?,
        401,
        "unauthenticated",
    )?;
    problem(&get("/both", Some(other)).await?, 403, "forbidden")?;
    problem(&get("/nothing", Some(key)).await?, 404, "not_found")?;
    problem(&get("/orders/17", Some(key)).await?, 404, "not_found")?;
    problem(&get("/dead", Some(key)).await?, 502, "upstream_failed")?;

    let both = Request::get("/both")
        .header("x-api-key", key)
        .header("apikey", other);
    let both = client::send(node.gateway(), both.body(Full::default())?).await?;
    problem(&both, 401, "unauthenticated")?;
    let method = Request::delete("/orders/17").header(header::HOST, "api.acme.test");
    let method = method.header("apikey", key).body(Full::default())?;
    let method = client::send(node.gateway(), method).await?;
    problem(&method, 405, "request_invalid")?;
    ensure!(method.header("allow").contains("GET"), "{method:?}");

    // A head that is too long is refused before it is read, so the refusal is bare.
    let long = Request::get("/both").header("x-long", "x".repeat(64 << 10));
    let long = client::send(node.gateway(), long.body(Full::default())?)
        .await?
        .expect(431)?;
    ensure!(
        long.header("x-mode-envoy-error") == "header_too_large",
        "{long:?}"
    );
    Ok(())
}

fn problem(answer: &Answer, status: u16, code: &str) -> Result<()> {
    let answer = answer.clone().expect(status)?;
    ensure!(
        answer.header("x-mode-envoy-error") == code,
        "expected {code}: {answer:?}"
    );
    ensure!(
        answer.header("content-type") == "application/problem+json",
        "{answer:?}"
    );
    ensure!(
        !answer.header("x-request-id").is_empty(),
        "no id: {answer:?}"
    );
    let body = answer.json()?;
    ensure!(
        body["status"] == status && body["detail"].is_string(),
        "{body}"
    );
    Ok(())
}

async fn a_connection_serves_many_calls(node: &Node, key: &str) -> Result<()> {
    let mut connection = Connection::open(node.gateway()).await?;
    for number in 0..20 {
        let path = if number % 5 == 4 { "/nothing" } else { "/both" };
        let request = Request::get(path)
            .header("apikey", key)
            .body(Full::<Bytes>::default())?;
        let status = connection.send(request).await?.status;
        ensure!(
            status == if path == "/both" { 200 } else { 404 },
            "call {number}: {status}"
        );
    }
    ensure!(
        connection.is_open(),
        "an error of one call closed the connection"
    );
    Ok(())
}

// === helpers ===

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
