//! What one asks of the log and what comes back, whoever leads.

use std::sync::Arc;

use mode_envoy_model::catalog::Catalog;
use mode_envoy_model::command::{Change, Command, Rejected};
use mode_envoy_model::key::SecretHash;
use mode_envoy_model::requests::ClientRequest;
use mode_envoy_model::token::CLUSTER;

/// On whose behalf something is proposed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Caller {
    /// The name that the log keeps: an admin token's, or `cluster`.
    pub actor: String,
    /// Hash of the admin token, for the leader to authorise again; `None` is the node itself.
    pub token_hash: Option<SecretHash>,
    /// The client's request that the command carries out, if the client named it: a retry is answered as the first was.
    pub request: Option<ClientRequest>,
}

/// Whether a caller may do this, given the catalog that the command is decided on. Called on the leader.
pub type Authorize = Arc<dyn Fn(&Catalog, &Caller, &Command) -> Result<(), Rejected> + Send + Sync>;

/// A command was decided, and what it changes is applied on the leader.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Accepted {
    /// The revision it made; the current one where it changed nothing.
    pub revision: u64,
    /// Log index of its entry, or of the one that made what it found; 0 where it found all of that applied on the leader.
    pub index: u64,
    /// One line per object named.
    pub changes: Vec<Change>,
}

/// Why a proposal was not accepted.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ProposeError {
    /// The command was decided and refused; nothing was written.
    #[error(transparent)]
    Rejected(#[from] Rejected),
    /// No node leads; nothing was written.
    #[error(
        "the cluster has no leader; nothing was written; try again when a majority of nodes is up"
    )]
    NoLeader,
    /// The deadline passed, or the leader was lost on the way.
    #[error("no answer in time; the outcome is unknown; read the state before trying again")]
    Timeout,
    /// Something else is in the way; nothing was written.
    #[error("not possible now: {0}; nothing was written")]
    Unavailable(String),
    /// This node is ending; nothing was written.
    #[error("this node is shutting down; nothing was written; ask another node")]
    ShuttingDown,
}

// === impl Caller ===

impl Caller {
    /// The node itself.
    pub fn node() -> Self {
        Self {
            actor: CLUSTER.to_owned(),
            token_hash: None,
            request: None,
        }
    }
}
