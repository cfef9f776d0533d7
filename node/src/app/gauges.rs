//! `/metrics`: what is counted all along, and numbers that are read when somebody asks, so that they are never stale.

use std::sync::OnceLock;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ::metrics::{counter, gauge};
use metrics_exporter_prometheus::PrometheusHandle;

use mode_envoy_raft::Handle;

use crate::freshness::Freshness;
use crate::metrics as names;
use crate::readiness::Readiness;

/// Renders `/metrics`.
pub(super) struct Gauges {
    prometheus: PrometheusHandle,
    readiness: Readiness,
    table_revision: std::sync::Arc<std::sync::atomic::AtomicU64>,
    member: OnceLock<(Handle, Freshness)>,
}

// === impl Gauges ===

impl Gauges {
    pub(super) const fn new(
        prometheus: PrometheusHandle,
        readiness: Readiness,
        table_revision: std::sync::Arc<std::sync::atomic::AtomicU64>,
    ) -> Self {
        Self {
            prometheus,
            readiness,
            table_revision,
            member: OnceLock::new(),
        }
    }

    /// From now on the member's numbers are there too.
    pub(super) fn set_member(&self, member: Handle, freshness: Freshness) {
        // A process becomes a member once; a second call would bring the same.
        let _ = self.member.set((member, freshness));
    }

    pub(super) fn render(&self) -> String {
        let ready = self.readiness.not_ready().is_empty();
        gauge!(names::NODE_READY).set(f64::from(u8::from(ready)));
        let in_force = self.table_revision.load(Ordering::Acquire);
        gauge!(names::TABLE_REVISION).set(names::number(in_force));
        if let Some((member, freshness)) = self.member.get() {
            let status = member.status();
            let leads = status.leader == Some(status.node_id);
            gauge!(names::RAFT_APPLIED_INDEX).set(names::number(status.applied_index));
            gauge!(names::RAFT_TERM).set(names::number(status.term));
            gauge!(names::RAFT_IS_LEADER).set(f64::from(u8::from(leads)));
            gauge!(names::RAFT_CONTACT_AGE).set(freshness.age().as_secs_f64());
            gauge!(names::CATALOG_REVISION).set(names::number(status.revision));
            render_log(member);
        }
        self.prometheus.run_upkeep();
        self.prometheus.render()
    }
}

/// The log and the checkpoints.
fn render_log(member: &Handle) {
    let wal = member.wal_stats();
    gauge!(names::WAL_BYTES).set(names::number(wal.disk_bytes));
    gauge!(names::WAL_FIRST_INDEX).set(names::number(member.log_first_index()));
    let checkpoint = member.checkpoint_stats();
    gauge!(names::CHECKPOINT_INDEX).set(names::number(checkpoint.index));
    gauge!(names::CHECKPOINT_BYTES).set(names::number(checkpoint.bytes));
    let took = Duration::from_micros(checkpoint.took_micros);
    gauge!(names::CHECKPOINT_DURATION).set(took.as_secs_f64());
    let then = UNIX_EPOCH + Duration::from_millis(checkpoint.wall_ms);
    let age = SystemTime::now().duration_since(then).unwrap_or_default();
    if checkpoint.wall_ms > 0 {
        gauge!(names::CHECKPOINT_AGE).set(age.as_secs_f64());
    }
    for (name, count) in [
        (names::SNAPSHOTS_SENT, checkpoint.sent),
        (names::SNAPSHOTS_RECEIVED, checkpoint.received),
        (names::SNAPSHOT_CHUNKS_SENT, checkpoint.chunks_sent),
        (names::SNAPSHOT_CHUNKS_SKIPPED, checkpoint.chunks_skipped),
        (names::SNAPSHOT_BYTES_SENT, checkpoint.bytes_sent),
        (names::SNAPSHOT_BYTES_RECEIVED, checkpoint.bytes_received),
    ] {
        counter!(name).absolute(count);
    }
}
