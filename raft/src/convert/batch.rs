//! One entry of the log. A change set keeps the bytes that it was read from, for the history.

use std::sync::Arc;

use bytes::Bytes;
use mode_envoy_model::batch::{Batch, Item};
use mode_envoy_proto::log::v1 as wire;
use wire::item::Kind;

use super::{DecodeError, Wire, missing, read_list, write_list};

/// More items than a proposer ever puts into one entry.
const ITEMS: usize = 4_096;

/// A batch, its items left as bytes.
#[derive(Clone, PartialEq, prost::Message)]
struct RawBatch {
    #[prost(bytes = "bytes", repeated, tag = "3")]
    items: Vec<Bytes>,
}

/// An item, its change set left as bytes.
#[derive(Clone, PartialEq, prost::Message)]
struct RawItem {
    #[prost(bytes = "bytes", optional, tag = "1")]
    change_set: Option<Bytes>,
}

impl Wire for Item {
    type Message = wire::Item;

    fn to_wire(&self) -> Self::Message {
        let kind = match self {
            Self::ChangeSet(set) => Kind::ChangeSet(set.to_wire()),
            Self::Register(register) => Kind::Register(register.to_wire()),
            Self::Usage(batch) => Kind::Usage(batch.to_wire()),
            Self::Final(done) => Kind::Final(done.to_wire()),
            Self::Evict(evict) => Kind::Evict(evict.to_wire()),
        };
        wire::Item { kind: Some(kind) }
    }

    fn from_wire(message: Self::Message) -> Result<Self, DecodeError> {
        Ok(match message.kind.ok_or_else(|| missing("Item.kind"))? {
            Kind::ChangeSet(set) => Self::ChangeSet(Wire::from_wire(set)?),
            Kind::Register(register) => Self::Register(Wire::from_wire(register)?),
            Kind::Usage(batch) => Self::Usage(Wire::from_wire(batch)?),
            Kind::Final(done) => Self::Final(Wire::from_wire(done)?),
            Kind::Evict(evict) => Self::Evict(Wire::from_wire(evict)?),
        })
    }
}

impl Wire for Batch {
    type Message = wire::Batch;

    fn to_wire(&self) -> Self::Message {
        wire::Batch {
            lease_clock_ms: self.lease_clock_ms,
            wall_ms: self.wall_ms,
            items: write_list(&self.items),
        }
    }

    fn from_wire(message: Self::Message) -> Result<Self, DecodeError> {
        Ok(Self {
            lease_clock_ms: message.lease_clock_ms,
            wall_ms: message.wall_ms,
            items: read_list("Batch.items", ITEMS, message.items)?,
        })
    }
}

/// Reads an entry's payload.
pub(crate) fn decode_batch(bytes: &Bytes) -> Result<Batch, DecodeError> {
    let message: wire::Batch = decode("Batch", bytes)?;
    let mut batch = Batch::from_wire(message)?;
    if batch
        .items
        .iter()
        .any(|item| matches!(item, Item::ChangeSet(_)))
    {
        keep_encoded(&mut batch, bytes)?;
    }
    Ok(batch)
}

/// Gives each change set the bytes that stand in the log; they are copied, so that the rest of the entry can go.
fn keep_encoded(batch: &mut Batch, bytes: &Bytes) -> Result<(), DecodeError> {
    let raw: RawBatch = decode("Batch", bytes)?;
    for (item, raw) in batch.items.iter_mut().zip(&raw.items) {
        if let Item::ChangeSet(set) = item {
            let raw: RawItem = decode("Item", raw)?;
            let encoded = raw.change_set.ok_or_else(|| missing("Item.change_set"))?;
            set.encoded = Arc::from(&encoded[..]);
        }
    }
    Ok(())
}

fn decode<M: prost::Message + Default>(
    what: &'static str,
    bytes: &Bytes,
) -> Result<M, DecodeError> {
    M::decode(bytes.clone()).map_err(|e| DecodeError::Protobuf {
        what,
        reason: e.to_string(),
    })
}
