//! How records are laid out in a spool: a head of fixed length, a trail behind its length, then the dimensions.
//!
//! Version 1, which has no trail, is read as well: it stands in the spools of nodes that were updated. The order of the
//! heads' fields is the same in both and is frozen; the test of golden bytes holds it. What is a `bool` outside is a bit
//! of `flags` here.

use serde::{Deserialize, Serialize};

use mode_envoy_model::usage::counters::{COUNTERS, Counters};
use mode_envoy_storage::codec::{self, CodecError};

use super::trail::{AskedOut, StoryOut};
use super::{CallId, Closed, Dims, Opened, RecordFault, Story, Trail, UsageSource};

/// Kind of a record that opens an attempt.
pub const OPEN: u8 = 1;
/// Kind of a record that ends an attempt, or refuses a call.
pub const CLOSE: u8 = 2;
/// Kind of a record that repeats a long-lived Open nearer to the tail, so that what is before it can be trimmed.
pub const CARRY: u8 = 3;
/// Kind of a record that adds up calls which the spool had no room for one by one.
pub(crate) const TOTAL: u8 = 4;
/// Version of all of them but sums.
pub(crate) const VERSION: u8 = 2;
/// The version before, without trails, which sums do not have.
pub(crate) const BARE: u8 = 1;
/// Why a call is presumed to have ended, as its story says.
const PRESUMED_REASON: &str = "node_died";
/// No record is longer, in bytes: nine dimensions of at most 256 bytes, a head and a trail of bounded texts.
pub(crate) const RECORD_MAX: usize = 4_096;

const OPEN_HEAD: usize = 16 + 1 + 2 * 8;
const CLOSE_HEAD: usize = 16 + 1 + 2 * 2 + 11 * 8;
const TOTAL_HEAD: usize = 4 + 1 + COUNTERS * 8;
/// Bytes of a trail's length.
const TRAIL_LEN: usize = 2;

const ANSWERED: u16 = 1;
const REJECTED: u16 = 1 << 1;
const CUT: u16 = 1 << 2;
const PRICED: u16 = 1 << 3;
const REPORTED: u16 = 1 << 4;
const ESTIMATED: u16 = 1 << 5;
const TTFT: u16 = 1 << 6;
const PRESUMED: u16 = 1 << 7;

/// The fixed part of an Open or a Carry.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct OpenHead {
    pub(crate) call: CallId,
    pub(crate) attempt: u8,
    pub(crate) reserved_input: u64,
    pub(crate) bytes_in: u64,
}

/// The fixed part of a Close. The order of fields is the format.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct CloseHead {
    pub(crate) call: CallId,
    pub(crate) attempt: u8,
    flags: u16,
    pub(crate) status: u16,
    pub(crate) input_uncached: u64,
    pub(crate) cache_read: u64,
    pub(crate) cache_write: u64,
    pub(crate) output: u64,
    pub(crate) reasoning: u64,
    pub(crate) nano_usd: u64,
    pub(crate) price_version: u64,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    pub(crate) latency_us: u64,
    ttft_us: u64,
}

/// The fixed part of a Total. The order of fields and of counters is the format.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct TotalHead {
    pub(crate) minute: u32,
    pub(crate) status_class: u8,
    counters: [u64; COUNTERS],
}

/// A record as it is read back; the dimensions stay encoded until somebody needs them.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Record<'a> {
    /// An Open, or a Carry that repeats it.
    Open(OpenHead, EncodedDims<'a>),
    /// A Close.
    Close(CloseHead, EncodedDims<'a>),
    /// Calls, added up.
    Total(TotalHead, EncodedDims<'a>),
}

/// A payload, taken apart.
struct Parts<'a> {
    head: &'a [u8],
    trail: Option<&'a [u8]>,
    dims: EncodedDims<'a>,
}

/// The dimensions of a record, encoded: equal bytes mean equal dimensions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EncodedDims<'a>(pub(crate) &'a [u8]);

// === impl Opened ===

impl Opened<'_> {
    pub(crate) fn encode_into(&self, out: &mut [u8]) -> Result<usize, CodecError> {
        let head = OpenHead {
            call: self.call,
            attempt: self.attempt,
            reserved_input: self.reserved_input,
            bytes_in: self.bytes_in,
        };
        encode(&head, &self.asked.out(), self.dims, out)
    }
}

// === impl Closed ===

impl Closed<'_> {
    pub(crate) fn encode_into(&self, out: &mut [u8]) -> Result<usize, CodecError> {
        let trail: (AskedOut<'_>, StoryOut<'_>) = (self.asked.out(), self.story.out());
        encode(&self.head(), &trail, self.dims, out)
    }

    fn head(&self) -> CloseHead {
        let flags = flag(self.answered, ANSWERED)
            | flag(self.rejected, REJECTED)
            | flag(self.cut, CUT)
            | flag(self.priced, PRICED)
            | flag(self.usage_source == UsageSource::Reported, REPORTED)
            | flag(self.usage_source == UsageSource::Estimated, ESTIMATED)
            | flag(self.ttft_us.is_some(), TTFT);
        CloseHead {
            call: self.call,
            attempt: self.attempt,
            flags,
            status: self.status,
            input_uncached: self.input_uncached,
            cache_read: self.cache_read,
            cache_write: self.cache_write,
            output: self.output,
            reasoning: self.reasoning,
            nano_usd: self.nano_usd,
            price_version: self.price_version,
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
            latency_us: self.latency_us,
            ttft_us: self.ttft_us.unwrap_or(0),
        }
    }
}

// === impl CloseHead ===

impl CloseHead {
    /// What is presumed of an attempt whose node died: it failed, and took what it had reserved.
    pub(crate) fn presumed(open: &OpenHead, answered: bool) -> Self {
        Self {
            call: open.call,
            attempt: open.attempt,
            flags: PRESUMED | flag(answered, ANSWERED),
            status: 500,
            input_uncached: open.reserved_input,
            cache_read: 0,
            cache_write: 0,
            output: 0,
            reasoning: 0,
            nano_usd: 0,
            price_version: 0,
            bytes_in: open.bytes_in,
            bytes_out: 0,
            latency_us: 0,
            ttft_us: 0,
        }
    }

    /// Appends trail and dimensions of an Open as they were read; returns the version of what was written, and its
    /// length.
    pub(crate) fn encode_with(
        &self,
        trail: Option<&[u8]>,
        dims: EncodedDims<'_>,
        out: &mut [u8],
    ) -> Result<(u8, usize), CodecError> {
        let mut at = codec::encode_into(self, out)?;
        let version = match trail {
            None => BARE,
            Some(asked) => {
                let start = at + TRAIL_LEN;
                let story = start + copy(asked, out, start)?;
                let told = Story {
                    reason: PRESUMED_REASON,
                    ..Story::default()
                };
                let rest = out.get_mut(story..).unwrap_or_default();
                let end = story + codec::encode_into(&told.out(), rest)?;
                copy(&trail_len(end - start), out, at)?;
                at = end;
                VERSION
            }
        };
        Ok((version, at + copy(dims.0, out, at)?))
    }

    pub(crate) const fn answered(&self) -> bool {
        self.flags & ANSWERED != 0
    }

    pub(crate) const fn rejected(&self) -> bool {
        self.flags & REJECTED != 0
    }

    pub(crate) const fn cut(&self) -> bool {
        self.flags & CUT != 0
    }

    pub(crate) const fn presumed_one(&self) -> bool {
        self.flags & PRESUMED != 0
    }

    pub(crate) const fn priced(&self) -> bool {
        self.flags & PRICED != 0
    }

    pub(crate) const fn estimated(&self) -> bool {
        self.flags & ESTIMATED != 0
    }

    pub(crate) const fn usage_source(&self) -> UsageSource {
        if self.flags & REPORTED != 0 {
            UsageSource::Reported
        } else if self.estimated() {
            UsageSource::Estimated
        } else {
            UsageSource::None
        }
    }

    pub(crate) const fn ttft_us(&self) -> Option<u64> {
        if self.flags & TTFT != 0 {
            Some(self.ttft_us)
        } else {
            None
        }
    }

    /// The first digit of the status, held to 1 to 5.
    pub(crate) fn status_class(&self) -> u8 {
        u8::try_from(self.status / 100).unwrap_or(5).clamp(1, 5)
    }
}

// === impl TotalHead ===

impl TotalHead {
    pub(crate) const fn new(minute: u32, status_class: u8, sum: &Counters) -> Self {
        Self {
            minute,
            status_class,
            counters: sum.values(),
        }
    }

    pub(crate) const fn counters(&self) -> Counters {
        Counters::of(self.counters)
    }

    /// Appends dimensions that are encoded already.
    pub(crate) fn encode_with(&self, dims: &[u8], out: &mut [u8]) -> Result<usize, CodecError> {
        let at = codec::encode_into(self, out)?;
        Ok(at + copy(dims, out, at)?)
    }
}

// === impl Dims ===

impl Dims {
    pub(crate) fn encode_into(&self, out: &mut [u8]) -> Result<usize, CodecError> {
        codec::encode_into(self, out)
    }
}

// === impl EncodedDims ===

impl EncodedDims<'_> {
    pub(crate) fn decode(self) -> Result<Dims, RecordFault> {
        codec::decode(self.0).map_err(|source| RecordFault::Undecodable {
            kind: CLOSE,
            source,
        })
    }
}

// === impl Record ===

impl<'a> Record<'a> {
    /// Understands a payload of the spool.
    pub(crate) fn parse(kind: u8, version: u8, payload: &'a [u8]) -> Result<Self, RecordFault> {
        let parts = Parts::of(kind, version, payload)?;
        let fault = |source| RecordFault::Undecodable { kind, source };
        Ok(match kind {
            CLOSE => Self::Close(codec::decode(parts.head).map_err(fault)?, parts.dims),
            TOTAL => Self::Total(codec::decode(parts.head).map_err(fault)?, parts.dims),
            _ => Self::Open(codec::decode(parts.head).map_err(fault)?, parts.dims),
        })
    }

    /// The encoded trail of a payload that was understood; `None` where its version has none.
    pub(crate) fn trail_of(
        kind: u8,
        version: u8,
        payload: &'a [u8],
    ) -> Result<Option<&'a [u8]>, RecordFault> {
        Parts::of(kind, version, payload).map(|parts| parts.trail)
    }
}

// === impl Trail ===

impl Trail {
    /// The trail of a Close.
    pub(crate) fn decode(encoded: &[u8]) -> Result<Self, RecordFault> {
        codec::decode(encoded).map_err(|source| RecordFault::Undecodable {
            kind: CLOSE,
            source,
        })
    }
}

// === impl Parts ===

impl<'a> Parts<'a> {
    fn of(kind: u8, version: u8, payload: &'a [u8]) -> Result<Self, RecordFault> {
        let head_len = match (kind, version) {
            (OPEN | CARRY, BARE | VERSION) => OPEN_HEAD,
            (CLOSE, BARE | VERSION) => CLOSE_HEAD,
            (TOTAL, BARE) => TOTAL_HEAD,
            _ => return Err(RecordFault::Unknown { kind, version }),
        };
        let short = || RecordFault::Short {
            kind,
            len: payload.len(),
        };
        let (head, rest) = payload.split_at_checked(head_len).ok_or_else(short)?;
        if version == BARE {
            let dims = EncodedDims(rest);
            let trail = None;
            return Ok(Self { head, trail, dims });
        }
        let (len, rest) = rest.split_first_chunk::<TRAIL_LEN>().ok_or_else(short)?;
        let len = usize::from(u16::from_le_bytes(*len));
        let (trail, rest) = rest.split_at_checked(len).ok_or_else(short)?;
        Ok(Self {
            head,
            trail: Some(trail),
            dims: EncodedDims(rest),
        })
    }
}

fn encode<H: Serialize, T: Serialize>(
    head: &H,
    trail: &T,
    dims: &Dims,
    out: &mut [u8],
) -> Result<usize, CodecError> {
    let at = codec::encode_into(head, out)?;
    let start = at + TRAIL_LEN;
    let end = start + codec::encode_into(trail, out.get_mut(start..).unwrap_or_default())?;
    copy(&trail_len(end - start), out, at)?;
    let rest = out.get_mut(end..).unwrap_or_default();
    Ok(end + codec::encode_into(dims, rest)?)
}

/// Its texts are bounded, so a trail's length fits.
fn trail_len(len: usize) -> [u8; TRAIL_LEN] {
    u16::try_from(len).unwrap_or(u16::MAX).to_le_bytes()
}

fn copy(bytes: &[u8], out: &mut [u8], at: usize) -> Result<usize, CodecError> {
    let room = out.len();
    match out.get_mut(at..at.saturating_add(bytes.len())) {
        Some(place) => {
            place.copy_from_slice(bytes);
            Ok(bytes.len())
        }
        None => Err(CodecError::NoRoom {
            ty: "a record",
            room,
        }),
    }
}

const fn flag(on: bool, bit: u16) -> u16 {
    if on { bit } else { 0 }
}

#[cfg(test)]
mod tests {
    use mode_envoy_model::object::Name;

    use super::super::{Asked, Try};
    use super::*;

    fn dims() -> Dims {
        Dims {
            tenant: Name::from("acme"),
            model: Name::from("fast"),
            ..Dims::empty()
        }
    }

    fn closed(dims: &Dims) -> Closed<'_> {
        Closed {
            status: 429,
            cut: true,
            usage_source: UsageSource::Estimated,
            input_uncached: 3,
            output: 7,
            nano_usd: 9,
            priced: true,
            price_version: 4,
            latency_us: 1_000,
            ttft_us: Some(250),
            ..Closed::of(CallId([7; 16]), 2, dims)
        }
    }

    #[test]
    fn a_close_reads_back_as_it_was_written() {
        let (dims, mut out) = (dims(), [0; RECORD_MAX]);
        let len = closed(&dims).encode_into(&mut out).unwrap();
        let Record::Close(head, encoded) = Record::parse(CLOSE, VERSION, &out[..len]).unwrap()
        else {
            panic!("not a close");
        };
        assert_eq!(head, closed(&dims).head());
        assert_eq!(encoded.decode().unwrap(), dims);
        assert_eq!(head.status_class(), 4);
        assert_eq!(head.ttft_us(), Some(250));
        assert!(head.cut() && head.estimated() && head.priced() && head.answered());
        assert!(!head.rejected() && !head.presumed_one());
    }

    fn asked() -> Asked<'static> {
        Asked {
            started_ms: 1_700_000_000_000,
            revision: 12,
            request_id: "order-17",
            method: "POST",
            path: "/v1/chat/completions",
        }
    }

    fn opened(dims: &Dims) -> Opened<'_> {
        Opened {
            call: CallId([1; 16]),
            attempt: 0,
            dims,
            asked: asked(),
            reserved_input: 40,
            bytes_in: 160,
        }
    }

    fn tried(number: u16, endpoint: &str, status: u16, outcome: &'static str) -> Try {
        Try {
            number,
            endpoint: Some(endpoint.into()),
            status,
            outcome,
            latency_us: 900,
        }
    }

    fn read_trail(version: u8, payload: &[u8]) -> Trail {
        let encoded = Record::trail_of(CLOSE, version, payload).unwrap();
        Trail::decode(encoded.unwrap()).unwrap()
    }

    #[test]
    fn an_open_reads_back_and_a_presumed_close_takes_what_it_reserved() {
        let (dims, mut out) = (dims(), [0; RECORD_MAX]);
        let len = opened(&dims).encode_into(&mut out).unwrap();
        let payload = &out[..len];
        let Record::Open(head, encoded) = Record::parse(OPEN, VERSION, payload).unwrap() else {
            panic!("not an open");
        };
        let trail = Record::trail_of(OPEN, VERSION, payload).unwrap();
        let mut again = [0; RECORD_MAX];
        let (version, len) = CloseHead::presumed(&head, true)
            .encode_with(trail, encoded, &mut again)
            .unwrap();
        let Record::Close(close, encoded) = Record::parse(CLOSE, version, &again[..len]).unwrap()
        else {
            panic!("not a close");
        };
        assert_eq!(encoded.decode().unwrap(), dims);
        assert_eq!(
            (close.input_uncached, close.bytes_in, close.output),
            (40, 160, 0)
        );
        assert!(close.presumed_one() && close.answered());
        assert_eq!(close.status_class(), 5);
        let trail = read_trail(version, &again[..len]);
        assert_eq!((&*trail.path, trail.revision), ("/v1/chat/completions", 12));
        assert_eq!(
            (&*trail.reason, &*trail.request_id),
            (PRESUMED_REASON, "order-17")
        );
    }

    #[test]
    fn a_close_tells_its_story() {
        let (dims, mut out) = (dims(), [0; RECORD_MAX]);
        let earlier = [tried(1, "http://a:1", 0, "no_connection")];
        let last = tried(2, "http://b:1", 503, "answered");
        let close = Closed {
            asked: asked(),
            story: Story {
                error: "upstream_failed",
                reason: "provider_status",
                earlier: &earlier,
                last: Some(&last),
            },
            ..closed(&dims)
        };
        let len = close.encode_into(&mut out).unwrap();
        let trail = read_trail(VERSION, &out[..len]);
        assert_eq!(
            (&*trail.error, &*trail.reason),
            ("upstream_failed", "provider_status")
        );
        let told: Vec<_> = trail
            .attempts
            .iter()
            .map(|t| (t.number, &*t.endpoint, t.status, &*t.outcome, t.latency_us))
            .collect();
        assert_eq!(
            told,
            [
                (1, "http://a:1", 0, "no_connection", 900),
                (2, "http://b:1", 503, "answered", 900)
            ]
        );
    }

    #[test]
    fn the_longest_record_fits_its_room() {
        let long = "é".repeat(300);
        let name = || Name::from("n".repeat(256));
        let dims = Dims {
            tenant: name(),
            team: name(),
            consumer: name(),
            key: name(),
            route: name(),
            api: name(),
            model: name(),
            provider: name(),
            upstream_model: name(),
        };
        let earlier: Vec<_> = (1..9)
            .map(|n| tried(n, &long, 0, "first_byte_timeout"))
            .collect();
        let close = Closed {
            asked: Asked {
                request_id: &long,
                method: &long,
                path: &long,
                ..asked()
            },
            story: Story {
                error: "auth_dependency_unavailable",
                reason: "provider_error_in_answer",
                earlier: &earlier,
                last: earlier.last(),
            },
            ..closed(&dims)
        };
        let mut out = [0; RECORD_MAX];
        let len = close.encode_into(&mut out).unwrap();
        let trail = read_trail(VERSION, &out[..len]);
        assert_eq!((trail.path.len(), trail.attempts.len()), (256, 4));
    }

    /// Version 1 is version 2 without the trail.
    fn golden_of_version_1() -> Vec<u8> {
        let mut golden = vec![7; 16];
        golden.push(2);
        golden.extend(0b110_1101_u16.to_le_bytes());
        golden.extend(429_u16.to_le_bytes());
        for word in [3_u64, 0, 0, 7, 0, 9, 4, 0, 0, 1_000, 250] {
            golden.extend(word.to_le_bytes());
        }
        golden.extend(golden_dims());
        golden
    }

    fn golden_dims() -> Vec<u8> {
        let texts = ["acme", "", "", "", "", "", "fast", "", ""];
        texts.into_iter().flat_map(golden_text).collect()
    }

    fn golden_text(text: &str) -> Vec<u8> {
        let mut out = (text.len() as u64).to_le_bytes().to_vec();
        out.extend(text.as_bytes());
        out
    }

    #[test]
    fn a_record_of_version_1_is_read_as_it_was_shipped() {
        let golden = golden_of_version_1();
        let Record::Close(head, encoded) = Record::parse(CLOSE, BARE, &golden).unwrap() else {
            panic!("not a close");
        };
        assert_eq!(head, closed(&dims()).head());
        assert_eq!(encoded.decode().unwrap(), dims());
        assert_eq!(Record::trail_of(CLOSE, BARE, &golden).unwrap(), None);
        let open = OpenHead {
            call: CallId([1; 16]),
            attempt: 0,
            reserved_input: 4,
            bytes_in: 5,
        };
        let mut out = [0; RECORD_MAX];
        let presumed = CloseHead::presumed(&open, true).encode_with(None, encoded, &mut out);
        let (version, len) = presumed.unwrap();
        assert_eq!(version, BARE);
        assert!(Record::parse(CLOSE, version, &out[..len]).is_ok());
    }

    #[test]
    fn the_bytes_of_version_2_stay_as_they_were_shipped() {
        let (dims, mut out) = (dims(), [0; RECORD_MAX]);
        let last = tried(1, "http://a:1", 200, "answered");
        let close = Closed {
            asked: asked(),
            story: Story {
                error: "limited",
                reason: "limit",
                earlier: &[],
                last: Some(&last),
            },
            ..closed(&dims)
        };
        let len = close.encode_into(&mut out).unwrap();
        let mut trail = Vec::new();
        trail.extend(1_700_000_000_000_u64.to_le_bytes());
        trail.extend(12_u64.to_le_bytes());
        for text in [
            "order-17",
            "POST",
            "/v1/chat/completions",
            "limited",
            "limit",
        ] {
            trail.extend(golden_text(text));
        }
        trail.extend(1_u64.to_le_bytes());
        trail.extend(1_u16.to_le_bytes());
        trail.extend(golden_text("http://a:1"));
        trail.extend(200_u16.to_le_bytes());
        trail.extend(golden_text("answered"));
        trail.extend(900_u64.to_le_bytes());
        let bare = golden_of_version_1();
        let (head, dims) = bare.split_at(CLOSE_HEAD);
        let mut golden = head.to_vec();
        golden.extend(u16::try_from(trail.len()).unwrap().to_le_bytes());
        golden.extend(trail);
        golden.extend(dims);
        assert_eq!(&out[..len], golden);
    }

    #[test]
    fn the_bytes_of_a_total_stay_as_they_were_shipped() {
        let mut sum = Counters::default();
        let mut golden = Vec::from(7_u32.to_le_bytes());
        golden.push(2);
        for (at, field) in (1_u64..).zip([
            &mut sum.calls,
            &mut sum.errors,
            &mut sum.rejected,
            &mut sum.estimated,
            &mut sum.presumed,
            &mut sum.attempts,
            &mut sum.input_uncached,
            &mut sum.cache_read,
            &mut sum.cache_write,
            &mut sum.output,
            &mut sum.reasoning,
            &mut sum.nano_usd,
            &mut sum.unpriced,
            &mut sum.bytes_in,
            &mut sum.bytes_out,
        ]) {
            *field = at;
            golden.extend(at.to_le_bytes());
        }
        golden.extend(b"dims");
        let (head, mut out) = (TotalHead::new(7, 2, &sum), [0; RECORD_MAX]);
        let len = head.encode_with(b"dims", &mut out).unwrap();
        assert_eq!(&out[..len], golden);
        let Ok(Record::Total(read, dims)) = Record::parse(TOTAL, BARE, &out[..len]) else {
            panic!("not a total");
        };
        assert_eq!((read.counters(), dims.0), (sum, &b"dims"[..]));
    }

    #[test]
    fn an_unknown_kind_or_version_is_a_fault_and_so_is_a_short_record() {
        let fault = |kind, version, payload: &[u8]| Record::parse(kind, version, payload).err();
        let unknown = |fault| matches!(fault, Some(RecordFault::Unknown { .. }));
        let short = |fault| matches!(fault, Some(RecordFault::Short { .. }));
        assert!(unknown(fault(9, VERSION, &[])));
        assert!(unknown(fault(OPEN, 3, &[])));
        assert!(short(fault(OPEN, VERSION, &[0; 5])));
        assert!(short(fault(OPEN, VERSION, &[0; OPEN_HEAD + 1])));
        let mut long_trail = [0; OPEN_HEAD + 10];
        long_trail[OPEN_HEAD] = 200;
        assert!(short(fault(OPEN, VERSION, &long_trail)));
    }

    #[test]
    fn a_buffer_that_is_too_small_is_an_error_and_not_a_torn_record() {
        let dims = dims();
        assert!(closed(&dims).encode_into(&mut [0; 40]).is_err());
        assert!(closed(&dims).encode_into(&mut [0; CLOSE_HEAD]).is_err());
        assert!(
            closed(&dims)
                .encode_into(&mut [0; CLOSE_HEAD + 30])
                .is_err()
        );
    }
}
