//! What a call may use: it takes of all limits that it matches, or of none, before anything is recorded or sent.
//!
//! Where this node has nothing left of one the call waits for the log, for a part of a second at most. What is taken is in
//! the call's record, by which the log settles it; a call that is refused takes nothing.

use std::rc::Rc;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};
use mode_envoy_limits::header::{Quota, policy, quota, rate_limit, tightest};
use mode_envoy_limits::{LIMITS_PER_CALL, NotTaken, Reservation, Slice, Verdict, take_all};
use mode_envoy_model::limit::Unit;

use super::call::Call;
use super::error::Error;
use crate::limits::Ended;

const LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit-requests");
const REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining-requests");
const RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset-requests");
const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// A call takes one of each: one request, one place.
const NEED: u64 = 1;

/// Takes what the call needs.
pub(super) async fn take(call: &mut Call) -> Result<(), Error> {
    let known = Rc::clone(call.known());
    let slices = known.limits.as_ref().map_err(|full| Error::Pools(*full))?;
    let Some(first) = slices.first() else {
        return Ok(());
    };
    let mut all = [(first, NEED); LIMITS_PER_CALL];
    for (place, slice) in all.iter_mut().zip(slices) {
        place.0 = slice;
    }
    let Some(all) = all.get(..slices.len()) else {
        // No catalog is accepted under which a call matches more.
        return Err(Error::Limiter(Ended));
    };
    let limiter = &call.worker().limiter;
    let taken = match take_all(all, limiter.now()) {
        Ok(taken) => taken,
        Err(NotTaken::Refused(refusal)) => return Err(Error::Limit(refusal)),
        Err(NotTaken::Cold(_) | NotTaken::TooMany) => wait(call, slices).await?,
    };
    call.worker().meters.admitted();
    for at in taken.exceeded() {
        if let Some(slice) = slices.get(at) {
            call.worker().meters.shadow_refused(&slice.limit().name);
        }
    }
    call.holds(taken);
    Ok(())
}

async fn wait(call: &Call, slices: &[Arc<Slice>]) -> Result<Reservation, Error> {
    let all = slices.iter().map(|slice| (Arc::clone(slice), NEED));
    let limiter = &call.worker().limiter;
    match limiter.wait(all.collect()).await {
        Ok(Verdict::Admitted(taken)) => Ok(*taken),
        Ok(Verdict::Refused(refusal)) => Err(Error::Limit(refusal)),
        Err(ended) => Err(Error::Limiter(ended)),
    }
}

/// Tells the client how its limits stand.
pub(super) fn put_headers(call: &Call, headers: &mut HeaderMap) {
    let Ok(slices) = &call.known().limits else {
        return;
    };
    if slices.is_empty() {
        return;
    }
    let now = call.worker().limiter.now();
    let quotas: Vec<Quota> = slices.iter().filter_map(|s| quota(s, now)).collect();
    let requests = quotas
        .iter()
        .filter(|quota| quota.limit.unit == Unit::Requests);
    if let Some(quota) = requests.min_by_key(|quota| quota.remaining) {
        headers.insert(LIMIT, HeaderValue::from(quota.most));
        headers.insert(REMAINING, HeaderValue::from(quota.remaining));
        if let Some(seconds) = quota.reset_s {
            put(headers, RESET, &format!("{seconds}s"));
        }
    }
    if let Some(quota) = tightest(&quotas) {
        put(headers, RATE_LIMIT, &rate_limit(quota));
        put(headers, POLICY, &policy(&quotas));
    }
}

fn put(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}
