//! The leader's side: holds the checkpoint, offers it, and sends what is wanted at a pace.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use mode_envoy_proto::peer::v1 as wire;
use mode_envoy_storage::checkpoint::{ChunkRef, HeldCheckpoint};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use wire::install_snapshot_request::Kind as Sent;
use wire::install_snapshot_response::Kind as Answer;

use super::{FORMAT_VERSION, PIECE_BYTES};
use crate::channels::MAX_MESSAGE_BYTES;
use crate::checkpoint::{CheckpointRef, Checkpoints, SnapshotError, blocking};
use crate::convert;
use crate::peers::{Peers, request};
use crate::types::{NodeId, Vote};

/// Pieces are at least so large, whatever the pace.
const SMALLEST_PIECE_BYTES: usize = 16 * 1024;

/// Sends checkpoints. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Sender {
    checkpoints: Checkpoints,
    bytes_per_second: u64,
    /// Why each member that did not get one did not.
    reasons: Arc<Mutex<BTreeMap<NodeId, String>>>,
}

/// Why a snapshot did not arrive.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendError {
    #[error(transparent)]
    Local(#[from] SnapshotError),
    #[error("{}", .0.message())]
    Refused(#[from] Status),
    #[error("the list of {chunks} chunks takes {bytes} bytes, more than one message may have")]
    TooManyChunks { chunks: usize, bytes: usize },
    #[error("its answer makes no sense: {0}")]
    Senseless(&'static str),
}

/// Spreads bytes over time.
struct Pace {
    bytes_per_second: u64,
    next: Instant,
}

type Pieces = mpsc::Sender<wire::InstallSnapshotRequest>;

// === impl Sender ===

impl Sender {
    /// No faster than so many bytes a second to each member.
    pub(crate) fn new(checkpoints: Checkpoints, bytes_per_second: u64) -> Self {
        Self {
            checkpoints,
            bytes_per_second: bytes_per_second.max(1),
            reasons: Arc::default(),
        }
    }

    /// Tells the operator why a member did not get a snapshot, once for each reason.
    pub(crate) fn not_sent(&self, target: NodeId, error: &SendError) {
        let reason = error.to_string();
        let mut reasons = self.reasons.lock().unwrap_or_else(PoisonError::into_inner);
        if reasons.get(&target) != Some(&reason) {
            tracing::warn!(peer = target, reason, "a snapshot was not sent");
            reasons.insert(target, reason);
        }
    }

    fn forget_reason(&self, target: NodeId) {
        let mut reasons = self.reasons.lock().unwrap_or_else(PoisonError::into_inner);
        reasons.remove(&target);
    }

    /// Returns the vote of the member when it has installed the snapshot, does not need it, or knows a higher one.
    pub(crate) async fn send(
        &self,
        peers: &Peers,
        (target, address): (NodeId, &str),
        vote: Vote,
        snapshot: &CheckpointRef,
        limit: Duration,
    ) -> Result<Vote, SendError> {
        let (checkpoints, id) = (self.checkpoints.clone(), snapshot.id().to_owned());
        let held = Arc::new(blocking(move || checkpoints.hold(&id)).await?);
        let offer = offer(peers.envelope(target), vote, &held)?;
        let (pieces, stream) = mpsc::channel(1);
        // The stream has room for the first message, and cannot be closed yet.
        let _ = pieces.send(message(Sent::Offer(offer))).await;
        let mut client = peers.snapshots(target, address);
        let call = client.install_snapshot(request(ReceiverStream::new(stream), limit));
        let mut answers = call.await?.into_inner();
        let wanted = match next(&mut answers).await? {
            Answer::Ballot(ballot) => return Ok(convert::vote_from_wire(ballot)),
            Answer::Wanted(wanted) => places(&wanted, held.chunks().len())?,
        };
        let (id, all, count) = (snapshot.id(), held.chunks().len(), wanted.len());
        tracing::info!(
            peer = target,
            snapshot = id,
            chunks = count,
            skipped = all - count,
            "sending a snapshot"
        );
        let counters = self.checkpoints.counters();
        counters
            .chunks_skipped
            .fetch_add((all - count) as u64, Relaxed);
        let bytes = self.send_chunks(&held, &wanted, &pieces).await?;
        drop(pieces);
        match next(&mut answers).await? {
            Answer::Ballot(ballot) => {
                counters.sent.fetch_add(1, Relaxed);
                self.forget_reason(target);
                tracing::info!(
                    peer = target,
                    snapshot = id,
                    chunks = count,
                    skipped = all - count,
                    bytes,
                    "a snapshot was sent"
                );
                Ok(convert::vote_from_wire(ballot))
            }
            Answer::Wanted(_) => Err(SendError::Senseless("it wants chunks twice")),
        }
    }

    /// Ends early where nobody takes the pieces any more; the answers say why.
    async fn send_chunks(
        &self,
        held: &Arc<HeldCheckpoint>,
        wanted: &[usize],
        pieces: &Pieces,
    ) -> Result<u64, SendError> {
        let mut pace = Pace::new(self.bytes_per_second);
        let mut bytes = 0;
        for place in wanted.iter().copied() {
            let of_chunk = Arc::clone(held);
            let read = move || Ok(of_chunk.read(&of_chunk.chunks()[place])?);
            let content = blocking(read).await?;
            for piece in cut(place, &content, pace.piece_bytes()) {
                let sent = piece.data.len() as u64;
                pace.take(sent).await;
                if pieces.send(message(Sent::Piece(piece))).await.is_err() {
                    return Ok(bytes);
                }
                bytes += sent;
                let counters = self.checkpoints.counters();
                counters.bytes_sent.fetch_add(sent, Relaxed);
            }
            let counters = self.checkpoints.counters();
            counters.chunks_sent.fetch_add(1, Relaxed);
        }
        Ok(bytes)
    }
}

// === impl Pace ===

impl Pace {
    fn new(bytes_per_second: u64) -> Self {
        Self {
            bytes_per_second,
            next: Instant::now(),
        }
    }

    /// A quarter of a second's worth.
    fn piece_bytes(&self) -> usize {
        usize::try_from(self.bytes_per_second / 4)
            .unwrap_or(PIECE_BYTES)
            .clamp(SMALLEST_PIECE_BYTES, PIECE_BYTES)
    }

    /// Waits until so many bytes may go.
    async fn take(&mut self, bytes: u64) {
        tokio::time::sleep_until(self.next).await;
        self.book(bytes, Instant::now());
    }

    fn book(&mut self, bytes: u64, now: Instant) {
        let micros = bytes.saturating_mul(1_000_000) / self.bytes_per_second;
        // Time in which nothing was sent is not made up for.
        self.next = self.next.max(now) + Duration::from_micros(micros);
    }
}

// === free functions ===

fn message(kind: Sent) -> wire::InstallSnapshotRequest {
    wire::InstallSnapshotRequest { kind: Some(kind) }
}

fn offer(
    envelope: wire::Envelope,
    vote: Vote,
    held: &HeldCheckpoint,
) -> Result<wire::SnapshotOffer, SendError> {
    let chunk = |chunk: &ChunkRef| wire::SnapshotChunk {
        name: chunk.name.clone(),
        bytes: chunk.bytes,
        hash: chunk.hash.to_vec(),
    };
    let offer = wire::SnapshotOffer {
        envelope: Some(envelope),
        ballot: Some(convert::ballot(vote)),
        meta: held.meta().to_vec(),
        chunks: held.chunks().iter().map(chunk).collect(),
        format_version: FORMAT_VERSION,
    };
    let bytes = offer.encoded_len();
    if bytes + 16 > MAX_MESSAGE_BYTES {
        let chunks = held.chunks().len();
        return Err(SendError::TooManyChunks { chunks, bytes });
    }
    Ok(offer)
}

/// A chunk in pieces; an empty one is one empty piece.
fn cut(place: usize, content: &Bytes, piece_bytes: usize) -> Vec<wire::SnapshotPiece> {
    let piece = |offset: usize| {
        let end = content.len().min(offset + piece_bytes);
        let data = content.slice(offset..end);
        wire::SnapshotPiece {
            chunk: u32::try_from(place).unwrap_or(u32::MAX),
            offset: offset as u64,
            crc32c: crc32c::crc32c(&data),
            data,
        }
    };
    let offsets = (0..content.len().max(1)).step_by(piece_bytes);
    offsets.map(piece).collect()
}

async fn next(answers: &mut Streaming<wire::InstallSnapshotResponse>) -> Result<Answer, SendError> {
    let answer = answers.message().await?;
    let answer = answer.ok_or(SendError::Senseless("it ended without an answer"))?;
    answer.kind.ok_or(SendError::Senseless(
        "it is of a kind that only a newer version knows",
    ))
}

/// What is wanted: ascending places in a list of `count`.
fn places(wanted: &wire::SnapshotWanted, count: usize) -> Result<Vec<usize>, SendError> {
    let ascending = wanted.chunks.windows(2).all(|pair| pair[0] < pair[1]);
    let places = wanted.chunks.iter().map(|place| *place as usize);
    let places: Vec<usize> = places.filter(|place| *place < count).collect();
    if !ascending || places.len() != wanted.chunks.len() {
        return Err(SendError::Senseless("it wants what was not offered"));
    }
    Ok(places)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_is_cut_into_pieces_that_are_the_whole_of_it() {
        for bytes in [0, 1, 16, 17, 40] {
            let content: Bytes = (0..bytes).collect::<Vec<u8>>().into();
            let pieces = cut(7, &content, 16);
            let mut joined = Vec::new();
            for piece in &pieces {
                assert_eq!((piece.chunk, piece.offset), (7, joined.len() as u64));
                assert_eq!(piece.crc32c, crc32c::crc32c(&piece.data));
                joined.extend_from_slice(&piece.data);
            }
            assert_eq!(joined, content);
            assert!(pieces.len() == content.len().div_ceil(16).max(1));
        }
    }

    #[test]
    fn only_what_was_offered_can_be_wanted() {
        let wanted = |chunks: &[u32]| {
            let wanted = wire::SnapshotWanted {
                chunks: chunks.to_vec(),
            };
            places(&wanted, 3).ok()
        };
        assert_eq!(wanted(&[]), Some(vec![]));
        assert_eq!(wanted(&[0, 2]), Some(vec![0, 2]));
        for senseless in [&[3][..], &[1, 1], &[2, 0]] {
            assert_eq!(wanted(senseless), None);
        }
    }

    #[test]
    fn bytes_go_no_faster_than_the_pace() {
        let mut pace = Pace::new(1_000);
        let started = pace.next;
        for _ in 0..4 {
            pace.book(500, pace.next);
        }
        assert_eq!(pace.next - started, Duration::from_secs(2));
        let later = started + Duration::from_mins(1);
        pace.book(500, later);
        assert_eq!(pace.next - later, Duration::from_millis(500));
        assert_eq!(Pace::new(1).piece_bytes(), SMALLEST_PIECE_BYTES);
        assert_eq!(Pace::new(u64::MAX).piece_bytes(), PIECE_BYTES);
    }
}
