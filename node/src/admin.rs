//! The admin listener: one port, with TLS where it leaves loopback, for the gRPC API (HTTP/2) and for a few pages over HTTP/1.1.
//!
//! ```text
//! connection -> request -- application/grpc --> gate (who asks?) --> tonic services --> control
//!                       `- GET /metrics, /healthz, /readyz, / --> http
//! ```
//!
//! * `gate` is the only place that turns an `authorization` header into a principal.
//! * Connections, requests, messages and times are bounded; what is beyond is refused, never queued without end.
//! * It answers from the first moment: while the cluster is being formed, calls are `UNAVAILABLE` and say what is
//!   waited for.

mod audit;
mod calls;
mod cluster;
mod config;
mod connection;
mod convert;
mod gate;
mod http;
mod keys;
mod limits;
mod services;
mod status;
mod streams;
mod tokens;
mod usage;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use mode_envoy_raft::Phase;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::control::Control;
use crate::descriptors::{Use, may_keep};
use crate::readiness::Readiness;

pub use self::status::ERROR_DOMAIN;

/// Longest request or answer.
pub const MAX_MESSAGE_BYTES: usize = 16 << 20;
/// Connections at a time.
const MAX_CONNECTIONS: usize = 1_024;
/// How long open requests may take to finish at the end.
const DRAIN: Duration = Duration::from_secs(5);
/// How soon gRPC health follows readiness.
const HEALTH_STEP: Duration = Duration::from_millis(200);
/// After a failed accept: out of file descriptors, as a rule.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What the admin listener speaks for.
#[derive(Clone)]
pub struct AdminContext {
    /// Whether this node serves.
    pub readiness: Readiness,
    /// Renders the metrics page.
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
    /// How far this node is in becoming a member.
    pub phase: watch::Receiver<Phase>,
    /// There once this node is a member.
    pub control: watch::Receiver<Option<Arc<Control>>>,
    /// TLS, where the listener has it.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// The listener is on loopback: reflection, health and metrics need no token.
    pub open: bool,
}

// === impl AdminContext ===

impl std::fmt::Debug for AdminContext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AdminContext")
            .field("open", &self.open)
            .finish_non_exhaustive()
    }
}

// === free functions ===

/// Serves until `shutdown`, then lets open requests finish.
///
/// # Errors
///
/// The listener is of no use, or the built-in description of the API cannot be read.
pub async fn serve(
    listener: TcpListener,
    context: AdminContext,
    shutdown: CancellationToken,
) -> io::Result<()> {
    listener.local_addr()?;
    let (health, routes) = services::routes().map_err(io::Error::other)?;
    let readiness = context.readiness.clone();
    let tls = context.tls.clone().map(TlsAcceptor::from);
    let gate = Arc::new(gate::Gate::new(context, routes));
    let mut connections = JoinSet::new();
    let mut health_step = interval(HEALTH_STEP);
    health_step.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            _ = health_step.tick() => health.follow(readiness.not_ready().is_empty()).await,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                Ok((stream, _)) if !may_keep(&stream, Use::Other) => {
                    tracing::warn!("admin: a connection was closed for want of open files");
                    sleep(ACCEPT_PAUSE).await;
                }
                Ok((stream, _)) => {
                    let serving =
                        connection::accept(stream, tls.clone(), Arc::clone(&gate), shutdown.clone());
                    connections.spawn(serving);
                }
                Err(error) => {
                    tracing::warn!(%error, "admin: accepting a connection failed");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
    health.follow(false).await;
    // Whatever is still open after that is cut when the set is dropped.
    let _ = timeout(DRAIN, async {
        while connections.join_next().await.is_some() {}
    })
    .await;
    Ok(())
}

#[cfg(test)]
mod tests;
