//! A restored state becomes the state of another cluster, of one node.
//!
//! What was configured, its revision, its history and what was used stay as they are. What says whose state it is changes: the
//! cluster's id, the form in which its encryption key is kept, the token that everybody derives who holds the secret, and who
//! belongs to the cluster.
//!
//! Invariants: no node id that was ever used is used again, so no old incarnation of a usage stream goes on; a token that was
//! revoked does not come back.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::catalog::Founded;
use crate::key::SecretHash;
use crate::limits;
use crate::member::Members;
use crate::provider::Resealed;
use crate::state::State;

/// What a restored state is to be the state of.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NewCluster {
    /// The cluster's id and its wrapped encryption key.
    pub founded: Founded,
    /// Its only node, whose id is a new one.
    pub node: u64,
    /// Who belonged to the old cluster, by its membership.
    pub former: BTreeSet<u64>,
    /// Hash of the token that the old cluster's nodes derived from the secret.
    pub old_root: SecretHash,
    /// Hash of the one that the new cluster's nodes derive.
    pub new_root: SecretHash,
    /// What was not sealed under the cluster's encryption key yet, where the backup was made while the secret was replaced.
    pub resealed: Vec<Resealed>,
}

/// Why a state does not become another cluster's.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum AdoptError {
    /// The id was used before.
    #[error(
        "node id {node} was used in the old cluster, whose largest is {largest}; ids are never used again: give a larger one, or \
         none"
    )]
    UsedId {
        /// The id.
        node: u64,
        /// The largest that was used.
        largest: u64,
    },
    /// There is no such id.
    #[error(
        "node id {node} is larger than {}, the largest there is; a cluster that has used all of them cannot be restored",
        limits::NODE_IDS
    )]
    NoId {
        /// The id.
        node: u64,
    },
}

// === impl State ===

impl State {
    /// The largest node id that this state knows of; `former` are those of the membership.
    pub fn largest_node_id(&self, former: &BTreeSet<u64>) -> u64 {
        let members = self.catalog.members();
        let streams = self.usage.streams.iter().map(|(node, _)| node);
        let known = members.joined().map(|node| node.id);
        let all = former.iter().copied().chain(known).chain(streams);
        let all = all.chain(members.removed());
        all.max().unwrap_or_default().max(members.largest_id())
    }

    /// Makes this the state of another cluster; whether the derived root token is one of it.
    ///
    /// # Errors
    /// [`AdoptError`]; nothing is changed then.
    pub fn adopt(&mut self, new: &NewCluster) -> Result<bool, AdoptError> {
        let (node, largest) = (new.node, self.largest_node_id(&new.former));
        if node <= largest {
            return Err(AdoptError::UsedId { node, largest });
        }
        if node > limits::NODE_IDS {
            return Err(AdoptError::NoId { node });
        }
        let members = self.catalog.members();
        let joined = members.joined().map(|node| node.id);
        let gone: BTreeSet<u64> = members.removed().chain(joined).collect();
        let gone = gone.union(&new.former).copied();
        let members = Members::restore(node, [], gone, []);
        let catalog = Arc::make_mut(&mut self.catalog);
        let has_root = catalog.replace_token_hash(&new.old_root, new.new_root);
        catalog.adopt(new.founded.clone(), members);
        // None of the old nodes will tell what it used of what it had.
        self.ledger.remove_all_nodes();
        for resealed in &new.resealed {
            catalog.put_resealed(resealed);
        }
        Ok(has_root)
    }
}
