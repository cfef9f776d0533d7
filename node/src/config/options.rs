//! The flags of `serve`, which are the keys of `node.toml` as well: one struct, so that they cannot differ.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::error::ConfigError;
use super::listener::ListenerKind;

/// A settings file longer than this is refused, in bytes.
const FILE_MAX: u64 = 1 << 20;

/// How logs look.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Text on a terminal, else JSON.
    #[default]
    Auto,
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// What `serve` may be told. Absent means the file's value, or the default.
#[derive(Clone, Debug, Default, Deserialize, clap::Args)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Options {
    /// Number of this node in the cluster, from 1; needed with --initial-cluster
    #[arg(long, env = "MODE_ENVOY_NODE_ID", value_name = "ID")]
    pub node_id: Option<u64>,
    /// Folder of everything this node keeps; made where it is missing
    #[arg(long, env = "MODE_ENVOY_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Where clients connect [default: 127.0.0.1:8080]
    #[arg(long, env = "MODE_ENVOY_GATEWAY_ADDR", value_name = "HOST:PORT")]
    pub gateway_addr: Option<String>,
    /// Where the admin API, /metrics, /healthz and /readyz are [default: 127.0.0.1:7070]
    #[arg(long, env = "MODE_ENVOY_ADMIN_ADDR", value_name = "HOST:PORT")]
    pub admin_addr: Option<String>,
    /// Where other nodes connect [default: 127.0.0.1:7071]
    #[arg(long, env = "MODE_ENVOY_PEER_ADDR", value_name = "HOST:PORT")]
    pub peer_addr: Option<String>,
    /// Address by which others reach the gateway [default: where it listens]
    #[arg(long, env = "MODE_ENVOY_ADVERTISE_GATEWAY", value_name = "HOST:PORT")]
    pub advertise_gateway: Option<String>,
    /// Address by which others reach the admin API [default: where it listens]
    #[arg(long, env = "MODE_ENVOY_ADVERTISE_ADMIN", value_name = "HOST:PORT")]
    pub advertise_admin: Option<String>,
    /// Address by which other nodes reach this one [default: its entry in --initial-cluster]
    #[arg(long, env = "MODE_ENVOY_ADVERTISE_PEER", value_name = "HOST:PORT")]
    pub advertise_peer: Option<String>,
    /// Let this listener leave loopback without TLS (repeatable); authentication stays
    #[arg(
        long,
        env = "MODE_ENVOY_INSECURE",
        value_name = "LISTENER",
        value_delimiter = ','
    )]
    pub insecure: Vec<ListenerKind>,
    /// Certificate of the gateway listener, which serves TLS then (PEM; read again when it changes)
    #[arg(long, env = "MODE_ENVOY_GATEWAY_CERT", value_name = "FILE")]
    pub gateway_cert: Option<PathBuf>,
    /// The key of --gateway-cert (PEM)
    #[arg(long, env = "MODE_ENVOY_GATEWAY_KEY", value_name = "FILE")]
    pub gateway_key: Option<PathBuf>,
    /// Certificate of the admin listener; beyond loopback one of the cluster's own CA where absent (see DIR/admin-ca.pem)
    #[arg(long, env = "MODE_ENVOY_ADMIN_CERT", value_name = "FILE")]
    pub admin_cert: Option<PathBuf>,
    /// The key of --admin-cert (PEM)
    #[arg(long, env = "MODE_ENVOY_ADMIN_KEY", value_name = "FILE")]
    pub admin_key: Option<PathBuf>,
    /// The nodes of a new cluster, the same on all of them; without it, a cluster of one
    #[arg(
        long,
        env = "MODE_ENVOY_INITIAL_CLUSTER",
        value_name = "ID=HOST:PORT,…"
    )]
    pub initial_cluster: Option<String>,
    /// Join the cluster of this node, by the address of its peer listener; ignored once the data directory is a member's
    #[arg(long, env = "MODE_ENVOY_JOIN", value_name = "HOST:PORT")]
    pub join: Option<String>,
    /// What `mode-envoy cluster add-node` printed; with --join
    #[arg(
        long,
        env = "MODE_ENVOY_JOIN_TOKEN",
        value_name = "TOKEN",
        hide_env_values = true
    )]
    pub join_token: Option<String>,
    /// The cluster's secret (see `mode-envoy certs secret`), the same on all nodes; on loopback it is made on first use
    #[arg(long, env = "MODE_ENVOY_CLUSTER_SECRET_FILE", value_name = "FILE")]
    pub cluster_secret_file: Option<PathBuf>,
    /// This node's certificate for the peer listener, of a CA of your own (PEM)
    #[arg(long, env = "MODE_ENVOY_PEER_CERT", value_name = "FILE")]
    pub peer_cert: Option<PathBuf>,
    /// The key of --peer-cert (PEM)
    #[arg(long, env = "MODE_ENVOY_PEER_KEY", value_name = "FILE")]
    pub peer_key: Option<PathBuf>,
    /// The CA of all nodes' peer certificates (PEM)
    #[arg(long, env = "MODE_ENVOY_PEER_CA", value_name = "FILE")]
    pub peer_ca: Option<PathBuf>,
    /// Threads that serve clients [default: one per core]
    #[arg(long, env = "MODE_ENVOY_GATEWAY_WORKERS", value_name = "N")]
    pub gateway_workers: Option<u32>,
    /// Bytes that usage may take on disk while the cluster cannot count it [default: 8 GiB]
    #[arg(long, env = "MODE_ENVOY_USAGE_SPOOL_BYTES", value_name = "BYTES")]
    pub usage_spool_bytes: Option<u64>,
    /// Free bytes of the data directory's file system below which this node raises an alarm [default: 5 %, and 1 GiB at
    /// least]
    #[arg(long, env = "MODE_ENVOY_DISK_MIN_FREE_BYTES", value_name = "BYTES")]
    pub disk_min_free_bytes: Option<u64>,
    /// Bytes that records of single calls may take on disk; the oldest are dropped [default: 2 GiB]
    #[arg(long, env = "MODE_ENVOY_CALL_LOG_BYTES", value_name = "BYTES")]
    pub call_log_bytes: Option<u64>,
    /// Hours that records of single calls are kept [default: 168]
    #[arg(long, env = "MODE_ENVOY_CALL_LOG_HOURS", value_name = "HOURS")]
    pub call_log_hours: Option<u64>,
    /// Bytes of one segment of the replicated log [default: 64 MiB]
    #[arg(long, env = "MODE_ENVOY_WAL_SEGMENT_BYTES", value_name = "BYTES")]
    pub wal_segment_bytes: Option<u64>,
    /// Entries of the log between two checkpoints [default: 10000]
    #[arg(long, env = "MODE_ENVOY_CHECKPOINT_EVERY", value_name = "ENTRIES")]
    pub checkpoint_every: Option<u64>,
    /// Bytes of the log after which a checkpoint comes earlier [default: 64 MiB]
    #[arg(long, env = "MODE_ENVOY_CHECKPOINT_BYTES", value_name = "BYTES")]
    pub checkpoint_bytes: Option<u64>,
    /// Entries of the log kept behind the newest checkpoint, for nodes that were away [default: 10000]
    #[arg(long, env = "MODE_ENVOY_LOG_KEEP", value_name = "ENTRIES")]
    pub log_keep: Option<u64>,
    /// Bytes that these entries may have at most [default: 256 MiB]
    #[arg(long, env = "MODE_ENVOY_LOG_KEEP_BYTES", value_name = "BYTES")]
    pub log_keep_bytes: Option<u64>,
    /// How fast a checkpoint is sent to a node that was away for long, bytes a second [default: 64 MiB]
    #[arg(
        long,
        env = "MODE_ENVOY_SNAPSHOT_BYTES_PER_SECOND",
        value_name = "BYTES"
    )]
    pub snapshot_bytes_per_second: Option<u64>,
    /// How often the leader is heard [default: 150]
    #[arg(long, env = "MODE_ENVOY_HEARTBEAT_MS", value_name = "MS")]
    pub heartbeat_ms: Option<u64>,
    /// Shortest silence after which a node stands for election [default: 500]
    #[arg(long, env = "MODE_ENVOY_ELECTION_MIN_MS", value_name = "MS")]
    pub election_min_ms: Option<u64>,
    /// Longest silence after which a node stands for election [default: 700]
    #[arg(long, env = "MODE_ENVOY_ELECTION_MAX_MS", value_name = "MS")]
    pub election_max_ms: Option<u64>,
    /// Time without contact to the quorum after which this node is not ready and says so [default: 30s]
    #[arg(long, env = "MODE_ENVOY_STALE_AFTER", value_name = "TIME")]
    pub stale_after: Option<String>,
    /// Time without contact to the quorum after which API keys are refused, or `never` [default: 1h]
    #[arg(long, env = "MODE_ENVOY_STALE_DENY", value_name = "TIME")]
    pub stale_deny: Option<String>,
    /// How logs look [default: auto]
    #[arg(long, env = "MODE_ENVOY_LOG_FORMAT", value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
    /// What is logged, as `info` or `warn,mode_envoy_raft=debug` [default: RUST_LOG, or info]
    #[arg(long, env = "MODE_ENVOY_LOG_LEVEL", value_name = "FILTER")]
    pub log_level: Option<String>,
}

// === impl Options ===

impl Options {
    /// Reads a settings file.
    ///
    /// # Errors
    ///
    /// The file cannot be read, is too long, or has a key or a value that `serve` does not take.
    pub fn from_file(path: &Path) -> Result<Self, ConfigError> {
        let unreadable = |source| ConfigError::File {
            path: path.to_owned(),
            source,
        };
        let len = std::fs::metadata(path).map_err(unreadable)?.len();
        if len > FILE_MAX {
            return Err(ConfigError::FileTooLong {
                path: path.to_owned(),
                len,
            });
        }
        let text = std::fs::read_to_string(path).map_err(unreadable)?;
        toml::from_str(&text).map_err(|source| ConfigError::Syntax {
            path: path.to_owned(),
            problem: source.to_string(),
        })
    }

    /// These options, and `other` where they say nothing.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            node_id: self.node_id.or(other.node_id),
            data_dir: self.data_dir.or(other.data_dir),
            gateway_addr: self.gateway_addr.or(other.gateway_addr),
            admin_addr: self.admin_addr.or(other.admin_addr),
            peer_addr: self.peer_addr.or(other.peer_addr),
            advertise_gateway: self.advertise_gateway.or(other.advertise_gateway),
            advertise_admin: self.advertise_admin.or(other.advertise_admin),
            advertise_peer: self.advertise_peer.or(other.advertise_peer),
            insecure: if self.insecure.is_empty() {
                other.insecure
            } else {
                self.insecure
            },
            gateway_cert: self.gateway_cert.or(other.gateway_cert),
            gateway_key: self.gateway_key.or(other.gateway_key),
            admin_cert: self.admin_cert.or(other.admin_cert),
            admin_key: self.admin_key.or(other.admin_key),
            initial_cluster: self.initial_cluster.or(other.initial_cluster),
            join: self.join.or(other.join),
            join_token: self.join_token.or(other.join_token),
            cluster_secret_file: self.cluster_secret_file.or(other.cluster_secret_file),
            peer_cert: self.peer_cert.or(other.peer_cert),
            peer_key: self.peer_key.or(other.peer_key),
            peer_ca: self.peer_ca.or(other.peer_ca),
            gateway_workers: self.gateway_workers.or(other.gateway_workers),
            usage_spool_bytes: self.usage_spool_bytes.or(other.usage_spool_bytes),
            disk_min_free_bytes: self.disk_min_free_bytes.or(other.disk_min_free_bytes),
            call_log_bytes: self.call_log_bytes.or(other.call_log_bytes),
            call_log_hours: self.call_log_hours.or(other.call_log_hours),
            wal_segment_bytes: self.wal_segment_bytes.or(other.wal_segment_bytes),
            checkpoint_every: self.checkpoint_every.or(other.checkpoint_every),
            checkpoint_bytes: self.checkpoint_bytes.or(other.checkpoint_bytes),
            log_keep: self.log_keep.or(other.log_keep),
            log_keep_bytes: self.log_keep_bytes.or(other.log_keep_bytes),
            snapshot_bytes_per_second: self
                .snapshot_bytes_per_second
                .or(other.snapshot_bytes_per_second),
            heartbeat_ms: self.heartbeat_ms.or(other.heartbeat_ms),
            election_min_ms: self.election_min_ms.or(other.election_min_ms),
            election_max_ms: self.election_max_ms.or(other.election_max_ms),
            stale_after: self.stale_after.or(other.stale_after),
            stale_deny: self.stale_deny.or(other.stale_deny),
            log_format: self.log_format.or(other.log_format),
            log_level: self.log_level.or(other.log_level),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::{Args as _, Command};

    use super::*;

    #[test]
    fn every_flag_has_an_environment_variable_by_its_name() {
        for arg in Options::augment_args(Command::new("serve")).get_arguments() {
            let long = arg.get_long().unwrap();
            let expected = format!("MODE_ENVOY_{}", long.replace('-', "_").to_uppercase());
            assert_eq!(arg.get_env().unwrap().to_str().unwrap(), expected);
        }
    }

    #[test]
    fn every_flag_is_a_key_of_the_file_and_no_other_key_is() {
        let command = Options::augment_args(Command::new("serve"));
        let keys: Vec<_> = command
            .get_arguments()
            .filter_map(|arg| arg.get_long())
            .collect();
        let unknown = toml::from_str::<Options>("no-such-key = 1")
            .unwrap_err()
            .to_string();
        for key in keys {
            assert!(
                unknown.contains(&format!("`{key}`")),
                "{key} is no key of the file"
            );
        }
    }

    #[test]
    fn the_first_that_says_something_wins() {
        let flags = Options {
            node_id: Some(2),
            ..Options::default()
        };
        let file: Options =
            toml::from_str("node-id = 1\ngateway-workers = 3\ninsecure = ['admin']").unwrap();
        let both = flags.or(file);
        assert_eq!((both.node_id, both.gateway_workers), (Some(2), Some(3)));
        assert_eq!(both.insecure, [ListenerKind::Admin]);
    }
}
