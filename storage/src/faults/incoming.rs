//! Checkpoints of another node: the one before, or the whole new one, and nothing is left of a transfer that broke.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;

use crate::checkpoint::{Checkpoint, CheckpointError, CheckpointStore, ChunkRef};
use crate::disk::Disk;
use crate::testing::{FaultDisk, Op};

const DIR: &str = "/data/checkpoint";

/// Small, so that chunks come in several pieces.
const PIECE: usize = 100;

fn open(disk: &FaultDisk) -> Arc<CheckpointStore> {
    let store = CheckpointStore::open(Arc::new(disk.clone()), DIR, [1; 16], 1);
    Arc::new(store.unwrap())
}

/// Chunks by the bits of a number, so that two checkpoints share some; one of them is empty.
fn checkpoint(meta: &'static str, contents: u8) -> Checkpoint {
    let numbers = (0..8_usize).filter(|bit| contents & (1 << bit) != 0);
    let chunks = numbers.map(|bit| {
        let content = format!("content {bit};").repeat(bit * 15);
        (format!("chunk {bit}"), Bytes::from(content))
    });
    Checkpoint {
        meta: Bytes::from_static(meta.as_bytes()),
        chunks: chunks.collect(),
    }
}

fn refs(checkpoint: &Checkpoint) -> Vec<ChunkRef> {
    let chunks = checkpoint.chunks.iter();
    let one = chunks.map(|(name, content)| ChunkRef {
        name: name.clone(),
        bytes: content.len() as u64,
        hash: *blake3::hash(content).as_bytes(),
    });
    one.collect()
}

/// Receives all that is lacking; how many chunks that were.
fn receive(
    store: &Arc<CheckpointStore>,
    checkpoint: &Checkpoint,
) -> Result<usize, CheckpointError> {
    let mut incoming = store.receive(checkpoint.meta.clone(), refs(checkpoint))?;
    let lacking = incoming.lacking().to_vec();
    for chunk in lacking.iter().copied() {
        let content = &checkpoint.chunks[chunk].1;
        let offsets = (0..content.len().max(1)).step_by(PIECE);
        for offset in offsets {
            let end = content.len().min(offset + PIECE);
            incoming.put(chunk, offset as u64, &content[offset..end])?;
        }
    }
    incoming.commit()?;
    Ok(lacking.len())
}

fn loaded(disk: &FaultDisk) -> Option<Checkpoint> {
    open(disk).load().unwrap()
}

fn names(disk: &FaultDisk, dir: &str) -> Vec<String> {
    disk.list(Path::new(dir)).unwrap()
}

/// Fails unless there are just the files of these checkpoints.
fn check_no_leftovers(disk: &FaultDisk, kept: &[&Checkpoint]) {
    let contents = kept.iter().flat_map(|kept| &kept.chunks);
    let wanted: BTreeSet<_> = contents
        .map(|(_, content)| format!("{}.chunk", blake3::hash(content).to_hex()))
        .collect();
    let wanted: Vec<_> = wanted.into_iter().collect();
    assert_eq!(names(disk, &format!("{DIR}/chunks")), wanted);
    assert_eq!(names(disk, DIR).len(), 1 + kept.len());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn whatever_step_of_receiving_a_crash_hits_the_old_checkpoint_or_the_whole_new_one_is_loaded(
        old: u8,
        new: u8,
        seed: u64,
    ) {
        let disk = FaultDisk::new();
        let (old, new) = (checkpoint("old", old), checkpoint("new", new));
        let store = open(&disk);
        store.write(&old.meta, old.chunks.clone()).unwrap();
        disk.record_steps();
        let lacking = receive(&store, &new).unwrap();
        let shared = new.chunks.iter().filter(|chunk| old.chunks.contains(chunk));
        prop_assert_eq!(lacking, new.chunks.len() - shared.count(), "chunks that are here are not sent");
        let last = disk.image();
        prop_assert_eq!(loaded(&last.crash(seed)), Some(new.clone()));

        for (at, image) in (0..).zip(disk.take_images()) {
            let seed = seed.wrapping_add(at);
            for left in [image.kill(), image.crash(seed)] {
                let store = open(&left);
                let found = store.load().unwrap();
                prop_assert!(found.as_ref() == Some(&old) || found.as_ref() == Some(&new));
                let parts = names(&left, &format!("{DIR}/chunks"));
                prop_assert!(!parts.concat().contains(".part"), "{:?}", parts);
                // The next transfer begins with what had arrived, and ends as if nothing had been.
                prop_assert!(receive(&store, &new).unwrap() <= lacking);
                let again = left.image().crash(seed / 3);
                prop_assert_eq!(loaded(&again), Some(new.clone()));
                check_no_leftovers(&left, &[found.as_ref().unwrap_or(&old), &new]);
            }
        }
    }

    #[test]
    fn a_failed_operation_ends_the_transfer_and_the_old_checkpoint_stays(
        old: u8,
        new: u8,
        op in prop_oneof![
            Just(Op::SyncDir), Just(Op::Sync), Just(Op::Write), Just(Op::Create), Just(Op::Rename), Just(Op::Read),
        ],
        nth in 1_u64..12,
        seed: u64,
    ) {
        let disk = FaultDisk::new();
        let (old, new) = (checkpoint("old", old), checkpoint("new", new));
        let store = open(&disk);
        store.write(&old.meta, old.chunks.clone()).unwrap();
        disk.fail(op, nth);
        let received = receive(&store, &new);
        for seed in seed..seed.saturating_add(8) {
            let left = disk.image().crash(seed);
            let found = loaded(&left);
            if received.is_ok() {
                prop_assert_eq!(found.as_ref(), Some(&new));
            } else {
                prop_assert!(found.as_ref() == Some(&old) || found.as_ref() == Some(&new));
            }
            receive(&open(&left), &new).unwrap();
            prop_assert_eq!(loaded(&left), Some(new.clone()));
        }
    }
}

#[test]
fn what_was_not_announced_is_refused_and_leaves_nothing() {
    let disk = FaultDisk::new();
    let store = open(&disk);
    let new = checkpoint("new", 0b110);
    let first = new.chunks[0].1.clone();
    let mut changed = first.to_vec();
    changed[3] ^= 1;
    let attempts: [(usize, u64, &[u8]); 6] = [
        (1, 0, &first),
        (0, 1, &first),
        (0, 0, b""),
        (0, 0, &changed),
        (0, 0, &[&first[..], b"x"].concat()),
        (7, 0, &first),
    ];
    for (chunk, offset, data) in attempts {
        let mut incoming = store.receive(new.meta.clone(), refs(&new)).unwrap();
        assert_eq!(incoming.lacking(), [0, 1]);
        let refused = incoming.put(chunk, offset, data).unwrap_err();
        assert!(
            matches!(refused, CheckpointError::Unannounced { .. }),
            "{refused}"
        );
    }
    let mut incoming = store.receive(new.meta.clone(), refs(&new)).unwrap();
    incoming.put(0, 0, &first[..5]).unwrap();
    assert_eq!(names(&disk, &format!("{DIR}/chunks")).len(), 1);
    incoming.commit().unwrap_err();
    assert_eq!(names(&disk, &format!("{DIR}/chunks")).len(), 0);
    assert_eq!(store.load().unwrap(), None);
}

#[test]
fn a_chunk_of_the_right_name_with_other_bytes_is_sent_again() {
    let disk = FaultDisk::new();
    let store = open(&disk);
    let one = checkpoint("one", 0b110);
    store.write(&one.meta, one.chunks.clone()).unwrap();
    let name = format!("{}.chunk", blake3::hash(&one.chunks[1].1).to_hex());
    let path = Path::new(DIR).join("chunks").join(name);
    let mut bytes = disk.bytes(&path).unwrap();
    bytes[7] ^= 1;
    disk.replace(&path, bytes);
    assert_eq!(receive(&store, &one).unwrap(), 1);
    assert_eq!(open(&disk).load().unwrap(), Some(one));
}

#[test]
fn a_chunk_that_is_here_and_cannot_be_read_is_sent_again() {
    let disk = FaultDisk::new();
    let store = open(&disk);
    let one = checkpoint("one", 0b110);
    store.write(&one.meta, one.chunks.clone()).unwrap();
    // The manifest is read first, and must be read.
    let lacks_one = |nth: &u64| {
        disk.fail(Op::Read, *nth);
        let incoming = store.receive(one.meta.clone(), refs(&one));
        incoming.is_ok_and(|incoming| incoming.lacking() == [0])
    };
    let nth = (1..10).find(lacks_one).expect("a chunk is lacking");
    disk.fail(Op::Read, nth);
    assert_eq!(receive(&store, &one).unwrap(), 1);
    assert_eq!(open(&disk).load().unwrap(), Some(one));
}

#[test]
fn what_is_held_stays_while_checkpoints_are_written_and_goes_afterwards() {
    let disk = FaultDisk::new();
    let store = open(&disk);
    let first = checkpoint("first", 0b11_0000);
    store.write(&first.meta, first.chunks.clone()).unwrap();
    let held = store.hold(|meta| meta == b"first").unwrap().unwrap();
    assert!(store.hold(|meta| meta == b"other").unwrap().is_none());
    let incoming_of = checkpoint("incoming", 0b0001_0000);
    let mut incoming = store
        .receive(incoming_of.meta.clone(), refs(&incoming_of))
        .unwrap();
    assert!(incoming.is_complete(), "all of it is here");
    let arriving = checkpoint("arriving", 0b1000_0000);
    drop(incoming);
    incoming = store
        .receive(arriving.meta.clone(), refs(&arriving))
        .unwrap();
    incoming.put(0, 0, &arriving.chunks[0].1[..PIECE]).unwrap();
    let busy = store.receive(first.meta.clone(), refs(&first));
    assert!(matches!(busy, Err(CheckpointError::Busy)));

    let others = [
        checkpoint("second", 0b0010),
        checkpoint("third", 0b0100),
        checkpoint("fourth", 0b1000),
    ];
    for other in &others {
        store.write(&other.meta, other.chunks.clone()).unwrap();
    }
    assert_eq!(store.kept().unwrap(), [&b"third"[..], b"fourth"]);
    assert_eq!(store.held(), [&b"first"[..]]);
    for (chunk, (_, content)) in held.chunks().iter().zip(&first.chunks) {
        assert_eq!(held.read(chunk).unwrap(), content);
    }
    incoming
        .put(0, PIECE as u64, &arriving.chunks[0].1[PIECE..])
        .unwrap();
    incoming.commit().unwrap();
    drop(held);
    store.write(b"last", vec![]).unwrap();
    let last = checkpoint("last", 0);
    check_no_leftovers(&disk, &[&arriving, &last]);
}

#[test]
fn a_checkpoint_that_does_not_fit_or_exceeds_a_limit_is_refused_before_anything_is_written() {
    let disk = FaultDisk::new();
    let store = open(&disk);
    let new = checkpoint("new", 0b110);
    disk.limit_space(Some(64 << 20));
    let refused = store.receive(new.meta.clone(), refs(&new)).unwrap_err();
    assert!(refused.to_string().contains("make room"), "{refused}");
    disk.limit_space(None);
    let mut twice = refs(&new);
    twice[1].name = "chunk 1".to_owned();
    let mut contradiction = refs(&new);
    contradiction[1].hash = contradiction[0].hash;
    let mut huge = refs(&new);
    huge[0].bytes = u64::MAX;
    for chunks in [twice, contradiction, huge] {
        let refused = store.receive(new.meta.clone(), chunks).unwrap_err();
        assert!(
            matches!(refused, CheckpointError::Invalid { .. }),
            "{refused}"
        );
    }
    assert_eq!(names(&disk, DIR), ["chunks"]);
}
