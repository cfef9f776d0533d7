//! Limits in documents: their defaults, and any of them for the round trip.

use mode_envoy_model::limit::{Dimension, Limit, Match, Mode, Per, Unit, Window};
use proptest::sample::select;

use super::*;

#[test]
fn a_limit_has_the_defaults_of_its_unit_and_time() {
    let document = read(EVERYTHING).unwrap();
    let limit = |label: &str| match draft(&document, label).object {
        Object::Limit(limit) => limit,
        other => panic!("{other:?}"),
    };
    let rpm = limit("limits[acme-rpm]");
    assert_eq!(
        (rpm.amount, rpm.mode, rpm.window),
        (600, Mode::Bounded, Window::Calendar)
    );
    let per_key = limit("limits[acme/per-key]");
    assert_eq!(per_key.window, Window::Bucket { burst: 250 });
    assert_eq!((per_key.each, per_key.shadow), (Some(Dimension::Key), true));
    let open = limit("limits[open-calls]");
    assert_eq!(
        (open.per, open.mode, open.tenant),
        (Per::Total, Mode::Strict, None)
    );
    let own = limit("limits[beta/open-calls]");
    assert_eq!(own.tenant.as_deref(), Some("beta"));
}

pub(super) fn limit() -> impl Strategy<Value = Limit> {
    let time = (select(Per::ALL.to_vec()), any::<bool>(), any::<u64>());
    let time = time.prop_map(|(per, bucket, burst)| {
        let bucket = bucket || per == Per::Second;
        let calendar = Window::Calendar;
        (
            Unit::Requests,
            per,
            if bucket {
                Window::Bucket { burst }
            } else {
                calendar
            },
        )
    });
    let time = prop_oneof![4 => time, 1 => Just((Unit::Concurrent, Per::Total, Window::Calendar))];
    let stated = || {
        let mut dimensions = Dimension::ALL.to_vec();
        dimensions.retain(|dimension| *dimension != Dimension::Api);
        select(dimensions)
    };
    let matches = proptest::collection::vec((stated(), name()), 0..4);
    let rest = (any::<u64>(), select(Mode::ALL.to_vec()), any::<bool>());
    let names = (name(), proptest::option::of(name()));
    (names, matches, proptest::option::of(stated()), time, rest).prop_map(
        |((name, tenant), fixed, each, (unit, per, window), (amount, mode, shadow))| {
            let mut matches = Match::default();
            for (dimension, name) in fixed {
                *matches.value_mut(dimension) = Some(name);
            }
            Limit {
                name,
                tenant,
                matches,
                each,
                unit,
                amount,
                per,
                window,
                mode,
                shadow,
            }
        },
    )
}
