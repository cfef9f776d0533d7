//! How this node replaces its cluster secret while the others do.
//!
//! ```text
//! begin: new secret on this node's disk -> RotationBegan
//! every member: Trusting -> take the secret from a member that holds it, keep it, trust both CAs      reports 1
//!               Switched -> the new secret is in force, certificates of its CA, both CAs trusted      reports 2
//!               over     -> only the new CA
//! leader: all report 1 -> RotationSwitched; all report 2, and every secret is sealed under the new encryption key -> RotationEnded
//! ```
//!
//! Invariants: a member shows a certificate of the new CA only when every member trusts it, and stops to trust the old one only when
//! every member shows the new one. A secret is taken only if it passes the check that stands in the log. What ends a rotation
//! here was confirmed by the cluster, not only found in a log that may be replayed still.

use std::sync::{Arc, Mutex as StdMutex, MutexGuard, PoisonError};
use std::time::Duration;

use mode_envoy_model::command::Command;
use mode_envoy_model::rotation::Rotation;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::cluster::Handle;
use crate::identity::{Identity, IdentityError};
use crate::machine;
use crate::proposal::{Accepted, Caller, ProposeError};
use crate::secret::{ClusterSecret, HeldSecrets, SecretError};

/// While a rotation is under way it is looked at this often.
const AGAIN: Duration = Duration::from_millis(200);
/// So many tries that failed are told.
const TELL_AFTER: u32 = 10;
/// How long a member has to answer.
const ASK: Duration = Duration::from_secs(2);
/// How long the cluster has to decide.
const DECIDE: Duration = Duration::from_secs(5);
/// A beginning of which there was no answer may come this much later still: the leader gives an entry up after 5 s.
const UNSURE: Duration = Duration::from_secs(6);

/// What a member reports that holds the new secret and trusts it.
const TRUSTS: u32 = 1;
/// What one reports that shows it.
const SHOWS: u32 = 2;

/// What a member says of its part in the replacement of the cluster secret.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct RotationReport {
    /// 1 for one that holds the new secret and trusts it, 2 for one that shows it.
    pub phase: u32,
    /// Of the new secret that this is said of.
    pub check: Vec<u8>,
}

/// This node's part in the replacement of the secret. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Rotator {
    identity: Arc<Identity>,
    secrets: HeldSecrets,
    /// Held while a step is taken.
    turn: Arc<Mutex<Turn>>,
    reported: Arc<StdMutex<RotationReport>>,
}

/// What the steps of this node know of each other.
#[derive(Debug, Default)]
struct Turn {
    /// Until when what this node began without an answer may come: the new secret is kept.
    unsure_until: Option<Instant>,
}

/// Why a step was not taken.
#[derive(Debug, thiserror::Error)]
enum StepError {
    #[error(transparent)]
    Files(#[from] SecretError),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error("no member that can be reached holds the new cluster secret yet")]
    Untaken,
}

// === impl RotationReport ===

impl RotationReport {
    /// Whether it is about this rotation, and as far as that. What was said of another one says nothing about it.
    fn is_as_far_as(&self, rotation: &Rotation) -> bool {
        self.check == rotation.check && self.phase >= phase_of(rotation)
    }
}

// === impl Rotator ===

impl Rotator {
    /// Trusts at once what was held when this node ended.
    ///
    /// # Errors
    /// No certificate could be made.
    pub(crate) fn new(
        identity: Arc<Identity>,
        secrets: HeldSecrets,
    ) -> Result<Self, IdentityError> {
        if secrets.other().is_some() {
            identity.set_secrets(&secrets)?;
        }
        Ok(Self {
            identity,
            secrets,
            turn: Arc::default(),
            reported: Arc::default(),
        })
    }

    /// The secrets that this node holds.
    pub(crate) fn secrets(&self) -> &HeldSecrets {
        &self.secrets
    }

    /// This node's identity.
    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// How far this node is.
    pub(crate) fn reported(&self) -> RotationReport {
        self.report().clone()
    }

    fn report(&self) -> MutexGuard<'_, RotationReport> {
        self.reported.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what is held, on disk first, then what is shown and trusted.
    async fn change(
        &self,
        change: impl FnOnce(&HeldSecrets) -> Result<(), SecretError> + Send + 'static,
    ) -> Result<(), StepError> {
        let secrets = self.secrets.clone();
        let changed = machine::blocking(move || change(&secrets)).await;
        changed.unwrap_or(Ok(()))?;
        Ok(self.identity.set_secrets(&self.secrets)?)
    }
}

// === impl Turn ===

impl Turn {
    /// Whether what this node began without an answer may come still.
    fn is_unsure(&self) -> bool {
        self.unsure_until
            .is_some_and(|until| Instant::now() < until)
    }
}

// === impl Handle ===

impl Handle {
    /// The secrets that this node holds.
    pub fn secrets(&self) -> &HeldSecrets {
        self.rotator().secrets()
    }

    /// Begins to replace the cluster secret `old` by `next`, which is on this node's disk before anybody hears of it. `None`
    /// where the secret is being replaced already: the new one of that time is not touched.
    ///
    /// # Errors
    /// As [`Handle::propose`]; [`ProposeError::Unavailable`] too where `old` is not in force any more.
    pub async fn begin_rotation(
        &self,
        (old, next): (&ClusterSecret, &ClusterSecret),
        rotation: Rotation,
        caller: &Caller,
        timeout: Duration,
    ) -> Result<Option<Accepted>, ProposeError> {
        let (rotator, id) = (self.rotator(), self.cluster_id());
        let mut turn = rotator.turn.lock().await;
        // Whoever had the turn before may have begun one, whose new secret may be nowhere but here.
        self.read_barrier(timeout).await.map_err(unwritten)?;
        if self.catalog().rotation().is_some() {
            return Ok(None);
        }
        if turn.is_unsure() {
            let problem = "a rotation that was begun without an answer may come still; try again in a few seconds";
            return Err(ProposeError::Unavailable(problem.to_owned()));
        }
        if rotator.secrets.current().check(&id) != old.check(&id) {
            let problem = "the cluster secret has just been replaced";
            return Err(ProposeError::Unavailable(problem.to_owned()));
        }
        let unavailable = |error: StepError| ProposeError::Unavailable(error.to_string());
        let kept = next.clone();
        let prepared = rotator.change(move |secrets| secrets.prepare(&kept)).await;
        prepared.map_err(unavailable)?;
        // A caller that goes away and a timeout leave open whether it has begun: what comes next is found in the log.
        turn.unsure_until = Some(Instant::now() + timeout + UNSURE);
        let begun = self
            .propose(Command::BeginRotation(rotation), caller, timeout)
            .await;
        if begun != Err(ProposeError::Timeout) {
            turn.unsure_until = None;
            if begun.is_err() {
                let forgotten = rotator.change(HeldSecrets::settle).await;
                forgotten.map_err(unavailable)?;
            }
        }
        begun.map(Some)
    }

    /// The members that are not as far as the rotation in the log.
    pub async fn rotation_waits_for(&self, limit: Duration) -> Vec<u64> {
        let catalog = self.catalog();
        let Some(rotation) = catalog.rotation() else {
            return Vec::new();
        };
        let statuses = self.statuses(limit).await;
        let members = catalog.members();
        let mut waits: Vec<u64> = members
            .joined()
            .map(|node| node.id)
            .filter(|id| !statuses.iter().any(|status| status.id == *id))
            .collect();
        let behind = statuses
            .iter()
            .filter(|status| !members.is_removed(status.id))
            .filter(|status| !status.reachable || !status.rotation.is_as_far_as(rotation));
        waits.extend(behind.map(|status| status.id));
        waits.sort_unstable();
        waits
    }
}

/// What a reading that failed means for who wanted to write after it.
fn unwritten(error: ProposeError) -> ProposeError {
    match error {
        ProposeError::Timeout => {
            ProposeError::Unavailable("no leader has confirmed itself in time".to_owned())
        }
        other => other,
    }
}

/// What every member has to report before the rotation goes on.
const fn phase_of(rotation: &Rotation) -> u32 {
    if rotation.switched { SHOWS } else { TRUSTS }
}

/// Runs for as long as the node does.
pub(crate) async fn follow(handle: Handle) {
    let mut catalog = handle.watch_catalog();
    // A secret that is held without a rotation goes again, also when nothing comes of it in the log.
    let mut held = handle.secrets().watch();
    let mut tries = 0_u32;
    loop {
        let _ = held.borrow_and_update();
        let open = catalog.borrow_and_update().rotation().cloned();
        let again = match step(&handle, open).await {
            Ok(again) => {
                tries = 0;
                again
            }
            Err(error) => {
                // Members hear of it one after the other, so that the first try may well come too early.
                tries += 1;
                if tries == TELL_AFTER {
                    tracing::warn!(%error, "this node has not switched to the new cluster secret");
                }
                true
            }
        };
        tokio::select! {
            changed = catalog.changed() => if changed.is_err() {
                return;
            },
            Ok(()) = held.changed() => {}
            () = tokio::time::sleep(AGAIN), if again => {}
        }
    }
}

/// Goes as far as the log says; whether to look again although the log does not change.
async fn step(handle: &Handle, open: Option<Rotation>) -> Result<bool, StepError> {
    let rotator = handle.rotator();
    let turn = rotator.turn.lock().await;
    let Some(rotation) = open else {
        *rotator.report() = RotationReport::default();
        if rotator.secrets.other().is_none() {
            return Ok(false);
        }
        if turn.is_unsure() {
            return Ok(true);
        }
        // What is applied here may be old still.
        let confirmed = handle.read_barrier(ASK).await.is_ok();
        if confirmed && handle.catalog().rotation().is_none() {
            rotator.change(HeldSecrets::settle).await?;
            tracing::info!("only the cluster secret that is in force is trusted now");
        }
        return Ok(!confirmed);
    };
    hold(handle, &rotation).await?;
    let shown = rotator.secrets.current().check(&handle.cluster_id());
    if rotation.switched && shown != rotation.check {
        rotator.change(HeldSecrets::switch).await?;
        tracing::info!("the new cluster secret is in force on this node");
    }
    let reached = phase_of(&rotation);
    *rotator.report() = RotationReport {
        phase: reached,
        check: rotation.check.to_vec(),
    };
    drop(turn);
    let leads = *handle.watch_leader().borrow() == Some(handle.node_id());
    // Sealing secrets anew is not consensus' work: it goes on where the keyring is.
    let sealed = !rotation.switched || !handle.catalog().has_stale_secrets();
    if leads && sealed && handle.rotation_waits_for(ASK).await.is_empty() {
        let end = rotation.switched;
        let check = rotation.check;
        let command = Command::AdvanceRotation { end, check };
        if let Err(error) = handle.propose(command, &Caller::node(), DECIDE).await {
            tracing::info!(%error, "the rotation of the cluster secret does not go on yet");
        }
    }
    Ok(true)
}

/// Holds the new secret, if need be from another member.
async fn hold(handle: &Handle, rotation: &Rotation) -> Result<(), StepError> {
    let (rotator, cluster_id) = (handle.rotator(), handle.cluster_id());
    if rotator
        .secrets
        .by_check(&rotation.check, &cluster_id)
        .is_some()
    {
        return Ok(());
    }
    // Whatever was said before, it is not held now.
    *rotator.report() = RotationReport::default();
    let own = handle.node_id();
    for id in handle
        .member_addresses()
        .into_keys()
        .filter(|id| *id != own)
    {
        let taken = match handle.take_secret(id, ASK).await {
            Ok(text) => ClusterSecret::parse(&text).ok(),
            Err(status) => {
                tracing::debug!(node = id, %status, "a member does not give the new cluster secret");
                None
            }
        };
        let sound = taken.filter(|secret| secret.check(&cluster_id) == rotation.check);
        if let Some(secret) = sound {
            return rotator
                .change(move |secrets| secrets.prepare(&secret))
                .await;
        }
    }
    Err(StepError::Untaken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_as_far_only_by_what_it_says_of_the_same_rotation() {
        let rotation = |check: u8, switched| Rotation {
            check: [check; 32],
            wrapped_key: [1].into(),
            old_wrapped_key: [4].into(),
            generation: 1,
            old_root: [2; 32],
            new_root: [3; 32],
            switched,
        };
        let said = |check: u8, phase| RotationReport {
            phase,
            check: vec![check; 32],
        };
        assert!(said(1, TRUSTS).is_as_far_as(&rotation(1, false)));
        assert!(!said(1, TRUSTS).is_as_far_as(&rotation(1, true)));
        assert!(said(1, SHOWS).is_as_far_as(&rotation(1, true)));
        assert!(!RotationReport::default().is_as_far_as(&rotation(1, false)));
        // A member that has passed the end of one and the beginning of the next in one go.
        assert!(!said(1, SHOWS).is_as_far_as(&rotation(2, false)));
    }
}
