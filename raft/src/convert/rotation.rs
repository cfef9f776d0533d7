//! The replacement of the cluster secret.

use mode_envoy_model::limits;
use mode_envoy_model::rotation::Rotation;
use mode_envoy_proto::log::v1 as wire;

use super::{DecodeError, Wire, bounded, fixed};

impl Wire for Rotation {
    type Message = wire::Rotation;

    fn to_wire(&self) -> Self::Message {
        wire::Rotation {
            check: self.check.to_vec(),
            wrapped_key: self.wrapped_key.to_vec(),
            old_root: self.old_root.to_vec(),
            new_root: self.new_root.to_vec(),
            switched: self.switched,
        }
    }

    fn from_wire(message: Self::Message) -> Result<Self, DecodeError> {
        let wrapped = bounded(
            "Rotation.wrapped_key",
            limits::WRAPPED_KEY,
            message.wrapped_key,
        )?;
        Ok(Self {
            check: fixed("Rotation.check", &message.check)?,
            wrapped_key: wrapped.into(),
            old_root: fixed("Rotation.old_root", &message.old_root)?,
            new_root: fixed("Rotation.new_root", &message.new_root)?,
            switched: message.switched,
        })
    }
}
