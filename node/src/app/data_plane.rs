//! The data plane: usage first, since no call is served that cannot be recorded; then the gateway, then its table.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ::metrics::counter;
use arc_swap::ArcSwap;

use mode_envoy_raft::Handle;
use mode_envoy_storage::call_log::CallLogOptions;
use mode_envoy_storage::disk::RealDisk;
use mode_envoy_storage::spool::DEFAULT_SEGMENT_BYTES;

use super::own::Own;
use super::{App, AppError, announce};
use crate::config::ListenerKind;
use crate::freshness::Freshness;
use crate::gateway::{self, Gateway, GatewaySettings, Shared, Table};
use crate::limits::{self, Limiter};
use crate::metrics as names;
use crate::supervisor::TaskKind;
use crate::tls::ListenerTls;
use crate::usage::calls::{CallSink, CallStore, SettleRequests};
use crate::usage::flush::FlushRequests;
use crate::usage::flusher::{Core, Flusher};
use crate::usage::recorder::{Recorder, wall_ms};
use crate::usage::recovery::{self, RecoveryError, SpoolSettings};

const SPOOL_DIR: &str = "usage";
const PAGE: usize = 4_096;
const CALLS_DIR: &str = "calls";
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Opens the spools, settles the last run and starts the flusher.
pub(super) async fn start_usage(
    app: &App,
    member: &Handle,
    (flush, settle): (FlushRequests, SettleRequests),
    (calls, same_boot): (CallStore, bool),
) -> Result<(Vec<Recorder>, Limiter), AppError> {
    let settings = SpoolSettings {
        disk: Arc::new(RealDisk),
        dir: app.settings.data_dir.join(SPOOL_DIR),
        workers: app.settings.gateway_workers,
        segment_bytes: segment_bytes(app.settings.spool_bytes),
        max_bytes: app.settings.spool_bytes,
        cluster_id: member.cluster_id(),
        node_id: member.node_id(),
    };
    let dir = settings.dir.clone();
    let call_log = call_log(app, member);
    let opening = move || {
        let recovered = recovery::open(&settings)?;
        let sink = CallSink::open(Arc::new(RealDisk), call_log, calls, wall_ms());
        Ok::<_, RecoveryError>((recovered, sink))
    };
    let (recovered, sink) = tokio::task::spawn_blocking(opening)
        .await
        .map_err(|error| {
            AppError::Fatal(format!("settling the usage of the last run: {error}"))
        })??;
    if recovered.presumed > 0 {
        tracing::warn!(
            calls = recovered.presumed,
            "calls that the last run left open are presumed failed"
        );
        counter!(names::USAGE_PRESUMED).increment(recovered.presumed);
    }
    let core = Core::new(member.node_id(), dir, recovered.spools)
        .with_owing(recovered.owing, recovered.owes)
        .with_calls(sink);
    let (limiter, limits) = limits::channel(member.contact(), same_boot);
    let asked = (flush, settle, limits);
    let flusher = Flusher::new(core, member.clone(), asked, app.alarms.clone());
    let stopping = app.supervisor.stopping();
    app.supervisor
        .spawn_thread("usage", TaskKind::Essential, move || flusher.run(&stopping))
        .map_err(|source| AppError::Threads("usage flusher", source))?;
    Ok((recovered.recorders, limiter))
}

/// Eight segments at least, of whole pages, so that a small spool is emptied in small steps too.
fn segment_bytes(spool_bytes: u64) -> usize {
    let eighth = usize::try_from(spool_bytes / 8).unwrap_or(usize::MAX);
    DEFAULT_SEGMENT_BYTES.min(eighth) / PAGE * PAGE
}

fn call_log(app: &App, member: &Handle) -> CallLogOptions {
    let (dir, max_bytes) = (
        app.settings.data_dir.join(CALLS_DIR),
        app.settings.call_log_bytes,
    );
    let options = CallLogOptions::new(dir, member.cluster_id(), member.node_id());
    CallLogOptions {
        // What is dropped at once is a small part of what is kept.
        segment_bytes: options.segment_bytes.min(max_bytes / 8),
        max_bytes,
        max_age_ms: app.settings.call_log_age_ms,
        ..options
    }
}

/// Compiles the first table and keeps it current, then starts the workers.
pub(super) async fn start_gateway(
    app: &App,
    own: &Own,
    member: &Handle,
    (recorders, limiter): (Vec<Recorder>, Limiter),
    freshness: Freshness,
) -> Result<Gateway, AppError> {
    let table = Arc::new(ArcSwap::from_pointee(Table::empty()));
    keep_current(app, own, member, &table);
    in_force(app, member.catalog().revision()).await;

    let addr = app.bound.gateway;
    let settings = GatewaySettings::new(addr, recorders.len(), member.node_id());
    let tls = app.gateway_tls.as_ref().map(ListenerTls::config);
    let shared = Shared::new(freshness, limiter)?.with_tls(tls);
    let gateway = gateway::start(settings, table, recorders, shared)
        .map_err(|source| AppError::Gateway { addr, source })?;
    announce(
        ListenerKind::Gateway,
        gateway.local_addr(),
        &app.bound.advertise.gateway,
    );
    Ok(gateway)
}

fn keep_current(app: &App, own: &Own, member: &Handle, table: &Arc<ArcSwap<Table>>) {
    let publisher = gateway::publish(
        member.watch_catalog(),
        member.unsettled(),
        own.keyring.clone(),
        Arc::clone(table),
        app.published.clone(),
        app.supervisor.stopping(),
    );
    app.supervisor
        .spawn("table", TaskKind::Essential, async move {
            publisher.await;
            Ok(())
        });
}

/// Waits until the table has caught up with what this node had applied.
async fn in_force(app: &App, revision: u64) {
    while app.published.revision.load(Ordering::Acquire) < revision {
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}
