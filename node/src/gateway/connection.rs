//! One client's connection: TLS where the listener has it, then HTTP/1.1 or HTTP/2.
//!
//! With TLS the two ends agree on the protocol (ALPN). Without, HTTP/2 is known by its preface, which no HTTP/1 request
//! begins with; the bytes that were read to tell are read again by whoever serves the connection.
//!
//! Invariant: whatever a client does or leaves undone, there is a moment at which its connection is closed.

mod h2;
mod pacing;

use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use bytes::{Bytes, BytesMut};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::client_io::ClientIo;
use super::connections::Ticket;
use super::pipeline;
use super::worker::Worker;
use crate::upstream::LazyTimer;

pub(super) use self::pacing::{InFlight, Progress};

/// What an HTTP/2 client begins with (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const ALPN_H2: &[u8] = b"h2";
/// Room for what is read before the protocol is known: a head as most are.
const FIRST_BYTES: usize = 4 << 10;
/// hyper's read buffer: above the limit of a head, so that a head a little too long is a call like another and is
/// recorded. What does not fit at all is refused as `client_io.rs` says.
const BUFFER_BYTES: usize = 64 << 10;

/// What the two ends speak.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Version {
    H1,
    H2,
}

/// A connection whose protocol is known.
struct Begun<S> {
    worker: Rc<Worker>,
    stream: S,
    /// What was read of it already.
    first: Bytes,
    client: IpAddr,
    ticket: Ticket,
}

/// Serves a connection as it was accepted, to its end.
pub(super) async fn accepted(
    worker: Rc<Worker>,
    stream: TcpStream,
    client: IpAddr,
    mut ticket: Ticket,
) {
    let Some(tls) = worker.tls.clone() else {
        return connection(worker, stream, client, ticket).await;
    };
    worker.meters.connections.increment(1);
    if let Some(stream) = handshake(&worker, tls, stream, &mut ticket).await {
        let version = match stream.get_ref().1.alpn_protocol() {
            Some(ALPN_H2) => Version::H2,
            _ => Version::H1,
        };
        let begun = Begun {
            worker: Rc::clone(&worker),
            stream,
            first: Bytes::new(),
            client,
            ticket,
        };
        serve(begun, version).await;
    }
    worker.meters.connections.decrement(1);
}

/// Serves a connection without TLS to its end.
pub(super) async fn connection<S: AsyncRead + AsyncWrite + Unpin + 'static>(
    worker: Rc<Worker>,
    mut stream: S,
    client: IpAddr,
    mut ticket: Ticket,
) {
    worker.meters.connections.increment(1);
    if let Some((first, version)) = sniff(&worker, &mut stream, &mut ticket).await {
        let begun = Begun {
            worker: Rc::clone(&worker),
            stream,
            first,
            client,
            ticket,
        };
        serve(begun, version).await;
    }
    worker.meters.connections.decrement(1);
}

async fn handshake(
    worker: &Worker,
    tls: TlsAcceptor,
    stream: TcpStream,
    ticket: &mut Ticket,
) -> Option<TlsStream<TcpStream>> {
    let deadline = Instant::now() + worker.limits.head_timeout;
    tokio::select! {
        shaken = tls.accept(stream) => match shaken {
            Ok(stream) => Some(stream),
            Err(error) => {
                tracing::debug!(%error, "a TLS handshake failed");
                None
            }
        },
        () = draining(ticket) => None,
        () = sleep_until(deadline) => {
            tracing::debug!("a TLS handshake took too long");
            None
        }
    }
}

/// Reads until it is clear what the client speaks; nothing where it ends, or takes too long.
async fn sniff<S: AsyncRead + Unpin>(
    worker: &Worker,
    stream: &mut S,
    ticket: &mut Ticket,
) -> Option<(Bytes, Version)> {
    let mut first = BytesMut::with_capacity(FIRST_BYTES);
    let mut deadline = Instant::now() + worker.limits.keep_alive;
    loop {
        let read = tokio::select! {
            biased;
            read = stream.read_buf(&mut first) => read.ok()?,
            // Nobody misses a connection on which nothing has come.
            () = draining(ticket), if first.is_empty() => return None,
            () = sleep_until(deadline) => return None,
        };
        if read == 0 && first.is_empty() {
            return None;
        }
        if read == first.len() {
            deadline = Instant::now() + worker.limits.head_timeout;
        }
        let compared = first.len().min(PREFACE.len());
        let differs = first.get(..compared) != PREFACE.get(..compared);
        if differs || read == 0 {
            return Some((first.freeze(), Version::H1));
        }
        if compared == PREFACE.len() {
            return Some((first.freeze(), Version::H2));
        }
    }
}

async fn draining(ticket: &mut Ticket) {
    poll_fn(|cx| {
        if ticket.is_draining(cx) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin + 'static>(begun: Begun<S>, version: Version) {
    match version {
        Version::H1 => h1(begun).await,
        Version::H2 => h2::serve(begun).await,
    }
}

async fn h1<S: AsyncRead + AsyncWrite + Unpin + 'static>(begun: Begun<S>) {
    let Begun {
        worker,
        stream,
        first,
        client,
        mut ticket,
    } = begun;
    let progress = Progress::one_at_a_time();
    let io = ClientIo::new(stream, first, Rc::clone(&progress), Rc::clone(&worker));
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
    let mut conn = pin!(server.serve_connection(TokioIo::new(io), service));
    let (mut told, mut timer) = (false, LazyTimer::default());
    let ended = poll_fn(|cx| {
        // Before it is told to end: hyper closes a connection of which it has read nothing, whatever has come on it.
        if let Poll::Ready(ended) = conn.as_mut().poll(cx) {
            return Poll::Ready(Some(ended));
        }
        if !told && ticket.is_draining(cx) {
            told = true;
            conn.as_mut().graceful_shutdown();
            if let Poll::Ready(ended) = conn.as_mut().poll(cx) {
                return Poll::Ready(Some(ended));
            }
        }
        // hyper waits for a first request even then.
        if told && progress.is_untouched() {
            return Poll::Ready(None);
        }
        match progress.deadline(&worker.limits) {
            Some(deadline) => timer.poll(cx, deadline).map(|()| None),
            None => Poll::Pending,
        }
    });
    match ended.await {
        Some(Ok(())) => {}
        Some(Err(error)) => broke(&error),
        None => tracing::debug!("a connection that waited for a request is closed"),
    }
}

fn broke(error: &hyper::Error) {
    tracing::debug!(
        error = error as &dyn std::error::Error,
        "a client's connection broke"
    );
}
