//! The latest records in memory, for those who follow: numbered as they come, forgotten when there are many.
//!
//! A follower names the run it knows and the number it has seen. A node that starts again has another run and numbers
//! from the start; so a follower is told everything of it, and what it has seen already it knows by the calls' ids.

use std::collections::VecDeque;

use mode_envoy_proto::peer::v1 as wire;
use prost::Message as _;

use super::PAGE_MAX;
use super::filter::Matcher;

/// Bytes of records that are kept.
const BYTES_MAX: usize = 4 << 20;

/// The latest records.
#[derive(Debug)]
pub(crate) struct Tail {
    run: u64,
    /// The number of the first one that is kept.
    first: u64,
    /// Encoded: most are never asked for.
    records: VecDeque<Box<[u8]>>,
    bytes: usize,
}

// === impl Tail ===

impl Tail {
    /// Of a run that is told from others by when it began.
    pub(super) fn new(began_ms: u64) -> Self {
        Self {
            run: began_ms.max(1),
            first: 1,
            records: VecDeque::new(),
            bytes: 0,
        }
    }

    /// Takes an encoded record.
    pub(super) fn push(&mut self, record: &[u8]) {
        self.bytes += record.len();
        self.records.push_back(record.into());
        while self.bytes > BYTES_MAX {
            let Some(oldest) = self.records.pop_front() else {
                break;
            };
            self.bytes -= oldest.len();
            self.first += 1;
        }
    }

    /// What has come since; nothing to one who begins to follow.
    pub(super) fn since(&self, request: &wire::TailCallsRequest) -> wire::TailCallsResponse {
        let end = self.first + self.records.len() as u64;
        let mut answer = wire::TailCallsResponse {
            run: self.run,
            next: end,
            ..wire::TailCallsResponse::default()
        };
        if request.run == 0 {
            return answer;
        }
        let after = if request.run == self.run {
            request.after
        } else {
            1
        };
        answer.missed = self.first.saturating_sub(after);
        let from = after.clamp(self.first, end);
        let matcher = Matcher::new(request.filter.as_ref());
        let limit = usize::try_from(request.limit.clamp(1, PAGE_MAX)).unwrap_or(1);
        let skip = usize::try_from(from - self.first).unwrap_or(usize::MAX);
        answer.next = from;
        for record in self.records.iter().skip(skip) {
            if answer.calls.len() == limit {
                answer.more = true;
                break;
            }
            answer.next += 1;
            // It was encoded in this process.
            let Ok(record) = wire::CallRecord::decode(&**record) else {
                continue;
            };
            if matcher.takes(&record) {
                answer.calls.push(record);
            }
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(number: u64) -> Vec<u8> {
        let record = wire::CallRecord {
            start_ms: number,
            path: "x".repeat(1_000),
            ..wire::CallRecord::default()
        };
        record.encode_to_vec()
    }

    fn ask(tail: &Tail, run: u64, after: u64, limit: u32) -> wire::TailCallsResponse {
        tail.since(&wire::TailCallsRequest {
            run,
            after,
            limit,
            ..wire::TailCallsRequest::default()
        })
    }

    fn times(answer: &wire::TailCallsResponse) -> Vec<u64> {
        answer.calls.iter().map(|call| call.start_ms).collect()
    }

    #[test]
    fn a_follower_begins_now_and_is_told_what_comes_in_pages() {
        let mut tail = Tail::new(7);
        tail.push(&record(1));
        let begun = ask(&tail, 0, 0, 10);
        assert_eq!((begun.run, begun.next, begun.calls.len()), (7, 2, 0));
        (2..=4).for_each(|number| tail.push(&record(number)));
        let page = ask(&tail, 7, begun.next, 2);
        assert_eq!((times(&page), page.more), (vec![2, 3], true));
        let page = ask(&tail, 7, page.next, 2);
        assert_eq!((times(&page), page.more), (vec![4], false));
        assert!(ask(&tail, 7, page.next, 2).calls.is_empty());
    }

    #[test]
    fn another_run_is_told_from_its_start() {
        let mut tail = Tail::new(8);
        tail.push(&record(1));
        assert_eq!(times(&ask(&tail, 7, 900, 10)), [1]);
    }

    #[test]
    fn whoever_is_too_slow_is_told_how_much_is_gone() {
        let mut tail = Tail::new(7);
        let begun = ask(&tail, 0, 0, 1);
        (0..6_000).for_each(|number| tail.push(&record(number)));
        let answer = ask(&tail, 7, begun.next, 1);
        assert!(answer.missed > 1_000, "{}", answer.missed);
        assert_eq!(times(&answer), [answer.missed]);
    }
}
