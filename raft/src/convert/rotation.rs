//! The replacement of the cluster secret, and the restore of a backup.

use mode_envoy_model::limits;
use mode_envoy_model::object::Name;
use mode_envoy_model::provider::Resealed;
use mode_envoy_model::restored::Restored;
use mode_envoy_model::rotation::Rotation;
use mode_envoy_proto::log::v1 as wire;

use super::{DecodeError, Wire, bounded, fixed, read_list, text, write_list};

impl Wire for Rotation {
    type Message = wire::Rotation;

    fn to_wire(&self) -> Self::Message {
        wire::Rotation {
            check: self.check.to_vec(),
            wrapped_key: self.wrapped_key.to_vec(),
            old_root: self.old_root.to_vec(),
            new_root: self.new_root.to_vec(),
            switched: self.switched,
            old_wrapped_key: self.old_wrapped_key.to_vec(),
            generation: self.generation,
        }
    }

    fn from_wire(message: Self::Message) -> Result<Self, DecodeError> {
        let wrapped = bounded(
            "Rotation.wrapped_key",
            limits::WRAPPED_KEY,
            message.wrapped_key,
        )?;
        let old = bounded(
            "Rotation.old_wrapped_key",
            limits::WRAPPED_KEY,
            message.old_wrapped_key,
        )?;
        Ok(Self {
            check: fixed("Rotation.check", &message.check)?,
            wrapped_key: wrapped.into(),
            old_wrapped_key: old.into(),
            generation: message.generation,
            old_root: fixed("Rotation.old_root", &message.old_root)?,
            new_root: fixed("Rotation.new_root", &message.new_root)?,
            switched: message.switched,
        })
    }
}

impl Wire for Resealed {
    type Message = wire::ResealedSecrets;

    fn to_wire(&self) -> Self::Message {
        wire::ResealedSecrets {
            provider: text(&self.provider),
            keys: write_list(&self.keys),
        }
    }

    fn from_wire(message: Self::Message) -> Result<Self, DecodeError> {
        Ok(Self {
            provider: Name::from(message.provider),
            keys: read_list("ResealedSecrets.keys", limits::PROVIDER_KEYS, message.keys)?,
        })
    }
}

impl Wire for Restored {
    type Message = wire::Restored;

    fn to_wire(&self) -> Self::Message {
        wire::Restored {
            cluster_id: self.cluster_id.to_vec(),
            from_cluster_id: self.from_cluster_id.to_vec(),
            from_revision: self.from_revision,
            from_index: self.from_index,
            node: self.node,
        }
    }

    fn from_wire(message: Self::Message) -> Result<Self, DecodeError> {
        Ok(Self {
            cluster_id: fixed("Restored.cluster_id", &message.cluster_id)?,
            from_cluster_id: fixed("Restored.from_cluster_id", &message.from_cluster_id)?,
            from_revision: message.from_revision,
            from_index: message.from_index,
            node: message.node,
        })
    }
}
