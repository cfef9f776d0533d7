//! Writes the embedded model's choices as OpenAI's completion object, with every key that the
//! official clients insist on.

use bytes::Bytes;
use serde::Serialize;

use crate::embedded::answer::{Call, Choice, Output};
use crate::estimate;
use crate::openai::request::ChatRequest;

const FINGERPRINT: &str = "fp_embedded_1";

/// An answer before it is written.
#[derive(Clone, Debug)]
pub(crate) struct Completion {
    id: String,
    created: u64,
    model: String,
    pub(crate) usage: UsageOut,
    pub(crate) choices: Vec<Choice>,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct UsageOut {
    prompt_tokens: u64,
    completion_tokens: u64,
    total_tokens: u64,
    prompt_tokens_details: PromptDetails,
    completion_tokens_details: CompletionDetails,
}

#[derive(Clone, Copy, Debug, Default, Serialize)]
struct PromptDetails {
    cached_tokens: u64,
    audio_tokens: u64,
}

#[derive(Clone, Copy, Debug, Default, Serialize)]
#[expect(clippy::struct_field_names, reason = "the names are OpenAI's")]
struct CompletionDetails {
    reasoning_tokens: u64,
    audio_tokens: u64,
    accepted_prediction_tokens: u64,
    rejected_prediction_tokens: u64,
}

/// Always `null`, but present: clients insist on the key.
#[derive(Serialize)]
pub(crate) struct Null;

#[derive(Serialize)]
pub(crate) struct Envelope<'a, C> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    system_fingerprint: &'static str,
    choices: Vec<C>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Nullable<UsageOut>>,
}

#[derive(Serialize)]
#[serde(untagged)]
pub(crate) enum Nullable<T> {
    Value(T),
    Null,
}

#[derive(Serialize)]
struct ChoiceOut<'a> {
    index: usize,
    message: Message<'a>,
    logprobs: Null,
    finish_reason: &'static str,
}

#[derive(Serialize)]
struct Message<'a> {
    role: &'static str,
    content: Option<&'a str>,
    refusal: Null,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_calls: Option<Vec<CallOut<'a>>>,
}

#[derive(Default, Serialize)]
pub(crate) struct CallOut<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) index: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) r#type: Option<&'static str>,
    pub(crate) function: FunctionOut<'a>,
}

#[derive(Default, Serialize)]
pub(crate) struct FunctionOut<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<&'a str>,
    pub(crate) arguments: &'a str,
}

// === impl Completion ===

impl Completion {
    pub(crate) fn new(
        request: &ChatRequest,
        digest: u128,
        created: u64,
        choices: Vec<Choice>,
    ) -> Self {
        let prompt_tokens = estimate::tokens(request.text_bytes);
        let completion_tokens = choices.iter().map(Choice::tokens).sum();
        Self {
            id: format!("chatcmpl-{digest:032x}"),
            created,
            model: request.model.clone(),
            usage: UsageOut {
                prompt_tokens,
                completion_tokens,
                total_tokens: prompt_tokens + completion_tokens,
                prompt_tokens_details: PromptDetails::default(),
                completion_tokens_details: CompletionDetails::default(),
            },
            choices,
        }
    }

    pub(crate) fn to_json(&self) -> Bytes {
        let choices = self.choices.iter().enumerate().map(choice_out).collect();
        let usage = Some(Nullable::Value(self.usage));
        Bytes::from(to_json(&self.envelope("chat.completion", choices, usage)))
    }

    pub(crate) fn envelope<C>(
        &self,
        object: &'static str,
        choices: Vec<C>,
        usage: Option<Nullable<UsageOut>>,
    ) -> Envelope<'_, C> {
        Envelope {
            id: &self.id,
            object,
            created: self.created,
            model: &self.model,
            system_fingerprint: FINGERPRINT,
            choices,
            usage,
        }
    }
}

// === free functions ===

fn choice_out((index, choice): (usize, &Choice)) -> ChoiceOut<'_> {
    let (content, tool_calls) = match &choice.output {
        Output::Text(text) => (Some(text.as_str()), None),
        Output::Calls(calls) => (None, Some(calls.iter().map(whole_call).collect())),
    };
    ChoiceOut {
        index,
        message: Message {
            role: "assistant",
            content,
            refusal: Null,
            tool_calls,
        },
        logprobs: Null,
        finish_reason: choice.finish,
    }
}

pub(crate) fn whole_call(call: &Call) -> CallOut<'_> {
    CallOut {
        index: None,
        id: Some(&call.id),
        r#type: Some("function"),
        function: FunctionOut {
            name: Some(&call.name),
            arguments: &call.arguments,
        },
    }
}

pub(crate) fn to_json(value: &impl Serialize) -> Vec<u8> {
    // Strings and integers cannot fail to be written.
    serde_json::to_vec(value).unwrap_or_default()
}
