//! AI calls: what the provider is asked, what the client sees of it, what is counted.

use serde_json::{Value, json};

use super::super::harness::{Harness, KEY, OTHER_KEY, PROVIDER_KEY, Peer, run};

fn chat(body: &Value) -> String {
    let body = body.to_string();
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {KEY}\r\n\
         Content-Type: application/json\r\nAccept-Encoding: gzip\r\nOpenAI-Organization: org-client\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn ask(model: &str) -> Value {
    json!({"model": model, "messages": [{"role": "user", "content": "12345678"}]})
}

fn stream(model: &str, include_usage: bool) -> Value {
    let mut body = ask(model);
    body["stream"] = json!(true);
    if include_usage {
        body["stream_options"] = json!({"include_usage": true});
    }
    body
}

fn frame(value: &Value) -> String {
    format!("data: {value}\n\n")
}

fn delta(text: &str) -> String {
    frame(
        &json!({"id": "c", "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": null}]}),
    )
}

fn finish() -> String {
    frame(
        &json!({"id": "c", "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}),
    )
}

fn usage_frame() -> String {
    frame(
        &json!({"id": "c", "object": "chat.completion.chunk", "choices": [], "usage": {"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13}}),
    )
}

fn chunk(text: &str) -> String {
    format!("{:X}\r\n{text}\r\n", text.len())
}

const STREAM_HEAD: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";

/// A client, and the upstream that was asked for it.
async fn asked(harness: &Harness, body: &Value) -> (Peer, Peer, String, Value) {
    let mut client = harness.client();
    client.send(chat(body)).await;
    let (host, mut upstream) = harness.upstream().await;
    assert_eq!(host, "openai.test");
    let (head, body) = upstream.message().await;
    (client, upstream, head, serde_json::from_str(&body).unwrap())
}

#[test]
fn the_embedded_provider_answers_and_its_usage_and_cost_are_known() {
    run(async {
        let harness = Harness::new();
        let mut client = harness.client();
        client.send(chat(&ask("echo"))).await;
        let (head, body) = client.message().await;
        let body: Value = serde_json::from_str(&body).unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert!(head.contains("x-mode-envoy-model: echo\r\n"), "{head}");
        assert!(head.contains("x-mode-envoy-provider: local\r\n"), "{head}");
        let (input, output) = (2, body["usage"]["completion_tokens"].as_u64().unwrap());
        let nano_usd = (input * 150_000 + output * 600_000) / 1_000;
        let cost = mode_envoy_ai::price::format_usd(nano_usd);
        assert!(
            head.contains(&format!("x-mode-envoy-cost-usd: {cost}\r\n")),
            "{head}"
        );
        let (opened, close, dims) = harness.one_call();
        assert!(opened && close.priced() && !close.estimated());
        assert_eq!(
            (close.input_uncached, close.output, close.nano_usd),
            (input, output, nano_usd)
        );
        assert_eq!(
            (&*dims.route, &*dims.model),
            ("openai.chat_completions", "echo")
        );
        assert_eq!(
            (&*dims.provider, &*dims.upstream_model),
            ("local", "echo-1")
        );
        assert_eq!(close.price_version, 11);
    });
}

#[test]
fn usage_is_shown_in_a_stream_only_to_those_who_ask() {
    run(async {
        let harness = Harness::new();
        for include_usage in [false, true] {
            let mut client = harness.client();
            client.send(chat(&stream("echo", include_usage))).await;
            let answer = client.until("data: [DONE]\n\n").await;
            assert!(
                answer.contains("content-type: text/event-stream\r\n"),
                "{answer}"
            );
            assert_eq!(
                answer.contains("\"prompt_tokens\""),
                include_usage,
                "{answer}"
            );
            assert!(!answer.contains("x-mode-envoy-cost-usd"), "{answer}");
        }
    });
}

#[test]
fn the_provider_sees_its_own_key_and_model_and_nothing_of_the_client() {
    run(async {
        let harness = Harness::new();
        let (mut client, mut upstream, head, body) = asked(&harness, &stream("fast", false)).await;
        assert!(
            head.starts_with("POST /v1/chat/completions HTTP/1.1\r\nhost: openai.test\r\n"),
            "{head}"
        );
        assert!(
            head.contains(&format!("authorization: Bearer {PROVIDER_KEY}\r\n")),
            "{head}"
        );
        assert!(head.contains("accept-encoding: identity\r\n"), "{head}");
        for hidden in [KEY, "192.0.2.7", "org-client", "x-forwarded"] {
            assert!(!head.contains(hidden), "{hidden} in {head}");
        }
        assert_eq!(body["model"], "gpt-4o-mini");
        assert_eq!(body["stream_options"]["include_usage"], true);
        let whole = [
            delta("Hi"),
            finish(),
            usage_frame(),
            "data: [DONE]\n\n".to_owned(),
        ]
        .concat();
        upstream
            .send(format!("{STREAM_HEAD}{}0\r\n\r\n", chunk(&whole)))
            .await;
        let answer = client.until("0\r\n\r\n").await;
        assert!(
            answer.contains("data: [DONE]\n\n") && !answer.contains("prompt_tokens"),
            "{answer}"
        );
        let (_, close, _) = harness.one_call();
        assert!(!close.cut() && !close.estimated() && close.ttft_us().is_some());
        assert_eq!((close.input_uncached, close.output), (10, 3));
    });
}

#[test]
fn a_frame_leaves_when_it_comes_and_frames_that_come_together_leave_together() {
    run(async {
        let harness = Harness::new();
        let (mut client, mut upstream, ..) = asked(&harness, &stream("fast", true)).await;
        upstream
            .send(format!("{STREAM_HEAD}{}", chunk(&delta("one"))))
            .await;
        client.until(&chunk(&delta("one"))).await;
        upstream
            .send(format!(
                "{}{}",
                chunk(&delta("two")),
                chunk(&delta("three"))
            ))
            .await;
        client
            .until(&chunk(&[delta("two"), delta("three")].concat()))
            .await;
    });
}

#[test]
fn a_stream_that_breaks_off_ends_with_an_error_and_without_done() {
    run(async {
        let harness = Harness::new();
        let (mut client, mut upstream, ..) = asked(&harness, &stream("fast", false)).await;
        upstream
            .send(format!("{STREAM_HEAD}{}0\r\n\r\n", chunk(&delta("12345"))))
            .await;
        let answer = client.until("0\r\n\r\n").await;
        assert!(
            answer.contains("upstream_failed") && !answer.contains("[DONE]"),
            "{answer}"
        );
        let (_, close, _) = harness.one_call();
        assert!(close.cut() && close.estimated());
        assert_eq!(
            (close.status, close.input_uncached, close.output),
            (200, 2, 2)
        );
    });
}

#[test]
fn a_client_that_leaves_a_stream_is_counted_with_what_it_must_have_come_to() {
    run(async {
        let harness = Harness::new();
        let (mut client, mut upstream, ..) = asked(&harness, &stream("fast", false)).await;
        upstream
            .send(format!("{STREAM_HEAD}{}", chunk(&delta("12345"))))
            .await;
        client.until("12345").await;
        drop(client);
        assert_eq!(upstream.rest().await, "");
        let (_, close, _) = harness.one_call();
        assert!(close.cut() && close.estimated() && close.priced());
        assert_eq!((close.input_uncached, close.output), (2, 2));
    });
}

#[test]
fn a_provider_that_refuses_our_key_is_never_the_clients_fault() {
    run(async {
        let harness = Harness::new();
        for status in ["401 Unauthorized", "403 Forbidden"] {
            let (mut client, mut upstream, ..) = asked(&harness, &ask("fast")).await;
            upstream
                .send(format!(
                    "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{{}}"
                ))
                .await;
            let (head, body) = client.message().await;
            assert!(head.starts_with("HTTP/1.1 502 "), "{head}");
            assert!(
                head.contains("x-mode-envoy-error: upstream_failed\r\n"),
                "{head}"
            );
            assert!(body.contains("\"error\""), "{body}");
        }
    });
}

#[test]
fn a_providers_own_refusal_passes_through_and_costs_nothing() {
    run(async {
        let harness = Harness::new();
        let (mut client, mut upstream, ..) = asked(&harness, &ask("fast")).await;
        let error = r#"{"error":{"message":"slow down","type":"rate_limit_error","param":null,"code":"rate_limit_exceeded"}}"#;
        upstream
            .send(format!(
                "HTTP/1.1 429 Too Many Requests\r\nretry-after: 7\r\ncontent-type: application/json\r\n\
                 set-cookie: cf=1\r\nopenai-organization: org-ours\r\ncontent-length: {}\r\n\r\n{error}",
                error.len()
            ))
            .await;
        let (head, body) = client.message().await;
        assert!(
            head.starts_with("HTTP/1.1 429 ") && head.contains("retry-after: 7\r\n"),
            "{head}"
        );
        assert!(!head.contains("x-mode-envoy-error"), "{head}");
        assert!(
            !head.contains("set-cookie") && !head.contains("org-ours"),
            "{head}"
        );
        assert_eq!(body, error);
        let (_, close, _) = harness.one_call();
        assert_eq!(
            (close.status, close.input_uncached, close.output),
            (429, 0, 0)
        );
    });
}

#[test]
fn an_answer_without_usage_is_estimated_and_one_with_an_error_in_it_has_failed() {
    run(async {
        let harness = Harness::new();
        let (mut client, mut upstream, ..) = asked(&harness, &ask("fast")).await;
        let body = json!({"choices": [{"index": 0, "message": {"content": "12345"}, "finish_reason": "stop"}]}).to_string();
        upstream.send(format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n{body}")).await;
        drop(upstream);
        assert_eq!(client.message().await.1, body);
        let (_, close, _) = harness.one_call();
        assert!(close.estimated());
        assert_eq!((close.input_uncached, close.output), (2, 2));

        let (mut client, mut upstream, ..) = asked(&harness, &ask("fast")).await;
        let body = r#"{"error":{"message":"inside"}}"#;
        upstream.send(format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len())).await;
        let (head, body) = client.message().await;
        assert!(
            head.starts_with("HTTP/1.1 502 ") && body.contains("inside"),
            "{head}{body}"
        );
    });
}

#[test]
fn a_provider_that_is_too_slow_may_charge_for_the_prompt_and_one_that_is_gone_may_not() {
    run(async {
        let harness = Harness::new();
        let (mut client, _upstream, ..) = asked(&harness, &ask("fast")).await;
        let (head, _) = client.message().await;
        assert!(head.starts_with("HTTP/1.1 504 "), "{head}");
        let (_, close, _) = harness.one_call();
        assert!(close.estimated());
        assert_eq!((close.input_uncached, close.output), (2, 0));

        let harness = Harness::new();
        let (mut client, upstream, ..) = asked(&harness, &ask("fast")).await;
        drop(upstream);
        let (head, _) = client.message().await;
        assert!(head.starts_with("HTTP/1.1 502 "), "{head}");
        let (_, close, _) = harness.one_call();
        assert_eq!((close.estimated(), close.input_uncached), (false, 0));
    });
}

#[test]
fn models_are_listed_and_called_only_where_they_may_be() {
    run(async {
        let harness = Harness::new();
        for (key, models) in [
            (KEY, vec!["echo", "fast"]),
            (OTHER_KEY, vec!["echo", "fast", "private"]),
        ] {
            let mut client = harness.client();
            client
                .send(format!(
                    "GET /v1/models HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {key}\r\n\r\n"
                ))
                .await;
            let body: Value = serde_json::from_str(&client.message().await.1).unwrap();
            let listed: Vec<&str> = body["data"]
                .as_array()
                .unwrap()
                .iter()
                .map(|model| model["id"].as_str().unwrap())
                .collect();
            assert_eq!(listed, models);
            client.send(format!("GET /v1/models/private HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {key}\r\n\r\n")).await;
            let (head, _) = client.message().await;
            assert_eq!(
                head.starts_with("HTTP/1.1 200 "),
                key == OTHER_KEY,
                "{head}"
            );
        }
        let mut client = harness.client();
        client.send(chat(&ask("private"))).await;
        let (head, body) = client.message().await;
        assert!(head.starts_with("HTTP/1.1 404 "), "{head}");
        assert!(head.contains("x-mode-envoy-error: not_found\r\n"), "{head}");
        assert!(body.contains("\"code\":\"model_not_found\""), "{body}");
    });
}

#[test]
fn a_request_that_does_not_hold_is_refused_with_its_field() {
    run(async {
        let harness = Harness::new();
        let mut client = harness.client();
        client
            .send(chat(&json!({"model": "echo", "messages": []})))
            .await;
        let (head, body) = client.message().await;
        assert!(head.starts_with("HTTP/1.1 400 "), "{head}");
        assert!(body.contains("\"param\":\"messages\""), "{body}");
        let (opened, close, _) = harness.one_call();
        assert!(!opened && close.rejected());
        client
            .send(format!("POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nX-Api-Key: {KEY}\r\nContent-Encoding: gzip\r\nContent-Length: 1\r\n\r\nx"))
            .await;
        let (head, body) = client.message().await;
        assert!(
            head.starts_with("HTTP/1.1 400 ") && body.contains("content-encoding"),
            "{head}{body}"
        );
    });
}

#[test]
fn errors_on_ai_paths_are_in_the_dialect_of_their_clients() {
    run(async {
        let harness = Harness::new();
        for (request, status) in [
            ("GET /v1/models HTTP/1.1\r\nHost: a\r\n\r\n", 401),
            ("GET /v1/nothing HTTP/1.1\r\nHost: a\r\n\r\n", 404),
            ("GET /v1/chat/completions HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        ] {
            let mut client = harness.client();
            client.send(request).await;
            let (head, body) = client.message().await;
            assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
            let body: Value = serde_json::from_str(&body).unwrap();
            assert!(body["error"]["type"].is_string(), "{body}");
        }
    });
}

#[test]
fn a_host_of_its_own_may_have_routes_over_the_ai_paths() {
    run(async {
        let harness = Harness::new();
        let mut client = harness.client();
        client
            .send(format!(
                "GET /v1/models HTTP/1.1\r\nHost: api.acme.test\r\nX-Api-Key: {KEY}\r\n\r\n"
            ))
            .await;
        let (host, mut upstream) = harness.upstream().await;
        assert_eq!(host, "orders.test");
        assert!(
            upstream
                .message()
                .await
                .0
                .starts_with("GET /v1/models HTTP/1.1\r\n")
        );
    });
}

#[test]
fn a_stream_that_stalls_ends_with_an_error_that_says_so() {
    run(async {
        let harness = Harness::new();
        let (mut client, mut upstream, ..) = asked(&harness, &stream("fast", false)).await;
        let start = tokio::time::Instant::now();
        upstream
            .send(format!("{STREAM_HEAD}{}", chunk(&delta("12345"))))
            .await;
        let answer = client.until("0\r\n\r\n").await;
        assert_eq!(start.elapsed().as_secs(), 60);
        assert!(
            answer.contains("upstream_timeout") && !answer.contains("[DONE]"),
            "{answer}"
        );
        assert_eq!(upstream.rest().await, "");
        // The connection is as good as before.
        client.send(chat(&ask("echo"))).await;
        assert!(client.message().await.0.starts_with("HTTP/1.1 200 OK\r\n"));
    });
}
