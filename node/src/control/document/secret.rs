//! References to secrets: `{env: NAME}`, `{file: PATH}`, `{value: TEXT}`, `{stored: FINGERPRINT}`.

use super::fields::Fields;
use super::node::Node;
use super::write::map;
use super::{Faults, Position};
use crate::secrets::{Secret, hex};

/// Longest secret, in bytes: a service account's key file fits four times.
pub(crate) const MAX_SECRET_BYTES: usize = 8 << 10;

/// Where a secret comes from, and where the document says so.
#[derive(Clone, Debug)]
pub struct SecretRef {
    /// Where it comes from.
    pub source: SecretSource,
    /// Where the reference stands.
    pub at: Position,
}

/// Where a secret comes from.
#[derive(Clone, Debug)]
pub enum SecretSource {
    /// An environment variable of whoever runs the command.
    Env(String),
    /// A file of whoever runs the command.
    File(String),
    /// The document itself.
    Value(Secret),
    /// The cluster, which has it already.
    Stored([u8; 16]),
}

// === impl SecretRef ===

impl PartialEq for SecretRef {
    /// Positions do not matter.
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

// === impl SecretSource ===

impl PartialEq for SecretSource {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Env(a), Self::Env(b)) | (Self::File(a), Self::File(b)) => a == b,
            (Self::Value(a), Self::Value(b)) => a.expose() == b.expose(),
            (Self::Stored(a), Self::Stored(b)) => a == b,
            (Self::Env(_) | Self::File(_) | Self::Value(_) | Self::Stored(_), _) => false,
        }
    }
}

// === free functions ===

/// Reads one reference.
pub(super) fn read_secret(node: &Node, path: String, faults: &mut Faults) -> Option<SecretRef> {
    let at = node.at;
    let mut fields = Fields::of(node, path, faults)?;
    let given = ["env", "file", "value", "stored"].map(|way| fields.has(way));
    let texts =
        ["env", "file", "value", "stored"].map(|way| fields.text(way, faults).map(str::to_owned));
    if given.into_iter().filter(|given| *given).count() != 1 {
        let problem = "state the secret by exactly one of {env: NAME}, {file: PATH}, \
                       {value: TEXT} or {stored: FINGERPRINT}";
        fields.fault(problem, faults);
        return None;
    }
    let source = match texts {
        [Some(name), ..] => SecretSource::Env(name),
        [_, Some(path), ..] => SecretSource::File(path),
        [_, _, Some(text), _] if (1..=MAX_SECRET_BYTES).contains(&text.len()) => {
            SecretSource::Value(Secret::new(text))
        }
        [_, _, Some(_), _] => {
            fields.fault(
                format!("a secret has 1 to {MAX_SECRET_BYTES} bytes"),
                faults,
            );
            return None;
        }
        [_, _, _, Some(digits)] => {
            let Some(fingerprint) = parse_fingerprint(&digits) else {
                let problem =
                    "`stored` is not a fingerprint: take the 32 digits that `export` prints";
                fields.fault(problem, faults);
                return None;
            };
            SecretSource::Stored(fingerprint)
        }
        // It is there and no text, which was reported.
        [None, None, None, None] => return None,
    };
    fields.finish(&[], faults);
    Some(SecretRef { source, at })
}

/// Writes one reference.
pub(super) fn secret_node(source: &SecretSource) -> Node {
    let (name, text) = match source {
        SecretSource::Env(name) => ("env", name.clone()),
        SecretSource::File(path) => ("file", path.clone()),
        SecretSource::Value(secret) => ("value", secret.expose().to_owned()),
        SecretSource::Stored(fingerprint) => ("stored", hex(fingerprint)),
    };
    map([(name, Some(Node::text(text)))])
}

fn parse_fingerprint(text: &str) -> Option<[u8; 16]> {
    let digits: &[u8; 32] = text.as_bytes().try_into().ok()?;
    let mut fingerprint = [0; 16];
    for (byte, pair) in fingerprint.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |b: u8| char::from(b).to_digit(16);
        *byte = u8::try_from(digit(pair[0])? * 16 + digit(pair[1])?).ok()?;
    }
    Some(fingerprint)
}
