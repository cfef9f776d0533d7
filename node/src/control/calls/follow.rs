//! Calls of all members as they end: every member is asked for what has come, again and again.
//!
//! Each member numbers what comes, so nothing is told twice while it lives and nothing is left out unseen. A member that
//! has started again tells everything of its new life; what its last life had told already is known by the calls' ids.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use mode_envoy_proto::peer::v1::{CallFilter, CallRecord, TailCallsRequest, TailCallsResponse};
use mode_envoy_raft::{BoxFuture, CallRecords as _};
use tokio::sync::OwnedSemaphorePermit;

use super::super::time::now_ms;
use super::{Gather, by_time, hide_places};
use crate::control::{ControlError, Principal};
use crate::usage::calls::PAGE_MAX;

/// Between two questions.
const PAUSE: Duration = Duration::from_millis(250);
/// For one question.
const TIMEOUT: Duration = Duration::from_secs(1);
/// Calls that are known to have been told.
const SEEN_MAX: usize = 20_000;
/// A life of a member that it has had before this one.
const EARLIER_RUN: u64 = u64::MAX;

/// One who follows.
#[derive(Debug)]
pub struct Follow {
    gather: Gather,
    filter: CallFilter,
    who: Principal,
    began_ms: u64,
    /// By member: its run and the next number.
    places: BTreeMap<u64, Place>,
    missing: Option<Vec<u64>>,
    seen: Seen,
    _permit: OwnedSemaphorePermit,
}

/// What has come.
#[derive(Clone, Debug, Default)]
pub struct Followed {
    /// In the order of their beginnings.
    pub calls: Vec<CallRecord>,
    /// Members that do not answer now.
    pub missing_nodes: Vec<u64>,
    /// Calls that came too fast to be told.
    pub missed: u64,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    run: u64,
    next: u64,
    /// Not heard of when the following began: what is older than that is not told.
    late: bool,
}

#[derive(Debug, Default)]
struct Seen {
    order: VecDeque<Vec<u8>>,
    ids: HashSet<Vec<u8>>,
}

// === impl Follow ===

impl Follow {
    pub(super) fn begin(
        gather: Gather,
        filter: CallFilter,
        who: Principal,
    ) -> Result<Self, ControlError> {
        let permit = Arc::clone(&gather.followers).try_acquire_owned();
        let permit = permit.map_err(|_| {
            ControlError::Unavailable(
                "too many follow the calls of this node already; ask another node".to_owned(),
            )
        })?;
        Ok(Self {
            gather,
            filter,
            who,
            began_ms: now_ms(),
            places: BTreeMap::new(),
            missing: None,
            seen: Seen::default(),
            _permit: permit,
        })
    }

    /// What has come next; `None` when this node ends.
    ///
    /// # Errors
    ///
    /// The follower's token was revoked.
    pub async fn next(&mut self) -> Result<Option<Followed>, ControlError> {
        loop {
            let catalog = self.gather.handle.catalog();
            if catalog.token_by_hash(&self.who.hash).is_none() {
                return Err(ControlError::Unauthenticated);
            }
            let (mut followed, more) = self.ask_all().await;
            if self.who.tenant.is_some() {
                // Others' calls are among those.
                followed.missed = 0;
            }
            hide_places(&self.who, &mut followed.calls);
            let news = self.missing.as_ref() != Some(&followed.missing_nodes);
            self.missing = Some(followed.missing_nodes.clone());
            if news || !followed.calls.is_empty() || followed.missed > 0 {
                return Ok(Some(followed));
            }
            if more {
                continue;
            }
            tokio::select! {
                () = self.gather.stopping.cancelled() => return Ok(None),
                () = tokio::time::sleep(PAUSE) => {}
            }
        }
    }

    /// One question to each member; whether one of them has more to tell at once.
    async fn ask_all(&mut self) -> (Followed, bool) {
        let first = self.missing.is_none();
        let asked: Vec<_> = self
            .gather
            .members()
            .into_iter()
            .map(|node| (node, self.ask(node, first)))
            .collect();
        let (mut followed, mut more) = (Followed::default(), false);
        for (node, answer) in asked {
            match answer.await {
                Some(answer) => {
                    more |= answer.more;
                    followed.missed += answer.missed;
                    let late = self.places.get(&node).map_or(!first, |place| place.late);
                    let (run, next) = (answer.run, answer.next);
                    self.places.insert(node, Place { run, next, late });
                    let new = answer.calls.into_iter();
                    followed
                        .calls
                        .extend(new.filter(|call| self.seen.is_new(call)));
                }
                None => followed.missing_nodes.push(node),
            }
        }
        by_time(&mut followed.calls);
        (followed, more)
    }

    fn ask(&self, node: u64, first: bool) -> BoxFuture<Option<TailCallsResponse>> {
        let place = match self.places.get(&node) {
            Some(place) => *place,
            // Who was not there at the beginning tells everything of its new life.
            None => Place {
                run: if first { 0 } else { EARLIER_RUN },
                next: 0,
                late: !first,
            },
        };
        let mut filter = self.filter.clone();
        if place.late {
            filter.from_ms = self.began_ms;
        }
        let request = TailCallsRequest {
            envelope: None,
            filter: Some(filter),
            run: place.run,
            after: place.next,
            limit: PAGE_MAX,
        };
        if node == self.gather.handle.node_id() {
            let own = self.gather.store.tail(request);
            return Box::pin(async move { own.await.ok() });
        }
        self.gather.handle.tail_calls(node, request, TIMEOUT)
    }
}

// === impl Seen ===

impl Seen {
    fn is_new(&mut self, call: &CallRecord) -> bool {
        if !self.ids.insert(call.call_id.clone()) {
            return false;
        }
        self.order.push_back(call.call_id.clone());
        if self.order.len() > SEEN_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.ids.remove(&oldest);
        }
        true
    }
}
