//! Why a node does not take part in a cluster. Each text says what the operator can do.

use thiserror::Error;

use crate::data_dir::DataDirError;
use crate::identity::{ClusterId, IdentityError, cluster_hex};

/// Why a node does not take part in a cluster.
#[derive(Debug, Error)]
pub enum FormationError {
    /// `--initial-cluster` makes no sense.
    #[error(
        "--initial-cluster {text:?} is not a list of nodes: {reason}; write 1=HOST:PORT,2=HOST:PORT,3=HOST:PORT, the same on all nodes"
    )]
    Malformed {
        /// What was given.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// This node is not in its own list.
    #[error(
        "--initial-cluster {text} does not list node {node_id}, which this is; correct --node-id or the list"
    )]
    NotListed {
        /// The list.
        text: String,
        /// This node.
        node_id: u64,
    },
    /// A fresh node that is not the first one, and knows no others.
    #[error(
        "node {node_id} has no data and no --initial-cluster; name the cluster's nodes, the same on all (a cluster of one has the id 1)"
    )]
    Alone {
        /// This node.
        node_id: u64,
    },
    /// The directory began to form a cluster of other nodes.
    #[error(
        "this data directory began to form a cluster with --initial-cluster {before}, now it is {now}; start with the former value"
    )]
    Changed {
        /// What is on disk.
        before: String,
        /// What was given.
        now: String,
    },
    /// A peer will not form a cluster with this node.
    #[error("node {node_id} ({address}) refuses to form a cluster with this node: {reason}")]
    Refused {
        /// The peer.
        node_id: u64,
        /// Its address.
        address: String,
        /// What it said.
        reason: String,
    },
    /// A node without data under an id that has lived.
    #[error(
        "node {node_id} has no data, but node {peer} says that node {node_id} has lived in cluster {}; a node that lost its data never comes back under its old id, since the others count on what it had promised. Start it with the data directory that it had; if that is gone, replace the node: `mode-envoy cluster remove-node {node_id}`, then `mode-envoy cluster add-node`, and start this one with an empty data directory, --join and the token that it prints instead of --node-id and --initial-cluster; the cluster gives it a new id",
        cluster_hex(.cluster_id)
    )]
    Lived {
        /// This node.
        node_id: u64,
        /// Who said so.
        peer: u64,
        /// The cluster.
        cluster_id: ClusterId,
    },
    /// The cluster exists without this node.
    #[error(
        "node {peer} is already a member of cluster {}, which has no node {node_id}; a later node does not come with --initial-cluster but with --join and a token that `mode-envoy cluster add-node` prints",
        cluster_hex(.cluster_id)
    )]
    Unknown {
        /// This node.
        node_id: u64,
        /// Who said so.
        peer: u64,
        /// The cluster.
        cluster_id: ClusterId,
    },
    /// A peer is bound to another cluster.
    #[error(
        "node {peer} ({address}) is bound to cluster {}, which this node's data directory does not know ({}); start this node with the directory that it had, or, if that cluster was never used, empty the data directories of all its nodes",
        cluster_hex(.theirs),
        .ours.as_ref().map_or_else(|| "it has none".to_owned(), |id| format!("it has {}", cluster_hex(id)))
    )]
    OtherCluster {
        /// The peer.
        peer: u64,
        /// Its address.
        address: String,
        /// Its cluster.
        theirs: ClusterId,
        /// This node's.
        ours: Option<ClusterId>,
    },
    /// The data directory.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The certificate that names the cluster.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The system gave no random bytes.
    #[error("the system's random number generator failed; no cluster id was made")]
    Random,
    /// A step on disk did not come to its end.
    #[error("writing the data directory's record was interrupted")]
    Interrupted,
    /// The node stops.
    #[error("the node was stopped before its cluster was formed")]
    Cancelled,
}
