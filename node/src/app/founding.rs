//! A new cluster is founded once: it gets its encryption key and its first token through the log.
//!
//! Both come from the cluster's secret and its id. Whoever leads and finds the catalog unfounded proposes; the log
//! takes the first proposal, so that a change of leader in between does no harm.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mode_envoy_model::command::Command;
use mode_envoy_model::object::Name;
use mode_envoy_model::token::{Role, Token};
use mode_envoy_raft::{Caller, ClusterSecret, Handle, ProposeError};

use crate::secrets::{Keyring, KeyringError, hash_admin_token};

/// The name of the token that every node derives from the secret.
const ROOT_TOKEN: &str = "root";
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Looked at again this often, in case a proposal was lost without a change of leader.
const AGAIN: Duration = Duration::from_millis(500);

/// Why the cluster was not founded.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FoundingError {
    /// No key could be made.
    #[error("making the cluster's encryption key")]
    Keyring(#[from] KeyringError),
    /// The member has ended.
    #[error("the member ended before the cluster was founded")]
    Ended,
}

/// Returns when the catalog that this node has applied is founded.
pub(super) async fn founded(handle: &Handle, secret: &ClusterSecret) -> Result<(), FoundingError> {
    let mut catalog = handle.watch_catalog();
    let mut leader = handle.watch_leader();
    while catalog.borrow_and_update().founded().is_none() {
        let leads = *leader.borrow_and_update() == Some(handle.node_id());
        if leads {
            found(handle, secret).await?;
        }
        tokio::select! {
            changed = catalog.changed() => changed.map_err(|_| FoundingError::Ended)?,
            changed = leader.changed() => changed.map_err(|_| FoundingError::Ended)?,
            () = tokio::time::sleep(AGAIN) => {}
        }
    }
    Ok(())
}

async fn found(handle: &Handle, secret: &ClusterSecret) -> Result<(), FoundingError> {
    let cluster_id = handle.cluster_id();
    let (_, wrapped_key) = Keyring::create(secret, &cluster_id)?;
    let root = Token {
        name: Name::from(ROOT_TOKEN),
        role: Role::Root,
        hash: hash_admin_token(&secret.root_token(&cluster_id)),
        created_ms: wall_ms(),
        tenant: None,
    };
    let command = Command::Found {
        cluster_id,
        wrapped_key,
        root,
    };
    match handle
        .propose(command, &Caller::node(), ANSWER_TIMEOUT)
        .await
    {
        Ok(accepted) => tracing::info!(revision = accepted.revision, "the cluster is founded"),
        Err(ProposeError::Rejected(rejected)) => {
            tracing::info!(%rejected, "another node has founded the cluster");
        }
        Err(error) => tracing::info!(%error, "the cluster is not founded yet; trying again"),
    }
    Ok(())
}

fn wall_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
