//! The chunks of a checkpoint that hold usage: dictionaries, streams and cells, of the facts and by node.

use std::sync::Arc;

use bytes::Bytes;
use mode_envoy_model::checkpoint::{NodeParts, Parts};
use mode_envoy_model::limits;
use mode_envoy_model::usage::cells::{Bucket, Cell, Chunk, Resolution};
use mode_envoy_model::usage::nodes::NodeKey;
use mode_envoy_model::usage::packed::Packed;
use mode_envoy_model::usage::series::SeriesKey;
use mode_envoy_model::usage::streams::{Spool, Stream};
use mode_envoy_proto::log::v1 as wire;

use super::super::usage::{read_histogram, write_histogram};
use super::super::{DecodeError, Wire, bounded, fixed, required, text, unknown};
use super::{decode, encode};

/// Entries in one chunk of a dictionary.
const SERIES_PER_CHUNK: usize = 8_192;

/// Appends the chunks.
pub(super) fn write_chunks(parts: &Parts, chunks: &mut Vec<(String, Bytes)>) {
    for (number, entries) in parts.series.chunks(SERIES_PER_CHUNK).enumerate() {
        let series = entries
            .iter()
            .map(|(id, key)| wire::SeriesEntry {
                id: *id,
                key: Some(key.to_wire()),
            })
            .collect();
        chunks.push((
            format!("series-{number:05}"),
            encode(&wire::SeriesChunk { series }),
        ));
    }
    let streams = parts
        .streams
        .iter()
        .map(|(node, stream)| write_stream(*node, stream))
        .collect();
    chunks.push((
        "streams".to_owned(),
        encode(&wire::StreamsChunk { streams }),
    ));
    let facts = parts.cells.iter();
    chunks.extend(facts.map(|cells| write_bucket(["cells", "packed"], cells)));
    if let Some(nodes) = &parts.nodes {
        write_nodes(nodes, chunks);
    }
}

/// Reads a chunk into its part; `false` if its name is of no kind that holds usage.
pub(super) fn read_chunk(
    parts: &mut Parts,
    kind: &str,
    bytes: &Bytes,
) -> Result<bool, DecodeError> {
    match kind {
        "series" => {
            let chunk: wire::SeriesChunk = decode("SeriesChunk", bytes)?;
            for entry in chunk.series {
                let key: SeriesKey = required("SeriesEntry.key", entry.key)?;
                parts.series.push((entry.id, Arc::new(key)));
            }
        }
        "streams" => {
            let chunk: wire::StreamsChunk = decode("StreamsChunk", bytes)?;
            for stream in bounded("StreamsChunk.streams", limits::STREAMS, chunk.streams)? {
                parts
                    .streams
                    .push((stream.node, Arc::new(read_stream(stream)?)));
            }
        }
        "cells" => parts.cells.push(read_cells(decode("CellsChunk", bytes)?)?),
        "packed" => parts.cells.push(read_packed(bytes)?),
        "nodeseries" => {
            let chunk: wire::NodeSeriesChunk = decode("NodeSeriesChunk", bytes)?;
            let nodes = parts.nodes.get_or_insert_default();
            nodes.since = chunk.since_minute;
            for entry in chunk.series {
                let key: NodeKey = required("NodeSeriesEntry.key", entry.key)?;
                nodes.series.push((entry.id, Arc::new(key)));
            }
        }
        "nodecells" => {
            let nodes = parts.nodes.get_or_insert_default();
            nodes.cells.push(read_cells(decode("CellsChunk", bytes)?)?);
        }
        "nodepacked" => {
            let nodes = parts.nodes.get_or_insert_default();
            nodes.cells.push(read_packed(bytes)?);
        }
        _ => return Ok(false),
    }
    Ok(true)
}

impl Wire for NodeKey {
    type Message = wire::NodeSeriesKey;

    fn to_wire(&self) -> Self::Message {
        wire::NodeSeriesKey {
            node: self.node,
            tenant: text(&self.tenant),
            route: text(&self.route),
            status_class: u32::from(self.status_class),
        }
    }

    fn from_wire(message: Self::Message) -> Result<Self, DecodeError> {
        Ok(Self {
            node: message.node,
            tenant: message.tenant.into(),
            route: message.route.into(),
            status_class: u8::try_from(message.status_class)
                .map_err(|_| unknown("NodeSeriesKey.status_class", message.status_class))?,
        })
    }
}

/// The first chunk of the dictionary is there even if it is empty: it says since when there is usage by node.
fn write_nodes(nodes: &NodeParts, chunks: &mut Vec<(String, Bytes)>) {
    let count = nodes.series.len().div_ceil(SERIES_PER_CHUNK).max(1);
    let mut rest = nodes.series.iter();
    for number in 0..count {
        let series = rest
            .by_ref()
            .take(SERIES_PER_CHUNK)
            .map(|(id, key)| wire::NodeSeriesEntry {
                id: *id,
                key: Some(key.to_wire()),
            })
            .collect();
        let message = wire::NodeSeriesChunk {
            since_minute: nodes.since,
            series,
        };
        chunks.push((format!("nodeseries-{number:05}"), encode(&message)));
    }
    let cells = nodes.cells.iter();
    chunks.extend(cells.map(|cells| write_bucket(["nodecells", "nodepacked"], cells)));
}

fn write_stream(node: u64, stream: &Stream) -> wire::StreamState {
    let spools = stream
        .spools
        .iter()
        .map(|(worker, spool)| wire::SpoolState {
            worker: *worker,
            uuid: spool.uuid.to_vec(),
            acked_to: spool.acked_to,
        })
        .collect();
    wire::StreamState {
        node,
        incarnation: stream.incarnation,
        next_seq: stream.next_seq,
        spools,
    }
}

fn read_stream(stream: wire::StreamState) -> Result<Stream, DecodeError> {
    let spools = bounded("StreamState.spools", limits::SPOOLS, stream.spools)?
        .into_iter()
        .map(|spool| {
            let uuid = fixed("SpoolState.uuid", &spool.uuid)?;
            Ok((
                spool.worker,
                Spool {
                    uuid,
                    acked_to: spool.acked_to,
                },
            ))
        })
        .collect::<Result<_, DecodeError>>()?;
    Ok(Stream {
        incarnation: stream.incarnation,
        next_seq: stream.next_seq,
        spools,
    })
}

/// The chunk of one bucket. Its name begins with the first kind where the bucket is open, with the second where it is packed.
fn write_bucket(
    [open, packed]: [&str; 2],
    (resolution, number, bucket): &(Resolution, u32, Bucket),
) -> (String, Bytes) {
    let (word, resolution) = match resolution {
        Resolution::Minute => ("minute", wire::Resolution::Minute),
        Resolution::Hour => ("hour", wire::Resolution::Hour),
        Resolution::Day => ("day", wire::Resolution::Day),
    };
    let (kind, bytes) = match bucket {
        Bucket::Open(chunk) => {
            let message = wire::CellsChunk {
                resolution: resolution.into(),
                bucket: *number,
                cells: chunk.iter().map(write_cell).collect(),
            };
            (open, encode(&message))
        }
        Bucket::Packed(cells) => {
            let message = wire::PackedCellsChunk {
                resolution: resolution.into(),
                bucket: *number,
                cells: cells.bytes().to_vec(),
            };
            (packed, encode(&message))
        }
    };
    (format!("{kind}-{word}-{number:010}"), bytes)
}

fn write_cell((series, cell): (&u32, &Arc<Cell>)) -> wire::CellEntry {
    wire::CellEntry {
        series: *series,
        counters: Some(cell.counters.to_wire()),
        latency: write_histogram(&cell.latency),
        ttft: write_histogram(&cell.ttft),
    }
}

fn read_cells(chunk: wire::CellsChunk) -> Result<(Resolution, u32, Bucket), DecodeError> {
    let resolution = read_resolution("CellsChunk.resolution", chunk.resolution)?;
    let cells = chunk
        .cells
        .into_iter()
        .map(|entry| {
            let cell = Cell {
                counters: required("CellEntry.counters", entry.counters)?,
                latency: read_histogram(entry.latency)?,
                ttft: read_histogram(entry.ttft)?,
            };
            Ok((entry.series, Arc::new(cell)))
        })
        .collect::<Result<Chunk, DecodeError>>()?;
    Ok((resolution, chunk.bucket, Bucket::Open(cells)))
}

fn read_packed(bytes: &Bytes) -> Result<(Resolution, u32, Bucket), DecodeError> {
    let chunk: wire::PackedCellsChunk = decode("PackedCellsChunk", bytes)?;
    let resolution = read_resolution("PackedCellsChunk.resolution", chunk.resolution)?;
    let cells = Packed::from_bytes(&chunk.cells).map_err(|e| DecodeError::Contradiction {
        reason: e.to_string(),
    })?;
    Ok((resolution, chunk.bucket, Bucket::Packed(cells)))
}

fn read_resolution(what: &'static str, number: i32) -> Result<Resolution, DecodeError> {
    match wire::Resolution::try_from(number) {
        Ok(wire::Resolution::Minute) => Ok(Resolution::Minute),
        Ok(wire::Resolution::Hour) => Ok(Resolution::Hour),
        Ok(wire::Resolution::Day) => Ok(Resolution::Day),
        _ => Err(unknown(what, number)),
    }
}
