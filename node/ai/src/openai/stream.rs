//! Meters an event stream of chunks while it is relayed.
//!
//! The meter looks at a copy and changes nothing. Most frames are decided by a probe for substrings
//! (`probe.rs`); a frame is parsed only where it carries more than one piece of text.
//!
//! Rules:
//! * the last usage that is not `null` counts, wherever it stands; counts are replaced, never added;
//! * the stream is complete once every choice asked for has ended, or at `[DONE]`;
//! * its end before that is a truncation, though the connection closed cleanly;
//! * a frame with a top-level `error` is a failure, whatever follows.

use crate::openai::answer::{Answer, InBandError};
use crate::openai::probe;
use crate::openai::usage::UnusableUsage;
use crate::sse::{Payload, Splitter};
use crate::usage::Usage;

const DONE: &[u8] = b"[DONE]";

/// Watches the bytes of one stream.
#[derive(Debug)]
pub struct StreamMeter {
    splitter: Splitter,
    tally: Tally,
}

/// What a stream said, as far as it came.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct StreamOutcome {
    /// The usage that the provider reported, where it can be used.
    pub usage: Option<Usage>,
    /// Why the last usage that the provider reported cannot be used.
    pub unusable: Option<UnusableUsage>,
    /// Whether every choice asked for has said why it ended.
    pub saw_finish: bool,
    /// Whether `[DONE]` came.
    pub saw_done: bool,
    /// The first error that came as a frame.
    pub in_band_error: Option<InBandError>,
    /// Bytes of generated text, for the estimate.
    pub output_bytes: u64,
    /// Whether any generated text came.
    pub first_content_seen: bool,
    /// Frames that were over the limit or not of the known shape; they were relayed all the same.
    pub unread_frames: u64,
}

/// How a stream ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum StreamEnd {
    /// It said all it had to say.
    Complete,
    /// It broke off.
    Truncated,
    /// It reported an error.
    Failed,
}

/// What the frames so far add up to.
#[derive(Debug)]
pub(crate) struct Tally {
    choices: u32,
    finished: u128,
    saw_done: bool,
    usage: Option<Result<Usage, UnusableUsage>>,
    error: Option<InBandError>,
    output_bytes: u64,
    unread_frames: u64,
}

/// What a frame is to the relay.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    /// It carries usage and no choices.
    UsageChunk,
    Other,
}

// === impl StreamMeter ===

impl StreamMeter {
    /// A meter for one stream of a request that asks for `choices` choices.
    pub fn new(choices: u32) -> Self {
        Self {
            splitter: Splitter::default(),
            tally: Tally::new(choices),
        }
    }

    /// Watches the next bytes of the stream.
    pub fn on_bytes(&mut self, bytes: &[u8]) {
        let tally = &mut self.tally;
        self.splitter.push(bytes, |frame| {
            tally.on_payload(frame.payload);
        });
    }

    /// Whether any generated text came so far: the moment of the first token.
    pub fn first_content_seen(&self) -> bool {
        self.tally.first_content_seen()
    }

    /// The first error that came as a frame so far.
    pub fn in_band_error(&self) -> Option<&InBandError> {
        self.tally.error()
    }

    /// Says what was seen; the stream has ended, or nobody reads on.
    pub fn finish(mut self) -> StreamOutcome {
        let tally = &mut self.tally;
        self.splitter.finish(|frame| {
            tally.on_payload(frame.payload);
        });
        self.tally.into_outcome()
    }
}

// === impl StreamOutcome ===

impl StreamOutcome {
    /// How the stream ended, if its bytes ended here.
    pub fn end(&self) -> StreamEnd {
        if self.in_band_error.is_some() {
            StreamEnd::Failed
        } else if self.saw_finish || self.saw_done {
            StreamEnd::Complete
        } else {
            StreamEnd::Truncated
        }
    }
}

// === impl Tally ===

impl Tally {
    pub(crate) fn new(choices: u32) -> Self {
        Self {
            choices: choices.max(1),
            finished: 0,
            saw_done: false,
            usage: None,
            error: None,
            output_bytes: 0,
            unread_frames: 0,
        }
    }

    pub(crate) fn on_payload(&mut self, payload: Payload<'_>) -> Kind {
        match payload {
            Payload::Data(data) => self.on_data(data.trim_ascii()),
            Payload::TooLong => {
                self.unread_frames += 1;
                Kind::Other
            }
            Payload::Nothing => Kind::Other,
        }
    }

    pub(crate) fn first_content_seen(&self) -> bool {
        self.output_bytes > 0
    }

    pub(crate) fn error(&self) -> Option<&InBandError> {
        self.error.as_ref()
    }

    pub(crate) fn into_outcome(self) -> StreamOutcome {
        let (usage, unusable) = match self.usage {
            Some(Ok(usage)) => (Some(usage), None),
            Some(Err(reason)) => (None, Some(reason)),
            None => (None, None),
        };
        StreamOutcome {
            usage,
            unusable,
            saw_finish: self.finished.count_ones() >= self.choices,
            saw_done: self.saw_done,
            in_band_error: self.error,
            output_bytes: self.output_bytes,
            first_content_seen: self.output_bytes > 0,
            unread_frames: self.unread_frames,
        }
    }

    fn on_data(&mut self, data: &[u8]) -> Kind {
        if data == DONE {
            self.saw_done = true;
            return Kind::Other;
        }
        if let Some(bytes) = probe::plain_content_bytes(data) {
            self.output_bytes += bytes;
            return Kind::Other;
        }
        let Some(answer) = Answer::read(data) else {
            self.unread_frames += 1;
            return Kind::Other;
        };
        self.on_answer(answer)
    }

    fn on_answer(&mut self, answer: Answer) -> Kind {
        let usage_chunk = answer.is_usage_chunk();
        self.finished |= answer.finished;
        self.output_bytes += answer.text_bytes;
        self.usage = answer.usage.or(self.usage);
        if self.error.is_none() {
            self.error = answer.error;
        }
        if usage_chunk {
            Kind::UsageChunk
        } else {
            Kind::Other
        }
    }
}

#[cfg(test)]
#[path = "stream/stream_test.rs"]
mod tests;
