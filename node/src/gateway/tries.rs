//! The attempts of one call, as they are made: how many, where, and what came of each.
//!
//! The usual call has one, which costs no allocation. Of many, the first few and the last are kept.

use std::sync::Arc;

use crate::usage::record::{EARLIER_MAX, Try};

/// Attempts so far.
#[derive(Debug, Default)]
pub(crate) struct Tries {
    earlier: Vec<Try>,
    last: Option<Try>,
    began_us: u64,
}

// === impl Tries ===

impl Tries {
    /// Another attempt begins, at an endpoint or in this process.
    pub(crate) fn begin(&mut self, endpoint: Option<&Arc<str>>, now_us: u64) {
        let number = self.last.as_ref().map_or(0, |last| last.number);
        if let Some(last) = self.last.take()
            && self.earlier.len() < EARLIER_MAX
        {
            self.earlier.push(last);
        }
        self.began_us = now_us;
        self.last = Some(Try {
            number: number.saturating_add(1),
            endpoint: endpoint.map(Arc::clone),
            status: 0,
            outcome: "unfinished",
            latency_us: 0,
        });
    }

    /// What came of it; `status` is 0 where the upstream gave none.
    pub(crate) fn end(&mut self, status: u16, outcome: &'static str, now_us: u64) {
        if let Some(last) = &mut self.last {
            last.status = status;
            last.outcome = outcome;
            last.latency_us = now_us.saturating_sub(self.began_us);
        }
    }

    /// The first ones, without the last.
    pub(crate) fn earlier(&self) -> &[Try] {
        &self.earlier
    }

    /// The last one.
    pub(crate) fn last(&self) -> Option<&Try> {
        self.last.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_few_and_the_last_are_kept_with_their_numbers() {
        let mut tries = Tries::default();
        for now in 0..9 {
            tries.begin(Some(&Arc::from("http://a:1")), now * 100);
            tries.end(0, "no_connection", now * 100 + 7);
        }
        tries.begin(None, 2_000);
        tries.end(200, "answered", 2_500);
        let kept: Vec<_> = tries.earlier().iter().map(|tried| tried.number).collect();
        assert_eq!(kept, [1, 2, 3]);
        let last = tries.last().unwrap();
        assert_eq!((last.number, last.status, last.latency_us), (10, 200, 500));
    }
}
