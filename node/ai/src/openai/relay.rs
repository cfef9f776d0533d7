//! The path of a stream's bytes from provider to client: metered, and cleaned where needed.
//!
//! The provider is always asked for usage. A client that did not ask must not see the extra chunk
//! with usage and no choices; everything else it gets byte for byte.
//!
//! The rule for holding bytes: what one read returned leaves in one write. Only the beginning of a
//! frame that a read cut may stay, and only while it could still turn out to be the usage chunk
//! (its choices have not begun, its usage is not `null`) and is at most [`HELD_BYTES_MAX`]. A client
//! that asked for usage gets every read as it is; nothing is ever held.
//!
//! At the end the relay makes up what OpenAI's clients rely on: `[DONE]` after a stream that has
//! finished without it, an error frame and no `[DONE]` after one that broke off.

use bytes::Bytes;

use crate::error::{ErrorBody, ErrorCode};
use crate::openai::answer::InBandError;
use crate::openai::probe;
use crate::openai::stream::{Kind, StreamEnd, StreamOutcome, Tally};
use crate::sse::Splitter;

/// The longest beginning of a frame that is held; the usage chunk is far smaller.
pub const HELD_BYTES_MAX: usize = 64 << 10;

const DONE_FRAME: &[u8] = b"data: [DONE]\n\n";
const FRAME_END: &[u8] = b"\n\n";

/// Whether the client sees the chunk that carries usage.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum UsageChunk {
    /// The client asked for it.
    Shown,
    /// The client did not ask; only the gateway did.
    Hidden,
}

/// Relays one stream.
///
/// ```
/// use bytes::Bytes;
/// use mode_envoy_ai::openai::relay::{StreamRelay, UsageChunk};
///
/// let mut relay = StreamRelay::new(1, UsageChunk::Hidden);
/// let finish = r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#;
/// let usage = r#"{"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":2}}"#;
/// let read = format!("data: {finish}\n\ndata: {usage}\n\n");
/// assert_eq!(relay.on_bytes(Bytes::from(read)), format!("data: {finish}\n\n"));
///
/// let (tail, outcome) = relay.finish();
/// assert_eq!(tail, "data: [DONE]\n\n");
/// assert_eq!(outcome.usage.map(|usage| usage.total()), Some(11));
/// ```
#[derive(Debug)]
pub struct StreamRelay {
    splitter: Splitter,
    tally: Tally,
    usage_chunk: UsageChunk,
    /// The beginning of the current frame, not yet forwarded.
    held: Vec<u8>,
    /// The beginning of the current frame has been forwarded, so the rest must follow.
    passing: bool,
    /// The last read ended with the `\r` of a frame's end; says whether that frame was dropped.
    awaits_line_feed: Option<Fate>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Fate {
    Forwarded,
    Dropped,
}

/// What of one read is forwarded; copies only once the bytes are no longer one piece of the read.
struct Outgoing<'a> {
    read: &'a [u8],
    /// Everything before this is forwarded as it came, while nothing was copied.
    whole_until: usize,
    copied: Option<Vec<u8>>,
}

// === impl StreamRelay ===

impl StreamRelay {
    /// A relay for one stream of a request that asks for `choices` choices.
    pub fn new(choices: u32, usage_chunk: UsageChunk) -> Self {
        Self {
            splitter: Splitter::default(),
            tally: Tally::new(choices),
            usage_chunk,
            held: Vec::new(),
            passing: false,
            awaits_line_feed: None,
        }
    }

    /// Takes what one read returned, and gives what must be written now; it may be empty.
    pub fn on_bytes(&mut self, read: Bytes) -> Bytes {
        if self.usage_chunk == UsageChunk::Shown {
            let tally = &mut self.tally;
            self.splitter.push(&read, |frame| {
                tally.on_payload(frame.payload);
            });
            return read;
        }
        let outgoing = self.clean(&read);
        let end = outgoing.whole_until;
        outgoing
            .copied
            .map_or_else(|| read.slice(..end), Bytes::from)
    }

    /// Whether any generated text came so far: the moment of the first token.
    pub fn first_content_seen(&self) -> bool {
        self.tally.first_content_seen()
    }

    /// The first error that came as a frame so far.
    pub fn in_band_error(&self) -> Option<&InBandError> {
        self.tally.error()
    }

    /// Ends the stream after the provider closed it. The bytes are the last to be written.
    pub fn finish(self) -> (Bytes, StreamOutcome) {
        let broke_off = ErrorBody::new(
            ErrorCode::UpstreamFailed,
            "the upstream ended the stream before the answer was complete; try again",
        );
        self.abort(&broke_off)
    }

    /// Ends the stream after reading from the provider failed. The bytes are the last to be
    /// written: `error` as a frame, unless the answer is complete or has told an error of its own.
    pub fn abort(mut self, error: &ErrorBody) -> (Bytes, StreamOutcome) {
        let mut tail = Vec::new();
        // Whether the client has the beginning of a frame without its end.
        let mut cut = match self.usage_chunk {
            UsageChunk::Shown => !self.splitter.at_boundary(),
            UsageChunk::Hidden => self.passing,
        };
        let mut kind = None;
        let tally = &mut self.tally;
        self.splitter
            .finish(|frame| kind = Some(tally.on_payload(frame.payload)));
        if !self.held.is_empty() && kind != Some(Kind::UsageChunk) {
            tail.append(&mut self.held);
            cut = true;
        }
        let outcome = self.tally.into_outcome();
        let last = match outcome.end() {
            StreamEnd::Complete if !outcome.saw_done => Bytes::from_static(DONE_FRAME),
            StreamEnd::Truncated => error.to_stream_frame(),
            StreamEnd::Complete | StreamEnd::Failed => Bytes::new(),
        };
        if cut {
            tail.extend_from_slice(FRAME_END);
        }
        tail.extend_from_slice(&last);
        (Bytes::from(tail), outcome)
    }

    fn clean<'a>(&mut self, read: &'a [u8]) -> Outgoing<'a> {
        let mut out = Outgoing::new(read);
        let mut start = self.line_feed(&mut out);
        let Self {
            splitter,
            tally,
            held,
            passing,
            awaits_line_feed,
            ..
        } = self;
        let mut fate = None;
        splitter.push(read, |frame| {
            let kind = tally.on_payload(frame.payload);
            let rest = start..frame.end;
            fate = Some(if kind == Kind::UsageChunk && !*passing {
                held.extend_from_slice(&read[rest]);
                out.forward_copy(&held[..leading_comments(held)]);
                Fate::Dropped
            } else {
                out.forward_copy(held);
                out.forward(rest);
                Fate::Forwarded
            });
            held.clear();
            *passing = false;
            start = frame.end;
        });
        if read.ends_with(b"\r") && start == read.len() && fate.is_some() {
            *awaits_line_feed = fate;
        }
        self.begin_frame(start, &mut out);
        out
    }

    /// A `\n` whose `\r` ended the frame before it shares that frame's fate.
    fn line_feed(&mut self, out: &mut Outgoing<'_>) -> usize {
        let Some(first) = out.read.first() else {
            return 0;
        };
        match self.awaits_line_feed.take() {
            Some(Fate::Forwarded) if *first == b'\n' => {
                out.forward(0..1);
                1
            }
            Some(Fate::Dropped) if *first == b'\n' => 1,
            _ => 0,
        }
    }

    /// Forwards the beginning of a frame that the read cut, or holds it.
    fn begin_frame(&mut self, start: usize, out: &mut Outgoing<'_>) {
        let rest = start..out.read.len();
        if rest.is_empty() {
            return;
        }
        if self.passing {
            out.forward(rest);
            return;
        }
        self.held.extend_from_slice(&out.read[rest.clone()]);
        let comments = leading_comments(&self.held);
        let frame = &self.held[comments..];
        if frame.len() <= HELD_BYTES_MAX && may_be_dropped(frame) {
            out.forward_copy(&self.held[..comments]);
            self.held.drain(..comments);
            return;
        }
        let earlier = self.held.len() - rest.len();
        out.forward_copy(&self.held[..earlier]);
        out.forward(rest);
        self.held.clear();
        self.passing = true;
    }
}

// === impl Outgoing ===

impl<'a> Outgoing<'a> {
    fn new(read: &'a [u8]) -> Self {
        Self {
            read,
            whole_until: 0,
            copied: None,
        }
    }

    fn forward(&mut self, range: std::ops::Range<usize>) {
        if self.copied.is_none() && range.start == self.whole_until {
            self.whole_until = range.end;
            return;
        }
        let bytes = &self.read[range];
        self.copy().extend_from_slice(bytes);
    }

    fn forward_copy(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.copy().extend_from_slice(bytes);
        }
    }

    fn copy(&mut self) -> &mut Vec<u8> {
        let whole = &self.read[..self.whole_until];
        self.copied.get_or_insert_with(|| whole.to_vec())
    }
}

// === free functions ===

/// Whether a frame that begins like this can still be the usage chunk.
fn may_be_dropped(frame: &[u8]) -> bool {
    let mut rest = frame;
    loop {
        let line_end = memchr::memchr2(b'\n', b'\r', rest);
        let line = &rest[..line_end.unwrap_or(rest.len())];
        if let Some(payload) = line.strip_prefix(b"data:") {
            return probe::may_become_usage_chunk(payload);
        }
        match line_end {
            Some(end) => rest = &rest[end + 1..],
            None => return true,
        }
    }
}

/// The length of the whole comment lines at the beginning of a frame. A comment is nobody's data
/// and is never dropped.
fn leading_comments(frame: &[u8]) -> usize {
    // The line feed of a comment's end that came with the next read.
    let mut at = usize::from(frame.first() == Some(&b'\n'));
    while frame.get(at) == Some(&b':') {
        let Some(length) = memchr::memchr2(b'\n', b'\r', &frame[at..]) else {
            break;
        };
        let line_end = at + length;
        let pair = frame[line_end..].starts_with(b"\r\n");
        at = line_end + 1 + usize::from(pair);
    }
    at
}

#[cfg(test)]
#[path = "relay/relay_test.rs"]
mod tests;
