//! One record: what a Close says, as the call log keeps it and others read it.
//!
//! It is written as `CallRecord` of `peer/v1/calls.proto`, from texts that stay where they are: every call passes here,
//! and hardly one is ever asked for. The test holds the bytes against those that the generated type writes.

use prost::encoding::{WireType, encode_key, encode_varint};

use crate::usage::record::{CloseHead, DimsRef, RefusedBy, Trail, TriedOnce, UsageSource};

/// Bytes of a hash that are kept.
const HASH_BYTES: usize = 8;
/// Hexadecimal digits of a call id.
const ID_DIGITS: usize = 32;

/// What is kept of a call.
#[derive(Debug)]
pub(super) struct Kept<'a> {
    pub(super) node: u64,
    /// When its Close was written.
    pub(super) wall_ms: u64,
    pub(super) head: &'a CloseHead,
    pub(super) dims: DimsRef<'a>,
    pub(super) trail: Trail<'a>,
}

/// What a record may be looked up by: one to three words.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hashes {
    words: [u64; 3],
    count: usize,
}

// === impl Kept ===

impl Kept<'_> {
    /// When the call began.
    pub(super) fn start_ms(&self) -> u64 {
        match self.trail.started_ms {
            // A record of a release that kept no trails.
            0 => self.wall_ms.saturating_sub(self.head.latency_us / 1_000),
            started_ms => started_ms,
        }
    }

    /// Appends the record's bytes.
    pub(super) fn encode_into(&self, out: &mut Vec<u8>) {
        let (head, dims, trail) = (self.head, &self.dims, &self.trail);
        bytes(out, 1, &head.call.0);
        text(out, 2, trail.request_id);
        number(out, 3, self.node);
        number(out, 4, self.start_ms());
        let texts = [
            dims.tenant,
            dims.team,
            dims.consumer,
            dims.key,
            dims.route,
            dims.api,
            dims.model,
            dims.provider,
            dims.upstream_model,
            trail.method,
            trail.path,
        ];
        for (tag, value) in (5..).zip(texts) {
            text(out, tag, value);
        }
        number(out, 16, head.status.into());
        let mut inner = Vec::new();
        for tried in &trail.attempts {
            inner.clear();
            attempt(&mut inner, tried, dims.provider);
            bytes(out, 17, &inner);
        }
        number(out, 18, head.latency_us);
        if let Some(ttft_us) = head.ttft_us() {
            always(out, 19, ttft_us);
        }
        let counts = [
            head.input_uncached,
            head.cache_read,
            head.cache_write,
            head.output,
            head.reasoning,
        ];
        for (tag, value) in (20..).zip(counts) {
            number(out, tag, value);
        }
        text(out, 25, source(head.usage_source()));
        number(out, 26, head.nano_usd);
        number(out, 27, head.priced().into());
        number(out, 28, head.bytes_in);
        number(out, 29, head.bytes_out);
        text(out, 30, trail.error);
        text(out, 31, trail.reason);
        number(out, 32, trail.revision);
        number(out, 33, head.rejected().into());
        number(out, 34, head.presumed_one().into());
        number(out, 35, head.cut().into());
        if let Some(refused) = &trail.refused {
            inner.clear();
            refusal(&mut inner, refused);
            bytes(out, 36, &inner);
        }
    }

    /// What it may be looked up by.
    pub(super) fn hashes(&self) -> Hashes {
        let mut digits = [0; ID_DIGITS];
        for (pair, byte) in digits.chunks_exact_mut(2).zip(self.head.call.0) {
            pair.copy_from_slice(&[digit(byte >> 4), digit(byte & 0xf)]);
        }
        let mut hashes = Hashes {
            words: [hash("id:", &digits), 0, 0],
            count: 1,
        };
        if !self.trail.request_id.is_empty() {
            hashes.push(hash_of_id(self.trail.request_id));
        }
        if !self.dims.key.is_empty() {
            hashes.push(hash_of_key(self.dims.key));
        }
        hashes
    }
}

// === impl Hashes ===

impl Hashes {
    pub(super) fn as_slice(&self) -> &[u64] {
        self.words.get(..self.count).unwrap_or(&self.words)
    }

    fn push(&mut self, word: u64) {
        if let Some(place) = self.words.get_mut(self.count) {
            *place = word;
            self.count += 1;
        }
    }
}

/// Of a request id, or of a call id in hex.
pub(super) fn hash_of_id(id: &str) -> u64 {
    hash("id:", id.as_bytes())
}

/// Of a key's name.
pub(super) fn hash_of_key(key: &str) -> u64 {
    hash("key:", key.as_bytes())
}

fn attempt(out: &mut Vec<u8>, tried: &TriedOnce<'_>, provider: &str) {
    number(out, 1, tried.number.into());
    text(out, 2, provider);
    text(out, 3, tried.endpoint);
    number(out, 4, tried.status.into());
    text(out, 5, tried.outcome);
    number(out, 6, tried.latency_us);
}

fn refusal(out: &mut Vec<u8>, refused: &RefusedBy<'_>) {
    text(out, 1, refused.limit);
    text(out, 2, refused.value);
    text(out, 3, refused.why);
    text(out, 4, refused.mode);
    number(out, 5, refused.need);
    number(out, 6, refused.slice);
    // As proto3 has it, a negative number is its two's complement.
    number(out, 7, refused.free.cast_unsigned());
    number(out, 8, refused.elsewhere);
    number(out, 9, refused.applied_index);
    number(out, 10, refused.window_begins_ms);
    number(out, 11, refused.window_ends_ms);
}

const fn source(source: UsageSource) -> &'static str {
    match source {
        UsageSource::Reported => "reported",
        UsageSource::Estimated => "estimated",
        UsageSource::None => "",
    }
}

/// A number is left out where it is 0, as proto3 does.
fn number(out: &mut Vec<u8>, tag: u32, value: u64) {
    if value != 0 {
        always(out, tag, value);
    }
}

fn always(out: &mut Vec<u8>, tag: u32, value: u64) {
    encode_key(tag, WireType::Varint, out);
    encode_varint(value, out);
}

/// A text is left out where it is empty, as proto3 does.
fn text(out: &mut Vec<u8>, tag: u32, value: &str) {
    if !value.is_empty() {
        bytes(out, tag, value.as_bytes());
    }
}

fn bytes(out: &mut Vec<u8>, tag: u32, value: &[u8]) {
    encode_key(tag, WireType::LengthDelimited, out);
    encode_varint(value.len() as u64, out);
    out.extend_from_slice(value);
}

const fn digit(half: u8) -> u8 {
    match half {
        0..10 => b'0' + half,
        _ => b'a' + half - 10,
    }
}

/// The same in every release: it stands in the log's filters.
fn hash(kind: &str, text: &[u8]) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(kind.as_bytes()).update(text);
    let mut word = [0; HASH_BYTES];
    hasher.finalize_xof().fill(&mut word);
    u64::from_le_bytes(word)
}

#[cfg(test)]
mod tests {
    use mode_envoy_proto::peer::v1::{CallAttempt, CallRecord};
    use prost::Message as _;

    use super::*;
    use crate::secrets::hex;
    use crate::usage::record::{
        Asked, CLOSE, CallId, Closed, Dims, RECORD_MAX, Record, Story, Try, VERSION,
    };

    #[test]
    fn hashes_are_the_same_in_every_release() {
        assert_eq!(hash_of_id("a"), 0x6d5a_1a95_ec51_5184);
        assert_ne!(hash_of_id("a"), hash_of_key("a"));
    }

    fn dims() -> Dims {
        let names = [
            "acme", "retail", "app", "k1", "chat", "", "fast", "openai", "gpt-4o",
        ];
        let [
            tenant,
            team,
            consumer,
            key,
            route,
            api,
            model,
            provider,
            upstream_model,
        ] = names.map(Into::into);
        Dims {
            tenant,
            team,
            consumer,
            key,
            route,
            api,
            model,
            provider,
            upstream_model,
        }
    }

    /// What a Close with everything in it is kept as.
    fn with_kept(test: impl FnOnce(&Kept<'_>)) {
        let (dims, mut out) = (dims(), [0; RECORD_MAX]);
        let tried = |number, status, outcome| Try {
            number,
            endpoint: Some("http://a:1".into()),
            status,
            outcome,
            latency_us: 900,
        };
        let (earlier, last) = ([tried(1, 0, "no_connection")], tried(2, 200, "answered"));
        let closed = Closed {
            asked: Asked {
                started_ms: 1_700_000_000_000,
                revision: 12,
                request_id: "order-17",
                method: "POST",
                path: "/v1/chat/completions",
            },
            story: Story {
                error: "limited",
                reason: "limit",
                earlier: &earlier,
                last: Some(&last),
                refused: None,
            },
            status: 200,
            cut: true,
            usage_source: UsageSource::Estimated,
            input_uncached: 300,
            cache_read: 1,
            cache_write: 2,
            output: 70_000,
            reasoning: 5,
            nano_usd: u64::MAX,
            priced: true,
            price_version: 4,
            bytes_in: 7,
            bytes_out: 8,
            latency_us: 1_000,
            ttft_us: Some(0),
            ..Closed::of(CallId([0xa7; 16]), 2, &dims)
        };
        let len = closed.encode_into(&mut out).unwrap();
        let Ok(Record::Close(head, encoded)) = Record::parse(CLOSE, VERSION, &out[..len]) else {
            panic!("not a close");
        };
        let trail = Record::trail_of(CLOSE, VERSION, &out[..len]).unwrap();
        test(&Kept {
            node: 3,
            wall_ms: 9,
            head: &head,
            dims: encoded.read().unwrap(),
            trail: trail.unwrap().read().unwrap(),
        });
    }

    fn expected() -> CallRecord {
        let attempt = |number, status, outcome: &str| CallAttempt {
            number,
            provider: "openai".into(),
            endpoint: "http://a:1".into(),
            status,
            outcome: outcome.into(),
            latency_us: 900,
        };
        CallRecord {
            call_id: vec![0xa7; 16],
            request_id: "order-17".into(),
            node: 3,
            start_ms: 1_700_000_000_000,
            tenant: "acme".into(),
            team: "retail".into(),
            consumer: "app".into(),
            key: "k1".into(),
            route: "chat".into(),
            api: String::new(),
            model: "fast".into(),
            provider: "openai".into(),
            upstream_model: "gpt-4o".into(),
            method: "POST".into(),
            path: "/v1/chat/completions".into(),
            status: 200,
            attempts: vec![attempt(1, 0, "no_connection"), attempt(2, 200, "answered")],
            latency_us: 1_000,
            ttft_us: Some(0),
            input_uncached_tokens: 300,
            cache_read_tokens: 1,
            cache_write_tokens: 2,
            output_tokens: 70_000,
            reasoning_tokens: 5,
            usage_source: "estimated".into(),
            nano_usd: u64::MAX,
            priced: true,
            bytes_in: 7,
            bytes_out: 8,
            error: "limited".into(),
            reason: "limit".into(),
            revision: 12,
            rejected: false,
            presumed: false,
            cut: true,
            refused: None,
        }
    }

    #[test]
    fn a_records_bytes_are_those_of_the_generated_type() {
        with_kept(|kept| {
            let mut out = Vec::new();
            kept.encode_into(&mut out);
            assert_eq!(CallRecord::decode(&*out).unwrap(), expected());
            assert_eq!(out, expected().encode_to_vec());
        });
    }

    #[test]
    fn a_record_is_found_by_its_ids_and_its_key() {
        with_kept(|kept| {
            let hashes = [
                hash_of_id(&hex(&[0xa7; 16])),
                hash_of_id("order-17"),
                hash_of_key("k1"),
            ];
            assert_eq!(kept.hashes().as_slice(), hashes);
        });
    }
}
