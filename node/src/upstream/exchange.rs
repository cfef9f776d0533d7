//! One request and its answer on one connection.
//!
//! The request's body may still be on its way while the answer comes; both are driven by whoever polls for the
//! answer. What the client takes its time for is no idleness of the upstream: timeouts are looked at only while a read
//! or write of the upstream is being waited for.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use tokio::io::AsyncReadExt as _;
use tokio::time::Instant;

use super::decode::{BadFraming, Decoded, Decoder};
use super::head::{Reading, ResponseHead, read_head};
use super::origin::Origin;
use super::pool::{Conn, Pool};
use super::upload::{Progress, Upload, WaitsFor};
use super::{Timeouts, UpstreamError, Waited};

/// Room for one read: small answers come whole, and a slow stream does not hold much.
const READ_BYTES: usize = 16 << 10;
/// Below this much room the buffer grows before it is read into.
const READ_ROOM_MIN: usize = 4 << 10;

/// An exchange that is under way. Dropping it closes its connection.
#[derive(Debug)]
pub(crate) struct Exchange {
    /// `None` once the connection went back to the pool or broke.
    conn: Option<Conn>,
    pool: Rc<Pool>,
    origin: Arc<Origin>,
    upload: Upload,
    decoder: Decoder,
    keep_alive: bool,
    timeouts: Timeouts,
    started: Instant,
    /// Since when the upstream, or the client's body, is waited for.
    waiting_since: Option<Instant>,
    /// What was waited for last, and after how many bytes of the request's body.
    waiting_for: (Option<WaitsFor>, u64),
}

// === impl Exchange ===

impl Exchange {
    /// Sends a request over `conn` and reads the answer's head.
    pub(crate) async fn send(
        pool: &Rc<Pool>,
        origin: &Arc<Origin>,
        conn: Conn,
        upload: Upload,
        method: &Method,
        (timeouts, started): (Timeouts, Instant),
    ) -> (Self, Result<ResponseHead, UpstreamError>) {
        let mut exchange = Self {
            conn: Some(conn),
            pool: Rc::clone(pool),
            origin: Arc::clone(origin),
            upload,
            decoder: Decoder::Done,
            keep_alive: false,
            timeouts,
            started,
            waiting_since: None,
            waiting_for: (None, 0),
        };
        let head = poll_fn(|cx| exchange.poll_head(cx, method)).await;
        if head.is_err() {
            exchange.conn = None;
        }
        (exchange, head)
    }

    /// Bytes of the request's body so far.
    pub(crate) fn bytes_in(&self) -> u64 {
        self.upload.bytes()
    }

    /// Whether the request may be sent again on another connection: the upstream closed this one, which had served
    /// before, without a byte of an answer, and the request is one that may be repeated (RFC 9110, 9.2.2).
    pub(crate) fn may_repeat(&self, error: &UpstreamError, idempotent: bool) -> bool {
        let stale = matches!(error, UpstreamError::Broken { stale: true, .. });
        stale && (idempotent || !self.upload.started())
    }

    /// The next bytes of the answer's body: everything that is there, in one piece. `None` at its end.
    pub(crate) fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, UpstreamError>>> {
        let polled = self.poll_decode(cx);
        match &polled {
            Poll::Ready(None) => self.release(),
            Poll::Ready(Some(Err(_))) => self.conn = None,
            Poll::Ready(Some(Ok(_))) if self.decoder == Decoder::Done => self.release(),
            _ => {}
        }
        polled
    }

    /// Whether the body has been read to its end.
    pub(crate) fn is_done(&self) -> bool {
        self.decoder == Decoder::Done
    }

    fn poll_decode(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, UpstreamError>>> {
        // Where the client is the slow side the upstream is never waited for, and yet everything takes too long.
        if self.conn.is_some() && self.started.elapsed() >= self.timeouts.total {
            return Poll::Ready(Some(Err(UpstreamError::Timeout {
                origin: Arc::clone(&self.origin.label),
                waited: Waited::Total,
            })));
        }
        loop {
            let Some(conn) = &mut self.conn else {
                return Poll::Ready(None);
            };
            if !self.upload.done()
                && let Progress::Failed(error) = self.upload.poll(cx, &mut conn.io)
            {
                return Poll::Ready(Some(Err(error)));
            }
            match self.decoder.decode(&mut conn.read) {
                Ok(Decoded::Data(data)) => return Poll::Ready(Some(Ok(data))),
                Ok(Decoded::End) => return Poll::Ready(None),
                Ok(Decoded::More) => {}
                Err(BadFraming(problem)) => return Poll::Ready(Some(Err(self.malformed(problem)))),
            }
            match poll_read(conn, cx) {
                Poll::Ready(Ok(0)) if self.decoder.at_close() => {
                    self.conn = None;
                    return Poll::Ready(None);
                }
                Poll::Ready(Ok(0)) => {
                    return Poll::Ready(Some(
                        Err(self.broken(io::ErrorKind::UnexpectedEof.into())),
                    ));
                }
                Poll::Ready(Ok(_)) => self.waiting_since = None,
                Poll::Ready(Err(error)) => return Poll::Ready(Some(Err(self.broken(error)))),
                Poll::Pending => {
                    let timeout = self.wait(cx, Waited::Idle, self.timeouts.idle);
                    return timeout.map(|error| Some(Err(error)));
                }
            }
        }
    }

    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        method: &Method,
    ) -> Poll<Result<ResponseHead, UpstreamError>> {
        loop {
            let Some(conn) = &mut self.conn else {
                return Poll::Ready(Err(self.broken(io::ErrorKind::NotConnected.into())));
            };
            let progress = if self.upload.done() {
                Progress::Done
            } else {
                self.upload.poll(cx, &mut conn.io)
            };
            if let Progress::Failed(error) = progress {
                return Poll::Ready(Err(error));
            }
            let waits_for = match &progress {
                Progress::Waits(waits_for) => Some(*waits_for),
                _ => None,
            };
            match poll_read(conn, cx) {
                Poll::Ready(Ok(0)) => {
                    let error = match progress {
                        Progress::Broken(error) => error,
                        _ => io::ErrorKind::UnexpectedEof.into(),
                    };
                    return Poll::Ready(Err(self.broken(error)));
                }
                Poll::Ready(Ok(_)) => match self.parse_head(method) {
                    Some(result) => return Poll::Ready(result),
                    None => self.waiting_since = None,
                },
                Poll::Ready(Err(error)) => return Poll::Ready(Err(self.broken(error))),
                Poll::Pending => {
                    if let Progress::Broken(error) = progress {
                        return Poll::Ready(Err(self.broken(error)));
                    }
                    return self.wait_for_head(cx, waits_for);
                }
            }
        }
    }

    /// Reads the head out of what is buffered; interim answers are passed over.
    fn parse_head(&mut self, method: &Method) -> Option<Result<ResponseHead, UpstreamError>> {
        let conn = self.conn.as_mut()?;
        loop {
            match read_head(&mut conn.read, method) {
                Ok(Reading::More) => return None,
                Ok(Reading::Interim) => {}
                Ok(Reading::Head(parsed)) => {
                    self.decoder = parsed.decoder;
                    self.keep_alive = parsed.keep_alive;
                    self.waiting_since = None;
                    if self.decoder == Decoder::Done {
                        self.release();
                    }
                    return Some(Ok(parsed.head));
                }
                Err(problem) => return Some(Err(self.malformed(problem))),
            }
        }
    }

    fn wait_for_head<T>(
        &mut self,
        cx: &mut Context<'_>,
        waits_for: Option<WaitsFor>,
    ) -> Poll<Result<T, UpstreamError>> {
        let waiting_for = (waits_for, self.upload.bytes());
        if self.waiting_for != waiting_for {
            self.waiting_since = None;
            self.waiting_for = waiting_for;
        }
        let waited = match waits_for {
            Some(WaitsFor::Client) => {
                let since = *self.waiting_since.get_or_insert_with(Instant::now);
                let stalled = self.poll_deadline(cx, since + self.timeouts.client_idle);
                return stalled.map(|()| Err(UpstreamError::ClientStalled));
            }
            Some(WaitsFor::Upstream) => self.wait(cx, Waited::Idle, self.timeouts.idle),
            None => self.wait(cx, Waited::FirstByte, self.timeouts.first_byte),
        };
        waited.map(Err)
    }

    /// Pending until the upstream has been waited for for `limit`, or everything has taken too long.
    fn wait(
        &mut self,
        cx: &mut Context<'_>,
        waited: Waited,
        limit: Duration,
    ) -> Poll<UpstreamError> {
        let since = *self.waiting_since.get_or_insert_with(Instant::now);
        let (total, this) = (self.started + self.timeouts.total, since + limit);
        let waited = if total <= this { Waited::Total } else { waited };
        self.poll_deadline(cx, total.min(this))
            .map(|()| UpstreamError::Timeout {
                origin: Arc::clone(&self.origin.label),
                waited,
            })
    }

    fn poll_deadline(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        match &mut self.conn {
            Some(conn) => conn.timer.poll(cx, deadline),
            None => Poll::Pending,
        }
    }

    /// Gives the connection back, if nothing speaks against using it again.
    fn release(&mut self) {
        if let Some(conn) = self.conn.take()
            && self.keep_alive
            && self.upload.done()
            && conn.read.is_empty()
        {
            self.pool.put(&self.origin, conn);
        }
    }

    fn broken(&self, source: io::Error) -> UpstreamError {
        let stale = self
            .conn
            .as_ref()
            .is_some_and(|conn| conn.reused && conn.read.is_empty());
        UpstreamError::Broken {
            origin: Arc::clone(&self.origin.label),
            stale,
            source,
        }
    }

    fn malformed(&self, problem: &'static str) -> UpstreamError {
        UpstreamError::Malformed {
            origin: Arc::clone(&self.origin.label),
            problem,
        }
    }
}

fn poll_read(conn: &mut Conn, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
    if conn.read.capacity() - conn.read.len() < READ_ROOM_MIN {
        conn.read.reserve(READ_BYTES);
    }
    let read = pin!(conn.io.read_buf(&mut conn.read));
    read.poll(cx)
}
