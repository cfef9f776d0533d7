//! Bytes of heap that a bucket of cells takes, open and packed: the "max alloc" of each line, per 50,000 cells.
//!
//! Hours and days have histograms, minutes of facts have none. Each cell has its own numbers, as after a day of calls.

use std::sync::Arc;

use divan::{AllocProfiler, Bencher, black_box};
use mode_envoy_model::usage::cells::{Cell, Chunk};
use mode_envoy_model::usage::counters::Counters;
use mode_envoy_model::usage::histogram::Histogram;
use mode_envoy_model::usage::packed::Packed;

#[global_allocator]
static ALLOC: AllocProfiler = AllocProfiler::system();

const CELLS: u32 = 50_000;

/// What a cell is of.
#[derive(Clone, Copy, Debug)]
enum Of {
    Minute,
    Day,
}

fn main() {
    divan::main();
}

fn cell(of: Of, n: u32) -> Cell {
    let mut cell = Cell::default();
    let calls = u64::from(n % 97 + 1);
    cell.counters = Counters {
        calls,
        attempts: calls,
        errors: u64::from(n.is_multiple_of(53)),
        input_uncached: calls * 700 + u64::from(n % 1_013),
        output: calls * 250 + u64::from(n % 509),
        nano_usd: calls * 4_000_000 + u64::from(n) * 31,
        bytes_in: calls * 2_900 + u64::from(n % 997),
        bytes_out: calls * 1_300 + u64::from(n % 991),
        ..Counters::default()
    };
    if matches!(of, Of::Day) {
        for at in 0..calls.min(24) {
            cell.latency.record((at * at + 3) * 10_000 + u64::from(n));
            cell.ttft.record((at + 3) * 20_000 + u64::from(n));
        }
    }
    cell
}

fn packed(of: Of) -> Packed {
    let cells = (0..CELLS).map(|n| (n, Arc::new(cell(of, n))));
    Packed::of(&cells.collect::<Chunk>())
}

#[divan::bench(args = [Of::Minute, Of::Day], sample_count = 3, sample_size = 1)]
fn open(bencher: Bencher<'_, '_>, of: Of) {
    let packed = packed(of);
    bencher.bench(|| black_box(&packed).unpack());
}

#[divan::bench(args = [Of::Minute, Of::Day], sample_count = 3, sample_size = 1)]
fn sealed(bencher: Bencher<'_, '_>, of: Of) {
    let packed = packed(of);
    bencher.bench(|| Packed::from_bytes(black_box(packed.bytes())));
}

#[divan::bench(sample_count = 3, sample_size = 1)]
fn histogram_of_24_values(bencher: Bencher<'_, '_>) {
    bencher.bench(|| -> Histogram { cell(Of::Day, 96).latency });
}
