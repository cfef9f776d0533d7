//! `/metrics`: what is counted all along, and numbers that are read when somebody asks, so that they are never stale.

use std::sync::OnceLock;
use std::sync::atomic::Ordering;

use ::metrics::gauge;
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
        }
        self.prometheus.run_upkeep();
        self.prometheus.render()
    }
}
