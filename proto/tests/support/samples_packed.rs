//! A sample of a packed bucket of cells, as a checkpoint holds it. What is inside is the model's own format.

use mode_envoy_proto::log::v1 as log;

use super::Golden;

pub(crate) fn each(golden: &mut Golden<'_>) {
    golden.check(
        "PackedCellsChunk",
        &log::PackedCellsChunk {
            resolution: log::Resolution::Day.into(),
            bucket: 19_773,
            cells: vec![1, 0, 0],
        },
    );
}
