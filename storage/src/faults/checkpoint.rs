//! Checkpoints: the last acknowledged one or a later one, never a mixture.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;

use crate::checkpoint::{Checkpoint, CheckpointError, CheckpointStore};
use crate::disk::Disk;
use crate::testing::{FaultDisk, Image, Op};

const DIR: &str = "/data/checkpoint";

/// Which contents a checkpoint has: one bit for each of a few, so that successive ones share some.
type Contents = u8;

/// Checkpoints written one after the other.
#[derive(Debug, Default)]
struct History {
    written: Vec<Checkpoint>,
    /// The disk's steps before each was written.
    asked: Vec<u64>,
    /// The disk's steps when it was acknowledged, if it was.
    acknowledged: Vec<Option<u64>>,
}

fn open(disk: &FaultDisk) -> CheckpointStore {
    CheckpointStore::open(Arc::new(disk.clone()), DIR, [1; 16], 1).unwrap()
}

fn checkpoint(number: usize, contents: Contents) -> Checkpoint {
    let numbers = (0..8_usize).filter(|bit| contents & (1 << bit) != 0);
    let chunks = numbers.map(|bit| {
        let content = format!("content {bit};").repeat(1 + bit * 40);
        (format!("chunk {bit}"), Bytes::from(content))
    });
    Checkpoint {
        meta: Bytes::from(format!("checkpoint {number}")),
        chunks: chunks.collect(),
    }
}

fn write(store: &CheckpointStore, checkpoint: &Checkpoint) -> Result<(), CheckpointError> {
    store.write(&checkpoint.meta, checkpoint.chunks.clone())
}

// === impl History ===

impl History {
    fn write(
        &mut self,
        disk: &FaultDisk,
        store: &CheckpointStore,
        contents: Contents,
    ) -> Result<(), CheckpointError> {
        let next = checkpoint(self.written.len(), contents);
        self.asked.push(disk.steps());
        let result = write(store, &next);
        self.written.push(next);
        self.acknowledged.push(result.is_ok().then(|| disk.steps()));
        result
    }

    /// Fails unless what is loaded is what may be there after so many steps.
    fn check(&self, steps: u64, found: Option<&Checkpoint>) {
        let mut acknowledged = self.acknowledged.iter();
        let newest = acknowledged.rposition(|at| at.is_some_and(|at| at <= steps));
        let asked = self.asked.iter().filter(|at| **at <= steps).count();
        let allowed = &self.written[newest.unwrap_or(0)..asked];
        match found {
            Some(found) => assert!(allowed.contains(found), "{found:?} is not in {allowed:?}"),
            None => assert_eq!(newest, None, "an acknowledged checkpoint is lost"),
        }
    }

    /// Fails unless a second accident, damage to what is the newest now, leaves the acknowledged one before it or a
    /// later one.
    fn check_fallback(&self, steps: u64, disk: &FaultDisk) {
        let acknowledged = self.acknowledged.iter().enumerate();
        let acknowledged = acknowledged.filter(|(_, at)| at.is_some_and(|at| at <= steps));
        let Some((before, _)) = acknowledged.rev().nth(1) else {
            return;
        };
        let spoiled = disk.image().kill();
        damage_newest(&spoiled);
        let found = open(&spoiled).load().unwrap().unwrap();
        assert!(self.written[before..].contains(&found), "{found:?}");
    }

    /// Opens what is left of an image, checks it, and goes on there.
    fn check_left(&self, image: &Image, disk: &FaultDisk, seed: u64) {
        let store = open(disk);
        let found = store.load().unwrap();
        self.check(image.steps(), found.as_ref());
        self.check_fallback(image.steps(), disk);
        // What was loaded is as good as acknowledged: the log may be purged up to it.
        let again = open(&disk.image().crash(seed));
        assert_eq!(again.load().unwrap(), found);
        let next = checkpoint(1000, 0b11 << (seed % 7));
        write(&store, &next).unwrap();
        let again = disk.image().crash(seed / 3);
        assert_eq!(open(&again).load().unwrap().as_ref(), Some(&next));
        check_no_leftovers(disk, found.iter().chain([&next]));
    }
}

/// Changes a byte of the newest manifest.
fn damage_newest(disk: &FaultDisk) {
    let names = disk.list(Path::new(DIR)).unwrap();
    let newest = names.into_iter().rfind(|name| name.ends_with(".manifest"));
    let path = Path::new(DIR).join(newest.unwrap());
    let mut bytes = disk.bytes(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    disk.replace(&path, bytes);
}

/// Fails unless there are just the files of these checkpoints.
fn check_no_leftovers<'a>(disk: &FaultDisk, kept: impl Iterator<Item = &'a Checkpoint>) {
    let mut manifests = 0;
    let mut chunks = BTreeSet::new();
    for checkpoint in kept {
        manifests += 1;
        let contents = checkpoint.chunks.iter().map(|(_, content)| content);
        chunks.extend(contents.map(|content| format!("{}.chunk", blake3::hash(content).to_hex())));
    }
    let listed = disk.list(&Path::new(DIR).join("chunks")).unwrap();
    assert_eq!(listed, chunks.into_iter().collect::<Vec<_>>());
    let names = disk.list(Path::new(DIR)).unwrap();
    let files = names.iter().filter(|name| *name != "chunks");
    assert!(
        files.clone().all(|name| name.ends_with(".manifest")),
        "{names:?}"
    );
    assert_eq!(files.count(), manifests, "{names:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn whatever_step_a_crash_hits_the_last_acknowledged_checkpoint_or_a_later_one_is_loaded(
        contents in proptest::collection::vec((any::<Contents>(), any::<bool>()), 1..5),
        seed: u64,
    ) {
        let disk = FaultDisk::new();
        disk.record_steps();
        let mut store = open(&disk);
        let mut history = History::default();
        for (contents, reopen) in contents {
            history.write(&disk, &store, contents).unwrap();
            if reopen {
                store = open(&disk);
            }
        }
        let last = disk.image();
        for (at, image) in (0..).zip(disk.take_images().into_iter().chain([last])) {
            let seed = seed.wrapping_add(at);
            history.check_left(&image, &image.kill(), seed);
            history.check_left(&image, &image.crash(seed), seed);
        }
    }

    #[test]
    fn a_failed_operation_never_makes_an_acknowledged_checkpoint_of_a_lost_one(
        contents in proptest::collection::vec(any::<Contents>(), 1..6),
        op in prop_oneof![
            3 => Just(Op::SyncDir), 3 => Just(Op::Sync), 1 => Just(Op::Write), 1 => Just(Op::Create),
            1 => Just(Op::Rename), 1 => Just(Op::Remove), 1 => Just(Op::Read),
        ],
        nth in 1_u64..20,
        seed: u64,
    ) {
        let disk = FaultDisk::new();
        let store = open(&disk);
        let mut history = History::default();
        disk.fail(op, nth);
        let results: Vec<_> =
            contents.into_iter().map(|contents| history.write(&disk, &store, contents)).collect();
        for error in results.iter().filter_map(|result| result.as_ref().err()) {
            prop_assert!(error.to_string().contains(DIR), "{}", error);
        }
        let image = disk.image();
        for seed in seed..seed.saturating_add(16) {
            history.check_left(&image, &image.crash(seed), seed);
        }
        history.check_left(&image, &image.kill(), seed);
    }

    #[test]
    fn on_a_full_disk_the_error_names_it_and_the_checkpoint_before_is_loaded(
        contents in proptest::collection::vec(any::<Contents>(), 1..6),
        space in 0_u64..10_000,
        seed: u64,
    ) {
        let disk = FaultDisk::new();
        disk.limit_space(Some(space));
        let store = open(&disk);
        let mut history = History::default();
        for contents in contents {
            if let Err(error) = history.write(&disk, &store, contents) {
                let why = error.to_string();
                prop_assert!(why.contains("No space left on device"), "{}", why);
            }
        }
        let image = disk.image();
        let after = image.crash(seed);
        after.limit_space(Some(space));
        history.check(image.steps(), open(&after).load().unwrap().as_ref());
        after.limit_space(None);
        history.check_left(&image, &after, seed);
    }
}

#[test]
fn after_a_failed_sync_of_names_nothing_is_tried_again() {
    let disk = FaultDisk::new();
    let store = open(&disk);
    write(&store, &checkpoint(0, 1)).unwrap();
    disk.fail(Op::SyncDir, 2);
    write(&store, &checkpoint(1, 3)).unwrap_err();
    let steps = disk.steps();
    for refused in [write(&store, &checkpoint(2, 3)), store.load().map(|_| ())] {
        assert!(
            matches!(refused, Err(CheckpointError::Failed { .. })),
            "{refused:?}"
        );
    }
    assert_eq!(disk.steps(), steps);
}
