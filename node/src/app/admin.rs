//! The admin listener: it serves from the first moment, and learns of the cluster once there is one.

use std::net::TcpListener;
use std::sync::Arc;

use tokio::sync::watch;

use mode_envoy_raft::Handle;

use super::own::Own;
use super::{App, AppError};
use crate::admin::{self, AdminContext};
use crate::control::{Control, Gather};
use crate::supervisor::TaskKind;
use crate::tls::ListenerTls;
use crate::usage::Queries;
use crate::usage::calls::CallStore;
use crate::usage::flush::FlushHandle;
use crate::usage::projection::Sums;

/// Starts to serve; until [`open`] is called, gRPC answers with the phase.
pub(super) fn spawn(
    app: &App,
    listener: TcpListener,
    control: &watch::Sender<Option<Arc<Control>>>,
) -> Result<(), AppError> {
    let listener = tokio::net::TcpListener::from_std(listener)
        .map_err(|source| AppError::Threads("admin listener", source))?;
    let gauges = Arc::clone(&app.gauges);
    let context = AdminContext {
        readiness: app.readiness.clone(),
        metrics: Arc::new(move || gauges.render()),
        phase: app.phase.subscribe(),
        control: control.subscribe(),
        tls: app.admin_tls.as_ref().map(ListenerTls::config),
        open: app.settings.admin.is_loopback(),
    };
    let stopping = app.supervisor.stopping();
    app.supervisor
        .spawn("admin", TaskKind::Essential, async move {
            Ok(admin::serve(listener, context, stopping).await?)
        });
    Ok(())
}

/// From now on the admin API speaks for the cluster.
pub(super) fn open(
    app: &App,
    own: &Own,
    member: &Handle,
    (flush, calls, sums): (&FlushHandle, &CallStore, Option<Sums>),
    control: &watch::Sender<Option<Arc<Control>>>,
) {
    let queries = Queries::new(member.clone(), flush.clone()).with_sums(sums);
    let gather = Gather::new(member.clone(), calls.clone(), app.supervisor.stopping());
    let opened = Control::new(member.clone(), own.keyring.clone(), queries, gather);
    control.send_replace(Some(Arc::new(opened)));
}
