//! The secrets of providers follow the cluster's encryption key: whoever leads while a rotation lasts seals them anew.
//!
//! ```text
//! RotationSwitched: the new key is in force, the old one opens still -> some providers at a time: open, seal, propose
//!  -> none is left under the old key -> RotationEnded, and the old key is nothing any more
//! ```
//!
//! Invariant: a step is one change of the log, which changes only what is sealed under the old key still; so a crash, another leader or
//! the same step twice do no harm, and what is left is found in the catalog.

use std::sync::Arc;
use std::time::Duration;

use mode_envoy_model::catalog::Catalog;
use mode_envoy_model::command::Command;
use mode_envoy_model::provider::{Provider, Resealed};
use mode_envoy_raft::{Caller, Handle, ProposeError};

use super::App;
use super::own::Own;
use crate::secrets::{KeyringError, KeyringSource};
use crate::supervisor::{Chain, TaskKind};

/// Bytes of secrets that one step seals anew, about.
const STEP_BYTES: usize = 256 << 10;
/// What a secret takes beside its ciphertext, about.
const SECRET_BYTES: usize = 256;
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// After a step, where its change does not come before.
const AGAIN: Duration = Duration::from_millis(500);

/// Why a step was not taken.
#[derive(Debug, thiserror::Error)]
enum ResealError {
    #[error("sealing the providers' keys under the new encryption key")]
    Keyring(#[from] KeyringError),
    #[error("writing the providers' keys, sealed under the new encryption key")]
    Propose(#[from] ProposeError),
}

/// Goes on for as long as the node does.
pub(super) fn start(app: &App, own: &Own, member: &Handle) {
    let (member, keyring) = (member.clone(), own.keyring.clone());
    let stopping = app.supervisor.stopping();
    app.supervisor
        .spawn("sealing", TaskKind::BestEffort, async move {
            tokio::select! {
                () = stopping.cancelled() => {}
                () = follow(&member, &keyring) => {}
            }
            Ok(())
        });
}

async fn follow(member: &Handle, keyring: &KeyringSource) {
    let mut catalog = member.watch_catalog();
    let mut leader = member.watch_leader();
    loop {
        let leads = *leader.borrow_and_update() == Some(member.node_id());
        let current = Arc::clone(&catalog.borrow_and_update());
        let is_left = leads && current.rotation().is_some() && current.has_stale_secrets();
        if is_left && let Err(error) = step(member, keyring, &current).await {
            let error = Chain(&error).to_string();
            tracing::warn!(
                error,
                "the rotation of the cluster secret does not go on yet"
            );
        }
        tokio::select! {
            changed = catalog.changed() => if changed.is_err() { return },
            changed = leader.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(AGAIN), if is_left => {}
        }
    }
}

async fn step(
    member: &Handle,
    keyring: &KeyringSource,
    catalog: &Catalog,
) -> Result<(), ResealError> {
    let Some(keyring) = keyring.of(catalog)? else {
        return Ok(());
    };
    let mut bytes = 0_usize;
    let fitting = catalog.stale_providers().take_while(|provider| {
        let is_first = bytes == 0;
        bytes = bytes.saturating_add(bytes_of(provider));
        is_first || bytes <= STEP_BYTES
    });
    let providers: Result<Vec<Resealed>, _> =
        fitting.map(|provider| keyring.reseal(provider)).collect();
    let command = Command::Reseal {
        generation: catalog.generation(),
        providers: providers?,
    };
    let done = member
        .propose(command, &Caller::node(), ANSWER_TIMEOUT)
        .await?;
    tracing::info!(
        revision = done.revision,
        "providers' keys are sealed under the new encryption key"
    );
    Ok(())
}

fn bytes_of(provider: &Provider) -> usize {
    let bytes = |key: &mode_envoy_model::provider::SealedSecret| {
        key.ciphertext.len() + key.wrapped_data_key.len() + SECRET_BYTES
    };
    provider.keys.iter().map(bytes).sum()
}
