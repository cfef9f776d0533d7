//! Checkpoints: replaced whole, damage seen.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use mode_envoy_storage::checkpoint::{
    Checkpoint, CheckpointError, CheckpointStore, MAX_META_BYTES, MAX_NAME_BYTES,
};
use mode_envoy_storage::disk::RealDisk;
use tempfile::TempDir;

use crate::files::{copy_dir, edit, ending_with};

fn open(dir: &Path) -> CheckpointStore {
    CheckpointStore::open(Arc::new(RealDisk), dir, [1; 16], 1).unwrap()
}

fn chunk(name: &str, content: &str) -> (String, Bytes) {
    (name.to_owned(), Bytes::copy_from_slice(content.as_bytes()))
}

fn checkpoint(meta: &'static str, chunks: &[(String, Bytes)]) -> Checkpoint {
    Checkpoint {
        meta: Bytes::from_static(meta.as_bytes()),
        chunks: chunks.to_vec(),
    }
}

fn chunk_files(dir: &Path) -> Vec<PathBuf> {
    ending_with(&dir.join("chunks"), ".chunk")
}

/// Two checkpoints that share a chunk.
fn two_checkpoints() -> (TempDir, Checkpoint, Checkpoint) {
    let dir = tempfile::tempdir().unwrap();
    let first = checkpoint(
        "first",
        &[chunk("catalog", "shared"), chunk("cells", "old")],
    );
    let second = checkpoint(
        "second",
        &[chunk("catalog", "shared"), chunk("cells", "new")],
    );
    let store = open(dir.path());
    store.write(&first.meta, first.chunks.clone()).unwrap();
    store.write(&second.meta, second.chunks.clone()).unwrap();
    (dir, first, second)
}

#[test]
fn there_is_no_checkpoint_until_one_is_written() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(open(dir.path()).load().unwrap(), None);
    let empty = checkpoint("", &[]);
    open(dir.path()).write(b"", vec![]).unwrap();
    assert_eq!(open(dir.path()).load().unwrap(), Some(empty));
}

#[test]
fn the_newest_checkpoint_is_read_back_after_opening_again() {
    let (dir, _, second) = two_checkpoints();
    assert_eq!(open(dir.path()).load().unwrap(), Some(second));
}

#[test]
fn chunks_on_disk_are_not_written_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.write(b"1", vec![chunk("a", "content")]).unwrap();
    let path = chunk_files(dir.path())[0].clone();
    let written = fs::metadata(&path).unwrap().modified().unwrap();
    store.write(b"2", vec![chunk("b", "content")]).unwrap();
    open(dir.path())
        .write(b"3", vec![chunk("c", "content")])
        .unwrap();
    assert_eq!(chunk_files(dir.path()), std::slice::from_ref(&path));
    assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), written);
}

#[test]
fn chunks_and_manifests_that_no_kept_checkpoint_needs_are_removed() {
    let (dir, _, _) = two_checkpoints();
    assert_eq!(chunk_files(dir.path()).len(), 3);
    fs::write(dir.path().join("chunks/left-over.tmp"), b"x").unwrap();
    fs::write(dir.path().join("manifest-1.tmp"), b"x").unwrap();
    let store = open(dir.path());
    store
        .write(b"third", vec![chunk("cells", "newest")])
        .unwrap();
    // "old" belonged to the first checkpoint only.
    assert_eq!(chunk_files(dir.path()).len(), 3);
    store.write(b"fourth", vec![]).unwrap();
    assert_eq!(chunk_files(dir.path()).len(), 1);
    assert_eq!(ending_with(dir.path(), ".manifest").len(), 2);
    assert!(!dir.path().join("chunks/left-over.tmp").exists());
    assert!(!dir.path().join("manifest-1.tmp").exists());
}

#[test]
fn damage_in_the_newest_checkpoint_falls_back_to_the_one_before() {
    let (dir, first, second) = two_checkpoints();
    let newest = ending_with(dir.path(), ".manifest")[1].clone();
    let content = blake3_path(dir.path(), "new");
    for (path, at) in [(&newest, 0), (&newest, 30), (&newest, 100), (&content, 1)] {
        let copy = tempfile::tempdir().unwrap();
        copy_dir(dir.path(), copy.path());
        edit(
            &copy.path().join(path.strip_prefix(dir.path()).unwrap()),
            |bytes| bytes[at] ^= 1,
        );
        let store = open(copy.path());
        assert_eq!(
            store.load().unwrap(),
            Some(first.clone()),
            "{} at {at}",
            path.display()
        );
        // The one that was intact is still there to fall back to.
        store.write(&second.meta, second.chunks.clone()).unwrap();
        assert_eq!(open(copy.path()).load().unwrap(), Some(second.clone()));
        let rewritten = ending_with(copy.path(), ".manifest")[1].clone();
        edit(&rewritten, |bytes| bytes[40] ^= 1);
        assert_eq!(open(copy.path()).load().unwrap(), Some(first.clone()));
    }
}

fn blake3_path(dir: &Path, content: &str) -> PathBuf {
    let wanted = |path: &PathBuf| fs::read(path).unwrap() == content.as_bytes();
    chunk_files(dir).into_iter().find(wanted).unwrap()
}

#[test]
fn each_flipped_byte_of_a_manifest_or_chunk_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path())
        .write(b"only", vec![chunk("a", "content")])
        .unwrap();
    let manifest = ending_with(dir.path(), ".manifest")[0].clone();
    let content = chunk_files(dir.path())[0].clone();
    for path in [manifest, content] {
        let intact = fs::read(&path).unwrap();
        for at in 0..intact.len() {
            edit(&path, |bytes| bytes[at] ^= 0x40);
            let refused = open(dir.path()).load();
            assert!(refused.is_err(), "{} at {at}", path.display());
            fs::write(&path, &intact).unwrap();
        }
        assert!(open(dir.path()).load().unwrap().is_some());
    }
}

#[test]
fn a_missing_shared_chunk_leaves_no_checkpoint() {
    let (dir, _, _) = two_checkpoints();
    fs::remove_file(blake3_path(dir.path(), "shared")).unwrap();
    let refused = open(dir.path()).load();
    assert!(matches!(refused, Err(CheckpointError::Damaged { .. })));
}

#[test]
fn a_damaged_chunk_is_repaired_by_the_next_checkpoint_that_has_it() {
    let (dir, _, second) = two_checkpoints();
    edit(&blake3_path(dir.path(), "shared"), |bytes| bytes[0] ^= 1);
    let store = open(dir.path());
    store.load().unwrap_err();
    store.write(&second.meta, second.chunks.clone()).unwrap();
    assert_eq!(open(dir.path()).load().unwrap(), Some(second));
}

#[test]
fn files_of_another_cluster_or_node_or_a_newer_format_are_refused_without_falling_back() {
    let (dir, _, _) = two_checkpoints();
    let disk = || Arc::new(RealDisk);
    let other = CheckpointStore::open(disk(), dir.path(), [2; 16], 1).unwrap();
    assert!(matches!(
        other.load(),
        Err(CheckpointError::OtherCluster { .. })
    ));
    assert!(matches!(
        other.write(b"", vec![]),
        Err(CheckpointError::OtherCluster { .. })
    ));
    let other = CheckpointStore::open(disk(), dir.path(), [1; 16], 2).unwrap();
    assert!(matches!(
        other.load(),
        Err(CheckpointError::OtherNode {
            found: 1,
            expected: 2,
            ..
        })
    ));
    edit(&ending_with(dir.path(), ".manifest")[1], |bytes| {
        bytes[4] = 7;
        // The checksum of that format is another.
        bytes[12] ^= 0xff;
    });
    let refused = open(dir.path()).load();
    assert!(matches!(
        refused,
        Err(CheckpointError::NewerFormat { found: 7, .. })
    ));
}

#[test]
fn what_exceeds_a_limit_is_refused_and_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let long_name = "n".repeat(MAX_NAME_BYTES + 1);
    let twice = vec![chunk("a", "1"), chunk("a", "2")];
    let large_meta = vec![0; MAX_META_BYTES + 1];
    for (meta, chunks) in [
        (&b""[..], vec![chunk(&long_name, "")]),
        (b"", twice),
        (&large_meta, vec![]),
    ] {
        let refused = store.write(meta, chunks);
        assert!(matches!(refused, Err(CheckpointError::Invalid { .. })));
    }
    assert_eq!(store.load().unwrap(), None);
    assert!(chunk_files(dir.path()).is_empty());
}
