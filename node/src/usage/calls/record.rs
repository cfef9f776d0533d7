//! One record: what a Close says, as the call log keeps it and others read it.

use mode_envoy_proto::peer::v1::{CallAttempt, CallRecord};

use crate::secrets::hex;
use crate::usage::record::{CloseHead, Dims, Trail, TriedOnce, UsageSource};

/// Bytes of a hash that are kept.
const HASH_BYTES: usize = 8;

/// The record of a Close that was written at `wall_ms` on `node`.
pub(super) fn record_of(
    node: u64,
    wall_ms: u64,
    head: &CloseHead,
    dims: &Dims,
    trail: Trail,
) -> CallRecord {
    let usage_source = match head.usage_source() {
        UsageSource::Reported => "reported",
        UsageSource::Estimated => "estimated",
        UsageSource::None => "",
    };
    let start_ms = match trail.started_ms {
        // A record of a release that kept no trails.
        0 => wall_ms.saturating_sub(head.latency_us / 1_000),
        started_ms => started_ms,
    };
    let attempts = trail.attempts.into_iter();
    CallRecord {
        call_id: head.call.0.to_vec(),
        request_id: trail.request_id,
        node,
        start_ms,
        tenant: dims.tenant.to_string(),
        team: dims.team.to_string(),
        consumer: dims.consumer.to_string(),
        key: dims.key.to_string(),
        route: dims.route.to_string(),
        api: dims.api.to_string(),
        model: dims.model.to_string(),
        provider: dims.provider.to_string(),
        upstream_model: dims.upstream_model.to_string(),
        method: trail.method,
        path: trail.path,
        status: u32::from(head.status),
        attempts: attempts.map(|tried| attempt(tried, dims)).collect(),
        latency_us: head.latency_us,
        ttft_us: head.ttft_us(),
        input_uncached_tokens: head.input_uncached,
        cache_read_tokens: head.cache_read,
        cache_write_tokens: head.cache_write,
        output_tokens: head.output,
        reasoning_tokens: head.reasoning,
        usage_source: usage_source.to_owned(),
        nano_usd: head.nano_usd,
        priced: head.priced(),
        bytes_in: head.bytes_in,
        bytes_out: head.bytes_out,
        error: trail.error,
        reason: trail.reason,
        revision: trail.revision,
        rejected: head.rejected(),
        presumed: head.presumed_one(),
        cut: head.cut(),
    }
}

/// What a record may be looked up by.
pub(super) fn hashes_of(record: &CallRecord) -> Vec<u64> {
    let mut hashes = vec![hash_of_id(&hex(&record.call_id))];
    if !record.request_id.is_empty() {
        hashes.push(hash_of_id(&record.request_id));
    }
    if !record.key.is_empty() {
        hashes.push(hash_of_key(&record.key));
    }
    hashes
}

/// Of a request id, or of a call id in hex.
pub(super) fn hash_of_id(id: &str) -> u64 {
    hash("id:", id)
}

/// Of a key's name.
pub(super) fn hash_of_key(key: &str) -> u64 {
    hash("key:", key)
}

fn attempt(tried: TriedOnce, dims: &Dims) -> CallAttempt {
    CallAttempt {
        number: u32::from(tried.number),
        provider: dims.provider.to_string(),
        endpoint: tried.endpoint,
        status: u32::from(tried.status),
        outcome: tried.outcome,
        latency_us: tried.latency_us,
    }
}

/// The same in every release: it stands in the log's filters.
fn hash(kind: &str, text: &str) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(kind.as_bytes()).update(text.as_bytes());
    let mut word = [0; HASH_BYTES];
    hasher.finalize_xof().fill(&mut word);
    u64::from_le_bytes(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_the_same_in_every_release() {
        assert_eq!(hash_of_id("a"), 0x6d5a_1a95_ec51_5184);
        assert_ne!(hash_of_id("a"), hash_of_key("a"));
    }
}
