//! Rollback: the declarative objects become what they were at a revision, as one change on top of what is there now.
//!
//! The node that is asked finds the way back from its history, which is the same on every node, and the leader decides
//! it at the revision from which it leads; where the configuration moved on meanwhile, the way is looked for again.

use std::sync::Arc;

use mode_envoy_model::command::{Command, RejectedCode};

use super::apply::in_background;
use super::authorize::{Action, check};
use super::history::catalog_at;
use super::{Applied, Control, ControlError, Principal};

/// How often a way back is looked for.
const ATTEMPTS: u32 = 3;

// === impl Control ===

impl Control {
    /// Makes the declarative objects what they were at a revision.
    ///
    /// # Errors
    ///
    /// The history does not hold that revision; something would have to come back that never does; something that stays
    /// needs what would go; or the cluster cannot decide.
    pub async fn rollback(
        &self,
        who: &Principal,
        revision: u64,
        dry_run: bool,
        wait: bool,
    ) -> Result<Applied, ControlError> {
        check(who.role, Action::Rollback)?;
        let mut attempt = 1;
        loop {
            self.up_to_date(who, false).await?;
            // Once it is carried out, the way back is another one, or none.
            if let Some(before) = self.answered_before(who)? {
                return Ok(self.applied(before, wait && !dry_run).await);
            }
            let command = self.way_back_to(revision, dry_run).await?;
            match self.carry_out(who, command, wait && !dry_run).await {
                Err(ControlError::Rejected(rejected))
                    if rejected.code == RejectedCode::Conflict && attempt < ATTEMPTS =>
                {
                    attempt += 1;
                }
                done => return done,
            }
        }
    }

    async fn way_back_to(&self, revision: u64, dry_run: bool) -> Result<Command, ControlError> {
        let turn = self.replay_turn().await?;
        let (now, history) = self
            .handle
            .read(|state| (Arc::clone(&state.catalog), state.history.clone()));
        let base_revision = now.revision();
        let back = in_background(move || {
            let _turn = turn;
            let old = catalog_at(&now, &history, revision)?;
            now.way_back(&old).map_err(ControlError::from)
        })
        .await??;
        Ok(Command::Rollback {
            revision,
            base_revision,
            back,
            dry_run,
        })
    }
}
