//! Whatever happens to its files, a projection answers with what was put there, with nothing, or not at all.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::*;
use crate::testing::SplitMix64;

const MIB: u64 = 1 << 20;

type Values = BTreeMap<Key, Vec<u8>>;

fn options(dir: &Path) -> ProjectionOptions {
    let mut options = ProjectionOptions::new(dir, [1; 16], 1);
    options.cache_bytes = 8 * MIB;
    options
}

/// Opens, and waits until it is opened and checked.
fn open(options: ProjectionOptions) -> Projection {
    let projection = Projection::open(options).unwrap();
    projection.retain(b"no such key", b"").unwrap();
    assert!(projection.stats().ready);
    projection
}

fn key(number: u16) -> Key {
    [b"k", &number.to_be_bytes()[..]].concat()
}

/// Content that differs in every version, in some sizes around those of pieces.
fn value(number: u16, version: u64) -> Vec<u8> {
    let sizes = [0, 10, 700, 4_000, 9_000];
    let size = sizes[usize::from(number) % sizes.len()];
    let text = format!("{number}/{version};");
    text.bytes().cycle().take(size).collect()
}

fn values(numbers: std::ops::Range<u16>, version: u64) -> Vec<(Key, Vec<u8>)> {
    numbers
        .map(|number| (key(number), value(number, version)))
        .collect()
}

fn scratch() -> TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

/// sled's directory.
fn place(dir: &Path) -> PathBuf {
    dir.join(fs::read_to_string(dir.join("current")).unwrap())
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// The files below a directory.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        if entry.path().is_dir() {
            found.extend(files(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found.sort();
    found
}

/// A stopped projection whose values were put, partly replaced and partly removed.
fn prepared(dir: &Path) -> Values {
    let projection = open(options(dir));
    projection.put(values(0..300, 1), 1).unwrap();
    projection.put(values(100..200, 2), 2).unwrap();
    projection.retain(b"k", &key(50)).unwrap();
    let first = values(50..100, 1).into_iter().chain(values(200..300, 1));
    first.chain(values(100..200, 2)).collect()
}

#[test]
fn what_was_put_is_read_back_replaced_and_kept_over_a_restart() {
    let dir = scratch();
    let expected = prepared(dir.path());
    let projection = open(options(dir.path()));
    assert_eq!(projection.stats().applied, Some(2));
    assert_eq!(projection.stats().values, 250);
    for number in 0..301 {
        let found = projection.get(&key(number)).unwrap();
        assert_eq!(found.as_ref(), expected.get(&key(number)), "{number}");
    }
    assert_eq!(projection.stats().rebuilds, 0);
}

#[test]
fn the_newest_of_a_value_that_grows_and_shrinks_is_read_and_no_piece_is_left() {
    let dir = scratch();
    let projection = open(options(dir.path()));
    for size in [9_000, 100, MAX_VALUE_BYTES, 0, 5_000] {
        let value = vec![7; size];
        projection
            .put(vec![(b"a".to_vec(), value.clone())], 1)
            .unwrap();
        assert_eq!(projection.get(b"a").unwrap(), Some(value));
    }
    projection.retain(b"a", b"b").unwrap();
    let stats = projection.stats();
    assert_eq!((stats.values, stats.live_bytes), (0, 0), "{stats:?}");
    assert_eq!(stats.blobs, 0);
}

#[test]
fn limits_are_refused_by_name_and_change_nothing() {
    let dir = scratch();
    let projection = open(options(dir.path()));
    let refusals = [
        projection.put(vec![(vec![], vec![])], 1),
        projection.put(vec![(vec![1; 256], vec![])], 1),
        projection.put(vec![(vec![1], vec![0; MAX_VALUE_BYTES + 1])], 1),
        projection.put(vec![(vec![1], vec![]); MAX_ENTRIES + 1], 1),
    ];
    for (refusal, names) in refusals
        .into_iter()
        .zip(["0 bytes", "256", "1048577", "4097"])
    {
        let refusal = refusal.unwrap_err().to_string();
        assert!(refusal.contains(names), "{refusal}");
    }
    assert_eq!(projection.stats().applied, None);
}

#[test]
fn deleted_while_stopped_it_begins_anew() {
    let dir = scratch();
    prepared(dir.path());
    fs::remove_dir_all(dir.path()).unwrap();
    let projection = open(options(dir.path()));
    assert_eq!(projection.stats().applied, None);
    assert_eq!(projection.get(&key(100)).unwrap(), None);
    projection.put(values(0..10, 3), 3).unwrap();
    assert_eq!(projection.get(&key(3)).unwrap(), Some(value(3, 3)));
}

#[test]
fn deleted_while_running_it_says_so_at_the_next_change_and_begins_anew() {
    let dir = scratch();
    prepared(dir.path());
    for deleted in [dir.path().to_owned(), place(dir.path())] {
        let projection = open(options(dir.path()));
        projection.put(values(0..10, 3), 3).unwrap();
        fs::remove_dir_all(&deleted).unwrap();
        let told = projection.put(values(0..10, 4), 4).unwrap_err();
        assert!(matches!(told, ProjectionError::Dropped { .. }), "{told}");
        assert_eq!(projection.stats().applied, None);
        assert_eq!(projection.get(&key(3)).unwrap(), None);
        projection.put(values(0..10, 4), 4).unwrap();
        assert_eq!(projection.get(&key(3)).unwrap(), Some(value(3, 4)));
        drop(projection);
        // The database that was deleted may still write into its place as it ends; then nothing is believed.
        let found = open(options(dir.path())).get(&key(3)).unwrap();
        assert!(found.is_none() || found == Some(value(3, 4)));
    }
}

#[test]
fn what_a_kill_during_the_opening_leaves_does_not_keep_it_from_opening() {
    let dir = scratch();
    let expected = prepared(dir.path());
    let place = place(dir.path());
    fs::write(place.join("snap.00000000FFFFFFFF.generating"), b"half").unwrap();
    fs::write(place.join("snap.FFFFFFFFFFFFFFFF"), b"").unwrap();
    fs::create_dir(dir.path().join("77")).unwrap();
    let projection = open(options(dir.path()));
    assert_eq!(projection.stats().rebuilds, 0);
    for (key, value) in &expected {
        assert_eq!(projection.get(key).unwrap().as_ref(), Some(value));
    }
    assert!(!dir.path().join("77").exists());
}

#[test]
fn one_flipped_byte_anywhere_never_leads_to_another_value() {
    let dir = scratch();
    let expected = prepared(dir.path());
    let mut rng = SplitMix64::new(11);
    let (mut whole, mut rebuilt) = (0, 0);
    for file in files(dir.path()) {
        let bytes = fs::read(&file).unwrap();
        let name = file.strip_prefix(dir.path()).unwrap();
        let used = bytes
            .iter()
            .rposition(|byte| *byte != 0)
            .map_or(0, |last| last + 1);
        let small = used < 4_096;
        for round in 0..if small { 12 } else { 60 } {
            let damaged = scratch();
            copy(dir.path(), damaged.path());
            let mut flipped = bytes.clone();
            let at = if round == 0 {
                0
            } else {
                rng.below(used.max(1))
            };
            let Some(byte) = flipped.get_mut(at) else {
                continue;
            };
            *byte ^= 1 << rng.below(8);
            fs::write(damaged.path().join(name), flipped).unwrap();
            let projection = open(options(damaged.path()));
            for (key, value) in &expected {
                // Missing, or an error, is no wrong value.
                if let Ok(Some(found)) = projection.get(key) {
                    assert_eq!(&found, value, "{} at {at}", name.display());
                }
            }
            match projection.stats().rebuilds {
                0 => whole += 1,
                _ => rebuilt += 1,
            }
            // It works on, whatever was there.
            projection.put(values(0..5, 9), 9).unwrap();
            assert_eq!(projection.get(&key(1)).unwrap(), Some(value(1, 9)));
        }
    }
    assert!(whole > 0 && rebuilt > 0, "{whole} whole, {rebuilt} rebuilt");
}

#[test]
fn an_older_state_of_the_data_file_under_a_newer_name_is_no_wrong_value() {
    let dir = scratch();
    let projection = open(options(dir.path()));
    projection.put(values(0..50, 1), 1).unwrap();
    drop(projection);
    let old = scratch();
    copy(dir.path(), old.path());
    let projection = open(options(dir.path()));
    projection.put(values(0..25, 2), 2).unwrap();
    drop(projection);
    fs::copy(place(old.path()).join("db"), place(dir.path()).join("db")).unwrap();
    let projection = open(options(dir.path()));
    // Rolled back as a whole, and it says how far; or begun anew.
    if projection.stats().applied == Some(1) {
        assert_eq!(projection.get(&key(3)).unwrap(), Some(value(3, 1)));
    } else {
        assert_eq!(projection.get(&key(3)).unwrap(), None);
    }
}

#[test]
fn a_file_that_has_outgrown_what_lives_in_it_is_written_anew() {
    let dir = scratch();
    let mut small = options(dir.path());
    small.rewrite_above = 2 * MIB;
    let projection = open(small.clone());
    for version in 1..=6 {
        projection.put(values(0..1_500, version), version).unwrap();
    }
    let before = projection.stats();
    projection.retain(b"k", &key(1_400)).unwrap();
    let after = projection.stats();
    assert!(after.rewrites > before.rewrites, "{after:?}");
    assert!(
        after.size_on_disk < before.size_on_disk / 4,
        "{before:?} {after:?}"
    );
    let check = |projection: &Projection| {
        for number in 1_390..1_500 {
            let expected = (number >= 1_400).then(|| value(number, 6));
            assert_eq!(projection.get(&key(number)).unwrap(), expected);
        }
        assert_eq!(projection.stats().applied, Some(6));
    };
    check(&projection);
    projection.put(values(0..3, 7), 6).unwrap();
    drop(projection);
    let again = open(small);
    check(&again);
    assert_eq!(again.get(&key(1)).unwrap(), Some(value(1, 7)));
    assert_eq!(again.stats().rebuilds, 0);
}

#[test]
fn what_belongs_to_another_node_is_not_read() {
    let dir = scratch();
    prepared(dir.path());
    let mut other = options(dir.path());
    other.node_id = 2;
    let projection = open(other);
    assert_eq!(projection.stats().rebuilds, 1);
    assert_eq!(projection.get(&key(100)).unwrap(), None);
    assert!(dir.path().join("failed").is_dir());
}

/// Not a test of its own: the process that the next one kills.
#[test]
fn child_that_puts_until_it_is_killed() {
    let Ok(dir) = std::env::var("PROJECTION_TEST_DIR") else {
        return;
    };
    let projection = open(options(Path::new(&dir)));
    let from = projection.stats().applied.unwrap_or(0);
    for version in from + 1.. {
        projection.put(values(0..100, version), version).unwrap();
        writeln!(std::io::stdout(), "put {version}").unwrap();
    }
}

#[test]
fn killed_at_any_moment_it_holds_one_state_that_it_was_in() {
    let dir = scratch();
    let mut told = 0;
    for round in 1..8_u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["child_that_puts_until_it_is_killed", "--nocapture"])
            .env("PROJECTION_TEST_DIR", dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let number = |line: std::io::Result<String>| line.ok()?.strip_prefix("put ")?.parse().ok();
        let last: Option<u64> = lines
            .filter_map(number)
            .nth(usize::try_from(round).unwrap());
        child.kill().unwrap();
        child.wait().unwrap();
        told = last.unwrap_or(told);
        let projection = open(options(dir.path()));
        let applied = projection.stats().applied.unwrap();
        assert_eq!(projection.stats().rebuilds, 0);
        assert!(applied >= told, "{applied} of {told}");
        for number in 0..100 {
            assert_eq!(
                projection.get(&key(number)).unwrap(),
                Some(value(number, applied))
            );
        }
    }
}
