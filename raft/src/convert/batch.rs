//! One entry of the log.

use mode_envoy_model::batch::{Batch, Item};
use mode_envoy_proto::log::v1 as wire;
use prost::Message as _;
use wire::item::Kind;

use super::{DecodeError, Wire, missing, read_list, write_list};

/// More items than a proposer ever puts into one entry.
const ITEMS: usize = 4_096;

impl Wire for Item {
    type Message = wire::Item;

    fn to_wire(&self) -> Self::Message {
        let kind = match self {
            Self::ChangeSet(set) => Kind::ChangeSet(set.to_wire()),
            Self::Register(register) => Kind::Register(register.to_wire()),
            Self::Usage(batch) => Kind::Usage(batch.to_wire()),
        };
        wire::Item { kind: Some(kind) }
    }

    fn from_wire(message: Self::Message) -> Result<Self, DecodeError> {
        Ok(match message.kind.ok_or_else(|| missing("Item.kind"))? {
            Kind::ChangeSet(set) => Self::ChangeSet(Wire::from_wire(set)?),
            Kind::Register(register) => Self::Register(Wire::from_wire(register)?),
            Kind::Usage(batch) => Self::Usage(Wire::from_wire(batch)?),
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
pub(crate) fn decode_batch(bytes: &[u8]) -> Result<Batch, DecodeError> {
    let message = wire::Batch::decode(bytes).map_err(|e| DecodeError::Protobuf {
        what: "Batch",
        reason: e.to_string(),
    })?;
    Batch::from_wire(message)
}
