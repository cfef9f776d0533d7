//! A chat completions request: read as far as the gateway must, forwarded as the client wrote it.
//!
//! The gateway needs a handful of fields; everything else is the provider's business. So the body
//! is scanned once for the places of its top-level values, and rewriting it for an upstream splices
//! those places: order, spacing, unknown fields and the digits of numbers survive byte for byte.
//!
//! What is refused, because its meaning would depend on who reads it: bodies that are not one JSON
//! object, a key twice in an object that the gateway reads, values of the wrong type in fields that
//! decide routing, price or limits. Values that are `null` count as absent.
//!
//! Limits: [`FIELDS_MAX`] fields, [`MODEL_BYTES_MAX`] bytes of model name, [`CHOICES_MAX`] choices.
//! Values that are skipped cost no stack, however deep; messages may nest as deep as `serde_json`
//! allows (128). The size of the body is its reader's limit.

use std::ops::Range;

use bytes::Bytes;
use serde_json::value::RawValue;
use thiserror::Error;

use crate::error::{ErrorBody, ErrorCode};
use crate::openai::fields::{Fields, place};
use crate::openai::text::Messages;

/// Most fields of an object that the gateway reads.
pub const FIELDS_MAX: usize = 128;
/// Longest model name, in bytes.
pub const MODEL_BYTES_MAX: usize = 256;
/// Most choices that a request may ask for.
pub const CHOICES_MAX: u32 = 128;

/// A request that has been read.
///
/// ```
/// use bytes::Bytes;
/// use mode_envoy_ai::openai::request::ChatRequest;
///
/// let body = r#"{"model": "fast", "messages": [{"role": "user", "content": "hi"}], "x": 1.0}"#;
/// let request = ChatRequest::read(Bytes::from(body))?;
/// assert_eq!((request.model.as_str(), request.stream), ("fast", false));
/// let sent = request.rewrite("gpt-4o", true);
/// assert_eq!(sent, body.replace("fast", "gpt-4o"));
/// # Ok::<(), mode_envoy_ai::openai::request::RequestError>(())
/// ```
#[derive(Clone, Debug)]
pub struct ChatRequest {
    /// The model that the client asks for.
    pub model: String,
    /// Whether the answer shall be an event stream.
    pub stream: bool,
    /// Whether the client wants a chunk with usage at the end of its stream.
    pub client_wants_usage: bool,
    /// How many choices the client asks for.
    pub choices: u32,
    /// The most tokens that each choice may have, where the client says.
    pub max_output: Option<u64>,
    /// How many messages the prompt has.
    pub message_count: usize,
    /// Bytes of text in the prompt, for the estimate of its tokens.
    pub text_bytes: u64,
    body: Bytes,
    model_at: Range<usize>,
    include_usage: IncludeUsage,
}

/// Why a request is refused.
#[derive(Debug, Error)]
pub enum RequestError {
    /// The body is not UTF-8.
    #[error("reading the request: the body is not UTF-8 from byte {at} on")]
    NotUtf8 {
        /// The first byte that is wrong.
        at: usize,
    },
    /// The body is not JSON.
    #[error("reading the request: the body is not valid JSON: {reason}")]
    NotJson {
        /// What the parser found, with line and column.
        reason: String,
    },
    /// The body is not a JSON object.
    #[error("reading the request: the body must be a JSON object")]
    NotAnObject,
    /// An object has more than [`FIELDS_MAX`] fields.
    #[error("reading the request: more than {FIELDS_MAX} fields in one object")]
    TooManyFields,
    /// A key stands twice in one object, so its meaning would depend on the reader.
    #[error("reading the request: the field `{param}` is given twice")]
    Duplicate {
        /// The field.
        param: String,
    },
    /// A field that must be there is not.
    #[error("reading the request: you must provide `{param}`")]
    Missing {
        /// The field.
        param: &'static str,
    },
    /// A field has a value of the wrong type or out of range.
    #[error("reading the request: `{param}` must be {expected}")]
    Invalid {
        /// The field.
        param: &'static str,
        /// What it must be.
        expected: &'static str,
    },
}

/// Where `stream_options.include_usage` stands, or would stand.
#[derive(Clone, Debug)]
enum IncludeUsage {
    /// It is `true` already.
    Asked,
    /// It, or all of `stream_options`, has another value, which stands here.
    Replace(Range<usize>, &'static str),
    /// It is absent and belongs here.
    Insert(usize, &'static str),
}

// === impl ChatRequest ===

impl ChatRequest {
    /// Reads a request's body.
    ///
    /// # Errors
    ///
    /// [`RequestError`], naming the field and what it must be.
    pub fn read(body: Bytes) -> Result<Self, RequestError> {
        let text = std::str::from_utf8(&body).map_err(|error| RequestError::NotUtf8 {
            at: error.valid_up_to(),
        })?;
        let fields = Fields::read(text)?;
        let raw_model = fields.required("model")?;
        let model = read_model(raw_model)?;
        let model_at = place(text, raw_model);
        let messages = read_messages(fields.required("messages")?)?;
        let include_usage = read_include_usage(text, &fields, model_at.end)?;
        Ok(Self {
            model,
            stream: read_bool(&fields, "stream")?.unwrap_or(false),
            client_wants_usage: matches!(include_usage, IncludeUsage::Asked),
            choices: read_choices(&fields)?,
            max_output: read_max_output(&fields)?,
            message_count: messages.count,
            text_bytes: messages.text_bytes,
            model_at,
            include_usage,
            body,
        })
    }

    /// The body as the client sent it.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// The body for an upstream that calls the model `upstream_model`. A stream is asked for its
    /// usage where `ask_usage` is set; every other byte stays as the client wrote it.
    pub fn rewrite(&self, upstream_model: &str, ask_usage: bool) -> Bytes {
        let ask_usage = ask_usage && self.stream && !self.client_wants_usage;
        if !ask_usage && upstream_model == self.model {
            return self.body.clone();
        }
        // A string cannot fail to be written as JSON.
        let name = serde_json::to_string(upstream_model).unwrap_or_default();
        let model = (self.model_at.clone(), name.as_str());
        let usage = match &self.include_usage {
            _ if !ask_usage => None,
            IncludeUsage::Asked => None,
            IncludeUsage::Replace(at, text) => Some((at.clone(), *text)),
            IncludeUsage::Insert(at, text) => Some((*at..*at, *text)),
        };
        match usage {
            None => splice(&self.body, &[model]),
            Some(usage) if usage.0.start < model.0.start => splice(&self.body, &[usage, model]),
            Some(usage) => splice(&self.body, &[model, usage]),
        }
    }
}

// === impl RequestError ===

impl RequestError {
    /// The field that is at fault.
    pub fn param(&self) -> Option<&str> {
        match self {
            Self::Duplicate { param } => Some(param),
            Self::Missing { param } | Self::Invalid { param, .. } => Some(param),
            Self::NotUtf8 { .. }
            | Self::NotJson { .. }
            | Self::NotAnObject
            | Self::TooManyFields => None,
        }
    }
}

impl From<&RequestError> for ErrorBody {
    fn from(error: &RequestError) -> Self {
        let body = Self::new(ErrorCode::RequestInvalid, error.to_string());
        match error.param() {
            Some(param) => body.with_param(param),
            None => body,
        }
    }
}

// === free functions ===

pub(super) fn read_model(raw: &RawValue) -> Result<String, RequestError> {
    let invalid = RequestError::Invalid {
        param: "model",
        expected: "a string of 1 to 256 bytes",
    };
    match serde_json::from_str::<String>(raw.get()) {
        Ok(model) if (1..=MODEL_BYTES_MAX).contains(&model.len()) => Ok(model),
        _ => Err(invalid),
    }
}

fn read_messages(raw: &RawValue) -> Result<Messages, RequestError> {
    match serde_json::from_str::<Messages>(raw.get()) {
        Ok(messages) if messages.count > 0 => Ok(messages),
        _ => Err(RequestError::Invalid {
            param: "messages",
            expected: "an array of at least one message object, nested at most 128 deep",
        }),
    }
}

fn read_bool(fields: &Fields<'_>, param: &'static str) -> Result<Option<bool>, RequestError> {
    match fields.get(param).map(RawValue::get) {
        None => Ok(None),
        Some("true") => Ok(Some(true)),
        Some("false") => Ok(Some(false)),
        Some(_) => Err(RequestError::Invalid {
            param,
            expected: "true or false",
        }),
    }
}

fn read_choices(fields: &Fields<'_>) -> Result<u32, RequestError> {
    let Some(raw) = fields.get("n") else {
        return Ok(1);
    };
    match serde_json::from_str(raw.get()) {
        Ok(choices @ 1..=CHOICES_MAX) => Ok(choices),
        _ => Err(RequestError::Invalid {
            param: "n",
            expected: "an integer from 1 to 128",
        }),
    }
}

/// The newer field wins where a client sends both.
fn read_max_output(fields: &Fields<'_>) -> Result<Option<u64>, RequestError> {
    let deprecated = read_positive(fields, "max_tokens")?;
    Ok(read_positive(fields, "max_completion_tokens")?.or(deprecated))
}

fn read_positive(fields: &Fields<'_>, param: &'static str) -> Result<Option<u64>, RequestError> {
    let Some(raw) = fields.get(param) else {
        return Ok(None);
    };
    match serde_json::from_str::<u64>(raw.get()) {
        Ok(tokens) if tokens > 0 => Ok(Some(tokens)),
        _ => Err(RequestError::Invalid {
            param,
            expected: "a positive integer",
        }),
    }
}

fn read_include_usage(
    text: &str,
    fields: &Fields<'_>,
    behind_model: usize,
) -> Result<IncludeUsage, RequestError> {
    let Some(raw) = fields.written("stream_options") else {
        let text = r#","stream_options":{"include_usage":true}"#;
        return Ok(IncludeUsage::Insert(behind_model, text));
    };
    if raw.get() == "null" {
        let text_of_options = r#"{"include_usage":true}"#;
        return Ok(IncludeUsage::Replace(place(text, raw), text_of_options));
    }
    if !raw.get().starts_with('{') {
        return Err(RequestError::Invalid {
            param: "stream_options",
            expected: "an object",
        });
    }
    let options = Fields::read(raw.get())?;
    let asked = read_bool(&options, "include_usage").map_err(|_| RequestError::Invalid {
        param: "stream_options.include_usage",
        expected: "true or false",
    })?;
    let inside = place(text, raw).start + 1;
    Ok(match options.written("include_usage") {
        _ if asked == Some(true) => IncludeUsage::Asked,
        Some(value) => IncludeUsage::Replace(place(text, value), "true"),
        None if options.is_empty() => IncludeUsage::Insert(inside, r#""include_usage":true"#),
        None => IncludeUsage::Insert(inside, r#""include_usage":true,"#),
    })
}

pub(super) fn splice(body: &[u8], edits: &[(Range<usize>, &str)]) -> Bytes {
    let added: usize = edits.iter().map(|(_, text)| text.len()).sum();
    let mut out = Vec::with_capacity(body.len() + added);
    let mut at = 0;
    for (range, text) in edits {
        out.extend_from_slice(&body[at..range.start]);
        out.extend_from_slice(text.as_bytes());
        at = range.end;
    }
    out.extend_from_slice(&body[at..]);
    Bytes::from(out)
}

#[cfg(test)]
#[path = "request/request_test.rs"]
mod tests;
