//! A bucket of cells as bytes: a tenth of the memory, read column by column, and written once for all checkpoints.
//!
//! ```text
//! version 1 | cells | blocks | per block: first series u32 LE, offset u32 LE | blocks
//! block:  series, each the distance to the one before | one column per counter | latency | ttft
//! histograms:  length | per cell: bins | per bin: distance to the one before, count
//! ```
//!
//! Cells and blocks are counted by varints; offsets are those of the blocks, from the first one on. A block has 64 cells, the
//! last one the rest, so that a few series are found without reading the others.
//!
//! Invariants: the same cells give the same bytes on every replica; bytes from elsewhere are checked whole before
//! anything is read of them ([`Packed::from_bytes`]), and reading never panics.

use std::sync::Arc;

use crate::usage::cells::{Cell, Chunk};
use crate::usage::counters::{COUNTERS, Counters};
use crate::usage::histogram::{BINS, Histogram, Sum};

pub(crate) mod bytes;
mod column;
#[cfg(test)]
mod packed_test;

use bytes::{put_histogram, put_sized, put_varint, take_histogram, take_sized, take_varint};
pub(crate) use column::BLOCK;
use column::{Column, Values, put_column};

const VERSION: u8 = 1;
/// Bytes of one entry of the directory.
const ENTRY: usize = 8;
/// Cells of a bucket, far beyond what the dictionary can name.
const MAX_CELLS: usize = 4_000_000;

/// A bucket of cells as bytes. Cloning shares.
#[derive(Clone, Debug)]
pub struct Packed {
    bytes: Arc<[u8]>,
    hash: [u8; 32],
    cells: usize,
    /// Where the directory begins.
    directory: usize,
    /// Where the first block begins.
    blocks: usize,
}

/// The bytes are not a packed bucket.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("a packed bucket of usage cells does not decode: {0}")]
pub struct PackedError(&'static str);

/// Some cells of a block, and what is read of them.
pub(crate) struct Block<'a> {
    series: [u32; BLOCK],
    count: usize,
    rest: &'a [u8],
}

// === impl Packed ===

impl Packed {
    /// Packs the cells of a bucket.
    pub fn of(chunk: &Chunk) -> Self {
        let cells: Vec<(u32, &Cell)> = chunk.iter().map(|(id, cell)| (*id, &**cell)).collect();
        let mut blocks = Vec::with_capacity(cells.len() * 32);
        let mut directory = Vec::new();
        for block in cells.chunks(BLOCK) {
            // A bucket has at most MAX_CELLS cells, and no block comes near a kilobyte a cell.
            let offset = u32::try_from(blocks.len()).unwrap_or(u32::MAX);
            directory.extend_from_slice(&block[0].0.to_le_bytes());
            directory.extend_from_slice(&offset.to_le_bytes());
            put_block(&mut blocks, block);
        }
        let mut bytes = vec![VERSION];
        put_varint(&mut bytes, cells.len() as u64);
        put_varint(&mut bytes, (directory.len() / ENTRY) as u64);
        let at = bytes.len();
        bytes.extend_from_slice(&directory);
        let first = bytes.len();
        bytes.extend_from_slice(&blocks);
        Self::new(bytes.into(), cells.len(), at, first)
    }

    /// Takes bytes that [`Self::bytes`] gave, checked from the first to the last.
    ///
    /// # Errors
    /// Says what is wrong with them: they are damaged, or of a newer version.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, PackedError> {
        let mut rest = bytes;
        let cells = take_head(&mut rest)?;
        let count = take_varint(&mut rest).and_then(|count| usize::try_from(count).ok());
        if count != Some(cells.div_ceil(BLOCK)) {
            return Err(PackedError("the number of blocks is not that of the cells"));
        }
        let at = bytes.len() - rest.len();
        let directory = cells.div_ceil(BLOCK) * ENTRY;
        if rest.len() < directory {
            return Err(PackedError("the directory is cut short"));
        }
        let packed = Self::new(bytes.into(), cells, at, at + directory);
        packed.check()?;
        Ok(packed)
    }

    fn new(bytes: Arc<[u8]>, cells: usize, directory: usize, blocks: usize) -> Self {
        Self {
            hash: *blake3::hash(&bytes).as_bytes(),
            bytes,
            cells,
            directory,
            blocks,
        }
    }

    /// All of it, as checkpoints keep it.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// BLAKE3 of the bytes.
    pub const fn hash(&self) -> &[u8; 32] {
        &self.hash
    }

    /// How many cells there are.
    pub const fn len(&self) -> usize {
        self.cells
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.cells == 0
    }

    /// Every cell, by the number of its series.
    pub fn cells(&self) -> impl Iterator<Item = (u32, Cell)> {
        (0..self.block_count())
            .flat_map(|at| self.block(at).into_iter().flat_map(Block::into_cells))
    }

    /// The numbers of the series that have a cell, ascending.
    pub fn series(&self) -> impl Iterator<Item = u32> {
        (0..self.block_count()).flat_map(|at| {
            let block = self.block(at);
            block
                .into_iter()
                .flat_map(|block| block.series.into_iter().take(block.count))
        })
    }

    /// The cells again, to be changed.
    pub fn unpack(&self) -> Chunk {
        self.cells()
            .map(|(id, cell)| (id, Arc::new(cell)))
            .collect()
    }

    /// The block that holds a series if any does, and its place.
    pub(crate) fn block_of(&self, series: u32) -> Option<(usize, Block<'_>)> {
        let (mut low, mut high) = (0, self.block_count());
        while low < high {
            let middle = usize::midpoint(low, high);
            if self.entry(middle)?.0 <= series {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        let at = low.checked_sub(1)?;
        Some((at, self.block(at)?))
    }

    /// The first series of a block, and what follows the blocks before it.
    pub(crate) fn block(&self, at: usize) -> Option<Block<'_>> {
        let (first, offset) = self.entry(at)?;
        let rest = self.bytes.get(self.blocks + offset..)?;
        let count = self.cells.checked_sub(at * BLOCK)?.min(BLOCK);
        Block::take(first, count, rest)
    }

    /// How many blocks there are.
    pub(crate) const fn block_count(&self) -> usize {
        self.cells.div_ceil(BLOCK)
    }

    /// The first series of a block.
    pub(crate) fn first_of(&self, at: usize) -> Option<u32> {
        self.entry(at).map(|(first, _)| first)
    }

    fn entry(&self, at: usize) -> Option<(u32, usize)> {
        if at >= self.block_count() {
            return None;
        }
        let start = self.directory + at * ENTRY;
        let number = |at: usize| {
            let bytes = self.bytes.get(at..)?.first_chunk()?;
            Some(u32::from_le_bytes(*bytes))
        };
        let (first, offset) = (number(start)?, number(start + 4)?);
        Some((first, offset as usize))
    }

    /// Reads all of it once.
    fn check(&self) -> Result<(), PackedError> {
        let (mut offset, mut last) = (0, None);
        for at in 0..self.block_count() {
            let (first, found) = self
                .entry(at)
                .ok_or(PackedError("the directory is cut short"))?;
            if found != offset {
                return Err(PackedError("a block is not where the directory says"));
            }
            if last.is_some_and(|last| last >= first) {
                return Err(PackedError("series do not ascend"));
            }
            let block = self.block(at).ok_or(PackedError("a block is cut short"))?;
            last = block.series[..block.count].last().copied();
            let before = self.bytes.len() - self.blocks - offset;
            offset += before - block.check()?.len();
        }
        if self.blocks + offset == self.bytes.len() {
            Ok(())
        } else {
            Err(PackedError("something follows the last block"))
        }
    }
}

impl PartialEq for Packed {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash
    }
}

impl Eq for Packed {}

// === impl Block ===

impl<'a> Block<'a> {
    /// The numbers of the series, ascending.
    pub(crate) fn series(&self) -> &[u32] {
        &self.series[..self.count]
    }

    /// Hands over every counter that is not 0 in all cells: its place among the counters, and its values by cell. What follows
    /// are the histograms.
    pub(crate) fn counters(&self, mut visit: impl FnMut(usize, &Values)) -> Histograms<'a> {
        let mut rest = self.rest;
        let mut values = [0; BLOCK];
        for at in 0..COUNTERS {
            match Column::take(&mut rest) {
                None | Some(Column::Same(0)) => {}
                Some(column) => {
                    column.read(self.count, &mut values);
                    visit(at, &values);
                }
            }
        }
        Histograms { rest }
    }

    fn take(first: u32, count: usize, mut rest: &'a [u8]) -> Option<Self> {
        let mut series = [0; BLOCK];
        let mut id = first;
        let (head, others) = series[..count].split_first_mut()?;
        *head = first;
        for slot in others {
            let distance = u32::try_from(take_varint(&mut rest)?).ok()?;
            id = id.checked_add(distance).filter(|_| distance > 0)?;
            *slot = id;
        }
        Some(Self {
            series,
            count,
            rest,
        })
    }

    fn into_cells(self) -> impl Iterator<Item = (u32, Cell)> {
        let mut all = vec![[0; COUNTERS]; self.count];
        let histograms = self.counters(|at, values| {
            all.iter_mut()
                .zip(values)
                .for_each(|(counters, value)| counters[at] = *value);
        });
        let (mut latency, mut ttft) = histograms.both();
        (0..).zip(all).map(move |(at, counters): (usize, _)| {
            let cell = Cell {
                counters: Counters::of(counters),
                latency: take_histogram(&mut latency).unwrap_or_default(),
                ttft: take_histogram(&mut ttft).unwrap_or_default(),
            };
            (self.series[at], cell)
        })
    }

    /// What follows the block, if all of it is as it should be.
    fn check(&self) -> Result<&'a [u8], PackedError> {
        let mut rest = self.rest;
        let mut values = [0; BLOCK];
        for _ in 0..COUNTERS {
            let column =
                Column::take(&mut rest).filter(|column| column.read(self.count, &mut values));
            column.ok_or(PackedError("a counter's column is damaged"))?;
        }
        for _ in 0..2 {
            let mut bytes = take_sized(&mut rest).ok_or(PackedError("histograms are cut short"))?;
            if bytes.is_empty() {
                continue;
            }
            for _ in 0..self.count {
                take_histogram(&mut bytes).ok_or(PackedError("a histogram is damaged"))?;
            }
            if !bytes.is_empty() {
                return Err(PackedError("something follows the histograms of a block"));
            }
        }
        Ok(rest)
    }
}

/// The histograms of a block, one after the other; none where no cell has any.
pub(crate) struct Histograms<'a> {
    rest: &'a [u8],
}

// === impl Histograms ===

impl Histograms<'_> {
    /// Adds the bins of every cell to what `sums` has for it.
    pub(crate) fn add_to(self, sums: &mut impl Sums) {
        let (latency, ttft) = self.both();
        for (which, mut bytes) in [(Which::Latency, latency), (Which::Ttft, ttft)] {
            let mut cell = 0;
            while let Some(bins) = take_varint(&mut bytes) {
                if !take_bins(&mut bytes, bins, sums.of(cell, which)) {
                    return;
                }
                cell += 1;
            }
        }
    }
}

impl<'a> Histograms<'a> {
    fn both(self) -> (&'a [u8], &'a [u8]) {
        let mut rest = self.rest;
        let latency = take_sized(&mut rest).unwrap_or_default();
        (latency, take_sized(&mut rest).unwrap_or_default())
    }
}

/// One of the two histograms of a cell.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Which {
    /// Duration of calls.
    Latency,
    /// Time to the first byte.
    Ttft,
}

/// Where the histograms of cells are added up.
pub(crate) trait Sums {
    /// The sum that a cell of the block belongs to, if to any.
    fn of(&mut self, cell: usize, which: Which) -> Option<&mut Sum>;
}

// === free functions ===

/// Takes so many bins and adds them to a sum; whether all were there.
fn take_bins(bytes: &mut &[u8], count: u64, sum: Option<&mut Sum>) -> bool {
    let Some(sum) = sum else {
        return each_bin(bytes, count, |_, _| {});
    };
    // Nearly every sum is spread out soon; to look once a cell is cheaper than once a bin.
    if let Some(slots) = sum.slots() {
        return each_bin(bytes, count, |bin, count| {
            if let Some(slot) = slots.get_mut(usize::from(bin)) {
                *slot = slot.saturating_add(count);
            }
        });
    }
    each_bin(bytes, count, |bin, count| sum.add_bin(bin, count))
}

/// Takes so many bins; whether all were there.
#[inline]
fn each_bin(bytes: &mut &[u8], count: u64, mut visit: impl FnMut(u16, u64)) -> bool {
    let (mut rest, mut next) = (*bytes, 0_u16);
    for _ in 0..count {
        // Nearly every bin is near the one before, the first one is not, and most count few.
        let (distance, counted) = match *rest {
            [distance @ 0..=0x7f, counted @ 0..=0x7f, ref after @ ..] => {
                rest = after;
                (u16::from(distance), u64::from(counted))
            }
            [
                low @ 0x80..=0xff,
                high @ 1..=0x7f,
                counted @ 0..=0x7f,
                ref after @ ..,
            ] => {
                rest = after;
                (
                    u16::from(low & 0x7f) | u16::from(high) << 7,
                    u64::from(counted),
                )
            }
            _ => match (take_varint(&mut rest), take_varint(&mut rest)) {
                (Some(distance), Some(counted)) => {
                    (u16::try_from(distance).unwrap_or(BINS), counted)
                }
                _ => return false,
            },
        };
        let bin = next.saturating_add(distance);
        visit(bin, counted);
        next = bin.saturating_add(1);
    }
    *bytes = rest;
    true
}

fn take_head(rest: &mut &[u8]) -> Result<usize, PackedError> {
    match rest.split_first() {
        Some((&VERSION, after)) => *rest = after,
        Some(_) => return Err(PackedError("its version is unknown to this release")),
        None => return Err(PackedError("it is empty")),
    }
    let cells = take_varint(rest).and_then(|count| usize::try_from(count).ok());
    cells
        .filter(|count| *count <= MAX_CELLS)
        .ok_or(PackedError("the number of cells is damaged"))
}

fn put_block(out: &mut Vec<u8>, cells: &[(u32, &Cell)]) {
    for pair in cells.windows(2) {
        put_varint(out, u64::from(pair[1].0 - pair[0].0));
    }
    let counters: Vec<[u64; COUNTERS]> = cells
        .iter()
        .map(|(_, cell)| cell.counters.values())
        .collect();
    for at in 0..COUNTERS {
        let column: Vec<u64> = counters.iter().map(|values| values[at]).collect();
        put_column(out, &column);
    }
    let which: [fn(&Cell) -> &Histogram; 2] = [|cell| &cell.latency, |cell| &cell.ttft];
    for histogram in which {
        let mut bytes = Vec::new();
        if cells.iter().any(|(_, cell)| !histogram(cell).is_empty()) {
            for (_, cell) in cells {
                put_histogram(&mut bytes, histogram(cell));
            }
        }
        put_sized(out, &bytes);
    }
}
