//! What a person or a script may do with the cluster, and who may: the admin API is a thin skin over this.
//!
//! ```text
//! Principal --authorize--> a reading (barrier, then the catalog of this node)
//!                          a Command (proposed to the leader, which authorises it again and decides)
//! ```
//!
//! * [`authorize`] is the only place that knows roles.
//! * A reading is linearizable unless the caller asks for this node's own view.
//! * A write answers within [`WRITE_DEADLINE`]: it is in force, it is refused, or the answer says that its outcome is
//!   not known. After a write, this node has applied it.
//! * A write that its client named is carried out once: a retry is answered as the first try was.
//! * Secrets are sealed before they leave this process, and none is ever part of an answer but the one that it made.

pub mod authorize;
pub mod check;
pub mod document;
pub mod error;
pub mod principal;

mod apply;
mod backup;
mod calls;
mod cluster;
mod credential;
mod diff;
mod history;
mod keys;
mod limits;
mod read;
mod rollback;
mod rotation;
mod time;
mod tokens;
mod usage;

use std::sync::Arc;
use std::time::Duration;

use mode_envoy_model::command::Command;
use mode_envoy_model::requests::{Answered, ClientRequest};
use mode_envoy_raft::{Accepted, Caller, Handle};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::secrets::{Keyring, KeyringSource};
use crate::usage::Queries;

pub use self::apply::{Applied, Confirmed};
pub use self::authorize::hook as authorize_hook;
pub use self::backup::BackupInPieces;
pub use self::calls::{
    CallsFilter, CallsQuestion, Follow, Followed, Gather, Gathered, LIMIT_MAX, explain,
    status_range,
};
pub use self::cluster::{ClusterStatus, NewNode, Removal};
pub use self::diff::{Compared, ComparedObject};
pub use self::error::ControlError;
pub use self::history::{AuditQuestion, HistoryPage, HistoryQuestion, Past, Recorded};
pub use self::keys::{Grace, NewKey, ShownKey};
pub use self::limits::{LimitsAnswer, LimitsQuestion, POOLS_MAX, is_counted};
pub use self::principal::{NamedRequest, Principal};
pub use self::read::{AsOf, Exported};
pub use self::rotation::Rotated;
pub(crate) use self::time::now_ms;
pub use self::time::{format_exact_ms, format_minute, format_ms, parse_time};
pub use self::tokens::ShownToken;
pub use self::usage::{UsageAnswer, UsageQuestion};

/// How long a write may take before its outcome counts as unknown.
pub const WRITE_DEADLINE: Duration = Duration::from_millis(4_500);
/// How long a reading waits for the cluster to confirm that this node is up to date.
pub const READ_DEADLINE: Duration = Duration::from_millis(4_500);
/// How long `wait` waits for every node to have a change in force.
pub const WAIT_DEADLINE: Duration = Duration::from_secs(5);

/// Callers for whom the history is replayed at one time: it takes a processor, and some milliseconds for each thousand changes.
const REPLAYS: usize = 2;
/// How long others wait for their turn.
const REPLAY_TURN: Duration = Duration::from_secs(3);

/// Everything that may be asked of the cluster, on this node.
pub struct Control {
    handle: Handle,
    keyring: KeyringSource,
    usage: Queries,
    calls: Gather,
    /// Taken while the history is replayed.
    replays: Arc<Semaphore>,
}

// === impl Control ===

impl Control {
    /// Over a member of the cluster.
    pub fn new(handle: Handle, keyring: KeyringSource, usage: Queries, calls: Gather) -> Self {
        Self {
            handle,
            keyring,
            usage,
            calls,
            replays: Arc::new(Semaphore::new(REPLAYS)),
        }
    }

    /// Proposes a command and waits until this node has applied it.
    async fn propose(&self, who: &Principal, command: Command) -> Result<Accepted, ControlError> {
        if let Err(refused) = authorize::check_command(who, &self.handle.catalog(), &command) {
            // What a tenant may name is in the catalog, and this node may not have the newest.
            if who.tenant.is_none() {
                return Err(refused);
            }
            self.up_to_date(who, false).await?;
            authorize::check_command(who, &self.handle.catalog(), &command)?;
        }
        let caller = self.caller(who)?;
        let accepted = self
            .handle
            .propose(command, &caller, WRITE_DEADLINE)
            .await?;
        // The change is in force whatever comes of this: it only lets the caller read here what it wrote.
        if accepted.index > 0 {
            let _ = self
                .handle
                .wait_applied(accepted.index, READ_DEADLINE)
                .await;
        }
        Ok(accepted)
    }

    /// As the log and the leader know who asks, and what is carried out.
    fn caller(&self, who: &Principal) -> Result<Caller, ControlError> {
        Ok(Caller {
            request: self.client_request(who)?,
            ..who.caller()
        })
    }

    /// By what the cluster knows the request again that is carried out.
    fn client_request(&self, who: &Principal) -> Result<Option<ClientRequest>, ControlError> {
        let Some(request) = &who.request else {
            return Ok(None);
        };
        let keyring = self.required_keyring()?;
        let NamedRequest { id, body, nonce } = request;
        Ok(Some(keyring.client_request(id, body, *nonce)))
    }

    fn required_keyring(&self) -> Result<Arc<Keyring>, ControlError> {
        let keyring = self.keyring.of(&self.handle.catalog())?;
        keyring.ok_or_else(|| {
            let why = "the cluster has no encryption key yet, since it is still being founded";
            ControlError::Unavailable(why.to_owned())
        })
    }

    /// This request as it was carried out, as far as this node has applied the log.
    fn remembered(&self, who: &Principal) -> Result<Option<Answered>, ControlError> {
        let Some(request) = self.client_request(who)? else {
            return Ok(None);
        };
        let known = self.handle.read(|state| {
            let known = state.requests.answer(&who.name, &request);
            known.map(Option::<&Answered>::cloned)
        })?;
        Ok(known)
    }

    /// What this request came to when it was carried out before, as far as this node has applied the log.
    fn answered_before(&self, who: &Principal) -> Result<Option<Accepted>, ControlError> {
        Ok(self.remembered(who)?.map(|known| Accepted {
            revision: known.revision,
            index: known.index,
            changes: known.changes,
        }))
    }

    /// Makes sure that this node has applied everything that was acknowledged before now, and that the caller's token is one still.
    async fn up_to_date(&self, who: &Principal, local: bool) -> Result<(), ControlError> {
        if !local {
            self.handle
                .read_barrier(READ_DEADLINE)
                .await
                .map_err(ControlError::of_reading)?;
            self.check_token(who)?;
        }
        Ok(())
    }

    /// What brought this node up to date may have revoked the token.
    fn check_token(&self, who: &Principal) -> Result<(), ControlError> {
        let known = self.handle.catalog().token_by_hash(&who.hash).is_some();
        known.then_some(()).ok_or(ControlError::Unauthenticated)
    }

    /// A turn to replay the history in.
    async fn replay_turn(&self) -> Result<OwnedSemaphorePermit, ControlError> {
        let turn = Arc::clone(&self.replays).acquire_owned();
        match timeout(REPLAY_TURN, turn).await {
            Ok(Ok(turn)) => Ok(turn),
            Ok(Err(_)) | Err(_) => Err(ControlError::Unavailable(
                "this node is reading the history for others already; try again in a few seconds, or ask another node"
                    .to_owned(),
            )),
        }
    }
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control")
            .field("node", &self.handle.node_id())
            .finish_non_exhaustive()
    }
}
