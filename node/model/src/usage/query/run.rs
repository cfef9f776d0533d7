//! Reads the cells of a plan and adds them up, one bucket of the answer after the other.
//!
//! Only one bucket's histograms are in memory at a time; a chunk that both numbers and percentiles need is read once.

use std::collections::BTreeMap;

use crate::limits;
use crate::usage::UsageSnapshot;
use crate::usage::cells::{Cell, Chunk};
use crate::usage::counters::Counters;
use crate::usage::histogram::Sum as HistogramSum;
use crate::usage::query::plan::{self, Span};
use crate::usage::query::{Dimension, Interval, Query, QueryError, Report, ReportRow};
use crate::usage::series::{Dictionary, Needle};

/// A series that the filter keeps, and the group it belongs to.
struct Chosen {
    series: u32,
    group: usize,
    folded: bool,
}

/// The series that the filter keeps, by number, and the values of each group.
#[derive(Default)]
struct Choice<'a> {
    series: Vec<Chosen>,
    groups: Vec<Vec<&'a str>>,
}

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
    let spans = plan::cut(query.from_minute, query.to_minute, query.interval);
    plan::check_kept(&spans, wall_ms)?;
    let choice = choose(&snapshot.series, query)?;
    let mut order: Vec<usize> = (0..choice.groups.len()).collect();
    order.sort_by(|a, b| choice.groups[*a].cmp(&choice.groups[*b]));

    let hours = (query.interval != Interval::Minute)
        .then(|| plan::whole_hours(query.from_minute, query.to_minute));
    let reads = reads(snapshot, query.interval, &spans, hours);
    let mut bucket = Bucket {
        slots: vec![None; choice.groups.len()],
        rows: Vec::new(),
    };
    let mut rows = Vec::new();
    for same in reads.chunk_by(|a, b| a.bucket == b.bucket) {
        for read in same {
            bucket.add(read, &choice.series);
        }
        if rows.len() + bucket.rows.len() > limits::REPORT_ROWS {
            return Err(too_long(limits::REPORT_ROWS, "rows"));
        }
        let start = same
            .first()
            .and_then(|read| query.interval.bucket_start(read.bucket));
        bucket.report(start, &order, &choice.groups, &mut rows);
    }
    Ok(Report {
        from_minute: query.from_minute,
        to_minute: query.to_minute,
        rows,
        percentiles_from: hours.map(|(from, _)| from),
        percentiles_to: hours.map(|(_, to)| to),
    })
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
        order: &[usize],
        groups: &[Vec<&str>],
        rows: &mut Vec<ReportRow>,
    ) {
        if self.rows.is_empty() {
            return;
        }
        for &group in order {
            let Some(slot) = self.slots[group].take() else {
                continue;
            };
            let (_, sum) = &self.rows[slot as usize];
            rows.push(ReportRow {
                bucket_start_minute,
                dimensions: groups[group]
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

/// The chunks that a query reads, by bucket of the answer.
fn reads<'a>(
    snapshot: &'a UsageSnapshot,
    interval: Interval,
    spans: &[Span],
    hours: Option<(u32, u32)>,
) -> Vec<Read<'a>> {
    let wide = hours.map_or_else(Vec::new, |(from, to)| plan::cut(from, to, interval));
    let mut reads = Vec::new();
    let mut add = |span: &Span, what| {
        let chunks = snapshot.cells.chunks(span.resolution);
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
        add(
            span,
            if wide.contains(span) {
                Use::Both
            } else {
                Use::Counters
            },
        );
    }
    for span in wide.iter().filter(|span| !spans.contains(span)) {
        add(span, Use::Percentiles);
    }
    reads.sort_by_key(|read| (read.bucket, read.what));
    reads
}

fn choose<'a>(series: &'a Dictionary, query: &Query) -> Result<Choice<'a>, QueryError> {
    let filters = filters(query)?;
    let mut ids: BTreeMap<Vec<&str>, usize> = BTreeMap::new();
    let mut choice = Choice::default();
    let mut values = Vec::with_capacity(query.group_by.len());
    for (id, key) in series.find(&filters) {
        values.clear();
        values.extend(query.group_by.iter().map(|dimension| dimension.value(key)));
        let group = if let Some(&group) = ids.get(values.as_slice()) {
            group
        } else {
            ids.insert(values.clone(), choice.groups.len());
            choice.groups.push(values.clone());
            choice.groups.len() - 1
        };
        choice.series.push(Chosen {
            series: id,
            group,
            folded: key.folded,
        });
    }
    Ok(choice)
}

/// The alternatives for each dimension that is filtered.
fn filters(query: &Query) -> Result<Vec<Needle<'_>>, QueryError> {
    if query.filter.len() > limits::QUERY_FILTERS {
        return Err(too_long(limits::QUERY_FILTERS, "filters"));
    }
    let mut filters: BTreeMap<Dimension, Vec<&str>> = BTreeMap::new();
    for (dimension, value) in &query.filter {
        let class = ["1xx", "2xx", "3xx", "4xx", "5xx"].contains(&value.as_str());
        if *dimension == Dimension::Status && !class {
            return Err(QueryError::UnknownStatus(value.clone()));
        }
        filters.entry(*dimension).or_default().push(value);
    }
    Ok(filters
        .into_iter()
        .map(|(dimension, any)| Needle::new(dimension, any))
        .collect())
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

const fn too_long(limit: usize, what: &'static str) -> QueryError {
    QueryError::TooLong { limit, what }
}
