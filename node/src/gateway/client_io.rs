//! A client's byte stream, and what limits of time apply to it.
//!
//! hyper knows nothing of time here:
//! * between two requests a client has `keep_alive`; for a head, from its first byte, `head_timeout`, however slowly it
//!   trickles. Its connection's task keeps that deadline (`serve.rs`), since hyper does not ask again for bytes that
//!   it has asked for before.
//! * for taking what is written it has `client_idle` without any progress; that is kept here.
//!
//! While a call is in flight nothing is asked of the client's sending side: a body that stalls is the upload's matter.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::settings::GatewayLimits;
use crate::upstream::LazyTimer;

/// A client's connection.
#[derive(Debug)]
pub(crate) struct ClientIo<S> {
    io: S,
    progress: Rc<Progress>,
    limits: GatewayLimits,
    write_timer: LazyTimer,
    /// Since when the client takes nothing of what is written.
    stuck_since: Option<Instant>,
}

/// What a connection is at; shared with the calls on it.
#[derive(Debug)]
pub(crate) struct Progress {
    state: Cell<State>,
    /// Whether the client has sent anything yet.
    touched: Cell<bool>,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// Between requests, since then.
    Idle(Instant),
    /// Within a head that began then.
    Head(Instant),
    /// A call is in flight.
    Call,
}

/// A call is in flight on a connection until this is dropped.
#[derive(Debug)]
pub(crate) struct InFlight(Rc<Progress>);

// === impl Progress ===

impl Progress {
    pub(crate) fn new() -> Rc<Self> {
        Rc::new(Self {
            state: Cell::new(State::Idle(Instant::now())),
            touched: Cell::new(false),
        })
    }

    /// A request's head has been read.
    pub(crate) fn begin(self: &Rc<Self>) -> InFlight {
        self.state.set(State::Call);
        InFlight(Rc::clone(self))
    }

    /// Whether nothing has come yet, so that nobody misses a connection that is closed.
    pub(crate) fn is_untouched(&self) -> bool {
        !self.touched.get()
    }

    fn on_read(&self) {
        self.touched.set(true);
        if let State::Idle(_) = self.state.get() {
            self.state.set(State::Head(Instant::now()));
        }
    }

    /// The client takes what it was slow to take: only from now on is its next request waited for.
    fn on_late_write(&self) {
        if let State::Idle(_) = self.state.get() {
            self.state.set(State::Idle(Instant::now()));
        }
    }

    /// Until when the client must have sent what is waited for.
    pub(crate) fn deadline(&self, limits: &GatewayLimits) -> Option<Instant> {
        match self.state.get() {
            State::Idle(since) => Some(since + limits.keep_alive),
            State::Head(since) => Some(since + limits.head_timeout),
            State::Call => None,
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.state.set(State::Idle(Instant::now()));
    }
}

// === impl ClientIo ===

impl<S> ClientIo<S> {
    pub(crate) fn new(io: S, progress: Rc<Progress>, limits: GatewayLimits) -> Self {
        Self {
            io,
            progress,
            limits,
            write_timer: LazyTimer::default(),
            stuck_since: None,
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
            .poll(cx, since + self.limits.client_idle)
            .map(|()| Err(timed_out()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ClientIo<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
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
        let polled = Pin::new(&mut this.io).poll_write(cx, buf);
        this.written(cx, polled)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.io).poll_write_vectored(cx, bufs);
        this.written(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.io).poll_flush(cx);
        this.written(cx, polled)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.io).poll_shutdown(cx);
        this.written(cx, polled)
    }
}

fn timed_out() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the client took too long")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncWriteExt as _, duplex};

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
        let mut io = ClientIo::new(server, Progress::new(), limits());
        let error = io.write_all(&[0; 64]).await.unwrap_err();
        assert_eq!(
            (error.kind(), start.elapsed().as_secs()),
            (io::ErrorKind::TimedOut, 60)
        );
    }
}
