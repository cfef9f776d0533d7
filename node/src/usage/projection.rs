//! Sums of sealed buckets by one dimension, kept over restarts in the projection: what many questions ask again.
//!
//! ```text
//! sealed bucket --sum by each dimension--> filler --> projection (storage) --> query, if it is there
//! ```
//!
//! A sum is found by what it sums, and is believed only if it was computed from the very content that the bucket has
//! now. So nothing here can make an answer wrong: what is missing, old or damaged is computed from the cells.
//!
//! A content tells series by number, so a sum is of one cluster's dictionary. Every node of a cluster has the same one, and
//! the storage sets aside a projection of another cluster or node, as a restore makes one (which takes no data folder
//! that holds a projection, or anything else).
//!
//! Key: `resolution u8 | bucket u32 | dimension u8`, big endian, so that buckets past their retention are a range.
//! Value: the content hash of the bucket, then the sum.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use metrics::{counter, gauge};

use mode_envoy_model::usage::cells::Resolution;
use mode_envoy_model::usage::query::Dimension;
use mode_envoy_model::usage::rollup::{RollUp, RollUps};
use mode_envoy_storage::projection::{
    Key, MAX_VALUE_BYTES, Projection, ProjectionError, ProjectionOptions, Stats,
};

use crate::metrics as names;

mod fill;
#[cfg(test)]
mod projection_test;

pub(crate) use fill::{Filler, View};

use fill::RESOLUTIONS;

/// What a bucket's content is told by.
pub(crate) type Content = [u8; 32];

/// Which sum.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Which {
    pub(crate) resolution: Resolution,
    pub(crate) bucket: u32,
    pub(crate) dimension: Dimension,
}

/// Sums of sealed buckets. A cheap clone; clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Sums {
    projection: Arc<Projection>,
}

/// The sums as one query asks for them. Once they do not answer, it asks no more: the cells are always there.
#[derive(Debug)]
pub(crate) struct Asked {
    sums: Sums,
    silent: AtomicBool,
}

// === impl Which ===

impl Which {
    fn key(self) -> Key {
        let mut key = prefix(self.resolution, self.bucket);
        key.push(number(self.dimension));
        key
    }
}

// === impl Sums ===

impl Sums {
    /// Begins to open them; until that is done there are none.
    pub(crate) fn open(options: ProjectionOptions) -> Result<Self, ProjectionError> {
        Ok(Self {
            projection: Arc::new(Projection::open(options)?),
        })
    }

    /// A sum, if it is there and of this content.
    pub(crate) fn load(
        &self,
        which: Which,
        content: &Content,
    ) -> Result<Option<RollUp>, ProjectionError> {
        let value = self.projection.get(&which.key())?;
        let of_now = |value: Vec<u8>| {
            let (of, sum) = value.split_first_chunk()?;
            (of == content).then(|| RollUp::from_bytes(sum)).flatten()
        };
        Ok(value.and_then(of_now))
    }

    /// For one query.
    pub(crate) fn ask(&self) -> Asked {
        Asked {
            sums: self.clone(),
            silent: AtomicBool::new(false),
        }
    }

    /// Keeps sums of one content. One that is too long is left out: it is computed when it is asked for.
    pub(crate) fn save(
        &self,
        content: &Content,
        sums: &[(Which, RollUp)],
        applied: u64,
    ) -> Result<(), ProjectionError> {
        let entry = |(which, sum): &(Which, RollUp)| {
            (which.key(), [&content[..], &sum.to_bytes()].concat())
        };
        let entries = sums.iter().map(entry);
        let short = |(_, value): &(Key, Vec<u8>)| value.len() <= MAX_VALUE_BYTES;
        self.projection
            .put(entries.filter(short).collect(), applied)
    }

    /// Drops the sums of buckets before `oldest`.
    pub(crate) fn expire(
        &self,
        resolution: Resolution,
        oldest: u32,
    ) -> Result<(), ProjectionError> {
        let all = &prefix(resolution, 0)[..1];
        self.projection.retain(all, &prefix(resolution, oldest))
    }

    pub(crate) fn stats(&self) -> Stats {
        self.projection.stats()
    }
}

// === impl Asked ===

impl RollUps for Asked {
    fn get(
        &self,
        resolution: Resolution,
        bucket: u32,
        content: &Content,
        dimension: Dimension,
    ) -> Option<RollUp> {
        if !RESOLUTIONS.contains(&resolution) || self.silent.load(Ordering::Relaxed) {
            return None;
        }
        let which = Which {
            resolution,
            bucket,
            dimension,
        };
        let loaded = self.sums.load(which, content);
        self.silent.store(loaded.is_err(), Ordering::Relaxed);
        loaded.ok()?
    }
}

/// Shows on `/metrics` how the projection is.
pub(crate) fn observe(stats: &Stats) {
    gauge!(names::PROJECTION_BYTES).set(names::number(stats.size_on_disk));
    gauge!(names::PROJECTION_ENTRIES).set(names::number(stats.values));
    gauge!(names::PROJECTION_BLOBS).set(names::number(stats.blobs));
    counter!(names::PROJECTION_REBUILDS).absolute(stats.rebuilds);
}

fn prefix(resolution: Resolution, bucket: u32) -> Key {
    let resolution = match resolution {
        Resolution::Minute => 0,
        Resolution::Hour => 1,
        Resolution::Day => 2,
    };
    [&[resolution], &bucket.to_be_bytes()[..]].concat()
}

/// Stands in files: never another one for the same dimension.
const fn number(dimension: Dimension) -> u8 {
    match dimension {
        Dimension::Tenant => 1,
        Dimension::Team => 2,
        Dimension::Consumer => 3,
        Dimension::Key => 4,
        Dimension::Route => 5,
        Dimension::Api => 6,
        Dimension::Model => 7,
        Dimension::Provider => 8,
        Dimension::UpstreamModel => 9,
        Dimension::Node => 10,
        Dimension::Status => 11,
    }
}
