//! A client's byte stream: what limits of time apply to it, and what is said when hyper refuses a head.
//!
//! hyper knows nothing of time here. What a client has for its next request and for a head is kept by its connection's
//! task (`connection.rs`), since hyper does not ask again for bytes that it has asked for before; for taking what is
//! written it has `client_idle` without any progress, which is kept here.
//!
//! A head that hyper cannot take never becomes a request, and hyper answers it with a bare status. That answer is
//! replaced here by the gateway's own. It is known by its place: between the last byte of one call's answer and the
//! begin of the next call nobody writes but hyper. So what upstreams send is never mistaken for it, whatever it says. With
//! HTTP/2 nothing is replaced: there a head that hyper cannot take resets its stream.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH};
use http::{HeaderMap, HeaderValue};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::connection::Progress;
use super::error::{Dialect, Error, ErrorAnswer};
use super::hygiene::REQUEST_ID;
use super::ids;
use super::pipeline::STALE;
use super::worker::Worker;
use crate::upstream::LazyTimer;

/// Bytes of `HTTP/1.x `, which a status follows.
const VERSION_BYTES: usize = 9;
const STATUS_BYTES: usize = 3;

/// A client's connection.
#[derive(Debug)]
pub(crate) struct ClientIo<S> {
    io: S,
    /// What was read before the protocol was known.
    first: Bytes,
    progress: Rc<Progress>,
    worker: Rc<Worker>,
    write_timer: LazyTimer,
    /// Since when the client takes nothing of what is written.
    stuck_since: Option<Instant>,
    /// What is still to be written in place of hyper's own answer.
    refusal: Bytes,
}

// === impl ClientIo ===

impl<S> ClientIo<S> {
    pub(crate) fn new(io: S, first: Bytes, progress: Rc<Progress>, worker: Rc<Worker>) -> Self {
        if !first.is_empty() {
            // Before hyper asks for them: a drain that begins now must not take this for a connection without a request.
            progress.on_read();
        }
        Self {
            io,
            first,
            progress,
            worker,
            write_timer: LazyTimer::default(),
            stuck_since: None,
            refusal: Bytes::new(),
        }
    }

    /// Whether `written` is hyper's own answer to a head that it refuses; the gateway's then waits in its place.
    fn replaces(&mut self, written: &[u8]) -> bool {
        if self.progress.is_answering() {
            return false;
        }
        match refusal(&self.worker, written) {
            Some(answer) => {
                self.refusal = answer;
                true
            }
            None => false,
        }
    }

    /// Passes a write's outcome on, unless the client has taken nothing for too long.
    fn written<T>(
        &mut self,
        cx: &mut Context<'_>,
        polled: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            if self.stuck_since.take().is_some() {
                self.progress.on_late_write();
            }
            return polled;
        }
        let since = *self.stuck_since.get_or_insert_with(Instant::now);
        self.write_timer
            .poll(cx, since + self.worker.limits.client_idle)
            .map(|()| Err(timed_out()))
    }
}

impl<S: AsyncWrite + Unpin> ClientIo<S> {
    /// Writes what stands in place of hyper's own answer.
    fn poll_refusal(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.refusal.is_empty() {
            let polled = Pin::new(&mut self.io).poll_write(cx, &self.refusal);
            let taken = ready!(self.written(cx, polled))?;
            if taken == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.refusal.advance(taken);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ClientIo<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.first.is_empty() {
            let taken = this.first.split_to(this.first.len().min(buf.remaining()));
            buf.put_slice(&taken);
            this.progress.on_read();
            return Poll::Ready(Ok(()));
        }
        let polled = Pin::new(&mut this.io).poll_read(cx, buf);
        if polled.is_ready() {
            this.progress.on_read();
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ClientIo<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.replaces(buf) {
            return Poll::Ready(Ok(buf.len()));
        }
        let polled = Pin::new(&mut this.io).poll_write(cx, buf);
        this.written(cx, polled)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if let Some(first) = bufs.first()
            && this.replaces(first)
        {
            return Poll::Ready(Ok(first.len()));
        }
        let polled = Pin::new(&mut this.io).poll_write_vectored(cx, bufs);
        this.written(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_refusal(cx))?;
        this.progress.on_flush();
        let polled = Pin::new(&mut this.io).poll_flush(cx);
        this.written(cx, polled)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_refusal(cx))?;
        let polled = Pin::new(&mut this.io).poll_shutdown(cx);
        this.written(cx, polled)
    }
}

/// The gateway's answer in place of `bare`, if that is a client error's head.
fn refusal(worker: &Worker, bare: &[u8]) -> Option<Bytes> {
    let (version, rest) = bare.split_at_checked(VERSION_BYTES)?;
    let status = std::str::from_utf8(rest.get(..STATUS_BYTES)?).ok()?;
    let status: u16 = status.parse().ok()?;
    if !version.starts_with(b"HTTP/1.") || status / 100 != 4 {
        return None;
    }
    let error = Error::of_refused_head(status, worker.limits.head_bytes);
    let answer = own_answer(worker, &error);
    // hyper keeps the time for everyone.
    let date = rest
        .split_inclusive(|byte| *byte == b'\n')
        .find(|line| line.starts_with(b"date: "));
    Some(in_bytes(version, &answer, date.unwrap_or_default()))
}

/// An answer that belongs to no call; it is counted, and the last one of its connection.
fn own_answer(worker: &Worker, error: &Error) -> ErrorAnswer {
    let mut answer = error.answer(Dialect::Problem);
    worker.meters.error(error.code());
    worker.meters.answered(answer.status.as_u16());
    let headers = &mut answer.headers;
    headers.insert(REQUEST_ID, ids::header_value(worker.ids.next()));
    if let Some(seconds) = worker.freshness.standing().seconds() {
        headers.insert(STALE, HeaderValue::from(seconds));
    }
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(answer.body.len()));
    answer
}

/// The answer to a connection beyond the limit.
pub(super) fn overloaded(worker: &Worker) -> Bytes {
    let answer = own_answer(worker, &Error::TooManyConnections);
    in_bytes(b"HTTP/1.1 ", &answer, b"")
}

fn in_bytes(version: &[u8], answer: &ErrorAnswer, date: &[u8]) -> Bytes {
    let ErrorAnswer {
        status,
        headers,
        body,
    } = answer;
    let mut out = BytesMut::with_capacity(1_024);
    out.put_slice(version);
    out.put_slice(status.as_str().as_bytes());
    out.put_slice(b" ");
    out.put_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    out.put_slice(b"\r\n");
    put_fields(&mut out, headers);
    out.put_slice(date);
    out.put_slice(b"\r\n");
    out.put_slice(body);
    out.freeze()
}

fn put_fields(out: &mut BytesMut, headers: &HeaderMap) {
    for (name, value) in headers {
        out.put_slice(name.as_str().as_bytes());
        out.put_slice(b": ");
        out.put_slice(value.as_bytes());
        out.put_slice(b"\r\n");
    }
}

fn timed_out() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the client took too long")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncWriteExt as _, duplex};

    use super::super::harness::{Harness, example};
    use super::super::settings::GatewayLimits;
    use super::*;

    fn limits() -> GatewayLimits {
        GatewayLimits {
            client_idle: Duration::from_mins(1),
            ..GatewayLimits::default()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_is_given_up() {
        let (_client, server) = duplex(8);
        let start = Instant::now();
        let harness = Harness::with(example(), limits());
        let mut io = ClientIo::new(
            server,
            Bytes::new(),
            Progress::one_at_a_time(),
            Rc::clone(&harness.worker),
        );
        let error = io.write_all(&[0; 64]).await.unwrap_err();
        assert_eq!(
            (error.kind(), start.elapsed().as_secs()),
            (io::ErrorKind::TimedOut, 60)
        );
    }

    #[test]
    fn nothing_but_a_client_error_is_replaced() {
        let worker = Harness::new().worker;
        let as_it_is: [&[u8]; 6] = [
            b"",
            b"HTTP/1.1 4",
            b"HTTP/1.1 100 Continue\r\n\r\n",
            b"HTTP/1.1 503 Service Unavailable\r\n\r\n",
            b"HTTP/1.1 4x4 \r\n\r\n",
            b"SMTP/1.1 400 Bad Request\r\n\r\n",
        ];
        for bytes in as_it_is {
            assert_eq!(refusal(&worker, bytes), None);
        }
    }

    #[test]
    fn a_refusal_keeps_the_version_and_the_date_of_hyper_and_knows_no_414() {
        let worker = Harness::new().worker;
        let bare = b"HTTP/1.0 414 URI Too Long\r\ncontent-length: 0\r\ndate: now\r\n\r\n";
        let answer = refusal(&worker, bare).unwrap();
        let text = std::str::from_utf8(&answer).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(
            head.starts_with("HTTP/1.0 431 Request Header Fields Too Large\r\n"),
            "{head}"
        );
        assert!(head.ends_with("\r\ndate: now"), "{head}");
        assert_eq!(head.matches("content-length: ").count(), 1, "{head}");
        assert!(body.contains("\"code\":\"header_too_large\""), "{body}");
    }
}
