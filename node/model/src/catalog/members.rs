//! Who may join, under which id, and who may be removed.
//!
//! Whoever proposes says what the membership of the consensus library is: the nodes of the formation stand there only. It
//! may be an old one: an id that it no longer has was removed by an event before, so that a new id is new all the same.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::catalog::decide::decision;
use crate::catalog::faults::{refuse, room};
use crate::catalog::{Catalog, Founded};
use crate::command::{Change, ChangeKind, Decision, Rejected, RejectedCode};
use crate::event::Event;
use crate::key::SecretHash;
use crate::limits;
use crate::member::{JoinToken, JoinedNode, Members};
use crate::object::Name;

// === impl Catalog ===

impl Catalog {
    /// Whether join tokens have expired and are still there.
    pub(crate) fn has_expired_join_tokens(&self, now_ms: u64) -> bool {
        self.members.has_expired(now_ms)
    }

    /// Drops join tokens that have expired.
    pub(crate) fn expire_join_tokens(&mut self, now_ms: u64) {
        self.members.expire(now_ms);
    }

    /// Makes this the catalog of another cluster, with these members.
    pub(crate) fn adopt(&mut self, founded: Founded, members: Members) {
        self.founded = Some(founded);
        self.members = members;
        self.rotation = None;
    }

    pub(super) fn decide_create_join_token(
        &self,
        hash: SecretHash,
        valid_ms: u64,
        now_ms: u64,
    ) -> Result<Decision, Rejected> {
        if self.members.token(&hash).is_some() {
            // The same request again, after an answer that was lost.
            return Ok(decision(Vec::new(), token_change(ChangeKind::Unchanged)));
        }
        self.refuse_while_rotating()?;
        let (shortest, longest) = limits::JOIN_TOKEN_MS;
        if !(shortest..=longest).contains(&valid_ms) {
            let problem = "a join token is valid for 1 second to 1 hour";
            return Err(refuse(RejectedCode::Invalid, "expires", problem));
        }
        let alive = self.members.tokens().filter(|t| !t.has_expired(now_ms));
        room("join_tokens", alive.count(), limits::JOIN_TOKENS)?;
        let token = JoinToken {
            hash,
            expires_ms: now_ms.saturating_add(valid_ms),
            used: None,
        };
        Ok(decision(
            vec![Event::JoinTokenPut(token)],
            token_change(ChangeKind::Created),
        ))
    }

    pub(super) fn decide_join(
        &self,
        hash: &SecretHash,
        nonce: SecretHash,
        (peer, members): (&str, &BTreeMap<u64, String>),
        now_ms: u64,
    ) -> Result<Decision, Rejected> {
        let token = self.members.token(hash);
        let Some(token) = token.filter(|token| !token.has_expired(now_ms)) else {
            let problem = "the cluster does not know this join token: it has expired, or is of another cluster; make \
                           another with `mode-envoy cluster add-node`";
            return Err(refuse(RejectedCode::NotFound, "join_token", problem));
        };
        match token.used {
            Some((node, by)) if by == nonce => return self.joined_before(node),
            Some((node, _)) => {
                let problem = format!(
                    "this join token was used already, by what is node {node} now; each node needs one of its own: \
                     `mode-envoy cluster add-node`"
                );
                return Err(refuse(RejectedCode::Exists, "join_token", problem));
            }
            None => {}
        }
        self.refuse_while_rotating()?;
        check_address(peer)?;
        let present = self.present(members);
        if let Some((node, _)) = present.iter().find(|(_, address)| **address == peer) {
            let problem = format!(
                "node {node} has the peer address {peer}; give this node another, or remove node {node} first"
            );
            return Err(refuse(RejectedCode::Exists, "peer", problem));
        }
        room("nodes", present.len(), limits::MEMBERS)?;
        let formed = members.keys().next_back().copied().unwrap_or_default();
        let id = self.members.largest_id().max(formed).saturating_add(1);
        if id > limits::NODE_IDS {
            let problem = format!("all {} node ids were used", limits::NODE_IDS);
            return Err(refuse(RejectedCode::Limit, "nodes", problem));
        }
        let node = JoinedNode {
            id,
            peer: Arc::from(peer),
            joined_ms: now_ms,
        };
        let event = Event::NodeJoined {
            node,
            token: *hash,
            nonce,
        };
        Ok(decision(vec![event], node_change(id, ChangeKind::Created)))
    }

    pub(super) fn decide_remove_node(
        &self,
        node: u64,
        members: &BTreeMap<u64, String>,
    ) -> Result<Decision, Rejected> {
        if self.members.is_removed(node) {
            // The same request again, after an answer that was lost.
            return Ok(decision(
                Vec::new(),
                node_change(node, ChangeKind::Unchanged),
            ));
        }
        let mut present = self.present(members);
        if present.remove(&node).is_none() {
            let problem =
                format!("there is no node {node}; `cluster status` shows which there are");
            return Err(refuse(RejectedCode::NotFound, "id", problem));
        }
        if present.is_empty() {
            let problem = format!(
                "node {node} is the last one; add another before, or just end it if the cluster is to be no more"
            );
            return Err(refuse(RejectedCode::InUse, "id", problem));
        }
        Ok(decision(
            vec![Event::NodeRemoved(node)],
            node_change(node, ChangeKind::Deleted),
        ))
    }

    /// The token's node asks again: its first answer was lost.
    fn joined_before(&self, node: u64) -> Result<Decision, Rejected> {
        if self.members.is_removed(node) {
            let problem = format!(
                "this join token made node {node}, which was removed since; make another with `mode-envoy cluster add-node`"
            );
            return Err(refuse(RejectedCode::InUse, "join_token", problem));
        }
        Ok(decision(
            Vec::new(),
            node_change(node, ChangeKind::Unchanged),
        ))
    }

    /// Who belongs to the cluster, by id, with peer addresses.
    fn present<'a>(&'a self, members: &'a BTreeMap<u64, String>) -> BTreeMap<u64, &'a str> {
        let joined = self.members.joined().map(|node| (node.id, &*node.peer));
        let formed = members.iter().map(|(id, peer)| (*id, peer.as_str()));
        formed
            .chain(joined)
            .filter(|(id, _)| !self.members.is_removed(*id))
            .collect()
    }
}

/// An address is used by the other members, which dial it; here it only must be one.
fn check_address(peer: &str) -> Result<(), Rejected> {
    let port = peer.rsplit_once(':').map(|(host, port)| {
        let whole = !host.is_empty() && peer.len() <= limits::PEER_ADDRESS;
        whole && port.parse::<u16>().is_ok_and(|port| port != 0)
    });
    let odd = |c: char| c.is_whitespace() || c.is_control() || c == '/';
    if port != Some(true) || peer.contains(odd) {
        let problem = "the node's peer address is not HOST:PORT; see --advertise-peer";
        return Err(refuse(RejectedCode::Invalid, "peer", problem));
    }
    Ok(())
}

pub(super) fn token_change(what: ChangeKind) -> Change {
    Change {
        kind: "join_token",
        tenant: None,
        name: Name::from("join_token"),
        what,
    }
}

pub(super) fn node_change(id: u64, what: ChangeKind) -> Change {
    Change {
        kind: "node",
        tenant: None,
        name: Name::from(id.to_string()),
        what,
    }
}
