//! Becoming a member: forming or rejoining the cluster, and the hooks that consensus calls back.

use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;

use mode_envoy_raft::{Flush, Handle, Hooks, Phase, Settings};

use super::own::Own;
use super::{App, AppError};
use crate::control;
use crate::supervisor::TaskKind;
use crate::usage::calls::CallStore;
use crate::usage::flush::FlushHandle;

/// Returns when this node is a member and has replayed its log.
pub(super) async fn start(
    app: &App,
    identity: &Own,
    listener: TcpListener,
    (flush, calls): (&FlushHandle, &CallStore),
) -> Result<Handle, AppError> {
    log_phases(app);
    let alarms = app.alarms.clone();
    let hooks = Hooks {
        authorize: control::authorize_hook(),
        flush: flush_hook(flush),
        table_revision: Arc::clone(&app.published.revision),
        alarms: Arc::new(move || alarms.list()),
        calls: Arc::new(calls.clone()),
    };
    let start = mode_envoy_raft::start(
        settings(app, identity),
        listener,
        hooks,
        app.phase.clone(),
        app.raft_stop.clone(),
    );
    let member = match app.raft_runtime.spawn(start).await {
        Ok(started) => started?,
        Err(error) => return Err(AppError::Fatal(format!("starting as a member: {error}"))),
    };
    watch_failure(app, &member);
    Ok(member)
}

fn settings(app: &App, identity: &Own) -> Settings {
    let own = &app.settings;
    let (dir, advertise) = (own.data_dir.clone(), app.bound.advertise.clone());
    Settings {
        initial_cluster: own.initial_cluster.clone(),
        pki: own.pki.clone(),
        timers: own.timers,
        wal_segment_bytes: own.wal_segment_bytes,
        checkpoint_every: own.checkpoint_every,
        checkpoint_bytes: own.checkpoint_bytes,
        log_keep: own.log_keep,
        log_keep_bytes: own.log_keep_bytes,
        snapshot_bytes_per_second: own.snapshot_bytes_per_second,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        secrets: identity.secrets.clone(),
        ..Settings::new(identity.node_id, dir, advertise, identity.secrets.current())
    }
}

fn flush_hook(flush: &FlushHandle) -> Flush {
    let flush = flush.clone();
    Arc::new(move || {
        let flush = flush.clone();
        Box::pin(async move { flush.flush().await.map_err(|error| error.to_string()) })
    })
}

/// A log that cannot be written ends the process.
fn watch_failure(app: &App, member: &Handle) {
    let mut failed = member.failed();
    let stopping = app.supervisor.stopping();
    let dir = app.settings.data_dir.clone();
    app.supervisor
        .spawn("raft", TaskKind::Essential, async move {
            tokio::select! {
                () = stopping.cancelled() => Ok(()),
                failed = failed.wait_for(Option::is_some) => {
                    let reason = failed.ok().and_then(|reason| reason.clone());
                    let reason = reason.unwrap_or_else(|| "consensus ended".to_owned());
                    Err(advised(reason, &dir).into())
                }
            }
        });
}

/// A reason comes as text from far below; a full disk is the one that an operator mends at once.
fn advised(mut reason: String, dir: &Path) -> String {
    if reason.contains("No space left on device") {
        reason.push_str("; make room on the disk of ");
        reason.push_str(&dir.to_string_lossy());
        reason.push_str(" and start the node again: nothing that was acknowledged is lost");
    }
    reason
}

/// Says how far this node is. What formation waits for is logged where that is found out.
fn log_phases(app: &App) {
    let mut phases = app.phase.subscribe();
    let stopping = app.supervisor.stopping();
    app.supervisor
        .spawn("phases", TaskKind::BestEffort, async move {
            loop {
                match &*phases.borrow_and_update() {
                    Phase::Starting | Phase::Forming { .. } | Phase::Joining { .. } => {}
                    Phase::Replaying => tracing::info!("replaying the log"),
                    Phase::Member => {
                        tracing::info!("this node is a member of the cluster");
                        return Ok(());
                    }
                }
                tokio::select! {
                    () = stopping.cancelled() => return Ok(()),
                    changed = phases.changed() => changed?,
                }
            }
        });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_comes_with_what_to_do() {
        let full = "cannot write /data/wal/prepared.tmp: No space left on device (os error 28)";
        let told = advised(full.to_owned(), Path::new("/data"));
        assert!(told.starts_with(full) && told.contains("make room on the disk of /data"));
        let other = "cannot sync the log segment: Input/output error (os error 5)";
        assert_eq!(advised(other.to_owned(), Path::new("/data")), other);
    }
}
