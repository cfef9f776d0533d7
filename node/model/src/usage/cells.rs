//! The numbers: one cell per (bucket, series) at each of three resolutions.
//!
//! Every row goes to its minute, its hour and its day at once, so no later job can be late or differ. Minutes of facts
//! keep counters only. Maps are persistent: a query holds the cells as they were while `apply` goes on, and only what it
//! touches is copied. Cells past their retention go when the wall clock passes the edge of their bucket.
//!
//! A bucket is open, a map that rows are added to, or packed, bytes that take a tenth of the memory. The wall clock packs: a
//! minute when it has been over for [`PACK_AFTER`] minutes, an hour or a day at the first edge of an hour after that. A row that
//! comes later opens its bucket again, until the next such edge.

use std::sync::Arc;

use imbl::OrdMap;

use crate::limits;
use crate::usage::batch::UsageRow;
use crate::usage::counters::Counters;
use crate::usage::histogram::Histogram;
use crate::usage::packed::Packed;

/// Minutes of an hour.
pub const HOUR: u32 = 60;
/// Minutes of a day.
pub const DAY: u32 = 1_440;
/// Milliseconds of a minute.
pub const MINUTE_MS: u64 = 60_000;

/// Minutes for which a bucket that is over stays open: rows come within seconds, unless their node was cut off.
pub const PACK_AFTER: u32 = 5;

/// How long a bucket is.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Resolution {
    /// Minutes since 1970.
    Minute,
    /// Hours since 1970.
    Hour,
    /// Days since 1970.
    Day,
}

/// What one series came to in one bucket.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Cell {
    /// The integers.
    pub counters: Counters,
    /// Duration of calls; empty in minutes of facts.
    pub latency: Histogram,
    /// Time to the first byte; empty in minutes of facts.
    pub ttft: Histogram,
}

/// The cells of one bucket, by series.
pub type Chunk = OrdMap<u32, Arc<Cell>>;

/// The cells of one bucket.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Bucket {
    /// Rows are added to it.
    Open(Chunk),
    /// It is over.
    Packed(Packed),
}

/// The buckets of one resolution, by number.
pub type Buckets = OrdMap<u32, Bucket>;

/// Every cell.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Cells {
    minutes: Buckets,
    hours: Buckets,
    days: Buckets,
}

// === impl Resolution ===

impl Resolution {
    /// Every resolution, the finest first.
    pub const ALL: [Self; 3] = [Self::Minute, Self::Hour, Self::Day];

    /// The bucket that a minute is in.
    pub const fn bucket_of(self, minute: u32) -> u32 {
        minute / self.minutes()
    }

    /// How many minutes a bucket has.
    pub const fn minutes(self) -> u32 {
        match self {
            Self::Minute => 1,
            Self::Hour => HOUR,
            Self::Day => DAY,
        }
    }

    /// The oldest bucket that is kept.
    pub fn oldest(self, wall_ms: u64) -> u32 {
        let kept = match self {
            Self::Minute => limits::MINUTES_KEPT,
            Self::Hour => limits::HOURS_KEPT,
            Self::Day => limits::DAYS_KEPT,
        };
        self.bucket_of(minute_of(wall_ms)).saturating_sub(kept)
    }
}

// === impl Bucket ===

impl Bucket {
    /// How many cells there are.
    pub fn len(&self) -> usize {
        match self {
            Self::Open(chunk) => chunk.len(),
            Self::Packed(packed) => packed.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The numbers of the series that have a cell, ascending.
    pub fn series(&self) -> Vec<u32> {
        match self {
            Self::Open(chunk) => chunk.keys().copied().collect(),
            Self::Packed(packed) => packed.series().collect(),
        }
    }

    /// The cells, by series.
    pub fn chunk(&self) -> Chunk {
        match self {
            Self::Open(chunk) => chunk.clone(),
            Self::Packed(packed) => packed.unpack(),
        }
    }

    /// To be changed.
    fn open(&mut self) {
        if let Self::Packed(packed) = self {
            *self = Self::Open(packed.unpack());
        }
    }
}

// === impl Cells ===

impl Cells {
    /// The buckets of one resolution, the oldest first.
    pub const fn buckets(&self, resolution: Resolution) -> &Buckets {
        match resolution {
            Resolution::Minute => &self.minutes,
            Resolution::Hour => &self.hours,
            Resolution::Day => &self.days,
        }
    }

    /// Adds a row to a fact's cell; whether the cell is new.
    pub(crate) fn add(
        &mut self,
        resolution: Resolution,
        bucket: u32,
        series: u32,
        row: &UsageRow,
    ) -> bool {
        let whole = resolution != Resolution::Minute;
        self.add_row(resolution, bucket, series, row, whole)
    }

    /// Adds a row, histograms included, to a cell; whether the cell is new.
    pub(crate) fn add_whole(
        &mut self,
        resolution: Resolution,
        bucket: u32,
        series: u32,
        row: &UsageRow,
    ) -> bool {
        self.add_row(resolution, bucket, series, row, true)
    }

    /// Drops the buckets past their retention and says which cells went.
    pub(crate) fn expire(&mut self, wall_ms: u64, mut gone: impl FnMut(Resolution, u32)) {
        for resolution in Resolution::ALL {
            let oldest = resolution.oldest(wall_ms);
            let buckets = self.buckets_mut(resolution);
            while let Some(&(number, _)) = buckets.get_min()
                && number < oldest
            {
                if let Some(bucket) = buckets.remove(&number) {
                    let series = bucket.series().into_iter();
                    series.for_each(|series| gone(resolution, series));
                }
            }
        }
    }

    /// Packs what is over, when the wall clock has come from one minute to another.
    pub(crate) fn pack(&mut self, before_ms: u64, wall_ms: u64) {
        let (before, now) = (minute_of(before_ms), minute_of(wall_ms));
        let over = now.saturating_sub(PACK_AFTER);
        for resolution in Resolution::ALL {
            if resolution != Resolution::Minute && before / HOUR == now / HOUR {
                continue;
            }
            let buckets = self.buckets_mut(resolution);
            let open: Vec<u32> = buckets
                .range(..resolution.bucket_of(over))
                .filter(|(_, bucket)| matches!(bucket, Bucket::Open(_)))
                .map(|(number, _)| *number)
                .collect();
            for number in open {
                if let Some(bucket) = buckets.get_mut(&number)
                    && let Bucket::Open(chunk) = bucket
                {
                    *bucket = Bucket::Packed(Packed::of(chunk));
                }
            }
        }
    }

    /// Puts a bucket of a checkpoint back.
    pub(crate) fn restore(&mut self, resolution: Resolution, number: u32, bucket: Bucket) {
        self.buckets_mut(resolution).insert(number, bucket);
    }

    fn add_row(
        &mut self,
        resolution: Resolution,
        bucket: u32,
        series: u32,
        row: &UsageRow,
        whole: bool,
    ) -> bool {
        let buckets = self.buckets_mut(resolution);
        let bucket = match buckets.get_mut(&bucket) {
            Some(bucket) => bucket,
            None => buckets
                .entry(bucket)
                .or_insert_with(|| Bucket::Open(Chunk::new())),
        };
        bucket.open();
        let Bucket::Open(chunk) = bucket else {
            return false;
        };
        let (cell, new) = match chunk.get_mut(&series) {
            Some(cell) => (cell, false),
            None => (chunk.entry(series).or_default(), true),
        };
        let cell = Arc::make_mut(cell);
        cell.counters.add(&row.counters);
        if whole {
            cell.latency.merge(&row.latency);
            cell.ttft.merge(&row.ttft);
        }
        new
    }

    const fn buckets_mut(&mut self, resolution: Resolution) -> &mut Buckets {
        match resolution {
            Resolution::Minute => &mut self.minutes,
            Resolution::Hour => &mut self.hours,
            Resolution::Day => &mut self.days,
        }
    }
}

/// The minute of a wall clock, as far as minutes reach.
pub fn minute_of(wall_ms: u64) -> u32 {
    u32::try_from(wall_ms / MINUTE_MS).unwrap_or(u32::MAX)
}

/// The last minute in which a row counts at a wall clock.
pub(crate) fn newest_minute(wall_ms: u64) -> u32 {
    minute_of(wall_ms.saturating_add(limits::ROW_AHEAD_MS))
}

/// The minute in which a row counts: its own, unless that is no longer kept or lies ahead of the wall clock.
pub(crate) fn clamp_minute(minute: u32, wall_ms: u64) -> u32 {
    minute.clamp(Resolution::Minute.oldest(wall_ms), newest_minute(wall_ms))
}
