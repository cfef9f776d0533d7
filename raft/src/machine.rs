//! What consensus takes from its machine besides disks and sockets: clocks, chance, and threads that may block.
//!
//! One place, so that a simulation can put its own in their stead (feature `sim`); in a node they are the system's.

#[cfg(not(feature = "sim"))]
mod real {
    use std::hash::{BuildHasher as _, Hasher as _, RandomState};
    use std::time::{SystemTime, UNIX_EPOCH};

    use rustix::time::{ClockId, clock_gettime};
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

    /// Milliseconds since this machine booted, its sleep included.
    pub(crate) fn boot_ms() -> u64 {
        let now = clock_gettime(ClockId::Boottime);
        let secs = u64::try_from(now.tv_sec).unwrap_or_default();
        let millis = u64::try_from(now.tv_nsec / 1_000_000).unwrap_or_default();
        secs.saturating_mul(1_000).saturating_add(millis)
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
pub(crate) use real::{Runtime, blocking, boot_ms, random, wall_ms};

#[cfg(feature = "sim")]
pub(crate) use crate::sim::machine::{Runtime, blocking, boot_ms, random, wall_ms};
