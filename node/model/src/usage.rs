//! Usage: what nodes report, the cells it adds up to, and the questions that cells answer.
//!
//! Fact series are keyed by (principal, route, api, model, provider, upstream model, status class). `apply` adds
//! each row to a minute, an hour and a day cell at once; every query is answered from those.

use crate::batch::Outcome;
use crate::limits;

use batch::{Register, SeriesRef, UsageBatch};
use cells::{Cells, Resolution};
use series::Dictionary;
use streams::Streams;

pub mod batch;
pub mod cells;
pub mod counters;
pub mod histogram;
pub mod query;
pub mod series;
pub mod streams;

/// Everything that usage adds up to. Cloning shares; only what changes afterwards is copied.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Usage {
    /// What cells are about.
    pub series: Dictionary,
    /// How far each node's spools are counted.
    pub streams: Streams,
    /// The numbers.
    pub cells: Cells,
}

/// What queries read: dictionary and cells as they were at one moment. It shares them with the state.
#[derive(Clone, Debug, Default)]
pub struct UsageSnapshot {
    /// What cells are about.
    pub series: Dictionary,
    /// The numbers.
    pub cells: Cells,
}

// === impl Usage ===

impl Usage {
    /// Cheap at any size, so that a query runs without holding up `apply`.
    pub fn snapshot(&self) -> UsageSnapshot {
        UsageSnapshot {
            series: self.series.clone(),
            cells: self.cells.clone(),
        }
    }

    /// Starts a new incarnation of a node's stream; the log index of the entry is its number.
    pub(crate) fn register(&mut self, index: u64, register: &Register) -> Outcome {
        self.streams.register(index, register)
    }

    /// Counts a batch as a whole, or changes nothing.
    pub(crate) fn count(&mut self, batch: &UsageBatch, wall_ms: u64) -> Outcome {
        if let Err(outcome) = self.streams.check(batch) {
            return outcome;
        }
        if !self.well_formed(batch) {
            return Outcome::Malformed;
        }
        self.streams.advance(batch);
        // The one entry that may be in no cell; a row of this very batch may name it.
        let idle = self.series.last();
        let mut ids = vec![None; batch.series.len()];
        for row in &batch.rows {
            let at = row.series as usize;
            let id = match ids[at] {
                Some(id) => id,
                None => *ids[at].insert(self.resolve(&batch.series[at])),
            };
            self.add(id, cells::clamp_minute(row.minute, wall_ms), row);
        }
        if let Some(idle) = idle {
            self.series.drop_unused(idle);
        }
        Outcome::Counted
    }

    /// Drops what is past its retention.
    pub(crate) fn expire(&mut self, wall_ms: u64) {
        let series = &mut self.series;
        self.cells
            .expire(wall_ms, |resolution, id| series.release(id, resolution));
    }

    fn well_formed(&self, batch: &UsageBatch) -> bool {
        let covered = batch.ranges.iter().any(|range| range.to > range.from);
        batch.rows.len() <= limits::BATCH_ROWS
            && batch.series.len() <= limits::BATCH_SERIES
            && (batch.rows.is_empty() || covered)
            && batch
                .rows
                .iter()
                .all(|row| (row.series as usize) < batch.series.len())
            && batch.series.iter().all(|series| match series {
                SeriesRef::Known(id) => self.series.get(*id).is_some(),
                SeriesRef::New(key) => key.is_sound(),
            })
    }

    fn resolve(&mut self, series: &SeriesRef) -> u32 {
        match series {
            SeriesRef::Known(id) => *id,
            SeriesRef::New(key) => self.series.intern(key),
        }
    }

    fn add(&mut self, id: u32, minute: u32, row: &batch::UsageRow) {
        for resolution in [Resolution::Hour, Resolution::Day] {
            if self
                .cells
                .add(resolution, resolution.bucket_of(minute), id, row)
            {
                self.series.retain(id, resolution);
            }
        }
        let id = self.series.minute_series(id);
        if self.cells.add(Resolution::Minute, minute, id, row) {
            self.series.retain(id, Resolution::Minute);
        }
    }
}
