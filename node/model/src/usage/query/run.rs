//! Reads the cells of a plan and adds them up, one bucket of the answer after the other.
//!
//! Only one bucket's histograms are in memory at a time; a chunk that both numbers and percentiles need is read once.
//! Facts have no histograms at minute interval: there rows take the percentiles that the nodes' cells have for them,
//! if these cells counted exactly the same.

use crate::limits;
use crate::usage::UsageSnapshot;
use crate::usage::cells::{Bucket, Cells, HOUR, Resolution};
use crate::usage::query::bucket::{Rows, Use};
use crate::usage::query::calendar::Moment;
use crate::usage::query::plan::{self, Span};
use crate::usage::query::source::{Filters, Source, filters};
use crate::usage::query::{Dimension, Interval, Query, QueryError, Report, ReportRow};
use crate::usage::rollup::RollUps;

/// A bucket of cells to read.
struct Read<'a> {
    /// First minute of the bucket of the answer; 0 for the whole range.
    bucket: u32,
    what: Use,
    resolution: Resolution,
    number: u32,
    cells: &'a Bucket,
}

/// How roll-ups answer a query: all that it asks for is one dimension of the facts.
struct ByRollUp<'a> {
    roll_ups: &'a dyn RollUps,
    dimension: Dimension,
    /// The values that the filter keeps; all where there is none.
    kept: Option<&'a Vec<&'a str>>,
    grouped: bool,
}

pub(super) fn run(
    snapshot: &UsageSnapshot,
    query: &Query,
    wall_ms: u64,
    roll_ups: &dyn RollUps,
) -> Result<Report, QueryError> {
    if query.from_minute >= query.to_minute {
        return Err(QueryError::EmptyRange);
    }
    if query.dimensions().any(|d| d == Dimension::Node) {
        by_node(snapshot, query, wall_ms)
    } else {
        by_fact(snapshot, query, wall_ms, roll_ups)
    }
}

fn by_fact(
    snapshot: &UsageSnapshot,
    query: &Query,
    wall_ms: u64,
    roll_ups: &dyn RollUps,
) -> Result<Report, QueryError> {
    let filters = filters(query)?;
    let by_roll_up = ByRollUp::of(query, &filters, roll_ups);
    let spans = cut(query, Resolution::Day);
    plan::check_kept(&spans, Resolution::Day, wall_ms)?;
    let facts = Source::facts(snapshot, query, &filters);
    if query.interval != Interval::Minute {
        let hours = plan::whole_hours(query.from_minute, query.to_minute);
        let wide = plan::cut(hours.0, hours.1, query.interval, Resolution::Day);
        let rows = rows(&facts, query, (&spans, &wide), by_roll_up.as_ref())?;
        return Ok(report(query, rows, Some(hours)));
    }
    let mut found = rows(&facts, query, (&spans, &[]), by_roll_up.as_ref())?;
    let mut percentiles = None;
    if query.dimensions().all(Dimension::is_by_node) {
        let nodes = Source::nodes(snapshot, query, &filters);
        lend_percentiles(&mut found, rows(&nodes, query, (&spans, &spans), None)?);
        percentiles = Some((query.from_minute, query.to_minute));
    }
    Ok(report(query, found, percentiles))
}

fn by_node(snapshot: &UsageSnapshot, query: &Query, wall_ms: u64) -> Result<Report, QueryError> {
    if let Some(other) = query.dimensions().find(|d| !d.is_by_node()) {
        return Err(QueryError::NodeWith(other));
    }
    let filters = filters(query)?;
    let spans = cut(query, Resolution::Hour);
    let oldest = Resolution::Hour.oldest(wall_ms).saturating_mul(HOUR);
    let from = Moment(oldest.max(snapshot.nodes.since));
    if query.from_minute < snapshot.nodes.since {
        return Err(QueryError::NodeTooOld { from });
    }
    plan::check_kept(&spans, Resolution::Hour, wall_ms).map_err(|error| match error {
        QueryError::TooOld => QueryError::NodeTooOld { from },
        other => other,
    })?;
    let (covered, wide) = if query.interval == Interval::Minute {
        ((query.from_minute, query.to_minute), spans.clone())
    } else {
        let hours = plan::whole_hours(query.from_minute, query.to_minute);
        let wide = plan::cut(hours.0, hours.1, query.interval, Resolution::Hour);
        (hours, wide)
    };
    let nodes = Source::nodes(snapshot, query, &filters);
    let rows = rows(&nodes, query, (&spans, &wide), None)?;
    Ok(report(query, rows, Some(covered)))
}

/// The rows of an answer: numbers from the cells of the first spans, percentiles from those of the second.
fn rows(
    source: &Source<'_>,
    query: &Query,
    (spans, wide): (&[Span], &[Span]),
    by_roll_up: Option<&ByRollUp<'_>>,
) -> Result<Vec<ReportRow>, QueryError> {
    let reads = reads(source.cells, query.interval, spans, wide);
    let mut adding = Rows::of(source.groups.len());
    let mut rows = Vec::new();
    for same in reads.chunk_by(|a, b| a.bucket == b.bucket) {
        for read in same {
            if !by_roll_up.is_some_and(|by| by.add(read, source, &mut adding)) {
                adding.add(read.what, read.cells, &source.series);
            }
        }
        if rows.len() + adding.len() > limits::REPORT_ROWS {
            return Err(QueryError::TooLong {
                limit: limits::REPORT_ROWS,
                what: "rows",
            });
        }
        let start = same
            .first()
            .and_then(|read| query.interval.bucket_start(read.bucket));
        adding.report(start, source, &mut rows);
    }
    Ok(rows)
}

// === impl ByRollUp ===

impl<'a> ByRollUp<'a> {
    fn of(query: &Query, filters: &'a Filters<'_>, roll_ups: &'a dyn RollUps) -> Option<Self> {
        let mut dimensions: Vec<_> = query.dimensions().collect();
        dimensions.sort_unstable();
        dimensions.dedup();
        let dimension = match dimensions[..] {
            // Any will do; this one has the fewest rows.
            [] => Dimension::Status,
            [one] => one,
            _ => return None,
        };
        Some(Self {
            roll_ups,
            dimension,
            kept: filters.get(&dimension),
            grouped: !query.group_by.is_empty(),
        })
    }

    /// Adds what a bucket came to, if there is a roll-up of it.
    fn add(&self, read: &Read<'_>, source: &Source<'_>, rows: &mut Rows) -> bool {
        let Bucket::Packed(packed) = read.cells else {
            return false;
        };
        let found = self
            .roll_ups
            .get(read.resolution, read.number, packed.hash(), self.dimension);
        let Some(roll_up) = found else {
            return false;
        };
        rows.add_roll_up(read.what, &roll_up, |value| {
            if self.kept.is_some_and(|kept| !kept.contains(&value)) {
                return None;
            }
            if self.grouped {
                source.group_of(value)
            } else {
                Some(0)
            }
        });
        true
    }
}

// === free functions ===

fn cut(query: &Query, coarsest: Resolution) -> Vec<Span> {
    plan::cut(query.from_minute, query.to_minute, query.interval, coarsest)
}

fn report(query: &Query, rows: Vec<ReportRow>, percentiles: Option<(u32, u32)>) -> Report {
    Report {
        from_minute: query.from_minute,
        to_minute: query.to_minute,
        rows,
        percentiles_from: percentiles.map(|(from, _)| from),
        percentiles_to: percentiles.map(|(_, to)| to),
    }
}

/// Both lists are in the order of an answer.
fn lend_percentiles(rows: &mut [ReportRow], lenders: Vec<ReportRow>) {
    let order = |a: &ReportRow, b: &ReportRow| {
        let bucket = a.bucket_start_minute.cmp(&b.bucket_start_minute);
        bucket.then_with(|| a.dimensions.cmp(&b.dimensions))
    };
    let mut lenders = lenders.into_iter().peekable();
    for row in rows {
        while lenders
            .next_if(|lender| order(lender, row).is_lt())
            .is_some()
        {}
        // Where a series was folded on one side, or nodes were not counted yet, the calls are not the same.
        let same = |lender: &ReportRow| order(lender, row).is_eq();
        if let Some(lender) = lenders.next_if(same)
            && lender.counters == row.counters
        {
            row.latency_p50_us = lender.latency_p50_us;
            row.latency_p95_us = lender.latency_p95_us;
            row.latency_p99_us = lender.latency_p99_us;
            row.ttft_p50_us = lender.ttft_p50_us;
        }
    }
}

/// The buckets of cells that a query reads, by bucket of the answer.
fn reads<'a>(cells: &'a Cells, interval: Interval, spans: &[Span], wide: &[Span]) -> Vec<Read<'a>> {
    let mut reads = Vec::new();
    let mut add = |span: &Span, what| {
        let buckets = cells.buckets(span.resolution);
        for (&number, cells) in buckets.range(span.from..span.to) {
            let start = interval.bucket_start(number * span.resolution.minutes());
            reads.push(Read {
                bucket: start.unwrap_or(0),
                what,
                resolution: span.resolution,
                number,
                cells,
            });
        }
    };
    for span in spans {
        let both = wide.contains(span);
        add(span, if both { Use::Both } else { Use::Counters });
    }
    for span in wide.iter().filter(|span| !spans.contains(span)) {
        add(span, Use::Percentiles);
    }
    reads.sort_by_key(|read| (read.bucket, read.what));
    reads
}
