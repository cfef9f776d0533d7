//! What a node reports: rows aggregated per (minute, series), and the ranges of its spools that they cover.

use crate::ledger::ask::{Ask, LeaseUse};
use crate::usage::counters::Counters;
use crate::usage::histogram::Histogram;
use crate::usage::series::SeriesKey;

/// Identity of one usage spool, drawn when it was created.
pub type SpoolUuid = [u8; 16];

/// A node starts a new incarnation of its usage stream; void unless it follows the current one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Register {
    /// Node.
    pub node: u64,
    /// The incarnation that is current, 0 where there is none. So a Register of an earlier life that arrives late
    /// cannot make the state forget a spool of this one.
    pub follows: u64,
    /// The spools it has, by worker.
    pub spools: Vec<(u32, SpoolUuid)>,
}

/// Records `[from, to)` of one spool.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SpoolRange {
    /// Data-plane worker.
    pub worker: u32,
    /// Which spool.
    pub uuid: SpoolUuid,
    /// First record, counted from 1.
    pub from: u64,
    /// First record that is not covered.
    pub to: u64,
}

/// A series that rows refer to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum SeriesRef {
    /// By its number in the dictionary.
    Known(u32),
    /// By its dimensions.
    New(SeriesKey),
}

/// One row.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct UsageRow {
    /// Minutes since 1970-01-01T00:00Z.
    pub minute: u32,
    /// Index into [`UsageBatch::series`].
    pub series: u32,
    /// What happened.
    pub counters: Counters,
    /// Duration of calls.
    pub latency: Histogram,
    /// Time to the first byte of an answer's body.
    pub ttft: Histogram,
}

/// Counted only if `incarnation` is current, `seq` is next, and every range starts where the last one ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct UsageBatch {
    /// Node.
    pub node: u64,
    /// Which life of its stream.
    pub incarnation: u64,
    /// 1 for the first batch of an incarnation.
    pub seq: u64,
    /// What the rows cover.
    pub ranges: Vec<SpoolRange>,
    /// What the rows are about.
    pub series: Vec<SeriesRef>,
    /// The rows.
    pub rows: Vec<UsageRow>,
    /// What became of leases, by their ids: what the ranges used, and what the node gives back.
    pub uses: Vec<LeaseUse>,
    /// What the node needs of limits, in this order.
    pub asks: Vec<Ask>,
}
