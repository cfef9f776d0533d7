//! Where the windows of UTC begin and end.

use crate::limit::Per;
use crate::usage::query::day_of_month;

const MINUTE_MS: u64 = 60_000;
const HOUR_MS: u64 = 60 * MINUTE_MS;
const DAY_MS: u64 = 24 * HOUR_MS;
/// Later than any clock of the log; the date arithmetic of days is sound up to it.
const LAST_DAY: u64 = 4_000_000_000;
/// No month is longer.
const LONGEST_MONTH: u32 = 31;

/// The window that a moment is in: its beginning, and its end if it has one.
pub(super) fn window_at(per: Per, wall_ms: u64) -> (u64, Option<u64>) {
    match length_ms(per) {
        Some(length) if per != Per::Month => {
            let start = wall_ms - wall_ms % length;
            (start, Some(start.saturating_add(length)))
        }
        Some(_) => month_at(wall_ms),
        None => (0, None),
    }
}

/// How long it is; a month counts as thirty days where no calendar is meant.
pub(super) const fn length_ms(per: Per) -> Option<u64> {
    match per {
        Per::Second => Some(1_000),
        Per::Minute => Some(MINUTE_MS),
        Per::Hour => Some(HOUR_MS),
        Per::Day => Some(DAY_MS),
        Per::Month => Some(30 * DAY_MS),
        Per::Total => None,
    }
}

fn month_at(wall_ms: u64) -> (u64, Option<u64>) {
    let day = (wall_ms / DAY_MS).min(LAST_DAY);
    let day = u32::try_from(day).unwrap_or(u32::MAX);
    let first = day - day_of_month(day);
    let within_next = first + LONGEST_MONTH;
    let next = within_next - day_of_month(within_next);
    (u64::from(first) * DAY_MS, Some(u64::from(next) * DAY_MS))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-02-28T23:59:59.999Z and the like, as days since 1970 and milliseconds.
    const fn at(day: u64, ms: u64) -> u64 {
        day * DAY_MS + ms
    }

    #[test]
    fn minutes_hours_and_days_begin_where_utc_says() {
        let now = at(20_512, 13 * HOUR_MS + 7 * MINUTE_MS + 2_345);
        for (per, start, length) in [
            (Per::Second, now - 345, 1_000),
            (Per::Minute, now - 2_345, MINUTE_MS),
            (Per::Hour, at(20_512, 13 * HOUR_MS), HOUR_MS),
            (Per::Day, at(20_512, 0), DAY_MS),
        ] {
            assert_eq!(
                window_at(per, now),
                (start, Some(start + length)),
                "{per:?}"
            );
            let edge = start + length;
            assert_eq!(window_at(per, edge - 1).0, start, "{per:?}");
            assert_eq!(window_at(per, edge).0, edge, "{per:?}");
        }
        assert_eq!(window_at(Per::Total, now), (0, None));
    }

    #[test]
    fn months_end_with_their_last_day_also_in_leap_years() {
        // First day of a month since 1970, and how many days it has.
        for (first, days) in [
            (0, 31),      // 1970-01
            (31, 28),     // 1970-02
            (59, 31),     // 1970-03
            (10_988, 29), // 2000-02: divisible by 400
            (19_754, 29), // 2024-02
            (19_783, 31), // 2024-03
            (20_454, 31), // 2026-01
            (20_485, 28), // 2026-02
            (20_513, 31), // 2026-03
            (20_544, 30), // 2026-04
            (20_788, 31), // 2026-12
            (20_819, 31), // 2027-01
            (47_482, 31), // 2100-01
            (47_513, 28), // 2100-02: divisible by 100
        ] {
            let window = (at(first, 0), Some(at(first + days, 0)));
            for moment in [at(first, 0), at(first + 13, 77), at(first + days, 0) - 1] {
                assert_eq!(window_at(Per::Month, moment), window, "{first}");
            }
            assert_eq!(
                window_at(Per::Month, at(first + days, 0)).0,
                at(first + days, 0)
            );
        }
    }

    #[test]
    fn every_month_of_four_centuries_follows_the_one_before() {
        let (mut month, mut days) = ((0, Some(31 * DAY_MS)), 0);
        for _ in 0..4_800 {
            let (start, Some(ends)) = month else { break };
            assert!((28..=31).contains(&((ends - start) / DAY_MS)), "{start}");
            days += (ends - start) / DAY_MS;
            month = window_at(Per::Month, ends);
            assert_eq!(month.0, ends);
        }
        assert_eq!(days, 146_097);
    }

    #[test]
    fn no_clock_is_too_large() {
        for per in [
            Per::Second,
            Per::Minute,
            Per::Hour,
            Per::Day,
            Per::Month,
            Per::Total,
        ] {
            let (start, ends) = window_at(per, u64::MAX);
            assert!(ends.is_none_or(|ends| ends > start), "{per:?}");
        }
    }
}
