//! A provider's event stream on its way to the client, metered while it passes.

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use mode_envoy_ai::embedded::Frames;
use mode_envoy_ai::error::{ErrorBody, ErrorCode};
use mode_envoy_ai::estimate;
use mode_envoy_ai::openai::relay::{StreamRelay, UsageChunk};
use mode_envoy_ai::openai::stream::{StreamEnd, StreamOutcome};
use mode_envoy_ai::usage::UsageSource;

use super::super::call::{Call, End};
use super::super::error::Error;
use crate::upstream::{Exchange, UpstreamError};

/// Where a provider's bytes come from.
#[derive(Debug)]
pub(crate) enum Incoming {
    /// From an upstream.
    Exchange(Box<Exchange>),
    /// From this process, all at once.
    Whole(Bytes),
    /// From this process, frame by frame.
    Frames(Box<Frames>),
}

/// A stream that is relayed.
#[derive(Debug)]
pub(crate) struct AiStream {
    incoming: Incoming,
    /// `None` once it has ended.
    relay: Option<StreamRelay>,
    prompt_bytes: u64,
}

/// What leaves next.
#[derive(Debug)]
pub(crate) enum Next {
    /// Never empty.
    More(Bytes),
    /// May be empty.
    Last(Bytes, End),
}

// === impl AiStream ===

impl AiStream {
    pub(super) fn new(
        incoming: Incoming,
        choices: u32,
        usage_chunk: UsageChunk,
        prompt_bytes: u64,
    ) -> Self {
        Self {
            incoming,
            relay: Some(StreamRelay::new(choices, usage_chunk)),
            prompt_bytes,
        }
    }

    /// What can be sent to the client now.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>, call: &mut Call) -> Poll<Next> {
        loop {
            let read = ready!(self.incoming.poll_data(cx));
            let Some(relay) = &mut self.relay else {
                return Poll::Ready(Next::Last(Bytes::new(), End::Whole));
            };
            match read {
                Some(Ok(bytes)) => {
                    let out = relay.on_bytes(bytes);
                    if relay.first_content_seen() {
                        call.first_byte();
                    }
                    if !out.is_empty() {
                        return Poll::Ready(Next::More(out));
                    }
                }
                Some(Err(error)) => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "a provider's stream broke off"
                    );
                    return Poll::Ready(self.finish(call, Some(Error::Upstream(error))));
                }
                None => return Poll::Ready(self.finish(call, None)),
            }
        }
    }

    /// The client has left: what was seen counts, or what it must have come to.
    pub(crate) fn left(&mut self, call: &mut Call) {
        let Some(relay) = self.relay.take() else {
            return;
        };
        let unheard = ErrorBody::new(ErrorCode::UpstreamFailed, "");
        let (_, outcome) = relay.abort(&unheard);
        self.count(call, &outcome);
    }

    fn finish(&mut self, call: &mut Call, error: Option<Error>) -> Next {
        let Some(relay) = self.relay.take() else {
            return Next::Last(Bytes::new(), End::Whole);
        };
        let (last, outcome) = match error {
            Some(error) => relay.abort(&error.in_openai()),
            None => relay.finish(),
        };
        self.count(call, &outcome);
        let end = if outcome.end() == StreamEnd::Complete {
            End::Whole
        } else {
            End::Cut
        };
        Next::Last(last, end)
    }

    /// A stream that was complete counts as reported. One that broke off may have taken more than it told so far.
    fn count(&self, call: &mut Call, outcome: &StreamOutcome) {
        let estimated = estimate::usage(self.prompt_bytes, outcome.output_bytes);
        let complete = outcome.end() == StreamEnd::Complete;
        call.took(match outcome.usage {
            Some(usage) if complete || usage.total() >= estimated.total() => {
                let source = if complete {
                    UsageSource::Reported
                } else {
                    UsageSource::Estimated
                };
                (usage, source)
            }
            _ => (estimated, UsageSource::Estimated),
        });
    }
}

// === impl Incoming ===

impl Incoming {
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, UpstreamError>>> {
        match self {
            Self::Exchange(exchange) => exchange.poll_data(cx),
            Self::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Whole(bytes) => Poll::Ready(Some(Ok(std::mem::take(bytes)))),
            Self::Frames(frames) => Poll::Ready(frames.next().map(Ok)),
        }
    }
}
