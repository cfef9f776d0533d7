//! Between counts, which are never negative, and what is left of them, which may be.

/// A count as what is left; what no count reaches is cut off.
pub(crate) fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// What is left, if anything is.
pub(crate) fn count(left: i64) -> u64 {
    u64::try_from(left).unwrap_or(0)
}

/// `a * b / c`, rounded up; the largest number where that is too large or `c` is 0.
pub(crate) fn scaled_up(a: u64, b: u64, c: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    let quotient = product.checked_add(u128::from(c).saturating_sub(1));
    let quotient = quotient.and_then(|sum| sum.checked_div(u128::from(c)));
    quotient
        .and_then(|whole| u64::try_from(whole).ok())
        .unwrap_or(u64::MAX)
}

/// `a * b / c`, rounded down; the largest number where that is too large or `c` is 0.
pub(crate) fn scaled_down(a: u64, b: u64, c: u64) -> u64 {
    let quotient = (u128::from(a) * u128::from(b)).checked_div(u128::from(c));
    quotient
        .and_then(|whole| u64::try_from(whole).ok())
        .unwrap_or(u64::MAX)
}
