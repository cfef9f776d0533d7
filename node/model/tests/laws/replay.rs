//! Law 3: replaying a log from empty is a checkpoint plus the rest of the log; and replicas that apply the same
//! entries are equal.

use std::sync::Arc;

use mode_envoy_model::batch::{Batch, Item, Outcome};
use mode_envoy_model::checkpoint::PartsError;
use mode_envoy_model::state::State;
use mode_envoy_model::usage::batch::{SeriesRef, SpoolRange, UsageBatch};
use mode_envoy_model::usage::cells::Resolution;
use proptest::prelude::*;

use crate::arb::{self, Mend};
use crate::usage_samples;

/// Makes a usage batch the one that counts next.
fn fit_usage(state: &State, batch: &mut UsageBatch) {
    let Some(stream) = state.usage.streams.get(batch.node) else {
        return;
    };
    batch.incarnation = stream.incarnation;
    batch.seq = stream.next_seq;
    let count = batch.ranges.len();
    batch.ranges = stream
        .spools
        .iter()
        .take(count.max(1))
        .map(|(&worker, spool)| SpoolRange {
            worker,
            uuid: spool.uuid,
            from: spool.acked_to,
            to: spool.acked_to + 3,
        })
        .collect();
    let series = u32::try_from(batch.series.len()).unwrap_or(1);
    for row in &mut batch.rows {
        row.series %= series;
    }
    let known = |series: &SeriesRef| match series {
        SeriesRef::Known(id) => state.usage.series.get(*id).is_some(),
        SeriesRef::New(_) => true,
    };
    for series in &mut batch.series {
        if !known(series) {
            *series = SeriesRef::New(usage_samples::series("k", "m"));
        }
    }
}

fn fit(state: &State, batch: &Batch) -> Batch {
    let mut batch = batch.clone();
    for item in &mut batch.items {
        match item {
            Item::ChangeSet(set) => set.base_revision = state.catalog.revision(),
            Item::Register(register) => {
                let current = state.usage.streams.get(register.node);
                register.follows = current.map_or(0, |stream| stream.incarnation);
            }
            Item::Usage(usage) => fit_usage(state, usage),
            Item::Final(_) | Item::Evict(_) => {}
        }
    }
    batch
}

/// The entries as they stand in the log, and the states between them.
fn replay(log: &[(Batch, Mend)]) -> (Vec<Batch>, Vec<State>) {
    let mut state = State::new();
    let (mut entries, mut states) = (Vec::new(), vec![state.clone()]);
    for (index, (batch, mend)) in (1..).zip(log) {
        let entry = match mend {
            Mend::No => batch.clone(),
            Mend::Fit => fit(&state, batch),
        };
        let outcomes = state.apply(index, &entry);
        assert_eq!(outcomes.len(), entry.items.len());
        entries.push(entry);
        states.push(state.clone());
    }
    (entries, states)
}

proptest! {
    #![proptest_config(arb::cases(128))]

    #[test]
    fn replay_from_empty_is_a_checkpoint_plus_the_tail(log in arb::log(24), cut in any::<prop::sample::Index>()) {
        let (entries, states) = replay(&log);
        let cut = cut.index(states.len());
        let mut state = State::from_parts(states[cut].parts()).expect("parts of a state");
        prop_assert_eq!(&state, &states[cut]);
        for (at, entry) in entries.iter().enumerate().skip(cut) {
            state.apply(at as u64 + 1, entry);
        }
        prop_assert_eq!(Some(&state), states.last());
        prop_assert_eq!(state.parts(), states[states.len() - 1].parts());
    }

    #[test]
    fn clocks_and_revisions_only_move_forward(log in arb::log(24)) {
        let (_, states) = replay(&log);
        for pair in states.windows(2) {
            prop_assert!(pair[0].wall_ms <= pair[1].wall_ms);
            prop_assert!(pair[0].lease_clock_ms <= pair[1].lease_clock_ms);
            prop_assert!(pair[0].catalog.revision() <= pair[1].catalog.revision());
        }
    }
}

#[test]
fn items_of_one_entry_are_applied_in_order_and_each_by_itself() {
    use mode_envoy_model::batch::ChangeSet;
    use mode_envoy_model::event::Event;
    let set = |base_revision, version| {
        let events = vec![Event::FormatRaised { version }];
        Item::ChangeSet(ChangeSet {
            base_revision,
            actor: "root".to_owned(),
            events,
            ..ChangeSet::default()
        })
    };
    let items = vec![set(0, 5), set(0, 9), set(1, 7)];
    let mut state = State::new();
    let outcomes = state.apply(
        1,
        &Batch {
            items,
            ..Batch::default()
        },
    );
    let expected = [
        Outcome::Changed { revision: 1 },
        Outcome::Stale { revision: 1 },
        Outcome::Changed { revision: 2 },
    ];
    assert_eq!(outcomes, expected);
    assert_eq!(
        (state.catalog.format_version(), state.catalog.revision()),
        (7, 2)
    );
}

#[test]
fn parts_that_contradict_one_another_are_refused() {
    use crate::usage_samples::{counted, one_call};
    let mut parts = counted(&[one_call(5)]).parts();
    let (id, key) = parts.series[0].clone();
    parts.series.push((id + 1, Arc::clone(&key)));
    assert_eq!(
        State::from_parts(parts.clone()),
        Err(PartsError::SeriesTwice(id + 1))
    );

    let nodes = parts.nodes.as_mut().expect("counted by node");
    nodes.cells[0].0 = Resolution::Day;
    let bucket = nodes.cells[0].1;
    parts.series.pop();
    let error = State::from_parts(parts.clone()).expect_err("nodes have no days");
    assert_eq!(error, PartsError::NoBucket(Resolution::Day, bucket));
    let nodes = parts.nodes.as_mut().expect("counted by node");
    nodes.cells[0].0 = Resolution::Minute;
    nodes.series.clear();
    let error = State::from_parts(parts.clone()).expect_err("the nodes' cells name a series");
    assert!(matches!(error, PartsError::UnknownSeries { .. }), "{error}");

    parts.series.clear();
    let error = State::from_parts(parts.clone()).expect_err("the cells name a series");
    assert!(
        matches!(error, PartsError::UnknownSeries { series, .. } if series == id),
        "{error}"
    );

    parts.series.push((id, key));
    parts.cells[0].0 = Resolution::Day;
    parts.cells[0].1 = u32::MAX;
    let error = State::from_parts(parts.clone()).expect_err("there is no such day");
    assert_eq!(error, PartsError::NoBucket(Resolution::Day, u32::MAX));

    let mut parts = State::new().parts();
    let token = crate::samples::token("t", mode_envoy_model::token::Role::Root, 1);
    let record = |name: &str| {
        let token = mode_envoy_model::token::Token {
            name: name.into(),
            ..token.clone()
        };
        (1, mode_envoy_model::catalog::Record::Token(token.into()))
    };
    parts.records = vec![record("one"), record("two")];
    assert_eq!(
        State::from_parts(parts),
        Err(PartsError::Contradiction { dropped: 1 })
    );
}

#[test]
fn a_checkpoint_without_usage_by_node_loads_and_tells_since_when_there_is() {
    use crate::usage_samples::{counted, one_call};
    use mode_envoy_model::usage::query::{Dimension, Interval, Query, QueryError, run};

    let mut parts = counted(&[one_call(0)]).parts();
    parts.wall_ms = 90 * 60_000;
    parts.nodes = None;
    let state = State::from_parts(parts).expect("sound");
    assert_eq!(State::from_parts(state.parts()).as_ref(), Ok(&state));
    let ask = |from_minute, interval, group_by| {
        let query = Query {
            from_minute,
            to_minute: 240,
            interval,
            group_by,
            filter: vec![],
        };
        run(&state.usage.snapshot(), &query, state.wall_ms)
    };
    let error = ask(119, Interval::Total, vec![Dimension::Node]).expect_err("it is not complete");
    assert!(
        matches!(error, QueryError::NodeTooOld { from } if from.0 == 120),
        "{error}"
    );
    assert!(
        error.to_string().contains("1970-01-01T02:00:00Z"),
        "{error}"
    );
    assert!(ask(120, Interval::Hour, vec![Dimension::Node]).is_ok());

    // What facts tell does not depend on it; percentiles that only nodes have are absent.
    let report = ask(0, Interval::Minute, vec![Dimension::Tenant]).expect("answerable");
    assert_eq!(report.rows.len(), 1);
    assert_eq!(report.rows[0].latency_p50_us, None);

    let mut parts = State::new().parts();
    parts.nodes = None;
    assert_eq!(State::from_parts(parts), Ok(State::new()));
}
