//! How records are laid out in a spool: a head of fixed length, then the dimensions.
//!
//! The order of the heads' fields is the format of version 1 and is frozen; the test of golden bytes holds it. What
//! is a `bool` outside is a bit of `flags` here.

use serde::{Deserialize, Serialize};

use mode_envoy_model::usage::counters::Counters;
use mode_envoy_storage::codec::{self, CodecError};

use super::{CallId, Closed, Dims, Opened, RecordFault, UsageSource};

/// Kind of a record that opens an attempt.
pub(crate) const OPEN: u8 = 1;
/// Kind of a record that ends an attempt, or refuses a call.
pub(crate) const CLOSE: u8 = 2;
/// Kind of a record that repeats a long-lived Open nearer to the tail, so that what is before it can be trimmed.
pub(crate) const CARRY: u8 = 3;
/// Kind of a record that adds up calls which the spool had no room for one by one.
pub(crate) const TOTAL: u8 = 4;
/// Version of all of them.
pub(crate) const VERSION: u8 = 1;
/// No record is longer, in bytes: nine dimensions of at most 256 bytes, and a head.
pub(crate) const RECORD_MAX: usize = 4_096;

const OPEN_HEAD: usize = 16 + 1 + 2 * 8;
const CLOSE_HEAD: usize = 16 + 1 + 2 * 2 + 11 * 8;
const TOTAL_HEAD: usize = 4 + 1 + 15 * 8;

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
    counters: [u64; 15],
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
        encode(&head, self.dims, out)
    }
}

// === impl Closed ===

impl Closed<'_> {
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
        encode_raw(self, dims.0, out)
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

// === impl TotalHead ===

impl TotalHead {
    pub(crate) const fn new(minute: u32, status_class: u8, sum: &Counters) -> Self {
        Self {
            minute,
            status_class,
            counters: [
                sum.calls,
                sum.errors,
                sum.rejected,
                sum.estimated,
                sum.presumed,
                sum.attempts,
                sum.input_uncached,
                sum.cache_read,
                sum.cache_write,
                sum.output,
                sum.reasoning,
                sum.nano_usd,
                sum.unpriced,
                sum.bytes_in,
                sum.bytes_out,
            ],
        }
    }

    pub(crate) const fn counters(&self) -> Counters {
        let [
            calls,
            errors,
            rejected,
            estimated,
            presumed,
            attempts,
            input_uncached,
            cache_read,
            cache_write,
            output,
            reasoning,
            nano_usd,
            unpriced,
            bytes_in,
            bytes_out,
        ] = self.counters;
        Counters {
            calls,
            errors,
            rejected,
            estimated,
            presumed,
            attempts,
            input_uncached,
            cache_read,
            cache_write,
            output,
            reasoning,
            nano_usd,
            unpriced,
            bytes_in,
            bytes_out,
        }
    }

    /// Appends dimensions that are encoded already.
    pub(crate) fn encode_with(&self, dims: &[u8], out: &mut [u8]) -> Result<usize, CodecError> {
        encode_raw(self, dims, out)
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
        if version != VERSION || !matches!(kind, OPEN | CLOSE | CARRY | TOTAL) {
            return Err(RecordFault::Unknown { kind, version });
        }
        let head_len = match kind {
            CLOSE => CLOSE_HEAD,
            TOTAL => TOTAL_HEAD,
            _ => OPEN_HEAD,
        };
        let Some((head, dims)) = payload.split_at_checked(head_len) else {
            return Err(RecordFault::Short {
                kind,
                len: payload.len(),
            });
        };
        let fault = |source| RecordFault::Undecodable { kind, source };
        Ok(match kind {
            CLOSE => Self::Close(codec::decode(head).map_err(fault)?, EncodedDims(dims)),
            TOTAL => Self::Total(codec::decode(head).map_err(fault)?, EncodedDims(dims)),
            _ => Self::Open(codec::decode(head).map_err(fault)?, EncodedDims(dims)),
        })
    }
}

fn encode<H: Serialize>(head: &H, dims: &Dims, out: &mut [u8]) -> Result<usize, CodecError> {
    let at = codec::encode_into(head, out)?;
    let rest = out.get_mut(at..).unwrap_or_default();
    Ok(at + codec::encode_into(dims, rest)?)
}

fn encode_raw<H: Serialize>(head: &H, dims: &[u8], out: &mut [u8]) -> Result<usize, CodecError> {
    let at = codec::encode_into(head, out)?;
    let end = at.saturating_add(dims.len());
    match out.get_mut(at..end) {
        Some(rest) => {
            rest.copy_from_slice(dims);
            Ok(end)
        }
        None => Err(CodecError::NoRoom {
            ty: "dimensions",
            room: out.len(),
        }),
    }
}

const fn flag(on: bool, bit: u16) -> u16 {
    if on { bit } else { 0 }
}

#[cfg(test)]
mod tests {
    use mode_envoy_model::object::Name;

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
        let Ok(Record::Total(read, dims)) = Record::parse(TOTAL, VERSION, &out[..len]) else {
            panic!("not a total");
        };
        assert_eq!((read.counters(), dims.0), (sum, &b"dims"[..]));
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
