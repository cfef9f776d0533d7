//! What the provider writes: the pieces of an answer in order, with the faults between them.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::{Fault, Seen};
use crate::load::Pace;

/// One thing to do for an answer.
pub(super) enum Step {
    /// Write these bytes at once.
    Send(Bytes),
    /// Wait until the gate opens.
    Wait(Pin<Box<dyn Future<Output = ()> + Send>>),
    /// Break the connection.
    Break,
}

/// A body that does its steps one by one, and tells when the last byte was taken.
pub(super) struct Script {
    steps: VecDeque<Step>,
    finished: Option<Box<dyn FnOnce() + Send>>,
}

// === impl Script ===

impl Script {
    pub(super) fn new(steps: Vec<Step>, finished: impl FnOnce() + Send + 'static) -> Self {
        Self {
            steps: steps.into(),
            finished: Some(Box::new(finished)),
        }
    }
}

impl Body for Script {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        loop {
            match self.steps.pop_front() {
                None => return Poll::Ready(None),
                Some(Step::Send(bytes)) => {
                    if self.steps.is_empty()
                        && let Some(finished) = self.finished.take()
                    {
                        finished();
                    }
                    return Poll::Ready(Some(Ok(Frame::data(bytes))));
                }
                Some(Step::Wait(mut gate)) => {
                    if gate.as_mut().poll(context).is_pending() {
                        self.steps.push_front(Step::Wait(gate));
                        return Poll::Pending;
                    }
                }
                Some(Step::Break) => {
                    return Poll::Ready(Some(Err(io::Error::other("this cut was scripted"))));
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.steps.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        match self.steps.iter().collect::<Vec<_>>().as_slice() {
            [Step::Send(only)] => SizeHint::with_exact(only.len().try_into().unwrap_or(0)),
            _ => SizeHint::default(),
        }
    }
}

// === free functions ===

/// A plain answer.
pub(super) fn plain(seen: &Seen, fault: Option<Fault>) -> Vec<Step> {
    let mut body = json!({
        "id": "chatcmpl-test",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": seen.model,
        "choices": [{
            "index": 0,
            "message": {"role": "assistant", "content": format!("you said {}", seen.label), "refusal": null},
            "logprobs": null,
            "finish_reason": "stop",
        }],
        "usage": usage(seen),
    });
    if fault == Some(Fault::NoUsage)
        && let Some(fields) = body.as_object_mut()
    {
        fields.remove("usage");
    }
    let mut text = Bytes::from(body.to_string());
    if fault == Some(Fault::Cut) {
        let half = text.split_to(text.len() / 2);
        return vec![Step::Send(half), Step::Break];
    }
    vec![Step::Send(text)]
}

/// The same steps, with a wait before each.
pub(super) fn slowly(steps: Vec<Step>, delay: Duration) -> Vec<Step> {
    let wait = || Step::Wait(Box::pin(async move { Pace::every(delay).tick().await }));
    steps.into_iter().flat_map(|step| [wait(), step]).collect()
}

/// An event stream: a role, three texts, the end, usage.
pub(super) fn stream(
    seen: &Seen,
    fault: Option<Fault>,
    mut gate: watch::Receiver<bool>,
) -> Vec<Step> {
    let words = ["you ", "said ", &seen.label];
    let mut steps = vec![chunk(
        seen,
        &json!({"role": "assistant", "content": ""}),
        None,
    )];
    for (index, word) in words.iter().enumerate() {
        if index == 1 && fault == Some(Fault::Cut) {
            steps.push(Step::Break);
            return steps;
        }
        if index == 1 && fault == Some(Fault::Held) {
            let open = std::mem::replace(&mut gate, watch::channel(true).1);
            steps.push(Step::Wait(Box::pin(wait(open))));
        }
        steps.push(chunk(seen, &json!({"content": word}), None));
    }
    steps.push(chunk(seen, &json!({}), Some("stop")));
    if fault != Some(Fault::NoUsage) {
        let mut event = base(seen);
        event["choices"] = json!([]);
        event["usage"] = usage(seen);
        steps.push(data(&event.to_string()));
    }
    steps.push(data("[DONE]"));
    steps
}

async fn wait(mut gate: watch::Receiver<bool>) {
    // If the provider is gone, so is whoever waits.
    let _ = gate.wait_for(|open| *open).await;
}

fn chunk(seen: &Seen, delta: &Value, finish: Option<&str>) -> Step {
    let mut event = base(seen);
    event["choices"] =
        json!([{"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish}]);
    event["usage"] = Value::Null;
    data(&event.to_string())
}

fn base(seen: &Seen) -> Value {
    json!({
        "id": "chatcmpl-test",
        "object": "chat.completion.chunk",
        "created": 1_700_000_000,
        "model": seen.model,
    })
}

fn data(text: &str) -> Step {
    Step::Send(Bytes::from(format!("data: {text}\n\n")))
}

fn usage(seen: &Seen) -> Value {
    json!({
        "prompt_tokens": seen.prompt_tokens,
        "completion_tokens": seen.completion_tokens,
        "total_tokens": seen.prompt_tokens + seen.completion_tokens,
    })
}
