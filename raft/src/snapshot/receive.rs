//! The member's side: judges an offer, takes what is lacking, and installs it when it is durable.
//!
//! One is received at a time. A later offer of an equal or higher ballot takes the place of the one under way: its sender has
//! given up or lost its leadership, even if this node has not been told. A lower one is refused.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use mode_envoy_proto::peer::v1 as wire;
use mode_envoy_storage::checkpoint::{CheckpointError, ChunkRef, Incoming, MAX_CHUNKS};
use tokio::sync::{OwnedMutexGuard, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Status, Streaming};
use wire::install_snapshot_request::Kind as Sent;
use wire::install_snapshot_response::Kind as Answer;

use super::{FORMAT_VERSION, PIECE_BYTES};
use crate::apply::SharedState;
use crate::checkpoint::{Checkpoints, SnapshotError, blocking};
use crate::convert::{self, CheckpointAbout};
use crate::peer_server::Door;
use crate::tasks::Tasks;
use crate::types::{LogId, NodeId, Raft, Snapshot, SnapshotMeta, Vote};

/// A sender that is silent for so long is given up.
const SILENCE: Duration = Duration::from_secs(30);

/// The answers of one transfer.
pub(crate) type Answers = ReceiverStream<Result<wire::InstallSnapshotResponse, Status>>;

type Requests = Streaming<wire::InstallSnapshotRequest>;

/// Receives snapshots. Clones share their turn.
#[derive(Clone)]
pub(crate) struct Receiver {
    raft: Raft,
    door: Door,
    state: SharedState,
    checkpoints: Checkpoints,
    tasks: Tasks,
    turn: Arc<tokio::sync::Mutex<()>>,
    running: Arc<Mutex<Option<(Vote, CancellationToken)>>>,
    /// Why the last one was not received.
    reason: Arc<Mutex<String>>,
}

/// An offer that was judged.
struct Offered {
    from: NodeId,
    vote: Vote,
    at: SnapshotMeta,
    meta: Bytes,
    chunks: Vec<ChunkRef>,
}

// === impl Receiver ===

impl Receiver {
    /// For whom `door` lets in.
    pub(crate) fn new(
        raft: Raft,
        door: Door,
        state: SharedState,
        checkpoints: Checkpoints,
        tasks: Tasks,
    ) -> Self {
        Self {
            raft,
            door,
            state,
            checkpoints,
            tasks,
            turn: Arc::default(),
            running: Arc::default(),
            reason: Arc::default(),
        }
    }

    /// Begins a transfer.
    pub(crate) fn begin(&self, request: Request<Requests>) -> Answers {
        let (metadata, extensions, requests) = request.into_parts();
        let head = Request::from_parts(metadata, extensions, ());
        let (answers, stream) = mpsc::channel(2);
        let receiver = self.clone();
        self.tasks.spawn("receive snapshot", async move {
            let end = receiver.run(head, requests, &answers).await;
            receiver.tell(end.as_ref().err());
            let end = end.map(|vote| answer(Answer::Ballot(convert::ballot(vote))));
            // A sender that is gone needs no answer.
            let _ = answers.send(end).await;
        });
        ReceiverStream::new(stream)
    }

    /// Tells the operator why a snapshot was not received, once for each reason.
    fn tell(&self, failed: Option<&Status>) {
        let now = failed.map(Status::message).unwrap_or_default();
        let mut reason = self.reason.lock().unwrap_or_else(PoisonError::into_inner);
        if *reason != now && !now.is_empty() {
            tracing::warn!(reason = now, "a snapshot was not received");
        }
        now.clone_into(&mut reason);
    }

    /// This node's vote, after the snapshot is installed or turned out not to be needed.
    async fn run(
        &self,
        head: Request<()>,
        mut requests: Requests,
        answers: &mpsc::Sender<Result<wire::InstallSnapshotResponse, Status>>,
    ) -> Result<Vote, Status> {
        let Sent::Offer(offer) = next(&mut requests).await? else {
            return Err(Status::invalid_argument("a snapshot begins with its offer"));
        };
        let offered = self.judge(&head, offer)?;
        let own = self.raft.metrics().borrow().vote;
        if own > offered.vote || !self.is_needed(&offered)? {
            return Ok(own);
        }
        let (_turn, displaced) = self.take_turn(offered.vote).await?;
        let (checkpoints, meta) = (self.checkpoints.clone(), offered.meta);
        let (chunks, all) = (offered.chunks.clone(), offered.chunks.len());
        let incoming = blocking(move || checkpoints.receive(meta, chunks)).await;
        let incoming = incoming.map_err(|error| refused(&error))?;
        let lacking = incoming.lacking().iter();
        let wanted = lacking.filter_map(|place| u32::try_from(*place).ok());
        let wanted = wire::SnapshotWanted {
            chunks: wanted.collect(),
        };
        let (id, count) = (offered.at.snapshot_id.clone(), wanted.chunks.len());
        let from = offered.from;
        tracing::info!(
            from,
            snapshot = id,
            chunks = count,
            held = all - count,
            "receiving a snapshot"
        );
        // If the sender is gone, the next message says so.
        let _ = answers.send(Ok(answer(Answer::Wanted(wanted)))).await;
        let incoming = self.take(incoming, &mut requests, &displaced).await?;
        let (checkpoints, at) = (self.checkpoints.clone(), offered.at.clone());
        blocking(move || checkpoints.publish(&at, incoming))
            .await
            .map_err(|error| refused(&error))?;
        let snapshot = Snapshot {
            snapshot: Box::new(self.checkpoints.at(&offered.at)),
            meta: offered.at,
        };
        let installed = self
            .raft
            .install_full_snapshot(offered.vote, snapshot)
            .await;
        let installed = installed.map_err(|error| {
            Status::unavailable(format!("this node's consensus has stopped: {error}"))
        })?;
        self.checkpoints.counters().received.fetch_add(1, Relaxed);
        tracing::info!(from, snapshot = id, "a snapshot was installed");
        Ok(installed.vote)
    }

    /// Takes pieces until all is there; whoever displaces this transfer waits no longer than for the piece in hand.
    async fn take(
        &self,
        mut incoming: Incoming,
        requests: &mut Requests,
        displaced: &CancellationToken,
    ) -> Result<Incoming, Status> {
        while !incoming.is_complete() {
            let message = tokio::select! {
                () = displaced.cancelled() => {
                    return Err(Status::aborted("a later transfer takes the place of this one"));
                }
                message = next(requests) => message?,
            };
            let Sent::Piece(piece) = message else {
                return Err(Status::invalid_argument("a snapshot has one offer"));
            };
            let (chunk, bytes) = (piece.chunk as usize, piece.data.len() as u64);
            check(&piece)?;
            let put = blocking(move || {
                incoming.put(chunk, piece.offset, &piece.data)?;
                Ok(incoming)
            });
            incoming = put.await.map_err(|error| refused(&error))?;
            let counters = self.checkpoints.counters();
            counters.bytes_received.fetch_add(bytes, Relaxed);
        }
        Ok(incoming)
    }

    /// Ends the transfer under way if this one may take its place, and waits for its end.
    async fn take_turn(
        &self,
        vote: Vote,
    ) -> Result<(OwnedMutexGuard<()>, CancellationToken), Status> {
        let mine = CancellationToken::new();
        {
            let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((theirs, displaced)) = &*running {
                if *theirs > vote {
                    return Err(Status::aborted("a leader of a later term sends a snapshot"));
                }
                displaced.cancel();
            }
            *running = Some((vote, mine.clone()));
        }
        let turn = Arc::clone(&self.turn).lock_owned().await;
        if mine.is_cancelled() {
            return Err(Status::aborted(
                "a later transfer takes the place of this one",
            ));
        }
        Ok((turn, mine))
    }

    /// Checks who offers what, before anything is made of it.
    fn judge(&self, head: &Request<()>, offer: wire::SnapshotOffer) -> Result<Offered, Status> {
        let from = self.door.member(head, offer.envelope.as_ref())?;
        if offer.format_version != FORMAT_VERSION {
            let version = offer.format_version;
            return Err(Status::failed_precondition(format!(
                "snapshots come in format {version}, this node reads format {FORMAT_VERSION}"
            )));
        }
        let ballot = offer
            .ballot
            .ok_or_else(|| Status::invalid_argument("the offer has no ballot"))?;
        let vote = convert::vote_from_wire(ballot);
        if !vote.committed || vote.leader_id.node_id != from {
            return Err(Status::permission_denied(format!(
                "node {from} offers a snapshot without leading by its ballot {vote}"
            )));
        }
        let about = convert::read_checkpoint_meta(&offer.meta)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        self.is_of_this_cluster(from, &about)?;
        if offer.chunks.len() > MAX_CHUNKS {
            return Err(Status::invalid_argument("the offer has too many chunks"));
        }
        let chunks: Result<_, Status> = offer.chunks.into_iter().map(chunk).collect();
        Ok(Offered {
            from,
            vote,
            at: about.at,
            meta: offer.meta.into(),
            chunks: chunks?,
        })
    }

    fn is_of_this_cluster(&self, from: NodeId, about: &CheckpointAbout) -> Result<(), Status> {
        if about
            .cluster_id
            .is_some_and(|id| id != self.door.cluster_id())
        {
            return Err(Status::failed_precondition(
                "the snapshot is of another cluster",
            ));
        }
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let then = about.at.last_membership.nodes().any(|(id, _)| *id == from);
        let now = metrics.membership_config.nodes().any(|(id, _)| *id == from);
        // A leader that joined after the snapshot is followed already when it sends one.
        if then || now || metrics.current_leader == Some(from) {
            return Ok(());
        }
        Err(Status::permission_denied(format!(
            "node {from} is no member of the cluster that this node knows"
        )))
    }

    /// A snapshot that this node has passed is not needed; one that contradicts what it has applied is refused.
    fn is_needed(&self, offered: &Offered) -> Result<bool, Status> {
        match place(offered.at.last_log_id, self.state.position().0) {
            Place::Ahead => Ok(true),
            Place::Passed => Ok(false),
            Place::Contradicts => {
                let reason = format!(
                    "snapshot {} contradicts what this node has applied: it is of another history of this cluster",
                    offered.at.snapshot_id
                );
                tracing::error!(reason, from = offered.from, "a snapshot is refused");
                Err(Status::failed_precondition(reason))
            }
        }
    }
}

// === free functions ===

/// Where a snapshot stands for a node.
#[derive(Debug, Eq, PartialEq)]
enum Place {
    Ahead,
    Passed,
    Contradicts,
}

/// Terms only grow along one log, so an index further on cannot have an earlier term.
fn place(snapshot: Option<LogId>, applied: Option<LogId>) -> Place {
    let (Some(snapshot), Some(applied)) = (snapshot, applied) else {
        return if snapshot > applied {
            Place::Ahead
        } else {
            Place::Passed
        };
    };
    let by_index = snapshot.index.cmp(&applied.index);
    let by_term = snapshot.leader_id.cmp(&applied.leader_id);
    match (by_index, by_term) {
        (std::cmp::Ordering::Greater, term) if term.is_ge() => Place::Ahead,
        (std::cmp::Ordering::Equal, term) if term.is_eq() => Place::Passed,
        (std::cmp::Ordering::Less, term) if term.is_le() => Place::Passed,
        _ => Place::Contradicts,
    }
}

fn answer(kind: Answer) -> wire::InstallSnapshotResponse {
    wire::InstallSnapshotResponse { kind: Some(kind) }
}

async fn next(requests: &mut Requests) -> Result<Sent, Status> {
    let message = tokio::time::timeout(SILENCE, requests.message())
        .await
        .map_err(|_| Status::deadline_exceeded("the sender was silent for 30 s"))??;
    let message = message.ok_or_else(|| Status::aborted("the sender ended the transfer"))?;
    message
        .kind
        .ok_or_else(|| Status::invalid_argument("a message of an unknown kind"))
}

fn chunk(chunk: wire::SnapshotChunk) -> Result<ChunkRef, Status> {
    let hash = <[u8; 32]>::try_from(chunk.hash)
        .map_err(|_| Status::invalid_argument("a chunk's hash has 32 bytes"))?;
    Ok(ChunkRef {
        name: chunk.name,
        bytes: chunk.bytes,
        hash,
    })
}

fn check(piece: &wire::SnapshotPiece) -> Result<(), Status> {
    if piece.data.len() > PIECE_BYTES {
        return Err(Status::invalid_argument("a piece has more than 512 KiB"));
    }
    if crc32c::crc32c(&piece.data) != piece.crc32c {
        return Err(Status::data_loss("a piece changed on its way"));
    }
    Ok(())
}

fn refused(error: &SnapshotError) -> Status {
    let reason = error.to_string();
    match error {
        SnapshotError::Store(CheckpointError::NoSpace { .. }) => Status::resource_exhausted(reason),
        SnapshotError::Store(CheckpointError::Busy) => Status::unavailable(reason),
        SnapshotError::Store(
            CheckpointError::Invalid { .. } | CheckpointError::Unannounced { .. },
        ) => Status::invalid_argument(reason),
        _ => Status::internal(reason),
    }
}

#[cfg(test)]
mod tests {
    use openraft::CommittedLeaderId;

    use super::*;

    #[test]
    fn a_snapshot_is_taken_only_if_it_is_ahead_in_the_same_history() {
        let id = |(term, index)| LogId::new(CommittedLeaderId::new(term, 1), index);
        for (snapshot, applied, expected) in [
            (Some((2, 9)), None, Place::Ahead),
            (None, Some((1, 1)), Place::Passed),
            (None, None, Place::Passed),
            (Some((2, 9)), Some((2, 8)), Place::Ahead),
            (Some((3, 9)), Some((2, 8)), Place::Ahead),
            (Some((2, 9)), Some((2, 9)), Place::Passed),
            (Some((1, 5)), Some((2, 9)), Place::Passed),
            (Some((1, 9)), Some((2, 8)), Place::Contradicts),
            (Some((3, 8)), Some((2, 8)), Place::Contradicts),
            (Some((3, 7)), Some((2, 8)), Place::Contradicts),
        ] {
            let found = place(snapshot.map(id), applied.map(id));
            assert_eq!(found, expected, "{snapshot:?} for {applied:?}");
        }
    }

    #[test]
    fn a_piece_that_changed_or_is_too_long_is_refused() {
        let piece = |data: Vec<u8>, crc32c| wire::SnapshotPiece {
            chunk: 0,
            offset: 0,
            data: data.into(),
            crc32c,
        };
        let sound = crc32c::crc32c(b"abc");
        assert!(check(&piece(b"abc".to_vec(), sound)).is_ok());
        assert!(check(&piece(b"abd".to_vec(), sound)).is_err());
        let long = vec![0; PIECE_BYTES + 1];
        let crc = crc32c::crc32c(&long);
        assert!(check(&piece(long, crc)).is_err());
    }
}
