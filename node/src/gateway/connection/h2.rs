//! HTTP/2: many calls at once on one connection, each with its own window.
//!
//! What one connection may take is bounded: streams, bytes of a head, bytes that wait to be sent or to be read. hyper
//! bounds resets of streams that it has not accepted; a client that opens calls and resets them before they are
//! answered, again and again, is counted here. A client that gives an answer no room is noticed every few seconds.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::{BUFFER_BYTES, Begun, Progress, broke};
use crate::gateway::client_io::ClientIo;
use crate::gateway::pipeline;
use crate::upstream::LazyTimer;

/// How often a connection is looked at.
const LOOK: Duration = Duration::from_secs(5);
/// For a client that has gone without saying so.
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// Streams that were reset before they were accepted.
const PENDING_RESETS: usize = 32;
/// Streams that were reset for the client's mistakes.
const ERROR_RESETS: usize = 128;
/// What a client may send of one body, and of all, before it is read.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 1 << 20;
/// What of one answer may wait to be sent.
const SEND_BUFFER: usize = 64 << 10;

/// Runs hyper's tasks on the worker's own thread.
#[derive(Clone, Copy, Debug)]
struct OnThisThread;

// === impl OnThisThread ===

impl<F> Executor<F> for OnThisThread
where
    F: Future + 'static,
    F::Output: 'static,
{
    fn execute(&self, task: F) {
        tokio::task::spawn_local(task);
    }
}

// === free functions ===

/// Serves a connection to its end.
pub(super) async fn serve<S: AsyncRead + AsyncWrite + Unpin + 'static>(begun: Begun<S>) {
    let Begun {
        worker,
        stream,
        first,
        client,
        mut ticket,
    } = begun;
    let progress = Progress::many_at_once();
    let io = ClientIo::new(stream, first, Rc::clone(&progress), Rc::clone(&worker));
    let (calls, serving) = (Rc::clone(&progress), Rc::clone(&worker));
    let service = service_fn(move |request| {
        let in_flight = calls.begin();
        let worker = Rc::clone(&serving);
        async move {
            let answer = pipeline::handle(worker, client, request).await;
            Ok::<_, Infallible>(answer.map(|body| body.on(in_flight)))
        }
    });
    let server = builder(worker.limits.streams);
    let mut conn = pin!(server.serve_connection(TokioIo::new(io), service));
    let mut timer = LazyTimer::default();
    let mut look = Instant::now() + LOOK;
    // When a connection that was told to end is cut.
    let mut told: Option<Instant> = None;
    let ended = poll_fn(|cx| {
        if told.is_none() && ticket.is_draining(cx) {
            // The drain has a deadline of its own.
            told = Some(Instant::now() + Duration::from_hours(1));
            conn.as_mut().graceful_shutdown();
        }
        if told.is_some() && progress.is_untouched() {
            return Poll::Ready(Ok(()));
        }
        loop {
            if let Poll::Ready(ended) = conn.as_mut().poll(cx) {
                return Poll::Ready(ended.map_err(Cut::Broke));
            }
            if progress.is_abusive() {
                return Poll::Ready(Err(Cut::Resets));
            }
            if timer.poll(cx, look).is_pending() {
                return Poll::Pending;
            }
            let now = Instant::now();
            look = now + LOOK;
            progress.forgive();
            if progress.is_stuck(now, worker.limits.client_idle)
                || told.is_some_and(|end| now >= end)
            {
                return Poll::Ready(Err(Cut::Stuck));
            }
            let idle = progress.deadline(&worker.limits);
            if told.is_none() && idle.is_some_and(|deadline| now >= deadline) {
                told = Some(now + worker.limits.client_idle);
                conn.as_mut().graceful_shutdown();
            }
        }
    });
    match ended.await {
        Ok(()) => {}
        Err(Cut::Broke(error)) => broke(&error),
        Err(Cut::Resets) => tracing::warn!(
            %client,
            "a client opened calls and reset them again and again; its connection is cut"
        ),
        Err(Cut::Stuck) => tracing::debug!("a client that takes nothing is cut"),
    }
}

/// Why a connection ended before its time.
enum Cut {
    Broke(hyper::Error),
    Resets,
    Stuck,
}

fn builder(streams: u32) -> http2::Builder<OnThisThread> {
    let mut builder = http2::Builder::new(OnThisThread);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(streams)
        // Above the limit of a head, so that one that is too long is answered with the reason.
        .max_header_list_size(u32::try_from(BUFFER_BYTES).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .max_local_error_reset_streams(ERROR_RESETS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT);
    builder
}
