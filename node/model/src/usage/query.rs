//! Questions that the cells answer: which range, what to group by, what to keep.
//!
//! Pure: the same snapshot and query give the same report on every node. A range is cut into whole days, whole
//! hours and the minutes at its edges, so that an exact answer reads as few cells as there can be; a part that
//! needs minutes or hours which are no longer kept is an error, never a silent gap. Every answer is exact; rows that
//! folding touched say so. Facts answer what does not mention `node`, the nodes' own cells what does.

use crate::usage::UsageSnapshot;
use crate::usage::counters::Counters;
use crate::usage::rollup::{NoRollUps, RollUps};

mod bucket;
mod calendar;
mod dimension;
mod plan;
mod run;
mod source;

pub use calendar::Moment;
pub(crate) use calendar::day_of_month;
pub use dimension::Dimension;
pub(crate) use dimension::class_name;
pub use plan::Interval;

/// A question.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Query {
    /// First minute, since 1970.
    pub from_minute: u32,
    /// First minute beyond.
    pub to_minute: u32,
    /// How long a row's bucket is.
    pub interval: Interval,
    /// What a row is about, in the order of its values.
    pub group_by: Vec<Dimension>,
    /// Values of one dimension are alternatives; different dimensions must all hold.
    pub filter: Vec<(Dimension, String)>,
}

/// An answer. Rows ascend by bucket, then by the values of their dimensions.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Report {
    /// First minute.
    pub from_minute: u32,
    /// First minute beyond.
    pub to_minute: u32,
    /// The rows.
    pub rows: Vec<ReportRow>,
    /// First minute that percentiles cover; absent where there are none: at minute interval, unless all dimensions
    /// are among tenant, route, status and node.
    pub percentiles_from: Option<u32>,
    /// First minute beyond what percentiles cover.
    pub percentiles_to: Option<u32>,
}

/// One row of an answer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ReportRow {
    /// First minute of its bucket; absent for `total`.
    pub bucket_start_minute: Option<u32>,
    /// One value per dimension asked for; empty where it does not apply.
    pub dimensions: Vec<String>,
    /// The integers.
    pub counters: Counters,
    /// Microseconds that half of the calls did not pass.
    pub latency_p50_us: Option<u64>,
    /// Microseconds that 95 % of the calls did not pass.
    pub latency_p95_us: Option<u64>,
    /// Microseconds that 99 % of the calls did not pass.
    pub latency_p99_us: Option<u64>,
    /// Microseconds within which half of the answers began.
    pub ttft_p50_us: Option<u64>,
    /// Some of it was folded at the series cap.
    pub folded: bool,
}

/// Why a query was refused.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum QueryError {
    /// A dimension that does not exist.
    #[error("usage has no dimension `{0}`; these exist: {list}", list = Dimension::list())]
    UnknownDimension(String),
    /// Usage by node and by something that is not counted by node.
    #[error(
        "usage by `node` combines with tenant, route and status only, not with `{0}`; for other combinations look at the \
         call records of the node: `mode-envoy calls`"
    )]
    NodeWith(Dimension),
    /// A node that is no number.
    #[error("node `{0}` is not a number; filter by a node's id, such as node=1")]
    UnknownNode(String),
    /// The range begins before usage by node does.
    #[error(
        "usage by `node` is kept by the minute and by the hour, for {days} days: begin the range at {from} or \
         later, or ask without `node`",
        days = crate::limits::HOURS_KEPT / 24
    )]
    NodeTooOld {
        /// The first that there is.
        from: Moment,
    },
    /// An interval that does not exist.
    #[error("there is no interval `{0}`; use minute, hour, day, month or total")]
    UnknownInterval(String),
    /// A status class that does not exist.
    #[error("status `{0}` is not a class; filter by 1xx, 2xx, 3xx, 4xx or 5xx")]
    UnknownStatus(String),
    /// The range ends before it begins.
    #[error("the range is empty: its end must be later than its beginning")]
    EmptyRange,
    /// The range needs cells that are no longer kept.
    #[error(
        "the range needs {needs}s which are no longer kept; the finest interval that works is `{works}`: \
         let the range begin and end on whole {works}s (UTC), with `--interval {works}` or coarser"
    )]
    TooFine {
        /// What is missing.
        needs: Interval,
        /// What is kept for so old a range.
        works: Interval,
    },
    /// The range begins before anything that is kept.
    #[error("usage is kept for {days} days; begin the range later", days = crate::limits::DAYS_KEPT)]
    TooOld,
    /// The answer would be too long.
    #[error(
        "the answer would have more than {limit} {what}; narrow the range, group by less or filter more"
    )]
    TooLong {
        /// The limit.
        limit: usize,
        /// Of what.
        what: &'static str,
    },
}

// === impl Query ===

impl Query {
    /// Every dimension that it mentions.
    pub(crate) fn dimensions(&self) -> impl Iterator<Item = Dimension> {
        let filtered = self.filter.iter().map(|(dimension, _)| *dimension);
        self.group_by.iter().copied().chain(filtered)
    }
}

/// Answers a query from a snapshot, at a wall clock.
///
/// # Errors
/// Says why the query cannot be answered exactly, and what can be asked instead.
pub fn run(snapshot: &UsageSnapshot, query: &Query, wall_ms: u64) -> Result<Report, QueryError> {
    run::run(snapshot, query, wall_ms, &NoRollUps)
}

/// As [`run()`], the same answer, from roll-ups where there are any.
///
/// # Errors
/// As [`run()`].
pub fn run_with(
    snapshot: &UsageSnapshot,
    query: &Query,
    wall_ms: u64,
    roll_ups: &dyn RollUps,
) -> Result<Report, QueryError> {
    run::run(snapshot, query, wall_ms, roll_ups)
}
