//! Times as people write and read them: RFC 3339, UTC.

use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;

use super::ControlError;

/// The wall clock, in Unix milliseconds.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Reads an RFC 3339 time, in Unix milliseconds; `field` is what the caller knows it by.
///
/// # Errors
///
/// [`ControlError::Rejected`] that shows how times are written.
pub fn parse_time(field: &str, text: &str) -> Result<u64, ControlError> {
    let refused = || {
        let problem = format!("`{text}` is not a time; write one such as 2026-03-01T09:30:00Z");
        ControlError::invalid(field, problem)
    };
    let time: Timestamp = text.parse().map_err(|_| refused())?;
    u64::try_from(time.as_millisecond()).map_err(|_| refused())
}

/// Unix milliseconds as RFC 3339, to the second; empty for a time beyond the calendar.
pub fn format_ms(ms: u64) -> String {
    let second = i64::try_from(ms / 1_000).unwrap_or(i64::MAX);
    Timestamp::from_second(second)
        .map(|time| time.to_string())
        .unwrap_or_default()
}

/// Unix milliseconds as RFC 3339, to the millisecond; empty for a time beyond the calendar.
pub fn format_exact_ms(ms: u64) -> String {
    let millisecond = i64::try_from(ms).unwrap_or(i64::MAX);
    Timestamp::from_millisecond(millisecond)
        .map(|time| format!("{time:.3}"))
        .unwrap_or_default()
}

/// A minute since 1970 as RFC 3339.
pub fn format_minute(minute: u32) -> String {
    format_ms(u64::from(minute) * 60_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339_in_utc() {
        assert_eq!(
            parse_time("from", "2026-03-01T09:30:00Z").unwrap(),
            1_772_357_400_000
        );
        assert_eq!(
            parse_time("from", "2026-03-01T10:30:00+01:00").unwrap(),
            1_772_357_400_000
        );
        assert_eq!(format_ms(1_772_357_400_999), "2026-03-01T09:30:00Z");
        assert_eq!(format_minute(29_539_290), "2026-03-01T09:30:00Z");
        assert_eq!(
            format_exact_ms(1_772_357_400_020),
            "2026-03-01T09:30:00.020Z"
        );
        for text in ["", "yesterday", "2026-03-01", "1960-01-01T00:00:00Z"] {
            let refused = parse_time("from", text).unwrap_err().to_string();
            assert!(
                refused.contains("from: ") && refused.contains("2026-03-01T09:30:00Z"),
                "{refused}"
            );
        }
    }

    #[test]
    fn a_time_beyond_the_calendar_is_left_empty() {
        assert_eq!(format_ms(u64::MAX), "");
    }
}
