//! What the consensus library is made to work on: one entry is one batch, a reply is what its items came to.
//!
//! Concrete throughout: nothing in this crate is generic over the type configuration.

use bytes::Bytes;
use mode_envoy_model::batch::Outcome;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::checkpoint::CheckpointRef;

openraft::declare_raft_types!(
    /// The library's type configuration.
    pub(crate) TypeConfig:
        D = Payload,
        R = Applied,
        NodeId = u64,
        Node = Member,
        Entry = openraft::Entry<TypeConfig>,
        SnapshotData = CheckpointRef,
        AsyncRuntime = crate::machine::Runtime,
);

pub(crate) type NodeId = u64;
pub(crate) type Raft = openraft::Raft<TypeConfig>;
pub(crate) type Entry = openraft::Entry<TypeConfig>;
pub(crate) type LogId = openraft::LogId<NodeId>;
pub(crate) type Vote = openraft::Vote<NodeId>;
pub(crate) type StorageError = openraft::StorageError<NodeId>;
pub(crate) type StorageIOError = openraft::StorageIOError<NodeId>;
pub(crate) type StoredMembership = openraft::StoredMembership<NodeId, Member>;
pub(crate) type SnapshotMeta = openraft::SnapshotMeta<NodeId, Member>;
pub(crate) type Snapshot = openraft::Snapshot<TypeConfig>;
pub(crate) type RaftMetrics = openraft::RaftMetrics<NodeId, Member>;

/// An encoded `modeenvoy.log.v1.Batch`. It stays encoded until it is applied, so that replication only shares bytes.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(from = "Vec<u8>", into = "Vec<u8>")]
pub(crate) struct Payload(pub(crate) Bytes);

/// What an entry came to: an outcome for each item of its batch, none for other entries.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Applied {
    /// In the order of the items.
    pub(crate) outcomes: Vec<Outcome>,
}

/// A member of the cluster, as the membership in the log describes it.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Member {
    /// Address of its peer listener.
    pub(crate) peer: String,
}

// === impl Payload ===

impl From<Vec<u8>> for Payload {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes.into())
    }
}

impl From<Payload> for Vec<u8> {
    fn from(payload: Payload) -> Self {
        payload.0.into()
    }
}

// === impl Applied ===

/// The library asks for these bounds, but a reply never leaves the process that applied the entry.
impl Serialize for Applied {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom(
            "a reply stays in the process that applied the entry",
        ))
    }
}

impl<'de> Deserialize<'de> for Applied {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Err(serde::de::Error::custom(
            "a reply stays in the process that applied the entry",
        ))
    }
}
