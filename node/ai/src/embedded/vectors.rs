//! The embedded model's embeddings: what a request asks for and how its answer is written; `signs.rs` has the vectors.
//!
//! An answer has [`NUMBERS_MAX`] numbers at most, and each stands for a bounded number of words: with that, what one
//! request may cost is bounded, whatever it holds.

use bytes::Bytes;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use crate::embedded::{refusal, wire};
use crate::error::ErrorBody;
use crate::estimate;
use crate::openai::embeddings::{EmbeddingsRequest, read_inputs};
use crate::openai::fields::Fields;

mod signs;

use signs::{KEEP, Vector};

const DIMENSIONS: usize = 256;
const DIMENSIONS_MAX: usize = 4_096;
/// Most numbers of one answer.
const NUMBERS_MAX: usize = 1 << 20;

/// How the numbers are written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Format {
    Float,
    Base64,
}

#[derive(Serialize)]
struct Answer<'a> {
    object: &'static str,
    data: Vec<Embedding>,
    model: &'a str,
    usage: Tokens,
}

#[derive(Serialize)]
#[expect(clippy::struct_field_names, reason = "the names are OpenAI's")]
struct Embedding {
    object: &'static str,
    index: usize,
    embedding: Numbers,
}

struct Numbers(Vector, Format);

#[derive(Serialize)]
struct Tokens {
    prompt_tokens: u64,
    total_tokens: u64,
}

// === impl Numbers ===

impl Serialize for Numbers {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.1 {
            Format::Float => serializer.collect_seq(self.0.entries()),
            Format::Base64 => {
                let bytes: Vec<u8> = self.0.entries().flat_map(f32::to_le_bytes).collect();
                serializer.serialize_str(&base64(&bytes))
            }
        }
    }
}

// === free functions ===

/// Answers an embeddings request.
///
/// # Errors
///
/// [`ErrorBody`] with status 400, naming the field at fault.
pub fn embeddings(body: &Bytes) -> Result<Bytes, ErrorBody> {
    let request = EmbeddingsRequest::read(body.clone()).map_err(|error| ErrorBody::from(&error))?;
    // It has just been read as UTF-8.
    let text = std::str::from_utf8(body).unwrap_or_default();
    let fields = Fields::read(text).map_err(|error| ErrorBody::from(&error))?;
    let (format, dimensions) = (read_format(&fields)?, read_dimensions(&fields)?);
    let inputs = read_inputs(&fields, KEEP).map_err(|error| ErrorBody::from(&error))?;
    if inputs.len().saturating_mul(dimensions) > NUMBERS_MAX {
        let why = "times the number of inputs must be at most 1048576; send fewer inputs at once";
        return Err(refusal("dimensions", why));
    }
    let data = inputs.iter().enumerate().map(|(index, input)| Embedding {
        object: "embedding",
        index,
        embedding: Numbers(Vector::of(input, dimensions), format),
    });
    let tokens = estimate::tokens(request.text_bytes);
    let answer = Answer {
        object: "list",
        data: data.collect(),
        model: &request.model,
        usage: Tokens {
            prompt_tokens: tokens,
            total_tokens: tokens,
        },
    };
    Ok(Bytes::from(wire::to_json(&answer)))
}

fn read_format(fields: &Fields<'_>) -> Result<Format, ErrorBody> {
    match fields.get("encoding_format").map(RawValue::get) {
        None | Some("\"float\"") => Ok(Format::Float),
        Some("\"base64\"") => Ok(Format::Base64),
        Some(_) => Err(refusal(
            "encoding_format",
            "must be \"float\" or \"base64\"",
        )),
    }
}

fn read_dimensions(fields: &Fields<'_>) -> Result<usize, ErrorBody> {
    let Some(raw) = fields.get("dimensions") else {
        return Ok(DIMENSIONS);
    };
    match raw.get().parse() {
        Ok(dimensions @ 1..=DIMENSIONS_MAX) => Ok(dimensions),
        _ => Err(refusal("dimensions", "must be an integer from 1 to 4096")),
    }
}

/// As RFC 4648 has it, with padding.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |at: usize| u32::from(chunk.get(at).copied().unwrap_or(0));
        let group = byte(0) << 16 | byte(1) << 8 | byte(2);
        for at in 0..4 {
            let digit = usize::try_from(group >> (18 - 6 * at) & 63).unwrap_or(0);
            out.push(if at <= chunk.len() {
                char::from(DIGITS[digit])
            } else {
                '='
            });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn ask(request: &Value) -> Result<Value, ErrorBody> {
        let body = Bytes::from(request.to_string());
        embeddings(&body).map(|answer| serde_json::from_slice(&answer).unwrap())
    }

    fn vector(request: &Value) -> Vec<f64> {
        let answer = ask(request).unwrap();
        let entries = answer["data"][0]["embedding"].as_array().unwrap();
        entries
            .iter()
            .map(|entry| entry.as_f64().unwrap())
            .collect()
    }

    fn near(a: &str, b: &str) -> f64 {
        let [a, b] = [a, b].map(|text| vector(&json!({"model": "m", "input": text})));
        a.iter().zip(&b).map(|(a, b)| a * b).sum()
    }

    #[test]
    fn equal_texts_are_equal_and_texts_that_share_words_are_near() {
        let text = "the quick brown fox jumps over the lazy dog";
        assert!((near(text, text) - 1.0).abs() < 1e-9);
        let kin = near(text, "the quick brown fox sleeps under the lazy dog");
        let stranger = near(text, "quarterly revenue grew faster than expected abroad");
        assert!(kin > 0.5 && stranger < 0.3, "{kin} {stranger}");
    }

    #[test]
    fn as_many_dimensions_as_are_asked_for_with_a_length_of_one() {
        for dimensions in [1, 3, 4, 100, 256, 1536, 4096] {
            let vector = vector(&json!({"model": "m", "input": "hello", "dimensions": dimensions}));
            assert_eq!(vector.len(), dimensions);
            let length: f64 = vector.iter().map(|entry| entry * entry).sum();
            assert!((length - 1.0).abs() < 1e-9, "{dimensions}: {length}");
        }
    }

    #[test]
    fn the_vector_of_a_text_is_the_same_everywhere_and_in_every_release() {
        for (input, expected) in [
            (
                json!("The fox"),
                "ffe58b7e95c6eff7e7f6ff614e3ae5eeefe5ed7dd7f7afebddfafa7fbffeb54d",
            ),
            (
                json!([1, 2]),
                "fff2ffbffeb5ff7b2efe6bf9fffe2febfdfeddddff677dfcefffefa1e3f6fe7f",
            ),
        ] {
            let vector = vector(&json!({"model": "m", "input": input, "dimensions": 256}));
            let bits = vector.chunks(8).map(|entries| {
                let plus = |byte: u8, entry: &f64| byte << 1 | u8::from(*entry > 0.0);
                entries.iter().fold(0, plus)
            });
            let bits: Vec<String> = bits.map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(bits.concat(), expected, "{input}");
        }
    }

    #[test]
    fn of_one_endless_word_the_begin_counts() {
        let ask = |bytes| json!({"model": "m", "input": "x".repeat(bytes), "dimensions": 4096});
        let endless = vector(&ask(4 << 20));
        assert_eq!(endless, vector(&ask(KEEP.text_bytes)));
        assert_ne!(endless, vector(&ask(KEEP.text_bytes - 1)));
    }

    #[test]
    fn of_many_words_the_first_count_each_as_often_as_it_stands() {
        let words = |count: usize| {
            let words: Vec<String> = (0..count).map(|nth| format!("w{nth}")).collect();
            words.join(" ")
        };
        let ask = |text: &str| vector(&json!({"model": "m", "input": text}));
        assert_eq!(ask(&words(KEEP.tokens)), ask(&words(KEEP.tokens + 100)));
        assert_ne!(ask(&words(KEEP.tokens)), ask(&words(KEEP.tokens - 10)));
        assert_eq!(ask(&"fox ".repeat(KEEP.tokens)), ask("fox"));
        assert_eq!(ask(&format!("{}dog", "fox ".repeat(3))), ask("FOX"));
    }

    #[test]
    fn each_input_has_its_vector_and_all_tokens_are_counted() {
        let answer = ask(&json!({"model": "m", "input": ["12345", [1, 2, 3]]})).unwrap();
        assert_eq!(answer["data"][1]["index"], 1);
        assert_eq!(
            answer["usage"],
            json!({"prompt_tokens": 5, "total_tokens": 5})
        );
        assert_eq!(answer["object"], "list");
    }

    #[test]
    fn base64_carries_the_same_numbers() {
        assert_eq!(
            ["", "f", "fo", "foo", "foobar"].map(|t| base64(t.as_bytes())),
            ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYmFy"]
        );
        let asked =
            json!({"model": "m", "input": "x", "dimensions": 1, "encoding_format": "base64"});
        let answer = ask(&asked).unwrap();
        let one = vector(&json!({"model": "m", "input": "x", "dimensions": 1}))[0];
        let expected = if one > 0.0 { "AACAPw==" } else { "AACAvw==" };
        assert_eq!(answer["data"][0]["embedding"], expected);
    }

    #[test]
    fn what_it_cannot_do_is_refused_by_name() {
        for (field, value) in [
            ("encoding_format", json!("int8")),
            ("dimensions", json!(0)),
            ("dimensions", json!(5000)),
            ("input", json!("")),
        ] {
            let mut request = json!({"model": "m", "input": "x"});
            request[field] = value;
            let refused = ask(&request).unwrap_err();
            assert_eq!(refused.param.as_deref(), Some(field));
        }
        let much = json!({"model": "m", "input": vec!["x"; 300], "dimensions": 4096});
        assert_eq!(ask(&much).unwrap_err().param.as_deref(), Some("dimensions"));
    }
}
