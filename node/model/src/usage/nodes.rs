//! Which node served what: cells by (node, tenant, route, status class), beside those of the facts.
//!
//! Every row of a node's batch goes to its minute and its hour; both keep histograms, so usage by node has
//! percentiles at either, and so has usage by tenant, route and status at minute interval. No outcome and no fact
//! depends on these cells. Invariant: from `since` on, the cells of all nodes add up to those of the facts.

use std::sync::Arc;

use crate::usage::batch::UsageRow;
use crate::usage::cells::{Cells, HOUR, Resolution, newest_minute};
use crate::usage::series::SeriesKey;

mod dictionary;

pub use dictionary::{NodeKey, NodeSeries};

/// Usage by node. Cloning shares.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct NodeUsage {
    /// What the cells are about.
    pub series: NodeSeries,
    /// The numbers; there are no days.
    pub cells: Cells,
    /// First minute that is complete, on the edge of an hour: 0, unless the state began as the checkpoint of a
    /// version that did not count by node.
    pub since: u32,
}

// === impl NodeUsage ===

impl NodeUsage {
    /// The resolutions that are kept.
    pub const RESOLUTIONS: [Resolution; 2] = [Resolution::Minute, Resolution::Hour];

    /// Where nothing was counted by node until this wall clock.
    pub(crate) fn begun_at(wall_ms: u64) -> Self {
        let hour = newest_minute(wall_ms) / HOUR;
        Self {
            since: hour.saturating_add(1).saturating_mul(HOUR),
            ..Self::default()
        }
    }

    /// The number under which a node's rows of a fact are counted; to be followed by [`Self::add`] at once.
    pub(crate) fn intern(&mut self, node: u64, fact: &SeriesKey) -> u32 {
        self.series.intern(&NodeKey {
            node,
            tenant: Arc::clone(&fact.tenant),
            route: Arc::clone(&fact.route),
            status_class: fact.status_class,
        })
    }

    /// Counts a row in a minute.
    pub(crate) fn add(&mut self, id: u32, minute: u32, row: &UsageRow) {
        for resolution in Self::RESOLUTIONS {
            let bucket = resolution.bucket_of(minute);
            if self.cells.add_whole(resolution, bucket, id, row) {
                self.series.retain(id);
            }
        }
    }

    /// Drops what is past its retention.
    pub(crate) fn expire(&mut self, wall_ms: u64) {
        let series = &mut self.series;
        self.cells.expire(wall_ms, |_, id| series.release(id));
    }
}
