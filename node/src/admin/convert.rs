//! From values of control to messages of the API.

use mode_envoy_ai::price::format_usd;
use mode_envoy_model::command::{Change, ChangeKind};
use mode_envoy_model::key::Key;
use mode_envoy_model::usage::query::{Dimension, ReportRow};
use mode_envoy_proto::admin::v1 as pb;
use mode_envoy_raft::MemberStatus;

use crate::control::{format_minute, format_ms};

/// One line of a report.
pub(super) fn change(change: &Change) -> pb::ObjectChange {
    pb::ObjectChange {
        kind: change.kind.to_owned(),
        tenant: change.tenant.as_deref().unwrap_or_default().to_owned(),
        name: change.name.to_string(),
        change: change_name(change.what).to_owned(),
    }
}

const fn change_name(what: ChangeKind) -> &'static str {
    match what {
        ChangeKind::Created => "created",
        ChangeKind::Updated => "updated",
        ChangeKind::Unchanged => "unchanged",
        ChangeKind::Deleted => "deleted",
    }
}

/// A key, without anything secret.
pub(super) fn key(key: &Key) -> pb::Key {
    pb::Key {
        id: key.id.to_string(),
        name: key.name.to_string(),
        tenant: key.tenant.to_string(),
        consumer: key.consumer.to_string(),
        created: format_ms(key.created_ms),
        expires: key.expires_ms.map(format_ms).unwrap_or_default(),
    }
}

/// A member.
pub(super) fn node(member: MemberStatus) -> pb::Node {
    pb::Node {
        id: member.id,
        role: member.role.as_str().to_owned(),
        reachable: member.reachable,
        applied_index: member.applied_index,
        revision: member.revision,
        gateway: member.gateway,
        admin: member.admin,
        peer: member.peer,
        version: member.version,
        alarms: member.alarms,
    }
}

/// A row of usage.
pub(super) fn usage_row(row: &ReportRow, group_by: &[Dimension]) -> pb::UsageRow {
    let counters = row.counters;
    let names = group_by.iter().map(|dimension| dimension.name().to_owned());
    let values = row.dimensions.iter().map(ToString::to_string);
    pb::UsageRow {
        time: row
            .bucket_start_minute
            .map(format_minute)
            .unwrap_or_default(),
        dimensions: names.zip(values).collect(),
        calls: counters.calls,
        errors: counters.errors,
        rejected: counters.rejected,
        estimated_calls: counters.estimated,
        presumed_calls: counters.presumed,
        input_tokens: counters.input_tokens(),
        cached_input_tokens: counters.cache_read,
        cache_write_tokens: counters.cache_write,
        output_tokens: counters.output,
        reasoning_tokens: counters.reasoning,
        total_tokens: counters.total_tokens(),
        cost_usd: format_usd(counters.nano_usd),
        bytes_in: counters.bytes_in,
        bytes_out: counters.bytes_out,
        latency_p50_ms: row.latency_p50_us.map(milliseconds),
        latency_p95_ms: row.latency_p95_us.map(milliseconds),
        latency_p99_ms: row.latency_p99_us.map(milliseconds),
        ttft_p50_ms: row.ttft_p50_us.map(milliseconds),
        folded: row.folded,
        unpriced_attempts: counters.unpriced,
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "latencies are clamped to minutes, far below 2^53 microseconds"
)]
fn milliseconds(us: u64) -> f64 {
    us as f64 / 1_000.0
}

#[cfg(test)]
mod tests {
    use mode_envoy_model::usage::counters::Counters;

    use super::*;

    #[test]
    fn a_row_of_usage_has_the_metrics_that_are_promised() {
        let row = ReportRow {
            bucket_start_minute: Some(29_539_290),
            dimensions: vec!["acme".into(), "fast".into()],
            counters: Counters {
                calls: 3,
                input_uncached: 10,
                cache_read: 20,
                cache_write: 5,
                output: 7,
                reasoning: 2,
                nano_usd: 1_500_000_001,
                ..Counters::default()
            },
            latency_p50_us: Some(1_500),
            latency_p95_us: None,
            latency_p99_us: None,
            ttft_p50_us: None,
            folded: true,
        };
        let row = usage_row(&row, &[Dimension::Tenant, Dimension::Model]);
        assert_eq!(row.time, "2026-03-01T09:30:00Z");
        assert_eq!(row.dimensions["tenant"], "acme");
        assert_eq!(row.dimensions["model"], "fast");
        assert_eq!(
            (row.input_tokens, row.cached_input_tokens, row.total_tokens),
            (35, 20, 42)
        );
        assert_eq!(row.cost_usd, "1.500000001");
        assert_eq!((row.latency_p50_ms, row.latency_p95_ms), (Some(1.5), None));
        assert!(row.folded);
    }
}
