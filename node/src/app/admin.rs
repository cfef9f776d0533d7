//! The admin listener: it serves from the first moment, and learns of the cluster once there is one.

use std::net::TcpListener;
use std::sync::Arc;

use tokio::sync::watch;

use mode_envoy_raft::{Handle, Phase};

use super::{App, AppError};
use crate::admin::{self, AdminContext};
use crate::control::Control;
use crate::supervisor::TaskKind;
use crate::tls::ListenerTls;
use crate::usage::Queries;
use crate::usage::flush::FlushHandle;

/// Starts to serve; until [`open`] is called, gRPC answers with the phase.
pub(super) fn spawn(
    app: &App,
    listener: TcpListener,
    phase: watch::Receiver<Phase>,
    control: watch::Receiver<Option<Arc<Control>>>,
) -> Result<(), AppError> {
    let listener = tokio::net::TcpListener::from_std(listener)
        .map_err(|source| AppError::Threads("admin listener", source))?;
    let gauges = Arc::clone(&app.gauges);
    let context = AdminContext {
        readiness: app.readiness.clone(),
        metrics: Arc::new(move || gauges.render()),
        phase,
        control,
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
    member: &Handle,
    flush: &FlushHandle,
    control: &watch::Sender<Option<Arc<Control>>>,
) {
    let queries = Queries::new(member.clone(), flush.clone());
    let opened = Control::new(member.clone(), app.keyring.clone(), queries);
    control.send_replace(Some(Arc::new(opened)));
}
