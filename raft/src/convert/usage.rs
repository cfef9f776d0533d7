//! Usage: series, rows, streams.

use mode_envoy_model::limits;
use mode_envoy_model::usage::batch::{Register, SeriesRef, SpoolRange, UsageBatch, UsageRow};
use mode_envoy_model::usage::counters::Counters;
use mode_envoy_model::usage::histogram::{self, Histogram};
use mode_envoy_model::usage::series::SeriesKey;
use mode_envoy_proto::log::v1 as wire;
use wire::series_ref::Kind;

use super::{
    DecodeError, Wire, bounded, fixed, missing, read_list, required, text, unknown, write_list,
};

impl Wire for Register {
    type Message = wire::Register;

    fn to_wire(&self) -> Self::Message {
        let spools = self
            .spools
            .iter()
            .map(|(worker, uuid)| wire::Spool {
                worker: *worker,
                uuid: uuid.to_vec(),
            })
            .collect();
        wire::Register {
            node: self.node,
            follows: self.follows,
            spools,
        }
    }

    fn from_wire(message: Self::Message) -> Result<Self, DecodeError> {
        let spools = bounded("Register.spools", limits::SPOOLS, message.spools)?
            .into_iter()
            .map(|spool| Ok((spool.worker, fixed("Spool.uuid", &spool.uuid)?)))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            node: message.node,
            follows: message.follows,
            spools,
        })
    }
}

impl Wire for SpoolRange {
    type Message = wire::SpoolRange;

    fn to_wire(&self) -> Self::Message {
        wire::SpoolRange {
            worker: self.worker,
            uuid: self.uuid.to_vec(),
            from: self.from,
            to: self.to,
        }
    }

    fn from_wire(message: Self::Message) -> Result<Self, DecodeError> {
        Ok(Self {
            worker: message.worker,
            uuid: fixed("SpoolRange.uuid", &message.uuid)?,
            from: message.from,
            to: message.to,
        })
    }
}

impl Wire for SeriesKey {
    type Message = wire::SeriesKey;

    fn to_wire(&self) -> Self::Message {
        wire::SeriesKey {
            tenant: text(&self.tenant),
            team: text(&self.team),
            consumer: text(&self.consumer),
            key: text(&self.key),
            route: text(&self.route),
            api: text(&self.api),
            model: text(&self.model),
            provider: text(&self.provider),
            upstream_model: text(&self.upstream_model),
            status_class: u32::from(self.status_class),
            folded: self.folded,
        }
    }

    fn from_wire(message: Self::Message) -> Result<Self, DecodeError> {
        Ok(Self {
            tenant: message.tenant.into(),
            team: message.team.into(),
            consumer: message.consumer.into(),
            key: message.key.into(),
            route: message.route.into(),
            api: message.api.into(),
            model: message.model.into(),
            provider: message.provider.into(),
            upstream_model: message.upstream_model.into(),
            status_class: u8::try_from(message.status_class)
                .map_err(|_| unknown("SeriesKey.status_class", message.status_class))?,
            folded: message.folded,
        })
    }
}

impl Wire for SeriesRef {
    type Message = wire::SeriesRef;

    fn to_wire(&self) -> Self::Message {
        let kind = match self {
            Self::Known(id) => Kind::Known(*id),
            Self::New(key) => Kind::New(key.to_wire()),
        };
        wire::SeriesRef { kind: Some(kind) }
    }

    fn from_wire(message: Self::Message) -> Result<Self, DecodeError> {
        Ok(
            match message.kind.ok_or_else(|| missing("SeriesRef.kind"))? {
                Kind::Known(id) => Self::Known(id),
                Kind::New(key) => Self::New(Wire::from_wire(key)?),
            },
        )
    }
}

impl Wire for Counters {
    type Message = wire::Counters;

    fn to_wire(&self) -> Self::Message {
        wire::Counters {
            calls: self.calls,
            errors: self.errors,
            rejected: self.rejected,
            estimated: self.estimated,
            presumed: self.presumed,
            attempts: self.attempts,
            input_uncached: self.input_uncached,
            cache_read: self.cache_read,
            cache_write: self.cache_write,
            output: self.output,
            reasoning: self.reasoning,
            nano_usd: self.nano_usd,
            unpriced: self.unpriced,
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
        }
    }

    fn from_wire(message: Self::Message) -> Result<Self, DecodeError> {
        Ok(Self {
            calls: message.calls,
            errors: message.errors,
            rejected: message.rejected,
            estimated: message.estimated,
            presumed: message.presumed,
            attempts: message.attempts,
            input_uncached: message.input_uncached,
            cache_read: message.cache_read,
            cache_write: message.cache_write,
            output: message.output,
            reasoning: message.reasoning,
            nano_usd: message.nano_usd,
            unpriced: message.unpriced,
            bytes_in: message.bytes_in,
            bytes_out: message.bytes_out,
        })
    }
}

impl Wire for UsageRow {
    type Message = wire::UsageRow;

    fn to_wire(&self) -> Self::Message {
        wire::UsageRow {
            minute: self.minute,
            series: self.series,
            counters: Some(self.counters.to_wire()),
            latency: write_histogram(&self.latency),
            ttft: write_histogram(&self.ttft),
        }
    }

    fn from_wire(message: Self::Message) -> Result<Self, DecodeError> {
        Ok(Self {
            minute: message.minute,
            series: message.series,
            counters: required("UsageRow.counters", message.counters)?,
            latency: read_histogram(message.latency)?,
            ttft: read_histogram(message.ttft)?,
        })
    }
}

impl Wire for UsageBatch {
    type Message = wire::UsageBatch;

    fn to_wire(&self) -> Self::Message {
        wire::UsageBatch {
            node: self.node,
            incarnation: self.incarnation,
            seq: self.seq,
            ranges: write_list(&self.ranges),
            series: write_list(&self.series),
            rows: write_list(&self.rows),
            uses: write_list(&self.uses),
            asks: write_list(&self.asks),
        }
    }

    fn from_wire(message: Self::Message) -> Result<Self, DecodeError> {
        Ok(Self {
            node: message.node,
            incarnation: message.incarnation,
            seq: message.seq,
            ranges: read_list("UsageBatch.ranges", limits::SPOOLS, message.ranges)?,
            series: read_list("UsageBatch.series", limits::BATCH_SERIES, message.series)?,
            rows: read_list("UsageBatch.rows", limits::BATCH_ROWS, message.rows)?,
            uses: read_list("UsageBatch.uses", limits::BATCH_USES, message.uses)?,
            asks: read_list("UsageBatch.asks", limits::BATCH_ASKS, message.asks)?,
        })
    }
}

/// An empty histogram is absent.
pub(super) fn write_histogram(histogram: &Histogram) -> Option<wire::Histogram> {
    if histogram.is_empty() {
        return None;
    }
    let (bins, counts) = histogram
        .bins()
        .iter()
        .map(|&(bin, count)| (u32::from(bin), count))
        .unzip();
    Some(wire::Histogram { bins, counts })
}

pub(super) fn read_histogram(message: Option<wire::Histogram>) -> Result<Histogram, DecodeError> {
    let Some(message) = message else {
        return Ok(Histogram::default());
    };
    let bins = bounded("Histogram.bins", usize::from(histogram::BINS), message.bins)?;
    if bins.len() != message.counts.len() {
        return Err(DecodeError::Length {
            what: "Histogram.counts",
            expected: bins.len(),
            got: message.counts.len(),
        });
    }
    let bins = bins
        .into_iter()
        .zip(message.counts)
        .map(|(bin, count)| {
            u16::try_from(bin)
                .map(|bin| (bin, count))
                .map_err(|_| unknown("Histogram.bins", bin))
        })
        .collect::<Result<Vec<_>, _>>()?;
    Histogram::from_bins(bins).ok_or_else(|| unknown("Histogram.bins", "unordered or empty bins"))
}
