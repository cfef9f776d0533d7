//! Spools, whose maps no disk stands for: images of live files, with blocks taken back.
//!
//! Each file is copied when the spool syncs it: that is what surely is on the disk. At a crash each
//! block that differs from the live files is either, and each name that no sync covered is there or
//! not. Files keep their whole length: they get it before they get their name.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use proptest::prelude::*;
use tempfile::TempDir;

use crate::spool::{self, SpoolError, SpoolOptions, SpoolReader, SpoolRecovery, SpoolWriter};
use crate::testing::SplitMix64;

pub(super) const SEGMENT_BYTES: usize = 8192;
pub(super) const MARK_BYTES: usize = 16;
const BLOCK: usize = 512;

/// What was in each file when it was synced last, by what tells it from all others.
static SYNCED: Mutex<BTreeMap<(u64, u64), Vec<u8>>> = Mutex::new(BTreeMap::new());

pub(super) type Files = BTreeMap<String, Vec<u8>>;
pub(super) type Opened = (SpoolWriter, SpoolReader, SpoolRecovery);

/// A stretch of work: records of these sizes, then perhaps a sync, then a trim below what was synced.
#[derive(Clone, Debug)]
struct Work {
    sizes: Vec<usize>,
    sync: bool,
    /// How many of the oldest records are trimmed, if any.
    trim: u64,
}

/// A spool, what was put into it, and what of it is on the disk for sure.
struct Life {
    dir: TempDir,
    writer: SpoolWriter,
    reader: SpoolReader,
    uuid: [u8; 16],
    /// All payloads since the spool began.
    written: Vec<Vec<u8>>,
    durable: Files,
}

/// A directory in memory where there is one: what syncs cost is not tested here.
pub(super) fn scratch() -> TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

pub(super) fn open(dir: &Path, uuid: [u8; 16]) -> Result<Opened, SpoolError> {
    let mut options = SpoolOptions::new(dir, 3, [1; 16], 1, uuid);
    options.segment_bytes = SEGMENT_BYTES;
    spool::open_with(&options, note_and_sync)
}

fn note_and_sync(file: &File) -> io::Result<()> {
    let metadata = file.metadata()?;
    let mut bytes = vec![0; usize::try_from(metadata.len()).unwrap()];
    file.read_exact_at(&mut bytes, 0)?;
    let mut synced = SYNCED.lock().unwrap_or_else(PoisonError::into_inner);
    synced.insert((metadata.dev(), metadata.ino()), bytes);
    Ok(())
}

/// An opening has synced all there is.
fn durable_after_opening(dir: &Path) -> Files {
    let files = read_files(dir);
    for name in files.keys() {
        note_and_sync(&File::open(worker_dir(dir).join(name)).unwrap()).unwrap();
    }
    files
}

/// What a file was synced with; zeros if it never was since it got its name.
fn synced(path: &Path) -> Vec<u8> {
    let metadata = fs::metadata(path).unwrap();
    let synced = SYNCED.lock().unwrap_or_else(PoisonError::into_inner);
    let bytes = synced.get(&(metadata.dev(), metadata.ino()));
    bytes.map_or_else(
        || vec![0; usize::try_from(metadata.len()).unwrap()],
        Vec::clone,
    )
}

pub(super) fn worker_dir(dir: &Path) -> PathBuf {
    dir.join("worker-3")
}

/// The segments in a spool's directory.
pub(super) fn read_files(dir: &Path) -> Files {
    let entries = fs::read_dir(worker_dir(dir)).unwrap().map(Result::unwrap);
    let segments = entries.filter(|entry| entry.path().extension().is_some_and(|e| e == "spool"));
    segments
        .map(|entry| {
            let name = entry.file_name().into_string().unwrap();
            (name, fs::read(entry.path()).unwrap())
        })
        .collect()
}

/// A directory with just these segments.
pub(super) fn dir_with(files: &Files) -> TempDir {
    let dir = scratch();
    fs::create_dir(worker_dir(dir.path())).unwrap();
    for (name, bytes) in files {
        fs::write(worker_dir(dir.path()).join(name), bytes).unwrap();
    }
    dir
}

/// The sequence number and the payload of each record.
pub(super) fn all(reader: &mut SpoolReader) -> Result<Vec<(u64, Vec<u8>)>, SpoolError> {
    let from = reader.first_seq();
    let records = reader.read(from, usize::MAX, usize::MAX)?;
    Ok(records
        .into_iter()
        .map(|record| (record.seq, record.payload.to_vec()))
        .collect())
}

fn works() -> impl Strategy<Value = Vec<Work>> {
    // Records of one size start where others did that a crash took.
    let size = prop_oneof![15 => Just(100_usize), 1 => 0_usize..1000];
    let sizes = proptest::collection::vec(size, 0..25);
    let work = (
        sizes,
        any::<bool>(),
        prop_oneof![3 => Just(0), 1 => 0_u64..40],
    )
        .prop_map(|(sizes, sync, trim)| Work { sizes, sync, trim });
    proptest::collection::vec(work, 1..6)
}

// === impl Life ===

impl Life {
    fn begin(uuid: [u8; 16]) -> Self {
        let dir = scratch();
        let (writer, reader, _) = open(dir.path(), uuid).unwrap();
        Self {
            durable: durable_after_opening(dir.path()),
            written: Vec::new(),
            uuid,
            dir,
            writer,
            reader,
        }
    }

    fn work(&mut self, work: &Work, fill: u8) {
        for size in &work.sizes {
            let payload = vec![fill; *size];
            let seq = self.writer.append(1, 1, 5, &payload).unwrap();
            self.written.push(payload);
            assert_eq!(seq, self.written.len() as u64);
        }
        if work.sync {
            self.reader.sync().unwrap();
            let live = read_files(self.dir.path());
            let synced_of = |name: &String| synced(&worker_dir(self.dir.path()).join(name));
            self.durable = live
                .keys()
                .map(|name| (name.clone(), synced_of(name)))
                .collect();
        }
        if work.trim > 0 {
            let below = self.reader.first_seq() + work.trim;
            self.reader
                .trim(below.min(self.reader.synced_seq()))
                .unwrap();
            // It makes all names durable, and no bytes.
            let live = read_files(self.dir.path());
            self.durable.retain(|name, _| live.contains_key(name));
            for (name, bytes) in live {
                let zeros = || vec![0; bytes.len()];
                self.durable.entry(name).or_insert_with(zeros);
            }
        }
    }

    /// What a power cut may leave of the files.
    fn left(&self, seed: u64) -> Files {
        let mut rng = SplitMix64::new(seed);
        let mut left = Files::new();
        for (name, live) in read_files(self.dir.path()) {
            let durable = self.durable.get(&name);
            if durable.is_none() && rng.below(3) == 0 {
                continue;
            }
            let mut bytes = durable.cloned().unwrap_or_else(|| vec![0; live.len()]);
            let eager = rng.below(3);
            for (old, new) in bytes.chunks_mut(BLOCK).zip(live.chunks(BLOCK)) {
                if rng.below(3) <= eager {
                    old.copy_from_slice(new);
                }
            }
            left.insert(name, bytes);
        }
        left
    }

    /// Opens what a power cut left, checks it and goes on with it.
    fn crash(self, seed: u64, new_uuid: [u8; 16]) -> Self {
        let (synced, first) = (self.reader.synced_seq(), self.reader.first_seq());
        let dir = dir_with(&self.left(seed));
        let (writer, mut reader, recovery) = open(dir.path(), new_uuid).unwrap();
        let mut written = self.written;
        if recovery.uuid == self.uuid {
            assert!(recovery.next_seq >= synced, "{recovery:?}, synced {synced}");
            assert_eq!(recovery.first_seq, first);
            written.truncate(usize::try_from(recovery.next_seq - 1).unwrap());
        } else {
            assert!(first >= synced, "a new spool, and {synced} were synced");
            written.clear();
        }
        let found = all(&mut reader).unwrap();
        let expected = (1..).zip(written.iter().cloned());
        let expected: Vec<_> = expected
            .skip_while(|(seq, _)| *seq < recovery.first_seq)
            .collect();
        assert_eq!(found, expected);
        Self {
            durable: durable_after_opening(dir.path()),
            written,
            uuid: recovery.uuid,
            dir,
            writer,
            reader,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn a_power_cut_takes_no_synced_record_and_alters_none(
        lives in proptest::collection::vec((works(), any::<u64>()), 1..4),
    ) {
        let mut life = Life::begin([0; 16]);
        let mut fill = 0_u8;
        for (works, seed) in lives {
            for work in &works {
                fill = fill.wrapping_add(1);
                life.work(work, fill);
            }
            life = life.crash(seed, [fill; 16]);
        }
    }
}
