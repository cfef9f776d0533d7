//! What recording a call costs its worker: one Open and one Close encoded into the usage spool.

use std::path::PathBuf;

use divan::Bencher;
use mode_envoy_storage::spool::{self, SpoolError, SpoolOptions, SpoolWriter};

const OPEN_BYTES: usize = 90;
const CLOSE_BYTES: usize = 120;

/// How many pairs pass between two visits of the flusher.
const PAIRS_PER_FLUSH: u32 = 3_000;

fn main() {
    divan::main();
}

#[divan::bench(min_time = 0.2)]
#[expect(clippy::print_stderr, reason = "a benchmark has nobody else to tell")]
fn open_and_close(bencher: Bencher<'_, '_>) {
    if let Err(error) = bench(bencher) {
        eprintln!("the benchmark did not run: {error}");
    }
}

fn bench(bencher: Bencher<'_, '_>) -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir_in(PathBuf::from(env!("CARGO_TARGET_TMPDIR")))?;
    let options = SpoolOptions::new(dir.path(), 0, [1; 16], 1, [2; 16]);
    let (mut writer, mut reader, _) = spool::open(options)?;
    let mut pairs = 0;
    bencher
        .with_inputs(|| {
            pairs += 1;
            if pairs % PAIRS_PER_FLUSH == 0 {
                // Not part of the measured time: it runs on the flusher's thread.
                let flushed = reader.sync().and_then(|()| reader.trim(reader.next_seq()));
                drop(flushed);
            }
        })
        .bench_local_refs(|()| pair(&mut writer));
    Ok(())
}

fn pair(writer: &mut SpoolWriter) -> Result<u64, SpoolError> {
    writer.append_with(1, 1, 1_700_000_000_000, OPEN_BYTES, |out| {
        out.fill(divan::black_box(1));
        Some(OPEN_BYTES)
    })?;
    writer.append_with(2, 1, 1_700_000_000_100, CLOSE_BYTES, |out| {
        out.fill(divan::black_box(2));
        Some(CLOSE_BYTES)
    })
}
