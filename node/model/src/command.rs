//! What may be asked of the configuration, and how a refusal reads.

use std::collections::BTreeMap;

use crate::key::{Key, SecretHash};
use crate::object::{Name, Object, ObjectRef};
use crate::token::Token;

/// An intent. Random ids, hashes and times in it were chosen by whoever asks.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Command {
    /// Gives a new cluster its identity, its wrapped encryption key and its first token.
    Found {
        /// Random, chosen at formation.
        cluster_id: [u8; 16],
        /// The cluster's encryption key, wrapped by the cluster secret.
        wrapped_key: Vec<u8>,
        /// The root token that is derived from the secret.
        root: Token,
    },
    /// Raises the version of messages that may stand in the log.
    RaiseFormat {
        /// The new version.
        version: u32,
    },
    /// Creates or replaces objects, all or none.
    Put {
        /// In any order; references may point within the list.
        objects: Vec<Object>,
        /// Decide and report, change nothing.
        dry_run: bool,
    },
    /// Deletes one object; refused while something refers to it.
    Delete(ObjectRef),
    /// Adds a key.
    CreateKey(Key),
    /// Replaces a key's secret.
    RotateKey {
        /// Owner, if the caller named it.
        tenant: Option<Name>,
        /// Name or id.
        name: Name,
        /// Hash of the new secret.
        hash: SecretHash,
        /// How long the old secret is still accepted.
        grace_ms: u64,
    },
    /// Removes a key for good.
    RevokeKey {
        /// Owner, if the caller named it.
        tenant: Option<Name>,
        /// Name or id.
        name: Name,
    },
    /// Adds an admin token.
    CreateToken(Token),
    /// Removes an admin token for good.
    RevokeToken {
        /// Name.
        name: Name,
    },
    /// Makes a token that lets one node join, once.
    CreateJoinToken {
        /// Hash of its secret.
        hash: SecretHash,
        /// For how long.
        valid_ms: u64,
    },
    /// Lets a node join that showed a token.
    Join {
        /// Hash of the token's secret.
        token: SecretHash,
        /// Hash of the number that the node drew.
        nonce: SecretHash,
        /// Address of its peer listener.
        peer: String,
        /// Peer addresses by node id, as the membership of whoever proposes has them.
        members: BTreeMap<u64, String>,
    },
    /// Removes a node for good.
    RemoveNode {
        /// Its id.
        node: u64,
        /// Peer addresses by node id, as the membership of whoever proposes has them.
        members: BTreeMap<u64, String>,
    },
}

/// What a command did to one object.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ChangeKind {
    /// It is new.
    Created,
    /// It was there and is different now.
    Updated,
    /// It was there already, the same.
    Unchanged,
    /// It is gone.
    Deleted,
}

/// One line of a report.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Change {
    /// `tenant`, `route`, … `key`, `token`.
    pub kind: &'static str,
    /// Owner, where the kind has one.
    pub tenant: Option<Name>,
    /// Name.
    pub name: Name,
    /// What happened.
    pub what: ChangeKind,
}

/// Why a command was refused.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RejectedCode {
    /// A value breaks a rule.
    Invalid,
    /// It refers to something that is not there.
    NotFound,
    /// The name is taken.
    Exists,
    /// Something still refers to it.
    InUse,
    /// A limit of the cluster would be passed.
    Limit,
    /// The caller's role does not allow it.
    Forbidden,
}

/// One fault: where it is and what to do about it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Violation {
    /// Path in the document, such as `routes[acme/orders].service`.
    pub path: String,
    /// What is wrong and what the caller can do.
    pub problem: String,
}

/// A refusal; nothing was changed.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("refused: {}", .violations.iter().map(|v| format!("{}: {}", v.path, v.problem)).collect::<Vec<_>>().join("; "))]
pub struct Rejected {
    /// The gravest reason.
    pub code: RejectedCode,
    /// Every fault found.
    pub violations: Vec<Violation>,
}

/// What an accepted command comes to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Decision {
    /// Empty where nothing changes: then nothing is written.
    pub events: Vec<crate::event::Event>,
    /// The report, one line per object named.
    pub changes: Vec<Change>,
}
