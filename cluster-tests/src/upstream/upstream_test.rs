//! The provider itself is checked, since the tests of the product trust it.

use http::Request;
use http_body_util::Full;

use super::*;
use crate::http::{self as client, Answer, CHAT};

async fn ask(upstream: &Upstream, key: &str, body: &Value) -> Result<Answer> {
    let address = upstream.server.address().to_string();
    client::post(&address, CHAT, key, body).await
}

#[tokio::test]
async fn a_plain_answer_tells_exact_usage_and_is_remembered() {
    let upstream = Upstream::start().await.unwrap();
    let answer = ask(&upstream, PROVIDER_KEY, &client::chat("m", "hello"))
        .await
        .unwrap();
    let answer = answer.expect(200).unwrap().json().unwrap();
    let seen = upstream.find("hello").unwrap();
    assert_eq!(answer["usage"]["prompt_tokens"], seen.prompt_tokens);
    assert_eq!(answer["usage"]["completion_tokens"], seen.completion_tokens);
    assert!(seen.finished && !seen.stream && seen.model == "m");
    upstream.check().unwrap();
}

#[tokio::test]
async fn a_stream_ends_with_usage_and_done() {
    let upstream = Upstream::start().await.unwrap();
    let answer = ask(&upstream, PROVIDER_KEY, &client::chat_stream("m", "hello"))
        .await
        .unwrap();
    let events = answer.expect(200).unwrap().events().unwrap();
    let seen = upstream.find("hello").unwrap();
    assert_eq!(
        events.last().unwrap()["usage"]["completion_tokens"],
        seen.completion_tokens
    );
    assert!(seen.finished && seen.stream);
}

#[tokio::test]
async fn a_held_stream_waits_for_its_release() {
    let upstream = Upstream::start().await.unwrap();
    upstream.fault("m", Fault::Held);
    let address = upstream.server.address().to_string();
    let request = client::json_request(CHAT, PROVIDER_KEY, &client::chat_stream("m", "hello"));
    let mut stream = client::open(&address, request.unwrap()).await.unwrap();
    stream.until("you ").await.unwrap();
    assert!(!upstream.find("hello").unwrap().finished);
    upstream.release();
    stream.until("[DONE]").await.unwrap();
    assert!(upstream.find("hello").unwrap().finished);
}

#[tokio::test]
async fn faults_are_faults() {
    let upstream = Upstream::start().await.unwrap();
    upstream.fault("cut", Fault::Cut);
    upstream.fault("error", Fault::Status(429));
    upstream.fault("silent", Fault::NoUsage);
    for body in [client::chat("cut", "a"), client::chat_stream("cut", "b")] {
        ask(&upstream, PROVIDER_KEY, &body).await.unwrap_err();
    }
    let answer = ask(&upstream, PROVIDER_KEY, &client::chat("error", "c"))
        .await
        .unwrap();
    assert_eq!(answer.status, 429);
    let answer = ask(&upstream, PROVIDER_KEY, &client::chat("silent", "d"))
        .await
        .unwrap();
    assert!(answer.json().unwrap()["usage"].is_null());
    assert!(
        upstream
            .seen()
            .iter()
            .all(|seen| seen.finished == (seen.label == "d"))
    );
}

#[tokio::test]
async fn whoever_breaks_a_rule_is_found_out() {
    let upstream = Upstream::start().await.unwrap();
    let address = upstream.server.address().to_string();
    let mut no_usage = client::chat("m", "a");
    no_usage["stream"] = json!(true);
    let good = || client::json_request(CHAT, PROVIDER_KEY, &client::chat("m", "b")).unwrap();
    let mut with_client_key = good();
    with_client_key
        .headers_mut()
        .insert("x-custom", "me-abc".parse().unwrap());
    let mut with_our_header = good();
    with_our_header
        .headers_mut()
        .insert("x-mode-envoy-model", "m".parse().unwrap());
    let bad: Vec<Request<Full<Bytes>>> = vec![
        client::json_request(CHAT, "me-client", &client::chat("m", "c")).unwrap(),
        client::json_request(CHAT, PROVIDER_KEY, &no_usage).unwrap(),
        client::json_request("/v1/other", PROVIDER_KEY, &client::chat("m", "d")).unwrap(),
        with_client_key,
        with_our_header,
    ];
    let count = bad.len();
    for request in bad {
        assert_eq!(client::send(&address, request).await.unwrap().status, 400);
    }
    let complaints = upstream.check().unwrap_err().to_string();
    assert_eq!(
        upstream.shared.book().complaints.len(),
        count,
        "{complaints}"
    );
    assert_eq!(upstream.seen(), []);
}
