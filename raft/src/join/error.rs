//! Why a node does not join. Each text says what the operator can do.

use thiserror::Error;

use crate::data_dir::DataDirError;
use crate::identity::IdentityError;

/// Why a node does not join.
#[derive(Debug, Error)]
pub enum JoinError {
    /// The token is none.
    #[error(
        "--join-token is not a whole join token; copy all of what `mode-envoy cluster add-node` printed (it begins with mej-)"
    )]
    Malformed,
    /// The address is none.
    #[error("--join {address} is not HOST:PORT, the address of a member's peer listener")]
    Address {
        /// What was given.
        address: String,
    },
    /// The cluster's certificates come from the operator.
    #[error(
        "the cluster of this join token has peer certificates of the operator's own; give --peer-cert, --peer-key and --peer-ca"
    )]
    NeedsPeerCa,
    /// Whoever answers is not of the cluster.
    #[error(
        "{address} is no node of the cluster that this join token is of ({reason}); nothing was sent to it: correct --join, or \
         make a token on that cluster"
    )]
    NotTheCluster {
        /// Who answered.
        address: String,
        /// What is wrong with its certificate.
        reason: String,
    },
    /// The cluster does not let this node in.
    #[error("{address} does not let this node join: {reason}")]
    Refused {
        /// Who said so.
        address: String,
        /// What it said.
        reason: String,
    },
    /// The answer makes no sense.
    #[error(
        "the answer of {address} cannot be understood ({reason}); it may be of another version"
    )]
    Answer {
        /// Who answered.
        address: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The data directory.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The operator's CA.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// A step on disk did not come to its end.
    #[error("writing the data directory was interrupted")]
    Interrupted,
    /// The node stops.
    #[error("the node was stopped before it had joined")]
    Cancelled,
}
