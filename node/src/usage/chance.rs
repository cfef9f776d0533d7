//! What usage takes from its machine besides disks: the clock, and identities that nobody gives twice.
//!
//! One place, so that a simulation can put its own in their stead (feature `sim`); in a node they are the system's.

#[cfg(not(feature = "sim"))]
mod real {
    use std::time::{SystemTime, UNIX_EPOCH};

    use ring::rand::{SecureRandom as _, SystemRandom};

    /// Unix milliseconds.
    pub(crate) fn wall_ms() -> u64 {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    /// The identity of a new spool; none if the system gives no random bytes.
    pub(crate) fn new_uuid() -> Option<[u8; 16]> {
        let mut uuid = [0; 16];
        SystemRandom::new().fill(&mut uuid).ok()?;
        Some(uuid)
    }
}

#[cfg(not(feature = "sim"))]
pub(crate) use real::{new_uuid, wall_ms};

#[cfg(feature = "sim")]
pub(crate) use super::sim::{new_uuid, wall_ms};
