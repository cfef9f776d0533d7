//! The consensus library's ids, votes and entries.

use bytes::Bytes;
use mode_envoy_proto::peer::v1 as wire;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, VoteRequest, VoteResponse};
use openraft::{CommittedLeaderId, EntryPayload, LogId, Vote};
use prost::Message as _;
use wire::entry::Payload as WirePayload;

use super::{DecodeError, bounded, missing};
use crate::types::{Entry, NodeId, Payload, TypeConfig};

/// More entries than a leader ever sends at once.
const ENTRIES: usize = 4_096;

/// Writes a log id.
pub(crate) fn log_id(id: LogId<NodeId>) -> wire::LogId {
    wire::LogId {
        term: id.leader_id.term,
        node: id.leader_id.node_id,
        index: id.index,
    }
}

/// Reads a log id.
pub(crate) fn log_id_from_wire(id: wire::LogId) -> LogId<NodeId> {
    LogId::new(CommittedLeaderId::new(id.term, id.node), id.index)
}

/// Writes a vote.
pub(crate) fn ballot(vote: Vote<NodeId>) -> wire::Ballot {
    wire::Ballot {
        term: vote.leader_id.term,
        node: vote.leader_id.node_id,
        committed: vote.committed,
    }
}

/// Reads a vote.
pub(crate) fn vote_from_wire(ballot: wire::Ballot) -> Vote<NodeId> {
    if ballot.committed {
        Vote::new_committed(ballot.term, ballot.node)
    } else {
        Vote::new(ballot.term, ballot.node)
    }
}

/// A vote as bytes, as the write-ahead log keeps it.
pub(crate) fn encode_vote(vote: Vote<NodeId>) -> Bytes {
    ballot(vote).encode_to_vec().into()
}

/// Reads a vote from bytes.
pub(crate) fn decode_vote(bytes: &[u8]) -> Result<Vote<NodeId>, DecodeError> {
    wire::Ballot::decode(bytes)
        .map(vote_from_wire)
        .map_err(|e| DecodeError::Protobuf {
            what: "Ballot",
            reason: e.to_string(),
        })
}

/// A log id as bytes, as the write-ahead log keeps it.
pub(crate) fn encode_log_id(id: LogId<NodeId>) -> Bytes {
    log_id(id).encode_to_vec().into()
}

/// Reads a log id from bytes.
pub(crate) fn decode_log_id(bytes: &[u8]) -> Result<LogId<NodeId>, DecodeError> {
    wire::LogId::decode(bytes)
        .map(log_id_from_wire)
        .map_err(|e| DecodeError::Protobuf {
            what: "LogId",
            reason: e.to_string(),
        })
}

/// Writes an entry; its batch is shared, not copied.
pub(crate) fn entry_to_wire(entry: &Entry) -> Result<wire::Entry, DecodeError> {
    let payload = match &entry.payload {
        EntryPayload::Blank => WirePayload::Blank(wire::Blank {}),
        EntryPayload::Normal(Payload(bytes)) => WirePayload::Batch(bytes.clone()),
        EntryPayload::Membership(membership) => {
            let json = serde_json::to_vec(membership).map_err(|e| DecodeError::Protobuf {
                what: "Entry.membership",
                reason: e.to_string(),
            })?;
            WirePayload::Membership(json.into())
        }
    };
    Ok(wire::Entry {
        id: Some(log_id(entry.log_id)),
        payload: Some(payload),
    })
}

/// Reads an entry.
pub(crate) fn entry_from_wire(entry: wire::Entry) -> Result<Entry, DecodeError> {
    let id = entry.id.ok_or_else(|| missing("Entry.id"))?;
    let payload = match entry.payload.ok_or_else(|| missing("Entry.payload"))? {
        WirePayload::Blank(_) => EntryPayload::Blank,
        WirePayload::Batch(bytes) => EntryPayload::Normal(Payload(bytes)),
        WirePayload::Membership(json) => {
            let membership = serde_json::from_slice(&json).map_err(|e| DecodeError::Protobuf {
                what: "Entry.membership",
                reason: e.to_string(),
            })?;
            EntryPayload::Membership(membership)
        }
    };
    Ok(Entry {
        log_id: log_id_from_wire(id),
        payload,
    })
}

/// Reads a leader's request.
pub(crate) fn read_append_request(
    message: wire::AppendEntriesRequest,
) -> Result<AppendEntriesRequest<TypeConfig>, DecodeError> {
    let ballot = message
        .ballot
        .ok_or_else(|| missing("AppendEntriesRequest.ballot"))?;
    let entries = bounded("AppendEntriesRequest.entries", ENTRIES, message.entries)?;
    Ok(AppendEntriesRequest {
        vote: vote_from_wire(ballot),
        prev_log_id: message.previous.map(log_id_from_wire),
        leader_commit: message.committed.map(log_id_from_wire),
        entries: entries
            .into_iter()
            .map(entry_from_wire)
            .collect::<Result<_, _>>()?,
    })
}

/// Writes the answer to a leader.
pub(crate) fn write_append_response(
    answer: &AppendEntriesResponse<NodeId>,
) -> wire::AppendEntriesResponse {
    use wire::append_entries_response::Result as Answer;
    let result = match *answer {
        AppendEntriesResponse::Success => Answer::Success(wire::Blank {}),
        AppendEntriesResponse::PartialSuccess(matching) => Answer::Partial(wire::PartialSuccess {
            matching: matching.map(log_id),
        }),
        AppendEntriesResponse::Conflict => Answer::Conflict(wire::Blank {}),
        AppendEntriesResponse::HigherVote(vote) => Answer::Higher(ballot(vote)),
    };
    wire::AppendEntriesResponse {
        result: Some(result),
    }
}

/// Reads the answer to a leader.
pub(crate) fn read_append_response(
    message: wire::AppendEntriesResponse,
) -> Result<AppendEntriesResponse<NodeId>, DecodeError> {
    use wire::append_entries_response::Result as Answer;
    Ok(
        match message
            .result
            .ok_or_else(|| missing("AppendEntriesResponse.result"))?
        {
            Answer::Success(_) => AppendEntriesResponse::Success,
            Answer::Partial(partial) => {
                AppendEntriesResponse::PartialSuccess(partial.matching.map(log_id_from_wire))
            }
            Answer::Conflict(_) => AppendEntriesResponse::Conflict,
            Answer::Higher(vote) => AppendEntriesResponse::HigherVote(vote_from_wire(vote)),
        },
    )
}

/// Reads a candidate's request.
pub(crate) fn read_vote_request(
    message: &wire::VoteRequest,
) -> Result<VoteRequest<NodeId>, DecodeError> {
    let ballot = message
        .ballot
        .ok_or_else(|| missing("VoteRequest.ballot"))?;
    Ok(VoteRequest::new(
        vote_from_wire(ballot),
        message.last.map(log_id_from_wire),
    ))
}

/// Writes the answer to a candidate.
pub(crate) fn write_vote_response(answer: &VoteResponse<NodeId>) -> wire::VoteResponse {
    wire::VoteResponse {
        ballot: Some(ballot(answer.vote)),
        granted: answer.vote_granted,
        last: answer.last_log_id.map(log_id),
    }
}

/// Reads the answer to a candidate.
pub(crate) fn read_vote_response(
    message: wire::VoteResponse,
) -> Result<VoteResponse<NodeId>, DecodeError> {
    let ballot = message
        .ballot
        .ok_or_else(|| missing("VoteResponse.ballot"))?;
    Ok(VoteResponse {
        vote: vote_from_wire(ballot),
        vote_granted: message.granted,
        last_log_id: message.last.map(log_id_from_wire),
    })
}
