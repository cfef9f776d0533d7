//! The configuration as a YAML (or JSON) document: what `apply` takes and `export` prints.
//!
//! ```text
//! text --node--> tree with positions --read--> Drafts + faults        Drafts --write--> text
//! ```
//!
//! * A [`Draft`] is one object as the document states it. Its secrets are references still: the CLI resolves those to
//!   the environment and to files, the server seals values, and neither ever prints one.
//! * Every fault is reported at once, each with line and column. What a later version brings is told apart from what
//!   is wrong: "not in this version".
//! * `write` is canonical (order of kinds, then of names; defaults left out), and reading what it wrote gives the
//!   same drafts back.
//! * Whether values make sense together is not judged here: that is the catalog's business (`mode_envoy_model`).

mod compare;
mod fields;
mod kinds;
mod limit;
mod locate;
mod node;
mod read;
mod secret;
mod timeouts;
mod values;
mod write;

use std::fmt;

use mode_envoy_model::object::{Kind, Object, ObjectRef};

pub use self::compare::{FieldDiff, compare};
pub use self::locate::Locator;
pub use self::read::read;
pub use self::secret::{SecretRef, SecretSource};
pub use self::values::{format_duration, parse_duration};
pub use self::write::{from_object, write};

/// Longest document, in bytes.
pub const MAX_BYTES: usize = 8 << 20;
/// Faults that are reported one by one; what is beyond is only counted.
pub const MAX_FAULTS: usize = 100;

/// A place in a text, both numbers counted from 1; zero where it is not known.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct Position {
    /// Line.
    pub line: u64,
    /// Column, in characters.
    pub column: u64,
}

/// Something wrong with a document.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Fault {
    /// Where it stands.
    pub at: Position,
    /// Path of the field, such as `routes[acme/orders].match.paths[0]`; empty for the document as a whole.
    pub path: String,
    /// What is wrong and what to do.
    pub problem: String,
}

/// One object as a document states it.
#[derive(Clone, Debug, PartialEq)]
pub struct Draft {
    /// The object; a provider's keys are not in it.
    pub object: Object,
    /// A provider's keys, in order.
    pub keys: Vec<SecretRef>,
    /// Where the object begins.
    pub at: Position,
}

/// What a document holds.
#[derive(Debug, Default)]
pub struct Document {
    /// Objects in the order of the document.
    pub drafts: Vec<Draft>,
    /// Finds fields again by their paths.
    pub locator: Locator,
}

/// Everything that is wrong with a document.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Faults {
    /// In the order of the document.
    pub list: Vec<Fault>,
    /// How many more there are.
    pub omitted: usize,
}

// === impl Position ===

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

// === impl Fault ===

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            write!(f, "{}: {}", self.at, self.problem)
        } else {
            write!(f, "{}: {}: {}", self.at, self.path, self.problem)
        }
    }
}

// === impl Faults ===

impl Faults {
    fn one(at: Position, problem: String) -> Self {
        Self {
            list: vec![Fault {
                at,
                path: String::new(),
                problem,
            }],
            omitted: 0,
        }
    }

    fn add(&mut self, at: Position, path: impl Into<String>, problem: impl Into<String>) {
        if self.list.len() < MAX_FAULTS {
            self.list.push(Fault {
                at,
                path: path.into(),
                problem: problem.into(),
            });
        } else {
            self.omitted += 1;
        }
    }

    const fn is_empty(&self) -> bool {
        self.list.is_empty()
    }
}

// === impl Draft ===

impl Draft {
    /// Where the object belongs.
    pub fn reference(&self) -> ObjectRef {
        self.object.reference()
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the document cannot be read")?;
        self.list
            .iter()
            .try_for_each(|fault| write!(f, "\n  {fault}"))?;
        match self.omitted {
            0 => Ok(()),
            more => write!(f, "\n  and {more} more"),
        }
    }
}

impl std::error::Error for Faults {}

// === free functions ===

/// A document as it is written, in its own order, for printing as JSON.
///
/// # Errors
///
/// It is not YAML.
pub fn tree(text: &str) -> Result<impl serde::Serialize, Faults> {
    let mut roots = node::parse(text)?;
    Ok(if roots.is_empty() {
        node::Node::empty()
    } else {
        roots.swap_remove(0)
    })
}

/// How paths name an object: `routes[acme/orders]`.
pub fn label(at: &ObjectRef) -> String {
    label_of(at.kind, at.tenant.as_deref(), &at.name)
}

fn label_of(kind: Kind, tenant: Option<&str>, name: &str) -> String {
    match tenant {
        Some(tenant) => format!("{}[{tenant}/{name}]", kind.plural()),
        None => format!("{}[{name}]", kind.plural()),
    }
}

#[cfg(test)]
mod tests;
