//! Between the values of the model and the messages that stand in the log, in checkpoints and on the wire.
//!
//! Invariants: writing then reading gives back the same value; reading never panics, never makes a list longer than
//! `model::limits` allows, and names the field that it could not read. In proto3 a missing scalar reads as zero, so
//! zero and the empty text stand for "none" throughout, and no valid value of the model collides with them.

mod batch;
mod checkpoint;
mod command;
mod event;
mod ledger;
mod limits;
mod members;
mod objects;
mod outcome;
mod raft;
mod request;
mod rotation;
#[cfg(test)]
mod tests;
mod usage;

pub(crate) use batch::decode_batch;
pub(crate) use checkpoint::{
    CheckpointAbout, decode_checkpoint, encode_checkpoint, read_checkpoint_meta, snapshot_meta,
};
pub(crate) use command::Proposal;
pub use event::{UnreadableChangeSet, read_change_set};
pub(crate) use raft::{
    ballot, decode_log_id, decode_vote, encode_log_id, encode_vote, entry_from_wire, entry_to_wire,
    log_id, read_append_request, read_append_response, read_vote_request, read_vote_response,
    vote_from_wire, write_append_response, write_vote_response,
};

/// Why bytes are not a message that this version understands.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum DecodeError {
    /// The bytes are no protobuf message.
    #[error("{what} is not a valid message: {reason}")]
    Protobuf {
        /// Name of the message.
        what: &'static str,
        /// What the decoder says.
        reason: String,
    },
    /// A field that every version writes is not there, or holds a kind that this version does not know.
    #[error("{what} is missing, or of a kind that only a newer version knows")]
    Missing {
        /// Name of the field.
        what: &'static str,
    },
    /// A field of fixed length has another one.
    #[error("{what} has {got} bytes instead of {expected}")]
    Length {
        /// Name of the field.
        what: &'static str,
        /// As the format says.
        expected: usize,
        /// As found.
        got: usize,
    },
    /// A list is longer than the cluster's limits allow.
    #[error("{what} lists {got} elements; {max} are allowed")]
    TooMany {
        /// Name of the field.
        what: &'static str,
        /// The limit.
        max: usize,
        /// As found.
        got: usize,
    },
    /// The values are readable one by one, but not together.
    #[error("the parts do not fit together: {reason}")]
    Contradiction {
        /// What does not fit.
        reason: String,
    },
    /// A value that is not among those this version knows.
    #[error("{what} has the value {got}, which this version does not know")]
    Unknown {
        /// Name of the field.
        what: &'static str,
        /// As found.
        got: String,
    },
}

/// A value of the model that has a message.
pub(crate) trait Wire: Sized {
    /// The message.
    type Message;
    /// Writes; never fails.
    fn to_wire(&self) -> Self::Message;
    /// Reads.
    fn from_wire(message: Self::Message) -> Result<Self, DecodeError>;
}

// === helpers of the conversions ===

fn missing(what: &'static str) -> DecodeError {
    DecodeError::Missing { what }
}

fn unknown(what: &'static str, got: impl std::fmt::Display) -> DecodeError {
    DecodeError::Unknown {
        what,
        got: format!("{got}"),
    }
}

fn required<T: Wire>(what: &'static str, message: Option<T::Message>) -> Result<T, DecodeError> {
    T::from_wire(message.ok_or_else(|| missing(what))?)
}

fn optional<T: Wire>(message: Option<T::Message>) -> Result<Option<T>, DecodeError> {
    message.map(T::from_wire).transpose()
}

fn bounded<T>(what: &'static str, max: usize, list: Vec<T>) -> Result<Vec<T>, DecodeError> {
    if list.len() > max {
        return Err(DecodeError::TooMany {
            what,
            max,
            got: list.len(),
        });
    }
    Ok(list)
}

fn read_list<T: Wire>(
    what: &'static str,
    max: usize,
    list: Vec<T::Message>,
) -> Result<Vec<T>, DecodeError> {
    bounded(what, max, list)?
        .into_iter()
        .map(T::from_wire)
        .collect()
}

fn write_list<T: Wire>(list: &[T]) -> Vec<T::Message> {
    list.iter().map(Wire::to_wire).collect()
}

fn fixed<const N: usize>(what: &'static str, bytes: &[u8]) -> Result<[u8; N], DecodeError> {
    bytes.try_into().map_err(|_| DecodeError::Length {
        what,
        expected: N,
        got: bytes.len(),
    })
}

fn text(value: &str) -> String {
    value.to_owned()
}

fn optional_text(value: Option<&std::sync::Arc<str>>) -> String {
    value.map(|v| text(v)).unwrap_or_default()
}

fn none_if_empty(value: String) -> Option<std::sync::Arc<str>> {
    (!value.is_empty()).then(|| value.into())
}

fn none_if_zero(value: u64) -> Option<u64> {
    (value != 0).then_some(value)
}
