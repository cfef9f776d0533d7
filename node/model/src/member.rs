//! Who belongs to the cluster beside the nodes that formed it, who no longer does, and what lets a node in.
//!
//! The nodes of the formation stand in the membership of the consensus library only; here is what changed since. What the
//! membership should be follows from both: its nodes and those that joined, without those that were removed.
//!
//! Invariants: an id that was once used is never used again ([`Members::largest_id`] only grows, and what was removed stays
//! removed); a token lets in one node at most, and is gone when it has expired.

use std::sync::Arc;

use imbl::{OrdMap, OrdSet};

use crate::key::SecretHash;
use crate::limits;

/// A node that joined.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct JoinedNode {
    /// Its id.
    pub id: u64,
    /// Address of its peer listener.
    pub peer: Arc<str>,
    /// When it was let in; Unix milliseconds.
    pub joined_ms: u64,
}

/// What lets one node join, once.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct JoinToken {
    /// Hash of its secret.
    pub hash: SecretHash,
    /// Unix milliseconds.
    pub expires_ms: u64,
    /// Whom it let in, and the hash of the number that that node drew.
    pub used: Option<(u64, SecretHash)>,
}

/// What changed since the formation. Copies share.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Members {
    pub(crate) largest_id: u64,
    pub(crate) joined: OrdMap<u64, JoinedNode>,
    pub(crate) removed: OrdSet<u64>,
    pub(crate) tokens: OrdMap<SecretHash, JoinToken>,
}

// === impl JoinToken ===

impl JoinToken {
    /// Whether it lets nobody in any more.
    pub const fn has_expired(&self, now_ms: u64) -> bool {
        self.expires_ms <= now_ms
    }
}

// === impl Members ===

impl Members {
    /// From what a checkpoint holds.
    pub fn restore(
        largest_id: u64,
        joined: impl IntoIterator<Item = JoinedNode>,
        removed: impl IntoIterator<Item = u64>,
        tokens: impl IntoIterator<Item = JoinToken>,
    ) -> Self {
        Self {
            largest_id,
            joined: joined.into_iter().map(|node| (node.id, node)).collect(),
            removed: removed.into_iter().collect(),
            tokens: tokens.into_iter().map(|t| (t.hash, t)).collect(),
        }
    }

    /// The largest id of those that joined or were removed; 0 where there is none.
    pub const fn largest_id(&self) -> u64 {
        self.largest_id
    }

    /// The nodes that joined and were not removed, by id.
    pub fn joined(&self) -> impl Iterator<Item = &JoinedNode> {
        self.joined.values()
    }

    /// Whether a node was removed.
    pub fn is_removed(&self, id: u64) -> bool {
        self.removed.contains(&id)
    }

    /// The nodes that were removed.
    pub fn removed(&self) -> impl Iterator<Item = u64> {
        self.removed.iter().copied()
    }

    /// One token.
    pub fn token(&self, hash: &SecretHash) -> Option<&JoinToken> {
        self.tokens.get(hash)
    }

    /// Every token, used or not, by hash.
    pub fn tokens(&self) -> impl Iterator<Item = &JoinToken> {
        self.tokens.values()
    }

    /// Whether a token has expired and is still there.
    pub(crate) fn has_expired(&self, now_ms: u64) -> bool {
        self.tokens.values().any(|token| token.has_expired(now_ms))
    }

    /// Forgets tokens that have expired.
    pub(crate) fn expire(&mut self, now_ms: u64) {
        let kept = self.tokens.values().filter(|t| !t.has_expired(now_ms));
        self.tokens = kept.map(|token| (token.hash, token.clone())).collect();
    }

    pub(crate) fn put_token(&mut self, token: &JoinToken) {
        let known = self.tokens.contains_key(&token.hash);
        if known || self.tokens.len() < limits::JOIN_TOKENS {
            self.tokens.insert(token.hash, token.clone());
        }
    }

    /// Void where the id is not a new one.
    pub(crate) fn join(&mut self, node: &JoinedNode, token: &SecretHash, nonce: SecretHash) {
        if node.id <= self.largest_id || node.id > limits::NODE_IDS {
            return;
        }
        self.largest_id = node.id;
        self.joined.insert(node.id, node.clone());
        if let Some(token) = self.tokens.get_mut(token) {
            token.used = Some((node.id, nonce));
        }
    }

    pub(crate) fn remove(&mut self, id: u64) {
        if id == 0 || id > limits::NODE_IDS {
            return;
        }
        self.largest_id = self.largest_id.max(id);
        self.joined.remove(&id);
        self.removed.insert(id);
    }
}
