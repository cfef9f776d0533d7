//! Checkpoints: one meta record and named chunks, which together are the state at one log index.
//!
//! A chunk's bytes depend on its content only, so the store finds what did not change by its hash: a sealed bucket is
//! written once. Names say what a chunk holds; reading goes by the name's first word.

use std::sync::Arc;

use bytes::Bytes;
use mode_envoy_model::catalog::{Founded, Record};
use mode_envoy_model::checkpoint::Parts;
use mode_envoy_model::limits;
use mode_envoy_model::state::State;
use mode_envoy_proto::log::v1 as wire;
use prost::Message as _;
use wire::catalog_object::Kind;

use super::{DecodeError, Wire, fixed, missing, optional, raft, unknown};
use crate::types::{SnapshotMeta, StoredMembership};

mod growth;
mod history;
mod ledger;
mod requests;
mod usage;

/// Objects in one chunk of the catalog.
const OBJECTS_PER_CHUNK: usize = 4_096;

/// A state as a checkpoint holds it.
pub(crate) struct EncodedCheckpoint {
    /// The meta record.
    pub(crate) meta: Vec<u8>,
    /// The chunks, by name.
    pub(crate) chunks: Vec<(String, Bytes)>,
}

/// What the meta record of a checkpoint says of it.
pub(crate) struct CheckpointAbout {
    /// Where it stands.
    pub(crate) at: SnapshotMeta,
    /// The cluster it is of, once that was founded.
    pub(crate) cluster_id: Option<[u8; 16]>,
}

/// Reads the meta record alone.
pub(crate) fn read_checkpoint_meta(bytes: &[u8]) -> Result<CheckpointAbout, DecodeError> {
    let meta: wire::CheckpointMeta = decode("CheckpointMeta", bytes)?;
    check_version(&meta)?;
    let founded = meta.founded.clone().map(read_founded).transpose()?;
    Ok(CheckpointAbout {
        at: read_meta(&meta)?,
        cluster_id: founded.map(|founded| founded.cluster_id),
    })
}

/// Takes a state apart into bytes.
pub(crate) fn encode_checkpoint(
    state: &State,
    at: &SnapshotMeta,
) -> Result<EncodedCheckpoint, DecodeError> {
    let parts = state.parts();
    let meta = write_meta(&parts, at)?.encode_to_vec();
    let mut chunks = Vec::new();
    for (number, records) in parts.records.chunks(OBJECTS_PER_CHUNK).enumerate() {
        let objects = records.iter().map(write_record).collect();
        chunks.push((
            format!("catalog-{number:05}"),
            encode(&wire::CatalogChunk { objects }),
        ));
    }
    if let Some(history) = &parts.history {
        history::write_chunks(history, &mut chunks);
    }
    requests::write_chunks(&parts, &mut chunks);
    ledger::write_chunks(&parts, &mut chunks);
    usage::write_chunks(&parts, &mut chunks);
    Ok(EncodedCheckpoint { meta, chunks })
}

/// Puts a state together from bytes.
pub(crate) fn decode_checkpoint(
    meta: &[u8],
    chunks: &[(String, Bytes)],
) -> Result<(SnapshotMeta, State), DecodeError> {
    let meta: wire::CheckpointMeta = decode("CheckpointMeta", meta)?;
    let at = read_meta(&meta)?;
    check_version(&meta)?;
    let founded = meta.founded.map(read_founded).transpose()?;
    let history = meta.history.as_ref().map(history::read_head).transpose()?;
    let mut parts = Parts {
        revision: meta.revision,
        format_version: meta.format_version,
        founded,
        lease_clock_ms: meta.lease_clock_ms,
        wall_ms: meta.wall_ms,
        records: Vec::new(),
        history,
        members: optional(meta.members)?.unwrap_or_default(),
        last_limit_id: meta.last_limit_id,
        rotation: optional(meta.rotation)?,
        requests: Vec::new(),
        growth: meta.growth.map(growth::read).unwrap_or_default(),
        series: Vec::new(),
        streams: Vec::new(),
        cells: Vec::new(),
        nodes: None,
        ledger: ledger::read_meta(meta.ledger)?,
    };
    for (name, bytes) in chunks {
        read_chunk(&mut parts, name, bytes)?;
    }
    if parts.history.is_none() {
        parts.history = history::begun_at(&parts);
    }
    let state = State::from_parts(parts).map_err(|e| DecodeError::Contradiction {
        reason: e.to_string(),
    })?;
    Ok((at, state))
}

fn check_version(meta: &wire::CheckpointMeta) -> Result<(), DecodeError> {
    let version = meta.format_version;
    if version > limits::FORMAT_VERSION {
        return Err(unknown("CheckpointMeta.format_version", version));
    }
    Ok(())
}

fn read_chunk(parts: &mut Parts, name: &str, bytes: &Bytes) -> Result<(), DecodeError> {
    match name.split('-').next().unwrap_or_default() {
        "catalog" => {
            let chunk: wire::CatalogChunk = decode("CatalogChunk", bytes)?;
            for object in chunk.objects {
                parts.records.push(read_record(object)?);
            }
        }
        "history" => history::read_chunk(parts, bytes)?,
        "requests" => requests::read_chunk(parts, bytes)?,
        kind => {
            if !ledger::read_chunk(parts, kind, bytes)? && !usage::read_chunk(parts, kind, bytes)? {
                return Err(unknown("the name of a checkpoint's chunk", name));
            }
        }
    }
    Ok(())
}

fn encode(message: &impl prost::Message) -> Bytes {
    message.encode_to_vec().into()
}

fn decode<M: prost::Message + Default>(what: &'static str, bytes: &[u8]) -> Result<M, DecodeError> {
    M::decode(bytes).map_err(|e| DecodeError::Protobuf {
        what,
        reason: e.to_string(),
    })
}

fn write_meta(parts: &Parts, at: &SnapshotMeta) -> Result<wire::CheckpointMeta, DecodeError> {
    let applied = at.last_log_id.map(raft::log_id).unwrap_or_default();
    let membership =
        serde_json::to_vec(&at.last_membership).map_err(|e| DecodeError::Protobuf {
            what: "CheckpointMeta.membership",
            reason: e.to_string(),
        })?;
    let founded = parts.founded.as_ref().map(|founded| wire::Founded {
        cluster_id: founded.cluster_id.to_vec(),
        wrapped_key: founded.wrapped_key.to_vec(),
        generation: founded.generation,
    });
    Ok(wire::CheckpointMeta {
        applied_term: applied.term,
        applied_node: applied.node,
        applied_index: applied.index,
        has_applied: at.last_log_id.is_some(),
        membership,
        revision: parts.revision,
        lease_clock_ms: parts.lease_clock_ms,
        wall_ms: parts.wall_ms,
        format_version: parts.format_version,
        founded,
        history: parts.history.as_ref().map(history::write_head),
        members: Some(parts.members.to_wire()),
        last_limit_id: parts.last_limit_id,
        rotation: parts.rotation.as_ref().map(Wire::to_wire),
        ledger: Some(ledger::write_meta(&parts.ledger)),
        growth: Some(growth::write(&parts.growth)),
    })
}

fn read_meta(meta: &wire::CheckpointMeta) -> Result<SnapshotMeta, DecodeError> {
    let last_log_id = meta.has_applied.then(|| {
        raft::log_id_from_wire(wire_log_id(
            meta.applied_term,
            meta.applied_node,
            meta.applied_index,
        ))
    });
    let last_membership: StoredMembership =
        serde_json::from_slice(&meta.membership).map_err(|e| DecodeError::Protobuf {
            what: "CheckpointMeta.membership",
            reason: e.to_string(),
        })?;
    Ok(snapshot_meta(last_log_id, last_membership))
}

/// The same place in the log has the same id on every node.
pub(crate) fn snapshot_meta(
    last_log_id: Option<crate::types::LogId>,
    last_membership: StoredMembership,
) -> SnapshotMeta {
    let snapshot_id = last_log_id.map_or_else(
        || "empty".to_owned(),
        |id| {
            format!(
                "{}-{}-{}",
                id.leader_id.term, id.leader_id.node_id, id.index
            )
        },
    );
    SnapshotMeta {
        last_log_id,
        last_membership,
        snapshot_id,
    }
}

fn wire_log_id(term: u64, node: u64, index: u64) -> mode_envoy_proto::peer::v1::LogId {
    mode_envoy_proto::peer::v1::LogId { term, node, index }
}

fn read_founded(founded: wire::Founded) -> Result<Founded, DecodeError> {
    Ok(Founded {
        cluster_id: fixed("Founded.cluster_id", &founded.cluster_id)?,
        wrapped_key: founded.wrapped_key.into(),
        generation: founded.generation,
    })
}

fn write_record((revision, record): &(u64, Record)) -> wire::CatalogObject {
    let kind = match record {
        Record::Tenant(o) => Kind::Tenant(o.to_wire()),
        Record::Consumer(o) => Kind::Consumer(o.to_wire()),
        Record::Provider(o) => Kind::Provider(o.to_wire()),
        Record::Model(o) => Kind::Model(o.to_wire()),
        Record::Service(o) => Kind::Service(o.to_wire()),
        Record::Route(o) => Kind::Route(o.to_wire()),
        Record::Limit(id, o) => Kind::Limit(super::limits::write_numbered(*id, o)),
        Record::Key(o) => Kind::Key(o.to_wire()),
        Record::Token(o) => Kind::Token(o.to_wire()),
    };
    wire::CatalogObject {
        revision: *revision,
        kind: Some(kind),
    }
}

fn read_record(object: wire::CatalogObject) -> Result<(u64, Record), DecodeError> {
    let record = match object.kind.ok_or_else(|| missing("CatalogObject.kind"))? {
        Kind::Tenant(o) => Record::Tenant(Arc::new(Wire::from_wire(o)?)),
        Kind::Consumer(o) => Record::Consumer(Arc::new(Wire::from_wire(o)?)),
        Kind::Provider(o) => Record::Provider(Arc::new(Wire::from_wire(o)?)),
        Kind::Model(o) => Record::Model(Arc::new(Wire::from_wire(o)?)),
        Kind::Service(o) => Record::Service(Arc::new(Wire::from_wire(o)?)),
        Kind::Route(o) => Record::Route(Arc::new(Wire::from_wire(o)?)),
        Kind::Limit(o) => {
            let (id, limit) = super::limits::read_numbered(o)?;
            Record::Limit(id, Arc::new(limit))
        }
        Kind::Key(o) => Record::Key(Arc::new(Wire::from_wire(o)?)),
        Kind::Token(o) => Record::Token(Arc::new(Wire::from_wire(o)?)),
    };
    Ok((object.revision, record))
}
