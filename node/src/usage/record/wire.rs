//! How records are laid out in a spool: a head, what is taken of limits, a trail behind its length, the dimensions.
//!
//! Written is version 3, whose integers are as short as they are small: a call takes half of the pages that it took, and
//! each page that is written costs a fault, a write and a place in the disk's queue. Versions 1, without a trail, and 2,
//! both without limits and of integers of fixed width, are read as well: they stand in the spools of nodes that were updated. The order of
//! the heads' fields is the same in all and is frozen; the tests of golden bytes hold it. What is a `bool` outside is a
//! bit of `flags` here.
//!
//! Size: three versions of one layout, which are only understood side by side.

use serde::{Deserialize, Serialize};

use mode_envoy_model::usage::counters::{COUNTERS, Counters};
use mode_envoy_storage::codec::{self, CodecError, compact};

use super::trail::{AskedOut, RefusedBy, StoryOut};
use super::{CallId, Closed, Dims, DimsRef, Opened, RecordFault, Story, Takes, Trail, UsageSource};

#[cfg(test)]
mod wire_test;

/// Kind of a record that opens an attempt.
pub const OPEN: u8 = 1;
/// Kind of a record that ends an attempt, or refuses a call.
pub const CLOSE: u8 = 2;
/// Kind of a record that repeats a long-lived Open nearer to the tail, so that what is before it can be trimmed.
pub const CARRY: u8 = 3;
/// Kind of a record that adds up calls which the spool had no room for one by one.
pub(crate) const TOTAL: u8 = 4;
/// Version of what is written.
pub(crate) const VERSION: u8 = 3;
/// The version before, of fixed width.
const FIXED: u8 = 2;
/// The version before that, without trails.
const BARE: u8 = 1;
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
struct Parts<'a, H> {
    head: H,
    takes: Takes,
    trail: Option<EncodedTrail<'a>>,
    dims: EncodedDims<'a>,
}

/// The dimensions of a record, encoded: equal values mean equal dimensions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EncodedDims<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) compact: bool,
}

/// The trail of a record, encoded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EncodedTrail<'a> {
    bytes: &'a [u8],
    compact: bool,
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
        encode((&head, self.takes), &self.asked.out(), self.dims, out)
    }
}

// === impl Closed ===

impl Closed<'_> {
    pub(crate) fn encode_into(&self, out: &mut [u8]) -> Result<usize, CodecError> {
        let refused = self.story.refused.map(RefusedBy::of);
        let trail: (AskedOut<'_>, StoryOut<'_>, Option<RefusedBy<'_>>) =
            (self.asked.out(), self.story.out(), refused);
        encode((&self.head(), self.takes), &trail, self.dims, out)
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

    /// Appends what is taken, trail and dimensions of an Open as they were read; returns the version of what was written,
    /// and its length.
    pub(crate) fn encode_with(
        &self,
        (takes, trail): (&Takes, Option<EncodedTrail<'_>>),
        dims: EncodedDims<'_>,
        out: &mut [u8],
    ) -> Result<(u8, usize), CodecError> {
        let mut at = encode_as(dims.compact, self, out)?;
        if dims.compact {
            at += takes.encode_into(out.get_mut(at..).unwrap_or_default())?;
        }
        if let Some(asked) = trail {
            let start = at + TRAIL_LEN;
            let story = start + copy(asked.bytes, out, start)?;
            let told = Story {
                reason: PRESUMED_REASON,
                ..Story::default()
            };
            let rest = out.get_mut(story..).unwrap_or_default();
            let mut end = story + encode_as(asked.compact, &told.out(), rest)?;
            if asked.compact {
                let none = Option::<RefusedBy<'_>>::None;
                end += compact::encode_into(&none, out.get_mut(end..).unwrap_or_default())?;
            }
            copy(&trail_len(end - start), out, at)?;
            at = end;
        }
        let version = match (trail, dims.compact) {
            (None, _) => BARE,
            (_, false) => FIXED,
            (_, true) => VERSION,
        };
        Ok((version, at + copy(dims.bytes, out, at)?))
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

    /// Appends dimensions of this version that are encoded already. A sum takes nothing of limits.
    pub(crate) fn encode_with(&self, dims: &[u8], out: &mut [u8]) -> Result<usize, CodecError> {
        let at = compact::encode_into(self, out)?;
        Ok(at + copy(dims, out, at)?)
    }
}

// === impl Dims ===

impl Dims {
    pub(crate) fn encode_into(&self, out: &mut [u8]) -> Result<usize, CodecError> {
        compact::encode_into(self, out)
    }
}

// === impl EncodedDims ===

impl<'a> EncodedDims<'a> {
    pub(crate) fn decode(self) -> Result<Dims, RecordFault> {
        self.read().map(Dims::from)
    }

    /// Its texts stay where they are.
    pub(crate) fn read(self) -> Result<DimsRef<'a>, RecordFault> {
        borrow(self.compact, self.bytes)
    }
}

// === impl EncodedTrail ===

impl<'a> EncodedTrail<'a> {
    /// The trail of a Close; its texts stay where they are.
    pub(crate) fn read(self) -> Result<Trail<'a>, RecordFault> {
        if !self.compact {
            return borrow(false, self.bytes);
        }
        let fault = |source| RecordFault::Undecodable {
            kind: CLOSE,
            source,
        };
        let (mut trail, rest): (Trail<'a>, _) = compact::split(self.bytes).map_err(fault)?;
        trail.refused = borrow(true, rest)?;
        Ok(trail)
    }
}

// === impl Record ===

impl<'a> Record<'a> {
    /// Understands a payload of the spool.
    pub(crate) fn parse(kind: u8, version: u8, payload: &'a [u8]) -> Result<Self, RecordFault> {
        Ok(match kind {
            CLOSE => {
                let parts = Parts::of(kind, version, payload)?;
                Self::Close(parts.head, parts.dims)
            }
            TOTAL => {
                let parts = Parts::of(kind, version, payload)?;
                Self::Total(parts.head, parts.dims)
            }
            _ => {
                let parts = Parts::of(kind, version, payload)?;
                Self::Open(parts.head, parts.dims)
            }
        })
    }

    /// The encoded trail of a payload that was understood; `None` where its version has none.
    pub(crate) fn trail_of(
        kind: u8,
        version: u8,
        payload: &'a [u8],
    ) -> Result<Option<EncodedTrail<'a>>, RecordFault> {
        Ok(match kind {
            CLOSE => Parts::<CloseHead>::of(kind, version, payload)?.trail,
            TOTAL => None,
            _ => Parts::<OpenHead>::of(kind, version, payload)?.trail,
        })
    }

    /// What a payload that was understood takes of limits: nothing, before version 3.
    pub(crate) fn takes_of(kind: u8, version: u8, payload: &[u8]) -> Result<Takes, RecordFault> {
        Ok(match kind {
            CLOSE => Parts::<CloseHead>::of(kind, version, payload)?.takes,
            TOTAL => Takes::default(),
            _ => Parts::<OpenHead>::of(kind, version, payload)?.takes,
        })
    }
}

// === impl Parts ===

impl<'a, H: Deserialize<'a>> Parts<'a, H> {
    fn of(kind: u8, version: u8, payload: &'a [u8]) -> Result<Self, RecordFault> {
        let head_len = match (kind, version) {
            (OPEN | CARRY, BARE | FIXED | VERSION) => OPEN_HEAD,
            (CLOSE, BARE | FIXED | VERSION) => CLOSE_HEAD,
            (TOTAL, BARE | VERSION) => TOTAL_HEAD,
            _ => return Err(RecordFault::Unknown { kind, version }),
        };
        let short = || RecordFault::Short {
            kind,
            len: payload.len(),
        };
        let fault = |source| RecordFault::Undecodable { kind, source };
        let is_compact = version == VERSION;
        let (head, takes, rest) = if is_compact {
            let (head, rest) = compact::split(payload).map_err(fault)?;
            let (takes, rest) = if kind == TOTAL {
                (Takes::default(), rest)
            } else {
                Takes::split(rest).map_err(fault)?
            };
            (head, takes, rest)
        } else {
            let (head, rest) = payload.split_at_checked(head_len).ok_or_else(short)?;
            let head = codec::borrow(head).map_err(fault)?;
            (head, Takes::default(), rest)
        };
        let (trail, rest) = if version == BARE || kind == TOTAL {
            (None, rest)
        } else {
            let (len, rest) = rest.split_first_chunk::<TRAIL_LEN>().ok_or_else(short)?;
            let len = usize::from(u16::from_le_bytes(*len));
            let (bytes, rest) = rest.split_at_checked(len).ok_or_else(short)?;
            let compact = is_compact;
            (Some(EncodedTrail { bytes, compact }), rest)
        };
        let dims = EncodedDims {
            bytes: rest,
            compact: is_compact,
        };
        Ok(Self {
            head,
            takes,
            trail,
            dims,
        })
    }
}

fn encode<H: Serialize, T: Serialize>(
    (head, takes): (&H, &Takes),
    trail: &T,
    dims: &Dims,
    out: &mut [u8],
) -> Result<usize, CodecError> {
    let mut at = compact::encode_into(head, out)?;
    at += takes.encode_into(out.get_mut(at..).unwrap_or_default())?;
    let start = at + TRAIL_LEN;
    let end = start + compact::encode_into(trail, out.get_mut(start..).unwrap_or_default())?;
    copy(&trail_len(end - start), out, at)?;
    let rest = out.get_mut(end..).unwrap_or_default();
    Ok(end + compact::encode_into(dims, rest)?)
}

fn encode_as<T: Serialize>(
    is_compact: bool,
    value: &T,
    out: &mut [u8],
) -> Result<usize, CodecError> {
    if is_compact {
        compact::encode_into(value, out)
    } else {
        codec::encode_into(value, out)
    }
}

/// A part of a Close.
fn borrow<'a, T: Deserialize<'a>>(is_compact: bool, bytes: &'a [u8]) -> Result<T, RecordFault> {
    let read = if is_compact {
        compact::borrow(bytes)
    } else {
        codec::borrow(bytes)
    };
    read.map_err(|source| RecordFault::Undecodable {
        kind: CLOSE,
        source,
    })
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
