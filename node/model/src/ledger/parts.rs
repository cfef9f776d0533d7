//! The ledger taken apart, as checkpoints hold it, and put together again.
//!
//! Invariant: what comes back balances. Books that do not, leases that are of two windows, and numbers beyond the last one that
//! was given are refused: a node must not grant from them.

use std::sync::Arc;

use super::ask::{LeaseId, PoolKey};
use super::incarnation::current_of;
use super::pool::Pool;
use super::rules::Rules;
use super::window::{MOST, Over, Window};
use super::{Home, Ledger, Now};
use crate::limits;
use crate::usage::batch::SpoolUuid;
use crate::usage::streams::Stream;

/// A ledger, taken apart.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct LedgerParts {
    /// What grants go by.
    pub rules: Rules,
    /// The newest lease.
    pub last_lease: LeaseId,
    /// The newest of all other numbers.
    pub counter: u64,
    /// Batches that claimed what was not backed.
    pub refused: u64,
    /// Every pool.
    pub pools: Vec<(PoolKey, Arc<Pool>)>,
    /// Windows that are over.
    pub over: Vec<Arc<Over>>,
    /// Incarnations that get no more: node, incarnation, the spools it had.
    pub frozen: Vec<(u64, u64, Arc<[SpoolUuid]>)>,
}

/// Why parts are not a ledger.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum LedgerError {
    /// Free, settled, burned and leased units do not add up to what was issued.
    #[error("the books of limit {limit} for {value:?} do not balance")]
    Unbalanced {
        /// Which limit.
        limit: u64,
        /// Value of its `each`.
        value: String,
    },
    /// A lease, a window or a pool is there twice, out of order, or beyond the last number.
    #[error("{what} {number} is there twice, or its number was never given")]
    Number {
        /// What has the number.
        what: &'static str,
        /// The number.
        number: u64,
    },
    /// More than a ledger ever has.
    #[error("there are {got} {what}; {max} are allowed")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        got: usize,
        /// The limit.
        max: usize,
    },
    /// Figures of a newer version.
    #[error("grants go by figures of version {0}, which this version does not know")]
    Rules(u32),
}

// === impl Ledger ===

impl Ledger {
    /// Takes the ledger apart; what it holds is shared.
    pub(crate) fn parts(&self) -> LedgerParts {
        let pools = self.pools.iter();
        let frozen = self.frozen.iter();
        LedgerParts {
            rules: self.rules,
            last_lease: self.last_lease,
            counter: self.counter,
            refused: self.refused,
            pools: pools
                .map(|(key, pool)| (key.clone(), Arc::clone(pool)))
                .collect(),
            over: self.over.values().cloned().collect(),
            frozen: frozen
                .map(|((node, life), spools)| (*node, *life, Arc::clone(spools)))
                .collect(),
        }
    }

    /// Puts a ledger together, without limits: see [`Self::set_limits`].
    pub(crate) fn from_parts<'a>(
        parts: LedgerParts,
        (clock_ms, wall_ms): (u64, u64),
        streams: impl Iterator<Item = (u64, &'a Arc<Stream>)>,
        is_removed: impl Fn(u64) -> bool,
    ) -> Result<Self, LedgerError> {
        if parts.rules.version > Rules::default().version {
            return Err(LedgerError::Rules(parts.rules.version));
        }
        few("pools", parts.pools.len(), limits::POOLS)?;
        few(
            "windows that are over",
            parts.over.len(),
            limits::WINDOWS_OVER,
        )?;
        let mut ledger = Self {
            rules: parts.rules,
            now: Now { clock_ms, wall_ms },
            last_lease: parts.last_lease,
            counter: parts.counter,
            refused: parts.refused,
            ..Self::default()
        };
        ledger.index.current = current_of(streams, is_removed);
        for (node, life, spools) in parts.frozen {
            ledger.frozen.insert((node, life), spools);
        }
        for (key, pool) in parts.pools {
            ledger.restore_window(&key, &pool.window)?;
            if ledger.pools.contains_key(&key) || pool.cap > MOST {
                return Err(number("pool of limit", key.limit));
            }
            ledger.insert_pool(key, Arc::unwrap_or_clone(pool));
        }
        for over in parts.over {
            ledger.restore_window(&over.pool, &over.window)?;
            let number_of = over.window.number;
            ledger.index.burns.insert((over.burns_ms, number_of));
            if ledger.over.insert(number_of, over).is_some() {
                return Err(number("window", number_of));
            }
        }
        Ok(ledger)
    }

    fn restore_window(&mut self, pool: &PoolKey, window: &Window) -> Result<(), LedgerError> {
        few(
            "leases of a window",
            window.leases.len(),
            limits::POOL_LEASES,
        )?;
        few("leases", self.index.homes.len(), limits::LEASES)?;
        let range = MOST.cast_signed();
        let in_range = window.issued <= MOST && (-range..=range).contains(&window.free);
        if !in_range || !window.balances() {
            return Err(LedgerError::Unbalanced {
                limit: pool.limit,
                value: pool.value.to_string(),
            });
        }
        if window.number > self.counter {
            return Err(number("window", window.number));
        }
        let mut before = 0;
        for lease in &window.leases {
            let home = Home {
                pool: pool.clone(),
                window: window.number,
                node: lease.node,
                incarnation: lease.incarnation,
            };
            let twice = self.index.homes.insert(lease.id, home).is_some();
            if twice || lease.id <= before || lease.id > self.last_lease || lease.granted > MOST {
                return Err(number("lease", lease.id));
            }
            before = lease.id;
            let whose = (lease.node, lease.incarnation, lease.id);
            self.index.of_node.insert(whose);
        }
        Ok(())
    }
}

fn number(what: &'static str, number: u64) -> LedgerError {
    LedgerError::Number { what, number }
}

fn few(what: &'static str, got: usize, max: usize) -> Result<(), LedgerError> {
    if got > max {
        return Err(LedgerError::TooMany { what, got, max });
    }
    Ok(())
}
