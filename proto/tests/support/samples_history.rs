//! Samples of what the history adds to the log: its chunks in a checkpoint, and the head that vouches for them.

use mode_envoy_proto::log::v1 as log;

use super::Golden;

pub(crate) fn each(golden: &mut Golden<'_>) {
    golden.check("HistoryRecord", &record());
    golden.check(
        "HistoryChunk",
        &log::HistoryChunk {
            records: vec![record()],
        },
    );
    golden.check("HistoryHead", &head());
}

pub(crate) fn head() -> log::HistoryHead {
    log::HistoryHead { hash: vec![11; 32] }
}

fn record() -> log::HistoryRecord {
    log::HistoryRecord {
        revision: 42,
        wall_ms: 1_700_000_000_000,
        change_set: vec![8, 41],
        hash: vec![10; 32],
    }
}
