//! A log in a directory of its own, and calls that wait for their completion.

use std::path::Path;
use std::sync::{Arc, mpsc};

use bytes::Bytes;
use mode_envoy_storage::disk::RealDisk;
use mode_envoy_storage::wal::{Done, Position, Record, Recovered, Wal, WalError, WalOptions};

/// The cluster of every test.
pub(crate) const CLUSTER: [u8; 16] = [0xc1; 16];

/// The smallest segments, so that tests meet their ends.
pub(crate) const SEGMENT_BYTES: u64 = 32 * 1024;

/// Options of a small log in a directory.
pub(crate) fn options(dir: &Path) -> WalOptions {
    let mut options = WalOptions::new(dir, CLUSTER, 1);
    options.segment_bytes = SEGMENT_BYTES;
    options.cache_bytes = 4 * 1024;
    options
}

/// Opens a log, or says why not.
pub(crate) fn try_open(dir: &Path) -> Result<(Wal, Recovered), WalError> {
    Wal::open(Arc::new(RealDisk), options(dir))
}

/// Opens a log.
pub(crate) fn open(dir: &Path) -> (Wal, Recovered) {
    try_open(dir).unwrap()
}

/// Waits for the completion of one call.
pub(crate) fn wait(call: impl FnOnce(Done)) -> Result<(), WalError> {
    let (sender, receiver) = mpsc::channel();
    call(Box::new(move |result| sender.send(result).unwrap()));
    receiver.recv().unwrap()
}

/// A record whose payload tells its place.
pub(crate) fn record(term: u64, index: u64, bytes: usize) -> Record {
    let seed = format!("{term}/{index};");
    let payload: Vec<u8> = seed.bytes().cycle().take(bytes).collect();
    Record {
        position: Position { term, index },
        payload: Bytes::from(payload),
    }
}

/// Appends records of some size and waits until they are durable.
pub(crate) fn append(wal: &Wal, term: u64, indexes: std::ops::RangeInclusive<u64>, bytes: usize) {
    let records = indexes.map(|index| record(term, index, bytes)).collect();
    wait(|done| wal.append(records, done)).unwrap();
}

/// All records of a log.
pub(crate) fn all(wal: &Wal) -> Vec<Record> {
    wal.read(0, u64::MAX, usize::MAX).unwrap()
}
