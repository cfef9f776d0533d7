//! A packed bucket summed by one dimension: a question that asks by that dimension alone reads a few rows instead of every cell.
//!
//! A roll-up belongs to the content of a bucket, not to its number: it is asked for by the bucket's hash, so one that was made
//! before the bucket changed is never taken for one of now. Whoever keeps roll-ups may forget them at any time: they are made again from
//! the bucket ([`roll_up`]). Invariant: a query that is answered from roll-ups is answered as from the cells.

use std::collections::BTreeMap;

use crate::limits;
use crate::usage::cells::Resolution;
use crate::usage::counters::{COUNTERS, Counters};
use crate::usage::histogram::{Histogram, Sum};
use crate::usage::packed::{BLOCK, Packed, Sums, Which, bytes as packed_bytes};
use crate::usage::query::Dimension;
use crate::usage::series::Dictionary;

const VERSION: u8 = 1;
/// Rows of a roll-up: what the dictionary can name, twice over.
const MAX_ROWS: usize = 2 * limits::SERIES as usize;

/// Where roll-ups are kept.
pub trait RollUps {
    /// The roll-up of the packed bucket with this content, by this dimension, if it is there. `content` is [`Packed::hash`].
    fn get(
        &self,
        resolution: Resolution,
        bucket: u32,
        content: &[u8; 32],
        dimension: Dimension,
    ) -> Option<RollUp>;
}

/// Keeps none: every question is answered from the cells.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoRollUps;

/// A packed bucket, summed by one dimension.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct RollUp {
    /// Ascending by value; none twice.
    pub rows: Vec<RollUpRow>,
}

/// What one value of the dimension came to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RollUpRow {
    /// The value; empty where the dimension does not apply.
    pub value: String,
    /// The integers.
    pub counters: Counters,
    /// Duration of calls.
    pub latency: Histogram,
    /// Time to the first byte.
    pub ttft: Histogram,
    /// Some of it was folded at the series cap.
    pub folded: bool,
}

/// A row as it adds up.
#[derive(Default)]
struct Adding {
    counters: [u64; COUNTERS],
    latency: Sum,
    ttft: Sum,
    folded: bool,
}

/// Which row each cell of a block belongs to.
struct Places<'a> {
    rows: [usize; BLOCK],
    sums: &'a mut [Adding],
}

/// A cell that belongs to no row.
const NONE: usize = usize::MAX;

// === impl Places ===

impl Sums for Places<'_> {
    fn of(&mut self, cell: usize, which: Which) -> Option<&mut Sum> {
        let sum = self.sums.get_mut(*self.rows.get(cell)?)?;
        Some(match which {
            Which::Latency => &mut sum.latency,
            Which::Ttft => &mut sum.ttft,
        })
    }
}

// === impl RollUps ===

impl RollUps for NoRollUps {
    fn get(&self, _: Resolution, _: u32, _: &[u8; 32], _: Dimension) -> Option<RollUp> {
        None
    }
}

// === impl RollUp ===

impl RollUp {
    /// All of it as bytes, for whoever keeps it.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        packed_bytes::put_varint(&mut out, self.rows.len() as u64);
        for row in &self.rows {
            packed_bytes::put_sized(&mut out, row.value.as_bytes());
            out.push(u8::from(row.folded));
            for value in row.counters.values() {
                packed_bytes::put_varint(&mut out, value);
            }
            packed_bytes::put_histogram(&mut out, &row.latency);
            packed_bytes::put_histogram(&mut out, &row.ttft);
        }
        out
    }

    /// Takes bytes that [`Self::to_bytes`] gave; `None` where they are anything else.
    pub fn from_bytes(mut bytes: &[u8]) -> Option<Self> {
        let rest = &mut bytes;
        if packed_bytes::take_byte(rest)? != VERSION {
            return None;
        }
        let count = usize::try_from(packed_bytes::take_varint(rest)?).ok()?;
        if count > MAX_ROWS {
            return None;
        }
        let mut rows: Vec<RollUpRow> = Vec::new();
        for _ in 0..count {
            let row = take_row(rest)?;
            if rows.last().is_some_and(|last| last.value >= row.value) {
                return None;
            }
            rows.push(row);
        }
        rest.is_empty().then_some(Self { rows })
    }
}

/// Sums a packed bucket of facts by a dimension. A series that the dictionary does not have is left out: it is gone, and so is
/// the bucket for every query that would know of it.
pub fn roll_up(packed: &Packed, series: &Dictionary, dimension: Dimension) -> RollUp {
    let mut sums: Vec<Adding> = Vec::new();
    let mut places: BTreeMap<&str, usize> = BTreeMap::new();
    for block in (0..packed.block_count()).filter_map(|at| packed.block(at)) {
        let mut rows = [NONE; BLOCK];
        for (row, id) in rows.iter_mut().zip(block.series()) {
            let Some(key) = series.get(*id) else {
                continue;
            };
            let next = places.len();
            *row = *places.entry(dimension.value(key)).or_insert(next);
            if *row == next {
                sums.push(Adding::default());
            }
            sums[*row].folded |= key.folded;
        }
        let histograms = block.counters(|column, values| {
            for (row, value) in rows.iter().zip(values) {
                if let Some(sum) = sums.get_mut(*row) {
                    let slot = &mut sum.counters[column];
                    *slot = slot.saturating_add(*value);
                }
            }
        });
        let sums = &mut sums;
        histograms.add_to(&mut Places { rows, sums });
    }
    let mut sums: Vec<Option<Adding>> = sums.into_iter().map(Some).collect();
    let rows = places.into_iter().filter_map(|(value, place)| {
        let sum = sums[place].take()?;
        Some(RollUpRow {
            value: value.to_owned(),
            counters: Counters::of(sum.counters),
            latency: sum.latency.into_histogram(),
            ttft: sum.ttft.into_histogram(),
            folded: sum.folded,
        })
    });
    RollUp {
        rows: rows.collect(),
    }
}

fn take_row(rest: &mut &[u8]) -> Option<RollUpRow> {
    let value = packed_bytes::take_sized(rest).filter(|value| value.len() <= limits::DIMENSION)?;
    let folded = match packed_bytes::take_byte(rest)? {
        0 => false,
        1 => true,
        _ => return None,
    };
    let mut counters = [0; COUNTERS];
    for slot in &mut counters {
        *slot = packed_bytes::take_varint(rest)?;
    }
    Some(RollUpRow {
        value: std::str::from_utf8(value).ok()?.to_owned(),
        counters: Counters::of(counters),
        latency: packed_bytes::take_histogram(rest)?,
        ttft: packed_bytes::take_histogram(rest)?,
        folded,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_roll_up_comes_back_from_its_bytes_and_from_no_others() {
        let row = |value: &str, calls| RollUpRow {
            value: value.to_owned(),
            counters: Counters {
                calls,
                ..Counters::default()
            },
            latency: Histogram::from_bins(vec![(3, 1), (400, calls)]).unwrap(),
            ttft: Histogram::default(),
            folded: calls > 5,
        };
        let made = RollUp {
            rows: vec![row("", 1), row("a", 9)],
        };
        let bytes = made.to_bytes();
        assert_eq!(RollUp::from_bytes(&bytes), Some(made));
        for cut in 0..bytes.len() {
            assert_eq!(RollUp::from_bytes(&bytes[..cut]), None, "cut at {cut}");
        }
        let twice = RollUp {
            rows: vec![row("a", 1), row("a", 9)],
        };
        assert_eq!(RollUp::from_bytes(&twice.to_bytes()), None);
    }
}
