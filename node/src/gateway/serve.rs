//! A worker's thread: accept, serve each connection in a task of its own, and on drain finish what is in flight.

use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout_at};

use super::client_io::{ClientIo, Progress};
use super::connections::Ticket;
use super::pipeline;
use super::worker::Worker;
use crate::descriptors::{Use, may_keep};
use crate::upstream::LazyTimer;

/// How often idle connections are looked through.
const TIDY: Duration = Duration::from_secs(5);
/// Pause after the system refused to accept, most likely for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How often a reason that lasts is told.
const TELL_AGAIN: Duration = Duration::from_mins(1);
/// hyper's read buffer: above the limit of a head, so that a head a little too long is a call like another and is
/// recorded. What does not fit at all is refused as `client_io.rs` says.
const BUFFER_BYTES: usize = 64 << 10;
const OVERLOADED: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nx-mode-envoy-error: overloaded\r\n\
    content-type: application/problem+json\r\nconnection: close\r\nretry-after: 1\r\ncontent-length: 117\r\n\r\n\
    {\"type\":\"about:blank\",\"title\":\"Service Unavailable\",\"status\":503,\"detail\":\"too many connections\",\"code\":\"overloaded\"}";

/// When to stop, once that is known; what is in flight then has until that moment.
pub(super) type Stop = watch::Receiver<Option<Instant>>;

/// Serves until told to stop.
pub(super) async fn run(worker: Rc<Worker>, listener: TcpListener, mut stop: Stop) {
    let tidy = tokio::task::spawn_local(tidy(Rc::clone(&worker)));
    let deadline = tokio::select! {
        deadline = stopped(&mut stop) => deadline,
        () = accept(&worker, &listener) => Instant::now(),
    };
    drop(listener);
    worker.connections.drain();
    if timeout_at(deadline, worker.connections.all_closed())
        .await
        .is_err()
    {
        let left = worker.connections.count();
        tracing::warn!(
            connections = left,
            "draining took too long; what was in flight is cut"
        );
    }
    tidy.abort();
}

async fn stopped(stop: &mut Stop) -> Instant {
    match stop.wait_for(Option::is_some).await {
        Ok(deadline) => deadline.unwrap_or_else(Instant::now),
        // The gateway itself was dropped.
        Err(_) => Instant::now(),
    }
}

async fn tidy(worker: Rc<Worker>) {
    let mut ticks = interval(TIDY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        worker.tidy();
    }
}

async fn accept(worker: &Rc<Worker>, listener: &TcpListener) {
    let mut told: Option<Instant> = None;
    loop {
        match listener.accept().await {
            Ok((stream, _)) if !may_keep(&stream, Use::Client) => {
                turn_away(&stream);
                if told.is_none_or(|told| told.elapsed() > TELL_AGAIN) {
                    tracing::warn!(
                        "clients are answered `overloaded`: too few open files are left; raise the limit of this node"
                    );
                    told = Some(Instant::now());
                }
            }
            Ok((stream, peer)) => admit(worker, stream, peer),
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted; is the limit of open files too low?");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// As much as the socket takes at once: nobody waits for a client that is not served.
fn turn_away(stream: &TcpStream) {
    let _ = stream.try_write(OVERLOADED);
}

fn admit(worker: &Rc<Worker>, stream: TcpStream, peer: SocketAddr) {
    if worker.connections.count() >= worker.limits.connections {
        turn_away(&stream);
        return;
    }
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection was gone before it was served");
        return;
    }
    let ticket = worker.connections.open();
    tokio::task::spawn_local(connection(Rc::clone(worker), stream, peer.ip(), ticket));
}

/// Serves one connection to its end.
pub(super) async fn connection<S: AsyncRead + AsyncWrite + Unpin + 'static>(
    worker: Rc<Worker>,
    stream: S,
    client: IpAddr,
    mut ticket: Ticket,
) {
    worker.meters.connections.increment(1);
    let progress = Progress::new();
    let io = TokioIo::new(ClientIo::new(
        stream,
        Rc::clone(&progress),
        Rc::clone(&worker),
    ));
    let service = service_fn(|request| {
        let in_flight = progress.begin();
        let worker = Rc::clone(&worker);
        async move {
            let answer = pipeline::handle(worker, client, request).await;
            Ok::<_, std::convert::Infallible>(answer.map(|body| body.on(in_flight)))
        }
    });
    let mut server = http1::Builder::new();
    server.max_buf_size(BUFFER_BYTES).half_close(false);
    let mut conn = pin!(server.serve_connection(io, service));
    let (mut told, mut timer) = (false, LazyTimer::default());
    let ended = poll_fn(|cx| {
        if !told && ticket.is_draining(cx) {
            told = true;
            conn.as_mut().graceful_shutdown();
        }
        // hyper waits for a first request even then.
        if told && progress.is_untouched() {
            return Poll::Ready(None);
        }
        if let Poll::Ready(ended) = conn.as_mut().poll(cx) {
            return Poll::Ready(Some(ended));
        }
        match progress.deadline(&worker.limits) {
            Some(deadline) => timer.poll(cx, deadline).map(|()| None),
            None => Poll::Pending,
        }
    });
    match ended.await {
        Some(Ok(())) => {}
        Some(Err(error)) => {
            tracing::debug!(
                error = &error as &dyn std::error::Error,
                "a client's connection broke"
            );
        }
        None => tracing::debug!("a connection that waited for a request is closed"),
    }
    worker.meters.connections.decrement(1);
}
