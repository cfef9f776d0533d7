//! Finds the place in a text that a path speaks of, so that a refusal by the cluster points into the user's file.
//!
//! The catalog speaks of its own fields; most are spelled as in the document, and where a document nests one deeper
//! (`match`) or drops a unit (`connect_ms`), that is known here. A path that leads nowhere is placed as deep as it
//! leads.

use std::collections::BTreeMap;

use mode_envoy_model::object::Kind;

use super::node::{Node, Value};
use super::{Position, label_of};

/// Finds fields of one text by their paths.
#[derive(Default)]
pub struct Locator {
    objects: BTreeMap<String, Node>,
}

// === impl Locator ===

impl Locator {
    pub(super) fn new(roots: Vec<Node>) -> Self {
        let mut objects = BTreeMap::new();
        for root in roots {
            let Value::Map(kinds) = root.value else {
                continue;
            };
            for entry in kinds {
                let kind = Kind::parse(&entry.key);
                let (Some(kind), Value::List(items)) = (kind, entry.value.value) else {
                    continue;
                };
                for item in items {
                    if let Some(label) = object_label(kind, &item) {
                        objects.insert(label, item);
                    }
                }
            }
        }
        Self { objects }
    }

    /// Where `path` stands, if its object is in this text.
    pub fn find(&self, path: &str) -> Option<Position> {
        let end = path.find(']')? + 1;
        let mut node = self.objects.get(&path[..end])?;
        let mut at = node.at;
        for step in steps(&path[end..]) {
            let Some((found, place)) = descend(node, step) else {
                break;
            };
            (node, at) = (found, place);
        }
        Some(at)
    }
}

impl std::fmt::Debug for Locator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Locator({} objects)", self.objects.len())
    }
}

// === free functions ===

fn object_label(kind: Kind, item: &Node) -> Option<String> {
    let text = |key| match &field(item, key)?.0.value {
        Value::Text(text) => Some(text.as_str()),
        _ => None,
    };
    let tenant = if kind.has_tenant() {
        Some(text("tenant")?)
    } else if kind.takes_tenant() {
        text("tenant")
    } else {
        None
    };
    Some(label_of(kind, tenant, text("name")?))
}

/// `.targets[0].model` as `targets`, `0`, `model`.
fn steps(rest: &str) -> impl Iterator<Item = &str> {
    rest.split(['.', '[', ']']).filter(|step| !step.is_empty())
}

fn descend<'a>(node: &'a Node, step: &str) -> Option<(&'a Node, Position)> {
    match &node.value {
        Value::Map(_) => field(node, step)
            .or_else(|| field(node, step.strip_suffix("_ms")?))
            .or_else(|| field(field(node, "match")?.0, step)),
        Value::List(items) => {
            let item = items.get(step.parse::<usize>().ok()?)?;
            Some((item, item.at))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Text(_) => None,
    }
}

fn field<'a>(node: &'a Node, key: &str) -> Option<(&'a Node, Position)> {
    let Value::Map(entries) = &node.value else {
        return None;
    };
    entries
        .iter()
        .find(|e| e.key == key)
        .map(|e| (&e.value, e.value.at))
}
