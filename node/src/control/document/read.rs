//! From text to drafts: the document's kinds in any order, every fault collected, duplicates told apart.

use std::collections::BTreeMap;

use mode_envoy_model::limits::PUT_OBJECTS;
use mode_envoy_model::object::{Kind, ObjectRef};

use super::kinds::read_object;
use super::node::{Entry, Node, Value, parse};
use super::{Document, Faults, Locator, Position, label};

/// Kinds that a later version brings.
const KINDS_LATER: &[&str] = &[
    "prompts",
    "apis",
    "products",
    "plans",
    "subscriptions",
    "policies",
    "certificates",
    "roles",
    "guardrails",
    "budgets",
];

/// Reads a document.
///
/// # Errors
///
/// Every fault found, in the order of the text.
pub fn read(text: &str) -> Result<Document, Faults> {
    let roots = parse(text)?;
    let mut faults = Faults::default();
    let mut document = Document::default();
    let mut seen = BTreeMap::new();
    for root in &roots {
        read_root(root, &mut document, &mut seen, &mut faults);
    }
    if document.drafts.len() > PUT_OBJECTS {
        let problem = format!(
            "the document has {} objects and {PUT_OBJECTS} are taken at once; apply it in parts",
            document.drafts.len()
        );
        faults.add(Position { line: 1, column: 1 }, "", problem);
    }
    if faults.is_empty() {
        document.locator = Locator::new(roots);
        return Ok(document);
    }
    faults.list.sort_by_key(|fault| fault.at);
    Err(faults)
}

fn read_root(
    root: &Node,
    document: &mut Document,
    seen: &mut BTreeMap<ObjectRef, Position>,
    faults: &mut Faults,
) {
    let Value::Map(entries) = &root.value else {
        let problem = format!(
            "a document has fields such as `tenants:`, and this is {}",
            root.what()
        );
        faults.add(root.at, "", problem);
        return;
    };
    for entry in entries {
        match Kind::ALL
            .into_iter()
            .find(|kind| kind.plural() == entry.key)
        {
            Some(kind) => read_kind(kind, entry, document, seen, faults),
            None => faults.add(entry.at, entry.key.clone(), unknown_kind(&entry.key)),
        }
    }
}

fn read_kind(
    kind: Kind,
    entry: &Entry,
    document: &mut Document,
    seen: &mut BTreeMap<ObjectRef, Position>,
    faults: &mut Faults,
) {
    let items = match &entry.value.value {
        Value::Null => return,
        Value::List(items) => items,
        Value::Bool(_) | Value::Number(_) | Value::Text(_) | Value::Map(_) => {
            let problem = format!("`{kind}s` is a list: let each object begin with `- name:`");
            faults.add(entry.value.at, entry.key.clone(), problem);
            return;
        }
    };
    for (index, item) in items.iter().enumerate() {
        let Some(draft) = read_object(kind, item, index, faults) else {
            continue;
        };
        let reference = draft.reference();
        if let Some(first) = seen.get(&reference) {
            let problem = format!("this name is taken by the object at line {}", first.line);
            faults.add(draft.at, label(&reference), problem);
            continue;
        }
        seen.insert(reference, draft.at);
        document.drafts.push(draft);
    }
}

fn unknown_kind(key: &str) -> String {
    if KINDS_LATER.contains(&key) {
        return format!("`{key}` is not in this version");
    }
    let kinds: Vec<_> = Kind::ALL.into_iter().map(Kind::plural).collect();
    format!(
        "`{key}` is not a kind of object; the kinds are {}",
        kinds.join(", ")
    )
}
