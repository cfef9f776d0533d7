//! Clients for other members: shared lazy channels, the envelope of every request, one limit on message sizes; and
//! a line in the log whenever the reason changes for which a member cannot be reached.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use mode_envoy_proto::peer::v1 as wire;
use tonic::Request;
use tonic::transport::Channel;
use wire::calls_client::CallsClient;
use wire::forward_client::ForwardClient;
use wire::members_client::MembersClient;
use wire::raft_client::RaftClient;

use crate::channels::{DialError, MAX_MESSAGE_BYTES, PeerChannels};
use crate::identity::ClusterId;
use crate::types::NodeId;

/// How this node reaches the others. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Peers {
    channels: PeerChannels,
    cluster_id: ClusterId,
    node_id: NodeId,
    /// Why each member that cannot be reached is not.
    unreached: Arc<Mutex<BTreeMap<NodeId, String>>>,
}

// === impl Peers ===

impl Peers {
    /// On behalf of `node_id`, a member of the cluster.
    pub(crate) fn new(channels: PeerChannels, cluster_id: ClusterId, node_id: NodeId) -> Self {
        Self {
            channels,
            cluster_id,
            node_id,
            unreached: Arc::default(),
        }
    }

    /// Tells the operator that a member is not reached, once for each reason.
    pub(crate) fn missed(&self, node: NodeId, error: &DialError) {
        let reason = error.to_string();
        let mut unreached = self
            .unreached
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if unreached.get(&node) != Some(&reason) {
            tracing::warn!(peer = node, reason, "a member is not reached");
            unreached.insert(node, reason);
        }
    }

    /// Tells the operator that a member is reached again.
    pub(crate) fn reached(&self, node: NodeId) {
        let mut unreached = self
            .unreached
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if unreached.remove(&node).is_some() {
            tracing::info!(peer = node, "a member is reached again");
        }
    }

    /// Consensus with one member; never dials.
    pub(crate) fn raft(&self, to: NodeId, address: &str) -> RaftClient<Channel> {
        RaftClient::new(self.channels.channel(to, address))
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// Snapshots for one member, over a connection that nothing else waits for; never dials.
    pub(crate) fn snapshots(&self, to: NodeId, address: &str) -> RaftClient<Channel> {
        RaftClient::new(self.channels.bulk(to, address))
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// Everything else with one member; never dials.
    pub(crate) fn forward(&self, to: NodeId, address: &str) -> ForwardClient<Channel> {
        ForwardClient::new(self.channels.channel(to, address))
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// How leadership moves, with one member; never dials.
    pub(crate) fn members(&self, to: NodeId, address: &str) -> MembersClient<Channel> {
        MembersClient::new(self.channels.channel(to, address))
    }

    /// Call records of one member; never dials.
    pub(crate) fn calls(&self, to: NodeId, address: &str) -> CallsClient<Channel> {
        CallsClient::new(self.channels.channel(to, address))
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// Names the cluster, the sender and the receiver.
    pub(crate) fn envelope(&self, to: NodeId) -> wire::Envelope {
        wire::Envelope {
            cluster_id: self.cluster_id.to_vec(),
            from: self.node_id,
            to,
        }
    }
}

/// A request that the receiver gives up on when the sender does.
pub(crate) fn request<T>(message: T, timeout: std::time::Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(timeout);
    request
}
