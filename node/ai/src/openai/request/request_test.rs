//! A request is understood as far as needed and rewritten without touching anything else.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn read(body: &str) -> Result<ChatRequest, RequestError> {
    ChatRequest::read(Bytes::copy_from_slice(body.as_bytes()))
}

fn rewritten(body: &str, model: &str, ask_usage: bool) -> String {
    let bytes = read(body).unwrap().rewrite(model, ask_usage);
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// A minimal request with more fields: `with(r#""n":2"#)`.
fn with(fields: &str) -> String {
    format!(r#"{{"model":"fast","messages":[{{"role":"user","content":"hi"}}],{fields}}}"#)
}

#[test]
fn the_fields_that_decide_are_read() {
    let request = read(&with(
        r#""stream":true,"stream_options":{"include_usage":true},"n":3,"max_tokens":9,"max_completion_tokens":7"#,
    ))
    .unwrap();
    assert_eq!(request.model, "fast");
    assert!(request.stream && request.client_wants_usage);
    assert_eq!(request.choices, 3);
    assert_eq!(request.max_output, Some(7));
    assert_eq!((request.message_count, request.text_bytes), (1, 2));
}

#[test]
fn what_is_absent_or_null_has_its_default() {
    let nulls = r#""stream":null,"stream_options":null,"n":null,"max_tokens":null"#;
    for body in [with(nulls), with(r#""temperature":1"#)] {
        let request = read(&body).unwrap();
        assert!(!request.stream && !request.client_wants_usage);
        assert_eq!((request.choices, request.max_output), (1, None));
    }
}

#[test]
fn a_refusal_names_the_field() {
    let cases = [
        (r#"{"messages":[{"content":"a"}]}"#.to_owned(), "model"),
        (r#"{"model":null,"messages":[{}]}"#.to_owned(), "model"),
        (r#"{"model":"","messages":[{}]}"#.to_owned(), "model"),
        (r#"{"model":7,"messages":[{}]}"#.to_owned(), "model"),
        (
            format!(r#"{{"model":"{}","messages":[{{}}]}}"#, "m".repeat(257)),
            "model",
        ),
        (r#"{"model":"m"}"#.to_owned(), "messages"),
        (r#"{"model":"m","messages":[]}"#.to_owned(), "messages"),
        (r#"{"model":"m","messages":{}}"#.to_owned(), "messages"),
        (r#"{"model":"m","messages":["hi"]}"#.to_owned(), "messages"),
        (with(r#""stream":"yes""#), "stream"),
        (with(r#""stream_options":[]"#), "stream_options"),
        (
            with(r#""stream_options":{"include_usage":1}"#),
            "stream_options.include_usage",
        ),
        (with(r#""n":0"#), "n"),
        (with(r#""n":129"#), "n"),
        (with(r#""n":1.5"#), "n"),
        (with(r#""max_tokens":-1"#), "max_tokens"),
        (
            with(r#""max_completion_tokens":0"#),
            "max_completion_tokens",
        ),
        (with(r#""model":"cheap""#), "model"),
        (with(r#""\u006dodel":"cheap""#), "model"),
        (with(r#""stream_options":{"a":1,"a":2}"#), "a"),
    ];
    for (body, param) in cases {
        let error = read(&body).unwrap_err();
        assert_eq!(error.param(), Some(param), "{body}: {error}");
        let answer = ErrorBody::from(&error);
        assert_eq!((answer.status, answer.param.as_deref()), (400, Some(param)));
        assert!(answer.message.contains(param), "{}", answer.message);
    }
}

#[test]
fn what_is_not_one_json_object_is_refused() {
    let kind = |body: &[u8]| ChatRequest::read(Bytes::copy_from_slice(body)).unwrap_err();
    assert!(matches!(kind(b"[1]"), RequestError::NotAnObject));
    assert!(matches!(kind(b"\"{}\""), RequestError::NotAnObject));
    assert!(matches!(kind(b""), RequestError::NotJson { .. }));
    assert!(matches!(kind(b"{\"model\":"), RequestError::NotJson { .. }));
    assert!(matches!(kind(b"{} {}"), RequestError::NotJson { .. }));
    assert!(matches!(
        kind(b"{\"model\":\"\xff\"}"),
        RequestError::NotUtf8 { at: 10 }
    ));
}

#[test]
fn an_object_with_too_many_fields_is_refused() {
    let fields: Vec<String> = (0..FIELDS_MAX).map(|n| format!(r#""f{n}":1"#)).collect();
    assert!(matches!(
        read(&with(&fields.join(","))),
        Err(RequestError::TooManyFields)
    ));
}

#[test]
fn deep_nesting_is_skipped_or_refused_but_never_overflows() {
    let deep = format!("{}{}", "[".repeat(200_000), "]".repeat(200_000));
    assert!(read(&with(&format!(r#""metadata":{deep}"#))).is_ok());
    let messages = format!(r#"{{"model":"m","messages":[{{"content":{deep}}}]}}"#);
    assert_eq!(read(&messages).unwrap_err().param(), Some("messages"));
}

#[test]
fn only_the_model_changes_and_every_other_byte_stays() {
    let body = " {\n \"big\" : 123456789012345678901234567890.10 ,\"model\":\t\"f\\u0061st\", \"messages\":[{\"content\":\"h\\u00e9\"}],\"x\":{\"b\":1,\"a\":[ ]} }\n";
    let expected = body.replace("\"f\\u0061st\"", "\"gpt-\\\"4\\\"\"");
    assert_eq!(rewritten(body, "gpt-\"4\"", true), expected);
}

#[test]
fn an_unchanged_body_is_not_copied() {
    let request = read(&with(r#""stream":false"#)).unwrap();
    assert_eq!(
        request.rewrite("fast", true).as_ptr(),
        request.body().as_ptr()
    );
}

#[test]
fn a_stream_is_asked_for_its_usage_wherever_the_options_stand() {
    let asked = |fields: &str| rewritten(&with(&format!(r#""stream":true{fields}"#)), "up", true);
    let options = |fields: &str| {
        let body: Value = serde_json::from_str(&asked(fields)).unwrap();
        assert_eq!(body["model"], "up");
        body["stream_options"].clone()
    };
    assert_eq!(options(""), json!({"include_usage": true}));
    assert_eq!(
        options(r#","stream_options":null"#),
        json!({"include_usage": true})
    );
    assert_eq!(
        options(r#","stream_options":{ }"#),
        json!({"include_usage": true})
    );
    assert_eq!(
        options(r#","stream_options":{"include_usage":false,"x":1}"#),
        json!({"include_usage": true, "x": 1})
    );
    assert_eq!(
        options(r#","stream_options":{"include_usage":null}"#),
        json!({"include_usage": true})
    );
    assert_eq!(
        options(r#","stream_options":{"include_obfuscation":false}"#),
        json!({"include_usage": true, "include_obfuscation": false})
    );
    let early =
        r#"{"stream_options":{"include_usage":false},"stream":true,"messages":[{}],"model":"m"}"#;
    assert_eq!(
        rewritten(early, "up", true),
        r#"{"stream_options":{"include_usage":true},"stream":true,"messages":[{}],"model":"up"}"#
    );
}

#[test]
fn usage_is_not_asked_of_a_plain_answer_or_against_the_callers_wish() {
    let plain = with(r#""stream":false"#);
    assert_eq!(rewritten(&plain, "up", true), plain.replace("fast", "up"));
    let stream = with(r#""stream":true"#);
    assert_eq!(
        rewritten(&stream, "up", false),
        stream.replace("fast", "up")
    );
    let asked = with(r#""stream":true,"stream_options":{"include_usage":true}"#);
    assert_eq!(rewritten(&asked, "up", true), asked.replace("fast", "up"));
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(".{0,6}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn a_rewrite_differs_in_model_and_usage_only(
        extra in prop::collection::btree_map("x[a-z]{0,6}", any_json(), 0..6),
        options in prop::option::of(any::<Option<bool>>()),
        stream: bool,
        upstream in ".{1,20}",
    ) {
        let mut body = json!({"model": "fast", "messages": [{"content": "hi"}], "stream": stream});
        body.as_object_mut().unwrap().extend(extra);
        if let Some(include) = options {
            body["stream_options"] = json!({"include_usage": include});
        }
        let sent: Value = serde_json::from_str(&rewritten(&body.to_string(), &upstream, true)).unwrap();
        body["model"] = json!(upstream);
        if stream {
            body["stream_options"] = json!({"include_usage": true});
        }
        prop_assert_eq!(sent, body);
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = ChatRequest::read(Bytes::from(bytes));
    }
}
