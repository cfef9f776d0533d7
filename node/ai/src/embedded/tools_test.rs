//! The embedded model calls tools as OpenAI would, plain or in fragments.

use serde_json::{Value, json};

use super::tests::{chunks, content, plain, says, tools, with};

#[test]
fn a_named_or_required_tool_is_called_with_valid_arguments() {
    let named = json!({"tools": tools(), "tool_choice": {"type": "function", "function": {"name": "time"}}});
    let body = plain(&with(says("hi"), &named));
    let message = &body["choices"][0]["message"];
    assert!(message["content"].is_null());
    let call = &message["tool_calls"][0];
    assert_eq!(call["type"], "function");
    assert_eq!(
        call["function"],
        json!({"name": "time", "arguments": "{\"city\":\"text\"}"})
    );
    assert!(call["id"].as_str().unwrap().starts_with("call_") && call.get("index").is_none());
    assert_eq!(body["choices"][0]["finish_reason"], "tool_calls");
    assert_eq!(body["usage"]["completion_tokens"], 4);

    let required = plain(&with(
        says("hi"),
        &json!({"tools": tools(), "tool_choice": "required"}),
    ));
    assert_eq!(
        required["choices"][0]["message"]["tool_calls"][0]["function"]["name"],
        "weather"
    );
}

#[test]
fn a_message_can_ask_for_calls_in_parallel_and_they_stream_in_fragments() {
    let request = with(says("call time weather now"), &json!({"tools": tools()}));
    let body = plain(&request);
    let calls = body["choices"][0]["message"]["tool_calls"]
        .as_array()
        .unwrap();
    assert_eq!(calls.len(), 2);
    assert_ne!(calls[0]["id"], calls[1]["id"]);

    let chunks = chunks(&with(request.clone(), &json!({"stream": true})));
    for (index, call) in calls.iter().enumerate() {
        let fragments: Vec<&Value> = chunks
            .iter()
            .map(|chunk| &chunk["choices"][0]["delta"]["tool_calls"][0])
            .filter(|fragment| fragment["index"] == index)
            .collect();
        assert_eq!(fragments[0]["function"]["name"], call["function"]["name"]);
        assert_eq!(fragments[0]["type"], "function");
        assert!(
            fragments[1..]
                .iter()
                .all(|fragment| fragment.get("id").is_none())
        );
        let arguments: String = fragments
            .iter()
            .filter_map(|fragment| fragment["function"]["arguments"].as_str())
            .collect();
        assert_eq!(arguments, call["function"]["arguments"].as_str().unwrap());
    }
    let single = plain(&with(request, &json!({"parallel_tool_calls": false})));
    assert_eq!(
        single["choices"][0]["message"]["tool_calls"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
}

#[test]
fn a_tools_result_is_answered_with_text() {
    let mut request = with(says("call time"), &json!({"tools": tools()}));
    let messages = request["messages"].as_array_mut().unwrap();
    messages.push(json!({"role": "assistant", "content": null, "tool_calls": []}));
    messages.push(json!({"role": "tool", "tool_call_id": "call_1", "content": "noon"}));
    let body = plain(&request);
    assert!(content(&body).starts_with("The tool returned: \"noon\". "));
}
