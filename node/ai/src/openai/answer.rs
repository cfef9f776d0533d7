//! The parts of an answer, or of one chunk of it, that metering needs.
//!
//! Providers of this wire differ in what they put where, so this reading is lenient: unknown shapes
//! count as nothing, usage is accepted at the top, in a choice (Moonshot) and in `x_groq`, and an
//! error may be an object or a string.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::openai::request::CHOICES_MAX;
use crate::openai::text::TextBytes;
use crate::openai::usage::{self, UnusableUsage};
use crate::usage::Usage;

/// Longest text kept of an error's message, type or code.
const ERROR_TEXT_BYTES_MAX: usize = 1024;

/// An error that arrived in the body of a response with status 200.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct InBandError {
    /// Its message, cut at 1024 bytes.
    pub message: String,
    /// Its `type`, where it has one.
    pub kind: Option<String>,
    /// Its `code`, where it has one, as text.
    pub code: Option<String>,
}

/// What one answer or chunk says.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Answer {
    /// The last usage in it that is not `null`.
    pub(crate) usage: Option<Result<Usage, UnusableUsage>>,
    pub(crate) error: Option<InBandError>,
    /// One bit for each choice that ends here.
    pub(crate) finished: u128,
    pub(crate) choices: usize,
    pub(crate) text_bytes: u64,
}

#[derive(Deserialize)]
struct Wire<'a> {
    #[serde(borrow)]
    choices: Option<Vec<Choice<'a>>>,
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
    #[serde(borrow)]
    x_groq: Option<Groq<'a>>,
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(default)]
    index: u32,
    finish_reason: Option<String>,
    delta: Option<TextBytes>,
    message: Option<TextBytes>,
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Groq<'a> {
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct WireError<'a> {
    #[serde(borrow)]
    message: Option<&'a RawValue>,
    #[serde(borrow)]
    r#type: Option<&'a RawValue>,
    #[serde(borrow)]
    code: Option<&'a RawValue>,
}

// === impl Answer ===

impl Answer {
    /// Reads an answer or chunk; `None` where it is not JSON of the known shape.
    pub(crate) fn read(json: &[u8]) -> Option<Self> {
        let wire: Wire<'_> = serde_json::from_slice(json).ok()?;
        let (groq_usage, groq_error) = match &wire.x_groq {
            Some(groq) => (groq.usage, groq.error),
            None => (None, None),
        };
        let choices = wire.choices.as_deref().unwrap_or_default();
        let mut answer = Self {
            error: wire.error.or(groq_error).map(InBandError::read),
            choices: choices.len(),
            ..Self::default()
        };
        let mut raw_usage = groq_usage;
        for choice in choices {
            answer.take(choice);
            raw_usage = choice.usage.or(raw_usage);
        }
        // What stands at the top is about the whole call.
        raw_usage = wire.usage.or(raw_usage);
        answer.usage = raw_usage.map(|raw| usage::read(raw.get()));
        Some(answer)
    }

    /// Whether this is the chunk that carries usage and no choices.
    pub(crate) fn is_usage_chunk(&self) -> bool {
        self.choices == 0 && self.usage.is_some() && self.error.is_none()
    }

    fn take(&mut self, choice: &Choice<'_>) {
        let texts = [choice.delta, choice.message];
        self.text_bytes += texts.iter().flatten().map(|text| text.0).sum::<u64>();
        // Some vendors send "" on every chunk but the last.
        let finished = choice
            .finish_reason
            .as_ref()
            .is_some_and(|reason| !reason.is_empty());
        if finished && choice.index < CHOICES_MAX {
            self.finished |= 1 << choice.index;
        }
    }
}

// === impl InBandError ===

impl InBandError {
    pub(crate) fn read(raw: &RawValue) -> Self {
        match serde_json::from_str::<WireError<'_>>(raw.get()) {
            Ok(error) => Self {
                message: error.message.map(text_of).unwrap_or_default(),
                kind: error.r#type.map(text_of),
                code: error.code.map(text_of),
            },
            Err(_) => Self {
                message: text_of(raw),
                ..Self::default()
            },
        }
    }
}

/// A string's text; any other value as it is written.
fn text_of(raw: &RawValue) -> String {
    let text = match serde_json::from_str::<String>(raw.get()) {
        Ok(text) => Cow::Owned(text),
        Err(_) => Cow::Borrowed(raw.get()),
    };
    text[..text.floor_char_boundary(ERROR_TEXT_BYTES_MAX)].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Answer {
        Answer::read(json.as_bytes()).unwrap()
    }

    fn output(answer: &Answer) -> Option<u64> {
        answer.usage.map(|usage| usage.unwrap().output)
    }

    #[test]
    fn usage_is_found_wherever_vendors_put_it() {
        let usage = r#"{"prompt_tokens":1,"completion_tokens":5}"#;
        for json in [
            format!(r#"{{"choices":[],"usage":{usage}}}"#),
            format!(r#"{{"choices":[{{"index":0,"usage":{usage}}}]}}"#),
            format!(r#"{{"choices":[],"x_groq":{{"id":"r","usage":{usage}}}}}"#),
            format!(r#"{{"choices":[],"usage":null,"x_groq":{{"usage":{usage}}}}}"#),
        ] {
            assert_eq!(output(&read(&json)), Some(5), "{json}");
        }
        assert_eq!(output(&read(r#"{"choices":[],"usage":null}"#)), None);
    }

    #[test]
    fn only_a_chunk_without_choices_is_the_usage_chunk() {
        let usage = r#""usage":{"prompt_tokens":1,"completion_tokens":5}"#;
        assert!(read(&format!(r#"{{"choices":[],{usage}}}"#)).is_usage_chunk());
        assert!(read(&format!(r#"{{"choices":null,{usage}}}"#)).is_usage_chunk());
        assert!(
            !read(&format!(
                r#"{{"choices":[{{"finish_reason":"stop"}}],{usage}}}"#
            ))
            .is_usage_chunk()
        );
        assert!(!read(r#"{"choices":[],"usage":null}"#).is_usage_chunk());
        assert!(!read(r#"{"choices":[],"prompt_filter_results":[]}"#).is_usage_chunk());
    }

    #[test]
    fn every_choice_that_ends_is_noted_once() {
        let json = r#"{"choices":[{"index":2,"finish_reason":"stop","delta":{}},{"index":0,"finish_reason":""},{"index":127,"finish_reason":"length"},{"index":4000,"finish_reason":"stop"}]}"#;
        assert_eq!(read(json).finished, 1 << 2 | 1 << 127);
    }

    #[test]
    fn an_error_may_be_an_object_or_a_string() {
        let error = read(r#"{"error":{"message":"no","type":"server_error","code":503}}"#)
            .error
            .unwrap();
        assert_eq!(error.message, "no");
        assert_eq!(error.kind.as_deref(), Some("server_error"));
        assert_eq!(error.code.as_deref(), Some("503"));
        assert_eq!(read(r#"{"error":"no"}"#).error.unwrap().message, "no");
        assert_eq!(read(r#"{"error":null,"choices":[]}"#).error, None);
        assert!(
            read(r#"{"choices":[],"x_groq":{"error":"over"}}"#)
                .error
                .is_some()
        );
        let long = format!(r#"{{"error":"{}"}}"#, "é".repeat(2000));
        assert_eq!(
            read(&long).error.unwrap().message.len(),
            ERROR_TEXT_BYTES_MAX
        );
    }

    #[test]
    fn text_of_messages_and_deltas_is_counted() {
        let json = r#"{"choices":[{"delta":{"content":"ab"}},{"message":{"content":"cde","refusal":null}}]}"#;
        assert_eq!(read(json).text_bytes, 5);
        assert_eq!(Answer::read(b"<html>"), None);
    }
}
