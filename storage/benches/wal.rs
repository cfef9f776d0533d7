//! What an append to the write-ahead log costs, beside the least that any log could cost on this disk:
//! a plain preallocated file, one write and one fdatasync per batch.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, mpsc};

use bytes::Bytes;
use divan::Bencher;
use divan::counter::ItemsCount;
use mode_envoy_storage::disk::{DiskFile, RealDisk};
use mode_envoy_storage::wal::{DEFAULT_SEGMENT_BYTES, Position, Record, Wal, WalOptions};

const BATCHES: [usize; 3] = [1, 16, 256];
const PAYLOAD: usize = 256;

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn main() {
    divan::main();
}

#[divan::bench(args = BATCHES)]
fn wal_append(bencher: Bencher<'_, '_>, batch: usize) {
    report(bench_wal(bencher, batch));
}

#[divan::bench(args = BATCHES)]
fn plain_file(bencher: Bencher<'_, '_>, batch: usize) {
    report(bench_plain(bencher, batch));
}

fn bench_wal(bencher: Bencher<'_, '_>, batch: usize) -> Outcome {
    let dir = tempfile::tempdir_in(scratch())?;
    let options = WalOptions::new(dir.path(), [1; 16], 1);
    let (wal, _) = Wal::open(Arc::new(RealDisk), options)?;
    let payload = Bytes::from(vec![7; PAYLOAD]);
    let (sender, receiver) = mpsc::channel();
    let mut next = 1;
    bencher.counter(ItemsCount::new(batch)).bench_local(|| {
        let records = (next..next + batch as u64)
            .map(|index| Record {
                position: Position { term: 1, index },
                payload: payload.clone(),
            })
            .collect();
        next += batch as u64;
        let sender = sender.clone();
        wal.append(
            records,
            Box::new(move |result| {
                // A closed channel means that the benchmark is over.
                let _ = sender.send(result.is_ok());
            }),
        );
        receiver.recv()
    });
    wal.close();
    Ok(())
}

fn bench_plain(bencher: Bencher<'_, '_>, batch: usize) -> Outcome {
    let file = tempfile::tempfile_in(scratch())?;
    file.allocate(DEFAULT_SEGMENT_BYTES)?;
    let bytes = vec![7; PAYLOAD * batch];
    let mut offset = 0;
    bencher.counter(ItemsCount::new(batch)).bench_local(|| {
        FileExt::write_all_at(&file, &bytes, offset)?;
        offset = (offset + bytes.len() as u64) % (DEFAULT_SEGMENT_BYTES - bytes.len() as u64);
        File::sync_data(&file)
    });
    Ok(())
}

/// On the disk that the build uses, since /tmp may be memory.
fn scratch() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
}

#[expect(clippy::print_stderr, reason = "a benchmark has nobody else to tell")]
fn report(outcome: Outcome) {
    if let Err(error) = outcome {
        eprintln!("the benchmark did not run: {error}");
    }
}
