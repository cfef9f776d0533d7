//! Which records a question is about.

use mode_envoy_proto::peer::v1::{CallFilter, CallRecord};

use super::record::{hash_of_id, hash_of_key};
use crate::secrets::hex;

/// A filter, ready to be held against many records.
#[derive(Clone, Debug)]
pub(crate) struct Matcher {
    filter: CallFilter,
}

// === impl Matcher ===

impl Matcher {
    pub(crate) fn new(filter: Option<&CallFilter>) -> Self {
        let mut filter = filter.cloned().unwrap_or_default();
        if filter.to_ms == 0 {
            filter.to_ms = u64::MAX;
        }
        Self { filter }
    }

    pub(super) fn range(&self) -> (u64, u64) {
        (self.filter.from_ms, self.filter.to_ms)
    }

    /// What a record that matches was given.
    pub(super) fn hashes(&self) -> Vec<u64> {
        let mut hashes = Vec::new();
        if !self.filter.id.is_empty() {
            hashes.push(hash_of_id(&self.filter.id));
        }
        if !self.filter.key.is_empty() {
            hashes.push(hash_of_key(&self.filter.key));
        }
        hashes
    }

    /// Whether a record matches.
    pub(crate) fn takes(&self, record: &CallRecord) -> bool {
        let filter = &self.filter;
        let same = |wanted: &str, had: &str| wanted.is_empty() || wanted == had;
        let status = filter.status_to == 0
            || (filter.status_from..=filter.status_to).contains(&record.status);
        let id = same(&filter.id, &record.request_id) || filter.id == hex(&record.call_id);
        (filter.from_ms..filter.to_ms).contains(&record.start_ms)
            && status
            && id
            && same(&filter.key, &record.key)
            && same(&filter.tenant, &record.tenant)
            && same(&filter.route, &record.route)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> CallRecord {
        CallRecord {
            call_id: vec![0xab; 16],
            request_id: "order-17".to_owned(),
            start_ms: 1_000,
            key: "first".to_owned(),
            tenant: "acme".to_owned(),
            route: "orders".to_owned(),
            status: 503,
            ..CallRecord::default()
        }
    }

    #[test]
    fn a_record_must_match_in_every_field_that_is_asked_for() {
        let text = str::to_owned;
        let id = CallFilter {
            id: "ab".repeat(16),
            ..CallFilter::default()
        };
        let all = CallFilter {
            from_ms: 1_000,
            to_ms: 1_001,
            key: text("first"),
            status_from: 500,
            status_to: 599,
            tenant: text("acme"),
            route: text("orders"),
            id: text("order-17"),
        };
        let takes = |filter: &CallFilter| Matcher::new(Some(filter)).takes(&record());
        assert!(takes(&CallFilter::default()) && takes(&id) && takes(&all));
        let spoils: [fn(&mut CallFilter); 7] = [
            |f| f.from_ms = 1_001,
            |f| f.to_ms = 1_000,
            |f| f.key = "second".to_owned(),
            |f| (f.status_from, f.status_to) = (429, 429),
            |f| f.tenant = "beta".to_owned(),
            |f| f.route = "other".to_owned(),
            |f| f.id = "order-18".to_owned(),
        ];
        for (at, spoil) in spoils.into_iter().enumerate() {
            let mut filter = all.clone();
            spoil(&mut filter);
            assert!(!takes(&filter), "{at}");
        }
    }
}
