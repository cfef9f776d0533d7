//! The log: crashes at every step, failing operations, full disks.

use proptest::prelude::*;
use proptest::sample::Index;

use super::history::{Call, History, State, groups, number_of, open, segments, wait};
use crate::testing::{FaultDisk, Image, Op};
use crate::wal::{Recovered, Wal, WalError};

/// How an image comes to be opened again.
#[derive(Clone, Copy, Debug)]
enum Accident {
    Kill,
    PowerCut(u64),
}

fn accidents() -> impl Strategy<Value = Accident> {
    prop_oneof![
        1 => Just(Accident::Kill),
        4 => any::<u64>().prop_map(Accident::PowerCut),
    ]
}

// === impl Accident ===

impl Accident {
    fn happen(self, image: &Image) -> FaultDisk {
        match self {
            Self::Kill => image.kill(),
            Self::PowerCut(seed) => image.crash(seed),
        }
    }

    /// Another one, which follows from this and a number.
    fn another(self, number: u64) -> Self {
        match self {
            Self::Kill if number.is_multiple_of(5) => Self::PowerCut(number),
            Self::PowerCut(_) if number.is_multiple_of(5) => Self::Kill,
            Self::Kill => Self::PowerCut(number),
            Self::PowerCut(seed) => Self::PowerCut(seed.wrapping_mul(31).wrapping_add(number)),
        }
    }
}

fn opened(disk: &FaultDisk, what: &str) -> (Wal, Recovered) {
    open(disk).unwrap_or_else(|error| panic!("{what}: {error}"))
}

/// Opens what an accident leaves of an image and checks it, then crashes within and after the opening.
fn check_accident(history: &History, image: &Image, accident: Accident) -> (FaultDisk, History) {
    let bounds = history.bounds(image.steps());
    let disk = accident.happen(image);
    disk.record_steps();
    let (wal, recovered) = opened(&disk, "after an accident");
    let found = history.check(&wal, &recovered, bounds);
    let settled = disk.image();
    let during = disk.take_images();
    for (at, image) in (1..).zip(during) {
        let again = accident.another(at).happen(&image);
        let (wal, recovered) = opened(&again, "after an accident while opening");
        history.check(&wal, &recovered, bounds);
    }
    // What an opening has shown is as good as acknowledged.
    let again = accident.another(0).happen(&settled);
    let (same, recovered_again) = opened(&again, "after an accident behind an opening");
    assert_eq!(State::of(&same, &recovered_again), found);
    assert_eq!(recovered_again.committed, recovered.committed);
    // And the log can be built on.
    let committed = number_of(recovered.committed.as_ref());
    let mut next = History::new(found, committed, history.last_term() + 1);
    let group = [Call::Vote, Call::Append { count: 2, bytes: 9 }];
    assert!(next.drive(&disk, &wal, &group));
    let image = disk.image();
    let (built, recovered_built) = opened(&accident.another(1).happen(&image), "built on");
    assert_eq!(
        &State::of(&built, &recovered_built),
        next.states.last().unwrap()
    );
    wal.close();
    disk.take_images();
    (disk, next)
}

/// Lives of a log: in each, calls; then an accident at some step of them, with which the next begins.
fn live(lives: Vec<(Vec<Vec<Call>>, Index, Accident)>) {
    let (mut disk, mut history) = (FaultDisk::new(), History::new(State::default(), 0, 0));
    for (groups, chosen, accident) in lives {
        disk.record_steps();
        let (wal, _) = opened(&disk, "once more");
        history = history.go_on();
        for group in &groups {
            assert!(history.drive(&disk, &wal, group));
        }
        let last = disk.image();
        wal.close();
        let images: Vec<_> = disk.take_images().into_iter().chain([last]).collect();
        let chosen = chosen.index(images.len());
        let mut next = None;
        for (at, image) in images.iter().enumerate() {
            let accident = accident.another(at as u64);
            let outcome = check_accident(&history, image, accident);
            if at == chosen {
                next = Some(outcome);
            }
        }
        (disk, history) = next.unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn whatever_step_a_crash_hits_the_log_holds_what_was_acknowledged_and_nothing_unasked(
        lives in proptest::collection::vec((groups(6), any::<Index>(), accidents()), 1..4),
    ) {
        live(lives);
    }

    #[test]
    fn after_a_failed_operation_nothing_is_acknowledged_and_what_was_is_there(
        groups in groups(8),
        op in prop_oneof![
            3 => Just(Op::Sync), 2 => Just(Op::Write), 1 => Just(Op::SyncDir),
            1 => Just(Op::Rename), 1 => Just(Op::Create), 1 => Just(Op::Remove),
        ],
        nth in 1_u64..12,
        accident in accidents(),
    ) {
        let disk = FaultDisk::new();
        let (wal, _) = opened(&disk, "a new log");
        let mut history = History::new(State::default(), 0, 0);
        disk.fail(op, nth);
        let works = groups.iter().all(|group| history.drive(&disk, &wal, group));
        let steps = disk.steps();
        if !works {
            let poisoned = matches!(wal.poisoned(), Some(WalError::Poisoned { .. }));
            prop_assert!(poisoned);
            wait(|done| wal.save_vote(bytes::Bytes::new(), done)).unwrap_err();
        }
        let image = disk.image();
        wal.close();
        if !works {
            prop_assert_eq!(disk.steps(), steps, "nothing is tried after a failure");
        }
        let answers: Vec<_> = history.answers.lock().unwrap().iter().map(|a| a.ok).collect();
        prop_assert!(answers.is_sorted_by_key(|ok| !*ok), "{:?}", answers);
        for accident in [accident, Accident::Kill] {
            check_accident(&history, &image, accident);
        }
    }

    #[test]
    fn a_full_disk_is_named_and_what_was_acknowledged_can_be_opened_on_it(
        groups in groups(12),
        spare in 0_u64..150_000,
        accident in accidents(),
    ) {
        let disk = FaultDisk::new();
        disk.limit_space(Some(spare));
        let (wal, _) = match open(&disk) {
            Ok(opened) => opened,
            Err(error) => {
                prop_assert!(spare < 32 * 1024);
                prop_assert!(error.to_string().contains("No space left on device"), "{}", error);
                return Ok(());
            }
        };
        let mut history = History::new(State::default(), 0, 0);
        let works = groups.iter().all(|group| history.drive(&disk, &wal, group));
        if !works {
            let why = wal.poisoned().unwrap().to_string();
            prop_assert!(why.contains(".tmp: No space left on device"), "{}", why);
        }
        let image = disk.image();
        wal.close();
        let after = accident.happen(&image);
        after.limit_space(Some(spare));
        let (wal, recovered) = opened(&after, "on a disk that is still full");
        history.check(&wal, &recovered, history.bounds(image.steps()));
        wal.close();
        check_accident(&history, &image, accident);
    }
}

#[test]
fn a_repair_that_a_crash_cuts_short_is_done_again() {
    let disk = FaultDisk::new();
    let (wal, _) = opened(&disk, "a new log");
    let mut history = History::new(State::default(), 0, 0);
    let append = |bytes| Call::Append { count: 1, bytes };
    assert!(history.drive(&disk, &wal, &[append(8)]));
    let path = segments(&disk).remove(0);
    let end = used_end(&disk.bytes(&path).unwrap()).next_multiple_of(8);
    // The truncation of the batch below ends with a block, and the record behind it begins the next.
    let frame = |bytes: usize| (34 + bytes).next_multiple_of(8);
    let fill = 2048 - end - frame(0) - frame(0);
    disk.record_steps();
    let batch = [append(fill), Call::Truncate { newest: 1 }, append(700)];
    assert!(history.drive(&disk, &wal, &batch));
    let images = disk.take_images();
    wal.close();
    // The truncation never reached the disk, the record behind it did.
    let torn = images.last().unwrap().kill();
    let mut bytes = torn.bytes(&path).unwrap();
    let truncation = 2048 - frame(0);
    assert_ne!(bytes[truncation], 0);
    assert_ne!(bytes[2048], 0);
    bytes[truncation..2048].fill(0);
    torn.replace(&path, bytes);
    torn.record_steps();
    let (wal, recovered) = opened(&torn, "with a torn batch");
    let found = State::of(&wal, &recovered);
    assert_eq!(found, history.states[2]);
    wal.close();
    for (image, seed) in torn
        .take_images()
        .iter()
        .zip([(); 6])
        .flat_map(|(image, ())| (0..64).map(move |seed| (image, seed)))
    {
        let again = image.crash(seed);
        let (wal, recovered) = opened(&again, "with a repair cut short");
        assert_eq!(State::of(&wal, &recovered), found);
    }
}

#[test]
fn a_purge_of_many_segments_may_be_cut_short_and_keeps_the_vote_of_the_oldest() {
    let disk = FaultDisk::new();
    let (wal, _) = opened(&disk, "a new log");
    let mut history = History::new(State::default(), 0, 0);
    assert!(history.drive(&disk, &wal, &[Call::Vote]));
    let append = Call::Append {
        count: 7,
        bytes: 5000,
    };
    assert!((0..4).all(|_| history.drive(&disk, &wal, std::slice::from_ref(&append))));
    assert!(segments(&disk).len() > 4);
    disk.record_steps();
    // The second call is answered when the segments are gone.
    for group in [
        Call::Purge { oldest: 27 },
        Call::Append { count: 1, bytes: 9 },
    ] {
        assert!(history.drive(&disk, &wal, &[group]));
    }
    assert_eq!(segments(&disk).len(), 1);
    for image in disk.take_images() {
        for seed in 0..16 {
            check_accident(&history, &image, Accident::PowerCut(seed));
        }
    }
}

#[test]
fn a_commit_that_nobody_waited_for_is_synced_before_its_segment_is_left() {
    let disk = FaultDisk::new();
    let (wal, _) = opened(&disk, "a new log");
    let mut history = History::new(State::default(), 0, 0);
    let append = |count| Call::Append { count, bytes: 5000 };
    assert!(history.drive(&disk, &wal, &[append(6)]));
    disk.record_steps();
    history.commit_alone(&disk, &wal);
    assert_eq!(segments(&disk).len(), 1);
    // The first of these does not fit, so that no batch of its own syncs the segment.
    assert!(history.drive(&disk, &wal, &[append(2)]));
    assert_eq!(segments(&disk).len(), 2);
    let last = disk.image();
    for image in disk.take_images().into_iter().chain([last]) {
        for seed in 0..32 {
            check_accident(&history, &image, Accident::PowerCut(seed));
        }
    }
}

/// Where the last byte of a file is that is not zero, plus one.
fn used_end(bytes: &[u8]) -> usize {
    let last = bytes.iter().rposition(|byte| *byte != 0);
    last.map_or(0, |last| last + 1)
}
