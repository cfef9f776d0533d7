//! What a spool holds: one Open before an upstream sees a byte of an attempt, one Close at its end; and Totals, which
//! add up calls that a full spool had no room for one by one.
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
use mode_envoy_storage::codec::CodecError;

mod takes;
mod trail;
mod wire;

pub use takes::Takes;
pub use trail::{Asked, Story, Try};
pub(crate) use trail::{EARLIER_MAX, RefusedBy, Trail, TriedOnce, kept_path};
pub use wire::{CARRY, CLOSE, OPEN};
pub(crate) use wire::{
    CloseHead, EncodedDims, EncodedTrail, RECORD_MAX, Record, TOTAL, TotalHead, VERSION,
};

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

/// [`Dims`] as they are read back; the texts are where they were read from.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
pub(crate) struct DimsRef<'a> {
    pub(crate) tenant: &'a str,
    pub(crate) team: &'a str,
    pub(crate) consumer: &'a str,
    pub(crate) key: &'a str,
    pub(crate) route: &'a str,
    pub(crate) api: &'a str,
    pub(crate) model: &'a str,
    pub(crate) provider: &'a str,
    pub(crate) upstream_model: &'a str,
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
    /// What was asked.
    pub asked: Asked<'a>,
    /// Input tokens to presume if the node dies before the Close.
    pub reserved_input: u64,
    /// Bytes of the request's body, as far as they are known.
    pub bytes_in: u64,
    /// What it takes of limits.
    pub takes: &'a Takes,
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
    /// What was asked.
    pub asked: Asked<'a>,
    /// What became of it.
    pub story: Story<'a>,
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
    /// What it took of limits.
    pub takes: &'a Takes,
}

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

impl From<DimsRef<'_>> for Dims {
    fn from(dims: DimsRef<'_>) -> Self {
        Self {
            tenant: dims.tenant.into(),
            team: dims.team.into(),
            consumer: dims.consumer.into(),
            key: dims.key.into(),
            route: dims.route.into(),
            api: dims.api.into(),
            model: dims.model.into(),
            provider: dims.provider.into(),
            upstream_model: dims.upstream_model.into(),
        }
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
            asked: Asked::default(),
            story: Story::default(),
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
            takes: &Takes::NONE,
        }
    }
}
