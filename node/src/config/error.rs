//! Why `serve` refuses its settings: every message says what to give instead.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use mode_envoy_raft::formation::FormationError;

use super::listener::ListenerKind;

/// Why `serve` does not start with these settings.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The settings file cannot be read.
    #[error("reading the settings file {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The settings file is no settings file.
    #[error("the settings file {} has {len} bytes; is it the right file? at most 1 MiB is read", path.display())]
    FileTooLong {
        /// The file.
        path: PathBuf,
        /// Its length.
        len: u64,
    },
    /// The settings file has a fault.
    #[error("the settings file {}: {problem}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line, column and fault.
        problem: String,
    },
    /// An address is none.
    #[error("{flag} {value}: {problem}; give HOST:PORT")]
    Address {
        /// Which flag.
        flag: String,
        /// Its value.
        value: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A listener would leave loopback without TLS.
    #[error(
        "the {kind} listener {bind} leaves loopback without TLS: give --{kind}-cert FILE and --{kind}-key FILE, listen on \
         loopback behind a proxy that terminates TLS, or give --insecure {kind} where the network itself is trusted"
    )]
    Exposed {
        /// Which one.
        kind: ListenerKind,
        /// Where.
        bind: SocketAddr,
    },
    /// Others could not be told where a listener is.
    #[error(
        "the {kind} listener is bound to {bind}, every address of this machine: name the one that others use with \
         --advertise-{kind} HOST:PORT"
    )]
    Wildcard {
        /// Which one.
        kind: ListenerKind,
        /// Where.
        bind: SocketAddr,
    },
    /// The secret must be named.
    #[error(
        "a listener leaves loopback, so the cluster's secret must be named: make one with `mode-envoy certs secret`, \
         copy it to every node, and give --cluster-secret-file FILE"
    )]
    SecretNotNamed,
    /// There is no place for a secret of one's own.
    #[error("neither XDG_CONFIG_HOME nor HOME is set: give --cluster-secret-file FILE")]
    NoConfigDirectory,
    /// No data directory.
    #[error(
        "--data-dir is missing: give a folder for what this node keeps (made where it is missing)"
    )]
    NoDataDir,
    /// No node id, or one that does not fit the cluster.
    #[error("--node-id {0}")]
    NodeId(String),
    /// The initial cluster does not parse.
    #[error("--initial-cluster")]
    InitialCluster(#[source] FormationError),
    /// One of the two is missing.
    #[error(
        "--join and --join-token belong together: the address of any member's peer listener, and what `mode-envoy cluster \
         add-node` printed"
    )]
    JoinPair,
    /// A node forms a cluster, or joins one.
    #[error(
        "--join and --initial-cluster exclude each other: a node of a new cluster gives the latter, a later node the former"
    )]
    JoinAndForm,
    /// A number is out of its range.
    #[error("--{flag} {value} is out of range: give {min} to {max}")]
    Range {
        /// Which flag.
        flag: &'static str,
        /// Its value.
        value: u64,
        /// Smallest.
        min: u64,
        /// Largest.
        max: u64,
    },
    /// A time is none, or out of its range.
    #[error("--{flag} {value}: {problem}")]
    Time {
        /// Which flag.
        flag: &'static str,
        /// Its value.
        value: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Keys would be refused before anybody is told why.
    #[error(
        "--stale-after {after} is longer than --stale-deny {deny}: a node says that it is cut off before it refuses keys"
    )]
    StaleOrder {
        /// When it says so.
        after: String,
        /// When it refuses.
        deny: String,
    },
    /// The timers contradict one another.
    #[error(
        "--heartbeat-ms {heartbeat} < --election-min-ms {min} < --election-max-ms {max} must hold"
    )]
    Timers {
        /// Heartbeat.
        heartbeat: u64,
        /// Shortest election timeout.
        min: u64,
        /// Longest election timeout.
        max: u64,
    },
    /// One of the two files is missing.
    #[error("--{kind}-cert and --{kind}-key belong together: give both or none")]
    TlsFiles {
        /// Which listener.
        kind: ListenerKind,
    },
    /// Some of the three files is missing.
    #[error("--peer-cert, --peer-key and --peer-ca belong together: give all three or none")]
    PeerPki,
}
