//! Calls that a full spool has no room for one by one: added up, by minute and series, until there is room again.
//!
//! Pure. A call counts here or by its own Close, never both: the recorder decides when the call ends.
//!
//! Invariants:
//! * no call is left out: beyond the bound calls lose their dimensions and their minute, not their count;
//! * there are at most [`ROWS`] rows and a few.

use std::collections::BTreeMap;

use mode_envoy_model::usage::counters::Counters;
use mode_envoy_storage::codec::CodecError;

use super::aggregate::counters;
use super::record::{CLOSE, Closed, Dims, RECORD_MAX, Record, TotalHead, VERSION};

/// Rows that keep their dimensions.
const ROWS: usize = 20_000;

/// What a row is about.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Key {
    minute: u32,
    status_class: u8,
    /// Encoded dimensions, of this version.
    dims: Vec<u8>,
}

/// Calls, added up.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    rows: BTreeMap<Key, Counters>,
}

/// One row, as it is written.
#[derive(Debug)]
pub(crate) struct Total {
    head: TotalHead,
    dims: Vec<u8>,
}

// === impl Totals ===

impl Totals {
    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// How many calls it tells of.
    pub(crate) fn calls(&self) -> u64 {
        self.rows.values().map(|counters| counters.calls).sum()
    }

    /// Counts the end of an attempt.
    pub(crate) fn add(&mut self, wall_ms: u64, closed: &Closed<'_>) -> Result<(), CodecError> {
        let mut out = [0; RECORD_MAX];
        let len = closed.encode_into(&mut out)?;
        let Ok(Record::Close(head, dims)) = Record::parse(CLOSE, VERSION, &out[..len]) else {
            return Err(CodecError::NoRoom {
                ty: "a close",
                room: len,
            });
        };
        let key = Key {
            minute: u32::try_from(wall_ms / 60_000).unwrap_or(u32::MAX),
            status_class: head.status_class(),
            dims: dims.bytes.to_vec(),
        };
        self.put(key, &counters(&head))
    }

    /// Takes the oldest row that is of a minute before `before`.
    pub(crate) fn take_before(&mut self, before: u32) -> Option<Total> {
        let first = self
            .rows
            .first_entry()
            .filter(|row| row.key().minute < before)?;
        let (key, counters) = first.remove_entry();
        Some(Total {
            head: TotalHead::new(key.minute, key.status_class, &counters),
            dims: key.dims,
        })
    }

    /// Puts a row back that could not be written.
    pub(crate) fn put_back(&mut self, total: Total) {
        let key = Key {
            minute: total.head.minute,
            status_class: total.head.status_class,
            dims: total.dims,
        };
        self.rows
            .entry(key)
            .or_default()
            .add(&total.head.counters());
    }

    fn put(&mut self, key: Key, counters: &Counters) -> Result<(), CodecError> {
        let key = if self.rows.len() < ROWS || self.rows.contains_key(&key) {
            key
        } else {
            self.nobody(&key)?
        };
        self.rows.entry(key).or_default().add(counters);
        Ok(())
    }

    /// What a row beyond the bound is counted under: nobody, in the oldest minute there is.
    fn nobody(&self, key: &Key) -> Result<Key, CodecError> {
        let mut dims = vec![0; RECORD_MAX];
        let len = Dims::empty().encode_into(&mut dims)?;
        dims.truncate(len);
        let oldest = self.rows.keys().next().map_or(key.minute, |key| key.minute);
        Ok(Key {
            minute: oldest,
            status_class: key.status_class,
            dims,
        })
    }
}

// === impl Total ===

impl Total {
    pub(crate) fn encode_into(&self, out: &mut [u8]) -> Result<usize, CodecError> {
        self.head.encode_with(&self.dims, out)
    }

    pub(crate) fn calls(&self) -> u64 {
        self.head.counters().calls
    }
}

#[cfg(test)]
mod tests {
    use mode_envoy_model::object::Name;

    use super::*;
    use crate::usage::record::{CallId, TOTAL};

    fn closed(dims: &Dims) -> Closed<'_> {
        Closed {
            status: 200,
            output: 5,
            ..Closed::of(CallId([1; 16]), 0, dims)
        }
    }

    fn model(name: String) -> Dims {
        Dims {
            model: Name::from(name),
            ..Dims::empty()
        }
    }

    #[test]
    fn calls_of_one_minute_and_series_make_one_row_and_read_back() {
        let (mut totals, dims) = (Totals::default(), model("fast".to_owned()));
        for wall_ms in [60_000, 119_999, 120_000] {
            totals.add(wall_ms, &closed(&dims)).unwrap();
        }
        assert!(totals.take_before(1).is_none());
        let total = totals.take_before(2).unwrap();
        assert!(totals.take_before(2).is_none());
        let mut out = [0; RECORD_MAX];
        let len = total.encode_into(&mut out).unwrap();
        let Ok(Record::Total(head, encoded)) = Record::parse(TOTAL, VERSION, &out[..len]) else {
            panic!("not a total");
        };
        assert_eq!(encoded.decode().unwrap(), dims);
        let counters = head.counters();
        assert_eq!((head.minute, counters.calls, counters.output), (1, 2, 10));
        totals.put_back(total);
        assert_eq!(totals.take_before(2).unwrap().calls(), 2);
        assert_eq!(totals.take_before(u32::MAX).unwrap().calls(), 1);
        assert!(totals.is_empty());
    }

    #[test]
    fn beyond_the_bound_calls_lose_what_they_are_about_and_not_their_count() {
        let mut totals = Totals::default();
        let all = ROWS + 100;
        for number in 0..all {
            let dims = model(format!("m{number}"));
            totals.add(60_000 * number as u64, &closed(&dims)).unwrap();
        }
        let rows: Vec<_> = std::iter::from_fn(|| totals.take_before(u32::MAX)).collect();
        assert_eq!(rows.len(), ROWS + 1);
        assert_eq!(rows.iter().map(Total::calls).sum::<u64>(), all as u64);
    }
}
