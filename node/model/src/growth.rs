//! How much the tokens of each tenant have made the history grow today, so that no tenant can fill the memory of every node.
//!
//! The history keeps every change for good; whoever runs the cluster may make it as long as it has to be, a tenant's token may not.
//!
//! Invariants: written by the change sets themselves, so every replica and every restart counts the same; only a day of the log's
//! wall clock is kept, and no more tenants than there are.

use imbl::OrdMap;

use crate::catalog::Catalog;
use crate::catalog::faults::refuse;
use crate::command::{Rejected, RejectedCode};
use crate::limits;
use crate::object::Name;

const DAY_MS: u64 = 86_400_000;

/// What the tokens of tenants have added to the history in one day. A copy is cheap.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Growth {
    day: u64,
    bytes: OrdMap<Name, u64>,
}

// === impl Growth ===

impl Growth {
    /// As a checkpoint holds it.
    pub fn restore(day: u64, bytes: impl IntoIterator<Item = (Name, u64)>) -> Self {
        Self {
            day,
            bytes: bytes.into_iter().collect(),
        }
    }

    /// Days since 1970 of what is counted.
    pub const fn day(&self) -> u64 {
        self.day
    }

    /// Bytes by tenant.
    pub fn iter(&self) -> impl Iterator<Item = (&Name, u64)> {
        self.bytes.iter().map(|(tenant, bytes)| (tenant, *bytes))
    }

    /// Counts a change set of `bytes`, if the token of its actor is a tenant's. `before` is the catalog that it changes.
    pub fn note(&mut self, before: &Catalog, actor: &str, bytes: u64, wall_ms: u64) {
        let Some(tenant) = before
            .token(actor)
            .and_then(|token| token.value.tenant.clone())
        else {
            return;
        };
        self.pass(wall_ms);
        if self.bytes.len() >= limits::TENANTS && !self.bytes.contains_key(&tenant) {
            return;
        }
        let counted = self.bytes.entry(tenant).or_insert(0);
        *counted = counted.saturating_add(bytes.saturating_add(limits::RECORD_BYTES));
    }

    /// Whether a token of `tenant` may add a change set of `bytes` more.
    ///
    /// # Errors
    /// It may not today, and the refusal says when again.
    pub fn check(&self, tenant: &str, bytes: u64, wall_ms: u64) -> Result<(), Rejected> {
        let today = day_of(wall_ms).max(self.day) == self.day;
        let counted = self.bytes.get(tenant).filter(|_| today);
        let after = counted
            .copied()
            .unwrap_or_default()
            .saturating_add(bytes.saturating_add(limits::RECORD_BYTES));
        if after <= limits::TENANT_HISTORY_BYTES {
            return Ok(());
        }
        let minutes = (DAY_MS - wall_ms % DAY_MS).div_ceil(60_000);
        let problem = format!(
            "the tokens of tenant {tenant} have changed so much today that the history would have more than {} MiB of it; try again \
             at 00:00 UTC, in {} h {} min, or ask who runs the cluster",
            limits::TENANT_HISTORY_BYTES >> 20,
            minutes / 60,
            minutes % 60
        );
        Err(refuse(RejectedCode::Limit, "tenant", problem))
    }

    fn pass(&mut self, wall_ms: u64) {
        let day = day_of(wall_ms);
        if day > self.day {
            self.day = day;
            self.bytes = OrdMap::new();
        }
    }
}

const fn day_of(wall_ms: u64) -> u64 {
    wall_ms / DAY_MS
}
