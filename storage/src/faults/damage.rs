//! One changed byte or a cut in a file of each kind.
//!
//! What is opened afterwards is exactly what was written, or it is refused with the file's name. Two
//! places cannot be told from a crash, and there the tail is cut instead:
//! * the last batch of a log whose process was killed: its sync may have been under way. A log that was
//!   closed, or opened since, ends with a mark that tells;
//! * records of a spool that were written after its last sync.
//!
//! A damaged checkpoint gives way to the one before, whole; only without one it is refused.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::history::Call::{Append, Committed, Purge, Truncate, Vote};
use super::history::{History, State, options, segments, wait};
use super::spool::{self as spools, Files};
use crate::checkpoint::{Checkpoint, CheckpointStore};
use crate::disk::Disk;
use crate::testing::{FaultDisk, SplitMix64};
use crate::wal::{Wal, WalError};

/// A change to the bytes of a file.
#[derive(Clone, Copy, Debug)]
enum Damage {
    Flip {
        at: usize,
        mask: u8,
    },
    Zero {
        at: usize,
        len: usize,
    },
    /// As a write does that did not get further; a spool's mark stays.
    ZeroFrom {
        at: usize,
    },
    Cut {
        len: usize,
    },
    Grow {
        by: usize,
    },
}

// === impl Damage ===

impl Damage {
    fn apply(self, bytes: &mut Vec<u8>) {
        match self {
            Self::Flip { at, mask } => bytes[at] ^= mask,
            Self::Zero { at, len } => bytes[at..at + len].fill(0),
            Self::ZeroFrom { at } => {
                let end = bytes.len() - spools::MARK_BYTES;
                bytes[at.min(end)..end].fill(0);
            }
            Self::Cut { len } => bytes.truncate(len),
            Self::Grow { by } => bytes.resize(bytes.len() + by, 0),
        }
    }

    /// Flips of every byte, at most so many, and cuts to about as many lengths.
    fn all(bytes: &[u8], used: usize, most: usize) -> Vec<Self> {
        let mut rng = SplitMix64::new(bytes.len() as u64);
        let mut places: BTreeSet<usize> = (0..used).step_by(1 + used / most).collect();
        // Behind what is used there are zeros, all alike; the end may be special.
        places.extend((0..most / 4).map(|_| rng.below(bytes.len())));
        places.extend(bytes.len().saturating_sub(20)..bytes.len());
        places.retain(|at| *at < bytes.len());
        let mut damages = vec![Self::Grow { by: 1 }, Self::Grow { by: 4096 }];
        damages.extend(
            (4096..bytes.len())
                .step_by(4096)
                .map(|len| Self::Cut { len }),
        );
        for at in places {
            let mask = 1 << rng.below(8);
            damages.push(Self::Flip { at, mask });
            damages.push(Self::Cut { len: at });
            let len = (bytes.len() - at).min(8);
            if bytes[at..at + len].iter().any(|byte| *byte != 0) {
                damages.push(Self::Zero { at, len });
            }
            if bytes.len() >= spools::SEGMENT_BYTES {
                damages.push(Self::ZeroFrom { at });
            }
        }
        damages
    }
}

/// Where the last byte is that is not zero, plus one.
fn used_end(bytes: &[u8]) -> usize {
    let last = bytes.iter().rposition(|byte| *byte != 0);
    last.map_or(0, |last| last + 1)
}

// --- the log ---

/// A log, the states it went through, and where its last batch starts in its last segment.
struct Written {
    wal: Wal,
    states: Vec<State>,
    last_batch: usize,
}

/// Two segments: a whole one and the beginnings of the next, in batches of several records.
fn write_log(disk: &FaultDisk) -> Written {
    let (wal, recovered) = Wal::open(Arc::new(disk.clone()), options()).unwrap();
    let mut history = History::new(State::of(&wal, &recovered), 0, 0);
    let append = |count, bytes| Append { count, bytes };
    let groups = [
        vec![Vote, append(8, 4000)],
        vec![append(2, 100), Purge { oldest: 1 }, Committed],
        vec![append(3, 50), Truncate { newest: 2 }, Vote],
        vec![append(1, 20)],
        vec![append(2, 30), Vote, append(1, 0)],
    ];
    let mut last_batch = 0;
    for group in groups {
        if let Some(active) = segments(disk).get(1) {
            last_batch = used_end(&disk.bytes(active).unwrap()).next_multiple_of(8);
        }
        assert!(history.drive(disk, &wal, &group));
    }
    assert_eq!(segments(disk).len(), 2);
    Written {
        wal,
        states: history.states,
        last_batch,
    }
}

fn open_log(disk: &FaultDisk) -> Result<State, WalError> {
    let (wal, recovered) = Wal::open(Arc::new(disk.clone()), options())?;
    let found = State::of(&wal, &recovered);
    let mut history = History::new(found.clone(), 0, 1000);
    assert!(history.drive(
        disk,
        &wal,
        &[
            Vote,
            Append {
                count: 2,
                bytes: 70
            }
        ]
    ));
    wal.close();
    let (wal, recovered) = Wal::open(Arc::new(disk.clone()), options())?;
    assert_eq!(&State::of(&wal, &recovered), history.states.last().unwrap());
    Ok(found)
}

/// Damages each file of a log in many ways; gives what was opened each time, with where the damage was.
/// What was opened can be built on. From `torn_from` on the last write may not have got further.
fn damage_log(
    disk: &FaultDisk,
    torn_from: usize,
    mut opened: impl FnMut(&Path, Damage, Result<State, WalError>),
) {
    let image = disk.image();
    for (path, (most, torn_from)) in segments(disk)
        .into_iter()
        .zip([(150, 0), (1200, torn_from)])
    {
        let whole = disk.bytes(&path).unwrap();
        for damage in Damage::all(&whole, used_end(&whole), most) {
            if matches!(damage, Damage::ZeroFrom { at } if at < torn_from) {
                continue;
            }
            let copy = image.kill();
            let mut bytes = whole.clone();
            damage.apply(&mut bytes);
            copy.replace(&path, bytes);
            opened(&path, damage, open_log(&copy));
        }
    }
}

fn assert_names(error: &WalError, path: &Path, damage: Damage) {
    let text = error.to_string();
    let file = path.file_name().unwrap().to_string_lossy();
    assert!(text.contains(&*file), "{damage:?}: {text}");
}

#[test]
fn damage_to_a_closed_log_is_harmless_or_refused_by_name() {
    let disk = FaultDisk::new();
    let Written { wal, states, .. } = write_log(&disk);
    wal.close();
    let mut harmless = 0;
    damage_log(&disk, usize::MAX, |path, damage, opened| match opened {
        Ok(state) => {
            assert_eq!(&state, states.last().unwrap(), "{damage:?}");
            harmless += 1;
        }
        Err(error) => assert_names(&error, path, damage),
    });
    assert!(harmless > 0, "bytes behind the records do not matter");
}

#[test]
fn damage_to_a_log_that_was_killed_and_opened_is_harmless_or_refused_by_name() {
    let disk = FaultDisk::new();
    let written = write_log(&disk);
    let killed = disk.image().kill();
    let (_again, _) = Wal::open(Arc::new(killed.clone()), options()).unwrap();
    damage_log(
        &killed.image().kill(),
        usize::MAX,
        |path, damage, opened| match opened {
            Ok(state) => assert_eq!(&state, written.states.last().unwrap(), "{damage:?}"),
            Err(error) => assert_names(&error, path, damage),
        },
    );
}

#[test]
fn damage_to_a_killed_log_costs_at_most_its_last_batch() {
    let disk = FaultDisk::new();
    let Written {
        wal,
        states,
        last_batch,
    } = write_log(&disk);
    // Answered when the batch before is behind the writer.
    wait(|done| wal.append(vec![], done)).unwrap();
    // The last batch is two records, a vote and a record.
    let allowed = &states[states.len() - 5..];
    damage_log(
        &disk.image().kill(),
        last_batch,
        |path, damage, opened| match opened {
            Ok(state) => {
                let last_file = path == segments(&disk)[1];
                assert!(
                    allowed.contains(&state) && (last_file || &state == allowed.last().unwrap())
                );
            }
            Err(error) => assert_names(&error, path, damage),
        },
    );
}

// --- checkpoints ---

const CHECKPOINTS: &str = "/data/checkpoint";

fn store(disk: &FaultDisk) -> CheckpointStore {
    CheckpointStore::open(Arc::new(disk.clone()), CHECKPOINTS, [1; 16], 1).unwrap()
}

fn checkpoint(meta: &'static str, contents: &[&'static str]) -> Checkpoint {
    let chunks = contents.iter().enumerate();
    Checkpoint {
        meta: Bytes::from(meta),
        chunks: chunks
            .map(|(at, content)| (format!("chunk {at}"), Bytes::from(*content)))
            .collect(),
    }
}

/// The files of all checkpoints.
fn checkpoint_files(disk: &FaultDisk) -> Vec<PathBuf> {
    let dir = Path::new(CHECKPOINTS);
    let names = |dir: &Path| {
        disk.list(dir)
            .unwrap()
            .into_iter()
            .map(|n| dir.join(n))
            .collect()
    };
    let mut files: Vec<PathBuf> = names(dir);
    files.retain(|path| path.extension().is_some());
    files.extend::<Vec<_>>(names(&dir.join("chunks")));
    files
}

#[test]
fn damage_to_a_checkpoint_gives_it_the_one_before_or_a_refusal_by_name() {
    let written = [
        checkpoint("first", &["shared", "only in the first", ""]),
        checkpoint("second", &["shared", "only in the second"]),
    ];
    for kept in 1..=2 {
        let disk = FaultDisk::new();
        for checkpoint in &written[..kept] {
            store(&disk)
                .write(&checkpoint.meta, checkpoint.chunks.clone())
                .unwrap();
        }
        let image = disk.image();
        for path in checkpoint_files(&disk) {
            let whole = disk.bytes(&path).unwrap();
            for damage in Damage::all(&whole, whole.len(), 1000) {
                let copy = image.kill();
                let mut bytes = whole.clone();
                damage.apply(&mut bytes);
                copy.replace(&path, bytes);
                let file = path.file_name().unwrap().to_string_lossy();
                match store(&copy).load() {
                    Ok(loaded) => assert!(written[..kept].contains(&loaded.unwrap()), "{damage:?}"),
                    Err(error) => {
                        assert!(error.to_string().contains(&*file), "{damage:?}: {error}");
                    }
                }
                // In any case the next one is whole.
                let next = checkpoint("next", &["shared", "only in the next"]);
                store(&copy).write(&next.meta, next.chunks.clone()).unwrap();
                assert_eq!(store(&copy).load().unwrap().as_ref(), Some(&next));
            }
        }
    }
}

// --- spools ---

const UUID: [u8; 16] = [0x5a; 16];

/// Damages each file of a spool in many ways; gives what each opening showed.
fn damage_spool(
    files: &Files,
    mut opened: impl FnMut(&str, Damage, Result<Vec<(u64, Vec<u8>)>, String>),
) {
    for (name, whole) in files {
        let used = used_end(&whole[..whole.len() - spools::MARK_BYTES]);
        for damage in Damage::all(whole, used, 500) {
            let mut damaged = files.clone();
            damage.apply(damaged.get_mut(name).unwrap());
            let dir = spools::dir_with(&damaged);
            let found = spools::open(dir.path(), [1; 16])
                .and_then(|(_writer, mut reader, _)| spools::all(&mut reader));
            opened(name, damage, found.map_err(|error| error.to_string()));
        }
    }
}

fn append(opened: &mut spools::Opened, count: u8) -> Vec<(u64, Vec<u8>)> {
    (0..count)
        .map(|at| {
            let payload = vec![at; 40 + usize::from(at)];
            (opened.0.append(1, 1, 9, &payload).unwrap(), payload)
        })
        .collect()
}

#[test]
fn damage_to_a_synced_spool_is_harmless_or_refused_by_name() {
    let dir = spools::scratch();
    let mut spool = spools::open(dir.path(), UUID).unwrap();
    let written = append(&mut spool, 150);
    spool.1.sync().unwrap();
    drop(spool);
    let files = spools::read_files(dir.path());
    assert!(files.len() > 2);
    damage_spool(&files, |name, damage, found| match found {
        Ok(found) => assert!(found == written, "{name}, {damage:?}"),
        Err(error) => assert!(error.contains(name), "{damage:?}: {error}"),
    });
}

#[test]
fn damage_to_a_spool_that_was_opened_since_its_last_record_is_harmless_or_refused_by_name() {
    let dir = spools::scratch();
    let mut spool = spools::open(dir.path(), UUID).unwrap();
    let written = append(&mut spool, 100);
    drop(spool);
    // It makes durable what it finds, and says so.
    let (_writer, reader, _) = spools::open(dir.path(), UUID).unwrap();
    assert_eq!(reader.synced_seq(), 101);
    let files = spools::read_files(dir.path());
    damage_spool(&files, |name, damage, found| match found {
        Ok(found) => assert!(found == written, "{name}, {damage:?}"),
        Err(error) => assert!(error.contains(name), "{damage:?}: {error}"),
    });
}

#[test]
fn damage_behind_the_last_sync_of_a_spool_costs_at_most_what_was_never_synced() {
    let dir = spools::scratch();
    let mut spool = spools::open(dir.path(), UUID).unwrap();
    let mut written = append(&mut spool, 40);
    spool.1.sync().unwrap();
    written.extend(
        (41..)
            .zip(append(&mut spool, 40))
            .map(|(seq, (_, payload))| (seq, payload)),
    );
    let files = spools::read_files(dir.path());
    damage_spool(&files, |name, damage, found| match found {
        Ok(found) => {
            assert!(found.len() >= 40, "{name}, {damage:?}");
            assert!(found[..] == written[..found.len()], "{name}, {damage:?}");
        }
        Err(error) => assert!(error.contains(name), "{damage:?}: {error}"),
    });
}
