//! Spools: power cuts and kills at every step of their files, with maps that reached the disk or did not.
//!
//! A record that was synced is there, and what is there was written, in its order; a killed process loses nothing.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proptest::prelude::*;
use tempfile::TempDir;

use crate::spool::{self, SpoolError, SpoolOptions, SpoolReader, SpoolRecovery, SpoolWriter};
use crate::testing::{FaultDisk, SplitMix64};

pub(super) const SEGMENT_BYTES: usize = 8192;
pub(super) const MARK_BYTES: usize = 16;

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

/// A spool, and what was put into it.
struct Life {
    disk: FaultDisk,
    writer: SpoolWriter,
    reader: SpoolReader,
    uuid: [u8; 16],
    /// All payloads since the spool began.
    written: Vec<Vec<u8>>,
    /// What was certain from some step of the disk on.
    marks: Vec<Mark>,
}

/// What was certain when a disk had done so many steps.
#[derive(Clone, Copy, Debug)]
struct Mark {
    steps: u64,
    synced: u64,
    first: u64,
    written: u64,
}

/// A directory in memory where there is one: what syncs cost is not tested here.
pub(super) fn scratch() -> TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

pub(super) fn open(dir: &Path, uuid: [u8; 16]) -> Result<Opened, SpoolError> {
    spool::open(options(dir, uuid))
}

fn options(dir: &Path, uuid: [u8; 16]) -> SpoolOptions {
    let mut options = SpoolOptions::new(dir, 3, [1; 16], 1, uuid);
    options.segment_bytes = SEGMENT_BYTES;
    options
}

fn open_on(disk: &FaultDisk, uuid: [u8; 16]) -> Opened {
    spool::open_on(Arc::new(disk.clone()), &options(Path::new("/usage"), uuid)).unwrap()
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
    fn begin(disk: FaultDisk, uuid: [u8; 16], written: Vec<Vec<u8>>) -> Self {
        let (writer, reader, recovery) = open_on(&disk, uuid);
        disk.record_steps();
        let mut life = Self {
            uuid: recovery.uuid,
            disk,
            writer,
            reader,
            written,
            marks: Vec::new(),
        };
        life.note();
        life
    }

    fn note(&mut self) {
        self.marks.push(Mark {
            steps: self.disk.steps(),
            synced: self.reader.synced_seq(),
            first: self.reader.first_seq(),
            written: self.reader.next_seq(),
        });
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
        }
        self.note();
        if work.trim > 0 {
            let below = self.reader.first_seq() + work.trim;
            let below = below.min(self.reader.synced_seq());
            self.reader.trim(below).unwrap();
        }
        self.note();
    }

    /// An accident at some step of this life, or at its end; what it left is checked, and the next life begins.
    fn crash(self, seed: u64, new_uuid: [u8; 16]) -> Self {
        let mut images = self.disk.take_images();
        images.push(self.disk.image());
        let mut rng = SplitMix64::new(seed);
        let at = images.len() - 1 - rng.below(images.len());
        let image = images.swap_remove(at);
        let before = |mark: &&Mark| mark.steps <= image.steps();
        let certain = *self.marks.iter().rev().find(before).unwrap();
        let kill = rng.below(4) == 0;
        let disk = if kill {
            image.kill()
        } else {
            image.crash(seed)
        };
        let mut life = Self::begin(disk, new_uuid, Vec::new());
        let (first, next) = (life.reader.first_seq(), life.reader.next_seq());
        let mut written = self.written;
        if life.uuid == self.uuid {
            let least = if kill {
                certain.written
            } else {
                certain.synced
            };
            assert!(next >= least, "{next} is next, {least} was certain");
            assert!(first >= certain.first && first <= self.reader.first_seq());
            written.truncate(usize::try_from(next - 1).unwrap());
        } else {
            assert!(certain.first >= certain.synced, "a new spool: {certain:?}");
            written.clear();
        }
        let found = all(&mut life.reader).unwrap();
        let expected = (1..).zip(written.iter().cloned());
        let expected: Vec<_> = expected.skip_while(|(seq, _)| *seq < first).collect();
        assert_eq!(found, expected);
        life.written = written;
        life
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn an_accident_takes_no_synced_record_and_alters_none_and_a_kill_takes_none_at_all(
        lives in proptest::collection::vec((works(), any::<u64>()), 1..4),
    ) {
        let mut life = Life::begin(FaultDisk::new(), [0; 16], Vec::new());
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
