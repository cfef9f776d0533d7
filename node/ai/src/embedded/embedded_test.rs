//! The embedded model answers as OpenAI would, the same each time, plain or streamed.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::openai::relay::{StreamRelay, UsageChunk};
use crate::openai::response;
use crate::openai::stream::StreamEnd;

const NOW: u64 = 1_790_000_000;

fn answer(request: &Value) -> Result<Reply, ErrorBody> {
    chat(Bytes::from(request.to_string()), NOW)
}

pub(super) fn plain(request: &Value) -> Value {
    match answer(request).unwrap() {
        Reply::Json(body) => serde_json::from_slice(&body).unwrap(),
        Reply::Stream(_) => panic!("a stream was not asked for"),
    }
}

fn frames(request: &Value) -> Vec<Bytes> {
    match answer(request).unwrap() {
        Reply::Stream(frames) => frames.collect(),
        Reply::Json(_) => panic!("a stream was asked for"),
    }
}

pub(super) fn chunks(request: &Value) -> Vec<Value> {
    let mut frames = frames(request);
    assert_eq!(frames.pop().unwrap(), "data: [DONE]\n\n");
    let payload = |frame: &Bytes| {
        let text = std::str::from_utf8(frame).unwrap();
        let json = text
            .strip_prefix("data: ")
            .unwrap()
            .strip_suffix("\n\n")
            .unwrap();
        serde_json::from_str(json).unwrap()
    };
    frames.iter().map(payload).collect()
}

pub(super) fn says(text: &str) -> Value {
    json!({"model": "echo", "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": text}]})
}

pub(super) fn with(mut request: Value, more: &Value) -> Value {
    for (key, value) in more.as_object().unwrap() {
        request[key] = value.clone();
    }
    request
}

pub(super) fn content(body: &Value) -> &str {
    body["choices"][0]["message"]["content"].as_str().unwrap()
}

pub(super) fn tools() -> Value {
    let tool = |name: &str| {
        json!({"type": "function", "function": {"name": name, "parameters": {
        "type": "object", "required": ["city"], "properties": {"city": {"type": "string"}, "unit": {"type": "string"}}}}})
    };
    json!([tool("weather"), tool("time")])
}

#[test]
fn a_plain_answer_has_the_shape_that_clients_check() {
    let body = plain(&says("hello"));
    let text = content(&body);
    assert!(text.starts_with("You said: \"hello\". "), "{text}");
    let completion_tokens = text.len().div_ceil(4);
    let expected = json!({
        "id": body["id"],
        "object": "chat.completion",
        "created": NOW,
        "model": "echo",
        "system_fingerprint": "fp_embedded_1",
        "choices": [{
            "index": 0,
            "message": {"role": "assistant", "content": text, "refusal": null},
            "logprobs": null,
            "finish_reason": "stop",
        }],
        "usage": {
            "prompt_tokens": 4,
            "completion_tokens": completion_tokens,
            "total_tokens": 4 + completion_tokens,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": 0,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        },
    });
    assert_eq!(body, expected);
    let id = body["id"]
        .as_str()
        .unwrap()
        .strip_prefix("chatcmpl-")
        .unwrap();
    assert_eq!(id.len(), 32);
}

#[test]
fn the_same_request_gets_the_same_answer_and_another_does_not() {
    assert_eq!(plain(&says("hello")), plain(&says("hello")));
    assert_ne!(plain(&says("hello"))["id"], plain(&says("hullo"))["id"]);
}

#[test]
fn a_stream_goes_role_text_finish_usage_done() {
    let request = with(
        says("hi"),
        &json!({"stream": true, "stream_options": {"include_usage": true}}),
    );
    let chunks = chunks(&request);
    let first = &chunks[0];
    assert_eq!(first["object"], "chat.completion.chunk");
    assert_eq!(
        first["choices"][0],
        json!({"index": 0, "delta": {"role": "assistant", "content": "", "refusal": null}, "logprobs": null, "finish_reason": null})
    );
    let (usage, rest) = chunks.split_last().unwrap();
    assert_eq!(usage["choices"], json!([]));
    assert_eq!(usage["usage"]["prompt_tokens"], 3);
    assert!(
        rest.iter()
            .all(|chunk| chunk.as_object().unwrap().contains_key("usage")
                && chunk["usage"].is_null())
    );
    let finish = rest.last().unwrap();
    assert_eq!(finish["choices"][0]["delta"], json!({}));
    assert_eq!(finish["choices"][0]["finish_reason"], "stop");
    let text: String = rest
        .iter()
        .filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str())
        .collect();
    assert_eq!(text, content(&plain(&says("hi"))));
}

#[test]
fn usage_is_streamed_only_where_it_was_asked_for() {
    let chunks = chunks(&with(says("hi"), &json!({"stream": true})));
    assert!(chunks.iter().all(|chunk| chunk.get("usage").is_none()));
}

#[test]
fn several_choices_differ_and_take_turns_in_a_stream() {
    let request = with(says("hi"), &json!({"n": 3}));
    let body = plain(&request);
    let texts: Vec<&str> = (0..3)
        .map(|i| body["choices"][i]["message"]["content"].as_str().unwrap())
        .collect();
    assert!(texts[0] != texts[1] && texts[1] != texts[2] && texts[0] != texts[2]);
    let tokens: usize = texts.iter().map(|text| text.len().div_ceil(4)).sum();
    assert_eq!(body["usage"]["completion_tokens"], tokens);

    let chunks = chunks(&with(request, &json!({"stream": true})));
    let order: Vec<u64> = chunks[..6]
        .iter()
        .map(|chunk| chunk["choices"][0]["index"].as_u64().unwrap())
        .collect();
    assert_eq!(order, [0, 1, 2, 0, 1, 2]);
    for (index, text) in texts.into_iter().enumerate() {
        let streamed: String = chunks
            .iter()
            .filter(|chunk| chunk["choices"][0]["index"] == index)
            .filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str())
            .collect();
        assert_eq!(streamed, text);
    }
}

#[test]
fn the_token_limit_cuts_and_says_so() {
    let body = plain(&with(says("hello"), &json!({"max_completion_tokens": 3})));
    assert_eq!(content(&body), "You said: \"h");
    assert_eq!(body["choices"][0]["finish_reason"], "length");
    assert_eq!(body["usage"]["completion_tokens"], 3);
    let enough = plain(&with(says("hello"), &json!({"max_tokens": u64::MAX})));
    assert_eq!(enough["choices"][0]["finish_reason"], "stop");
}

#[test]
fn a_stop_string_ends_the_text_before_it() {
    let body = plain(&with(
        says("one two three"),
        &json!({"stop": ["three", " two"]}),
    ));
    assert_eq!(content(&body), "You said: \"one");
    assert_eq!(body["choices"][0]["finish_reason"], "stop");
    let body = plain(&with(says("one two"), &json!({"stop": "two"})));
    assert_eq!(content(&body), "You said: \"one ");
}

#[test]
fn a_response_format_is_kept() {
    let object = plain(&with(
        says("hi"),
        &json!({"response_format": {"type": "json_object"}}),
    ));
    let inner: Value = serde_json::from_str(content(&object)).unwrap();
    assert!(inner["answer"].as_str().unwrap().starts_with("You said"));

    let schema = json!({"type": "json_schema", "json_schema": {"name": "x", "strict": true, "schema":
        {"type": "object", "required": ["n"], "properties": {"n": {"type": "integer", "minimum": 5}}}}});
    let body = plain(&with(says("hi"), &json!({"response_format": schema})));
    assert_eq!(content(&body), r#"{"n":5}"#);
}

#[test]
fn a_bad_request_is_refused_naming_the_field() {
    let endless = json!({"type": "object", "required": ["a"], "properties": {"a": {"$ref": "#"}}});
    let endless_tool =
        json!([{"type": "function", "function": {"name": "f", "parameters": endless}}]);
    let cases = [
        (json!({"n": 0}), "n"),
        (
            json!({"messages": [{"role": "robot", "content": "x"}]}),
            "messages[0].role",
        ),
        (json!({"messages": [{"content": "x"}]}), "messages"),
        (json!({"stop": ["a", "b", "c", "d", "e"]}), "stop"),
        (json!({"stop": ""}), "stop"),
        (
            json!({"tools": [{"type": "custom", "custom": {"name": "x"}}]}),
            "tools[0].type",
        ),
        (
            json!({"tools": [{"type": "function", "function": {"name": "a b"}}]}),
            "tools[0].function.name",
        ),
        (json!({"tool_choice": "required"}), "tool_choice"),
        (
            json!({"tool_choice": {"type": "function", "function": {"name": "x"}}}),
            "tool_choice",
        ),
        (
            json!({"tools": endless_tool, "tool_choice": "required"}),
            "tools[0].function.parameters",
        ),
        (
            json!({"response_format": {"type": "xml"}}),
            "response_format",
        ),
        (
            json!({"response_format": {"type": "json_schema"}}),
            "response_format.json_schema",
        ),
    ];
    for (more, param) in cases {
        let error = answer(&with(says("hi"), &more)).unwrap_err();
        assert_eq!(
            (error.status, error.param.as_deref()),
            (400, Some(param)),
            "{more}"
        );
        assert_eq!(error.kind, "invalid_request_error");
    }
}

proptest! {
    #[test]
    fn metering_sees_what_the_model_says_plain_or_streamed(
        text in "\\PC{0,60}|call (time|weather|x) ?(time)?",
        n in 1..4_u32,
        max in prop::option::of(1..40_u64),
        with_tools: bool,
    ) {
        let mut request = with(says(&text), &json!({"n": n, "max_tokens": max}));
        if with_tools {
            request["tools"] = tools();
        }
        let Reply::Json(body) = answer(&request).unwrap() else { panic!("a stream was not asked for") };
        let metered = response::scan(&body);
        prop_assert!(metered.saw_finish);

        let asked = json!({"stream": true, "stream_options": {"include_usage": true}});
        for usage_chunk in [UsageChunk::Shown, UsageChunk::Hidden] {
            let mut relay = StreamRelay::new(n, usage_chunk);
            for frame in frames(&with(request.clone(), &asked)) {
                relay.on_bytes(frame);
            }
            let (tail, outcome) = relay.finish();
            prop_assert!(tail.is_empty());
            prop_assert_eq!(outcome.end(), StreamEnd::Complete);
            prop_assert_eq!(outcome.unread_frames, 0);
            prop_assert_eq!(outcome.usage, metered.usage);
            prop_assert_eq!(outcome.output_bytes, metered.output_bytes);
        }
    }

    #[test]
    fn any_message_is_answered(text in "\\PC{0,2000}") {
        let body = plain(&says(&text));
        prop_assert!(content(&body).len() < 1200);
    }
}
