//! A request's body as the client sends it: its first piece, or all of it. A client that stalls is not waited for.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hyper::body::{Body as _, Incoming};
use tokio::time::Instant;

use super::error::Error;
use crate::upstream::{LazyTimer, UpstreamError};

/// The beginning of a body, and what brings the rest.
#[derive(Debug)]
pub(crate) struct Begun {
    /// Empty only where there is no body.
    pub(crate) first: Bytes,
    pub(crate) rest: Option<Incoming>,
}

/// Reads a body piece by piece.
struct Pieces {
    body: Incoming,
    timer: LazyTimer,
    idle: Duration,
    /// When all of it must have come.
    end: Option<Instant>,
}

/// Waits for the first piece of a body.
pub(crate) async fn begin(body: Incoming, idle: Duration) -> Result<Begun, Error> {
    let mut pieces = Pieces::new(body, idle, None);
    let Some(first) = pieces.next().await? else {
        return Ok(Begun {
            first: Bytes::new(),
            rest: None,
        });
    };
    let rest = (!pieces.body.is_end_stream()).then_some(pieces.body);
    Ok(Begun { first, rest })
}

/// Reads a body of `limit` bytes at most, which must have come by `end`.
pub(crate) async fn read_whole(
    body: Incoming,
    limit: u64,
    idle: Duration,
    end: Instant,
) -> Result<Bytes, Error> {
    let mut pieces = Pieces::new(body, idle, Some(end));
    let Some(first) = pieces.next().await? else {
        return Ok(Bytes::new());
    };
    let within = |length: usize| {
        if length as u64 > limit {
            Err(Error::BodyTooLarge { limit })
        } else {
            Ok(())
        }
    };
    within(first.len())?;
    let Some(second) = pieces.next().await? else {
        return Ok(first);
    };
    let mut whole = BytesMut::from(first);
    let mut next = Some(second);
    while let Some(piece) = next {
        within(whole.len() + piece.len())?;
        whole.extend_from_slice(&piece);
        next = pieces.next().await?;
    }
    Ok(whole.freeze())
}

// === impl Pieces ===

impl Pieces {
    fn new(body: Incoming, idle: Duration, end: Option<Instant>) -> Self {
        Self {
            body,
            timer: LazyTimer::default(),
            idle,
            end,
        }
    }

    /// The next piece that is not empty; trailers are passed over.
    async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        let mut deadline = None;
        while !self.body.is_end_stream() {
            let frame = poll_fn(|cx| match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(frame) => Poll::Ready(Some(frame)),
                Poll::Pending => {
                    let deadline = *deadline.get_or_insert_with(|| {
                        let idle = Instant::now() + self.idle;
                        self.end.map_or(idle, |end| end.min(idle))
                    });
                    self.timer.poll(cx, deadline).map(|()| None)
                }
            });
            match frame.await {
                None => return Err(Error::Upstream(UpstreamError::ClientStalled)),
                Some(None) => return Ok(None),
                Some(Some(Err(error))) => {
                    return Err(Error::Upstream(UpstreamError::ClientBody(error)));
                }
                Some(Some(Ok(frame))) => {
                    if let Ok(piece) = frame.into_data()
                        && !piece.is_empty()
                    {
                        return Ok(Some(piece));
                    }
                }
            }
        }
        Ok(None)
    }
}
