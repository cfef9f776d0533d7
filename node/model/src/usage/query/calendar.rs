//! The UTC calendar, for days since 1970: where months begin, and how a moment is written.
//!
//! The date arithmetic is Howard Hinnant's (<https://howardhinnant.github.io/date_algorithms.html>).

use std::fmt;

use crate::usage::cells::{DAY, HOUR};

/// A minute since 1970, written in RFC 3339.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Moment(pub u32);

// === impl Moment ===

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, before) = date(self.0 / DAY);
        let (day, hour, minute) = (before + 1, self.0 % DAY / HOUR, self.0 % HOUR);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:00Z")
    }
}

/// How many days of its month come before a day.
pub(crate) const fn day_of_month(day: u32) -> u32 {
    let (_, _, before) = date(day);
    before
}

/// Year, month from 1, and how many days of the month come before.
const fn date(day: u32) -> (u32, u32, u32) {
    let shifted = day + 719_468; // since 0000-03-01, so that a leap day is the last of its year
    let of_era = shifted % 146_097;
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153; // from March
    let before = of_year - (153 * month + 2) / 5;
    let (calendar_month, next) = if month < 10 {
        (month + 3, 0)
    } else {
        (month - 9, 1)
    };
    (
        shifted / 146_097 * 400 + year + next,
        calendar_month,
        before,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_written_as_the_calendar_has_them() {
        for (minute, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (1_439, "1970-01-01T23:59:00Z"),
            (29_539_230, "2026-03-01T08:30:00Z"),
            (19_782 * DAY, "2024-02-29T00:00:00Z"),
            (19_783 * DAY + 61, "2024-03-01T01:01:00Z"),
            (10_956 * DAY, "1999-12-31T00:00:00Z"),
            (10_957 * DAY, "2000-01-01T00:00:00Z"),
        ] {
            assert_eq!(Moment(minute).to_string(), text);
        }
    }
}
