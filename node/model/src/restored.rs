//! That a state was made another cluster's from a backup, as the history keeps it.
//!
//! The restore itself changes the state before any log of the new cluster begins (`adopt`); this is its record, the first of the new
//! cluster, and the chain of hashes goes on through it.

/// Longest text that says who restored a backup.
pub const BY: usize = 128;

/// A backup became a new cluster.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Restored {
    /// The new cluster.
    pub cluster_id: [u8; 16],
    /// The cluster that the backup is of.
    pub from_cluster_id: [u8; 16],
    /// The revision of the backup.
    pub from_revision: u64,
    /// The index of the old cluster's log at which the backup stands.
    pub from_index: u64,
    /// The new cluster's only node.
    pub node: u64,
}

// === impl Restored ===

impl Restored {
    /// What the history says was asked for.
    pub fn origin(&self) -> String {
        let from = u128::from_be_bytes(self.from_cluster_id);
        format!("restore of {from:032x} at {}", self.from_revision)
    }
}

/// A name that says who restored a backup, fit for the history: printable, and no longer than [`BY`].
pub fn shown_by(text: &str) -> String {
    let printable = |c: &char| c.is_ascii_graphic();
    text.chars().filter(printable).take(BY).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits;

    #[test]
    fn the_origin_of_any_restore_fits_into_the_history() {
        let restored = Restored {
            cluster_id: [1; 16],
            from_cluster_id: [0xff; 16],
            from_revision: 99_999_999_999_999,
            from_index: u64::MAX,
            node: 4,
        };
        assert!(restored.origin().len() <= limits::ORIGIN);
        assert!(restored.origin().starts_with("restore of ffff"));
        assert_eq!(shown_by("ops\n@host \u{e9}"), "ops@host");
        assert_eq!(shown_by(&"x".repeat(500)).len(), BY);
    }
}
