//! An embeddings request and the usage of its answer: read as far as the gateway must, forwarded as the client wrote it.
//!
//! As for chat, only the model's name is replaced; the format of the numbers (`encoding_format`: the official clients ask
//! for base64) is between the client and the provider.
//!
//! Limits: [`INPUTS_MAX`] inputs, none of them empty.

use std::ops::Range;

use bytes::Bytes;
use serde::Deserialize;
use serde::de::DeserializeSeed as _;
use serde_json::value::RawValue;

use crate::openai::answer::InBandError;
use crate::openai::fields::{Fields, place};
use crate::openai::request::{RequestError, read_model, splice};
use crate::usage::Usage;

mod inputs;

use inputs::InputsSeed;
pub(crate) use inputs::{Begin, Input, Keep};

/// Most inputs of one request.
pub const INPUTS_MAX: usize = 2_048;

const INPUT_EXPECTED: &str =
    "a text, an array of tokens, or an array of 1 to 2048 of either, none of them empty";

/// A request that has been read.
#[derive(Clone, Debug)]
pub struct EmbeddingsRequest {
    /// The model that the client asks for.
    pub model: String,
    /// Bytes of all inputs, for the estimate of their tokens; a token counts as four.
    pub text_bytes: u64,
    body: Bytes,
    model_at: Range<usize>,
}

/// What an answer said.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct EmbeddingsOutcome {
    /// The usage that the provider reported, where it can be used; there is input only.
    pub usage: Option<Usage>,
    /// An error in the body of an answer with status 200.
    pub in_band_error: Option<InBandError>,
}

#[derive(Deserialize)]
struct Wire<'a> {
    /// Read apart, so that one that cannot be used hides nothing else.
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct WireUsage {
    prompt_tokens: Option<u64>,
    total_tokens: Option<u64>,
}

// === impl EmbeddingsRequest ===

impl EmbeddingsRequest {
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
        let inputs = read_inputs(&fields, Keep::NOTHING)?;
        Ok(Self {
            model,
            text_bytes: inputs.iter().map(|input| input.bytes).sum(),
            model_at,
            body,
        })
    }

    /// The body for an upstream that calls the model `upstream_model`; every other byte stays as the client wrote it.
    pub fn rewrite(&self, upstream_model: &str) -> Bytes {
        if upstream_model == self.model {
            return self.body.clone();
        }
        // A string cannot fail to be written as JSON.
        let name = serde_json::to_string(upstream_model).unwrap_or_default();
        splice(&self.body, &[(self.model_at.clone(), name.as_str())])
    }
}

// === free functions ===

/// What a request wants embedded: one input at least, of each as much as is to be kept.
pub(crate) fn read_inputs<'a>(
    fields: &Fields<'a>,
    keep: Keep,
) -> Result<Vec<Input<'a>>, RequestError> {
    let raw = fields.required("input")?;
    let mut json = serde_json::Deserializer::from_str(raw.get());
    InputsSeed(keep)
        .deserialize(&mut json)
        .map_err(|_| RequestError::Invalid {
            param: "input",
            expected: INPUT_EXPECTED,
        })
}

/// Reads a whole answer. One that is not of the known shape says nothing.
pub fn scan(body: &[u8]) -> EmbeddingsOutcome {
    let Ok(wire) = serde_json::from_slice::<Wire<'_>>(body) else {
        return EmbeddingsOutcome::default();
    };
    EmbeddingsOutcome {
        usage: wire.usage.and_then(read_usage),
        in_band_error: wire.error.map(InBandError::read),
    }
}

/// `None` where it cannot be used.
fn read_usage(raw: &RawValue) -> Option<Usage> {
    let usage: WireUsage = serde_json::from_str(raw.get()).ok()?;
    Some(Usage {
        input_uncached: usage.prompt_tokens.or(usage.total_tokens)?,
        ..Usage::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> Result<EmbeddingsRequest, RequestError> {
        EmbeddingsRequest::read(Bytes::copy_from_slice(body.as_bytes()))
    }

    #[test]
    fn every_kind_of_input_is_taken_and_counted() {
        for (input, bytes) in [
            (r#""naïve""#, 6),
            (r#"["ab", "c"]"#, 3),
            ("[1, 2, 3]", 12),
            ("[[1], [2, 3]]", 12),
        ] {
            let request = read(&format!(r#"{{"model": "m", "input": {input}}}"#)).unwrap();
            assert_eq!(request.text_bytes, bytes, "{input}");
        }
    }

    #[test]
    fn what_cannot_be_embedded_is_refused_by_name() {
        let many = serde_json::to_string(&vec!["x"; INPUTS_MAX + 1]).unwrap();
        for input in [
            r#""""#,
            "[]",
            r#"["a", ""]"#,
            "[[]]",
            "1",
            "{}",
            "[-1]",
            &many,
        ] {
            let error = read(&format!(r#"{{"model": "m", "input": {input}}}"#)).unwrap_err();
            assert_eq!(error.param(), Some("input"), "{input}");
        }
        assert_eq!(
            read(r#"{"model": "m"}"#).unwrap_err().param(),
            Some("input")
        );
        assert_eq!(
            read(r#"{"input": "x"}"#).unwrap_err().param(),
            Some("model")
        );
    }

    #[test]
    fn only_the_models_name_is_rewritten() {
        let body = r#"{ "input":"x", "model":"mine" , "dimensions": 1.0e2 }"#;
        let sent = read(body).unwrap().rewrite("theirs");
        assert_eq!(sent, body.replace("mine", "theirs"));
    }

    #[test]
    fn an_answer_has_input_only() {
        let outcome = scan(br#"{"data":[],"usage":{"prompt_tokens":8,"total_tokens":8}}"#);
        let usage = outcome.usage.unwrap();
        assert_eq!((usage.input(), usage.output), (8, 0));
        assert_eq!(
            scan(br#"{"usage":{"prompt_tokens":-8}}"#),
            EmbeddingsOutcome::default()
        );
        let refused = scan(br#"{"error":{"message":"too long"}}"#);
        assert_eq!(refused.in_band_error.unwrap().message, "too long");
    }

    #[test]
    fn a_usage_that_cannot_be_used_hides_no_error() {
        for usage in [
            r#"{"prompt_tokens":-1,"total_tokens":-1}"#,
            r#"{"prompt_tokens":1.5}"#,
            r#"{"prompt_tokens":"8"}"#,
            r#""none""#,
            "[]",
        ] {
            let outcome = scan(format!(r#"{{"usage":{usage},"error":"over"}}"#).as_bytes());
            assert_eq!(outcome.in_band_error.unwrap().message, "over", "{usage}");
            assert_eq!(outcome.usage, None, "{usage}");
        }
        let both = scan(br#"{"error":"over","usage":{"prompt_tokens":8}}"#);
        assert_eq!(both.in_band_error.unwrap().message, "over");
        assert_eq!(both.usage.unwrap().input(), 8);
    }
}
