//! Which cells a range is read from, and which bucket of the answer each belongs to.
//!
//! Days, months and their edges are those of the UTC calendar.

use std::fmt;

use crate::usage::cells::{DAY, HOUR, Resolution};
use crate::usage::query::QueryError;
use crate::usage::query::calendar::day_of_month;

/// How long a bucket of an answer is.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Interval {
    /// A minute.
    Minute,
    /// An hour.
    Hour,
    /// A day, UTC.
    Day,
    /// A calendar month, UTC.
    Month,
    /// The whole range.
    Total,
}

/// Buckets `[from, to)` of one resolution.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Span {
    pub(super) resolution: Resolution,
    pub(super) from: u32,
    pub(super) to: u32,
}

// === impl Interval ===

impl Interval {
    /// Every interval, the finest first.
    pub const ALL: [Self; 5] = [
        Self::Minute,
        Self::Hour,
        Self::Day,
        Self::Month,
        Self::Total,
    ];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Minute => "minute",
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Month => "month",
            Self::Total => "total",
        }
    }

    /// Reads a name.
    ///
    /// # Errors
    /// Lists the names that work.
    pub fn parse(text: &str) -> Result<Self, QueryError> {
        let found = Self::ALL
            .into_iter()
            .find(|interval| interval.name() == text);
        found.ok_or_else(|| QueryError::UnknownInterval(text.to_owned()))
    }

    /// First minute of the bucket that a minute is in; absent for the whole range.
    pub const fn bucket_start(self, minute: u32) -> Option<u32> {
        match self {
            Self::Minute => Some(minute),
            Self::Hour => Some(minute / HOUR * HOUR),
            Self::Day => Some(minute / DAY * DAY),
            Self::Month => Some((minute / DAY - day_of_month(minute / DAY)) * DAY),
            Self::Total => None,
        }
    }

    const fn coarsest(self) -> Resolution {
        match self {
            Self::Minute => Resolution::Minute,
            Self::Hour => Resolution::Hour,
            Self::Day | Self::Month | Self::Total => Resolution::Day,
        }
    }
}

impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Cuts `[from, to)` into the coarsest buckets that there are and that the interval allows.
pub(super) fn cut(from: u32, to: u32, interval: Interval, coarsest: Resolution) -> Vec<Span> {
    let mut spans = Vec::new();
    let coarsest = coarsest.min(interval.coarsest());
    cut_into(&mut spans, from, to, Resolution::Minute, coarsest);
    spans.retain(|span| span.from < span.to);
    spans
}

/// Whether every bucket of a plan is kept at this wall clock, where buckets up to the coarsest exist.
pub(super) fn check_kept(
    spans: &[Span],
    coarsest: Resolution,
    wall_ms: u64,
) -> Result<(), QueryError> {
    let lost = |span: &&Span| span.from < span.resolution.oldest(wall_ms);
    let Some(span) = spans.iter().filter(lost).max_by_key(|span| span.resolution) else {
        return Ok(());
    };
    let minute = spans
        .iter()
        .map(|s| s.from * s.resolution.minutes())
        .min()
        .unwrap_or(0);
    let kept = |resolution: Resolution| {
        (resolution > span.resolution && resolution <= coarsest)
            && resolution.bucket_of(minute) >= resolution.oldest(wall_ms)
    };
    let needs = interval_of(span.resolution);
    match Resolution::ALL
        .into_iter()
        .find(|&resolution| kept(resolution))
    {
        Some(works) => Err(QueryError::TooFine {
            needs,
            works: interval_of(works),
        }),
        None => Err(QueryError::TooOld),
    }
}

/// The whole hours that `[from, to)` touches.
pub(super) const fn whole_hours(from: u32, to: u32) -> (u32, u32) {
    (from / HOUR * HOUR, to.div_ceil(HOUR).saturating_mul(HOUR))
}

fn cut_into(spans: &mut Vec<Span>, from: u32, to: u32, unit: Resolution, coarsest: Resolution) {
    let next = match unit {
        Resolution::Minute => Resolution::Hour,
        Resolution::Hour | Resolution::Day => Resolution::Day,
    };
    let ratio = next.minutes() / unit.minutes();
    let (first, last) = (from.div_ceil(ratio), to / ratio);
    if unit == coarsest || first >= last {
        spans.push(Span {
            resolution: unit,
            from,
            to,
        });
        return;
    }
    spans.push(Span {
        resolution: unit,
        from,
        to: first * ratio,
    });
    cut_into(spans, first, last, next, coarsest);
    spans.push(Span {
        resolution: unit,
        from: last * ratio,
        to,
    });
}

const fn interval_of(resolution: Resolution) -> Interval {
    match resolution {
        Resolution::Minute => Interval::Minute,
        Resolution::Hour => Interval::Hour,
        Resolution::Day => Interval::Day,
    }
}
