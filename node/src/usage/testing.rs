//! For tests: small spools.

use std::path::Path;
use std::sync::Arc;

use mode_envoy_storage::disk::RealDisk;

use super::recovery::SpoolSettings;

/// Settings of small spools in `dir`.
pub(crate) fn settings(dir: &Path, workers: u32) -> SpoolSettings {
    SpoolSettings {
        disk: Arc::new(RealDisk),
        dir: dir.to_owned(),
        workers,
        segment_bytes: 16 * 1024,
        max_bytes: 64 << 20,
        cluster_id: [1; 16],
        node_id: 1,
    }
}
