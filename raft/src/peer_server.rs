//! The peer listener: mutual TLS in front of the services between nodes.
//!
//! ```text
//! accept -> TLS handshake -> PeerIdentity of the certificate -> Gate: Formation at any time, the rest once it is installed
//!                                                                      each of the rest asks its `Door` first
//!                         -> no certificate                  -> Gate: Joining only, few at once, not for long (`strangers.rs`)
//! ```
//!
//! Invariants:
//! * Nothing but `Joining` is served without a verified certificate, and every other request carries the [`PeerIdentity`] of its connection.
//! * A failing accept or handshake never ends the loop.
//! * Connections are tasks of this future: when it ends, none of them runs on.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use mode_envoy_proto::peer::v1::formation_server::SERVICE_NAME as FORMATION;
use mode_envoy_proto::peer::v1::joining_server::SERVICE_NAME as JOINING;
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::codegen::{Body, Bytes, Service, StdError, http};
use tonic::service::Routes;

use crate::formation::FormationService;
use crate::identity::{self, Identity, PeerIdentity};

mod door;
mod envelope;
mod strangers;

pub(crate) use self::door::Door;
pub use self::envelope::{Local, check_envelope};
pub(crate) use self::strangers::Question;
use self::strangers::{Place, Places, Stranger};

/// Connections at once, handshakes included. A cluster has tens of nodes with a few connections each.
const CONNECTIONS_MAX: usize = 256;
/// Connections at once that have not come to the end of their handshake: of one address, and of all.
const UNPROVEN_MAX: (usize, usize) = (32, 96);
/// Connections at once of strangers, which show no certificate: of one address, and of all.
const STRANGERS_MAX: (usize, usize) = (4, 32);
/// The answer to a stranger gets this long to leave.
const ANSWER_GRACE: Duration = Duration::from_secs(2);
/// Calls at once on one connection.
const STREAMS_MAX: u32 = 256;
/// A handshake that takes longer is dropped.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// After a failed accept (no file descriptors, most likely) the loop waits this long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Calls in flight get this long after the cancellation.
const GRACE: Duration = Duration::from_secs(5);
/// Calls in flight get this long after a renewal, on the connection that shows what was in force before.
const RENEWAL_GRACE: Duration = Duration::from_secs(10);
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;
const HEADERS_BYTES_MAX: u32 = 16 << 10;

/// The services that a node gets when it is a member: empty until [`PeerServices::install`]. A cheap clone.
#[derive(Clone, Debug, Default)]
pub struct PeerServices {
    routes: Arc<OnceLock<Routes>>,
}

/// Why the peer listener could not begin.
#[derive(Debug, Error)]
pub enum PeerServerError {
    /// The listener is not usable.
    #[error("cannot serve the peer listener {address}")]
    Listener {
        /// Its address, where known.
        address: String,
        /// What the system said.
        source: io::Error,
    },
}

/// What all connections share.
#[derive(Clone)]
struct Shared {
    identity: Arc<Identity>,
    formation: Routes,
    services: PeerServices,
    strangers: Places,
    cancel: CancellationToken,
}

/// One connection's way to the services.
#[derive(Clone)]
struct Gate {
    /// `None` for a stranger.
    peer: Option<PeerIdentity>,
    /// A stranger's.
    question: Option<Question>,
    node_id: u64,
    formation: Routes,
    services: PeerServices,
}

type Answer = Result<http::Response<tonic::body::Body>, Infallible>;

// === impl PeerServices ===

impl PeerServices {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Serves `routes` from now on, on existing connections too. `false` if there are some already; they stay.
    pub fn install(&self, routes: Routes) -> bool {
        self.routes.set(routes.prepare()).is_ok()
    }
}

// === impl Gate ===

impl<B> Service<http::Request<B>> for Gate
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<StdError>,
{
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Answer> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // axum's router, which is inside of Routes, is always ready.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: http::Request<B>) -> Self::Future {
        let service = request
            .uri()
            .path()
            .trim_start_matches('/')
            .split('/')
            .next();
        if self.peer.is_none() && service != Some(JOINING) {
            let status = Status::unauthenticated("the connection shows no certificate of a node");
            return Box::pin(std::future::ready(Ok(status.into_http())));
        }
        let routes = if service == Some(FORMATION) {
            Some(&self.formation)
        } else {
            self.services.routes.get()
        };
        if let Some(peer) = self.peer {
            request.extensions_mut().insert(peer);
        }
        let question = self.question.clone();
        if let Some(question) = &question {
            request.extensions_mut().insert(question.clone());
        }
        if let Some(routes) = routes {
            let mut routes = routes.clone();
            Box::pin(async move {
                let answer = routes.call(request).await;
                if let Some(question) = question {
                    question.is_answered();
                }
                answer
            })
        } else {
            let status = Status::unavailable(format!(
                "node {} has no cluster yet; try again",
                self.node_id
            ));
            Box::pin(std::future::ready(Ok(status.into_http())))
        }
    }
}

/// Serves the peer listener until the cancellation, then gives calls in flight 5 s.
///
/// # Errors
/// [`PeerServerError::Listener`], at once; a listener that works is served until the end.
pub async fn serve(
    listener: std::net::TcpListener,
    identity: Arc<Identity>,
    formation: FormationService,
    services: PeerServices,
    cancel: CancellationToken,
) -> Result<(), PeerServerError> {
    let address = listener
        .local_addr()
        .map(|a| a.to_string())
        .unwrap_or_default();
    let listener = listener
        .set_nonblocking(true)
        .and_then(|()| TcpListener::from_std(listener))
        .map_err(|source| PeerServerError::Listener { address, source })?;
    let shared = Shared {
        identity,
        formation: Routes::new(formation.into_server()).prepare(),
        services,
        strangers: Places::new(STRANGERS_MAX.0, STRANGERS_MAX.1),
        cancel,
    };
    let unproven = Places::new(UNPROVEN_MAX.0, UNPROVEN_MAX.1);
    let mut connections = JoinSet::new();
    while let Some((stream, from)) =
        next_connection(&listener, &mut connections, &shared.cancel).await
    {
        if let Some(place) = unproven.take(from.ip()) {
            connections.spawn(connection(stream, from, place, shared.clone()));
        } else {
            tracing::debug!(%from, "too many connections without a handshake");
        }
    }
    drop(listener);
    let drained = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(GRACE, drained).await.is_err() {
        tracing::warn!(
            "peer calls were still in flight at the end of the grace period; they were cut"
        );
        connections.shutdown().await;
    }
    Ok(())
}

/// `None` once cancelled. Ended connections are taken out meanwhile; at the limit nothing is accepted until one ends.
async fn next_connection(
    listener: &TcpListener,
    connections: &mut JoinSet<()>,
    cancel: &CancellationToken,
) -> Option<(TcpStream, SocketAddr)> {
    loop {
        let accepted = tokio::select! {
            biased;
            () = cancel.cancelled() => return None,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => accepted,
        };
        match accepted {
            Ok(connection) => return Some(connection),
            Err(error) => {
                tracing::warn!(%error, "the peer listener could not accept a connection; it goes on");
                tokio::select! {
                    () = cancel.cancelled() => return None,
                    () = tokio::time::sleep(ACCEPT_PAUSE) => {}
                }
            }
        }
    }
}

async fn connection(stream: TcpStream, from: SocketAddr, unproven: Place, shared: Shared) {
    // Before the handshake, so that none is missed.
    let renewals = shared.identity.renewals();
    let Some(handshake) = shared
        .cancel
        .run_until_cancelled(handshake(stream, &shared.identity))
        .await
    else {
        return;
    };
    let (tls, peer) = match handshake {
        Ok(established) => established,
        Err(reason) => {
            tracing::debug!(%from, reason, "a peer connection was refused");
            return;
        }
    };
    let mut stranger = None;
    if peer.is_none() {
        let Some(place) = shared.strangers.take(from.ip()) else {
            tracing::debug!(%from, "too many connections without a certificate");
            return;
        };
        stranger = Some(Stranger::new(place));
    }
    drop(unproven);
    let who = (from, peer, stranger.as_ref());
    serve_to_its_end(tls, who, renewals, shared).await;
}

async fn serve_to_its_end(
    tls: TlsStream<TcpStream>,
    (from, peer, stranger): (SocketAddr, Option<PeerIdentity>, Option<&Stranger>),
    mut renewals: watch::Receiver<u64>,
    shared: Shared,
) {
    let gate = Gate {
        peer,
        question: stranger.map(Stranger::question),
        node_id: shared.identity.node_id(),
        formation: shared.formation,
        services: shared.services,
    };
    let builder = http2();
    let mut served =
        pin!(builder.serve_connection(TokioIo::new(tls), TowerToHyperService::new(gate)));
    let mut too_long = pin!(strangers::takes_too_long(stranger));
    let grace = tokio::select! {
        ended = served.as_mut() => return note_end(ended, from, peer),
        () = too_long.as_mut() => {
            tracing::debug!(%from, "a connection without a certificate lasted too long");
            return;
        }
        () = strangers::is_served(stranger) => ANSWER_GRACE,
        // The listener sees to the end of whatever has none.
        () = shared.cancel.cancelled() => GRACE,
        // The other end comes back with what it shows now.
        Ok(()) = renewals.changed() => RENEWAL_GRACE,
    };
    served.as_mut().graceful_shutdown();
    tokio::select! {
        ended = served.as_mut() => note_end(ended, from, peer),
        () = too_long.as_mut() => {}
        () = tokio::time::sleep(grace) => {
            tracing::debug!(%from, "a connection was cut that was told to end, with calls in flight");
        }
    }
}

fn note_end<E: std::fmt::Display>(
    ended: Result<(), E>,
    from: SocketAddr,
    peer: Option<PeerIdentity>,
) {
    if let Err(error) = ended {
        tracing::debug!(%from, node = peer.map(|peer| peer.node_id), %error, "a peer connection ended");
    }
}

async fn handshake(
    stream: TcpStream,
    identity: &Identity,
) -> Result<(TlsStream<TcpStream>, Option<PeerIdentity>), String> {
    // Without this, small answers wait for the other end's delayed acknowledgement; a connection works without it too.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY could not be set on a peer connection");
    }
    let accepting = TlsAcceptor::from(identity.server_config()).accept(stream);
    let tls = tokio::time::timeout(HANDSHAKE_TIMEOUT, accepting)
        .await
        .map_err(|_| "the TLS handshake took more than 5 s".to_owned())?
        .map_err(|error| format!("the TLS handshake failed: {error}"))?;
    if tls.get_ref().1.peer_certificates().is_none() {
        return Ok((tls, None));
    }
    let peer = identity::peer_of(tls.get_ref().1).map_err(|error| error.to_string())?;
    Ok((tls, Some(peer)))
}

fn http2() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new()).http2_only();
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEADERS_BYTES_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT);
    builder
}

#[cfg(test)]
mod peer_server_test;
