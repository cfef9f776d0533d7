//! What clients are told of their limits, as the values of header fields.
//!
//! `x-ratelimit-*` take the figures of the limit that is closest to its end. `RateLimit` says the same as a structured
//! field and `RateLimit-Policy` names all limits (draft-ietf-httpapi-ratelimit-headers). What remains is what nobody has
//! and what this node may spend: other nodes may hold more, and others may be faster, so that it is a hint, as that draft
//! has it. Shadow limits refuse nobody and are not told of.

use std::fmt::Write;
use std::sync::Arc;

use mode_envoy_model::limit::{Limit, Unit, Window};

use crate::calendar::length_ms;
use crate::now::Now;
use crate::number::{count, scaled_up};
use crate::slice::{Slice, share};

/// The largest integer of a structured field.
const INTEGER_MAX: u64 = 999_999_999_999_999;

/// How one limit stands.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Quota {
    /// The limit.
    pub limit: Arc<Limit>,
    /// How much there is at most.
    pub most: u64,
    /// How much is left of it.
    pub remaining: u64,
    /// Seconds until there is more: until the window ends, or until the bucket is full. Absent where no time is known.
    pub reset_s: Option<u64>,
    /// Seconds that the amount is for.
    pub window_s: Option<u64>,
}

/// How the limits of a call stand; those that cannot refuse it are left out.
pub fn quotas(slices: impl IntoIterator<Item = Arc<Slice>>, now: Now) -> Vec<Quota> {
    slices
        .into_iter()
        .filter_map(|slice| quota(&slice, now))
        .collect()
}

/// How one limit stands; nothing, where it refuses nobody.
pub fn quota(slice: &Slice, now: Now) -> Option<Quota> {
    let facts = slice.facts();
    let limit = &facts.limit;
    if facts.gone || limit.shadow {
        return None;
    }
    let bucket = facts.is_bucket();
    let (most, remaining) = if facts.is_local() {
        let most = match limit.window {
            Window::Calendar => share(limit, now),
            Window::Bucket { burst } => (burst / now.nodes.max(1)).max(1),
        };
        (most, slice.left(&facts, now).min(most))
    } else {
        let here = if facts.window_is_over(now) {
            0
        } else {
            facts.left()
        };
        let most = facts.cap();
        (most, count(facts.free(now)).saturating_add(here).min(most))
    };
    let (begins, ends) = facts.window(now);
    let length = length_ms(limit.per);
    let reset_ms = match length {
        Some(length) if bucket => Some(scaled_up(most - remaining, length, limit.amount)),
        _ => ends.map(|ends| ends.saturating_sub(now.wall_ms)),
    };
    let window_ms = if bucket {
        length
    } else {
        ends.map(|ends| ends.saturating_sub(begins))
    };
    let seconds = |ms: u64| ms.div_ceil(1_000);
    Some(Quota {
        limit: Arc::clone(limit),
        most,
        remaining,
        reset_s: reset_ms.map(seconds),
        window_s: window_ms.map(seconds),
    })
}

/// The limit with the least left; of equals the one that takes longest to have more.
pub fn tightest(quotas: &[Quota]) -> Option<&Quota> {
    quotas.iter().min_by_key(|quota| {
        (
            quota.remaining,
            u64::MAX - quota.reset_s.unwrap_or(u64::MAX),
        )
    })
}

/// The value of `RateLimit`.
pub fn rate_limit(quota: &Quota) -> String {
    let mut value = item(quota);
    parameter(&mut value, "r", Some(quota.remaining));
    parameter(&mut value, "t", quota.reset_s);
    value
}

/// The value of `RateLimit-Policy`; empty without limits.
pub fn policy(quotas: &[Quota]) -> String {
    let one = |quota: &Quota| {
        let mut value = item(quota);
        let paced = matches!(quota.limit.window, Window::Bucket { .. });
        parameter(
            &mut value,
            "q",
            Some(if paced {
                quota.limit.amount
            } else {
                quota.most
            }),
        );
        if quota.limit.unit == Unit::Concurrent {
            value.push_str(";qu=\"concurrent-requests\"");
        }
        parameter(&mut value, "w", quota.window_s);
        value
    };
    quotas.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// A limit's name as a string of a structured field, which holds printable ASCII only.
fn item(quota: &Quota) -> String {
    let fits = |c: &char| (' '..='~').contains(c) && !['"', '\\'].contains(c);
    let name: String = quota.limit.name.chars().filter(fits).collect();
    format!("\"{name}\"")
}

fn parameter(value: &mut String, name: &str, number: Option<u64>) {
    if let Some(number) = number {
        // Writing to a string cannot fail.
        let _ = write!(value, ";{name}={}", number.min(INTEGER_MAX));
    }
}
