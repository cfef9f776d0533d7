//! Why something that was asked for did not happen; each says what the caller can do.

use mode_envoy_model::command::{Rejected, RejectedCode, Violation};
use mode_envoy_raft::ProposeError;
use thiserror::Error;

use super::document::Faults;
use crate::secrets::{KeyringError, RandomError};

/// Why something that was asked for did not happen.
#[derive(Clone, Debug, Error)]
pub enum ControlError {
    /// Nobody, or nobody the cluster knows.
    #[error(
        "authenticating: this cluster knows no such admin token; give one by --token, MODE_ENVOY_TOKEN or \
         MODE_ENVOY_TOKEN_FILE, or let $XDG_CONFIG_HOME/mode-envoy/context.json name its file \
         (`serve` leaves the first one in DIR/admin.token)"
    )]
    Unauthenticated,
    /// The cluster's rules do not allow it.
    #[error(transparent)]
    Rejected(#[from] Rejected),
    /// The document cannot be read.
    #[error("reading the document: {}", .0.list.first().map(ToString::to_string).unwrap_or_default())]
    Document(Faults),
    /// The cluster cannot answer or decide now; nothing was changed.
    #[error("{0}")]
    Unavailable(String),
    /// The cluster may or may not have done it.
    #[error(
        "the cluster did not confirm the change in time, so it may or may not be in force; \
         send it again with the same x-request-id, as the command line does by itself, or look before you try again"
    )]
    OutcomeUnknown,
    /// The cluster's encryption key is not to be had.
    #[error(transparent)]
    Keyring(#[from] KeyringError),
    /// No random bytes.
    #[error(transparent)]
    Random(#[from] RandomError),
    /// A fault of this node.
    #[error("{0}; this is a fault of the node, please report it")]
    Internal(String),
}

// === impl ControlError ===

impl ControlError {
    /// A value of the request that breaks a rule.
    pub fn invalid(path: &str, problem: impl Into<String>) -> Self {
        Self::refused(RejectedCode::Invalid, path, problem)
    }

    /// Something that is not there.
    pub fn not_found(path: &str, problem: impl Into<String>) -> Self {
        Self::refused(RejectedCode::NotFound, path, problem)
    }

    /// A reading that the cluster did not confirm.
    pub(super) fn of_reading(error: ProposeError) -> Self {
        if let ProposeError::Rejected(rejected) = error {
            return Self::Rejected(rejected);
        }
        tracing::debug!(%error, "a read barrier failed");
        Self::Unavailable(
            "the cluster did not confirm that this node is up to date: most of its nodes must be \
             up and reach one another; ask another node, or ask with --local for what this one has"
                .to_owned(),
        )
    }

    pub(super) fn refused(code: RejectedCode, path: &str, problem: impl Into<String>) -> Self {
        let violation = Violation {
            path: path.to_owned(),
            problem: problem.into(),
        };
        Self::Rejected(Rejected {
            code,
            violations: vec![violation],
        })
    }
}

impl From<ProposeError> for ControlError {
    fn from(error: ProposeError) -> Self {
        tracing::debug!(%error, "a proposal failed");
        let why = match error {
            ProposeError::Rejected(rejected) => return Self::Rejected(rejected),
            ProposeError::Timeout => return Self::OutcomeUnknown,
            ProposeError::NoLeader | ProposeError::Unavailable(_) => {
                "the cluster has no quorum now: most of its nodes must be up and reach one another"
            }
            ProposeError::ShuttingDown => "this node is ending",
        };
        Self::Unavailable(format!(
            "{why}; nothing was changed, try again, or ask another node"
        ))
    }
}
