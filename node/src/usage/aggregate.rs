//! Closes, added up to rows per (minute, series): what a batch carries instead of calls.
//!
//! Pure. A Close counts in the minute of its own wall clock; an Open adds nothing. Calls, errors, latency and bytes
//! count on the row of the attempt that answered; tokens and cost on each attempt's own.
//!
//! Invariant: a batch built from it is within the log's bounds whatever the records say.

use std::collections::{BTreeMap, HashMap};

use mode_envoy_model::ledger::ask::LeaseId;
use mode_envoy_model::limits;
use mode_envoy_model::object::Name;
use mode_envoy_model::usage::batch::UsageRow;
use mode_envoy_model::usage::counters::Counters;
use mode_envoy_model::usage::histogram::Histogram;
use mode_envoy_model::usage::series::SeriesKey;

use super::record::{CloseHead, Dims, EncodedDims, RecordFault, Takes, TotalHead};

/// A batch is closed when it has grown to about so many bytes; the log takes twice as much.
const BYTES: usize = 512 * 1_024;
/// Bytes that a row takes at most in the log, its histogram bins included: each adds one bin of each.
const ROW_BYTES: usize = 200;
/// Bytes that one more Close on a row may add.
const CLOSE_BYTES: usize = 12;

/// Rows in the making.
#[derive(Debug, Default)]
pub(crate) struct Aggregate {
    /// Status class, flags and encoded dimensions -> place in `keys`; so most records decode no text.
    places: HashMap<Vec<u8>, u32>,
    keys: Vec<SeriesKey>,
    rows: BTreeMap<(u32, u32), Sums>,
    /// What leases of limits paid.
    spent: BTreeMap<LeaseId, u64>,
    bytes: usize,
    scratch: Vec<u8>,
}

#[derive(Debug, Default)]
struct Sums {
    counters: Counters,
    latency: Histogram,
    ttft: Histogram,
}

// === impl Aggregate ===

impl Aggregate {
    /// Whether another record fits.
    pub(crate) fn has_room(&self) -> bool {
        self.bytes < BYTES
            && self.rows.len() < limits::BATCH_ROWS
            && self.keys.len() < limits::BATCH_SERIES
            && self.spent.len() < limits::BATCH_USES / 2
    }

    /// Counts a Close.
    pub(crate) fn add(
        &mut self,
        wall_ms: u64,
        close: &CloseHead,
        dims: EncodedDims<'_>,
    ) -> Result<(), RecordFault> {
        let series = self.place(close.status_class(), false, dims)?;
        let minute = u32::try_from(wall_ms / 60_000).unwrap_or(u32::MAX);
        let before = self.rows.len();
        let sums = self.rows.entry((minute, series)).or_default();
        sums.counters.add(&counters(close));
        if close.answered() && !close.presumed_one() {
            sums.latency.record(close.latency_us);
            if let Some(ttft) = close.ttft_us() {
                sums.ttft.record(ttft);
            }
        }
        self.bytes += CLOSE_BYTES + (self.rows.len() - before) * ROW_BYTES;
        Ok(())
    }

    /// Counts what a Close took of limits.
    pub(crate) fn spend(&mut self, takes: &Takes) {
        for (lease, units) in takes.iter() {
            let spent = self.spent.entry(lease).or_default();
            *spent = spent.saturating_add(units);
        }
    }

    /// What leases of limits paid.
    pub(crate) const fn spent(&self) -> &BTreeMap<LeaseId, u64> {
        &self.spent
    }

    /// Counts calls that were added up already. Their row says so: nothing is known of them one by one.
    pub(crate) fn add_total(
        &mut self,
        total: &TotalHead,
        dims: EncodedDims<'_>,
    ) -> Result<(), RecordFault> {
        let series = self.place(total.status_class.clamp(1, 5), true, dims)?;
        let before = self.rows.len();
        let sums = self.rows.entry((total.minute, series)).or_default();
        sums.counters.add(&total.counters());
        self.bytes += CLOSE_BYTES + (self.rows.len() - before) * ROW_BYTES;
        Ok(())
    }

    /// The series and rows of a batch.
    pub(crate) fn into_parts(self) -> (Vec<SeriesKey>, Vec<UsageRow>) {
        let rows = self
            .rows
            .into_iter()
            .map(|((minute, series), sums)| UsageRow {
                minute,
                series,
                counters: sums.counters,
                latency: sums.latency,
                ttft: sums.ttft,
            });
        (self.keys, rows.collect())
    }

    fn place(
        &mut self,
        status_class: u8,
        folded: bool,
        dims: EncodedDims<'_>,
    ) -> Result<u32, RecordFault> {
        self.scratch.clear();
        let flags = [status_class, u8::from(folded), u8::from(dims.compact)];
        self.scratch.extend(flags);
        self.scratch.extend_from_slice(dims.bytes);
        if let Some(&place) = self.places.get(&*self.scratch) {
            return Ok(place);
        }
        let mut key = bounded(dims.decode()?).into_series(status_class);
        key.folded = folded;
        let place = u32::try_from(self.keys.len()).unwrap_or(u32::MAX);
        self.bytes += key.texts().iter().map(|text| text.len() + 2).sum::<usize>();
        self.keys.push(key);
        self.places.insert(self.scratch.clone(), place);
        Ok(place)
    }
}

pub(crate) fn counters(close: &CloseHead) -> Counters {
    let count = |yes: bool| u64::from(yes && close.answered());
    let tokens = close
        .input_uncached
        .saturating_add(close.cache_read)
        .saturating_add(close.cache_write)
        .saturating_add(close.output);
    let failed = close.status >= 400 || close.cut() || close.presumed_one();
    Counters {
        calls: count(true),
        errors: count(failed && !close.rejected()),
        rejected: count(close.rejected()),
        estimated: count(close.estimated()),
        presumed: count(close.presumed_one()),
        attempts: u64::from(!close.rejected()),
        input_uncached: close.input_uncached,
        cache_read: close.cache_read,
        cache_write: close.cache_write,
        output: close.output,
        reasoning: close.reasoning,
        nano_usd: close.nano_usd,
        unpriced: u64::from(tokens > 0 && !close.priced()),
        bytes_in: if close.answered() { close.bytes_in } else { 0 },
        bytes_out: if close.answered() { close.bytes_out } else { 0 },
    }
}

/// The log refuses a dimension that is longer than its bound, and with it the whole batch; cutting it is better.
fn bounded(mut dims: Dims) -> Dims {
    let all = [
        &mut dims.tenant,
        &mut dims.team,
        &mut dims.consumer,
        &mut dims.key,
        &mut dims.route,
        &mut dims.api,
        &mut dims.model,
        &mut dims.provider,
        &mut dims.upstream_model,
    ];
    for text in all {
        if text.len() > limits::DIMENSION {
            *text = Name::from(&text[..text.floor_char_boundary(limits::DIMENSION)]);
        }
    }
    dims
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::usage::record::{CLOSE, CallId, Closed, RECORD_MAX, Record, UsageSource, VERSION};

    fn add(aggregate: &mut Aggregate, wall_ms: u64, closed: &Closed<'_>) {
        let mut out = [0; RECORD_MAX];
        let len = closed.encode_into(&mut out).unwrap();
        let Ok(Record::Close(head, dims)) = Record::parse(CLOSE, VERSION, &out[..len]) else {
            panic!("not a close");
        };
        aggregate.add(wall_ms, &head, dims).unwrap();
    }

    #[test]
    fn closes_of_one_minute_and_series_are_one_row() {
        let dims = Dims {
            tenant: Name::from("acme"),
            ..Dims::empty()
        };
        let ok = Closed {
            status: 200,
            latency_us: 5,
            ..Closed::of(CallId([0; 16]), 0, &dims)
        };
        let mut aggregate = Aggregate::default();
        add(&mut aggregate, 60_000, &ok);
        add(&mut aggregate, 119_999, &Closed { status: 204, ..ok });
        add(&mut aggregate, 120_000, &ok);
        add(&mut aggregate, 120_000, &Closed { status: 404, ..ok });
        let (series, rows) = aggregate.into_parts();
        assert_eq!((series[0].status_class, series[1].status_class), (2, 4));
        let seen: Vec<_> = rows
            .iter()
            .map(|r| (r.minute, r.series, r.counters.calls))
            .collect();
        assert_eq!(seen, [(1, 0, 2), (2, 0, 1), (2, 1, 1)]);
        assert_eq!(rows[0].latency.count(), 2);
        assert_eq!(rows[2].counters.errors, 1);
    }

    #[test]
    fn an_attempt_that_did_not_answer_counts_its_tokens_but_no_call() {
        let dims = Dims::empty();
        let closed = Closed {
            status: 502,
            answered: false,
            usage_source: UsageSource::Estimated,
            input_uncached: 4,
            bytes_in: 16,
            ..Closed::of(CallId([0; 16]), 0, &dims)
        };
        let mut aggregate = Aggregate::default();
        add(&mut aggregate, 0, &closed);
        let (_, rows) = aggregate.into_parts();
        let expected = Counters {
            attempts: 1,
            input_uncached: 4,
            unpriced: 1,
            ..Counters::default()
        };
        assert_eq!(rows[0].counters, expected);
        assert!(rows[0].latency.is_empty());
    }

    #[test]
    fn a_refusal_is_a_call_but_neither_an_attempt_nor_an_error() {
        let dims = Dims::empty();
        let refused = Closed {
            status: 401,
            rejected: true,
            ..Closed::of(CallId([0; 16]), 0, &dims)
        };
        let mut aggregate = Aggregate::default();
        add(&mut aggregate, 0, &refused);
        let (_, rows) = aggregate.into_parts();
        let expected = Counters {
            calls: 1,
            rejected: 1,
            ..Counters::default()
        };
        assert_eq!(rows[0].counters, expected);
    }

    #[test]
    fn a_dimension_beyond_the_bound_is_cut_at_a_character() {
        let dims = Dims {
            upstream_model: Name::from("ä".repeat(200)),
            ..Dims::empty()
        };
        let mut aggregate = Aggregate::default();
        add(&mut aggregate, 0, &Closed::of(CallId([0; 16]), 0, &dims));
        let (series, _) = aggregate.into_parts();
        assert_eq!(series[0].upstream_model.len(), 256);
    }

    #[test]
    fn it_is_full_before_it_outgrows_the_log() {
        let mut aggregate = Aggregate::default();
        let mut added = 0;
        while aggregate.has_room() {
            let dims = Dims {
                model: Name::from(format!("m{added}")),
                ..Dims::empty()
            };
            add(
                &mut aggregate,
                added * 60_000,
                &Closed::of(CallId([0; 16]), 0, &dims),
            );
            added += 1;
        }
        let (series, rows) = aggregate.into_parts();
        assert!(rows.len() <= limits::BATCH_ROWS && series.len() <= limits::BATCH_SERIES);
        assert!(added > 1_000);
    }
}
