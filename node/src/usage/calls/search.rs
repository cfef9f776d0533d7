//! One page of an answer: the newest records that match, before a place.
//!
//! Records are ordered by their beginning and, where that is the same, by their id; so a page goes on just where the last
//! one ended, and a record that were there twice would be told once.

use std::collections::BTreeMap;

use mode_envoy_proto::peer::v1 as wire;
use mode_envoy_storage::call_log::{CallLogError, CallLogReader, Search};
use prost::Message as _;

use super::PAGE_MAX;
use super::filter::Matcher;

type Place = (u64, Vec<u8>);

/// What one page is about.
#[derive(Clone, Debug)]
pub(super) struct Page {
    matcher: Matcher,
    search: Search,
    before: Option<Place>,
    limit: usize,
}

// === impl Page ===

impl Page {
    pub(super) fn of(request: &wire::QueryCallsRequest, oldest_ms: u64) -> Self {
        let matcher = Matcher::new(request.filter.as_ref());
        let before = request.before.clone();
        let before = before.map(|place| (place.start_ms, place.call_id));
        let (from_ms, to_ms) = matcher.range();
        let end = before
            .as_ref()
            .map_or(u64::MAX, |(ms, _)| ms.saturating_add(1));
        let search = Search {
            from_ms: from_ms.max(oldest_ms),
            to_ms: to_ms.min(end),
            hashes: matcher.hashes(),
        };
        let limit = request.limit.clamp(1, PAGE_MAX);
        Self {
            matcher,
            search,
            before,
            limit: usize::try_from(limit).unwrap_or(1),
        }
    }

    pub(super) fn search(
        &self,
        reader: &CallLogReader,
    ) -> Result<wire::QueryCallsResponse, CallLogError> {
        let mut newest: BTreeMap<Place, wire::CallRecord> = BTreeMap::new();
        let mut more = false;
        let mut visit = |_: u64, bytes: &[u8]| {
            // What another release wrote decodes as far as it is known; what does not is none of ours.
            if let Ok(record) = wire::CallRecord::decode(bytes)
                && self.matcher.takes(&record)
            {
                let place = (record.start_ms, record.call_id.clone());
                if self.before.as_ref().is_none_or(|before| place < *before) {
                    newest.insert(place, record);
                }
                if newest.len() > self.limit {
                    newest.pop_first();
                    more = true;
                }
            }
            let oldest = newest.first_key_value();
            let full = newest.len() == self.limit;
            oldest
                .filter(|_| full && more)
                .map_or(0, |((ms, _), _)| *ms)
        };
        reader.search(&self.search, &mut visit)?;
        Ok(wire::QueryCallsResponse {
            calls: newest.into_values().rev().collect(),
            more,
            warnings: Vec::new(),
        })
    }
}
