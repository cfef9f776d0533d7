//! Reads the usage object of the OpenAI wire into disjoint classes.
//!
//! `prompt_tokens` includes cached and cache-written tokens and `completion_tokens` includes
//! reasoning. Vendors of the same wire differ in small things, all of which are read here: the
//! cached count may stand in `prompt_tokens_details.cached_tokens`, `prompt_cache_hit_tokens` or
//! `cached_tokens`; reasoning may have been counted beside the completion, which shows in the total.
//!
//! A count that is negative, absurd, no integer or at odds with the others makes the whole object
//! unusable: the caller estimates and says so, rather than billing nonsense.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use thiserror::Error;

use crate::usage::Usage;

/// A count above this is absurd for one call.
pub const TOKENS_MAX: u64 = 1_000_000_000;

/// Why a reported usage cannot be used.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum UnusableUsage {
    /// It is not an object of the known shape.
    #[error("reading reported usage: not an object of the known shape")]
    NotAnObject,
    /// A count that must be there is not.
    #[error("reading reported usage: `{field}` is missing")]
    Missing {
        /// The field.
        field: &'static str,
    },
    /// A count is negative or no integer.
    #[error("reading reported usage: `{field}` is not a count")]
    NotACount {
        /// The field.
        field: &'static str,
    },
    /// A count is above [`TOKENS_MAX`].
    #[error("reading reported usage: `{field}` is absurd")]
    Absurd {
        /// The field.
        field: &'static str,
    },
    /// A part is larger than its whole.
    #[error("reading reported usage: `{field}` is more than what it is a part of")]
    Inconsistent {
        /// The field.
        field: &'static str,
    },
}

#[derive(Deserialize)]
struct Wire {
    prompt_tokens: Option<Count>,
    completion_tokens: Option<Count>,
    total_tokens: Option<Count>,
    prompt_tokens_details: Option<PromptDetails>,
    completion_tokens_details: Option<CompletionDetails>,
    prompt_cache_hit_tokens: Option<Count>,
    cached_tokens: Option<Count>,
}

#[derive(Default, Deserialize)]
struct PromptDetails {
    cached_tokens: Option<Count>,
    cache_write_tokens: Option<Count>,
}

#[derive(Default, Deserialize)]
struct CompletionDetails {
    reasoning_tokens: Option<Count>,
}

#[derive(Clone, Copy)]
enum Count {
    Tokens(u64),
    Not,
}

struct CountVisitor;

// === free functions ===

/// Reads the JSON of a usage object.
///
/// # Errors
///
/// [`UnusableUsage`], naming the field at fault.
pub fn read(json: &str) -> Result<Usage, UnusableUsage> {
    let wire: Wire = serde_json::from_str(json).map_err(|_| UnusableUsage::NotAnObject)?;
    let prompt_details = wire.prompt_tokens_details.unwrap_or_default();
    let completion_details = wire.completion_tokens_details.unwrap_or_default();

    let prompt = required("prompt_tokens", wire.prompt_tokens)?;
    let completion = required("completion_tokens", wire.completion_tokens)?;
    let cache_read = first_given(&[
        (
            "prompt_tokens_details.cached_tokens",
            prompt_details.cached_tokens,
        ),
        ("prompt_cache_hit_tokens", wire.prompt_cache_hit_tokens),
        ("cached_tokens", wire.cached_tokens),
    ])?;
    let written = "prompt_tokens_details.cache_write_tokens";
    let cache_write = first_given(&[(written, prompt_details.cache_write_tokens)])?;
    let reasoned = "completion_tokens_details.reasoning_tokens";
    let reasoning = first_given(&[(reasoned, completion_details.reasoning_tokens)])?;
    let total = first_given(&[("total_tokens", wire.total_tokens)])?;

    let Some(input_uncached) = prompt.checked_sub(cache_read + cache_write) else {
        let field = "prompt_tokens_details.cached_tokens";
        return Err(UnusableUsage::Inconsistent { field });
    };
    let beside = reasoning > 0 && total == prompt + completion + reasoning;
    let output = completion + if beside { reasoning } else { 0 };
    if reasoning > output {
        return Err(UnusableUsage::Inconsistent { field: reasoned });
    }
    Ok(Usage {
        input_uncached,
        cache_read,
        cache_write,
        output,
        reasoning,
    })
}

fn required(field: &'static str, count: Option<Count>) -> Result<u64, UnusableUsage> {
    if count.is_none() {
        return Err(UnusableUsage::Missing { field });
    }
    first_given(&[(field, count)])
}

/// The first count that is there, 0 where none is.
fn first_given(counts: &[(&'static str, Option<Count>)]) -> Result<u64, UnusableUsage> {
    for (field, count) in counts {
        match count {
            None => {}
            Some(Count::Tokens(tokens)) if *tokens <= TOKENS_MAX => return Ok(*tokens),
            Some(Count::Tokens(_)) => return Err(UnusableUsage::Absurd { field }),
            Some(Count::Not) => return Err(UnusableUsage::NotACount { field }),
        }
    }
    Ok(0)
}

// === impl Count ===

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(CountVisitor)
    }
}

impl<'de> Visitor<'de> for CountVisitor {
    type Value = Count;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a count of tokens")
    }

    fn visit_u64<E: serde::de::Error>(self, tokens: u64) -> Result<Count, E> {
        Ok(Count::Tokens(tokens))
    }

    fn visit_i64<E: serde::de::Error>(self, _: i64) -> Result<Count, E> {
        Ok(Count::Not)
    }

    fn visit_f64<E: serde::de::Error>(self, _: f64) -> Result<Count, E> {
        Ok(Count::Not)
    }

    fn visit_bool<E: serde::de::Error>(self, _: bool) -> Result<Count, E> {
        Ok(Count::Not)
    }

    fn visit_str<E: serde::de::Error>(self, _: &str) -> Result<Count, E> {
        Ok(Count::Not)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<Count, A::Error> {
        Err(A::Error::custom("a count of tokens is a number"))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Count, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Count::Not)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cached_written_and_reasoning_tokens_are_taken_out_of_their_wholes() {
        let json = r#"{"prompt_tokens":100,"completion_tokens":20,"total_tokens":120,
            "prompt_tokens_details":{"cached_tokens":60,"cache_write_tokens":10,"audio_tokens":0},
            "completion_tokens_details":{"reasoning_tokens":15}}"#;
        let usage = read(json).unwrap();
        assert_eq!(
            usage,
            Usage {
                input_uncached: 30,
                cache_read: 60,
                cache_write: 10,
                output: 20,
                reasoning: 15,
            }
        );
        assert_eq!((usage.input(), usage.total()), (100, 120));
    }

    #[test]
    fn details_may_be_absent_or_null() {
        let json = r#"{"prompt_tokens":3,"completion_tokens":2,"prompt_tokens_details":null,"total_tokens":null}"#;
        let usage = read(json).unwrap();
        assert_eq!((usage.input_uncached, usage.output), (3, 2));
    }

    #[test]
    fn vendors_name_cached_tokens_in_three_ways() {
        for field in [
            r#""prompt_tokens_details":{"cached_tokens":4}"#,
            r#""prompt_cache_hit_tokens":4"#,
            r#""cached_tokens":4"#,
        ] {
            let json = format!(r#"{{"prompt_tokens":9,"completion_tokens":1,{field}}}"#);
            let usage = read(&json).unwrap();
            assert_eq!((usage.input_uncached, usage.cache_read), (5, 4), "{field}");
        }
    }

    #[test]
    fn reasoning_counted_beside_the_completion_is_output_too() {
        let json = r#"{"prompt_tokens":10,"completion_tokens":5,"total_tokens":45,
            "completion_tokens_details":{"reasoning_tokens":30}}"#;
        let usage = read(json).unwrap();
        assert_eq!((usage.output, usage.reasoning), (35, 30));
    }

    #[test]
    fn nonsense_is_unusable_and_named() {
        use UnusableUsage as U;
        let cached = "prompt_tokens_details.cached_tokens";
        let reasoning = "completion_tokens_details.reasoning_tokens";
        let cases = [
            (
                r#"{"completion_tokens":1}"#,
                U::Missing {
                    field: "prompt_tokens",
                },
            ),
            (
                r#"{"prompt_tokens":1}"#,
                U::Missing {
                    field: "completion_tokens",
                },
            ),
            (
                r#"{"prompt_tokens":-1,"completion_tokens":1}"#,
                U::NotACount {
                    field: "prompt_tokens",
                },
            ),
            (
                r#"{"prompt_tokens":1.5,"completion_tokens":1}"#,
                U::NotACount {
                    field: "prompt_tokens",
                },
            ),
            (
                r#"{"prompt_tokens":"9","completion_tokens":1}"#,
                U::NotACount {
                    field: "prompt_tokens",
                },
            ),
            (
                r#"{"prompt_tokens":{"a":[1]},"completion_tokens":1}"#,
                U::NotACount {
                    field: "prompt_tokens",
                },
            ),
            (
                r#"{"prompt_tokens":1,"completion_tokens":1000000001}"#,
                U::Absurd {
                    field: "completion_tokens",
                },
            ),
            (
                r#"{"prompt_tokens":1,"completion_tokens":99999999999999999999999}"#,
                U::NotACount {
                    field: "completion_tokens",
                },
            ),
            (
                r#"{"prompt_tokens":1,"completion_tokens":1,"prompt_tokens_details":{"cached_tokens":2}}"#,
                U::Inconsistent { field: cached },
            ),
            (
                r#"{"prompt_tokens":1,"completion_tokens":1,"completion_tokens_details":{"reasoning_tokens":2}}"#,
                U::Inconsistent { field: reasoning },
            ),
            ("[]", U::NotAnObject),
            (r#""x""#, U::NotAnObject),
        ];
        for (json, expected) in cases {
            assert_eq!(read(json), Err(expected), "{json}");
        }
    }
}
