//! An answer's body on its way to the client. It owns the call: its end, its error and its drop are the call's end.
//!
//! Everything that is ready leaves as one piece; nothing is asked of the upstream before the client's side has room.
//! With HTTP/2, where being asked for more is how a client's progress is seen, a large piece leaves in slices.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Frame, SizeHint};

use super::ai::{AiStream, Next};
use super::call::{Call, End};
use super::connection::InFlight;
use crate::upstream::{Exchange, UpstreamError};

/// What leaves at once with HTTP/2: as much as a frame holds that every client takes.
const SLICE_BYTES: usize = 16 << 10;

/// The body of an answer.
#[derive(Debug)]
pub(crate) struct Body {
    source: Source,
    /// Of a piece that leaves in slices; it comes before what the source has.
    rest: Bytes,
    call: Call,
    /// Told when the answer has left.
    in_flight: Option<InFlight>,
}

/// Where the bytes come from.
#[derive(Debug)]
pub(crate) enum Source {
    /// They are all here.
    Whole(Bytes),
    /// From an upstream, as they are; `left` of them where that is known, `first` before the rest.
    Upstream {
        first: Bytes,
        exchange: Box<Exchange>,
        left: Option<u64>,
    },
    /// From a provider, metered.
    Ai(Box<AiStream>),
    /// There are no more.
    Ended,
}

/// The answer broke off; the connection to the client is closed, so that it can tell.
#[derive(Debug)]
pub(crate) struct BrokenOff(UpstreamError);

// === impl Body ===

impl Body {
    /// The call's answer has begun with its head.
    pub(crate) fn new(source: Source, call: Call) -> Self {
        let mut body = Self {
            source,
            rest: Bytes::new(),
            call,
            in_flight: None,
        };
        if body.is_over() {
            body.end(End::Whole);
        }
        body
    }

    /// The same body, on the connection that it is in flight on.
    pub(crate) fn on(mut self, mut in_flight: InFlight) -> Self {
        in_flight.is_answered();
        self.in_flight = Some(in_flight);
        self
    }

    fn is_over(&self) -> bool {
        match &self.source {
            Source::Whole(bytes) => bytes.is_empty(),
            Source::Upstream {
                first, exchange, ..
            } => first.is_empty() && exchange.is_done(),
            Source::Ai(_) => false,
            Source::Ended => true,
        }
    }

    fn end(&mut self, end: End) {
        self.source = Source::Ended;
        self.call.end(end);
    }

    /// The next piece of the rest, or else of the source.
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BrokenOff>>> {
        if self.rest.is_empty() {
            return self.poll_next(cx);
        }
        Poll::Ready(Some(Ok(std::mem::take(&mut self.rest))))
    }

    /// As much of a piece as leaves at once.
    fn slice(&mut self, mut piece: Bytes) -> Bytes {
        let in_slices = self.in_flight.as_ref().is_some_and(InFlight::is_paced);
        if !in_slices || piece.len() <= SLICE_BYTES {
            return piece;
        }
        let slice = piece.split_to(SLICE_BYTES);
        self.rest = piece;
        slice
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BrokenOff>>> {
        match &mut self.source {
            Source::Ended => Poll::Ready(None),
            Source::Whole(bytes) => {
                let bytes = std::mem::take(bytes);
                self.call.first_byte();
                self.call.sends(bytes.len());
                self.end(End::Whole);
                Poll::Ready(Some(Ok(bytes)))
            }
            Source::Upstream { first, .. } if !first.is_empty() => {
                let first = std::mem::take(first);
                Poll::Ready(Some(Ok(self.relayed(first))))
            }
            Source::Upstream { exchange, .. } => match std::task::ready!(exchange.poll_data(cx)) {
                Some(Ok(bytes)) => Poll::Ready(Some(Ok(self.relayed(bytes)))),
                Some(Err(error)) => {
                    tracing::debug!(
                        error = &error as &dyn std::error::Error,
                        "a relayed answer broke off"
                    );
                    self.end(End::Cut);
                    Poll::Ready(Some(Err(BrokenOff(error))))
                }
                None => {
                    self.end(End::Whole);
                    Poll::Ready(None)
                }
            },
            Source::Ai(stream) => {
                let (bytes, end) = match std::task::ready!(stream.poll_next(cx, &mut self.call)) {
                    Next::More(bytes) => (bytes, None),
                    Next::Last(bytes, end) => (bytes, Some(end)),
                };
                self.call.sends(bytes.len());
                if let Some(end) = end {
                    self.end(end);
                }
                Poll::Ready((!bytes.is_empty()).then_some(Ok(bytes)))
            }
        }
    }

    /// Counts bytes from an upstream, and ends the call with the last of them.
    fn relayed(&mut self, bytes: Bytes) -> Bytes {
        self.call.first_byte();
        self.call.sends(bytes.len());
        if let Source::Upstream { exchange, left, .. } = &mut self.source {
            self.call.received(exchange.bytes_in());
            *left = left.map(|left| left.saturating_sub(bytes.len() as u64));
        }
        if self.is_over() {
            self.end(End::Whole);
        }
        bytes
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        let this = self.get_mut();
        if let Some(in_flight) = &this.in_flight {
            in_flight.is_asked();
        }
        let polled = this.poll_piece(cx);
        if let (Some(in_flight), Poll::Ready(Some(Ok(_)))) = (&this.in_flight, &polled) {
            in_flight.has_given();
        }
        polled.map(|next| next.map(|piece| piece.map(|piece| Frame::data(this.slice(piece)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && matches!(self.source, Source::Ended)
    }

    fn size_hint(&self) -> SizeHint {
        let left = match &self.source {
            Source::Whole(bytes) => bytes.len() as u64,
            Source::Upstream {
                left: Some(left), ..
            } => *left,
            Source::Upstream { left: None, .. } | Source::Ai(_) => return SizeHint::default(),
            Source::Ended => 0,
        };
        SizeHint::with_exact(left.saturating_add(self.rest.len() as u64))
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        if let Source::Ai(stream) = &mut self.source {
            stream.left(&mut self.call);
        }
    }
}

// === impl BrokenOff ===

impl fmt::Display for BrokenOff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("relaying an answer that broke off")
    }
}

impl std::error::Error for BrokenOff {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}
