//! Events, change sets.

use std::sync::Arc;

use mode_envoy_model::batch::ChangeSet;
use mode_envoy_model::event::Event;
use mode_envoy_model::limits;
use mode_envoy_model::object::Name;
use mode_envoy_proto::log::v1 as wire;
use prost::Message as _;
use wire::event::Kind;

use super::{
    DecodeError, Wire, fixed, members, missing, none_if_empty, optional, read_list, text,
    write_list,
};

/// A record of the history is of a version that this one does not read.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "a change set of the history cannot be read by this version: {reason}; ask a node of the version that wrote it"
)]
pub struct UnreadableChangeSet {
    reason: String,
}

impl Wire for ChangeSet {
    type Message = wire::ChangeSet;

    fn to_wire(&self) -> Self::Message {
        wire::ChangeSet {
            base_revision: self.base_revision,
            actor: self.actor.clone(),
            events: write_list(&self.events),
            origin: self.origin.clone(),
            request: self.request.as_ref().map(Wire::to_wire),
        }
    }

    fn from_wire(message: Self::Message) -> Result<Self, DecodeError> {
        read_set(message, limits::EVENTS_PER_CHANGE_SET)
    }
}

impl Wire for Event {
    type Message = wire::Event;

    fn to_wire(&self) -> Self::Message {
        let kind = match self {
            Self::Founded {
                cluster_id,
                wrapped_key,
            } => Kind::Founded(wire::Founded {
                cluster_id: cluster_id.to_vec(),
                wrapped_key: wrapped_key.clone(),
                generation: 0,
            }),
            Self::FormatRaised { version } => {
                Kind::FormatRaised(wire::FormatRaised { version: *version })
            }
            Self::TenantPut(object) => Kind::TenantPut(object.to_wire()),
            Self::TenantDeleted(name) => Kind::TenantDeleted(object_name(None, name)),
            Self::ConsumerPut(object) => Kind::ConsumerPut(object.to_wire()),
            Self::ConsumerDeleted { tenant, name } => {
                Kind::ConsumerDeleted(object_name(Some(tenant), name))
            }
            Self::ProviderPut(object) => Kind::ProviderPut(object.to_wire()),
            Self::ProviderDeleted(name) => Kind::ProviderDeleted(object_name(None, name)),
            Self::ModelPut(object) => Kind::ModelPut(object.to_wire()),
            Self::ModelDeleted(name) => Kind::ModelDeleted(object_name(None, name)),
            Self::ServicePut(object) => Kind::ServicePut(object.to_wire()),
            Self::ServiceDeleted(name) => Kind::ServiceDeleted(object_name(None, name)),
            Self::RoutePut(object) => Kind::RoutePut(object.to_wire()),
            Self::RouteDeleted { tenant, name } => {
                Kind::RouteDeleted(object_name(Some(tenant), name))
            }
            Self::LimitPut { id, limit } => {
                Kind::LimitPut(super::limits::write_numbered(*id, limit))
            }
            Self::LimitDeleted { tenant, name } => {
                Kind::LimitDeleted(object_name(tenant.as_ref(), name))
            }
            Self::KeyPut(key) => Kind::KeyPut(key.to_wire()),
            Self::KeyRevoked { tenant, name } => Kind::KeyRevoked(object_name(Some(tenant), name)),
            Self::TokenPut(token) => Kind::TokenPut(token.to_wire()),
            Self::TokenRevoked(name) => Kind::TokenRevoked(object_name(None, name)),
            Self::JoinTokenPut(token) => Kind::JoinTokenPut(token.to_wire()),
            Self::NodeJoined { node, token, nonce } => {
                Kind::NodeJoined(members::write_joined(node, token, nonce))
            }
            Self::NodeRemoved(node) => Kind::NodeRemoved(wire::NodeRemoved { node: *node }),
            Self::RotationBegan(new) => Kind::RotationBegan(new.to_wire()),
            Self::RotationSwitched => Kind::RotationSwitched(wire::RotationSwitched {}),
            Self::RotationEnded => Kind::RotationEnded(wire::RotationEnded {}),
            Self::RotationAborted => Kind::RotationAborted(wire::RotationAborted {}),
            Self::Resealed(resealed) => Kind::Resealed(resealed.to_wire()),
            Self::Restored(restored) => Kind::Restored(restored.to_wire()),
        };
        wire::Event { kind: Some(kind) }
    }

    fn from_wire(message: Self::Message) -> Result<Self, DecodeError> {
        Ok(match message.kind.ok_or_else(|| missing("Event.kind"))? {
            Kind::Founded(founded) => Self::Founded {
                cluster_id: fixed("Founded.cluster_id", &founded.cluster_id)?,
                wrapped_key: founded.wrapped_key,
            },
            Kind::FormatRaised(raised) => Self::FormatRaised {
                version: raised.version,
            },
            Kind::TenantPut(object) => Self::TenantPut(Wire::from_wire(object)?),
            Kind::TenantDeleted(at) => Self::TenantDeleted(at.name.into()),
            Kind::ConsumerPut(object) => Self::ConsumerPut(Wire::from_wire(object)?),
            Kind::ConsumerDeleted(at) => Self::ConsumerDeleted {
                tenant: at.tenant.into(),
                name: at.name.into(),
            },
            Kind::ProviderPut(object) => Self::ProviderPut(Wire::from_wire(object)?),
            Kind::ProviderDeleted(at) => Self::ProviderDeleted(at.name.into()),
            Kind::ModelPut(object) => Self::ModelPut(Wire::from_wire(object)?),
            Kind::ModelDeleted(at) => Self::ModelDeleted(at.name.into()),
            Kind::ServicePut(object) => Self::ServicePut(Wire::from_wire(object)?),
            Kind::ServiceDeleted(at) => Self::ServiceDeleted(at.name.into()),
            Kind::RoutePut(object) => Self::RoutePut(Wire::from_wire(object)?),
            Kind::RouteDeleted(at) => Self::RouteDeleted {
                tenant: at.tenant.into(),
                name: at.name.into(),
            },
            Kind::LimitPut(numbered) => {
                let (id, limit) = super::limits::read_numbered(numbered)?;
                Self::LimitPut { id, limit }
            }
            Kind::LimitDeleted(at) => Self::LimitDeleted {
                tenant: none_if_empty(at.tenant),
                name: at.name.into(),
            },
            Kind::KeyPut(key) => Self::KeyPut(Wire::from_wire(key)?),
            Kind::KeyRevoked(at) => Self::KeyRevoked {
                tenant: at.tenant.into(),
                name: at.name.into(),
            },
            Kind::TokenPut(token) => Self::TokenPut(Wire::from_wire(token)?),
            Kind::TokenRevoked(at) => Self::TokenRevoked(at.name.into()),
            Kind::JoinTokenPut(token) => Self::JoinTokenPut(Wire::from_wire(token)?),
            Kind::NodeJoined(joined) => members::read_joined(&joined)?,
            Kind::NodeRemoved(removed) => Self::NodeRemoved(removed.node),
            Kind::RotationBegan(new) => Self::RotationBegan(Wire::from_wire(new)?),
            Kind::RotationSwitched(_) => Self::RotationSwitched,
            Kind::RotationEnded(_) => Self::RotationEnded,
            Kind::RotationAborted(_) => Self::RotationAborted,
            Kind::Resealed(resealed) => Self::Resealed(Wire::from_wire(resealed)?),
            Kind::Restored(restored) => Self::Restored(Wire::from_wire(restored)?),
        })
    }
}

pub(super) fn object_name(tenant: Option<&Name>, name: &Name) -> wire::ObjectName {
    wire::ObjectName {
        tenant: tenant.map(|t| text(t)).unwrap_or_default(),
        name: text(name),
    }
}

fn read_set(message: wire::ChangeSet, max: usize) -> Result<ChangeSet, DecodeError> {
    Ok(ChangeSet {
        base_revision: message.base_revision,
        actor: message.actor,
        events: read_list("ChangeSet.events", max, message.events)?,
        origin: message.origin,
        request: optional(message.request)?,
        encoded: Arc::default(),
    })
}

/// Reads a change set as the history keeps it.
///
/// # Errors
/// [`UnreadableChangeSet`] where a newer version wrote it.
pub fn read_change_set(encoded: &Arc<[u8]>) -> Result<ChangeSet, UnreadableChangeSet> {
    let unreadable = |reason: String| UnreadableChangeSet { reason };
    let message =
        wire::ChangeSet::decode(&**encoded).map_err(|error| unreadable(error.to_string()))?;
    // Where the history began with a checkpoint, its first record holds a whole catalog.
    let mut set = read_set(message, usize::MAX).map_err(|error| unreadable(error.to_string()))?;
    set.encoded = Arc::clone(encoded);
    Ok(set)
}
