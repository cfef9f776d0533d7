//! Meters a plain answer: a copy of its bytes is kept while it is relayed, and read at the end.
//!
//! The copy is bounded by [`BODY_BYTES_MAX`]. A longer body is still relayed; the meter lets go of
//! its copy and the call's output is estimated from nothing but what was counted, the bytes.

use crate::openai::answer::Answer;
pub use crate::openai::answer::InBandError;
use crate::openai::usage::UnusableUsage;
use crate::usage::Usage;

/// The longest answer that is read for its usage.
pub const BODY_BYTES_MAX: usize = 32 << 20;

/// Watches the bytes of one plain answer.
#[derive(Debug, Default)]
pub struct ResponseMeter {
    copy: Vec<u8>,
    bytes: u64,
    too_long: bool,
}

/// What a plain answer said.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ResponseOutcome {
    /// The usage that the provider reported, where it can be used.
    pub usage: Option<Usage>,
    /// Why a usage that the provider reported cannot be used.
    pub unusable: Option<UnusableUsage>,
    /// An error in the body of an answer with status 200.
    pub in_band_error: Option<InBandError>,
    /// Whether every choice of the answer says why it ended, and there is one at least.
    pub saw_finish: bool,
    /// Bytes of generated text, for the estimate; of the whole body where it could not be read.
    pub output_bytes: u64,
    /// Whether the body was a JSON answer of the known shape.
    pub readable: bool,
}

// === impl ResponseMeter ===

impl ResponseMeter {
    /// A meter for one answer.
    pub fn new() -> Self {
        Self::default()
    }

    /// Watches the next bytes of the body.
    pub fn on_bytes(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        if self.too_long {
            return;
        }
        if self.copy.len() + bytes.len() > BODY_BYTES_MAX {
            self.too_long = true;
            self.copy = Vec::new();
            return;
        }
        self.copy.extend_from_slice(bytes);
    }

    /// Reads what was watched.
    pub fn finish(self) -> ResponseOutcome {
        if self.too_long {
            return unreadable(self.bytes);
        }
        scan(&self.copy)
    }
}

// === free functions ===

/// Reads a whole answer that is already in one piece.
pub fn scan(body: &[u8]) -> ResponseOutcome {
    if body.len() > BODY_BYTES_MAX {
        return unreadable(body.len() as u64);
    }
    let Some(answer) = Answer::read(body) else {
        return unreadable(body.len() as u64);
    };
    let (usage, unusable) = match answer.usage {
        Some(Ok(usage)) => (Some(usage), None),
        Some(Err(reason)) => (None, Some(reason)),
        None => (None, None),
    };
    let finished = answer.finished.count_ones() as usize;
    ResponseOutcome {
        usage,
        unusable,
        in_band_error: answer.error,
        saw_finish: answer.choices > 0 && finished >= answer.choices,
        output_bytes: answer.text_bytes,
        readable: true,
    }
}

fn unreadable(bytes: u64) -> ResponseOutcome {
    ResponseOutcome {
        output_bytes: bytes,
        ..ResponseOutcome::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &str = r#"{"id":"c","object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":"hello","refusal":null},"finish_reason":"stop","logprobs":null}],"usage":{"prompt_tokens":9,"completion_tokens":2,"total_tokens":11}}"#;

    fn metered(reads: &[&[u8]]) -> ResponseOutcome {
        let mut meter = ResponseMeter::new();
        for read in reads {
            meter.on_bytes(read);
        }
        meter.finish()
    }

    #[test]
    fn an_answer_is_read_however_it_was_cut() {
        let whole = scan(ANSWER.as_bytes());
        assert_eq!(whole.usage.map(|usage| usage.total()), Some(11));
        assert!(whole.saw_finish && whole.readable);
        assert_eq!(whole.output_bytes, 5);
        let bytewise: Vec<&[u8]> = ANSWER.as_bytes().chunks(1).collect();
        assert_eq!(metered(&bytewise), whole);
    }

    #[test]
    fn an_unusable_usage_is_named_and_the_text_is_counted() {
        let outcome = scan(ANSWER.replace(":9,", ":-9,").as_bytes());
        assert_eq!(outcome.usage, None);
        let field = "prompt_tokens";
        assert_eq!(outcome.unusable, Some(UnusableUsage::NotACount { field }));
        assert_eq!(outcome.output_bytes, 5);
    }

    #[test]
    fn an_error_with_status_200_is_seen() {
        let outcome = scan(br#"{"error":{"message":"overloaded","type":"server_error"}}"#);
        assert_eq!(outcome.in_band_error.unwrap().message, "overloaded");
        assert!(!outcome.saw_finish);
    }

    #[test]
    fn what_is_not_an_answer_counts_its_bytes() {
        let outcome = metered(&[b"<html>", b"</html>"]);
        assert!(!outcome.readable);
        assert_eq!(outcome.output_bytes, 13);
    }

    #[test]
    fn a_body_over_the_limit_is_let_go() {
        let piece = vec![b'x'; BODY_BYTES_MAX / 2 + 1];
        let mut meter = ResponseMeter::new();
        meter.on_bytes(&piece);
        meter.on_bytes(&piece);
        assert_eq!(meter.copy.capacity(), 0);
        meter.on_bytes(b"x");
        let outcome = meter.finish();
        assert_eq!(outcome.output_bytes, 2 * piece.len() as u64 + 1);
        assert!(!outcome.readable);
    }
}
