//! The replicated state as one file, for whoever may take it away.

use bytes::Bytes;
use mode_envoy_raft::backup::MakeBackupError;

use super::authorize::{Action, check};
use super::time::now_ms;
use super::{Control, ControlError, Principal};

/// A piece travels in one message.
const PIECE_BYTES: usize = 256 << 10;

/// A backup, piece by piece.
pub struct BackupInPieces {
    /// Members that could not be asked to count their last calls.
    pub missing_nodes: Vec<u64>,
    /// The file's bytes in order; each is made when it is asked for.
    pub pieces: Box<dyn Iterator<Item = Bytes> + Send>,
}

// === impl Control ===

impl Control {
    /// A backup. It covers every change that was acknowledged and every call that ended before now; with `local`, what this node
    /// has on its disk, which needs no other node.
    ///
    /// # Errors
    ///
    /// The role does not allow it, or the cluster did not confirm that this node is up to date.
    pub async fn backup(
        &self,
        who: &Principal,
        local: bool,
    ) -> Result<BackupInPieces, ControlError> {
        check(who.role, Action::Backup)?;
        let missing_nodes = if local {
            Vec::new()
        } else {
            self.usage.cover_all().await.map_err(|error| {
                tracing::debug!(%error, "a backup was not made");
                ControlError::Unavailable(
                    "a backup needs a quorum, so that it has all that was acknowledged: most of the nodes must be up and \
                     reach one another; with --local it has what the node asked has on its disk"
                        .to_owned(),
                )
            })?
        };
        self.check_token(who)?;
        let made = self.handle.backup(local, now_ms()).await;
        let writer = made.map_err(|error| match error {
            MakeBackupError::Interrupted => ControlError::Unavailable(error.to_string()),
            other => ControlError::Internal(other.to_string()),
        })?;
        let about = *writer.about();
        tracing::info!(
            actor = %who.name,
            applied_index = about.applied_index,
            revision = about.revision,
            local,
            "a backup is taken"
        );
        Ok(BackupInPieces {
            missing_nodes,
            pieces: Box::new(writer.flat_map(in_messages)),
        })
    }
}

impl std::fmt::Debug for BackupInPieces {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BackupInPieces")
            .field("missing_nodes", &self.missing_nodes)
            .finish_non_exhaustive()
    }
}

fn in_messages(mut bytes: Bytes) -> impl Iterator<Item = Bytes> {
    std::iter::from_fn(move || {
        let len = bytes.len().min(PIECE_BYTES);
        (len > 0).then(|| bytes.split_to(len))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_piece_is_larger_than_a_message_and_none_is_lost() {
        for len in [0, 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES] {
            let pieces: Vec<Bytes> = in_messages(Bytes::from(vec![7; len])).collect();
            assert!(pieces.iter().all(|piece| piece.len() <= PIECE_BYTES));
            assert_eq!(pieces.iter().map(Bytes::len).sum::<usize>(), len);
        }
    }
}
