//! The books of limits in a checkpoint; one of a version that had no limits has none of it.

use std::sync::Arc;

use bytes::Bytes;
use mode_envoy_model::checkpoint::Parts;
use mode_envoy_model::ledger::ask::PoolKey;
use mode_envoy_model::ledger::parts::LedgerParts;
use mode_envoy_model::ledger::pool::{Demand, Fill, Pool};
use mode_envoy_model::ledger::rules::Rules;
use mode_envoy_model::ledger::window::{Lease, Over, Window};
use mode_envoy_model::limits;
use mode_envoy_proto::log::v1 as wire;

use super::super::ledger::read_pool_key;
use super::super::{
    DecodeError, Wire, bounded, fixed, missing, read_list, required, text, write_list,
};
use super::{decode, encode};

/// Pools, or windows, in one chunk.
const PER_CHUNK: usize = 4_096;

/// What the meta record says.
pub(super) fn write_meta(ledger: &LedgerParts) -> wire::LedgerMeta {
    wire::LedgerMeta {
        rules: Some(ledger.rules.to_wire()),
        last_lease: ledger.last_lease,
        counter: ledger.counter,
        refused: ledger.refused,
    }
}

/// Reads what the meta record says; the books are in chunks.
pub(super) fn read_meta(meta: Option<wire::LedgerMeta>) -> Result<LedgerParts, DecodeError> {
    let Some(meta) = meta else {
        return Ok(LedgerParts::default());
    };
    Ok(LedgerParts {
        rules: required("LedgerMeta.rules", meta.rules)?,
        last_lease: meta.last_lease,
        counter: meta.counter,
        refused: meta.refused,
        ..LedgerParts::default()
    })
}

/// Appends the chunks.
pub(super) fn write_chunks(parts: &Parts, chunks: &mut Vec<(String, Bytes)>) {
    let ledger = &parts.ledger;
    for (number, pools) in ledger.pools.chunks(PER_CHUNK).enumerate() {
        let pools = pools.iter().map(|(key, pool)| write_pool(key, pool));
        let pools = pools.collect();
        let chunk = encode(&wire::PoolsChunk { pools });
        chunks.push((format!("pools-{number:05}"), chunk));
    }
    for (number, windows) in ledger.over.chunks(PER_CHUNK).enumerate() {
        let windows = windows.iter().map(|over| write_over(over)).collect();
        let chunk = encode(&wire::WindowsChunk { windows });
        chunks.push((format!("windows-{number:05}"), chunk));
    }
    for (number, frozen) in ledger.frozen.chunks(PER_CHUNK).enumerate() {
        let frozen = frozen
            .iter()
            .map(|(node, incarnation, spools)| wire::FrozenState {
                node: *node,
                incarnation: *incarnation,
                spools: spools.iter().map(|uuid| uuid.to_vec()).collect(),
            });
        let frozen = frozen.collect();
        let chunk = encode(&wire::FrozenChunk { frozen });
        chunks.push((format!("frozen-{number:05}"), chunk));
    }
}

/// Reads a chunk into its part; `false` if its name is of no kind that holds books.
pub(super) fn read_chunk(
    parts: &mut Parts,
    kind: &str,
    bytes: &Bytes,
) -> Result<bool, DecodeError> {
    let ledger = &mut parts.ledger;
    match kind {
        "pools" => {
            let chunk: wire::PoolsChunk = decode("PoolsChunk", bytes)?;
            for pool in bounded("PoolsChunk.pools", limits::POOLS, chunk.pools)? {
                ledger.pools.push(read_pool(pool)?);
            }
        }
        "windows" => {
            let chunk: wire::WindowsChunk = decode("WindowsChunk", bytes)?;
            for over in bounded("WindowsChunk.windows", limits::WINDOWS_OVER, chunk.windows)? {
                ledger.over.push(Arc::new(read_over(over)?));
            }
        }
        "frozen" => {
            let chunk: wire::FrozenChunk = decode("FrozenChunk", bytes)?;
            for frozen in chunk.frozen {
                let spools = bounded("FrozenState.spools", limits::SPOOLS, frozen.spools)?;
                let spools = spools.iter().map(|uuid| fixed("FrozenState.spools", uuid));
                let spools = spools.collect::<Result<_, _>>()?;
                ledger
                    .frozen
                    .push((frozen.node, frozen.incarnation, spools));
            }
        }
        _ => return Ok(false),
    }
    Ok(true)
}

impl Wire for Rules {
    type Message = wire::LedgerRules;

    fn to_wire(&self) -> Self::Message {
        wire::LedgerRules {
            version: self.version,
            share: self.share,
            central: self.central,
            recall_ms: self.recall_ms,
            demand_ms: self.demand_ms,
            ahead_ms: self.ahead_ms,
            ahead_short_ms: self.ahead_short_ms,
            hold_ms: self.hold_ms,
            hold_permille: self.hold_permille,
            hold_units: self.hold_units,
            kept_ms: self.kept_ms,
            idle_ms: self.idle_ms,
        }
    }

    fn from_wire(message: Self::Message) -> Result<Self, DecodeError> {
        Ok(Self {
            version: message.version,
            share: message.share,
            central: message.central,
            recall_ms: message.recall_ms,
            demand_ms: message.demand_ms,
            ahead_ms: message.ahead_ms,
            ahead_short_ms: message.ahead_short_ms,
            hold_ms: message.hold_ms,
            hold_permille: message.hold_permille,
            hold_units: message.hold_units,
            kept_ms: message.kept_ms,
            idle_ms: message.idle_ms,
        })
    }
}

impl Wire for Window {
    type Message = wire::WindowState;

    fn to_wire(&self) -> Self::Message {
        wire::WindowState {
            number: self.number,
            start: self.start,
            ends: self.ends,
            issued: self.issued,
            free: self.free,
            settled: self.settled,
            burned: self.burned,
            leases: write_list(&self.leases),
        }
    }

    fn from_wire(message: Self::Message) -> Result<Self, DecodeError> {
        Ok(Self {
            number: message.number,
            start: message.start,
            ends: message.ends,
            issued: message.issued,
            free: message.free,
            settled: message.settled,
            burned: message.burned,
            leases: read_list("WindowState.leases", limits::POOL_LEASES, message.leases)?,
        })
    }
}

impl Wire for Lease {
    type Message = wire::LeaseState;

    fn to_wire(&self) -> Self::Message {
        wire::LeaseState {
            id: self.id,
            node: self.node,
            incarnation: self.incarnation,
            granted: self.granted,
            returned: self.returned,
            settled: self.settled,
            owed: self.owed,
        }
    }

    fn from_wire(message: Self::Message) -> Result<Self, DecodeError> {
        Ok(Self {
            id: message.id,
            node: message.node,
            incarnation: message.incarnation,
            granted: message.granted,
            returned: message.returned,
            settled: message.settled,
            owed: message.owed,
        })
    }
}

impl Wire for Demand {
    type Message = wire::DemandState;

    fn to_wire(&self) -> Self::Message {
        wire::DemandState {
            node: self.node,
            rate: self.rate,
            typical: self.typical,
            seen_ms: self.seen_ms,
        }
    }

    fn from_wire(message: Self::Message) -> Result<Self, DecodeError> {
        Ok(Self {
            node: message.node,
            rate: message.rate,
            typical: message.typical,
            seen_ms: message.seen_ms,
        })
    }
}

fn write_pool(key: &PoolKey, pool: &Pool) -> wire::PoolState {
    wire::PoolState {
        limit: key.limit,
        value: text(&key.value),
        cap: pool.cap,
        window: Some(pool.window.to_wire()),
        central: pool.central,
        recalls: pool.recalls,
        recalled_ms: pool.recalled_ms,
        epoch: pool.epoch,
        filled_ms: pool.fill.at_ms,
        filled_rest: pool.fill.rest,
        demands: write_list(&pool.demands),
    }
}

fn read_pool(pool: wire::PoolState) -> Result<(PoolKey, Arc<Pool>), DecodeError> {
    let key = read_pool_key(pool.limit, pool.value)?;
    let window = pool.window.ok_or_else(|| missing("PoolState.window"))?;
    let pool = Pool {
        cap: pool.cap,
        window: Window::from_wire(window)?,
        central: pool.central,
        recalls: pool.recalls,
        recalled_ms: pool.recalled_ms,
        epoch: pool.epoch,
        fill: Fill {
            at_ms: pool.filled_ms,
            rest: pool.filled_rest,
        },
        demands: read_list("PoolState.demands", limits::STREAMS, pool.demands)?,
    };
    Ok((key, Arc::new(pool)))
}

fn write_over(over: &Over) -> wire::OverState {
    wire::OverState {
        limit: over.pool.limit,
        value: text(&over.pool.value),
        window: Some(over.window.to_wire()),
        burns_ms: over.burns_ms,
    }
}

fn read_over(over: wire::OverState) -> Result<Over, DecodeError> {
    Ok(Over {
        pool: read_pool_key(over.limit, over.value)?,
        window: required("OverState.window", over.window)?,
        burns_ms: over.burns_ms,
    })
}
