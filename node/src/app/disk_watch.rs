//! Watches how much room the data directory's file system has, since a full one ends the node: a log that cannot be
//! written is fatal.
//!
//! An alarm is raised below the threshold and cleared a tenth above it, so that it does not flap.

use std::path::PathBuf;
use std::time::Duration;

use ::metrics::gauge;
use tokio::time::{MissedTickBehavior, interval};

use mode_envoy_storage::disk::{Space, space};

use super::App;
use crate::alarms::{AlarmKind, Alarms};
use crate::metrics as names;
use crate::supervisor::TaskKind;

const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Where nothing else is set, a twentieth of the file system, and this at least.
const AT_LEAST: u64 = 1 << 30;
const SHARE: u64 = 20;

/// Whether there is too little room, and who knows.
#[derive(Debug)]
struct Watch {
    dir: PathBuf,
    min_free: Option<u64>,
    alarms: Alarms,
    raised: bool,
}

/// Watches until the node ends.
pub(super) fn start(app: &App) {
    let mut watch = Watch {
        dir: app.settings.data_dir.clone(),
        min_free: app.settings.disk_min_free,
        alarms: app.alarms.clone(),
        raised: false,
    };
    let stopping = app.supervisor.stopping();
    let looking = async move {
        let mut ticks = interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stopping.cancelled() => return Ok(()),
                _ = ticks.tick() => {}
            }
            let dir = watch.dir.clone();
            // A file system may take its time to answer.
            match tokio::task::spawn_blocking(move || space(&dir)).await? {
                Ok(space) => watch.see(space),
                Err(error) => {
                    tracing::warn!(%error, dir = %watch.dir.display(), "cannot tell how much room the disk has");
                }
            }
        }
    };
    app.supervisor
        .spawn("disk watch", TaskKind::BestEffort, looking);
}

// === impl Watch ===

impl Watch {
    fn see(&mut self, space: Space) {
        let threshold = self
            .min_free
            .unwrap_or_else(|| AT_LEAST.max(space.total / SHARE));
        let enough = threshold.saturating_add(threshold / 10);
        gauge!(names::DISK_FREE_BYTES).set(names::number(space.free));
        if !self.raised && space.free < threshold {
            self.raised = true;
            let sentence = self.sentence(space, threshold);
            tracing::warn!("{sentence}");
            self.alarms.raise(AlarmKind::Disk, sentence);
        } else if self.raised && space.free >= enough {
            self.raised = false;
            tracing::info!(
                free = space.free,
                "the disk of the data directory has room again"
            );
            self.alarms.clear(AlarmKind::Disk);
        }
        gauge!(names::DISK_ALARM).set(f64::from(u8::from(self.raised)));
    }

    fn sentence(&self, space: Space, threshold: u64) -> String {
        format!(
            "the disk of {dir} has {free} of {total} bytes free, fewer than {threshold}: make room or give it more \
             (this node ends when its log cannot be written); docs/operating.md says what its files are",
            dir = self.dir.display(),
            free = space.free,
            total = space.total,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch(min_free: Option<u64>) -> Watch {
        Watch {
            dir: PathBuf::from("/data"),
            min_free,
            alarms: Alarms::default(),
            raised: false,
        }
    }

    fn room(free: u64) -> Space {
        Space {
            free,
            total: 100 << 30,
        }
    }

    #[test]
    fn an_alarm_is_raised_below_what_is_set_and_cleared_a_tenth_above() {
        let mut watch = watch(Some(1_000));
        let mut raised_at = |free| {
            watch.see(room(free));
            !watch.alarms.list().is_empty()
        };
        assert_eq!(
            [1_000, 999, 1_000, 1_099, 1_100, 999].map(&mut raised_at),
            [false, true, true, true, false, true]
        );
    }

    #[test]
    fn unless_it_is_set_a_twentieth_must_be_free_and_a_gibibyte_at_least() {
        let mut large = watch(None);
        large.see(room((5 << 30) - 1));
        assert!(large.alarms.list()[0].contains("/data"));
        let mut small = watch(None);
        let total = 2 << 30;
        small.see(Space {
            free: (1 << 30) - 1,
            total,
        });
        assert!(small.raised);
    }
}
