//! A request on its way to the upstream: its head, and its body piece by piece as the client sends it.
//!
//! Head and first piece leave in one write. Invariants: at most one piece of the body is held; the limit counts
//! what came, not what was announced.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes, BytesMut};
use hyper::body::{Body as _, Incoming};
use tokio::io::AsyncWrite as _;

use super::UpstreamError;
use super::io::Io;

/// How the body of a request is framed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Framing {
    /// There is none.
    None,
    /// By its length.
    Length(u64),
    /// In chunks.
    Chunked,
}

/// A request that is being sent.
#[derive(Debug)]
pub(crate) struct Upload {
    /// The head, or a chunk's size line.
    prefix: BytesMut,
    data: Bytes,
    /// What follows `data`.
    suffix: &'static [u8],
    framing: Framing,
    /// What is still to come from the client.
    rest: Option<Incoming>,
    /// Bytes of the body so far.
    bytes: u64,
    limit: u64,
    /// Whether any byte has left.
    started: bool,
    done: bool,
}

/// Who an upload that cannot go on waits for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum WaitsFor {
    /// The client, for the next piece.
    Client,
    /// The upstream, to take what there is.
    Upstream,
}

/// How an upload stands after it was polled.
#[derive(Debug)]
pub(super) enum Progress {
    Done,
    Waits(WaitsFor),
    /// The upstream takes no more; it may still answer.
    Broken(io::Error),
    Failed(UpstreamError),
}

// === impl Upload ===

impl Upload {
    /// A request whose body is all there.
    pub(crate) fn whole(head: BytesMut, body: Bytes) -> Self {
        Self::new(head, Framing::None, body, None, u64::MAX)
    }

    /// A request whose body begins with `first`; `rest` brings what follows, up to `limit` bytes in all.
    pub(crate) fn streaming(
        head: BytesMut,
        framing: Framing,
        first: Bytes,
        rest: Option<Incoming>,
        limit: u64,
    ) -> Self {
        let mut upload = Self::new(head, framing, Bytes::new(), rest, limit);
        if !first.is_empty() {
            upload.bytes = first.len() as u64;
            upload.load(first);
        }
        if upload.rest.is_none() {
            upload.load_end();
        }
        upload
    }

    fn new(
        prefix: BytesMut,
        framing: Framing,
        data: Bytes,
        rest: Option<Incoming>,
        limit: u64,
    ) -> Self {
        let bytes = data.len() as u64;
        Self {
            prefix,
            data,
            suffix: b"",
            framing,
            rest,
            bytes,
            limit,
            started: false,
            done: false,
        }
    }

    /// Bytes of the body that have come so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether the upstream may have seen a byte of it.
    pub(super) fn started(&self) -> bool {
        self.started
    }

    pub(super) fn done(&self) -> bool {
        self.done
    }

    /// Sends as much as the client has given and the upstream takes.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, io: &mut Io) -> Progress {
        while !self.done {
            match self.poll_write(cx, io) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Progress::Broken(error),
                Poll::Pending => return Progress::Waits(WaitsFor::Upstream),
            }
            match self.poll_next(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Progress::Failed(error),
                Poll::Pending => return Progress::Waits(WaitsFor::Client),
            }
        }
        Progress::Done
    }

    /// Writes everything that is held, and flushes it.
    fn poll_write(&mut self, cx: &mut Context<'_>, io: &mut Io) -> Poll<io::Result<()>> {
        while !(self.prefix.is_empty() && self.data.is_empty() && self.suffix.is_empty()) {
            let slices = [
                IoSlice::new(&self.prefix),
                IoSlice::new(&self.data),
                IoSlice::new(self.suffix),
            ];
            let written = if self.data.is_empty() && self.suffix.is_empty() {
                ready!(Pin::new(&mut *io).poll_write(cx, &self.prefix))?
            } else {
                ready!(Pin::new(&mut *io).poll_write_vectored(cx, &slices))?
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.started = true;
            self.advance(written);
        }
        // Plain sockets have nothing to flush; TLS may hold a record.
        Pin::new(io).poll_flush(cx)
    }

    fn advance(&mut self, written: usize) {
        let of_prefix = written.min(self.prefix.len());
        self.prefix.advance(of_prefix);
        let of_data = (written - of_prefix).min(self.data.len());
        self.data.advance(of_data);
        let of_suffix = written - of_prefix - of_data;
        self.suffix = self.suffix.get(of_suffix..).unwrap_or_default();
    }

    /// Takes the next piece from the client.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), UpstreamError>> {
        let Some(rest) = &mut self.rest else {
            self.done = true;
            return Poll::Ready(Ok(()));
        };
        match ready!(Pin::new(rest).poll_frame(cx)) {
            Some(Ok(frame)) => {
                // Trailers are dropped, as they are in the other direction.
                if let Ok(data) = frame.into_data()
                    && !data.is_empty()
                {
                    self.bytes += data.len() as u64;
                    if self.bytes > self.limit {
                        return Poll::Ready(Err(UpstreamError::BodyTooLarge { limit: self.limit }));
                    }
                    self.load(data);
                }
            }
            Some(Err(error)) => return Poll::Ready(Err(UpstreamError::ClientBody(error))),
            None => {
                self.rest = None;
                self.load_end();
            }
        }
        Poll::Ready(Ok(()))
    }

    fn load(&mut self, data: Bytes) {
        if self.framing == Framing::Chunked {
            self.prefix
                .extend_from_slice(format!("{:x}\r\n", data.len()).as_bytes());
            self.suffix = b"\r\n";
        }
        self.data = data;
    }

    fn load_end(&mut self) {
        if self.framing == Framing::Chunked {
            self.suffix = if self.data.is_empty() {
                b"0\r\n\r\n"
            } else {
                b"\r\n0\r\n\r\n"
            };
        }
    }
}
