//! How a batch or a registration that breaks a rule is refused, and that it changes nothing.

use mode_envoy_model::batch::{Item, Outcome};
use mode_envoy_model::state::State;
use mode_envoy_model::usage::batch::{Register, SeriesRef, SpoolRange, UsageBatch};
use mode_envoy_model::usage::series::SeriesKey;

use crate::usage_samples::{apply, counted, one_call, series};

fn next() -> (State, UsageBatch) {
    let state = counted(&[one_call(0)]);
    let batch = UsageBatch {
        node: 1,
        incarnation: 1,
        seq: 2,
        ranges: vec![SpoolRange {
            worker: 0,
            uuid: [0; 16],
            from: 2,
            to: 3,
        }],
        series: vec![SeriesRef::Known(0)],
        rows: vec![one_call(0)],
        uses: Vec::new(),
        asks: Vec::new(),
    };
    (state, batch)
}

#[test]
fn each_fault_of_a_batch_has_its_outcome_and_counts_nothing() {
    let spoil = |spoil: fn(&mut UsageBatch)| {
        let (mut state, mut batch) = next();
        spoil(&mut batch);
        let before = state.usage.clone();
        let outcome = apply(&mut state, 3, 0, Item::Usage(batch));
        assert!(
            outcome == Outcome::Counted || state.usage == before,
            "{outcome:?}"
        );
        outcome
    };
    assert_eq!(spoil(|_| {}), Outcome::Counted);
    assert_eq!(spoil(|b| b.node = 2), Outcome::Fenced);
    assert_eq!(spoil(|b| b.incarnation = 2), Outcome::Fenced);
    assert_eq!(spoil(|b| b.seq = 1), Outcome::ExpectSeq(2));
    assert_eq!(spoil(|b| b.seq = 3), Outcome::ExpectSeq(2));
    assert_eq!(spoil(|b| b.ranges[0].from = 1), Outcome::RangeMismatch);
    assert_eq!(
        spoil(|b| (b.ranges[0].from, b.ranges[0].to) = (3, 4)),
        Outcome::RangeMismatch
    );
    assert_eq!(
        spoil(|b| b.ranges[0].uuid = [9; 16]),
        Outcome::RangeMismatch
    );
    assert_eq!(spoil(|b| b.ranges[0].worker = 9), Outcome::RangeMismatch);
    assert_eq!(spoil(|b| b.ranges[0].to = 1), Outcome::Malformed);
    assert_eq!(spoil(|b| b.ranges.push(b.ranges[0])), Outcome::Malformed);
    assert_eq!(spoil(|b| b.ranges.clear()), Outcome::Malformed);
    assert_eq!(spoil(|b| b.rows[0].series = 1), Outcome::Malformed);
    assert_eq!(
        spoil(|b| b.series[0] = SeriesRef::Known(7)),
        Outcome::Malformed
    );
    let classless = |b: &mut UsageBatch| {
        b.series[0] = SeriesRef::New(SeriesKey {
            status_class: 6,
            ..series("k", "m")
        });
    };
    assert_eq!(spoil(classless), Outcome::Malformed);
    assert_eq!(
        spoil(|b| b.series[0] = SeriesRef::New(series(&"k".repeat(257), "m"))),
        Outcome::Malformed
    );
    assert_eq!(
        spoil(|b| b.rows = vec![one_call(0); 16_385]),
        Outcome::Malformed
    );
    assert_eq!(
        spoil(|b| b.series = vec![SeriesRef::Known(0); 16_385]),
        Outcome::Malformed
    );
}

#[test]
fn a_spool_keeps_its_position_under_another_worker_and_unlisted_ones_are_forgotten() {
    let (mut state, _) = next();
    let register = |follows, spools| {
        Item::Register(Register {
            node: 1,
            follows,
            spools,
        })
    };
    apply(
        &mut state,
        3,
        0,
        register(1, vec![(5, [0; 16]), (0, [1; 16])]),
    );
    let spools = &state.usage.streams.get(1).expect("registered").spools;
    assert_eq!((spools[&5].acked_to, spools[&0].acked_to), (2, 1));
    let register = register(3, vec![(0, [1; 16])]);
    apply(&mut state, 4, 0, register.clone());
    let before = state.usage.streams.clone();
    assert_eq!(before.get(1).expect("registered").spools.len(), 1);
    // The same again is late: another incarnation is current by then.
    assert_eq!(apply(&mut state, 5, 0, register), Outcome::Fenced);
    assert_eq!(state.usage.streams, before);
}

#[test]
fn a_register_that_repeats_itself_or_passes_a_limit_is_malformed() {
    let (mut state, _) = next();
    let mut refused = |spools| {
        let outcome = apply(
            &mut state,
            3,
            0,
            Item::Register(Register {
                node: 1,
                follows: 1,
                spools,
            }),
        );
        assert_eq!(outcome, Outcome::Malformed);
    };
    refused(vec![(0, [1; 16]), (0, [2; 16])]);
    refused(vec![(0, [1; 16]), (1, [1; 16])]);
    refused(
        (0..257_u16)
            .map(|n| (n.into(), [n.to_le_bytes(); 8].concat().try_into().unwrap()))
            .collect(),
    );

    for node in 2..=1_024 {
        let item = Item::Register(Register {
            node,
            follows: 0,
            spools: Vec::new(),
        });
        assert_eq!(
            apply(&mut state, 3, 0, item),
            Outcome::Registered { incarnation: 3 }
        );
    }
    let item = Item::Register(Register {
        node: 1_025,
        follows: 0,
        spools: Vec::new(),
    });
    assert_eq!(apply(&mut state, 3, 0, item), Outcome::Malformed);
}
