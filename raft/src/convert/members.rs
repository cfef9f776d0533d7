//! Who joined, who left, and what lets a node in.

use std::collections::BTreeMap;

use mode_envoy_model::event::Event;
use mode_envoy_model::key::SecretHash;
use mode_envoy_model::limits;
use mode_envoy_model::member::{JoinToken, JoinedNode, Members};
use mode_envoy_proto::log::v1 as wire;
use mode_envoy_proto::peer::v1 as peer;

use super::{DecodeError, Wire, bounded, fixed, read_list, text, unknown};

/// Nodes in one list: those of a membership, with one that goes while another comes.
const PEERS: usize = 2 * limits::MEMBERS;

impl Wire for JoinToken {
    type Message = wire::JoinToken;

    fn to_wire(&self) -> Self::Message {
        let (node, nonce_hash) = self
            .used
            .map(|(node, nonce)| (node, nonce.to_vec()))
            .unwrap_or_default();
        wire::JoinToken {
            hash: self.hash.to_vec(),
            expires_ms: self.expires_ms,
            node,
            nonce_hash,
        }
    }

    fn from_wire(message: Self::Message) -> Result<Self, DecodeError> {
        let used = if message.node == 0 && message.nonce_hash.is_empty() {
            None
        } else {
            let nonce = fixed("JoinToken.nonce_hash", &message.nonce_hash)?;
            Some((message.node, nonce))
        };
        Ok(Self {
            hash: fixed("JoinToken.hash", &message.hash)?,
            expires_ms: message.expires_ms,
            used,
        })
    }
}

impl Wire for JoinedNode {
    type Message = wire::JoinedNode;

    fn to_wire(&self) -> Self::Message {
        wire::JoinedNode {
            node: self.id,
            peer: text(&self.peer),
            joined_ms: self.joined_ms,
        }
    }

    fn from_wire(message: Self::Message) -> Result<Self, DecodeError> {
        Ok(Self {
            id: message.node,
            peer: message.peer.into(),
            joined_ms: message.joined_ms,
        })
    }
}

impl Wire for Members {
    type Message = wire::ClusterMembers;

    fn to_wire(&self) -> Self::Message {
        wire::ClusterMembers {
            largest_id: self.largest_id(),
            joined: self.joined().map(Wire::to_wire).collect(),
            removed: self.removed().collect(),
            tokens: self.tokens().map(Wire::to_wire).collect(),
        }
    }

    fn from_wire(message: Self::Message) -> Result<Self, DecodeError> {
        let ids = usize::try_from(limits::NODE_IDS).unwrap_or(usize::MAX);
        let joined: Vec<JoinedNode> = read_list("ClusterMembers.joined", ids, message.joined)?;
        let removed = bounded("ClusterMembers.removed", ids, message.removed)?;
        let tokens: Vec<JoinToken> =
            read_list("ClusterMembers.tokens", limits::JOIN_TOKENS, message.tokens)?;
        let largest = message.largest_id;
        let mut ids = joined
            .iter()
            .map(|node| node.id)
            .chain(removed.iter().copied());
        if let Some(id) = ids.find(|id| *id == 0 || *id > largest) {
            return Err(unknown("a node id in ClusterMembers", id));
        }
        Ok(Self::restore(largest, joined, removed, tokens))
    }
}

pub(super) fn write_joined(
    node: &JoinedNode,
    token: &SecretHash,
    nonce: &SecretHash,
) -> wire::NodeJoined {
    wire::NodeJoined {
        node: node.id,
        peer: text(&node.peer),
        joined_ms: node.joined_ms,
        token_hash: token.to_vec(),
        nonce_hash: nonce.to_vec(),
    }
}

pub(super) fn read_joined(joined: &wire::NodeJoined) -> Result<Event, DecodeError> {
    Ok(Event::NodeJoined {
        node: JoinedNode {
            id: joined.node,
            peer: joined.peer.as_str().into(),
            joined_ms: joined.joined_ms,
        },
        token: fixed("NodeJoined.token_hash", &joined.token_hash)?,
        nonce: fixed("NodeJoined.nonce_hash", &joined.nonce_hash)?,
    })
}

pub(super) fn write_join(
    token: &SecretHash,
    nonce: &SecretHash,
    (address, members): (&str, &BTreeMap<u64, String>),
) -> peer::Join {
    peer::Join {
        token_hash: token.to_vec(),
        nonce_hash: nonce.to_vec(),
        peer: address.to_owned(),
        members: write_peers(members),
    }
}

pub(super) fn write_peers(members: &BTreeMap<u64, String>) -> Vec<peer::PeerMember> {
    let peer = |(node, peer): (&u64, &String)| peer::PeerMember {
        node: *node,
        peer: peer.clone(),
    };
    members.iter().map(peer).collect()
}

pub(super) fn read_peers(
    what: &'static str,
    list: Vec<peer::PeerMember>,
) -> Result<BTreeMap<u64, String>, DecodeError> {
    let list = bounded(what, PEERS, list)?;
    Ok(list.into_iter().map(|m| (m.node, m.peer)).collect())
}
