//! Reads the fields of one map, and makes sure that none is left over.
//!
//! Each accessor takes its field; [`Fields::finish`] reports those that nobody took: as "not in this version" where a
//! later version has them, as unknown otherwise, with the fields that exist. An empty value (`field:`) is the same
//! as an absent field.

use std::sync::Arc;

use mode_envoy_model::limits::LIMIT_AMOUNT;

use super::node::{Entry, Node, Value};
use super::{Faults, Position};

/// The fields of one map.
pub(super) struct Fields<'a> {
    at: Position,
    path: String,
    entries: &'a [Entry],
    taken: Vec<bool>,
    known: Vec<&'static str>,
}

// === impl Fields ===

impl<'a> Fields<'a> {
    /// The fields of `node`; a fault and `None` where it has none.
    pub(super) fn of(node: &'a Node, path: String, faults: &mut Faults) -> Option<Self> {
        let Value::Map(entries) = &node.value else {
            faults.add(
                node.at,
                path,
                format!("this is {} where fields are expected", node.what()),
            );
            return None;
        };
        let taken = vec![false; entries.len()];
        Some(Self {
            at: node.at,
            path,
            entries,
            taken,
            known: Vec::new(),
        })
    }

    /// Calls the object by its name from here on.
    pub(super) fn rename(&mut self, path: String) {
        self.path = path;
    }

    pub(super) fn path_of(&self, name: &str) -> String {
        if self.path.is_empty() {
            name.to_owned()
        } else {
            format!("{}.{name}", self.path)
        }
    }

    /// Whether the field has a value; does not take it.
    pub(super) fn has(&self, name: &str) -> bool {
        self.entries
            .iter()
            .any(|e| e.key == name && !matches!(e.value.value, Value::Null))
    }

    /// Takes a field; `None` where it is absent or empty.
    pub(super) fn take(&mut self, name: &'static str) -> Option<&'a Node> {
        self.known.push(name);
        let index = self.entries.iter().position(|e| e.key == name)?;
        self.taken[index] = true;
        let node = &self.entries[index].value;
        (!matches!(node.value, Value::Null)).then_some(node)
    }

    /// Takes a text.
    pub(super) fn text(&mut self, name: &'static str, faults: &mut Faults) -> Option<&'a str> {
        let node = self.take(name)?;
        self.text_of(node, name, faults)
    }

    /// Takes a text that must be there.
    pub(super) fn required(&mut self, name: &'static str, faults: &mut Faults) -> Option<Arc<str>> {
        if !self.has(name) {
            self.known.push(name);
            self.fault(format!("`{name}` is missing"), faults);
            return None;
        }
        self.text(name, faults).map(Arc::from)
    }

    /// Takes a whole number.
    pub(super) fn number(&mut self, name: &'static str, faults: &mut Faults) -> Option<u64> {
        let node = self.take(name)?;
        let problem = match &node.value {
            Value::Number(text) => match text.parse() {
                Ok(number) => return Some(number),
                Err(_) => format!("{text} is not a whole number from 1 to {LIMIT_AMOUNT}"),
            },
            Value::Text(_) => {
                "this is a text where a whole number is expected; write digits without quotes"
                    .to_owned()
            }
            Value::Null | Value::Bool(_) | Value::List(_) | Value::Map(_) => {
                format!("this is {} where a whole number is expected", node.what())
            }
        };
        self.fault_at(node.at, name, problem, faults);
        None
    }

    /// Takes true or false; false where it is absent.
    pub(super) fn flag(&mut self, name: &'static str, faults: &mut Faults) -> bool {
        let Some(node) = self.take(name) else {
            return false;
        };
        if let Value::Bool(value) = node.value {
            return value;
        }
        let problem = format!("this is {} where true or false is expected", node.what());
        self.fault_at(node.at, name, problem, faults);
        false
    }

    /// Takes a list of texts; empty where it is absent.
    pub(super) fn texts(
        &mut self,
        name: &'static str,
        faults: &mut Faults,
    ) -> Vec<(&'a str, Position)> {
        let items = self.list(name, faults);
        items
            .into_iter()
            .enumerate()
            .filter_map(|(i, node)| {
                self.text_of(node, &format!("{name}[{i}]"), faults)
                    .map(|text| (text, node.at))
            })
            .collect()
    }

    /// Takes a list; empty where it is absent.
    pub(super) fn list(&mut self, name: &'static str, faults: &mut Faults) -> Vec<&'a Node> {
        let Some(node) = self.take(name) else {
            return Vec::new();
        };
        let Value::List(items) = &node.value else {
            let problem = format!(
                "this is {} where a list is expected: write `[…]` or lines that begin with `- `",
                node.what()
            );
            self.fault_at(node.at, name, problem, faults);
            return Vec::new();
        };
        items.iter().collect()
    }

    /// Takes a map within this one.
    pub(super) fn map(&mut self, name: &'static str, faults: &mut Faults) -> Option<Self> {
        let node = self.take(name)?;
        Fields::of(node, self.path_of(name), faults)
    }

    /// A node that must be a text.
    pub(super) fn text_of(
        &self,
        node: &'a Node,
        name: &str,
        faults: &mut Faults,
    ) -> Option<&'a str> {
        match &node.value {
            Value::Text(text) => Some(text),
            Value::Number(text) => {
                let problem =
                    format!("this is the number {text} where a text is expected; put it in quotes");
                self.fault_at(node.at, name, problem, faults);
                None
            }
            Value::Bool(value) => {
                let problem = format!(
                    "this is the boolean {value} where a text is expected; put it in quotes"
                );
                self.fault_at(node.at, name, problem, faults);
                None
            }
            Value::Null | Value::List(_) | Value::Map(_) => {
                let problem = format!("this is {} where a text is expected", node.what());
                self.fault_at(node.at, name, problem, faults);
                None
            }
        }
    }

    /// Where a field stands; the map itself where it has none such.
    pub(super) fn position_of(&self, name: &str) -> Position {
        self.entries
            .iter()
            .find(|e| e.key == name)
            .map_or(self.at, |e| e.value.at)
    }

    /// A fault of the map as a whole.
    pub(super) fn fault(&self, problem: impl Into<String>, faults: &mut Faults) {
        faults.add(self.at, self.path.clone(), problem);
    }

    /// A fault of one field.
    pub(super) fn fault_at(
        &self,
        at: Position,
        name: &str,
        problem: impl Into<String>,
        faults: &mut Faults,
    ) {
        faults.add(at, self.path_of(name), problem);
    }

    /// Reports what nobody took. `deferred` are fields of later versions.
    pub(super) fn finish(self, deferred: &[&str], faults: &mut Faults) {
        for (entry, taken) in self.entries.iter().zip(&self.taken) {
            if *taken {
                continue;
            }
            let problem = if deferred.contains(&entry.key.as_str()) {
                format!("`{}` is not in this version", entry.key)
            } else {
                format!(
                    "`{}` is not a field here; the fields are {}",
                    entry.key,
                    self.known.join(", ")
                )
            };
            faults.add(entry.at, self.path_of(&entry.key), problem);
        }
    }
}
