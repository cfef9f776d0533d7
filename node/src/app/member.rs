//! Becoming a member: forming or rejoining the cluster, and the hooks that consensus calls back.

use std::net::TcpListener;
use std::sync::Arc;

use mode_envoy_raft::{Flush, Handle, Hooks, Phase, Settings};

use super::{App, AppError};
use crate::control;
use crate::supervisor::TaskKind;
use crate::usage::flush::FlushHandle;

/// Returns when this node is a member and has replayed its log.
pub(super) async fn start(
    app: &App,
    listener: TcpListener,
    flush: &FlushHandle,
) -> Result<Handle, AppError> {
    log_phases(app);
    let hooks = Hooks {
        authorize: control::authorize_hook(),
        flush: flush_hook(flush),
        table_revision: Arc::clone(&app.published.revision),
    };
    let start = mode_envoy_raft::start(
        settings(app),
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

fn settings(app: &App) -> Settings {
    let own = &app.settings;
    let (dir, advertise) = (own.data_dir.clone(), app.bound.advertise.clone());
    Settings {
        initial_cluster: own.initial_cluster.clone(),
        pki: own.pki.clone(),
        timers: own.timers,
        wal_segment_bytes: own.wal_segment_bytes,
        checkpoint_every: own.checkpoint_every,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..Settings::new(own.node_id, dir, advertise, app.secret.clone())
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
    app.supervisor
        .spawn("raft", TaskKind::Essential, async move {
            tokio::select! {
                () = stopping.cancelled() => Ok(()),
                failed = failed.wait_for(Option::is_some) => {
                    let reason = failed.ok().and_then(|reason| reason.clone());
                    Err(reason.unwrap_or_else(|| "consensus ended".to_owned()).into())
                }
            }
        });
}

/// Says how far this node is. What formation waits for is logged where that is found out.
fn log_phases(app: &App) {
    let mut phases = app.phase.subscribe();
    let stopping = app.supervisor.stopping();
    app.supervisor
        .spawn("phases", TaskKind::BestEffort, async move {
            loop {
                match &*phases.borrow_and_update() {
                    Phase::Starting | Phase::Forming { .. } => {}
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
