//! What a batch may say to the ledger; checked before anything is changed, and alike on every node.

use super::Ledger;
use super::ask::{Ask, AskItem, LeaseId, LeaseUse};
use super::window::{Lease, MOST};
use crate::batch::Outcome;
use crate::limit::{Limit, Mode, Unit};
use crate::limits;

// === impl Ledger ===

impl Ledger {
    /// Whether a batch of a node may be applied; else what it comes to.
    ///
    /// Every use must be backed: of a lease of this node, in whatever life, that is not over, and within what it has. Only where
    /// the mode is `bounded` may more be used, and that at most the amount again: it is owed by all.
    pub(crate) fn check(&self, node: u64, uses: &[LeaseUse], asks: &[Ask]) -> Result<(), Outcome> {
        let items = asks.iter().map(|ask| ask.items.len());
        if uses.len() > limits::BATCH_USES
            || asks.len() > limits::BATCH_ASKS
            || items.sum::<usize>() > limits::BATCH_ASK_ITEMS
            || !uses.is_sorted_by(|a, b| a.lease < b.lease)
            || !asks.iter().all(is_sound)
        {
            return Err(Outcome::Malformed);
        }
        match uses.iter().find(|one| !self.backs(node, one)) {
            Some(one) => Err(Outcome::Unbacked(one.lease)),
            None => Ok(()),
        }
    }

    fn backs(&self, node: u64, one: &LeaseUse) -> bool {
        let Some((lease, limit)) = self.lease_and_limit(one.lease) else {
            return false;
        };
        let Some(all) = one
            .spent
            .checked_add(one.returned)
            .filter(|all| *all <= MOST)
        else {
            return false;
        };
        if lease.node != node || limit.is_some_and(|l| l.unit == Unit::Concurrent && one.spent > 0)
        {
            return false;
        }
        let beyond = all.saturating_sub(lease.outstanding());
        let may_owe = limit
            .filter(|limit| limit.mode == Mode::Bounded)
            .map_or(0, |limit| self.rules.cap(limit).saturating_sub(lease.owed));
        beyond <= may_owe.min(one.spent)
    }

    fn lease_and_limit(&self, id: LeaseId) -> Option<(&Lease, Option<&Limit>)> {
        let home = self.index.homes.get(&id)?;
        let limit = self.limits.get(&home.pool.limit).map(|limit| &**limit);
        Some((self.lease(id)?, limit))
    }
}

/// In order, none twice, and of sizes that the books take.
fn is_sound(ask: &Ask) -> bool {
    let sound = |item: &AskItem| {
        item.pool.value.len() <= limits::EACH_VALUE
            && item.typical >= 1
            && item.need <= MOST
            && item.want <= MOST
    };
    ask.items.is_sorted_by(|a, b| a.pool < b.pool) && ask.items.iter().all(sound)
}
