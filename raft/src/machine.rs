//! What consensus takes from its machine besides disks and sockets: a wall clock, chance, and threads that may block.
//!
//! One place, so that a simulation can put its own in their stead (feature `sim`); in a node they are the system's.

#[cfg(not(feature = "sim"))]
mod real {
    use std::hash::{BuildHasher as _, Hasher as _, RandomState};
    use std::time::{SystemTime, UNIX_EPOCH};

    use tokio::task::JoinError;

    use crate::types::NodeId;

    /// What runs the consensus library's tasks.
    pub(crate) type Runtime = openraft::TokioRuntime;

    /// Unix milliseconds, by this machine's clock.
    pub(crate) fn wall_ms(_: NodeId) -> u64 {
        let since_epoch = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
    }

    /// A number that nobody can foresee well; for spreading, not for secrets.
    pub(crate) fn random() -> u64 {
        RandomState::new().build_hasher().finish()
    }

    /// Runs work that blocks on a thread of its own.
    pub(crate) async fn blocking<T: Send + 'static>(
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, JoinError> {
        tokio::task::spawn_blocking(work).await
    }
}

#[cfg(not(feature = "sim"))]
pub(crate) use real::{Runtime, blocking, random, wall_ms};

#[cfg(feature = "sim")]
pub(crate) use crate::sim::machine::{Runtime, blocking, random, wall_ms};
