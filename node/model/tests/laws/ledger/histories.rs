//! Ten thousand histories without a violation, and mutants that each show one.

use mode_envoy_model::limit::Per;
use mode_envoy_model::state::State;

use super::history::{Entry, Mutant, apply, run};
use super::{limit, set_limits};

const STEPS: u32 = 600;
const HISTORIES: u64 = 2_000;

fn hold(from: u64) {
    let (mut used, mut entries) = (0, 0);
    for seed in from..from + HISTORIES {
        let (world, violation) = run(seed, STEPS, None);
        assert_eq!(violation, None, "seed {seed}");
        used += world.used();
        entries += world.log.len();
    }
    // The histories are about something.
    assert!(used > 10 * HISTORIES, "{used} units used");
    assert!(entries as u64 > 40 * HISTORIES, "{entries} entries");
}

#[test]
fn histories_keep_every_law_first_part() {
    hold(0);
}

#[test]
fn histories_keep_every_law_second_part() {
    hold(HISTORIES);
}

#[test]
fn histories_keep_every_law_third_part() {
    hold(2 * HISTORIES);
}

#[test]
fn histories_keep_every_law_fourth_part() {
    hold(3 * HISTORIES);
}

#[test]
fn histories_keep_every_law_fifth_part() {
    hold(4 * HISTORIES);
}

/// How many of so many histories show a violation.
fn caught(mutant: Mutant, histories: u64) -> usize {
    let violations = (0..histories).filter_map(|seed| run(seed, 900, Some(mutant)).1);
    violations.count()
}

#[test]
fn a_ledger_that_takes_any_number_is_caught() {
    assert!(caught(Mutant::AnySeq, 300) >= 100);
}

#[test]
fn a_ledger_that_reclaims_what_may_be_used_is_caught() {
    assert!(caught(Mutant::Reclaim, 300) >= 20);
}

#[test]
fn a_node_that_forgets_open_calls_in_a_crash_is_caught() {
    assert!(caught(Mutant::OpenIsFree, 500) >= 10);
}

#[test]
fn a_node_that_uses_what_it_gave_back_is_caught() {
    assert!(caught(Mutant::SpendAfterReturn, 300) >= 50);
}

#[test]
fn a_node_that_frees_the_records_of_open_calls_is_caught() {
    assert!(caught(Mutant::TrimAtAcked, 600) >= 3);
}

/// I7: replicas are equal at equal entries, also one that began from a checkpoint.
#[test]
fn a_replica_from_a_checkpoint_is_equal_ever_after() {
    for seed in 0..60 {
        let (world, _) = run(seed, 300, None);
        let cut = world.states().len() as u64 * 2 / 3;
        let (mut whole, mut late) = (State::new(), State::new());
        let mut amount = 0;
        for (index, entry) in (1..).zip(&world.log) {
            if let Entry::Amount(new) = entry {
                amount = *new;
            }
            apply(&mut whole, index, entry);
            if index == cut {
                late = State::from_parts(whole.parts()).expect("sound");
                set_limits(&mut late, &[(1, limit(amount, Per::Minute))]);
            } else if index > cut {
                apply(&mut late, index, entry);
            }
            if index >= cut {
                assert!(late == whole, "seed {seed}, entry {index}");
            }
        }
        assert_eq!(world.states().last(), Some(&whole));
    }
}
