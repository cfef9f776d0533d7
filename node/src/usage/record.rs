//! What a spool holds: one Open before an upstream sees a byte of an attempt, one Close at its end.
//!
//! Both carry the dimensions of the fact, so that each can be understood alone: a Close counts without its Open,
//! and an Open whose Close never came is enough to presume one. A payload is a head of fixed length followed by
//! the dimensions; the frame around it (`storage::spool`) has the kind, the version and the wall clock.
//!
//! Invariants:
//! * a kind and version that this build does not know is a fault, never skipped: skipping would lose usage;
//! * encoding allocates nothing; decoding is bounded by the codec's limit.

use serde::{Deserialize, Serialize};

use mode_envoy_model::object::Name;
use mode_envoy_model::usage::series::SeriesKey;
use mode_envoy_storage::codec::{self, CodecError};

/// Kind of a record that opens an attempt.
pub(crate) const OPEN: u8 = 1;
/// Kind of a record that ends an attempt, or refuses a call.
pub(crate) const CLOSE: u8 = 2;
/// Kind of a record that repeats a long-lived Open nearer to the tail, so that what is before it can be trimmed.
pub(crate) const CARRY: u8 = 3;
/// Version of all of them.
pub(crate) const VERSION: u8 = 1;
/// No record is longer, in bytes: nine dimensions of at most 256 bytes, and a head.
pub(crate) const RECORD_MAX: usize = 4_096;

const OPEN_HEAD: usize = 16 + 1 + 2 * 8;
const CLOSE_HEAD: usize = 16 + 1 + 2 * 2 + 11 * 8;

const ANSWERED: u16 = 1;
const REJECTED: u16 = 1 << 1;
const CUT: u16 = 1 << 2;
const PRICED: u16 = 1 << 3;
const REPORTED: u16 = 1 << 4;
const ESTIMATED: u16 = 1 << 5;
const TTFT: u16 = 1 << 6;
const PRESUMED: u16 = 1 << 7;

/// What a client asked once; attempts belong to it. Random, minted by the gateway.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct CallId(pub [u8; 16]);

/// What a fact is about; empty where a dimension does not apply. The status class comes from the Close.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Dims {
    /// Owner.
    pub tenant: Name,
    /// Group.
    pub team: Name,
    /// Application.
    pub consumer: Name,
    /// Credential, by name.
    pub key: Name,
    /// Route.
    pub route: Name,
    /// API product; empty until there are any.
    pub api: Name,
    /// Public model name.
    pub model: Name,
    /// Provider.
    pub provider: Name,
    /// The provider's own name of the model.
    pub upstream_model: Name,
}

/// Where the token counts of a Close come from.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum UsageSource {
    /// The attempt has no tokens.
    #[default]
    None,
    /// The provider said so.
    Reported,
    /// The provider gave nothing usable: a quarter of the bytes, rounded up.
    Estimated,
}

/// An attempt begins. Written before the upstream sees a byte.
#[derive(Clone, Copy, Debug)]
pub struct Opened<'a> {
    /// The call.
    pub call: CallId,
    /// Which attempt of it, from 0.
    pub attempt: u8,
    /// What it is about.
    pub dims: &'a Dims,
    /// Input tokens to presume if the node dies before the Close.
    pub reserved_input: u64,
    /// Bytes of the request's body, as far as they are known.
    pub bytes_in: u64,
}

/// An attempt ended, or a call was refused before any attempt.
#[derive(Clone, Copy, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent facts of a call, any of which may be combined"
)]
pub struct Closed<'a> {
    /// The call.
    pub call: CallId,
    /// Which attempt of it, from 0.
    pub attempt: u8,
    /// What it is about.
    pub dims: &'a Dims,
    /// What the client was answered; 499 if it left before a head was sent.
    pub status: u16,
    /// This attempt's row carries the call: calls, errors, latency and bytes count here.
    pub answered: bool,
    /// Refused before any attempt.
    pub rejected: bool,
    /// The answer was cut short.
    pub cut: bool,
    /// Where the token counts come from.
    pub usage_source: UsageSource,
    /// Input tokens that touched no cache.
    pub input_uncached: u64,
    /// Input tokens read from the provider's cache.
    pub cache_read: u64,
    /// Input tokens written to the provider's cache.
    pub cache_write: u64,
    /// Output tokens, reasoning included.
    pub output: u64,
    /// Reasoning tokens.
    pub reasoning: u64,
    /// Cost in nano-dollars; 0 unless priced.
    pub nano_usd: u64,
    /// The price was known.
    pub priced: bool,
    /// The revision that set the price; 0 unless priced.
    pub price_version: u64,
    /// Bytes of the request's body.
    pub bytes_in: u64,
    /// Bytes of the answer's body.
    pub bytes_out: u64,
    /// From the request's head to the end of the answer, in microseconds.
    pub latency_us: u64,
    /// From the request's head to the first byte of the answer's body, in microseconds.
    pub ttft_us: Option<u64>,
}

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

/// A record as it is read back; the dimensions stay encoded until somebody needs them.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Record<'a> {
    /// An Open, or a Carry that repeats it.
    Open(OpenHead, EncodedDims<'a>),
    /// A Close.
    Close(CloseHead, EncodedDims<'a>),
}

/// The dimensions of a record, encoded: equal bytes mean equal dimensions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EncodedDims<'a>(pub(crate) &'a [u8]);

/// A record that cannot be understood.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RecordFault {
    /// Written by a newer release, or not by this program.
    #[error(
        "usage record of kind {kind} version {version} is unknown to this release; run the release that wrote it"
    )]
    Unknown {
        /// Kind.
        kind: u8,
        /// Version.
        version: u8,
    },
    /// Its bytes do not decode.
    #[error("usage record of kind {kind} does not decode")]
    Undecodable {
        /// Kind.
        kind: u8,
        /// What the codec said.
        #[source]
        source: CodecError,
    },
    /// It ends within its head.
    #[error("usage record of kind {kind} ends after {len} bytes, within its head")]
    Short {
        /// Kind.
        kind: u8,
        /// Bytes there are.
        len: usize,
    },
}

// === impl Dims ===

impl Dims {
    /// Every dimension empty.
    pub fn empty() -> Self {
        let none: Name = Name::from("");
        Self {
            tenant: Name::clone(&none),
            team: Name::clone(&none),
            consumer: Name::clone(&none),
            key: Name::clone(&none),
            route: Name::clone(&none),
            api: Name::clone(&none),
            model: Name::clone(&none),
            provider: Name::clone(&none),
            upstream_model: none,
        }
    }

    /// The series of a fact about these dimensions.
    pub(crate) fn into_series(self, status_class: u8) -> SeriesKey {
        SeriesKey {
            tenant: self.tenant,
            team: self.team,
            consumer: self.consumer,
            key: self.key,
            route: self.route,
            api: self.api,
            model: self.model,
            provider: self.provider,
            upstream_model: self.upstream_model,
            status_class,
            folded: false,
        }
    }
}

// === impl Opened ===

impl Opened<'_> {
    pub(crate) fn encode_into(&self, out: &mut [u8]) -> Result<usize, CodecError> {
        let head = OpenHead {
            call: self.call,
            attempt: self.attempt,
            reserved_input: self.reserved_input,
            bytes_in: self.bytes_in,
        };
        encode(&head, self.dims, out)
    }
}

// === impl Closed ===

impl<'a> Closed<'a> {
    /// A Close with nothing in it but what it is about; for `..` in struct literals.
    pub fn of(call: CallId, attempt: u8, dims: &'a Dims) -> Self {
        Self {
            call,
            attempt,
            dims,
            status: 0,
            answered: true,
            rejected: false,
            cut: false,
            usage_source: UsageSource::None,
            input_uncached: 0,
            cache_read: 0,
            cache_write: 0,
            output: 0,
            reasoning: 0,
            nano_usd: 0,
            priced: false,
            price_version: 0,
            bytes_in: 0,
            bytes_out: 0,
            latency_us: 0,
            ttft_us: None,
        }
    }

    pub(crate) fn encode_into(&self, out: &mut [u8]) -> Result<usize, CodecError> {
        encode(&self.head(), self.dims, out)
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

    /// Appends the encoded dimensions as they were read.
    pub(crate) fn encode_with(
        &self,
        dims: EncodedDims<'_>,
        out: &mut [u8],
    ) -> Result<usize, CodecError> {
        let at = codec::encode_into(self, out)?;
        let end = at.saturating_add(dims.0.len());
        match out.get_mut(at..end) {
            Some(rest) => {
                rest.copy_from_slice(dims.0);
                Ok(end)
            }
            None => Err(CodecError::NoRoom {
                ty: "dimensions",
                room: out.len(),
            }),
        }
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
        if version != VERSION || !matches!(kind, OPEN | CLOSE | CARRY) {
            return Err(RecordFault::Unknown { kind, version });
        }
        let head_len = if kind == CLOSE { CLOSE_HEAD } else { OPEN_HEAD };
        let Some((head, dims)) = payload.split_at_checked(head_len) else {
            return Err(RecordFault::Short {
                kind,
                len: payload.len(),
            });
        };
        let fault = |source| RecordFault::Undecodable { kind, source };
        Ok(match kind {
            CLOSE => Self::Close(codec::decode(head).map_err(fault)?, EncodedDims(dims)),
            _ => Self::Open(codec::decode(head).map_err(fault)?, EncodedDims(dims)),
        })
    }
}

fn encode<H: Serialize>(head: &H, dims: &Dims, out: &mut [u8]) -> Result<usize, CodecError> {
    let at = codec::encode_into(head, out)?;
    let rest = out.get_mut(at..).unwrap_or_default();
    Ok(at + codec::encode_into(dims, rest)?)
}

const fn flag(on: bool, bit: u16) -> u16 {
    if on { bit } else { 0 }
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn an_open_reads_back_and_a_presumed_close_takes_what_it_reserved() {
        let (dims, mut out) = (dims(), [0; RECORD_MAX]);
        let opened = Opened {
            call: CallId([1; 16]),
            attempt: 0,
            dims: &dims,
            reserved_input: 40,
            bytes_in: 160,
        };
        let len = opened.encode_into(&mut out).unwrap();
        let Record::Open(head, encoded) = Record::parse(OPEN, VERSION, &out[..len]).unwrap() else {
            panic!("not an open");
        };
        let mut again = [0; RECORD_MAX];
        let len = CloseHead::presumed(&head, true)
            .encode_with(encoded, &mut again)
            .unwrap();
        let Record::Close(close, encoded) = Record::parse(CLOSE, VERSION, &again[..len]).unwrap()
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
    }

    #[test]
    fn the_bytes_of_version_1_stay_as_they_were_shipped() {
        let (dims, mut out) = (dims(), [0; RECORD_MAX]);
        let len = closed(&dims).encode_into(&mut out).unwrap();
        let mut golden = vec![7; 16];
        golden.push(2);
        golden.extend(0b110_1101_u16.to_le_bytes());
        golden.extend(429_u16.to_le_bytes());
        for word in [3_u64, 0, 0, 7, 0, 9, 4, 0, 0, 1_000, 250] {
            golden.extend(word.to_le_bytes());
        }
        for text in ["acme", "", "", "", "", "", "fast", "", ""] {
            golden.extend((text.len() as u64).to_le_bytes());
            golden.extend(text.as_bytes());
        }
        assert_eq!(&out[..len], golden);
    }

    #[test]
    fn an_unknown_kind_or_version_is_a_fault_and_so_is_a_short_head() {
        assert!(matches!(
            Record::parse(9, VERSION, &[]),
            Err(RecordFault::Unknown { .. })
        ));
        assert!(matches!(
            Record::parse(OPEN, 2, &[]),
            Err(RecordFault::Unknown { .. })
        ));
        assert!(matches!(
            Record::parse(OPEN, VERSION, &[0; 5]),
            Err(RecordFault::Short { .. })
        ));
    }

    #[test]
    fn a_buffer_that_is_too_small_is_an_error_and_not_a_torn_record() {
        let dims = dims();
        assert!(closed(&dims).encode_into(&mut [0; 40]).is_err());
        assert!(closed(&dims).encode_into(&mut [0; CLOSE_HEAD]).is_err());
    }
}
