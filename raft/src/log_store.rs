//! The consensus library's log, over our write-ahead log.
//!
//! - Votes, appends, truncations and purges go through the write-ahead log's one queue, in the order of the calls.
//! - `append` returns when the entries can be read, and its callback runs after they are synced; `save_vote`,
//!   `truncate` and `purge` return after the sync.
//! - The vote of an earlier process is returned without its commitment: a node that led before it stopped must win
//!   an election before it leads again, since its state may be behind what clients have seen (openraft #1511).
//! - One read for replication is bounded in bytes, not only in entries, and never empty.
#![expect(clippy::result_large_err, reason = "the error type is the library's")]

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};

use bytes::Bytes;
use mode_envoy_proto::peer::v1 as wire;
use mode_envoy_storage::wal::{Position, Record, Recovered, Wal, WalError};
use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{AnyError, ErrorSubject, ErrorVerb, LogState, OptionalSend, RaftLogReader};
use prost::Message as _;
use tokio::sync::oneshot;

use crate::convert::{self, DecodeError};
use crate::types::{Entry, LogId, StorageError, StorageIOError, TypeConfig, Vote};

/// What one read for replication returns at most, unless a single entry is larger.
const READ_BYTES: usize = 1 << 20;

/// The log of this node. Clones share it.
#[derive(Clone)]
pub(crate) struct LogStore {
    wal: Wal,
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
}

/// Reads entries for replication.
#[derive(Clone)]
pub(crate) struct LogReader {
    wal: Wal,
}

// === impl LogStore ===

impl LogStore {
    /// Over what the write-ahead log recovered.
    pub(crate) fn new(wal: Wal, recovered: &Recovered) -> Result<Self, DecodeError> {
        let vote = recovered
            .vote
            .as_deref()
            .map(convert::decode_vote)
            .transpose()?;
        let vote = vote.map(|vote| Vote::new(vote.leader_id.term, vote.leader_id.node_id));
        let log_id = |bytes: Option<&Bytes>| bytes.map(|b| convert::decode_log_id(b)).transpose();
        Ok(Self {
            wal,
            vote,
            committed: log_id(recovered.committed.as_ref())?,
            purged: log_id(recovered.purged_payload.as_ref())?,
        })
    }

    fn last(&self) -> Result<Option<LogId>, StorageError> {
        let Some(last) = self.wal.last() else {
            return Ok(self.purged);
        };
        if self.purged.is_some_and(|purged| purged.index == last.index) {
            return Ok(self.purged);
        }
        let entries = read(&self.wal, last.index, last.index + 1, usize::MAX)?;
        Ok(entries.last().map(|entry| entry.log_id))
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = LogReader;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, StorageError> {
        Ok(LogState {
            last_purged_log_id: self.purged,
            last_log_id: self.last()?,
        })
    }

    async fn get_log_reader(&mut self) -> LogReader {
        LogReader {
            wal: self.wal.clone(),
        }
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        let (done, synced) = completion();
        self.wal.save_vote(convert::encode_vote(*vote), done);
        settled(synced)
            .await
            .map_err(|e| StorageIOError::write_vote(AnyError::new(&e)))?;
        self.vote = Some(*vote);
        Ok(())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        Ok(self.vote)
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError> {
        // Only a hint for the next start, so it costs no sync of its own.
        if let Some(id) = committed {
            self.wal.save_committed(convert::encode_log_id(id));
        }
        self.committed = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError> {
        Ok(self.committed)
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: LogFlushed<TypeConfig>,
    ) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        // What was purged is committed and in the checkpoint; nothing would read it again.
        let next = self.purged.map_or(0, |purged| purged.index + 1);
        let records = entries
            .into_iter()
            .filter(|entry| entry.log_id.index >= next)
            .map(|entry| record(&entry))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e| StorageIOError::write_logs(AnyError::new(&e)))?;
        self.wal.append(
            records,
            Box::new(move |result| callback.log_io_completed(result.map_err(io::Error::other))),
        );
        Ok(())
    }

    async fn truncate(&mut self, since: LogId) -> Result<(), StorageError> {
        let (done, synced) = completion();
        self.wal.truncate(since.index, done);
        settled(synced)
            .await
            .map_err(|e| StorageIOError::write_logs(AnyError::new(&e)))?;
        Ok(())
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), StorageError> {
        let (done, synced) = completion();
        let position = Position {
            term: upto.leader_id.term,
            index: upto.index,
        };
        self.wal.purge(position, convert::encode_log_id(upto), done);
        settled(synced)
            .await
            .map_err(|e| StorageIOError::write_logs(AnyError::new(&e)))?;
        self.purged = Some(upto);
        Ok(())
    }
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: R,
    ) -> Result<Vec<Entry>, StorageError> {
        read_range(&self.wal, &range)
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry>, StorageError> {
        read(&self.wal, start, end, READ_BYTES)
    }
}

// === impl LogReader ===

impl RaftLogReader<TypeConfig> for LogReader {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: R,
    ) -> Result<Vec<Entry>, StorageError> {
        read_range(&self.wal, &range)
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry>, StorageError> {
        read(&self.wal, start, end, READ_BYTES)
    }
}

fn record(entry: &Entry) -> Result<Record, DecodeError> {
    let position = Position {
        term: entry.log_id.leader_id.term,
        index: entry.log_id.index,
    };
    let payload = convert::entry_to_wire(entry)?.encode_to_vec().into();
    Ok(Record { position, payload })
}

fn read_range(wal: &Wal, range: &impl RangeBounds<u64>) -> Result<Vec<Entry>, StorageError> {
    let from = match range.start_bound() {
        Bound::Included(&at) => at,
        Bound::Excluded(&at) => at.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let to = match range.end_bound() {
        Bound::Included(&at) => at.saturating_add(1),
        Bound::Excluded(&at) => at,
        Bound::Unbounded => u64::MAX,
    };
    read(wal, from, to, usize::MAX)
}

/// The entries of `from .. to` that there are.
pub(crate) fn read_entries(wal: &Wal, from: u64, to: u64) -> Result<Vec<Entry>, StorageError> {
    read(wal, from, to, usize::MAX)
}

/// Every entry from an index on, as one reading.
pub(crate) fn read_from(wal: &Wal, from: u64) -> Result<Vec<Entry>, StorageError> {
    read(wal, from, u64::MAX, usize::MAX)
}

fn read(wal: &Wal, from: u64, to: u64, max_bytes: usize) -> Result<Vec<Entry>, StorageError> {
    let from = wal.first_index().map_or(from, |first| from.max(first));
    if from >= to {
        return Ok(Vec::new());
    }
    let records = wal
        .read(from, to, max_bytes)
        .map_err(|e| StorageIOError::read_log_at_index(from, AnyError::new(&e)))?;
    records
        .into_iter()
        .map(|record| {
            let index = record.position.index;
            entry(record.payload)
                .map_err(|e| StorageIOError::read_log_at_index(index, AnyError::new(&e)).into())
        })
        .collect()
}

fn entry(payload: Bytes) -> Result<Entry, DecodeError> {
    let message = wire::Entry::decode(payload).map_err(|e| DecodeError::Protobuf {
        what: "Entry",
        reason: e.to_string(),
    })?;
    convert::entry_from_wire(message)
}

type Completion = Box<dyn FnOnce(Result<(), WalError>) + Send>;

fn completion() -> (Completion, oneshot::Receiver<Result<(), WalError>>) {
    let (sender, receiver) = oneshot::channel();
    // Nobody waits any more only where the library was shut down.
    (Box::new(move |result| drop(sender.send(result))), receiver)
}

async fn settled(done: oneshot::Receiver<Result<(), WalError>>) -> io::Result<()> {
    match done.await {
        Ok(result) => result.map_err(io::Error::other),
        Err(_) => Err(io::Error::other(
            "the write-ahead log was closed before the write ended",
        )),
    }
}

/// A failure that is about the state machine's files.
pub(crate) fn snapshot_error(
    verb: ErrorVerb,
    error: &(impl std::error::Error + 'static),
) -> StorageError {
    StorageIOError::new(ErrorSubject::Snapshot(None), verb, AnyError::new(error)).into()
}

#[cfg(test)]
mod tests;
