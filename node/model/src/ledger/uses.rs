//! What nodes used and gave back, once a batch that says so is known to be sound.

use super::Ledger;
use super::ask::{LeaseId, LeaseUse};
use super::rules::is_bucket;

// === impl Ledger ===

impl Ledger {
    /// Moves what was used and what came back. Of a batch that [`Self::check`] accepted.
    pub(crate) fn settle_all(&mut self, uses: &[LeaseUse]) {
        for one in uses {
            self.settle(one);
        }
    }

    fn settle(&mut self, one: &LeaseUse) {
        let useful = self.comes_back(one.lease);
        let Some(window) = self.window_of_mut(one.lease) else {
            return;
        };
        window.spend(one.lease, one.spent);
        window.give_back(one.lease, one.returned, useful);
        if one.returned > 0 && useful {
            self.came_back(one.lease);
        }
        self.touch_of(one.lease);
        self.close_if_over(one.lease);
    }

    /// Whether others may use what comes back of a lease. A bucket fills by itself meanwhile: what came back to it as well
    /// would let more through in some time than the limit says.
    pub(super) fn comes_back(&self, lease: LeaseId) -> bool {
        let home = self.index.homes.get(&lease);
        let limit = home.and_then(|home| self.limits.get(&home.pool.limit));
        limit.is_none_or(|limit| !is_bucket(limit))
    }

    /// Tells that units of a lease are free again, if its window is the one now.
    pub(super) fn came_back(&mut self, lease: LeaseId) {
        let Some(home) = self.index.homes.get(&lease).cloned() else {
            return;
        };
        let epoch = self.count_up();
        if let Some(pool) = self.pool_mut(&home.pool)
            && pool.window.number == home.window
        {
            pool.epoch = epoch;
        }
    }

    pub(super) fn touch_of(&mut self, lease: LeaseId) {
        if let Some(home) = self.index.homes.get(&lease).cloned() {
            self.touch(&home.pool);
        }
    }

    /// A lease of a window that is over ends with the last unit.
    fn close_if_over(&mut self, lease: LeaseId) {
        let Some(home) = self.index.homes.get(&lease) else {
            return;
        };
        let number = home.window;
        let over = self.over.get(&number);
        let done = over
            .and_then(|over| over.window.lease(lease))
            .is_some_and(|lease| lease.outstanding() == 0);
        if done && let Some(window) = self.window_of_mut(lease) {
            window.finish(lease, true);
            self.forget_lease(lease);
            self.drop_if_empty(number);
        }
    }
}
