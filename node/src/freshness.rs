//! How long this node has been cut off from the quorum, and what follows from that.
//!
//! ```text
//! contact --stale_after--> stale: /readyz 503, answers say so --stale_deny--> denied: calls with a key are refused too
//! ```
//!
//! A node that is cut off serves what it has; but a key that was revoked meanwhile is one that it still takes, so that it
//! must end at some time. Routes without authentication flow on.
//!
//! Invariants:
//! * the count goes on over restarts (`record.rs`): where it cannot be known, it is taken to be long;
//! * asking costs one reading of a clock: it is done for each request.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mode_envoy_raft::{BootMs, Contact};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use self::record::{Moment, Record};

mod record;

/// The record is written this often at most.
const RECORD_EVERY: Duration = Duration::from_secs(5);
/// The first contact of a run is recorded so soon: it says that this boot of the machine had a run.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// What is taken for the age of a contact that nothing is known of.
const UNKNOWN: Duration = Duration::from_hours(365 * 24);

/// When a node that is cut off changes what it does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct StaleRules {
    /// From then on it says so.
    pub after: Duration,
    /// From then on it takes no keys; never, where absent.
    pub deny: Option<Duration>,
}

/// What a node may do with what it knows. Seconds are those since the last contact with the quorum.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Standing {
    /// Everything.
    Fresh,
    /// Everything, but it says so.
    Stale(u64),
    /// It takes no keys.
    Denied(u64),
}

/// How long this node has been cut off. A cheap clone of the same.
#[derive(Clone, Debug)]
pub struct Freshness {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    contact: Contact,
    rules: StaleRules,
    began: BootMs,
    /// Since the last contact of an earlier run, when this one began.
    age_then: Duration,
    /// That run was of the same boot of the machine.
    same_boot: bool,
}

// === impl StaleRules ===

impl Default for StaleRules {
    fn default() -> Self {
        Self {
            after: Duration::from_secs(30),
            deny: Some(Duration::from_hours(1)),
        }
    }
}

// === impl Standing ===

impl Standing {
    /// Seconds since the last contact, where that is to be told.
    pub const fn seconds(self) -> Option<u64> {
        match self {
            Self::Fresh => None,
            Self::Stale(seconds) | Self::Denied(seconds) => Some(seconds),
        }
    }
}

// === impl Freshness ===

impl Freshness {
    /// Of a node that keeps its record in `dir`. `log_wall_ms` is the wall time of the last entry it has applied, which
    /// says something where there is no record.
    pub fn open(dir: &Path, contact: Contact, rules: StaleRules, log_wall_ms: u64) -> Self {
        let now = Moment::now();
        let known = Record::read(dir);
        let same_boot = known.as_ref().is_some_and(|record| record.is_of_boot(&now));
        let known = known.or_else(|| Record::of_log(log_wall_ms));
        let age = known.and_then(|record| record.age(&now));
        Self::of(contact, rules, (age.unwrap_or(UNKNOWN), same_boot))
    }

    /// Whether the machine has not been started since this node last ran; where that is not known, it may have been.
    pub fn is_same_boot(&self) -> bool {
        self.inner.same_boot
    }

    /// Of a node that is never cut off.
    pub fn connected() -> Self {
        let rules = StaleRules {
            after: Duration::MAX,
            deny: None,
        };
        Self::since(Contact::default(), rules, Duration::ZERO)
    }

    pub(crate) fn since(contact: Contact, rules: StaleRules, age_then: Duration) -> Self {
        Self::of(contact, rules, (age_then, true))
    }

    fn of(contact: Contact, rules: StaleRules, (age_then, same_boot): (Duration, bool)) -> Self {
        let began = BootMs::now();
        let inner = Inner {
            contact,
            rules,
            began,
            age_then,
            same_boot,
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// How long ago the last contact was.
    pub fn age(&self) -> Duration {
        let now = BootMs::now();
        let Inner {
            contact,
            began,
            age_then,
            ..
        } = &*self.inner;
        let before = age_then.saturating_add(now.since(*began));
        contact
            .last()
            .map_or(before, |last| now.since(last).min(before))
    }

    /// What this node may do.
    pub fn standing(&self) -> Standing {
        let StaleRules { after, deny } = self.inner.rules;
        let age = self.age();
        if deny.is_some_and(|deny| age >= deny) {
            Standing::Denied(age.as_secs())
        } else if age >= after {
            Standing::Stale(age.as_secs())
        } else {
            Standing::Fresh
        }
    }

    /// Why this node is not ready, if it is cut off.
    pub fn problem(&self) -> Option<String> {
        let (seconds, does) = match self.standing() {
            Standing::Fresh => return None,
            Standing::Stale(seconds) => (seconds, "it serves the configuration that it has"),
            Standing::Denied(seconds) => (
                seconds,
                "calls with a key are refused as config_stale, routes without authentication flow",
            ),
        };
        let time = if seconds < UNKNOWN.as_secs() {
            format!("{seconds} s")
        } else {
            "a time that is not known".to_owned()
        };
        Some(format!(
            "cut off: no contact with a majority of the cluster's nodes for {time}; {does}; bring nodes up or mend the \
             network between them (`mode-envoy cluster status` names those that do not answer)"
        ))
    }

    /// Waits until there is contact, or for so long.
    pub async fn contact_within(&self, limit: Duration) {
        const LOOK_AGAIN: Duration = Duration::from_millis(50);
        let fresh = async {
            while self.standing() != Standing::Fresh {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        };
        // Whatever came of it, the node serves.
        let _ = tokio::time::timeout(limit, fresh).await;
    }

    /// Keeps the record in `dir` until cancelled.
    pub async fn keep(self, dir: std::path::PathBuf, cancel: CancellationToken) {
        let mut ticks = interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut kept, mut complained) = (None, false);
        let mut written_at = BootMs(0);
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                _ = ticks.tick() => {}
            }
            let (last, now) = (self.inner.contact.last(), BootMs::now());
            let due = kept.is_none() || now.since(written_at) >= RECORD_EVERY;
            let (Some(moment), true) = (last, due && last != kept) else {
                continue;
            };
            written_at = now;
            let record = Moment::now().record_of(moment);
            let dir = dir.clone();
            let written = tokio::task::spawn_blocking(move || record.write(&dir)).await;
            match written {
                Ok(Ok(())) => (kept, complained) = (last, false),
                Ok(Err(error)) if !complained => {
                    complained = true;
                    tracing::warn!(%error, "the time of the last contact with the quorum could not be written; a restart \
                        without a quorum would count from an earlier one");
                }
                Ok(Err(_)) | Err(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: StaleRules = StaleRules {
        after: Duration::from_secs(30),
        deny: Some(Duration::from_hours(1)),
    };

    fn cut_off_for(seconds: u64, rules: StaleRules) -> Freshness {
        Freshness::since(Contact::default(), rules, Duration::from_secs(seconds))
    }

    #[test]
    fn a_node_that_is_cut_off_says_so_first_and_takes_no_keys_later() {
        assert_eq!(cut_off_for(20, RULES).standing(), Standing::Fresh);
        assert_eq!(cut_off_for(20, RULES).problem(), None);
        assert_eq!(cut_off_for(40, RULES).standing(), Standing::Stale(40));
        let denied = cut_off_for(4_000, RULES);
        assert_eq!(denied.standing(), Standing::Denied(4_000));
        assert!(
            denied
                .problem()
                .unwrap()
                .contains("for 4000 s; calls with a key are refused")
        );
    }

    #[test]
    fn keys_are_taken_for_ever_where_the_operator_says_so() {
        let rules = StaleRules {
            deny: None,
            ..RULES
        };
        assert_eq!(
            cut_off_for(4_000_000, rules).standing(),
            Standing::Stale(4_000_000)
        );
    }

    #[test]
    fn contact_ends_it() {
        let contact = Contact::default();
        let freshness = Freshness::since(contact.clone(), RULES, UNKNOWN);
        assert!(matches!(freshness.standing(), Standing::Denied(_)));
        contact.reached(BootMs::now());
        assert_eq!(freshness.standing(), Standing::Fresh);
    }

    #[test]
    fn without_a_record_the_last_entry_counts_and_without_that_it_is_long() {
        let dir = tempfile::tempdir().unwrap();
        let open = |wall_ms| Freshness::open(dir.path(), Contact::default(), RULES, wall_ms);
        assert!(open(0).age() >= UNKNOWN);
        let minute_ago = Moment::now().wall_ms - 60_000;
        let age = open(minute_ago).age().as_secs();
        assert!((60..120).contains(&age), "{age}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_count_goes_on_over_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let contact = Contact::default();
        let now = BootMs::now();
        contact.reached(BootMs(now.0.saturating_sub(10_000)));
        let first = Freshness::open(dir.path(), contact, RULES, 0);
        let cancel = CancellationToken::new();
        let keeping = first.keep(dir.path().to_owned(), cancel.clone());
        let looking = async {
            while Record::read(dir.path()).is_none() {
                tokio::task::yield_now().await;
            }
            cancel.cancel();
        };
        tokio::join!(keeping, looking);
        let age = Freshness::open(dir.path(), Contact::default(), RULES, 0).age();
        assert!((10..70).contains(&age.as_secs()), "{age:?}");
    }
}
