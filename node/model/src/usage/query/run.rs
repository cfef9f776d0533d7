//! Reads the cells of a plan and adds them up, one bucket of the answer after the other.
//!
//! Only one bucket's histograms are in memory at a time; a chunk that both numbers and percentiles need is read once.
//! Facts have no histograms at minute interval: there rows take the percentiles that the nodes' cells have for them,
//! if these cells counted exactly the same.

use crate::limits;
use crate::usage::UsageSnapshot;
use crate::usage::cells::{Cell, Cells, Chunk, HOUR, Resolution};
use crate::usage::counters::Counters;
use crate::usage::histogram::Sum as HistogramSum;
use crate::usage::query::calendar::Moment;
use crate::usage::query::plan::{self, Span};
use crate::usage::query::source::{Chosen, Source, filters};
use crate::usage::query::{Dimension, Interval, Query, QueryError, Report, ReportRow};

/// What a chunk is read for, in the order in which the chunks of a bucket are read.
#[derive(Clone, Copy, Eq, Ord, PartialEq, PartialOrd)]
enum Use {
    Counters,
    Both,
    Percentiles,
}

/// A chunk to read.
struct Read<'a> {
    /// First minute of the bucket of the answer; 0 for the whole range.
    bucket: u32,
    what: Use,
    chunk: &'a Chunk,
}

/// What a row of the answer has come to so far.
#[derive(Default)]
struct Sum {
    counters: Counters,
    latency: HistogramSum,
    ttft: HistogramSum,
    folded: bool,
}

/// The rows of one bucket: where each group's is, and the rows by first appearance.
struct Bucket {
    slots: Vec<Option<u32>>,
    rows: Vec<(usize, Sum)>,
}

pub(super) fn run(
    snapshot: &UsageSnapshot,
    query: &Query,
    wall_ms: u64,
) -> Result<Report, QueryError> {
    if query.from_minute >= query.to_minute {
        return Err(QueryError::EmptyRange);
    }
    if query.dimensions().any(|d| d == Dimension::Node) {
        by_node(snapshot, query, wall_ms)
    } else {
        by_fact(snapshot, query, wall_ms)
    }
}

fn by_fact(snapshot: &UsageSnapshot, query: &Query, wall_ms: u64) -> Result<Report, QueryError> {
    let filters = filters(query)?;
    let spans = cut(query, Resolution::Day);
    plan::check_kept(&spans, Resolution::Day, wall_ms)?;
    let facts = Source::facts(snapshot, query, &filters);
    if query.interval != Interval::Minute {
        let hours = plan::whole_hours(query.from_minute, query.to_minute);
        let wide = plan::cut(hours.0, hours.1, query.interval, Resolution::Day);
        let rows = rows(&facts, query, &spans, &wide)?;
        return Ok(report(query, rows, Some(hours)));
    }
    let mut found = rows(&facts, query, &spans, &[])?;
    let mut percentiles = None;
    if query.dimensions().all(Dimension::is_by_node) {
        let nodes = Source::nodes(snapshot, query, &filters);
        lend_percentiles(&mut found, rows(&nodes, query, &spans, &spans)?);
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
    let rows = rows(&nodes, query, &spans, &wide)?;
    Ok(report(query, rows, Some(covered)))
}

/// The rows of an answer: numbers from the cells of `spans`, percentiles from those of `wide`.
fn rows(
    source: &Source<'_>,
    query: &Query,
    spans: &[Span],
    wide: &[Span],
) -> Result<Vec<ReportRow>, QueryError> {
    let reads = reads(source.cells, query.interval, spans, wide);
    let mut bucket = Bucket {
        slots: vec![None; source.groups.len()],
        rows: Vec::new(),
    };
    let mut rows = Vec::new();
    for same in reads.chunk_by(|a, b| a.bucket == b.bucket) {
        for read in same {
            bucket.add(read, &source.series);
        }
        if rows.len() + bucket.rows.len() > limits::REPORT_ROWS {
            return Err(QueryError::TooLong {
                limit: limits::REPORT_ROWS,
                what: "rows",
            });
        }
        let start = same
            .first()
            .and_then(|read| query.interval.bucket_start(read.bucket));
        bucket.report(start, source, &mut rows);
    }
    Ok(rows)
}

// === impl Bucket ===

impl Bucket {
    fn add(&mut self, read: &Read<'_>, chosen: &[Chosen]) {
        each_cell(read.chunk, chosen, |one, cell| {
            let slot = match self.slots[one.group] {
                Some(slot) => slot,
                // Hours at the edges reach beyond the range; by themselves they make no row.
                None if read.what == Use::Percentiles => return,
                None => {
                    let slot = u32::try_from(self.rows.len()).unwrap_or(u32::MAX);
                    self.rows.push((one.group, Sum::default()));
                    *self.slots[one.group].insert(slot)
                }
            };
            let (_, sum) = &mut self.rows[slot as usize];
            if read.what <= Use::Both {
                sum.counters.add(&cell.counters);
                sum.folded |= one.folded;
            }
            if read.what >= Use::Both {
                sum.latency.add(&cell.latency);
                sum.ttft.add(&cell.ttft);
            }
        });
    }

    /// Appends the rows in the order of their values and starts anew.
    fn report(
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
            rows.push(ReportRow {
                bucket_start_minute,
                dimensions: source.groups[group]
                    .iter()
                    .map(|&value| value.to_owned())
                    .collect(),
                counters: sum.counters,
                latency_p50_us: sum.latency.quantile(500),
                latency_p95_us: sum.latency.quantile(950),
                latency_p99_us: sum.latency.quantile(990),
                ttft_p50_us: sum.ttft.quantile(500),
                folded: sum.folded,
            });
        }
        self.rows.clear();
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

/// The chunks that a query reads, by bucket of the answer.
fn reads<'a>(cells: &'a Cells, interval: Interval, spans: &[Span], wide: &[Span]) -> Vec<Read<'a>> {
    let mut reads = Vec::new();
    let mut add = |span: &Span, what| {
        let chunks = cells.chunks(span.resolution);
        for (&bucket, chunk) in chunks.range(span.from..span.to) {
            let start = interval.bucket_start(bucket * span.resolution.minutes());
            reads.push(Read {
                bucket: start.unwrap_or(0),
                what,
                chunk,
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

/// Visits the cells of the chosen series: by looking each up where they are few, else by walking both in order.
fn each_cell(chunk: &Chunk, chosen: &[Chosen], mut visit: impl FnMut(&Chosen, &Cell)) {
    if chosen.len() < chunk.len() / 8 {
        for one in chosen {
            if let Some(cell) = chunk.get(&one.series) {
                visit(one, cell);
            }
        }
        return;
    }
    let mut rest = chosen;
    for (series, cell) in chunk {
        let behind = rest.iter().take_while(|one| one.series < *series).count();
        rest = &rest[behind..];
        match rest.first() {
            Some(one) if one.series == *series => visit(one, cell),
            Some(_) => {}
            None => return,
        }
    }
}
