//! A YAML tree that remembers where each value stands.
//!
//! Parsed by `serde-saphyr`, whose budget bounds nesting, nodes and what aliases expand to. Duplicate keys are an
//! error. Nothing here is printable by `Debug`: a tree may hold secrets.

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeMap as _, Serializer};
use serde_saphyr::{DuplicateKeyPolicy, Location, Spanned};

use super::{Faults, MAX_BYTES, Position};

/// Nodes of one document: 20,000 objects with a hundred values each.
const MAX_NODES: usize = 2_000_000;
const MAX_DEPTH: usize = 32;
/// Aliases are allowed, to share a list of hosts and the like; expanding them must not multiply the document.
const MAX_ALIASES: usize = 10_000;

/// A value and where it stands.
#[derive(Clone)]
pub(super) struct Node {
    pub(super) at: Position,
    pub(super) value: Value,
}

/// A value.
#[derive(Clone)]
pub(super) enum Value {
    Null,
    Bool(bool),
    /// As it parsed; one that is not whole has a point or an exponent.
    Number(String),
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// One field of a map.
#[derive(Clone)]
pub(super) struct Entry {
    pub(super) key: String,
    /// Where the key stands.
    pub(super) at: Position,
    pub(super) value: Node,
}

/// Builds a [`Value`]; positions are added around it.
struct Bare(Value);

struct BareVisitor;

// === impl Node ===

impl Node {
    /// A value that no text stands for.
    pub(super) const fn of(value: Value) -> Self {
        Self {
            at: Position { line: 0, column: 0 },
            value,
        }
    }

    pub(super) fn text(text: impl Into<String>) -> Self {
        Self::of(Value::Text(text.into()))
    }

    pub(super) fn number(number: u64) -> Self {
        Self::of(Value::Number(number.to_string()))
    }

    /// A document that holds nothing.
    pub(super) const fn empty() -> Self {
        Self::of(Value::Map(Vec::new()))
    }

    /// What messages call it.
    pub(super) const fn what(&self) -> &'static str {
        match self.value {
            Value::Null => "nothing",
            Value::Bool(_) => "true or false",
            Value::Number(_) => "a number",
            Value::Text(_) => "a text",
            Value::List(_) => "a list",
            Value::Map(_) => "a set of fields",
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Bare>::deserialize(deserializer)?;
        Ok(Self {
            at: position(spanned.referenced),
            value: spanned.value.0,
        })
    }
}

impl Serialize for Node {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.value {
            Value::Null => serializer.serialize_unit(),
            Value::Bool(value) => serializer.serialize_bool(*value),
            Value::Number(text) => match text.parse::<u64>() {
                Ok(number) => serializer.serialize_u64(number),
                Err(_) => serializer.serialize_str(text),
            },
            Value::Text(text) => serializer.serialize_str(text),
            Value::List(items) => serializer.collect_seq(items),
            Value::Map(entries) => {
                let mut map = serializer.serialize_map(Some(entries.len()))?;
                for entry in entries {
                    map.serialize_entry(&entry.key, &entry.value)?;
                }
                map.end()
            }
        }
    }
}

// === impl Bare ===

impl<'de> Deserialize<'de> for Bare {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(BareVisitor).map(Self)
    }
}

impl<'de> Visitor<'de> for BareVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a value of YAML")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.to_string()))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Value, E> {
        Ok(Value::Number(value.to_string()))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Value, E> {
        Ok(Value::Number(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        // So that 600.0 and 6e2 are told from 600.
        Ok(Value::Number(format!("{value:?}")))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::Text(value))
    }

    fn visit_bytes<E: serde::de::Error>(self, _: &[u8]) -> Result<Value, E> {
        Err(E::custom("binary values are not used here; write a text"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Value::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = map.next_key::<Spanned<String>>()? {
            if entries.len() == MAX_NODES {
                return Err(A::Error::custom("a map with too many fields"));
            }
            let value = map.next_value()?;
            entries.push(Entry {
                key: key.value,
                at: position(key.referenced),
                value,
            });
        }
        Ok(Value::Map(entries))
    }
}

// === free functions ===

/// The documents of a text (`---` separates them); empty ones are left out.
pub(super) fn parse(text: &str) -> Result<Vec<Node>, Faults> {
    if text.len() > MAX_BYTES {
        let problem = format!(
            "the document has {} bytes and {MAX_BYTES} are taken at once; apply it in parts",
            text.len()
        );
        return Err(Faults::one(Position { line: 1, column: 1 }, problem));
    }
    let budget = serde_saphyr::budget! {
        max_nodes: MAX_NODES,
        max_events: 2 * MAX_NODES,
        max_depth: MAX_DEPTH,
        flow_nesting_limit: MAX_DEPTH,
        max_aliases: MAX_ALIASES,
        max_anchors: MAX_ALIASES,
        max_total_scalar_bytes: 2 * MAX_BYTES,
    };
    let options = serde_saphyr::options! {
        budget: budget,
        duplicate_keys: DuplicateKeyPolicy::Error,
        strict_booleans: true,
        with_snippet: false,
    };
    serde_saphyr::from_multiple_with_options::<Node>(text, options).map_err(|error| {
        let at = error.location().map_or_else(Position::default, position);
        // The message repeats the position in words of its own; ours stands before it.
        let message = error.without_snippet().to_string();
        let first = message.lines().next().unwrap_or_default();
        let problem = first
            .split_once(" at line ")
            .map_or(first, |(problem, _)| problem);
        Faults::one(at, in_our_words(problem.trim()))
    })
}

/// What the YAML reader says, where it speaks of its own settings.
fn in_our_words(problem: &str) -> String {
    if let Some((what, _)) = problem.split_once(", set DuplicateKeyPolicy") {
        return format!("{what}; state it once");
    }
    if problem.starts_with("budget breached") {
        return "the document is too large once its aliases are expanded; write it out, or split it".to_owned();
    }
    problem.to_owned()
}

/// The canonical text of a tree.
pub(super) fn render(node: &Node) -> Result<String, serde_saphyr::SerializeError> {
    let options = serde_saphyr::ser_options! { prefer_block_scalars: false };
    serde_saphyr::to_string_with_options(node, options)
}

fn position(location: Location) -> Position {
    Position {
        line: location.line(),
        column: location.column(),
    }
}
