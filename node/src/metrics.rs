//! Every metric of this crate: its name, what it counts, and how it is rendered for `/metrics`.
//!
//! Names are `mode_envoy_<component>_<thing>_<unit>`; counters end in `_total`. Labels come from enums of this
//! program (an outcome, an error code, a class of status), never from what a client or an operator typed, so there
//! are at most [`SERIES_MAX`] series.

use metrics_exporter_prometheus::{BuildError, PrometheusBuilder, PrometheusHandle};

/// Requests that the gateway answered. Label `class`: the first digit of the status, as `2xx`.
pub const GATEWAY_REQUESTS: &str = "mode_envoy_gateway_requests_total";
/// Errors that the gateway itself made. Label `code`: the value of `x-mode-envoy-error`.
pub const GATEWAY_ERRORS: &str = "mode_envoy_gateway_errors_total";
/// Client connections that are open.
pub const GATEWAY_CONNECTIONS: &str = "mode_envoy_gateway_connections";
/// Attempts at upstreams. Label `outcome`.
pub const UPSTREAM_ATTEMPTS: &str = "mode_envoy_upstream_attempts_total";
/// Usage batches by what the log answered. Label `outcome`.
pub const USAGE_BATCHES: &str = "mode_envoy_usage_batches_total";
/// Calls that limits were asked about. Label `outcome`: `admitted`, `refused`, or `unavailable` where nobody could say.
pub const LIMIT_DECISIONS: &str = "mode_envoy_limit_decisions_total";
/// Calls that a limit in `shadow` would have refused. Label `limit`: its name.
pub const LIMIT_SHADOW: &str = "mode_envoy_limit_shadow_refusals_total";
/// Calls that wait for a limit to be granted by the log.
pub const LIMIT_WAITING: &str = "mode_envoy_limit_waiting_calls";
/// Calls that waited for a limit, by what became of them. Label `outcome`.
pub const LIMIT_WAITED: &str = "mode_envoy_limit_waited_total";
/// Usage rows that were counted.
pub const USAGE_ROWS: &str = "mode_envoy_usage_rows_total";
/// Bytes of the usage spools on disk.
pub const USAGE_SPOOL_BYTES: &str = "mode_envoy_usage_spool_bytes";
/// Calls that were closed `presumed` at the start of this process.
pub const USAGE_PRESUMED: &str = "mode_envoy_usage_presumed_calls_total";
/// 1 while a usage spool is so full, else 0. Label `level`: percent of its bound, `50`, `80` or `95`.
pub const USAGE_SPOOL_ALARM: &str = "mode_envoy_usage_spool_alarm";
/// Ends of attempts that a full spool had no room for one by one: they are only added up.
pub const USAGE_TOTALS_ONLY: &str = "mode_envoy_usage_totals_only_total";
/// Bytes that are free on the file system of the data directory.
pub const DISK_FREE_BYTES: &str = "mode_envoy_disk_free_bytes";
/// 1 while they are too few, else 0.
pub const DISK_ALARM: &str = "mode_envoy_disk_alarm";
/// Bytes of the projection's files.
pub const PROJECTION_BYTES: &str = "mode_envoy_projection_bytes";
/// Values in the projection.
pub const PROJECTION_ENTRIES: &str = "mode_envoy_projection_entries";
/// Values of the projection in files of their own; 0 unless something is wrong.
pub const PROJECTION_BLOBS: &str = "mode_envoy_projection_blobs";
/// How often the projection could not be used and began anew.
pub const PROJECTION_REBUILDS: &str = "mode_envoy_projection_rebuilds_total";
/// Calls that the call log was given.
pub const CALL_LOG_RECORDS: &str = "mode_envoy_call_log_records_total";
/// Bytes of the call log on disk.
pub const CALL_LOG_BYTES: &str = "mode_envoy_call_log_bytes";
/// 1 if no call records are kept, since the disk failed, else 0.
pub const CALL_LOG_FAILED: &str = "mode_envoy_call_log_failed";
/// Blocks of the call log that were found damaged.
pub const CALL_LOG_DAMAGED: &str = "mode_envoy_call_log_damaged_blocks";
/// The log index that this node has applied.
pub const RAFT_APPLIED_INDEX: &str = "mode_envoy_raft_applied_index";
/// The term that this node is in.
pub const RAFT_TERM: &str = "mode_envoy_raft_term";
/// 1 if this node leads, else 0.
pub const RAFT_IS_LEADER: &str = "mode_envoy_raft_is_leader";
/// Seconds since this node last knew itself connected to the quorum.
pub const RAFT_CONTACT_AGE: &str = "mode_envoy_raft_contact_age_seconds";
/// Bytes that the replicated log takes on this node's disk.
pub const WAL_BYTES: &str = "mode_envoy_wal_disk_bytes";
/// Index of the oldest entry that this node's log still has.
pub const WAL_FIRST_INDEX: &str = "mode_envoy_wal_first_index";
/// The log index of this node's newest checkpoint.
pub const CHECKPOINT_INDEX: &str = "mode_envoy_checkpoint_index";
/// How old the state in this node's newest checkpoint is.
pub const CHECKPOINT_AGE: &str = "mode_envoy_checkpoint_age_seconds";
/// Bytes of this node's newest checkpoint.
pub const CHECKPOINT_BYTES: &str = "mode_envoy_checkpoint_bytes";
/// How long writing the last checkpoint took.
pub const CHECKPOINT_DURATION: &str = "mode_envoy_checkpoint_write_seconds";
/// Snapshots that other nodes installed.
pub const SNAPSHOTS_SENT: &str = "mode_envoy_snapshot_sent_total";
/// Snapshots that were installed here.
pub const SNAPSHOTS_RECEIVED: &str = "mode_envoy_snapshot_received_total";
/// Chunks of snapshots sent to other nodes.
pub const SNAPSHOT_CHUNKS_SENT: &str = "mode_envoy_snapshot_sent_chunks_total";
/// Chunks of snapshots that other nodes had already.
pub const SNAPSHOT_CHUNKS_SKIPPED: &str = "mode_envoy_snapshot_skipped_chunks_total";
/// Bytes of snapshots sent to other nodes.
pub const SNAPSHOT_BYTES_SENT: &str = "mode_envoy_snapshot_sent_bytes_total";
/// Bytes of snapshots received.
pub const SNAPSHOT_BYTES_RECEIVED: &str = "mode_envoy_snapshot_received_bytes_total";
/// The revision of the configuration that this node has applied.
pub const CATALOG_REVISION: &str = "mode_envoy_catalog_revision";
/// The revision that is in force in this node's gateway.
pub const TABLE_REVISION: &str = "mode_envoy_table_revision";
/// When the certificate of a listener ends, Unix seconds. Label `listener`.
pub const TLS_NOT_AFTER: &str = "mode_envoy_tls_certificate_not_after_seconds";
/// New certificates that could not be used. Label `listener`.
pub const TLS_RELOAD_FAILURES: &str = "mode_envoy_tls_reload_failures_total";
/// 1 if `/readyz` says so, else 0.
pub const NODE_READY: &str = "mode_envoy_node_ready";

/// No more series than this exist: each name times the values of its one label.
pub const SERIES_MAX: usize = 100;

/// What a metric is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum MetricKind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
}

/// Every metric, with its kind and its help text.
pub const ALL: [(&str, MetricKind, &str); 45] = [
    (
        GATEWAY_REQUESTS,
        MetricKind::Counter,
        "Requests answered by the gateway, by class of status.",
    ),
    (
        GATEWAY_ERRORS,
        MetricKind::Counter,
        "Errors the gateway itself made, by code.",
    ),
    (
        GATEWAY_CONNECTIONS,
        MetricKind::Gauge,
        "Open client connections.",
    ),
    (
        UPSTREAM_ATTEMPTS,
        MetricKind::Counter,
        "Attempts at upstreams, by outcome.",
    ),
    (
        USAGE_BATCHES,
        MetricKind::Counter,
        "Usage batches, by the answer of the log.",
    ),
    (
        LIMIT_DECISIONS,
        MetricKind::Counter,
        "Calls that limits were asked about, by outcome.",
    ),
    (
        LIMIT_SHADOW,
        MetricKind::Counter,
        "Calls that a limit in shadow would have refused, by limit.",
    ),
    (
        LIMIT_WAITING,
        MetricKind::Gauge,
        "Calls that wait for the log to grant a limit.",
    ),
    (
        LIMIT_WAITED,
        MetricKind::Counter,
        "Calls that waited for the log to grant a limit, by what became of them.",
    ),
    (
        USAGE_ROWS,
        MetricKind::Counter,
        "Usage rows that were counted.",
    ),
    (
        USAGE_SPOOL_BYTES,
        MetricKind::Gauge,
        "Bytes of the usage spools on disk.",
    ),
    (
        USAGE_PRESUMED,
        MetricKind::Counter,
        "Calls closed as presumed when this process started.",
    ),
    (
        USAGE_SPOOL_ALARM,
        MetricKind::Gauge,
        "1 while a usage spool is so full, by percent of its bound.",
    ),
    (
        USAGE_TOTALS_ONLY,
        MetricKind::Counter,
        "Ends of attempts that a full usage spool only added up.",
    ),
    (
        DISK_FREE_BYTES,
        MetricKind::Gauge,
        "Bytes free on the file system of the data directory.",
    ),
    (
        DISK_ALARM,
        MetricKind::Gauge,
        "1 while the file system of the data directory is nearly full.",
    ),
    (
        PROJECTION_BYTES,
        MetricKind::Gauge,
        "Bytes of the projection's files.",
    ),
    (
        PROJECTION_ENTRIES,
        MetricKind::Gauge,
        "Values in the projection.",
    ),
    (
        PROJECTION_BLOBS,
        MetricKind::Gauge,
        "Values of the projection in files of their own; 0 unless something is wrong.",
    ),
    (
        PROJECTION_REBUILDS,
        MetricKind::Counter,
        "How often the projection could not be used and began anew.",
    ),
    (
        CALL_LOG_RECORDS,
        MetricKind::Counter,
        "Calls that the call log was given.",
    ),
    (
        CALL_LOG_BYTES,
        MetricKind::Gauge,
        "Bytes of the call log on disk.",
    ),
    (
        CALL_LOG_FAILED,
        MetricKind::Gauge,
        "1 if no call records are kept, since the disk failed.",
    ),
    (
        CALL_LOG_DAMAGED,
        MetricKind::Gauge,
        "Blocks of the call log that were found damaged.",
    ),
    (
        RAFT_APPLIED_INDEX,
        MetricKind::Gauge,
        "Log index applied on this node.",
    ),
    (RAFT_TERM, MetricKind::Gauge, "Term of this node."),
    (RAFT_IS_LEADER, MetricKind::Gauge, "1 if this node leads."),
    (
        RAFT_CONTACT_AGE,
        MetricKind::Gauge,
        "Seconds since this node last knew itself connected to the quorum.",
    ),
    (
        WAL_BYTES,
        MetricKind::Gauge,
        "Bytes of the replicated log on disk.",
    ),
    (
        WAL_FIRST_INDEX,
        MetricKind::Gauge,
        "Oldest log index that this node still has.",
    ),
    (
        CHECKPOINT_INDEX,
        MetricKind::Gauge,
        "Log index of the newest checkpoint.",
    ),
    (
        CHECKPOINT_AGE,
        MetricKind::Gauge,
        "Age of the state in the newest checkpoint.",
    ),
    (
        CHECKPOINT_BYTES,
        MetricKind::Gauge,
        "Bytes of the newest checkpoint.",
    ),
    (
        CHECKPOINT_DURATION,
        MetricKind::Gauge,
        "Time that writing the last checkpoint took.",
    ),
    (
        SNAPSHOTS_SENT,
        MetricKind::Counter,
        "Snapshots that other nodes installed.",
    ),
    (
        SNAPSHOTS_RECEIVED,
        MetricKind::Counter,
        "Snapshots of a leader that this node installed.",
    ),
    (
        SNAPSHOT_CHUNKS_SENT,
        MetricKind::Counter,
        "Chunks of snapshots sent to other nodes.",
    ),
    (
        SNAPSHOT_CHUNKS_SKIPPED,
        MetricKind::Counter,
        "Chunks of snapshots that other nodes had already.",
    ),
    (
        SNAPSHOT_BYTES_SENT,
        MetricKind::Counter,
        "Bytes of snapshots sent to other nodes.",
    ),
    (
        SNAPSHOT_BYTES_RECEIVED,
        MetricKind::Counter,
        "Bytes of snapshots received.",
    ),
    (
        CATALOG_REVISION,
        MetricKind::Gauge,
        "Revision of the configuration applied on this node.",
    ),
    (
        TABLE_REVISION,
        MetricKind::Gauge,
        "Revision in force in the gateway of this node.",
    ),
    (
        TLS_NOT_AFTER,
        MetricKind::Gauge,
        "When the certificate of a listener ends, in Unix seconds.",
    ),
    (
        TLS_RELOAD_FAILURES,
        MetricKind::Counter,
        "New certificates that could not be used, by listener.",
    ),
    (NODE_READY, MetricKind::Gauge, "1 if this node is ready."),
];

/// Takes over the process's metrics. Once per process.
///
/// # Errors
///
/// Another recorder is installed already.
pub fn install() -> Result<PrometheusHandle, BuildError> {
    let handle = PrometheusBuilder::new().install_recorder()?;
    for (name, kind, help) in ALL {
        match kind {
            MetricKind::Counter => metrics::describe_counter!(name, help),
            MetricKind::Gauge => metrics::describe_gauge!(name, help),
        }
    }
    Ok(handle)
}

/// A number as metrics hold it.
#[expect(
    clippy::cast_precision_loss,
    reason = "exact up to 2^53, which no count of this program reaches"
)]
pub(crate) const fn number(value: u64) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_follow_the_pattern() {
        let names: BTreeSet<_> = ALL.iter().map(|(name, ..)| *name).collect();
        assert_eq!(names.len(), ALL.len());
        for (name, kind, help) in ALL {
            let rest = name.strip_prefix("mode_envoy_").unwrap_or_default();
            let sound = |c: char| c.is_ascii_lowercase() || c == '_';
            assert!(rest.contains('_') && rest.chars().all(sound), "{name}");
            assert_eq!(
                name.ends_with("_total"),
                kind == MetricKind::Counter,
                "{name}"
            );
            assert!(help.ends_with('.'), "{name}");
        }
    }
}
