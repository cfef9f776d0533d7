//! How full the spools are, and who is told: alarms at 50, 80 and 95 % of a spool's bound.
//!
//! | level | what happens |
//! |---|---|
//! | 50 % | a warning says which spool, since when and why, and what to do |
//! | 80 % | the same, and what will happen next |
//! | 95 % | calls that begin from now on are only added up (`recorder.rs`), until there is room |
//!
//! A full disk counts as 95 %, whatever the spool holds, until a record finds room again.
//!
//! A level is left at five points below where it is reached, so that nothing flaps.

use std::path::PathBuf;

use metrics::gauge;

use crate::alarms::{AlarmKind, Alarms};
use crate::metrics as names;

/// Points between reaching a level and leaving it.
const HYSTERESIS: u64 = 5;

/// How full a spool is.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Level {
    #[default]
    Fine,
    Half,
    High,
    /// Only what is open may still be closed.
    Full,
}

/// The fullest spool of the node.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Fill {
    pub(crate) level: Level,
    /// Whether the spool's disk has no room for a segment.
    pub(crate) disk_full: bool,
    pub(crate) worker: u32,
    pub(crate) bytes: u64,
    pub(crate) max_bytes: u64,
}

/// Why spools are not emptied.
#[derive(Clone, Debug, Default)]
pub(super) struct Stuck {
    /// When something was counted last, or nothing was left to count; Unix milliseconds.
    pub(super) counted_ms: u64,
    /// Why it was not, as far as the log said; none since something was counted.
    pub(super) why: Option<String>,
    /// Whether an answer of the log is waited for.
    pub(super) waits: bool,
}

/// Tells of a level once, when it changes.
#[derive(Debug)]
pub(super) struct Teller {
    dir: PathBuf,
    alarms: Alarms,
    told: Level,
}

// === impl Level ===

impl Level {
    const RAISED: [Self; 3] = [Self::Half, Self::High, Self::Full];

    /// Percent of the bound at which it is reached.
    const fn percent(self) -> u64 {
        match self {
            Self::Fine => 0,
            Self::Half => 50,
            Self::High => 80,
            Self::Full => 95,
        }
    }

    const fn label(self) -> &'static str {
        match self {
            Self::Fine => "0",
            Self::Half => "50",
            Self::High => "80",
            Self::Full => "95",
        }
    }

    /// The level that follows this one.
    pub(crate) fn after(self, bytes: u64, max_bytes: u64) -> Self {
        let percent = bytes.saturating_mul(100) / max_bytes.max(1);
        let holds = |level: &Self| {
            let kept = if *level <= self { HYSTERESIS } else { 0 };
            percent >= level.percent() - kept
        };
        Self::RAISED
            .into_iter()
            .rev()
            .find(holds)
            .unwrap_or_default()
    }
}

// === impl Teller ===

impl Teller {
    pub(super) const fn new(dir: PathBuf, alarms: Alarms) -> Self {
        Self {
            dir,
            alarms,
            told: Level::Fine,
        }
    }

    /// Looks at the fullest spool.
    pub(super) fn tell(&mut self, fill: Option<Fill>, stuck: &Stuck) {
        let level = fill.map_or(Level::Fine, |fill| fill.level);
        for each in Level::RAISED {
            gauge!(names::USAGE_SPOOL_ALARM, "level" => each.label())
                .set(f64::from(u8::from(each <= level)));
        }
        let before = std::mem::replace(&mut self.told, level);
        let Some(fill) = fill else { return };
        if level < before {
            tracing::info!(
                worker = fill.worker,
                bytes = fill.bytes,
                max_bytes = fill.max_bytes,
                "the usage spool empties again: below {} %",
                before.percent()
            );
        }
        if level == Level::Fine {
            self.alarms.clear(AlarmKind::UsageSpool);
            return;
        }
        // Again and again: what it says changes.
        let sentence = sentence(fill, stuck);
        self.alarms.raise(AlarmKind::UsageSpool, sentence.clone());
        let dir = self.dir.display();
        if level > before && level == Level::Full {
            tracing::error!(%dir, "{sentence}");
        } else if level > before {
            tracing::warn!(%dir, "{sentence}");
        }
    }
}

fn sentence(fill: Fill, stuck: &Stuck) -> String {
    let Fill {
        level,
        disk_full,
        worker,
        bytes,
        max_bytes,
    } = fill;
    if disk_full {
        return format!(
            "the disk of the usage spool of worker {worker} is full ({bytes} of {max_bytes} bytes are used): calls that \
             begin now are only added up, not recorded one by one; make room on the disk of the node's data folder"
        );
    }
    let since = i64::try_from(stuck.counted_ms).ok();
    let since = since.and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    let since = since.map_or_else(String::new, |at| {
        format!(" since {}", at.strftime("%Y-%m-%dT%H:%M:%SZ"))
    });
    let why = match &stuck.why {
        Some(why) => format!("nothing was counted{since} ({why})"),
        None if stuck.waits => format!("nothing was counted{since} (the log has not answered yet)"),
        None => "usage comes faster than it is counted".to_owned(),
    };
    let next = match level {
        Level::Fine | Level::Half => "",
        Level::High => "; from 95 % on calls are only added up, not recorded one by one",
        Level::Full => "; calls that begin now are only added up, not recorded one by one",
    };
    format!(
        "the usage spool of worker {worker} is {percent} % full ({bytes} of {max_bytes} bytes): {why}{next}; see \
         that most nodes are up and reach one another (mode-envoy cluster status), or give more room \
         (--usage-spool-bytes)",
        percent = bytes.saturating_mul(100) / max_bytes.max(1),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn levels(percents: &[u64]) -> Vec<Level> {
        let mut level = Level::Fine;
        let mut next = |percent: &u64| {
            level = level.after(*percent * 10, 1_000);
            level
        };
        percents.iter().map(&mut next).collect()
    }

    #[test]
    fn each_level_is_reached_at_its_percent_and_left_five_points_below() {
        use Level::{Fine, Full, Half, High};
        let percents = [
            0, 49, 50, 46, 45, 44, 49, 50, 80, 75, 74, 95, 90, 89, 74, 44,
        ];
        let expected = [
            Fine, Fine, Half, Half, Half, Fine, Fine, Half, High, High, Half, Full, Full, High,
            Half, Fine,
        ];
        assert_eq!(levels(&percents), expected);
        assert_eq!(levels(&[100, 0]), [Full, Fine]);
    }

    #[test]
    fn an_alarm_names_the_spool_how_full_why_and_what_to_do_and_goes_when_it_is_over() {
        let alarms = Alarms::default();
        let mut teller = Teller::new(PathBuf::from("/data/usage"), alarms.clone());
        let stuck = Stuck {
            counted_ms: 1_790_000_000_000,
            why: Some("there is no leader".to_owned()),
            waits: true,
        };
        let fill = |level, bytes| Fill {
            level,
            disk_full: false,
            worker: 3,
            bytes,
            max_bytes: 1_000,
        };
        teller.tell(Some(fill(Level::High, 810)), &stuck);
        let [told] = &alarms.list()[..] else {
            panic!("one alarm")
        };
        for part in [
            "worker 3",
            "81 %",
            "2026-09-21T",
            "no leader",
            "95 %",
            "--usage-spool-bytes",
        ] {
            assert!(told.contains(part), "{told}: {part}");
        }
        teller.tell(Some(fill(Level::Full, 960)), &stuck);
        assert!(alarms.list()[0].contains("only added up"));
        let full = Fill {
            disk_full: true,
            ..fill(Level::Full, 10)
        };
        teller.tell(Some(full), &Stuck::default());
        assert!(alarms.list()[0].contains("the disk of the usage spool of worker 3 is full"));
        teller.tell(Some(fill(Level::Fine, 10)), &Stuck::default());
        assert!(alarms.list().is_empty());
    }
}
