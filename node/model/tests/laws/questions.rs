//! Questions with answers that can be seen at a glance, and those that are refused.

use mode_envoy_model::batch::{Item, Outcome};
use mode_envoy_model::state::State;
use mode_envoy_model::usage::batch::{Register, SeriesRef, SpoolRange, UsageBatch};
use mode_envoy_model::usage::query::{Dimension, Interval, Query, QueryError, run};

use crate::usage_samples::{apply, row, series};

const DAY: u32 = 1_440;

/// A day at minute zero with two keys, two models, one failure.
fn small() -> State {
    let mut state = State::new();
    let register = Register {
        node: 1,
        follows: 0,
        spools: vec![(0, [0; 16])],
    };
    apply(&mut state, 1, 86_400_000, Item::Register(register));
    let mut failed = series("k1", "slow");
    failed.status_class = 5;
    let names = [series("k1", "fast"), series("k2", "fast"), failed];
    let batch = UsageBatch {
        node: 1,
        incarnation: 1,
        seq: 1,
        ranges: vec![SpoolRange {
            worker: 0,
            uuid: [0; 16],
            from: 1,
            to: 2,
        }],
        series: names.map(SeriesRef::New).to_vec(),
        rows: vec![row(10, 0, 1), row(70, 0, 2), row(70, 1, 4), row(71, 2, 8)],
        uses: Vec::new(),
        asks: Vec::new(),
    };
    assert_eq!(
        apply(&mut state, 2, 86_400_000, Item::Usage(batch)),
        Outcome::Counted
    );
    state
}

fn ask_small(
    interval: Interval,
    group_by: &[Dimension],
    filter: &[(Dimension, &str)],
) -> Vec<(Option<u32>, String, u64)> {
    let state = small();
    let query = Query {
        from_minute: 0,
        to_minute: DAY,
        interval,
        group_by: group_by.to_vec(),
        filter: filter
            .iter()
            .map(|(dimension, value)| (*dimension, (*value).to_owned()))
            .collect(),
    };
    let report = run(&state.usage.snapshot(), &query, state.wall_ms).expect("answerable");
    let rows = report.rows.into_iter();
    rows.map(|row| {
        (
            row.bucket_start_minute,
            row.dimensions.join("/"),
            row.counters.calls,
        )
    })
    .collect()
}

#[test]
fn rows_are_grouped_and_ordered_by_time_and_then_by_value() {
    use Dimension::{Key, Model, Status};
    let expected = [
        (Some(0), "fast/k1", 1),
        (Some(60), "fast/k1", 2),
        (Some(60), "fast/k2", 4),
        (Some(60), "slow/k1", 8),
    ]
    .map(|(time, values, calls)| (time, values.to_owned(), calls));
    assert_eq!(ask_small(Interval::Hour, &[Model, Key], &[]), expected);
    assert_eq!(
        ask_small(Interval::Total, &[], &[]),
        [(None, String::new(), 15)]
    );
    assert_eq!(
        ask_small(Interval::Month, &[Status], &[]),
        [
            (Some(0), "2xx".to_owned(), 7),
            (Some(0), "5xx".to_owned(), 8)
        ]
    );
}

#[test]
fn values_of_one_dimension_are_alternatives_and_dimensions_must_all_hold() {
    use Dimension::{Key, Model};
    let calls = |filter: &[(Dimension, &str)]| {
        ask_small(Interval::Total, &[], filter)
            .first()
            .map_or(0, |(_, _, calls)| *calls)
    };
    assert_eq!(calls(&[(Key, "k1")]), 11);
    assert_eq!(calls(&[(Key, "k1"), (Key, "k2")]), 15);
    assert_eq!(calls(&[(Key, "k1"), (Model, "fast")]), 3);
    assert_eq!(calls(&[(Key, "k2"), (Model, "slow")]), 0);
}

#[test]
fn what_cannot_be_asked_is_refused_with_what_can() {
    assert_eq!(
        Dimension::parse("upstream_model"),
        Ok(Dimension::UpstreamModel)
    );
    assert_eq!(Dimension::parse("node"), Ok(Dimension::Node));
    let odd = Dimension::parse("colour")
        .expect_err("no such dimension")
        .to_string();
    assert!(
        odd.contains("colour") && odd.contains("tenant, team"),
        "{odd}"
    );
    assert!(
        Interval::parse("week")
            .expect_err("no such interval")
            .to_string()
            .contains("month")
    );

    let query = |filter: Vec<(Dimension, String)>, to_minute| Query {
        from_minute: 5,
        to_minute,
        interval: Interval::Total,
        group_by: vec![],
        filter,
    };
    let refuse =
        |query: &Query| run(&State::new().usage.snapshot(), query, 0).expect_err("refused");
    assert_eq!(refuse(&query(vec![], 5)), QueryError::EmptyRange);
    let status = vec![(Dimension::Status, "200".to_owned())];
    assert_eq!(
        refuse(&query(status, 9)),
        QueryError::UnknownStatus("200".to_owned())
    );
    for text in ["n1", "01", ""] {
        let node = vec![(Dimension::Node, text.to_owned())];
        assert_eq!(
            refuse(&query(node, 9)),
            QueryError::UnknownNode(text.to_owned())
        );
    }
    let many = vec![(Dimension::Key, "k".to_owned()); 101];
    assert!(matches!(
        refuse(&query(many, 9)),
        QueryError::TooLong { limit: 100, .. }
    ));
}

#[test]
fn a_range_to_the_end_of_time_is_answered() {
    let state = small();
    for interval in Interval::ALL {
        let query = Query {
            from_minute: 0,
            to_minute: u32::MAX,
            interval,
            group_by: vec![],
            filter: vec![],
        };
        let report = run(&state.usage.snapshot(), &query, state.wall_ms).expect("answerable");
        assert_eq!(
            report
                .rows
                .iter()
                .map(|row| row.counters.calls)
                .sum::<u64>(),
            15,
            "{interval}"
        );
    }
}

#[test]
fn the_oldest_bucket_that_is_kept_can_be_asked_for_and_the_one_before_cannot() {
    use Interval::{Day, Hour, Minute};
    let wall = 1_000 * DAY;
    let state = small();
    let ask = |from_minute, unit: u32, interval| {
        let query = Query {
            from_minute,
            to_minute: from_minute + unit,
            interval,
            group_by: vec![],
            filter: vec![],
        };
        run(&state.usage.snapshot(), &query, u64::from(wall) * 60_000)
            .map(|report| report.rows.len())
    };
    assert_eq!(ask(wall - 2_880, 1, Minute), Ok(0));
    let finer = |needs, works| Err(QueryError::TooFine { needs, works });
    assert_eq!(ask(wall - 2_881, 1, Minute), finer(Minute, Hour));
    assert_eq!(ask(wall - 35 * DAY, 60, Hour), Ok(0));
    assert_eq!(ask(wall - 35 * DAY - 60, 60, Hour), finer(Hour, Day));
    assert_eq!(ask(wall - 36 * DAY + 1, 1, Day), finer(Minute, Day));
    assert_eq!(ask(wall - 400 * DAY, DAY, Day), Ok(0));
    assert_eq!(ask(wall - 401 * DAY, DAY, Day), Err(QueryError::TooOld));
    assert_eq!(ask(wall - 401 * DAY, 1, Minute), Err(QueryError::TooOld));
}

#[test]
fn usage_by_node_reaches_back_for_35_days_of_hours_and_refuses_what_it_does_not_know() {
    use Interval::{Day, Hour, Minute, Month, Total};
    let wall = 1_000 * DAY;
    let state = small();
    let ask = |from_minute, to_minute, interval| {
        let query = Query {
            from_minute,
            to_minute,
            interval,
            group_by: vec![Dimension::Node],
            filter: vec![],
        };
        run(&state.usage.snapshot(), &query, u64::from(wall) * 60_000)
            .map(|report| report.rows.len())
    };
    let oldest = wall - 35 * DAY;
    for interval in [Hour, Day, Month, Total] {
        assert_eq!(ask(oldest, wall, interval), Ok(0), "{interval}");
        let error = ask(oldest - 60, wall, interval).expect_err("it is gone");
        assert_eq!(
            error.to_string(),
            "usage by `node` is kept by the minute and by the hour, for 35 days: begin the range at \
             1972-08-23T00:00:00Z or later, or ask without `node`"
        );
    }
    assert_eq!(ask(wall - 2_880, wall, Minute), Ok(0));
    let finer = Err(QueryError::TooFine {
        needs: Minute,
        works: Hour,
    });
    assert_eq!(ask(wall - 2_881, wall, Minute), finer);
    assert_eq!(ask(wall - 3 * DAY - 1, wall, Total), finer);

    let query = Query {
        from_minute: 0,
        to_minute: DAY,
        interval: Total,
        group_by: vec![Dimension::Node, Dimension::Tenant],
        filter: vec![(Dimension::Model, "fast".to_owned())],
    };
    let error = run(&state.usage.snapshot(), &query, state.wall_ms).expect_err("refused");
    assert_eq!(error, QueryError::NodeWith(Dimension::Model));
    assert!(error.to_string().contains("call records"), "{error}");
}

#[test]
fn usage_by_node_combines_with_tenant_route_and_status() {
    use Dimension::{Node, Route, Status, Tenant};
    assert_eq!(
        ask_small(Interval::Total, &[Node, Tenant, Route, Status], &[]),
        [
            (None, "1/acme/openai.chat_completions/2xx".to_owned(), 7),
            (None, "1/acme/openai.chat_completions/5xx".to_owned(), 8),
        ]
    );
    assert_eq!(
        ask_small(Interval::Minute, &[Status], &[(Node, "1")]),
        [
            (Some(10), "2xx".to_owned(), 1),
            (Some(70), "2xx".to_owned(), 6),
            (Some(71), "5xx".to_owned(), 8),
        ]
    );
    assert_eq!(ask_small(Interval::Total, &[], &[(Node, "2")]), []);
}
