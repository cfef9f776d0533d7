//! The log as callers see it: which records there are, where each one is, and the newest in memory.
//!
//! It changes when a caller asks, before the writer has written anything; the writer tells later
//! where it put each record.
//!
//! Invariants:
//! * the records are `first ..= first + slots.len() - 1`, without gaps;
//! * `cache` holds the payloads of the last `cache.len()` slots, and of every slot still queued;
//! * a place is accepted only for the very append that asked for it (the serial matches), not for a
//!   record that took the same index after a truncation.

use std::collections::VecDeque;

use bytes::Bytes;

use super::record::MAX_RECORD_BYTES;
use super::{Position, Record, WalError};

/// Where a record's frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In the writer's queue, under this serial number.
    Queued(u64),
    /// On disk.
    Written {
        /// The segment's number.
        segment: u64,
        /// Where the frame starts in it.
        offset: u64,
    },
}

/// A record to be written, and the serial under which its place is awaited.
#[derive(Debug)]
pub(super) struct Queued {
    pub(super) record: Record,
    pub(super) serial: u64,
}

/// Where to get one record's payload from.
#[derive(Debug)]
pub(super) enum Source {
    Memory(Bytes),
    Disk {
        segment: u64,
        offset: u64,
        len: usize,
    },
}

/// The index of the log.
#[derive(Debug)]
pub(super) struct Log {
    first: u64,
    slots: VecDeque<Slot>,
    cache: VecDeque<Bytes>,
    cached_bytes: usize,
    cache_limit: usize,
    purged: Option<(Position, Bytes)>,
    /// The index that must come next while there are no slots; `None`: any.
    next_if_empty: Option<u64>,
    next_serial: u64,
    /// Replaying, and no record seen yet: what came before is in segments that were removed.
    floating: bool,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    term: u64,
    place: Place,
    len: usize,
}

// === impl Log ===

impl Log {
    /// A log that is about to be replayed.
    pub(super) fn replay(purged: Option<(Position, Bytes)>, cache_limit: usize) -> Self {
        Self {
            first: 0,
            slots: VecDeque::new(),
            cache: VecDeque::new(),
            cached_bytes: 0,
            cache_limit,
            purged,
            next_if_empty: None,
            next_serial: 1,
            floating: true,
        }
    }

    /// Adds a record that is already on disk; false if it does not follow the last one.
    pub(super) fn replay_entry(&mut self, position: Position, place: Place, len: usize) -> bool {
        if self.next().is_some_and(|next| next != position.index) {
            return false;
        }
        self.floating = false;
        self.push(position, place, len);
        true
    }

    /// Ends the replay.
    pub(super) fn replayed(&mut self) {
        self.floating = false;
        if self.slots.is_empty() && self.next_if_empty.is_none() {
            self.next_if_empty = self
                .purged
                .as_ref()
                .map(|(upto, _)| upto.index.saturating_add(1));
        }
    }

    /// The index that an append must begin with; `None`: any.
    pub(super) fn next(&self) -> Option<u64> {
        if self.slots.is_empty() {
            self.next_if_empty
        } else {
            Some(self.first + self.slots.len() as u64)
        }
    }

    pub(super) fn first_index(&self) -> Option<u64> {
        (!self.slots.is_empty()).then_some(self.first)
    }

    /// Bytes of the payloads from the record at `from` on.
    pub(super) fn bytes_from(&self, from: u64) -> u64 {
        let skip = usize::try_from(from.saturating_sub(self.first)).unwrap_or(usize::MAX);
        let slots = self.slots.iter().skip(skip);
        slots.map(|slot| slot.len as u64).sum()
    }

    /// The smallest index from which on the payloads up to `last` take no more than `bytes`.
    pub(super) fn first_within(&self, last: u64, bytes: u64) -> u64 {
        let next = last.saturating_add(1);
        let count = usize::try_from(next.saturating_sub(self.first)).unwrap_or(usize::MAX);
        let mut left = bytes;
        let mut first = next;
        let slots = self.slots.iter().take(count).rev();
        for slot in slots {
            match left.checked_sub(slot.len as u64) {
                Some(rest) => left = rest,
                None => break,
            }
            first = first.saturating_sub(1);
        }
        first
    }

    /// The last record's position, or the purged one if there is no record.
    pub(super) fn last(&self) -> Option<Position> {
        match (self.slots.back(), self.next()) {
            (Some(slot), Some(next)) => Some(Position {
                term: slot.term,
                index: next - 1,
            }),
            _ => self.purged(),
        }
    }

    pub(super) fn purged(&self) -> Option<Position> {
        self.purged.as_ref().map(|(position, _)| *position)
    }

    pub(super) fn purged_payload(&self) -> Option<Bytes> {
        self.purged.as_ref().map(|(_, opaque)| opaque.clone())
    }

    /// Takes all records or, with an error, none.
    pub(super) fn append(&mut self, records: Vec<Record>) -> Result<Vec<Queued>, WalError> {
        let mut next = self.next();
        for record in &records {
            let (found, bytes) = (record.position.index, record.payload.len());
            if let Some(expected) = next.filter(|next| *next != found) {
                return Err(WalError::NotContiguous { expected, found });
            }
            if bytes > MAX_RECORD_BYTES {
                return Err(WalError::TooLarge {
                    what: "a record",
                    bytes,
                    limit: MAX_RECORD_BYTES,
                });
            }
            next = Some(found.saturating_add(1));
        }
        Ok(records
            .into_iter()
            .map(|record| self.enqueue(record))
            .collect())
    }

    /// Removes the records from `from` on; false if there were none.
    pub(super) fn truncate(&mut self, from: u64) -> Result<bool, WalError> {
        if let Some(purged) = self.purged().filter(|purged| from <= purged.index) {
            return Err(WalError::TruncatesPurged {
                from,
                purged: purged.index,
            });
        }
        let keep = usize::try_from(from.saturating_sub(self.first)).unwrap_or(usize::MAX);
        if keep >= self.slots.len() {
            return Ok(false);
        }
        let cached_from = self.slots.len() - self.cache.len();
        self.slots.truncate(keep);
        for payload in self.cache.drain(keep.saturating_sub(cached_from)..) {
            self.cached_bytes -= payload.len();
        }
        if self.slots.is_empty() {
            self.next_if_empty = Some(from);
        }
        Ok(true)
    }

    /// Applies a truncation that did remove records; they may be in segments that are gone since.
    pub(super) fn replay_truncate(&mut self, from: u64) -> Result<(), WalError> {
        self.truncate(from)?;
        if self.slots.is_empty() {
            self.floating = false;
            self.next_if_empty = Some(from);
        }
        Ok(())
    }

    /// Forgets the records up to `upto`; false if they were forgotten already.
    pub(super) fn purge(&mut self, upto: Position, opaque: Bytes) -> bool {
        if self
            .purged()
            .is_some_and(|purged| upto.index <= purged.index)
        {
            return false;
        }
        let next = upto.index.saturating_add(1);
        let had_records = !self.slots.is_empty();
        while !self.slots.is_empty() && self.first < next {
            self.slots.pop_front();
            self.first += 1;
            if self.cache.len() > self.slots.len()
                && let Some(payload) = self.cache.pop_front()
            {
                self.cached_bytes -= payload.len();
            }
        }
        if had_records && self.slots.is_empty() {
            self.next_if_empty = Some(next);
        } else if !self.floating {
            self.next_if_empty = self.next_if_empty.max(Some(next));
        }
        self.purged = Some((upto, opaque));
        true
    }

    /// Remembers where the record went that was queued under `serial`, if it is still wanted.
    pub(super) fn written(&mut self, index: u64, serial: u64, segment: u64, offset: u64) {
        let at = usize::try_from(index.wrapping_sub(self.first)).unwrap_or(usize::MAX);
        if let Some(slot) = self.slots.get_mut(at)
            && slot.place == Place::Queued(serial)
        {
            slot.place = Place::Written { segment, offset };
        }
    }

    /// Drops the oldest payloads from memory until the rest is within the limit.
    pub(super) fn evict(&mut self) {
        while self.cached_bytes > self.cache_limit {
            let oldest = self.slots.get(self.slots.len() - self.cache.len());
            if !oldest.is_some_and(|slot| matches!(slot.place, Place::Written { .. })) {
                break;
            }
            if let Some(payload) = self.cache.pop_front() {
                self.cached_bytes -= payload.len();
            }
        }
    }

    /// Where to find the records of `from .. to`, as many as `max_bytes` allows but at least one.
    pub(super) fn sources(&self, from: u64, to: u64, max_bytes: usize) -> Vec<(Position, Source)> {
        let mut found = Vec::new();
        let mut bytes = 0_usize;
        let cached_from = self.slots.len() - self.cache.len();
        let from = from.max(self.first);
        let skip = usize::try_from(from - self.first).unwrap_or(usize::MAX);
        let count = usize::try_from(to.saturating_sub(from)).unwrap_or(usize::MAX);
        for (at, slot) in self.slots.iter().enumerate().skip(skip).take(count) {
            bytes = bytes.saturating_add(slot.len);
            if bytes > max_bytes && !found.is_empty() {
                break;
            }
            let cached = at
                .checked_sub(cached_from)
                .and_then(|at| self.cache.get(at));
            let source = match (cached, slot.place) {
                (Some(payload), _) => Source::Memory(payload.clone()),
                (None, Place::Written { segment, offset }) => Source::Disk {
                    segment,
                    offset,
                    len: slot.len,
                },
                // What is queued is always cached; were it not, the log would end before it.
                (None, Place::Queued(_)) => break,
            };
            found.push((
                Position {
                    term: slot.term,
                    index: self.first + at as u64,
                },
                source,
            ));
        }
        found
    }

    fn enqueue(&mut self, record: Record) -> Queued {
        let serial = self.next_serial;
        self.next_serial += 1;
        self.push(record.position, Place::Queued(serial), record.payload.len());
        self.cached_bytes += record.payload.len();
        self.cache.push_back(record.payload.clone());
        Queued { record, serial }
    }

    fn push(&mut self, position: Position, place: Place, len: usize) {
        if self.slots.is_empty() {
            self.first = position.index;
        }
        self.slots.push_back(Slot {
            term: position.term,
            place,
            len,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(index: u64, bytes: usize) -> Record {
        let position = Position { term: 1, index };
        Record {
            position,
            payload: Bytes::from(vec![0; bytes]),
        }
    }

    fn log(cache_limit: usize) -> Log {
        let mut log = Log::replay(None, cache_limit);
        log.replayed();
        log
    }

    #[test]
    fn a_place_for_a_truncated_append_is_not_taken_by_its_successor() {
        let mut log = log(0);
        let first = log.append(vec![record(5, 1)]).unwrap();
        assert!(log.truncate(5).unwrap());
        let second = log.append(vec![record(5, 1)]).unwrap();
        log.written(5, first[0].serial, 1, 100);
        log.evict();
        assert!(matches!(log.sources(5, 6, 9)[0].1, Source::Memory(_)));
        log.written(5, second[0].serial, 1, 200);
        log.evict();
        assert!(matches!(
            log.sources(5, 6, 9)[0].1,
            Source::Disk { offset: 200, .. }
        ));
    }

    #[test]
    fn only_what_is_written_leaves_memory() {
        let mut log = log(15);
        let queued = log
            .append((1..=3).map(|index| record(index, 10)).collect())
            .unwrap();
        log.evict();
        assert_eq!(log.cached_bytes, 30);
        log.written(1, queued[0].serial, 1, 0);
        log.evict();
        assert_eq!(log.cached_bytes, 20);
        assert!(matches!(log.sources(1, 4, 100)[0].1, Source::Disk { .. }));
        assert!(matches!(log.sources(1, 4, 100)[1].1, Source::Memory(_)));
    }

    #[test]
    fn how_much_log_there_is_is_told_in_bytes() {
        let mut log = log(100);
        let sizes = [10, 20, 30, 40];
        let records = (5..).zip(sizes).map(|(index, bytes)| record(index, bytes));
        log.append(records.collect()).unwrap();
        let from = [0, 5, 6, 8, 9].map(|index| log.bytes_from(index));
        assert_eq!(from, [100, 100, 90, 40, 0]);
        let within = [200, 100, 99, 70, 69, 39].map(|bytes| log.first_within(8, bytes));
        assert_eq!(within, [5, 5, 6, 7, 8, 9]);
        assert_eq!(log.first_within(6, 20), 6);
        log.purge(Position { term: 1, index: 6 }, Bytes::new());
        assert_eq!((log.bytes_from(0), log.first_within(8, 200)), (70, 7));
    }

    #[test]
    fn an_append_is_taken_whole_or_not_at_all() {
        let mut log = log(100);
        log.append(vec![record(1, 1)]).unwrap();
        log.append(vec![record(2, 1), record(4, 1)]).unwrap_err();
        log.append(vec![record(2, 1), record(3, MAX_RECORD_BYTES + 1)])
            .unwrap_err();
        assert_eq!(log.next(), Some(2));
    }

    #[test]
    fn after_a_purge_beyond_the_end_the_log_goes_on_behind_it() {
        let mut log = log(100);
        log.append(vec![record(1, 1), record(2, 1)]).unwrap();
        assert!(log.purge(Position { term: 4, index: 9 }, Bytes::new()));
        assert_eq!(log.first_index(), None);
        assert_eq!(log.last(), Some(Position { term: 4, index: 9 }));
        log.append(vec![record(3, 1)]).unwrap_err();
        log.append(vec![record(10, 1)]).unwrap();
        log.truncate(9).unwrap_err();
        assert!(log.truncate(10).unwrap());
        assert_eq!(log.next(), Some(10));
    }
}
