//! A state taken apart, as checkpoints hold it, and put together again.
//!
//! Invariant: `State::from_parts(state.parts())` equals `state`. Indexes and counts are not in the parts; they are
//! found again from the objects, the dictionary and the cells.

use std::sync::Arc;

use crate::catalog::{Catalog, Founded, Record};
use crate::growth::Growth;
use crate::history::{History, HistoryParts};
use crate::ledger::Ledger;
use crate::ledger::parts::{LedgerError, LedgerParts};
use crate::limit::LimitId;
use crate::member::Members;
use crate::requests::{Answered, Requests};
use crate::rotation::Rotation;
use crate::state::State;
use crate::usage::Usage;
use crate::usage::cells::{Bucket, Cells, Resolution};
use crate::usage::nodes::{NodeKey, NodeUsage};
use crate::usage::series::SeriesKey;
use crate::usage::streams::Stream;

/// A state, taken apart. What it holds is shared with the state, not copied.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Parts {
    /// How many change sets were accepted.
    pub revision: u64,
    /// The version of messages that may stand in the log.
    pub format_version: u32,
    /// The cluster's identity, once it has one.
    pub founded: Option<Founded>,
    /// The leader's monotone clock.
    pub lease_clock_ms: u64,
    /// The leader's wall clock; Unix milliseconds.
    pub wall_ms: u64,
    /// Everything in the catalog, with the revision that set it.
    pub records: Vec<(u64, Record)>,
    /// Every change set; absent in the checkpoint of a version that did not keep them.
    pub history: Option<HistoryParts>,
    /// Who joined and who was removed since the formation.
    pub members: Members,
    /// The largest number that a limit was ever given.
    pub last_limit_id: LimitId,
    /// The replacement of the cluster secret that is under way.
    pub rotation: Option<Rotation>,
    /// The requests that retries are answered from, the oldest first.
    pub requests: Vec<Arc<Answered>>,
    /// How much the tenants have changed today.
    pub growth: Growth,
    /// The dictionary, by number.
    pub series: Vec<(u32, Arc<SeriesKey>)>,
    /// The usage streams, by node.
    pub streams: Vec<(u64, Arc<Stream>)>,
    /// The cells, by resolution and bucket.
    pub cells: Vec<(Resolution, u32, Bucket)>,
    /// Usage by node; absent in the checkpoint of a version that did not count it.
    pub nodes: Option<NodeParts>,
    /// What is left of limits; empty in the checkpoint of a version that had none.
    pub ledger: LedgerParts,
}

/// Usage by node, taken apart.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct NodeParts {
    /// First minute that is complete.
    pub since: u32,
    /// The dictionary, by number.
    pub series: Vec<(u32, Arc<NodeKey>)>,
    /// The cells, by resolution and bucket.
    pub cells: Vec<(Resolution, u32, Bucket)>,
}

/// Why parts are not a state: they are damaged, or of a newer version.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PartsError {
    /// Two entries of the dictionary clash.
    #[error(
        "restoring a checkpoint: series {0} is there twice; take the checkpoint of another node"
    )]
    SeriesTwice(u32),
    /// A cell names a series that the dictionary does not have.
    #[error(
        "restoring a checkpoint: a {resolution:?} cell of bucket {bucket} names series {series}, which the \
         dictionary does not have; take the checkpoint of another node"
    )]
    UnknownSeries {
        /// Resolution of the cell.
        resolution: Resolution,
        /// Bucket of the cell.
        bucket: u32,
        /// What it names.
        series: u32,
    },
    /// A bucket beyond what minutes can express.
    #[error(
        "restoring a checkpoint: there is no {0:?} bucket {1}; take the checkpoint of another node"
    )]
    NoBucket(Resolution, u32),
    /// A record of the history is not what its hash says.
    #[error(
        "restoring a checkpoint: the history does not hold together at revision {0}: its record was changed, or one \
         before it is missing; take the checkpoint of another node"
    )]
    HistoryBroken(u64),
    /// The history ends elsewhere than the checkpoint says.
    #[error(
        "restoring a checkpoint: the history's last record is not the one that the checkpoint names; take the \
         checkpoint of another node"
    )]
    HistoryHead,
    /// The history is of another revision than the catalog.
    #[error(
        "restoring a checkpoint: the history ends at revision {last}, and the catalog is at {revision}; take the \
         checkpoint of another node"
    )]
    HistoryRevision {
        /// Of the last record.
        last: u64,
        /// Of the catalog.
        revision: u64,
    },
    /// The ledger of limits does not hold together.
    #[error("restoring a checkpoint: {0}; take the checkpoint of another node")]
    Ledger(#[from] LedgerError),
    /// Records of the catalog contradict one another.
    #[error(
        "restoring a checkpoint: {dropped} records of the catalog contradict others; take the checkpoint of another \
         node"
    )]
    Contradiction {
        /// How many could not be restored.
        dropped: usize,
    },
}

// === impl State ===

impl State {
    /// Takes the state apart.
    pub fn parts(&self) -> Parts {
        let series = self
            .usage
            .series
            .iter()
            .map(|(id, key)| (id, Arc::clone(key)));
        let streams = self
            .usage
            .streams
            .iter()
            .map(|(node, stream)| (node, Arc::clone(stream)));
        Parts {
            revision: self.catalog.revision(),
            format_version: self.catalog.format_version(),
            founded: self.catalog.founded().cloned(),
            lease_clock_ms: self.lease_clock_ms,
            wall_ms: self.wall_ms,
            records: self.catalog.records().collect(),
            history: Some(self.history.parts()),
            members: self.catalog.members().clone(),
            last_limit_id: self.catalog.last_limit_id(),
            rotation: self.catalog.rotation().cloned(),
            requests: self.requests.iter().cloned().collect(),
            growth: self.growth.clone(),
            series: series.collect(),
            streams: streams.collect(),
            cells: take_cells(&self.usage.cells),
            nodes: Some(self.usage.nodes.parts()),
            ledger: self.ledger.parts(),
        }
    }

    /// Puts a state together.
    ///
    /// # Errors
    /// Where the parts contradict one another, which checksums should have told before.
    pub fn from_parts(parts: Parts) -> Result<Self, PartsError> {
        let mut usage = Usage::default();
        for (id, key) in parts.series {
            if !usage.series.restore(id, key) {
                return Err(PartsError::SeriesTwice(id));
            }
        }
        for (node, stream) in parts.streams {
            usage.streams.restore(node, stream);
        }
        for (resolution, number, bucket) in parts.cells {
            let series = &mut usage.series;
            let retain = |id| {
                series.retain(id, resolution);
                series.get(id).is_some()
            };
            restore_bucket(&mut usage.cells, resolution, number, bucket, retain)?;
        }
        usage.nodes = match parts.nodes {
            Some(nodes) => NodeUsage::from_parts(nodes)?,
            None if usage.cells == Cells::default() => NodeUsage::default(),
            None => NodeUsage::begun_at(parts.wall_ms),
        };
        let history = match &parts.history {
            Some(history) => History::from_parts(history, parts.revision)?,
            None => History::default(),
        };
        let mut requests = Requests::default();
        for answered in &parts.requests {
            requests.remember(Answered::clone(answered));
        }
        let expected = parts.records.len();
        let Parts {
            founded,
            format_version,
            revision,
            ..
        } = parts;
        let catalog = Catalog::restore(founded, format_version, revision, parts.records)
            .with_members(parts.members)
            .with_last_limit_id(parts.last_limit_id)
            .with_rotation(parts.rotation);
        let dropped = expected.saturating_sub(catalog.records().count());
        if dropped > 0 {
            return Err(PartsError::Contradiction { dropped });
        }
        let clocks = (parts.lease_clock_ms, parts.wall_ms);
        let is_removed = |node| catalog.members().is_removed(node);
        let mut ledger =
            Ledger::from_parts(parts.ledger, clocks, usage.streams.iter(), is_removed)?;
        ledger.set_limits(catalog.limits());
        Ok(Self {
            catalog: Arc::new(catalog),
            history,
            requests,
            growth: parts.growth,
            usage,
            ledger,
            lease_clock_ms: parts.lease_clock_ms,
            wall_ms: parts.wall_ms,
        })
    }
}

// === impl NodeUsage ===

impl NodeUsage {
    fn parts(&self) -> NodeParts {
        NodeParts {
            since: self.since,
            series: self
                .series
                .iter()
                .map(|(id, key)| (id, Arc::clone(key)))
                .collect(),
            cells: take_cells(&self.cells),
        }
    }

    fn from_parts(parts: NodeParts) -> Result<Self, PartsError> {
        let mut nodes = Self {
            since: parts.since,
            ..Self::default()
        };
        for (id, key) in parts.series {
            if !nodes.series.restore(id, key) {
                return Err(PartsError::SeriesTwice(id));
            }
        }
        for (resolution, number, bucket) in parts.cells {
            if !Self::RESOLUTIONS.contains(&resolution) {
                return Err(PartsError::NoBucket(resolution, number));
            }
            let series = &mut nodes.series;
            let retain = |id| {
                series.retain(id);
                series.get(id).is_some()
            };
            restore_bucket(&mut nodes.cells, resolution, number, bucket, retain)?;
        }
        Ok(nodes)
    }
}

// === free functions ===

fn take_cells(cells: &Cells) -> Vec<(Resolution, u32, Bucket)> {
    let resolutions = Resolution::ALL.into_iter();
    resolutions
        .flat_map(|resolution| {
            let buckets = cells.buckets(resolution).iter();
            buckets.map(move |(&number, bucket)| (resolution, number, bucket.clone()))
        })
        .collect()
}

/// Puts a bucket back; `retain` says whether the dictionary has a series, and counts that it is in one more bucket.
fn restore_bucket(
    cells: &mut Cells,
    resolution: Resolution,
    number: u32,
    bucket: Bucket,
    mut retain: impl FnMut(u32) -> bool,
) -> Result<(), PartsError> {
    if number > resolution.bucket_of(u32::MAX) {
        return Err(PartsError::NoBucket(resolution, number));
    }
    for series in bucket.series() {
        if !retain(series) {
            return Err(PartsError::UnknownSeries {
                resolution,
                bucket: number,
                series,
            });
        }
    }
    cells.restore(resolution, number, bucket);
    Ok(())
}
