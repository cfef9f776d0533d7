//! Who this node is, before it is anything: its id and its secret, which a node that joins gets from the cluster.

use std::time::Duration;

use mode_envoy_raft::data_dir::{DataDir, NodeRecord, Stage};
use mode_envoy_raft::join::{JoinSettings, join};
use mode_envoy_raft::{ClusterSecret, Handle, HeldSecrets};

use super::{App, AppError};
use crate::config::{Join, Settings};
use crate::secrets::KeyringSource;

/// The id of a node that nobody gave one: it is alone.
const ALONE: u64 = 1;
/// A joining node asks again after this whether it has caught up.
const CATCH_UP: Duration = Duration::from_secs(5);

/// Who this node is.
pub(super) struct Own {
    pub(super) node_id: u64,
    pub(super) secrets: HeldSecrets,
    pub(super) keyring: KeyringSource,
    /// It was let in a moment ago, and did not know the secret before.
    pub(super) has_joined_now: bool,
}

/// The secret, unless this node is about to join and gets it from the cluster.
pub(super) fn secret_so_far(settings: &Settings) -> Result<Option<ClusterSecret>, AppError> {
    if settings.join.is_some() && begun(settings)?.is_none() {
        return Ok(None);
    }
    Ok(Some(settings.secret.load()?))
}

/// Joins a cluster where that is asked for and has not happened yet; then says who this node is.
pub(super) async fn settle(app: &App) -> Result<Own, AppError> {
    let mut record = begun(&app.settings)?;
    let asked = app.settings.join.clone().filter(|_| record.is_none());
    let has_joined_now = asked.is_some();
    if let Some(asked) = asked {
        ask_to_join(app, asked).await?;
        record = begun(&app.settings)?;
    }
    let known = record.map(|record| record.node_id);
    let secret = app.settings.secret.load()?;
    let secrets = HeldSecrets::open(&app.settings.data_dir, secret)?;
    Ok(Own {
        node_id: app.settings.node_id.or(known).unwrap_or(ALONE),
        keyring: KeyringSource::new(secrets.clone()),
        secrets,
        has_joined_now,
    })
}

/// Returns when a node that has just joined is as far as the cluster: what it served before could be long out of date.
pub(super) async fn catch_up(member: &Handle) -> Result<(), AppError> {
    if !member.is_joining() {
        return Ok(());
    }
    while let Err(error) = member.read_barrier(CATCH_UP).await {
        tracing::info!(%error, applied = member.applied_index(), "catching up with the cluster");
    }
    Ok(member.caught_up().await?)
}

/// What the data directory says, if it has begun to be a node's.
fn begun(settings: &Settings) -> Result<Option<NodeRecord>, AppError> {
    let record = DataDir::peek(&settings.data_dir)?;
    Ok(record.filter(|record| record.stage != Stage::Fresh))
}

async fn ask_to_join(app: &App, asked: Join) -> Result<(), AppError> {
    let own = &app.settings;
    let settings = JoinSettings {
        data_dir: own.data_dir.clone(),
        address: asked.address,
        token: asked.token,
        advertise_peer: app.bound.advertise.peer.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        peer_ca: own.pki.as_ref().map(|pki| pki.ca.clone()),
    };
    let (phase, stop) = (app.phase.clone(), app.raft_stop.clone());
    let joining = async move { join(settings, &phase, &stop).await };
    match app.raft_runtime.spawn(joining).await {
        Ok(joined) => Ok(joined?),
        Err(error) => Err(AppError::Fatal(format!("joining the cluster: {error}"))),
    }
}
