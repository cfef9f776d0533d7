//! For tests: a recorder over a spool of its own, and what was written to it.

use std::path::Path;

use mode_envoy_storage::spool::SpoolReader;

use super::record::{CloseHead, Dims, OpenHead, Record};
use super::recorder::Recorder;
use super::recovery::{self, SpoolSettings};

/// Reads what a recorder wrote.
pub(crate) struct Written {
    reader: SpoolReader,
    next: u64,
}

/// A record that was written.
#[derive(Clone, Debug)]
pub(crate) enum WrittenRecord {
    /// An Open.
    Open(OpenHead, Dims),
    /// A Close.
    Close(CloseHead, Dims),
}

/// Settings of small spools in `dir`.
pub(crate) fn settings(dir: &Path, workers: u32) -> SpoolSettings {
    SpoolSettings {
        dir: dir.to_owned(),
        workers,
        segment_bytes: 16 * 1024,
        max_bytes: 64 << 20,
        cluster_id: [1; 16],
        node_id: 1,
    }
}

/// A recorder that writes under `dir`, and a reader of it.
pub(crate) fn scratch_recorder(dir: &Path) -> (Recorder, Written) {
    let mut recovered = recovery::open(&settings(dir, 1)).unwrap();
    let reader = recovered.spools.pop().unwrap().reader;
    (
        recovered.recorders.pop().unwrap(),
        Written { reader, next: 1 },
    )
}

// === impl Written ===

impl Written {
    /// What was written since the last call.
    pub(crate) fn take(&mut self) -> Vec<WrittenRecord> {
        let mut taken = Vec::new();
        while self.next < self.reader.next_seq() {
            for record in self.reader.read(self.next, 1_000, 1 << 20).unwrap() {
                self.next = record.seq + 1;
                taken.push(
                    match Record::parse(record.kind, record.version, &record.payload).unwrap() {
                        Record::Open(head, dims) => {
                            WrittenRecord::Open(head, dims.decode().unwrap())
                        }
                        Record::Close(head, dims) => {
                            WrittenRecord::Close(head, dims.decode().unwrap())
                        }
                    },
                );
            }
        }
        taken
    }

    /// The Closes that were written since the last call.
    pub(crate) fn closes(&mut self) -> Vec<(CloseHead, Dims)> {
        let close = |record| match record {
            WrittenRecord::Close(head, dims) => Some((head, dims)),
            WrittenRecord::Open(..) => None,
        };
        self.take().into_iter().filter_map(close).collect()
    }
}
