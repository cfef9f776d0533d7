//! Usage: what nodes report, the cells it adds up to, and the questions that cells answer.
//!
//! Fact series are keyed by (principal, route, api, model, provider, upstream model, status class). `apply` adds
//! each row to a minute, an hour and a day cell at once; every query without `node` is answered from those. Beside
//! them stand the cells of nodes, which answer the others.

use std::sync::Arc;

use crate::batch::Outcome;
use crate::limits;

use batch::{Register, SeriesRef, UsageBatch};
use cells::{Cells, Resolution};
use nodes::NodeUsage;
use series::{Dictionary, SeriesKey};
use streams::Streams;

pub mod batch;
pub mod cells;
pub mod counters;
pub mod histogram;
pub mod nodes;
pub mod packed;
pub mod query;
pub mod rollup;
pub mod sender;
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
    /// The same, by node.
    pub nodes: NodeUsage,
}

/// What queries read: dictionaries and cells as they were at one moment. It shares them with the state.
#[derive(Clone, Debug, Default)]
pub struct UsageSnapshot {
    /// What cells are about.
    pub series: Dictionary,
    /// The numbers.
    pub cells: Cells,
    /// The same, by node.
    pub nodes: NodeUsage,
}

// === impl Usage ===

impl Usage {
    /// Cheap at any size, so that a query runs without holding up `apply`.
    pub fn snapshot(&self) -> UsageSnapshot {
        UsageSnapshot {
            series: self.series.clone(),
            cells: self.cells.clone(),
            nodes: self.nodes.clone(),
        }
    }

    /// Starts a new incarnation of a node's stream; the log index of the entry is its number.
    pub(crate) fn register(&mut self, index: u64, register: &Register) -> Outcome {
        self.streams.register(index, register)
    }

    /// Whether a batch is the one that counts next, and sound; else what it comes to.
    pub(crate) fn check(&self, batch: &UsageBatch) -> Result<(), Outcome> {
        self.streams.check(batch)?;
        if !self.well_formed(batch) {
            return Err(Outcome::Malformed);
        }
        Ok(())
    }

    /// Counts a batch that [`Self::check`] accepted.
    pub(crate) fn count(&mut self, batch: &UsageBatch, wall_ms: u64) {
        self.streams.advance(batch);
        let keys: Vec<_> = batch
            .series
            .iter()
            .map(|series| self.key_of(series))
            .collect();
        // The one entry that may be in no cell; a row of this very batch may name it.
        let idle = self.series.last();
        let mut ids = vec![None; batch.series.len()];
        for row in &batch.rows {
            let at = row.series as usize;
            let Some(key) = &keys[at] else {
                continue;
            };
            let (fact, node) = if let Some(ids) = ids[at] {
                ids
            } else {
                let fact = self.resolve(&batch.series[at], key);
                *ids[at].insert((fact, self.nodes.intern(batch.node, key)))
            };
            let minute = cells::clamp_minute(row.minute, wall_ms);
            self.add(fact, minute, row);
            self.nodes.add(node, minute, row);
        }
        if let Some(idle) = idle {
            self.series.drop_unused(idle);
        }
    }

    /// Drops what is past its retention and packs what is over, when the wall clock has come from one minute to another.
    pub(crate) fn pass(&mut self, before_ms: u64, wall_ms: u64) {
        let series = &mut self.series;
        self.cells
            .expire(wall_ms, |resolution, id| series.release(id, resolution));
        self.nodes.expire(wall_ms);
        self.cells.pack(before_ms, wall_ms);
        self.nodes.cells.pack(before_ms, wall_ms);
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

    fn key_of(&self, series: &SeriesRef) -> Option<Arc<SeriesKey>> {
        match series {
            SeriesRef::Known(id) => self.series.get(*id).cloned(),
            SeriesRef::New(key) => Some(Arc::new(key.clone())),
        }
    }

    fn resolve(&mut self, series: &SeriesRef, key: &SeriesKey) -> u32 {
        match series {
            SeriesRef::Known(id) => *id,
            SeriesRef::New(_) => self.series.intern(key),
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
