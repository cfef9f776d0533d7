//! Cheap looks at a frame's payload that tell whether it must be parsed at all.
//!
//! Nearly every frame of a stream is a piece of text whose other fields are `null`. Three substring
//! searches and one string scan are enough to see that, at a fraction of a parse. A probe may say
//! "parse" without need; it never says "plain" of a frame that carries more than text.
//!
//! Why a substring is safe: within a JSON string a quote is written `\"`, so `"usage"` with both
//! its quotes is a string of its own, and a key if a colon follows.

use std::sync::LazyLock;

use memchr::memmem::Finder;

static CHOICES: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(r#""choices""#));
static CONTENT: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(r#""content""#));
static ERROR: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(r#""error""#));
static FINISH: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(r#""finish_reason""#));
static USAGE: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(r#""usage""#));

/// What follows a key, as far as the bytes go.
enum Value<'a> {
    /// The key is there and its value begins here.
    Begins(&'a [u8]),
    /// The key is there and the bytes end before its value.
    Cut,
    /// The key is not there.
    Absent,
}

// === free functions ===

/// The decoded bytes of the content of a frame that carries one piece of text and nothing else
/// that matters; `None` where the frame must be parsed to know.
pub(crate) fn plain_content_bytes(payload: &[u8]) -> Option<u64> {
    let more = [&FINISH, &USAGE, &ERROR];
    if more.iter().any(|finder| is_set(payload, finder)) {
        return None;
    }
    let Value::Begins([b'"', string @ ..]) = value_of(payload, &CONTENT) else {
        return None;
    };
    let (decoded, behind) = string_bytes(string)?;
    // A second piece, or log probabilities, would be missed.
    let alone = decoded > 0 && CONTENT.find(behind).is_none();
    alone.then_some(decoded)
}

/// Whether the beginning of a payload leaves it possible that the whole is the chunk that carries
/// usage and no choices.
pub(crate) fn may_become_usage_chunk(beginning: &[u8]) -> bool {
    let beginning = beginning.trim_ascii_start();
    if beginning.first().is_some_and(|first| *first != b'{') {
        return false;
    }
    let no_choice = match value_of(beginning, &CHOICES) {
        Value::Absent | Value::Cut | Value::Begins([b'n', ..]) => true,
        Value::Begins([b'[', inside @ ..]) => {
            matches!(inside.trim_ascii_start().first(), None | Some(b']'))
        }
        Value::Begins(_) => false,
    };
    no_choice && !matches!(value_of(beginning, &USAGE), Value::Begins([b'n', ..]))
}

/// Whether the key has a value other than `null` anywhere.
fn is_set(payload: &[u8], finder: &Finder<'_>) -> bool {
    let mut rest = payload;
    loop {
        match value_of(rest, finder) {
            Value::Absent => return false,
            Value::Begins([b'n', behind @ ..]) => rest = behind,
            Value::Begins(_) | Value::Cut => return true,
        }
    }
}

fn value_of<'a>(json: &'a [u8], finder: &Finder<'_>) -> Value<'a> {
    let mut rest = json;
    while let Some(at) = finder.find(rest) {
        rest = rest[at + finder.needle().len()..].trim_ascii_start();
        match rest {
            [] => return Value::Cut,
            [b':', value @ ..] => {
                return match value.trim_ascii_start() {
                    [] => Value::Cut,
                    value => Value::Begins(value),
                };
            }
            // A string that happens to be called like the key.
            _ => {}
        }
    }
    Value::Absent
}

/// The decoded length of a JSON string, and what stands behind its closing quote.
fn string_bytes(string: &[u8]) -> Option<(u64, &[u8])> {
    let mut decoded = 0;
    let mut at = 0;
    loop {
        let plain = memchr::memchr2(b'"', b'\\', &string[at..])?;
        decoded += plain as u64;
        at += plain + 1;
        if string[at - 1] == b'"' {
            return Some((decoded, &string[at..]));
        }
        let escape = *string.get(at)?;
        at += 1;
        if escape != b'u' {
            decoded += 1;
            continue;
        }
        decoded += code_unit_bytes(string.get(at..at + 4)?)?;
        at += 4;
    }
}

/// The bytes of a UTF-16 unit in UTF-8; a surrogate is half of a character of four bytes.
fn code_unit_bytes(hex: &[u8]) -> Option<u64> {
    let hex = std::str::from_utf8(hex).ok()?;
    let unit = u16::from_str_radix(hex, 16).ok()?;
    Some(match unit {
        0..0x80 => 1,
        0x80..0x800 | 0xd800..=0xdfff => 2,
        _ => 3,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn probe(payload: &str) -> Option<u64> {
        plain_content_bytes(payload.as_bytes())
    }

    #[test]
    fn a_piece_of_text_needs_no_parse() {
        let piece = r#"{"id":"c","choices":[{"index":0,"delta":{"content":"h\u00e9\n\ud83d\ude00\"x"},"logprobs":null,"finish_reason":null}],"usage":null}"#;
        assert_eq!(probe(piece), Some(1 + 2 + 1 + 4 + 1 + 1));
        assert_eq!(
            probe(r#"{"choices": [{"delta": {"content": "ab"}, "finish_reason": null}]}"#),
            Some(2)
        );
    }

    #[test]
    fn a_frame_that_carries_more_is_parsed() {
        for payload in [
            r#"{"choices":[{"delta":{"content":"ab"},"finish_reason":"stop"}]}"#,
            r#"{"choices":[{"delta":{"content":"ab"},"finish_reason" : "stop"}]}"#,
            r#"{"choices":[{"delta":{"content":"ab"},"finish_reason":null},{"finish_reason":"length"}]}"#,
            r#"{"choices":[],"usage":{}}"#,
            r#"{"choices":[{"delta":{"content":"ab"}}],"usage":{"prompt_tokens":1}}"#,
            r#"{"error":{"message":"x"}}"#,
            r#"{"choices":[{"delta":{"content":""}}]}"#,
            r#"{"choices":[{"delta":{"content":null,"reasoning":"x"}}]}"#,
            r#"{"choices":[{"delta":{"content":"a"}},{"delta":{"content":"b"}}]}"#,
            r#"{"choices":[{"delta":{"content":"a"},"logprobs":{"content":[]}}]}"#,
            r#"{"choices":[{"delta":{"content":"cut"#,
            r#"{"choices":[{"delta":{"content":"\u12"}}]}"#,
            r#"{"choices":[{"delta":{"tool_calls":[]}}]}"#,
        ] {
            assert_eq!(probe(payload), None, "{payload}");
        }
    }

    #[test]
    fn words_in_the_text_are_not_keys() {
        let piece =
            json!({"choices": [{"delta": {"content": r#"{"usage":{"error":1},"content":"x"}"#}}]});
        assert_eq!(probe(&piece.to_string()), Some(35));
        assert_eq!(
            probe(r#"{"role":"usage","choices":[{"delta":{"content":"ab"}}]}"#),
            Some(2)
        );
    }

    #[test]
    fn a_beginning_is_held_only_while_it_may_become_the_usage_chunk() {
        let may = |beginning: &str| may_become_usage_chunk(beginning.as_bytes());
        for open in [
            "",
            "{",
            r#"{"id":"x","cho"#,
            r#"{"choices""#,
            r#"{"choices":"#,
            r#"{"choices": ["#,
            r#"{"choices":[]"#,
            r#"{"choices":null,"usage":"#,
            r#"{"choices":[],"usage":{"#,
        ] {
            assert!(may(open), "{open}");
        }
        for decided in [
            "[DONE]",
            "x",
            r#"{"choices":[{"#,
            r#"{"choices": [ {"#,
            r#"{"usage":null"#,
            r#"{"choices":[],"usage": n"#,
        ] {
            assert!(!may(decided), "{decided}");
        }
    }

    proptest! {
        #[test]
        fn the_scan_counts_what_a_parse_would(text in "\\PC{0,40}|[\\x00-\\x7f]{0,40}", ascii: bool) {
            let mut written = serde_json::to_string(&text).unwrap();
            if ascii {
                written = written.encode_utf16().map(|unit| match u8::try_from(unit) {
                    Ok(byte) if byte.is_ascii() => char::from(byte).to_string(),
                    _ => format!("\\u{unit:04x}"),
                }).collect();
            }
            let (decoded, behind) = string_bytes(&written.as_bytes()[1..]).unwrap();
            prop_assert_eq!(decoded, text.len() as u64);
            prop_assert!(behind.is_empty());
        }

        #[test]
        fn any_bytes_can_be_probed(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = plain_content_bytes(&bytes);
            let _ = may_become_usage_chunk(&bytes);
        }
    }
}
