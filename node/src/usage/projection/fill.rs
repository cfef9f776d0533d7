//! Fills the projection: one thread looks now and then which buckets have been packed, and sums them by every dimension.
//!
//! It rests as long as it works, so that a node that starts with a month of buckets serves all the same.
//!
//! Invariant: what it remembers to be there is forgotten when the projection begins anew.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use mode_envoy_model::usage::UsageSnapshot;
use mode_envoy_model::usage::cells::{Bucket, Resolution};
use mode_envoy_model::usage::packed::Packed;
use mode_envoy_model::usage::query::Dimension;
use mode_envoy_model::usage::rollup::roll_up;
use mode_envoy_storage::projection::ProjectionError;

use super::{Content, Sums, Which, observe};
use crate::supervisor::TaskError;

const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Minutes are many and soon gone: they are read from the cells.
pub(super) const RESOLUTIONS: [Resolution; 2] = [Resolution::Hour, Resolution::Day];

/// What there is to sum.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) snapshot: UsageSnapshot,
    pub(crate) applied: u64,
    pub(crate) wall_ms: u64,
}

/// Fills the projection from what `look` shows.
pub(crate) struct Filler<F> {
    sums: Sums,
    look: F,
    /// What is there, by bucket.
    there: BTreeMap<(Resolution, u32), Content>,
    /// Before which there is nothing any more.
    expired: BTreeMap<Resolution, u32>,
    rebuilds: u64,
}

// === impl Filler ===

impl<F: Fn() -> View> Filler<F> {
    pub(crate) const fn new(sums: Sums, look: F) -> Self {
        Self {
            sums,
            look,
            there: BTreeMap::new(),
            expired: BTreeMap::new(),
            rebuilds: 0,
        }
    }

    /// Runs on the calling thread until it is told to stop.
    pub(crate) fn run(mut self, stop: &CancellationToken) -> Result<(), TaskError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()?;
        runtime.block_on(async {
            while !stop.is_cancelled() {
                if let Err(error) = self.pass(stop).await {
                    tracing::debug!(%error, "the projection is filled later");
                }
                observe(&self.sums.stats());
                rest(LOOK_EVERY, stop).await;
            }
        });
        Ok(())
    }

    /// Sums what is missing and drops what is past its retention.
    pub(super) async fn pass(&mut self, stop: &CancellationToken) -> Result<(), ProjectionError> {
        let stats = self.sums.stats();
        if stats.rebuilds != self.rebuilds {
            self.there.clear();
            self.expired.clear();
            self.rebuilds = stats.rebuilds;
        }
        let view = (self.look)();
        for resolution in RESOLUTIONS {
            self.expire(resolution, view.wall_ms)?;
            let buckets = view.snapshot.cells.buckets(resolution);
            // The newest first: they are asked for most.
            for (&number, bucket) in buckets.iter().rev() {
                let Bucket::Packed(packed) = bucket else {
                    continue;
                };
                if stop.is_cancelled() {
                    return Ok(());
                }
                let began = Instant::now();
                if self.sum(resolution, number, packed, &view)? {
                    rest(began.elapsed(), stop).await;
                }
            }
        }
        Ok(())
    }

    /// Sums one bucket, unless its sums are there; whether they were not.
    fn sum(
        &mut self,
        resolution: Resolution,
        bucket: u32,
        packed: &Packed,
        view: &View,
    ) -> Result<bool, ProjectionError> {
        let content = packed.hash();
        if self.there.get(&(resolution, bucket)) == Some(content) {
            return Ok(false);
        }
        let which = |dimension| Which {
            resolution,
            bucket,
            dimension,
        };
        // All sums of a bucket are put together, those by status last.
        let missing = self.sums.load(which(Dimension::Status), content)?.is_none();
        if missing {
            let facts = Dimension::ALL.into_iter().filter(|d| *d != Dimension::Node);
            let sum = |dimension| {
                let sum = roll_up(packed, &view.snapshot.series, dimension);
                (which(dimension), sum)
            };
            let sums: Vec<_> = facts.map(sum).collect();
            self.sums.save(content, &sums, view.applied)?;
        }
        self.there.insert((resolution, bucket), *content);
        Ok(missing)
    }

    fn expire(&mut self, resolution: Resolution, wall_ms: u64) -> Result<(), ProjectionError> {
        let oldest = resolution.oldest(wall_ms);
        if self.expired.get(&resolution) == Some(&oldest) {
            return Ok(());
        }
        self.sums.expire(resolution, oldest)?;
        self.there
            .retain(|(of, bucket), _| *of != resolution || *bucket >= oldest);
        self.expired.insert(resolution, oldest);
        Ok(())
    }
}

async fn rest(time: Duration, stop: &CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = tokio::time::sleep(time) => {}
    }
}
