//! The history in a checkpoint: its head in the meta record, and a chunk of the checkpoint for each chunk of its own.
//!
//! A chunk that is sealed has the same bytes in every checkpoint, so the store writes it once. A checkpoint of a version
//! that kept no history gets one that begins with what its catalog holds.

use std::sync::Arc;

use bytes::Bytes;
use mode_envoy_model::batch::ChangeSet;
use mode_envoy_model::catalog::Record as Stored;
use mode_envoy_model::checkpoint::Parts;
use mode_envoy_model::event::Event;
use mode_envoy_model::history::{BEGINNING, HistoryParts, NO_RECORD, Record, chain};
use mode_envoy_proto::log::v1 as wire;
use prost::Message as _;

use super::super::{DecodeError, Wire as _, fixed};
use super::{decode, encode};

pub(super) fn write_head(history: &HistoryParts) -> wire::HistoryHead {
    wire::HistoryHead {
        hash: history.head.to_vec(),
    }
}

pub(super) fn read_head(head: &wire::HistoryHead) -> Result<HistoryParts, DecodeError> {
    Ok(HistoryParts {
        chunks: Vec::new(),
        head: fixed("HistoryHead.hash", &head.hash)?,
    })
}

pub(super) fn write_chunks(history: &HistoryParts, chunks: &mut Vec<(String, Bytes)>) {
    for (number, records) in history.chunks.iter().enumerate() {
        let records = records.iter().map(|record| wire::HistoryRecord {
            revision: record.revision,
            wall_ms: record.wall_ms,
            change_set: record.change_set.to_vec(),
            hash: record.hash.to_vec(),
        });
        let chunk = wire::HistoryChunk {
            records: records.collect(),
        };
        chunks.push((format!("history-{number:06}"), encode(&chunk)));
    }
}

pub(super) fn read_chunk(parts: &mut Parts, bytes: &Bytes) -> Result<(), DecodeError> {
    let chunk: wire::HistoryChunk = decode("HistoryChunk", bytes)?;
    let records: Result<Vec<_>, _> = chunk.records.into_iter().map(read_record).collect();
    // A chunk without a head is broken: its records cannot lead to the hash that stands for none.
    let history = parts.history.get_or_insert_with(|| HistoryParts {
        chunks: Vec::new(),
        head: NO_RECORD,
    });
    history.chunks.push(Arc::from(records?));
    Ok(())
}

fn read_record(record: wire::HistoryRecord) -> Result<Record, DecodeError> {
    Ok(Record {
        revision: record.revision,
        wall_ms: record.wall_ms,
        change_set: record.change_set.into(),
        hash: fixed("HistoryRecord.hash", &record.hash)?,
    })
}

/// A history that begins here: one record that puts everything declarative. `None` where nothing was configured yet.
pub(super) fn begun_at(parts: &Parts) -> Option<HistoryParts> {
    if parts.revision == 0 {
        return None;
    }
    let events = parts.records.iter().filter_map(|(_, stored)| put(stored));
    let set = ChangeSet {
        base_revision: parts.revision,
        actor: "cluster".to_owned(),
        origin: BEGINNING.to_owned(),
        events: events.collect(),
        request: None,
        encoded: Arc::default(),
    };
    let change_set: Arc<[u8]> = set.to_wire().encode_to_vec().into();
    let hash = chain(&NO_RECORD, parts.revision, parts.wall_ms, &change_set);
    let record = Record {
        revision: parts.revision,
        wall_ms: parts.wall_ms,
        change_set,
        hash,
    };
    Some(HistoryParts {
        chunks: vec![Arc::from([record])],
        head: hash,
    })
}

fn put(stored: &Stored) -> Option<Event> {
    Some(match stored {
        Stored::Tenant(o) => Event::TenantPut((**o).clone()),
        Stored::Consumer(o) => Event::ConsumerPut((**o).clone()),
        Stored::Provider(o) => Event::ProviderPut((**o).clone()),
        Stored::Model(o) => Event::ModelPut((**o).clone()),
        Stored::Service(o) => Event::ServicePut((**o).clone()),
        Stored::Route(o) => Event::RoutePut((**o).clone()),
        Stored::Limit(id, o) => Event::LimitPut {
            id: *id,
            limit: (**o).clone(),
        },
        Stored::Key(_) | Stored::Token(_) => return None,
    })
}
