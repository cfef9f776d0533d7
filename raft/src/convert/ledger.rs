//! Limits: what nodes used and ask for, and the end of an incarnation.

use mode_envoy_model::batch::{Evict, Final};
use mode_envoy_model::ledger::ask::{Ask, AskItem, LeaseUse, PoolKey};
use mode_envoy_model::limits;
use mode_envoy_proto::log::v1 as wire;

use super::{DecodeError, Wire, bounded, fixed, read_list, text, unknown, write_list};

impl Wire for LeaseUse {
    type Message = wire::LeaseUse;

    fn to_wire(&self) -> Self::Message {
        wire::LeaseUse {
            lease: self.lease,
            spent: self.spent,
            returned: self.returned,
        }
    }

    fn from_wire(message: Self::Message) -> Result<Self, DecodeError> {
        Ok(Self {
            lease: message.lease,
            spent: message.spent,
            returned: message.returned,
        })
    }
}

impl Wire for Ask {
    type Message = wire::Ask;

    fn to_wire(&self) -> Self::Message {
        wire::Ask {
            items: write_list(&self.items),
        }
    }

    fn from_wire(message: Self::Message) -> Result<Self, DecodeError> {
        let items = read_list("Ask.items", limits::BATCH_ASK_ITEMS, message.items)?;
        Ok(Self { items })
    }
}

impl Wire for AskItem {
    type Message = wire::AskItem;

    fn to_wire(&self) -> Self::Message {
        wire::AskItem {
            limit: self.pool.limit,
            value: text(&self.pool.value),
            need: self.need,
            want: self.want,
            demand: self.demand,
            typical: self.typical,
        }
    }

    fn from_wire(message: Self::Message) -> Result<Self, DecodeError> {
        Ok(Self {
            pool: read_pool_key(message.limit, message.value)?,
            need: message.need,
            want: message.want,
            demand: message.demand,
            typical: message.typical,
        })
    }
}

impl Wire for Final {
    type Message = wire::Final;

    fn to_wire(&self) -> Self::Message {
        let ends = self.ends.iter().map(|(uuid, end)| wire::SpoolEnd {
            uuid: uuid.to_vec(),
            end: *end,
        });
        wire::Final {
            node: self.node,
            incarnation: self.incarnation,
            ends: ends.collect(),
        }
    }

    fn from_wire(message: Self::Message) -> Result<Self, DecodeError> {
        let ends = bounded("Final.ends", limits::SPOOLS, message.ends)?.into_iter();
        let ends = ends.map(|end| Ok((fixed("SpoolEnd.uuid", &end.uuid)?, end.end)));
        Ok(Self {
            node: message.node,
            incarnation: message.incarnation,
            ends: ends.collect::<Result<_, DecodeError>>()?,
        })
    }
}

impl Wire for Evict {
    type Message = wire::Evict;

    fn to_wire(&self) -> Self::Message {
        wire::Evict {
            node: self.node,
            incarnation: self.incarnation,
        }
    }

    fn from_wire(message: Self::Message) -> Result<Self, DecodeError> {
        Ok(Self {
            node: message.node,
            incarnation: message.incarnation,
        })
    }
}

/// A key, whose value is no longer than any is.
pub(super) fn read_pool_key(limit: u64, value: String) -> Result<PoolKey, DecodeError> {
    if value.len() > limits::EACH_VALUE {
        return Err(unknown("the value of a limit's `each`", value.len()));
    }
    Ok(PoolKey {
        limit,
        value: value.into(),
    })
}
