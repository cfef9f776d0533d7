//! What a record tells of a call beyond usage: what was asked, at which revision, and what became of it. The call log is
//! made of it.
//!
//! A trail stands between a record's head and its dimensions, behind its length. An Open has what is known then; a Close
//! repeats it and adds the story, so that each can be understood alone. The order of the fields is the format of
//! versions 2 and 3 and is frozen; the tests of golden bytes in `wire/wire_test.rs` hold it.
//!
//! Invariant: every text is cut to its bound when it is written, so a record fits its room whatever a client sent.

use std::sync::Arc;

use mode_envoy_limits::Refusal;
use serde::ser::SerializeSeq as _;
use serde::{Deserialize, Serialize, Serializer};

const REQUEST_ID_MAX: usize = 128;
const METHOD_MAX: usize = 16;
const PATH_MAX: usize = 256;
const ENDPOINT_MAX: usize = 128;
const VALUE_MAX: usize = 128;
/// Attempts told of beside the last one.
pub(crate) const EARLIER_MAX: usize = 3;

/// What is known of a call when it begins.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asked<'a> {
    /// When its head was read; Unix milliseconds.
    pub started_ms: u64,
    /// The revision of the table that it sees.
    pub revision: u64,
    /// The client's own label; empty where it gave none.
    pub request_id: &'a str,
    /// The method.
    pub method: &'a str,
    /// The path, without the query.
    pub path: &'a str,
}

/// What became of a call, beyond usage.
#[derive(Clone, Copy, Debug, Default)]
pub struct Story<'a> {
    /// The value of `x-mode-envoy-error`; empty where the gateway made no error.
    pub error: &'a str,
    /// A word for why; see `gateway/error/reason.rs`.
    pub reason: &'a str,
    /// The attempts before the last one, the first ones of them.
    pub earlier: &'a [Try],
    /// The attempt that the answer comes from, or that failed last.
    pub last: Option<&'a Try>,
    /// The limit that refused it.
    pub refused: Option<&'a Refusal>,
}

/// One attempt at an upstream.
#[derive(Clone, Debug)]
pub struct Try {
    /// Which one, from 1.
    pub number: u16,
    /// Where; `None` is in this process.
    pub endpoint: Option<Arc<str>>,
    /// What the upstream answered; 0 if it did not.
    pub status: u16,
    /// `answered`, or a word for why not.
    pub outcome: &'static str,
    /// Until the head of the answer, or the failure, in microseconds.
    pub latency_us: u64,
}

/// The limit that refused a call, and how it stood, as this node knew it.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct RefusedBy<'a> {
    pub(crate) limit: &'a str,
    /// Of a limit with `each`, whose part.
    pub(crate) value: &'a str,
    pub(crate) why: &'a str,
    pub(crate) mode: &'a str,
    pub(crate) need: u64,
    /// What this node had left.
    pub(crate) slice: u64,
    /// What nobody had; below 0 where the amount was lowered.
    pub(crate) free: i64,
    /// What other nodes held.
    pub(crate) elsewhere: u64,
    pub(crate) applied_index: u64,
    pub(crate) window_begins_ms: u64,
    /// 0 where there is no end.
    pub(crate) window_ends_ms: u64,
}

/// A trail as it is read back; its texts are where it was read from.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
pub(crate) struct Trail<'a> {
    pub(crate) started_ms: u64,
    pub(crate) revision: u64,
    pub(crate) request_id: &'a str,
    pub(crate) method: &'a str,
    pub(crate) path: &'a str,
    pub(crate) error: &'a str,
    pub(crate) reason: &'a str,
    #[serde(borrow)]
    pub(crate) attempts: Vec<TriedOnce<'a>>,
    /// Stands behind the others, from version 3 on.
    #[serde(skip)]
    pub(crate) refused: Option<RefusedBy<'a>>,
}

/// One attempt as it is read back.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
pub(crate) struct TriedOnce<'a> {
    pub(crate) number: u16,
    /// Empty is in this process.
    pub(crate) endpoint: &'a str,
    pub(crate) status: u16,
    pub(crate) outcome: &'a str,
    pub(crate) latency_us: u64,
}

/// The trail of an Open, on its way out.
#[derive(Serialize)]
pub(super) struct AskedOut<'a> {
    started_ms: u64,
    revision: u64,
    request_id: &'a str,
    method: &'a str,
    path: &'a str,
}

/// What a Close adds to it.
#[derive(Serialize)]
pub(super) struct StoryOut<'a> {
    error: &'a str,
    reason: &'a str,
    attempts: Attempts<'a>,
}

struct Attempts<'a>(&'a Story<'a>);

#[derive(Serialize)]
struct TryOut<'a> {
    number: u16,
    endpoint: &'a str,
    status: u16,
    outcome: &'a str,
    latency_us: u64,
}

// === impl Asked ===

impl<'a> Asked<'a> {
    pub(super) fn out(&self) -> AskedOut<'a> {
        AskedOut {
            started_ms: self.started_ms,
            revision: self.revision,
            request_id: cut(self.request_id, REQUEST_ID_MAX),
            method: cut(self.method, METHOD_MAX),
            path: cut(self.path, PATH_MAX),
        }
    }
}

// === impl Story ===

impl Story<'_> {
    pub(super) fn out(&self) -> StoryOut<'_> {
        StoryOut {
            error: self.error,
            reason: self.reason,
            attempts: Attempts(self),
        }
    }
}

// === impl RefusedBy ===

impl<'a> RefusedBy<'a> {
    pub(super) fn of(refusal: &'a Refusal) -> Self {
        Self {
            limit: &refusal.limit.name,
            value: cut(&refusal.pool.value, VALUE_MAX),
            why: refusal.reason.as_str(),
            mode: refusal.mode().word(),
            need: refusal.need,
            slice: refusal.slice,
            free: refusal.free,
            elsewhere: refusal.elsewhere,
            applied_index: refusal.applied_index,
            window_begins_ms: refusal.window_begins_ms,
            window_ends_ms: refusal.window_ends_ms.unwrap_or(0),
        }
    }
}

// === impl Attempts ===

impl Serialize for Attempts<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Story { earlier, last, .. } = self.0;
        let earlier = earlier.get(..EARLIER_MAX).unwrap_or(earlier);
        let count = earlier.len() + usize::from(last.is_some());
        let mut seq = serializer.serialize_seq(Some(count))?;
        for tried in earlier.iter().chain(*last) {
            seq.serialize_element(&TryOut {
                number: tried.number,
                endpoint: cut(tried.endpoint.as_deref().unwrap_or_default(), ENDPOINT_MAX),
                status: tried.status,
                outcome: tried.outcome,
                latency_us: tried.latency_us,
            })?;
        }
        seq.end()
    }
}

/// As much of a text as fits its bound.
pub(crate) fn cut(text: &str, max: usize) -> &str {
    text.get(..text.floor_char_boundary(max)).unwrap_or(text)
}

/// A path as it is kept while its call is open.
pub(crate) fn kept_path(path: &str) -> Box<str> {
    Box::from(cut(path, PATH_MAX))
}
