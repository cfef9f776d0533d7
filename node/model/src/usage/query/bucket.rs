//! The rows of one bucket of an answer, as they add up from the cells, open or packed, or from a roll-up of them.

use crate::usage::cells::{Bucket, Chunk};
use crate::usage::counters::{COUNTERS, Counters};
use crate::usage::histogram::Sum as HistogramSum;
use crate::usage::packed::{BLOCK, Block, Packed, Sums, Which};
use crate::usage::query::ReportRow;
use crate::usage::query::source::{Chosen, Source};
use crate::usage::rollup::RollUp;

/// What cells are read for, in the order in which those of a bucket are read.
#[derive(Clone, Copy, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Use {
    Counters,
    Both,
    Percentiles,
}

/// What a row of the answer has come to so far.
#[derive(Default)]
struct Sum {
    counters: [u64; COUNTERS],
    latency: HistogramSum,
    ttft: HistogramSum,
    folded: bool,
}

/// The rows of one bucket: where each group's is, and the rows by first appearance.
pub(super) struct Rows {
    slots: Vec<Option<u32>>,
    rows: Vec<(usize, Sum)>,
}

/// Which row each cell of a block belongs to.
struct Slots<'a> {
    slots: [u32; BLOCK],
    rows: &'a mut [(usize, Sum)],
}

/// A cell that belongs to no row.
const NONE: u32 = u32::MAX;

// === impl Use ===

impl Use {
    fn counts(self) -> bool {
        self <= Self::Both
    }

    fn measures(self) -> bool {
        self >= Self::Both
    }
}

// === impl Sum ===

impl Sum {
    fn add(&mut self, what: Use, counters: &Counters, folded: bool) {
        if what.counts() {
            let values = counters.values();
            for (slot, value) in self.counters.iter_mut().zip(values) {
                *slot = slot.saturating_add(value);
            }
            self.folded |= folded;
        }
    }
}

// === impl Slots ===

impl Sums for Slots<'_> {
    fn of(&mut self, cell: usize, which: Which) -> Option<&mut HistogramSum> {
        let slot = *self.slots.get(cell)?;
        let (_, sum) = self.rows.get_mut(slot as usize)?;
        Some(match which {
            Which::Latency => &mut sum.latency,
            Which::Ttft => &mut sum.ttft,
        })
    }
}

// === impl Rows ===

impl Rows {
    pub(super) fn of(groups: usize) -> Self {
        Self {
            slots: vec![None; groups],
            rows: Vec::new(),
        }
    }

    pub(super) const fn len(&self) -> usize {
        self.rows.len()
    }

    /// Adds the cells of the chosen series, which ascend.
    pub(super) fn add(&mut self, what: Use, bucket: &Bucket, chosen: &[Chosen]) {
        match bucket {
            Bucket::Open(chunk) => self.add_open(what, chunk, chosen),
            Bucket::Packed(packed) => self.add_packed(what, packed, chosen),
        }
    }

    /// Adds the rows of a roll-up; `group_of` says which group a value belongs to, if the filter keeps it.
    pub(super) fn add_roll_up(
        &mut self,
        what: Use,
        roll_up: &RollUp,
        group_of: impl Fn(&str) -> Option<usize>,
    ) {
        for row in &roll_up.rows {
            let Some(sum) = group_of(&row.value).and_then(|group| self.row(what, group)) else {
                continue;
            };
            sum.add(what, &row.counters, row.folded);
            if what.measures() {
                sum.latency.add(&row.latency);
                sum.ttft.add(&row.ttft);
            }
        }
    }

    /// Appends the rows in the order of their values and starts anew.
    pub(super) fn report(
        &mut self,
        bucket_start_minute: Option<u32>,
        source: &Source<'_>,
        rows: &mut Vec<ReportRow>,
    ) {
        if self.rows.is_empty() {
            return;
        }
        for &group in &source.order {
            let Some(slot) = self.slots[group].take() else {
                continue;
            };
            let (_, sum) = &self.rows[slot as usize];
            let values = source.groups[group].iter();
            rows.push(ReportRow {
                bucket_start_minute,
                dimensions: values.map(|&value| value.to_owned()).collect(),
                counters: Counters::of(sum.counters),
                latency_p50_us: sum.latency.quantile(500),
                latency_p95_us: sum.latency.quantile(950),
                latency_p99_us: sum.latency.quantile(990),
                ttft_p50_us: sum.ttft.quantile(500),
                folded: sum.folded,
            });
        }
        self.rows.clear();
    }

    /// Looks each series up where they are few, else walks both in order.
    fn add_open(&mut self, what: Use, chunk: &Chunk, chosen: &[Chosen]) {
        let mut add = |one: &Chosen, cell: &crate::usage::cells::Cell| {
            let Some(sum) = self.row(what, one.group) else {
                return;
            };
            sum.add(what, &cell.counters, one.folded);
            if what.measures() {
                sum.latency.add(&cell.latency);
                sum.ttft.add(&cell.ttft);
            }
        };
        if chosen.len() < chunk.len() / 8 {
            for one in chosen {
                if let Some(cell) = chunk.get(&one.series) {
                    add(one, cell);
                }
            }
            return;
        }
        let mut rest = chosen;
        for (series, cell) in chunk {
            let behind = rest.iter().take_while(|one| one.series < *series).count();
            rest = &rest[behind..];
            match rest.first() {
                Some(one) if one.series == *series => add(one, cell),
                Some(_) => {}
                None => return,
            }
        }
    }

    /// Reads the blocks that may hold a chosen series, and no others.
    fn add_packed(&mut self, what: Use, packed: &Packed, chosen: &[Chosen]) {
        let Some(least) = packed.first_of(0) else {
            return;
        };
        let mut rest = &chosen[chosen.partition_point(|one| one.series < least)..];
        let mut next = 0;
        while let Some(first) = rest.first() {
            // Walking on is cheaper than searching where the series are many.
            let follows = packed.first_of(next).is_some_and(|id| id <= first.series)
                && packed.first_of(next + 1).is_none_or(|id| id > first.series);
            let found = if follows {
                packed.block(next).map(|block| (next, block))
            } else {
                packed.block_of(first.series)
            };
            let Some((at, block)) = found else {
                return;
            };
            next = at + 1;
            let here = packed.first_of(next).map_or(rest.len(), |end| {
                rest.partition_point(|one| one.series < end)
            });
            self.add_block(what, &block, &rest[..here]);
            rest = &rest[here..];
        }
    }

    fn add_block(&mut self, what: Use, block: &Block<'_>, chosen: &[Chosen]) {
        let mut slots = [NONE; BLOCK];
        let (mut rest, mut any) = (chosen, false);
        for (slot, series) in slots.iter_mut().zip(block.series()) {
            let behind = rest.iter().take_while(|one| one.series < *series).count();
            rest = &rest[behind..];
            let Some(one) = rest.first() else {
                break;
            };
            if one.series == *series
                && let Some(at) = self.slot(what, one.group)
            {
                (*slot, any) = (at, true);
                self.rows[at as usize].1.folded |= one.folded && what.counts();
            }
        }
        if !any {
            return;
        }
        let rows = &mut self.rows;
        let histograms = block.counters(|column, values| {
            if !what.counts() {
                return;
            }
            for (slot, value) in slots.iter().zip(values) {
                if *slot != NONE {
                    let sum = &mut rows[*slot as usize].1.counters[column];
                    *sum = sum.saturating_add(*value);
                }
            }
        });
        if !what.measures() {
            return;
        }
        let rows = &mut self.rows;
        histograms.add_to(&mut Slots { slots, rows });
    }

    fn row(&mut self, what: Use, group: usize) -> Option<&mut Sum> {
        let slot = self.slot(what, group)?;
        Some(&mut self.rows[slot as usize].1)
    }

    /// Where the row of a group is. Hours at the edges reach beyond the range; by themselves they make no row.
    fn slot(&mut self, what: Use, group: usize) -> Option<u32> {
        let slot = self.slots.get_mut(group)?;
        if slot.is_none() && what != Use::Percentiles {
            *slot = u32::try_from(self.rows.len()).ok();
            self.rows.push((group, Sum::default()));
        }
        *slot
    }
}
