//! Embeddings: what the provider is asked, what the client sees of it, and that input alone is counted.

use serde_json::{Value, json};

use super::super::harness::{Harness, KEY, OTHER_KEY, PROVIDER_KEY, Peer, Told, run};

fn embed(key: &str, body: &Value) -> String {
    let body = body.to_string();
    format!(
        "POST /v1/embeddings HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {key}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

async fn answers(upstream: &mut Peer, headers: &str, body: &str) {
    let length = body.len();
    let head = format!("HTTP/1.1 200 OK\r\n{headers}content-length: {length}\r\n\r\n");
    upstream.send(head + body).await;
}

#[test]
fn the_embedded_provider_answers_and_input_alone_is_priced() {
    run(async {
        let harness = Harness::new();
        let mut client = harness.client();
        let asked = json!({"model": "echo", "input": ["12345678", "1234"]});
        client.send(embed(KEY, &asked)).await;
        let (head, body) = client.message().await;
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert!(head.contains("x-mode-envoy-model: echo\r\n"), "{head}");
        let cost = mode_envoy_ai::price::format_usd(3 * 150_000 / 1_000);
        assert!(
            head.contains(&format!("x-mode-envoy-cost-usd: {cost}\r\n")),
            "{head}"
        );
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(body["data"].as_array().unwrap().len(), 2);
        let (opened, close, dims) = harness.one_call();
        assert!(opened && !close.estimated());
        assert_eq!((close.input_uncached, close.output), (3, 0));
        assert_eq!(
            (&*dims.route, &*dims.upstream_model),
            ("openai.embeddings", "echo-1")
        );
    });
}

#[test]
fn chat_and_embeddings_of_one_key_and_model_are_counted_on_their_own_routes() {
    run(async {
        let harness = Harness::new();
        let mut client = harness.client();
        let chat = json!({"model": "echo", "messages": [{"role": "user", "content": "hi"}]});
        let chat = chat.to_string();
        let head = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {KEY}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            chat.len()
        );
        client.send(head + &chat).await;
        client.message().await;
        client
            .send(embed(KEY, &json!({"model": "echo", "input": "1234"})))
            .await;
        client.message().await;
        let told = harness.told();
        let routes: Vec<_> = told
            .iter()
            .filter_map(|told| match told {
                Told::Close(close) => Some(&*close.1.route),
                Told::Open => None,
            })
            .collect();
        assert_eq!(routes, ["openai.chat_completions", "openai.embeddings"]);
    });
}

#[test]
fn a_provider_is_asked_as_the_client_wrote_it() {
    run(async {
        let harness = Harness::new();
        let mut client = harness.client();
        let asked =
            json!({"model": "fast", "input": [1, 2], "encoding_format": "base64", "user": "u"});
        client.send(embed(KEY, &asked)).await;
        let (host, mut upstream) = harness.upstream().await;
        assert_eq!(host, "openai.test");
        let (head, sent) = upstream.message().await;
        assert!(
            head.starts_with("POST /v1/embeddings HTTP/1.1\r\n"),
            "{head}"
        );
        assert!(
            head.contains(&format!("authorization: Bearer {PROVIDER_KEY}\r\n")),
            "{head}"
        );
        assert!(!head.contains(KEY), "{head}");
        let sent: Value = serde_json::from_str(&sent).unwrap();
        let mut expected = asked;
        expected["model"] = json!("gpt-4o-mini");
        assert_eq!(sent, expected);
        let answer = r#"{"object":"list","data":[{"embedding":"AAAA"}],"usage":{"prompt_tokens":2,"total_tokens":2}}"#;
        answers(&mut upstream, "content-type: application/json\r\n", answer).await;
        assert_eq!(client.message().await.1, answer);
        let (_, close, _) = harness.one_call();
        assert_eq!(
            (close.input_uncached, close.output, close.estimated()),
            (2, 0, false)
        );
    });
}

#[test]
fn what_a_provider_does_not_count_is_estimated_from_the_input_however_long_the_answer_is() {
    run(async {
        for headers in [
            "content-type: application/json\r\n",
            "content-type: application/json\r\ncontent-encoding: gzip\r\n",
            "content-type: text/event-stream\r\n",
        ] {
            let harness = Harness::new();
            let mut client = harness.client();
            let asked = json!({"model": "fast", "input": "12345678"});
            client.send(embed(KEY, &asked)).await;
            let (_, mut upstream) = harness.upstream().await;
            upstream.message().await;
            let long = format!(r#"{{"data":"{}"}}"#, "x".repeat(4_000));
            answers(&mut upstream, headers, &long).await;
            assert_eq!(client.message().await.1, long);
            let (_, close, _) = harness.one_call();
            assert_eq!((close.input_uncached, close.output), (2, 0), "{headers}");
            assert!(close.estimated(), "{headers}");
        }
    });
}

#[test]
fn errors_are_in_the_dialect_and_a_model_is_there_only_for_whom_may_call_it() {
    run(async {
        let harness = Harness::new();
        let mut client = harness.client();
        for (key, body, status, code, param) in [
            (
                KEY,
                json!({"model": "echo"}),
                400,
                "request_invalid",
                json!("input"),
            ),
            (
                KEY,
                json!({"model": "echo", "input": []}),
                400,
                "request_invalid",
                json!("input"),
            ),
            (
                KEY,
                json!({"model": "private", "input": "x"}),
                404,
                "not_found",
                json!("model"),
            ),
            (
                "me-wrong",
                json!({"model": "echo", "input": "x"}),
                401,
                "unauthenticated",
                Value::Null,
            ),
        ] {
            client.send(embed(key, &body)).await;
            let (head, body) = client.message().await;
            assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
            assert!(
                head.contains(&format!("x-mode-envoy-error: {code}\r\n")),
                "{head}"
            );
            let body: Value = serde_json::from_str(&body).unwrap();
            assert_eq!(body["error"]["param"], param, "{body}");
        }
        client
            .send(embed(OTHER_KEY, &json!({"model": "private", "input": "x"})))
            .await;
        assert!(client.message().await.0.starts_with("HTTP/1.1 200 OK\r\n"));
        client
            .send("GET /v1/embeddings HTTP/1.1\r\nHost: a\r\n\r\n")
            .await;
        let (head, _) = client.message().await;
        assert!(head.contains("allow: POST\r\n"), "{head}");
        assert_eq!(harness.connects(), 0);
    });
}
