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
    /// The cluster cannot decide now; nothing was changed.
    #[error("{0}; nothing was changed, try again, or ask another node")]
    Unavailable(String),
    /// The cluster may or may not have done it.
    #[error(
        "the cluster did not confirm the change in time, so it may or may not be in force; \
         look before you try again (sending the same document again is safe)"
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
        match error {
            ProposeError::Rejected(rejected) => Self::Rejected(rejected),
            other => Self::Unavailable(format!(
                "the cluster did not confirm that this node is up to date ({other}); \
                 ask with --local for what this node has"
            )),
        }
    }

    fn refused(code: RejectedCode, path: &str, problem: impl Into<String>) -> Self {
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
        match error {
            ProposeError::Rejected(rejected) => Self::Rejected(rejected),
            ProposeError::NoLeader => Self::Unavailable(
                "the cluster has no leader now: most of its nodes must be up and reach one another"
                    .to_owned(),
            ),
            ProposeError::Timeout => Self::OutcomeUnknown,
            ProposeError::Unavailable(why) => {
                Self::Unavailable(format!("the cluster cannot take the change now ({why})"))
            }
            ProposeError::ShuttingDown => Self::Unavailable("this node is ending".to_owned()),
        }
    }
}
