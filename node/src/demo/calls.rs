//! The demo's live calls, and what the usage tables must say of them.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::at;
use super::check::Expected;
use super::example::Setup;
use super::http::{self, Answer};
use super::nodes::Node;

const CHAT: &str = "/v1/chat/completions";

/// Calls one node in every way the demo shows; returns a line that says what came back.
pub(crate) async fn make(node: &Node, setup: &Setup, expected: &mut Expected) -> Result<String> {
    let said = chat(node, &setup.key, "fast", expected).await?;
    chat(node, &setup.key, "smart", expected).await?;
    chat(node, &setup.other_key, "fast", expected).await?;
    let events = stream(node, &setup.key, "smart", expected).await?;
    let order = http::get_with_key(&node.gateway, "/orders/17", &setup.key).await?;
    ok(&order, "a plain HTTP call")?;
    expected.plain();
    let refused = http::post(
        &node.gateway,
        CHAT,
        &setup.other_key,
        &question(node, "smart", false),
    )
    .await?;
    ensure!(
        (400..500).contains(&refused.status),
        "beta may not call smart, and yet the answer was {}: {}",
        refused.status,
        refused.text()
    );
    expected.refused();
    Ok(format!(
        "chat {said:?}, a stream of {events} events, HTTP {}, refused with {}",
        order.status, refused.status
    ))
}

async fn chat(node: &Node, key: &str, model: &str, expected: &mut Expected) -> Result<String> {
    let answer = http::post(&node.gateway, CHAT, key, &question(node, model, false)).await?;
    ok(&answer, "a chat call")?;
    let answer = answer.json()?;
    expected.tokens(model, at(&answer, "/usage")?)?;
    let said = at(&answer, "/choices/0/message/content")?
        .as_str()
        .context("the content is not text")?;
    Ok(said.chars().take(40).collect())
}

async fn stream(node: &Node, key: &str, model: &str, expected: &mut Expected) -> Result<usize> {
    let answer = http::post(&node.gateway, CHAT, key, &question(node, model, true)).await?;
    ok(&answer, "a stream")?;
    let events = answer.events()?;
    let usage = events
        .iter()
        .rev()
        .find_map(|event| event.get("usage").filter(|u| u.is_object()));
    expected.tokens(
        model,
        usage.context("the stream told no usage although asked")?,
    )?;
    Ok(events.len())
}

fn question(node: &Node, model: &str, stream: bool) -> Value {
    let mut body = json!({
        "model": model,
        "messages": [{"role": "user", "content": format!("hello from the client of node {}", node.id)}],
    });
    if stream {
        body["stream"] = json!(true);
        body["stream_options"] = json!({"include_usage": true});
    }
    body
}

fn ok(answer: &Answer, what: &str) -> Result<()> {
    ensure!(
        answer.status == 200,
        "{what} was answered with {}: {}",
        answer.status,
        answer.text()
    );
    Ok(())
}
