//! What may be asked of the configuration, and how a refusal reads.

use std::collections::BTreeMap;

use crate::catalog::WayBack;
use crate::key::{Key, SecretHash};
use crate::object::{Name, Object, ObjectRef};
use crate::provider::Resealed;
use crate::rotation::Rotation;
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
    /// As `Put`, and deletes what there is beside the objects, of their kinds and tenants.
    Prune {
        /// In any order; references may point within the list.
        objects: Vec<Object>,
        /// The caller knows that it may be more than a fifth of what there is.
        confirmed: bool,
        /// Decide and report, change nothing.
        dry_run: bool,
    },
    /// Makes the declarative objects what they were at a revision.
    Rollback {
        /// Which one.
        revision: u64,
        /// The revision from which the way back leads; refused at another one.
        base_revision: u64,
        /// What is to be put and deleted, found from the history.
        back: WayBack,
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
    /// Begins to replace the cluster secret.
    BeginRotation(Rotation),
    /// Goes on with that: every member is as far.
    AdvanceRotation {
        /// To the end; otherwise to the new secret.
        end: bool,
        /// Of the new secret of the rotation that is meant.
        check: [u8; 32],
    },
    /// Leaves the old secret in force.
    AbortRotation,
    /// Seals secrets of providers under the encryption key that a rotation has brought into force.
    Reseal {
        /// Which key.
        generation: u32,
        /// Some of the secrets that are sealed under the one before.
        providers: Vec<Resealed>,
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
    /// It was made for another revision.
    Conflict,
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

// === impl Command ===

impl Command {
    /// What the history says was asked for.
    pub fn origin(&self) -> String {
        let words = match self {
            Self::Found { .. } => "formation",
            Self::RaiseFormat { .. } => "format",
            Self::Put { .. } => "apply",
            Self::Prune { .. } => "apply --prune",
            Self::Rollback { revision, .. } => return format!("rollback to {revision}"),
            Self::Delete(_) => "delete",
            Self::CreateKey(_) => "keys create",
            Self::RotateKey { .. } => "keys rotate",
            Self::RevokeKey { .. } => "keys revoke",
            Self::CreateToken(_) => "tokens create",
            Self::RevokeToken { .. } => "tokens revoke",
            Self::CreateJoinToken { .. } => "cluster add-node",
            Self::Join { .. } => "join",
            Self::RemoveNode { .. } => "cluster remove-node",
            Self::BeginRotation(_) => "cluster rotate-secret",
            Self::AdvanceRotation { .. } | Self::Reseal { .. } => "rotation",
            Self::AbortRotation => "cluster rotate-secret --abort",
        };
        words.to_owned()
    }
}
