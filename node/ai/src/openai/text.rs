//! How many bytes of text a message carries, whatever shape its content has.
//!
//! The estimate of a call's tokens counts text: content strings and text parts, refusals, reasoning
//! and the arguments of tool calls. Images, audio, ids, roles and names are not text. One list of
//! keys serves prompts, answers and the deltas of a stream, so the three count alike.
//!
//! A shape that is not known counts as nothing; it is never an error.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// Keys whose values are text, or hold text.
const TEXT_KEYS: [&str; 12] = [
    "content",
    "text",
    "refusal",
    "reasoning",
    "reasoning_content",
    "thinking",
    "tool_calls",
    "function_call",
    "function",
    "custom",
    "arguments",
    "input",
];

/// The bytes of text in any JSON value.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct TextBytes(pub(crate) u64);

/// The messages of a prompt: how many, and their bytes of text.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Messages {
    pub(crate) count: usize,
    pub(crate) text_bytes: u64,
}

struct IsText(bool);
struct Message(u64);
struct TextVisitor;
struct MessagesVisitor;
struct KeyVisitor;

// === impl TextBytes ===

impl<'de> Deserialize<'de> for TextBytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextVisitor).map(Self)
    }
}

impl<'de> Visitor<'de> for TextVisitor {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<u64, E> {
        Ok(text.len() as u64)
    }

    fn visit_unit<E: Error>(self) -> Result<u64, E> {
        Ok(0)
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<u64, E> {
        Ok(0)
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<u64, E> {
        Ok(0)
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<u64, E> {
        Ok(0)
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<u64, E> {
        Ok(0)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<u64, A::Error> {
        let mut bytes = 0;
        while let Some(TextBytes(more)) = seq.next_element()? {
            bytes += more;
        }
        Ok(bytes)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<u64, A::Error> {
        let mut bytes = 0;
        while let Some(IsText(is_text)) = map.next_key()? {
            if is_text {
                bytes += map.next_value::<TextBytes>()?.0;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(bytes)
    }
}

// === impl IsText ===

impl<'de> Deserialize<'de> for IsText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_identifier(KeyVisitor)
    }
}

impl Visitor<'_> for KeyVisitor {
    type Value = IsText;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<IsText, E> {
        Ok(IsText(TEXT_KEYS.contains(&key)))
    }
}

// === impl Messages ===

impl<'de> Deserialize<'de> for Messages {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(MessagesVisitor)
    }
}

impl<'de> Visitor<'de> for MessagesVisitor {
    type Value = Messages;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Messages, A::Error> {
        let mut messages = Messages::default();
        while let Some(Message(bytes)) = seq.next_element()? {
            messages.count += 1;
            messages.text_bytes += bytes;
        }
        Ok(messages)
    }
}

impl<'de> Deserialize<'de> for Message {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(TextVisitor).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(json: &str) -> u64 {
        serde_json::from_str::<TextBytes>(json).unwrap().0
    }

    #[test]
    fn strings_and_text_parts_count_alike() {
        assert_eq!(bytes(r#"{"role":"user","content":"h\u00e9llo"}"#), 6);
        assert_eq!(
            bytes(r#"{"content":[{"type":"text","text":"abc"},{"type":"text","text":"de"}]}"#),
            5
        );
    }

    #[test]
    fn images_roles_and_ids_are_not_text() {
        let image =
            r#"{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:xxxx"}}]}"#;
        assert_eq!(bytes(image), 0);
        assert_eq!(bytes(r#"{"content":null,"n":1.5,"x":[true]}"#), 0);
    }

    #[test]
    fn arguments_and_reasoning_are_text() {
        assert_eq!(
            bytes(r#"{"tool_calls":[{"id":"a","function":{"name":"f","arguments":"{}"}}]}"#),
            2
        );
        assert_eq!(bytes(r#"{"content":"","reasoning_content":"hm"}"#), 2);
    }

    #[test]
    fn a_message_is_an_object() {
        let messages: Messages =
            serde_json::from_str(r#"[{"content":"a"},{"content":"bc"}]"#).unwrap();
        assert_eq!((messages.count, messages.text_bytes), (2, 3));
        assert!(serde_json::from_str::<Messages>(r#"["a"]"#).is_err());
        assert!(serde_json::from_str::<Messages>(r#"{"content":"a"}"#).is_err());
    }
}
