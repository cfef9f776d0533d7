//! Call logs: what is found are the records before the position that is found, each once.
//!
//! Records are numbered from 0 and a block's position is the number of the next one, as if a feed could give every record
//! again. So after any crash the log and the feed together have each record once if the log has just those before the
//! position. Damage may take one block, and never makes a record.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use proptest::prelude::*;

use crate::call_log::{CallEntry, CallLog, CallLogError, CallLogOptions, CallLogReader, Search};
use crate::disk::Disk;
use crate::testing::{FaultDisk, Op};

const DIR: &str = "/data/calls";
const MINUTE: u64 = 60_000;

/// A stretch of work.
#[derive(Clone, Debug)]
enum Work {
    Append {
        count: u64,
    },
    Block,
    Sync,
    /// Time passes.
    Tick {
        minutes: u64,
    },
}

/// A log that is fed with numbers.
struct Feed {
    log: CallLog,
    reader: CallLogReader,
    next: u64,
    in_blocks: u64,
    synced: u64,
    now_ms: u64,
}

fn options() -> CallLogOptions {
    CallLogOptions {
        segment_bytes: 4_096,
        block_bytes: 2_000,
        ..CallLogOptions::new(DIR, [1; 16], 1)
    }
}

fn text(number: u64) -> String {
    format!("record {number} {}", "x".repeat((number * 7 % 90) as usize))
}

fn hash(number: u64) -> u64 {
    number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// The numbers of all records that match, each checked to be what was written.
fn read(reader: &CallLogReader, search: &Search) -> Vec<u64> {
    let mut numbers = Vec::new();
    let mut visit = |_: u64, bytes: &[u8]| {
        let told = std::str::from_utf8(bytes).unwrap();
        let number = told.split(' ').nth(1).unwrap().parse().unwrap();
        assert_eq!(told, text(number));
        numbers.push(number);
        0
    };
    reader.search(search, &mut visit).unwrap();
    numbers.sort_unstable();
    numbers
}

fn all() -> Search {
    Search {
        from_ms: 0,
        to_ms: u64::MAX,
        hashes: Vec::new(),
    }
}

// === impl Feed ===

impl Feed {
    fn open(
        disk: &FaultDisk,
        options: CallLogOptions,
    ) -> Result<(Self, Vec<String>), CallLogError> {
        let (log, reader, found) = CallLog::open(Arc::new(disk.clone()), options, MINUTE)?;
        let position = found.position.as_deref().unwrap_or(&[0; 8]);
        let next = u64::from_le_bytes(position.try_into().unwrap());
        let feed = Self {
            log,
            reader,
            next,
            in_blocks: next,
            synced: next,
            now_ms: MINUTE,
        };
        Ok((feed, found.damaged))
    }

    fn append(&mut self, count: u64) -> Result<(), CallLogError> {
        for _ in 0..count {
            if self.log.wants_block() {
                self.block()?;
            }
            let text = text(self.next);
            self.log.append(&CallEntry {
                time_ms: self.now_ms + self.next,
                hashes: &[hash(self.next)],
                bytes: text.as_bytes(),
            })?;
            self.next += 1;
        }
        Ok(())
    }

    fn block(&mut self) -> Result<(), CallLogError> {
        self.log
            .write_block(&self.next.to_le_bytes(), self.now_ms)?;
        self.in_blocks = self.next;
        Ok(())
    }

    fn work(&mut self, work: &Work) -> Result<(), CallLogError> {
        match *work {
            Work::Append { count } => self.append(count),
            Work::Block => self.block(),
            Work::Sync => {
                self.log.sync()?;
                self.synced = self.in_blocks;
                Ok(())
            }
            Work::Tick { minutes } => {
                self.now_ms += minutes * MINUTE;
                self.log.tick(self.now_ms)
            }
        }
    }
}

/// Opens what is left and goes on: the log has what is before its position, and keeps it.
fn check_left(disk: &FaultDisk, synced: u64, written: u64, seed: u64) {
    let (mut feed, damaged) = Feed::open(disk, options()).unwrap();
    assert_eq!(damaged, Vec::<String>::new(), "a crash is taken for damage");
    assert!(feed.next >= synced, "{} of {synced} synced", feed.next);
    assert!(feed.next <= written, "{} of {written} written", feed.next);
    assert_eq!(
        read(&feed.reader, &all()),
        (0..feed.next).collect::<Vec<_>>()
    );
    feed.append(30).unwrap();
    feed.block().unwrap();
    feed.work(&Work::Sync).unwrap();
    let expected: Vec<_> = (0..feed.next).collect();
    drop(feed);
    let (feed, damaged) = Feed::open(&disk.image().crash(seed), options()).unwrap();
    assert_eq!(damaged, Vec::<String>::new());
    assert_eq!(read(&feed.reader, &all()), expected);
}

fn works() -> impl Strategy<Value = Vec<Work>> {
    let work = prop_oneof![
        4 => (1_u64..60).prop_map(|count| Work::Append { count }),
        2 => Just(Work::Block),
        2 => Just(Work::Sync),
        1 => (1_u64..12).prop_map(|minutes| Work::Tick { minutes }),
    ];
    proptest::collection::vec(work, 1..12)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn whatever_step_a_crash_hits_the_log_has_the_records_before_its_position(
        works in works(),
        seed: u64,
    ) {
        let disk = FaultDisk::new();
        disk.record_steps();
        let (mut feed, _) = Feed::open(&disk, options()).unwrap();
        let mut synced_at = vec![(0, 0)];
        for work in &works {
            feed.work(work).unwrap();
            synced_at.push((disk.steps(), feed.synced));
        }
        let written = feed.next;
        let last = disk.image();
        for (at, image) in (0..).zip(disk.take_images().into_iter().chain([last])) {
            let seed = seed.wrapping_add(at);
            let done = synced_at.iter().filter(|(steps, _)| *steps <= image.steps());
            let synced = done.map(|(_, synced)| *synced).max().unwrap_or(0);
            check_left(&image.kill(), synced, written, seed);
            check_left(&image.crash(seed), synced, written, seed);
        }
    }

    #[test]
    fn a_failed_operation_ends_the_writing_and_no_synced_record_is_lost(
        works in works(),
        op in prop_oneof![
            3 => Just(Op::Write), 3 => Just(Op::Sync), 1 => Just(Op::Create), 1 => Just(Op::SyncDir),
        ],
        nth in 1_u64..8,
        seed: u64,
    ) {
        let disk = FaultDisk::new();
        let (mut feed, _) = Feed::open(&disk, options()).unwrap();
        disk.fail(op, nth);
        let mut failed = false;
        for work in &works {
            match feed.work(work) {
                Ok(()) => prop_assert!(!failed, "it went on after a failure"),
                Err(error) => {
                    prop_assert!(error.to_string().contains(DIR), "{}", error);
                    failed = true;
                }
            }
        }
        prop_assert_eq!(read(&feed.reader, &all()), (0..feed.next).collect::<Vec<_>>());
        let (synced, written) = (feed.synced, feed.next);
        drop(feed);
        check_left(&disk.image().crash(seed), synced, written, seed);
        check_left(&disk.image().kill(), synced, written, seed);
    }
}

/// A few sealed segments and one that is not, all synced; the process was killed.
fn written() -> (FaultDisk, u64) {
    let disk = FaultDisk::new();
    let (mut feed, _) = Feed::open(&disk, options()).unwrap();
    for _ in 0..16 {
        feed.append(60).unwrap();
        feed.block().unwrap();
        feed.work(&Work::Sync).unwrap();
    }
    let next = feed.next;
    drop(feed);
    (disk, next)
}

fn files(disk: &FaultDisk) -> Vec<PathBuf> {
    let names = disk.list(Path::new(DIR)).unwrap();
    names.iter().map(|name| Path::new(DIR).join(name)).collect()
}

/// What is left must be the records but for one block, which is counted.
fn check_damaged(disk: &FaultDisk, next: u64, what: &str) {
    let (feed, _) = Feed::open(disk, options()).unwrap();
    let found = read(&feed.reader, &all());
    let missing: Vec<_> = (0..next)
        .filter(|n| found.binary_search(n).is_err())
        .collect();
    assert_eq!(
        found.len() + missing.len(),
        usize::try_from(next).unwrap(),
        "{what}: twice"
    );
    if let (Some(first), Some(last)) = (missing.first(), missing.last()) {
        assert_eq!(
            last - first + 1,
            missing.len() as u64,
            "{what}: {missing:?}"
        );
        assert!(
            missing.len() <= 40,
            "{what}: more than a block is missing: {missing:?}"
        );
        assert!(feed.reader.damaged() > 0, "{what}: not counted");
    }
    assert!(
        feed.next == next || missing.contains(&feed.next),
        "{what}: {}",
        feed.next
    );
}

#[test]
fn a_flipped_byte_anywhere_takes_one_block_at_most_and_makes_no_record() {
    let (disk, next) = written();
    let whole = disk.image();
    assert!(files(&disk).len() >= 3, "{:?}", files(&disk));
    let mut mask = 0_u8;
    for path in files(&disk) {
        let bytes = disk.bytes(&path).unwrap();
        // Heads and ends byte by byte, what is between them by samples.
        let ends = (0..200).chain(bytes.len() - 200..bytes.len());
        for at in ends.chain((200..bytes.len() - 200).step_by(11)) {
            mask = mask.wrapping_add(37) | 1;
            let (damaged, mut bytes) = (whole.kill(), bytes.clone());
            bytes[at] ^= mask;
            damaged.replace(&path, bytes);
            check_damaged(&damaged, next, &format!("{} {at} {mask}", path.display()));
        }
    }
}

#[test]
fn a_flipped_byte_is_found_while_the_log_is_open_too() {
    let (disk, next) = written();
    let (feed, _) = Feed::open(&disk, options()).unwrap();
    let path = files(&disk).remove(0);
    let mut bytes = disk.bytes(&path).unwrap();
    bytes[200] ^= 4;
    disk.replace(&path, bytes);
    let found = read(&feed.reader, &all());
    assert!(
        found.len() < usize::try_from(next).unwrap() && found.len() > 400,
        "{}",
        found.len()
    );
    assert_eq!(feed.reader.damaged(), 1);
}

#[test]
fn a_last_block_that_cannot_be_read_is_damage_and_its_records_come_again() {
    let (disk, next) = written();
    drop(Feed::open(&disk, options()).unwrap());
    let whole = disk.image();
    let mut survived = None;
    for nth in 1..1_000 {
        let disk = whole.kill();
        disk.fail(Op::Read, nth);
        match Feed::open(&disk, options()) {
            Err(_) => {}
            // All reads of an opening are through.
            Ok((feed, _)) if feed.reader.damaged() == 0 => {
                assert_eq!(feed.next, next);
                assert_eq!(
                    survived,
                    Some(nth - 1),
                    "the last read is that of the last block"
                );
                return;
            }
            Ok((feed, _)) => {
                // A block, or all of its segment.
                assert!(feed.next < next && feed.next + 200 >= next, "{}", feed.next);
                survived = Some(nth);
            }
        }
    }
    panic!("an opening reads without end");
}

#[test]
fn searches_go_by_time_and_by_hash_and_end_when_nobody_wants_more() {
    let (disk, next) = written();
    let (mut feed, _) = Feed::open(&disk, options()).unwrap();
    feed.append(5).unwrap();
    let one = Search {
        hashes: vec![hash(77)],
        ..all()
    };
    let mut shown = read(&feed.reader, &one);
    assert!(shown.len() < 80, "the filter passes over most blocks");
    shown.retain(|number| *number == 77);
    assert_eq!(shown, [77]);
    let range = Search {
        from_ms: MINUTE + 100,
        to_ms: MINUTE + 120,
        hashes: Vec::new(),
    };
    assert_eq!(read(&feed.reader, &range), (100..120).collect::<Vec<_>>());
    // Whoever wants the newest alone does not read the oldest.
    let mut visit = |time_ms: u64, _: &[u8]| time_ms;
    let found = feed.reader.search(&all(), &mut visit).unwrap();
    assert!(found.read <= 1, "{found:?}");
    assert_eq!(read(&feed.reader, &all()).len() as u64, next + 5);
}

#[test]
fn what_is_too_much_or_too_old_is_dropped_by_whole_segments_the_oldest_first() {
    let disk = FaultDisk::new();
    let bounded = CallLogOptions {
        max_bytes: 12_000,
        ..options()
    };
    let (mut feed, _) = Feed::open(&disk, bounded.clone()).unwrap();
    for _ in 0..60 {
        feed.append(20).unwrap();
        feed.block().unwrap();
        feed.work(&Work::Sync).unwrap();
        feed.work(&Work::Tick { minutes: 0 }).unwrap();
        assert!(feed.log.bytes() <= 12_000 + 4_096, "{}", feed.log.bytes());
    }
    let kept = read(&feed.reader, &all());
    assert_eq!(kept, (kept[0]..feed.next).collect::<Vec<_>>());
    assert!(
        kept[0] > 0 && kept.len() > 50,
        "{} from {}",
        kept.len(),
        kept[0]
    );
    drop(feed);
    let (mut feed, _) = Feed::open(&disk, bounded).unwrap();
    assert_eq!(read(&feed.reader, &all()), kept);
    // Eight days later the newest segment stays alone: its position says where the feed stands.
    feed.work(&Work::Tick {
        minutes: 8 * 24 * 60,
    })
    .unwrap();
    assert_eq!(files(&disk).len(), 1);
    let next = feed.next;
    drop(feed);
    let (feed, _) = Feed::open(&disk, options()).unwrap();
    assert_eq!(feed.next, next);
}

#[test]
fn files_of_another_node_or_a_newer_release_are_refused_and_an_open_log_is_in_use() {
    let (disk, _) = written();
    let other = CallLogOptions {
        node_id: 2,
        ..options()
    };
    let refused = Feed::open(&disk, other).err().unwrap();
    assert!(matches!(refused, CallLogError::NotOurs { .. }), "{refused}");
    let (feed, _) = Feed::open(&disk, options()).unwrap();
    let refused = Feed::open(&disk, options()).err().unwrap();
    assert!(matches!(refused, CallLogError::InUse { .. }), "{refused}");
    drop(feed);
    let long = vec![0; 70_000];
    let (mut feed, _) = Feed::open(&disk, options()).unwrap();
    let entry = CallEntry {
        time_ms: 0,
        hashes: &[],
        bytes: &long,
    };
    assert!(matches!(
        feed.log.append(&entry),
        Err(CallLogError::TooLong { .. })
    ));
}
