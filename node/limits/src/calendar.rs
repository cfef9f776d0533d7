//! Windows of the UTC calendar, for what a node keeps alone while nobody tells it of windows.
//!
//! The windows of shared pools are the log's; these are for local limits and for the allowance of a node that is cut off.

use mode_envoy_model::limit::Per;

const SECOND: u64 = 1_000;
const DAY: u64 = 86_400 * SECOND;

/// One window.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Span {
    /// Counts the windows of its kind.
    pub(crate) index: u64,
    /// Unix milliseconds.
    pub(crate) begins_ms: u64,
    /// Absent: it has no end.
    pub(crate) ends_ms: Option<u64>,
}

/// The window that holds a moment.
pub(crate) fn span(per: Per, wall_ms: u64) -> Span {
    let Some(length) = length_ms(per) else {
        return Span {
            index: 0,
            begins_ms: 0,
            ends_ms: None,
        };
    };
    if per == Per::Month {
        return month(wall_ms / DAY);
    }
    let index = wall_ms / length;
    Span {
        index,
        begins_ms: index * length,
        ends_ms: (index + 1).checked_mul(length),
    }
}

/// How long the time is that an amount is for; a month counts 30 days where it is a pace.
pub(crate) fn length_ms(per: Per) -> Option<u64> {
    Some(match per {
        Per::Second => SECOND,
        Per::Minute => 60 * SECOND,
        Per::Hour => 3_600 * SECOND,
        Per::Day => DAY,
        Per::Month => 30 * DAY,
        Per::Total => return None,
    })
}

/// The month that holds a day since 1970. Years begin in March, so that the day of a leap year is their last.
fn month(day: u64) -> Span {
    let from_era = day + 719_468;
    let (era, of_era) = (from_era / 146_097, from_era % 146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let from_march = (5 * of_year + 2) / 153;
    let first = |month: u64| (153 * month + 2) / 5;
    let begins = day - (of_year - first(from_march));
    // February ends with its year, and so where the next March begins.
    let ends = if from_march == 11 {
        let leap =
            (year + 1).is_multiple_of(4) && (!(year + 1).is_multiple_of(100) || year + 1 == 400);
        begins + if leap { 29 } else { 28 }
    } else {
        begins + first(from_march + 1) - first(from_march)
    };
    Span {
        index: (era * 400 + year) * 12 + from_march,
        begins_ms: begins.saturating_mul(DAY),
        ends_ms: ends.checked_mul(DAY),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Days since 1970.
    fn span_of(day: u64) -> (u64, u64) {
        let Span {
            begins_ms, ends_ms, ..
        } = span(Per::Month, day * DAY + 5);
        (begins_ms / DAY, ends_ms.unwrap() / DAY)
    }

    #[test]
    fn months_begin_and_end_where_the_calendar_says() {
        assert_eq!(span_of(0), (0, 31), "January 1970");
        assert_eq!(span_of(31), (31, 59), "February 1970");
        assert_eq!(span_of(59), (59, 90), "March 1970");
        assert_eq!(
            span_of(19_782),
            (19_754, 19_783),
            "February 2024, a leap year"
        );
        assert_eq!(span_of(19_783), (19_783, 19_814), "March 2024");
        assert_eq!(
            span_of(11_016),
            (10_988, 11_017),
            "February 2000, a leap year of the century"
        );
        assert_eq!(span_of(47_540), (47_513, 47_541), "February 2100, none");
    }

    #[test]
    fn every_month_ends_where_the_next_begins() {
        let (mut day, mut index) = (0, span(Per::Month, 0).index);
        while day < 60_000 {
            let here = span(Per::Month, day * DAY);
            assert_eq!((here.begins_ms, here.index), (day * DAY, index));
            let next = here.ends_ms.unwrap() / DAY;
            assert!((28..=31).contains(&(next - day)));
            assert_eq!(span(Per::Month, next * DAY - 1), here);
            (day, index) = (next, index + 1);
        }
    }

    #[test]
    fn shorter_windows_begin_at_their_multiples_and_a_total_never_ends() {
        let at = 1_700_000_123_456;
        let minute = span(Per::Minute, at);
        assert_eq!(minute.begins_ms % 60_000, 0);
        assert_eq!(minute.ends_ms, Some(minute.begins_ms + 60_000));
        assert!((minute.begins_ms..minute.begins_ms + 60_000).contains(&at));
        assert_eq!(
            span(Per::Total, at),
            Span {
                index: 0,
                begins_ms: 0,
                ends_ms: None
            }
        );
    }
}
