//! The requests that retries are answered from, in a checkpoint; one of a version that remembered none has no such chunk.

use std::sync::Arc;

use bytes::Bytes;
use mode_envoy_model::checkpoint::Parts;
use mode_envoy_model::requests::Answered;
use mode_envoy_proto::log::v1 as wire;

use super::super::{DecodeError, Wire as _};
use super::{decode, encode};

/// Requests in one chunk.
const REQUESTS_PER_CHUNK: usize = 1_000;

pub(super) fn write_chunks(parts: &Parts, chunks: &mut Vec<(String, Bytes)>) {
    for (number, answered) in parts.requests.chunks(REQUESTS_PER_CHUNK).enumerate() {
        let requests = answered.iter().map(|answered| answered.to_wire()).collect();
        let chunk = wire::RequestsChunk { requests };
        chunks.push((format!("requests-{number:05}"), encode(&chunk)));
    }
}

pub(super) fn read_chunk(parts: &mut Parts, bytes: &Bytes) -> Result<(), DecodeError> {
    let chunk: wire::RequestsChunk = decode("RequestsChunk", bytes)?;
    for answered in chunk.requests {
        parts
            .requests
            .push(Arc::new(Answered::from_wire(answered)?));
    }
    Ok(())
}
