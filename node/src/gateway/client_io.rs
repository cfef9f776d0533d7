//! A client's byte stream with limits of time.
//!
//! hyper knows nothing of time here; what a client may take is bounded where its bytes pass:
//! * between two requests: `keep_alive`;
//! * for a head, from its first byte: `head_timeout`, however slowly it trickles;
//! * for taking what is written: `client_idle` without any progress.
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
    read_timer: LazyTimer,
    write_timer: LazyTimer,
    /// Since when the client takes nothing of what is written.
    stuck_since: Option<Instant>,
}

/// What a connection is at; shared with the calls on it.
#[derive(Debug)]
pub(crate) struct Progress {
    state: Cell<State>,
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
        Rc::new(Self { state: Cell::new(State::Idle(Instant::now())) })
    }

    /// A request's head has been read.
    pub(crate) fn begin(self: &Rc<Self>) -> InFlight {
        self.state.set(State::Call);
        InFlight(Rc::clone(self))
    }

    fn on_read(&self) {
        if let State::Idle(_) = self.state.get() {
            self.state.set(State::Head(Instant::now()));
        }
    }

    fn read_deadline(&self, limits: &GatewayLimits) -> Option<Instant> {
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
            read_timer: LazyTimer::default(),
            write_timer: LazyTimer::default(),
            stuck_since: None,
        }
    }

    /// Passes a write's outcome on, unless the client has taken nothing for too long.
    fn written<T>(&mut self, cx: &mut Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.stuck_since = None;
            return polled;
        }
        let since = *self.stuck_since.get_or_insert_with(Instant::now);
        self.write_timer.poll(cx, since + self.limits.client_idle).map(|()| Err(timed_out()))
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
            return polled;
        }
        match this.progress.read_deadline(&this.limits) {
            Some(deadline) => this.read_timer.poll(cx, deadline).map(|()| Err(timed_out())),
            None => Poll::Pending,
        }
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

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    fn limits() -> GatewayLimits {
        GatewayLimits {
            keep_alive: Duration::from_secs(75),
            head_timeout: Duration::from_secs(10),
            client_idle: Duration::from_secs(60),
            ..GatewayLimits::default()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_is_closed_after_keep_alive() {
        let (_client, server) = duplex(64);
        let start = Instant::now();
        let mut io = ClientIo::new(server, Progress::new(), limits());
        let error = io.read_u8().await.unwrap_err();
        assert_eq!((error.kind(), start.elapsed().as_secs()), (io::ErrorKind::TimedOut, 75));
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_trickles_has_no_longer_than_one_that_stalls() {
        let (mut client, server) = duplex(64);
        let start = Instant::now();
        let mut io = ClientIo::new(server, Progress::new(), limits());
        let trickle = async {
            for _ in 0..100 {
                tokio::time::sleep(Duration::from_secs(3)).await;
                if client.write_all(b"G").await.is_err() {
                    break;
                }
            }
        };
        let read = async {
            while io.read_u8().await.is_ok() {}
            drop(io);
            start.elapsed().as_secs()
        };
        let (_, seconds) = tokio::join!(trickle, read);
        assert_eq!(seconds, 13);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_asked_of_the_client_while_its_call_is_in_flight() {
        let (mut client, server) = duplex(64);
        let progress = Progress::new();
        let call = progress.begin();
        let mut io = ClientIo::new(server, Rc::clone(&progress), limits());
        let long = tokio::time::timeout(Duration::from_secs(3_600), io.read_u8()).await;
        assert!(long.is_err());
        drop(call);
        client.write_all(b"x").await.unwrap();
        assert_eq!(io.read_u8().await.unwrap(), b'x');
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_is_given_up() {
        let (_client, server) = duplex(8);
        let start = Instant::now();
        let mut io = ClientIo::new(server, Progress::new(), limits());
        let error = io.write_all(&[0; 64]).await.unwrap_err();
        assert_eq!((error.kind(), start.elapsed().as_secs()), (io::ErrorKind::TimedOut, 60));
    }
}
