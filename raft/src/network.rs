//! The consensus library's network, over the peers' channels.
//!
//! Every call has the deadline that the library asks for: a peer that hangs costs no more. A client is made of
//! clones only, since the library makes one while it holds up everything else.

use std::future::Future;
use std::time::Duration;

use mode_envoy_proto::peer::v1 as wire;
use openraft::error::{
    Fatal, NetworkError, RPCError, RaftError, ReplicationClosed, StreamingError, Timeout,
    Unreachable,
};
use openraft::network::{Backoff, RPCOption, RPCTypes, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
};
use openraft::{AnyError, OptionalSend};
use tonic::{Response, Status};

use crate::channels::DialError;
use crate::contact::Contact;
use crate::convert::{self, DecodeError};
use crate::peers::{Peers, request};
use crate::snapshot::{SendError, Sender};
use crate::types::{Member, NodeId, Snapshot, TypeConfig, Vote};

/// How long replication to a peer that cannot be dialled waits before it tries again.
const REDIAL: Duration = Duration::from_millis(200);

/// How long a member that did not take a snapshot is left alone; it has to read all that it holds for each attempt.
const OFFER_AGAIN: Duration = Duration::from_secs(1);

type CallError = RPCError<NodeId, Member, RaftError<NodeId>>;

/// Makes the client of each peer.
pub(crate) struct Network {
    peers: Peers,
    node_id: NodeId,
    contact: Contact,
    snapshots: Sender,
    heartbeat: Duration,
}

/// One peer.
pub(crate) struct Peer {
    peers: Peers,
    node_id: NodeId,
    contact: Contact,
    target: NodeId,
    address: String,
    snapshots: Sender,
    heartbeat: Duration,
}

// === impl Network ===

impl Network {
    /// On behalf of `node_id`, which tells its followers of its `contact` with the quorum.
    pub(crate) fn new(
        peers: Peers,
        node_id: NodeId,
        contact: Contact,
        snapshots: Sender,
        heartbeat: Duration,
    ) -> Self {
        Self {
            peers,
            node_id,
            contact,
            snapshots,
            heartbeat,
        }
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: NodeId, member: &Member) -> Peer {
        Peer {
            peers: self.peers.clone(),
            node_id: self.node_id,
            contact: self.contact.clone(),
            target,
            address: member.peer.clone(),
            snapshots: self.snapshots.clone(),
            heartbeat: self.heartbeat,
        }
    }
}

// === impl Peer ===

impl Peer {
    async fn within<T>(
        &self,
        action: RPCTypes,
        limit: Duration,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, CallError> {
        match tokio::time::timeout(limit, call).await {
            Ok(Ok(response)) => {
                self.peers.reached(self.target);
                Ok(response.into_inner())
            }
            Ok(Err(status)) => Err(self.failure(&status)),
            Err(_) => Err(RPCError::Timeout(Timeout {
                action,
                id: self.node_id,
                target: self.target,
                timeout: limit,
            })),
        }
    }

    /// Lets a member that receives a snapshot hear of its leader: the library sends no heartbeats to it meanwhile, and
    /// it would stand for election and unseat the leader. Ends when the member knows a higher vote.
    async fn keep_following(&self, vote: Vote) -> Vote {
        loop {
            let message = self.heartbeat_of(vote);
            let mut client = self.peers.raft(self.target, &self.address);
            let call = client.append_entries(request(message, self.heartbeat));
            let answer = tokio::time::timeout(self.heartbeat, call).await;
            // A failure is the transfer's to report, which is on its way to the same member.
            if let Ok(Ok(answer)) = answer
                && let Ok(AppendEntriesResponse::HigherVote(higher)) =
                    convert::read_append_response(answer.into_inner())
            {
                return higher;
            }
            tokio::time::sleep(self.heartbeat).await;
        }
    }

    /// A message without entries, which says how fresh this leader is as any other does: one that is cut off together with
    /// the member must not keep it fresh.
    fn heartbeat_of(&self, vote: Vote) -> wire::AppendEntriesRequest {
        wire::AppendEntriesRequest {
            envelope: Some(self.peers.envelope(self.target)),
            ballot: Some(convert::ballot(vote)),
            quorum_age_ms: Some(self.contact.to_wire()),
            ..Default::default()
        }
    }

    /// Whatever the reason, the next attempt goes on with the chunks that have arrived.
    fn not_sent(&self, error: &SendError) -> StreamingError<TypeConfig, Fatal<NodeId>> {
        if let SendError::Refused(status) = error
            && let Some(dial) = DialError::of(status)
        {
            self.peers.missed(self.target, &dial);
        }
        StreamingError::Unreachable(Unreachable::new(error))
    }

    /// A peer that could not be dialled is left alone for a moment; any other failure is tried again at once.
    fn failure(&self, status: &Status) -> CallError {
        match DialError::of(status) {
            Some(dial) => {
                self.peers.missed(self.target, &dial);
                RPCError::Unreachable(Unreachable::new(&dial))
            }
            None => RPCError::Network(NetworkError::new(status)),
        }
    }
}

impl RaftNetwork<TypeConfig> for Peer {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<NodeId>, CallError> {
        let entries = rpc
            .entries
            .iter()
            .map(convert::entry_to_wire)
            .collect::<Result<_, _>>()
            .map_err(|e| unreadable(&e))?;
        let message = wire::AppendEntriesRequest {
            envelope: Some(self.peers.envelope(self.target)),
            ballot: Some(convert::ballot(rpc.vote)),
            previous: rpc.prev_log_id.map(convert::log_id),
            committed: rpc.leader_commit.map(convert::log_id),
            entries,
            quorum_age_ms: Some(self.contact.to_wire()),
        };
        let limit = option.hard_ttl();
        let mut client = self.peers.raft(self.target, &self.address);
        let call = client.append_entries(request(message, limit));
        let answer = self.within(RPCTypes::AppendEntries, limit, call).await?;
        convert::read_append_response(answer).map_err(|e| unreadable(&e))
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<NodeId>,
        option: RPCOption,
    ) -> Result<VoteResponse<NodeId>, CallError> {
        let message = wire::VoteRequest {
            envelope: Some(self.peers.envelope(self.target)),
            ballot: Some(convert::ballot(rpc.vote)),
            last: rpc.last_log_id.map(convert::log_id),
        };
        let limit = option.hard_ttl();
        let mut client = self.peers.raft(self.target, &self.address);
        let call = client.vote(request(message, limit));
        let answer = self.within(RPCTypes::Vote, limit, call).await?;
        convert::read_vote_response(answer).map_err(|e| unreadable(&e))
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<NodeId>, StreamingError<TypeConfig, Fatal<NodeId>>> {
        let limit = option.hard_ttl();
        let to = (self.target, &*self.address);
        let sending = async {
            let sent = self
                .snapshots
                .send(&self.peers, to, vote, &snapshot.snapshot, limit)
                .await;
            if let Err(error) = &sent {
                self.snapshots.not_sent(self.target, error);
                tokio::time::sleep(OFFER_AGAIN).await;
            }
            sent
        };
        let sent = tokio::select! {
            closed = cancel => return Err(StreamingError::Closed(closed)),
            higher = self.keep_following(vote) => return Ok(SnapshotResponse::new(higher)),
            sent = tokio::time::timeout(limit, sending) => sent,
        };
        match sent {
            Ok(Ok(vote)) => {
                self.peers.reached(self.target);
                Ok(SnapshotResponse::new(vote))
            }
            Ok(Err(error)) => Err(self.not_sent(&error)),
            Err(_) => {
                let timeout = Timeout {
                    action: RPCTypes::InstallSnapshot,
                    id: self.node_id,
                    target: self.target,
                    timeout: limit,
                };
                tracing::warn!(peer = self.target, error = %timeout, "a snapshot was not sent in time");
                Err(StreamingError::Timeout(timeout))
            }
        }
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(REDIAL))
    }
}

fn unreadable(error: &DecodeError) -> CallError {
    RPCError::Network(NetworkError::new(&AnyError::new(error)))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use mode_envoy_storage::checkpoint::CheckpointStore;
    use mode_envoy_storage::disk::RealDisk;

    use super::*;
    use crate::channels::PeerChannels;
    use crate::checkpoint::Checkpoints;
    use crate::contact::BootMs;
    use crate::identity::Identity;
    use crate::secret::ClusterSecret;

    #[tokio::test]
    async fn a_member_that_receives_a_snapshot_hears_no_more_of_a_quorum_than_the_leader_has() {
        let dir = tempfile::tempdir().unwrap();
        let store = CheckpointStore::open(Arc::new(RealDisk), dir.path(), [1; 16], 1).unwrap();
        let (checkpoints, _) = Checkpoints::open(store).unwrap();
        let identity = Identity::new(&ClusterSecret::generate().unwrap(), 1, Some([1; 16]), None);
        let peers = Peers::new(PeerChannels::new(identity.unwrap()), [1; 16], 1);
        let (contact, snapshots) = (Contact::default(), Sender::new(checkpoints, 1));
        let mut network = Network::new(peers, 1, contact.clone(), snapshots, REDIAL);
        let member = Member {
            peer: "127.0.0.1:1".to_owned(),
        };
        let peer = network.new_client(2, &member).await;
        // What the member makes of it.
        let hears = || {
            let its = Contact::default();
            let arrived = BootMs::now();
            its.heard(arrived, peer.heartbeat_of(Vote::default()).quorum_age_ms);
            its.last().map(|last| arrived.since(last))
        };
        assert_eq!(hears(), None);
        contact.reached(BootMs(BootMs::now().0.saturating_sub(5)));
        let age = hears();
        assert!(age >= Some(Duration::from_millis(5)), "{age:?}");
    }
}
