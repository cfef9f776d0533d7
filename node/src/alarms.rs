//! What is wrong on this node although it serves: a sentence each, for `cluster status`.
//!
//! `/readyz` does not know of them: a node with an alarm still serves, and taking its traffic away would put it on
//! the others, which most likely are no better off.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What an alarm is about.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum AlarmKind {
    /// The file system of the data directory is nearly full.
    Disk,
    /// A usage spool fills.
    UsageSpool,
}

/// The alarms of this node. A cheap clone; clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Alarms(Arc<Mutex<BTreeMap<AlarmKind, String>>>);

// === impl Alarms ===

impl Alarms {
    /// Raises an alarm, or says it in other words.
    pub(crate) fn raise(&self, kind: AlarmKind, sentence: String) {
        self.lock().insert(kind, sentence);
    }

    /// It is over.
    pub(crate) fn clear(&self, kind: AlarmKind) {
        self.lock().remove(&kind);
    }

    /// Those that are raised now.
    pub(crate) fn list(&self) -> Vec<String> {
        self.lock().values().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<AlarmKind, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
