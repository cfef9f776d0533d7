//! Law: merging is associative and commutative, and a quantile errs by 3.2 % at most.

use mode_envoy_model::usage::histogram::{BINS, Histogram, MAX_MICROS};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::arb;

fn merged(parts: &[&Histogram]) -> Histogram {
    let mut sum = Histogram::default();
    for part in parts {
        sum.merge(part);
    }
    sum
}

proptest! {
    #![proptest_config(arb::cases(256))]

    #[test]
    fn merging_in_any_order_gives_the_same(a in arb::histogram(20), b in arb::histogram(20), c in arb::histogram(20)) {
        let left = merged(&[&merged(&[&a, &b]), &c]);
        let right = merged(&[&a, &merged(&[&b, &c])]);
        prop_assert_eq!(&left, &right);
        prop_assert_eq!(&left, &merged(&[&c, &b, &a]));
        prop_assert_eq!(left.count(), a.count() + b.count() + c.count());
        prop_assert_eq!(Histogram::from_bins(left.bins().to_vec()), Some(left));
    }

    #[test]
    fn a_quantile_errs_by_three_percent_at_most(
        mut values in vec(prop_oneof![0_u64..100, 0_u64..100_000, 0..=MAX_MICROS], 1..200),
        permille in 0_u16..=1_000,
    ) {
        let mut histogram = Histogram::default();
        for value in &values {
            histogram.record(*value);
        }
        values.sort_unstable();
        let rank = (values.len() * usize::from(permille)).div_ceil(1_000).max(1);
        let exact = values[rank - 1];
        let told = histogram.quantile(permille).expect("there are values");
        prop_assert!(told.abs_diff(exact) * 1_000 <= exact * 32, "{} for {}", told, exact);
    }
}

#[test]
fn an_empty_histogram_has_no_quantile() {
    assert_eq!(Histogram::default().quantile(500), None);
    assert!(Histogram::default().is_empty());
}

#[test]
fn small_values_are_exact_and_huge_ones_count_as_ten_minutes() {
    for value in 0..32 {
        let mut histogram = Histogram::default();
        histogram.record(value);
        assert_eq!(histogram.quantile(500), Some(value));
    }
    let mut huge = Histogram::default();
    huge.record(u64::MAX);
    huge.record(MAX_MICROS);
    assert_eq!(huge.bins(), [(BINS - 1, 2)]);
}

#[test]
fn bins_that_do_not_ascend_or_exist_or_count_are_refused() {
    assert!(Histogram::from_bins(vec![(3, 1), (4, 1)]).is_some());
    for bins in [
        vec![(4, 1), (3, 1)],
        vec![(3, 1), (3, 1)],
        vec![(BINS, 1)],
        vec![(3, 0)],
    ] {
        assert_eq!(Histogram::from_bins(bins), None);
    }
}

#[test]
fn counts_saturate() {
    let full = Histogram::from_bins(vec![(3, u64::MAX)]).expect("sound");
    assert_eq!(merged(&[&full, &full]), full);
    let two = Histogram::from_bins(vec![(3, u64::MAX), (5, u64::MAX)]).expect("sound");
    assert_eq!(
        (two.count(), two.quantile(500), two.quantile(501)),
        (u64::MAX, Some(3), Some(5))
    );
}
