//! The top-level fields of a JSON object, each as it is written and where it stands.
//!
//! One scan finds the places; values are parsed only where someone asks. A key that stands twice is
//! refused, since its meaning would depend on who reads it.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::openai::request::{FIELDS_MAX, MODEL_BYTES_MAX, RequestError};

/// The fields of one object, as they are written.
pub(crate) struct Fields<'a> {
    entries: Vec<(Cow<'a, str>, &'a RawValue)>,
    too_many: bool,
}

struct FieldsVisitor;
struct Key<'a>(Cow<'a, str>);
struct KeyVisitor;

// === impl Fields ===

impl<'a> Fields<'a> {
    /// Scans an object.
    pub(crate) fn read(text: &'a str) -> Result<Self, RequestError> {
        if !text.trim_ascii_start().starts_with('{') {
            // A parse tells text that is not JSON from JSON that is not an object.
            return Err(match serde_json::from_str::<&RawValue>(text) {
                Ok(_) => RequestError::NotAnObject,
                Err(error) => not_json(&error),
            });
        }
        let fields: Self = serde_json::from_str(text).map_err(|error| not_json(&error))?;
        if fields.too_many {
            return Err(RequestError::TooManyFields);
        }
        for (nth, (key, _)) in fields.entries.iter().enumerate() {
            if fields.entries[..nth]
                .iter()
                .any(|(earlier, _)| earlier == key)
            {
                let shown = key.floor_char_boundary(MODEL_BYTES_MAX);
                let param = key[..shown].to_owned();
                return Err(RequestError::Duplicate { param });
            }
        }
        Ok(fields)
    }

    /// The value of a field, where it is there and not `null`.
    pub(crate) fn get(&self, key: &str) -> Option<&'a RawValue> {
        self.written(key).filter(|raw| raw.get() != "null")
    }

    /// The value of a field, where it is there.
    pub(crate) fn written(&self, key: &str) -> Option<&'a RawValue> {
        let (_, raw) = self.entries.iter().find(|(name, _)| name == key)?;
        Some(raw)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The value of a field that must be there and not be `null`.
    pub(crate) fn required(&self, param: &'static str) -> Result<&'a RawValue, RequestError> {
        self.get(param).ok_or(RequestError::Missing { param })
    }
}

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(FieldsVisitor)
    }
}

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Fields<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
        let mut fields = Fields {
            entries: Vec::with_capacity(8),
            too_many: false,
        };
        while let Some(Key(key)) = map.next_key()? {
            let value = map.next_value()?;
            if fields.entries.len() < FIELDS_MAX {
                fields.entries.push((key, value));
            } else {
                fields.too_many = true;
            }
        }
        Ok(fields)
    }
}

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(KeyVisitor)
    }
}

impl<'de> Visitor<'de> for KeyVisitor {
    type Value = Key<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_borrowed_str<E: serde::de::Error>(self, key: &'de str) -> Result<Key<'de>, E> {
        Ok(Key(Cow::Borrowed(key)))
    }

    fn visit_str<E: serde::de::Error>(self, key: &str) -> Result<Key<'de>, E> {
        Ok(Key(Cow::Owned(key.to_owned())))
    }
}

// === free functions ===

/// Where a value that borrows from `text` stands in it.
pub(crate) fn place(text: &str, raw: &RawValue) -> Range<usize> {
    let start = raw.get().as_ptr().addr() - text.as_ptr().addr();
    start..start + raw.get().len()
}

fn not_json(error: &serde_json::Error) -> RequestError {
    RequestError::NotJson {
        reason: error.to_string(),
    }
}
