//! Single calls: which ones, as they come, and why they were answered as they were. Gathered from all members.
//!
//! A record stays on the node that served its call, so a member that does not answer is named: its calls are missing.

use mode_envoy_proto::peer::v1::{CallFilter, CallRecord};

use super::authorize::{self, Action, check};
use super::time::{now_ms, parse_time};
use super::{Control, ControlError, Principal};

pub use self::explain::explain;
pub use self::follow::{Follow, Followed};
pub use self::gather::{Gather, Gathered};

mod explain;
mod follow;
mod gather;

const TEN_MINUTES_MS: u64 = 600_000;
/// Records of an answer, where the question does not say.
const LIMIT: u32 = 100;
/// Records of one answer at most.
pub const LIMIT_MAX: u32 = 5_000;
/// Bytes of a filter's text.
const TEXT_MAX: usize = 256;
/// Bytes of a request id.
const ID_MAX: usize = 128;
/// Calls that one explanation is about; a label may have been used again and again.
const EXPLAINED_MAX: u32 = 20;

/// Which calls, as a caller writes it. Empty texts hold of all.
#[derive(Clone, Debug, Default)]
pub struct CallsFilter {
    /// Name of a key.
    pub key: String,
    /// A class of status as `5xx`, or a code.
    pub status: String,
    /// Name of a tenant.
    pub tenant: String,
    /// Name of a route.
    pub route: String,
}

/// A question as a caller writes it.
#[derive(Clone, Debug, Default)]
pub struct CallsQuestion {
    /// RFC 3339; empty: ten minutes before `to`.
    pub from: String,
    /// RFC 3339; empty: now.
    pub to: String,
    /// Which calls.
    pub filter: CallsFilter,
    /// How many; 0: a hundred.
    pub limit: u32,
    /// Cover every call that ended before now, on every reachable node.
    pub linearizable: bool,
}

// === impl Control ===

impl Control {
    /// The newest calls that match, in the order of their beginnings.
    ///
    /// # Errors
    ///
    /// What is wrong with the question.
    pub async fn query_calls(
        &self,
        who: &Principal,
        question: &CallsQuestion,
    ) -> Result<Gathered, ControlError> {
        check(who.role, Action::Read)?;
        let filter = narrowed(who, question.filter(now_ms())?)?;
        let limit = match question.limit {
            0 => LIMIT,
            limit if limit <= LIMIT_MAX => limit,
            _ => {
                let problem =
                    format!("at most {LIMIT_MAX} calls are told at once; ask for a shorter time");
                return Err(ControlError::invalid("limit", problem));
            }
        };
        let mut found = self
            .calls
            .newest(filter, limit, question.linearizable)
            .await;
        hide_places(who, &mut found.calls);
        Ok(found)
    }

    /// Calls of all nodes as they end, from now on.
    ///
    /// # Errors
    ///
    /// What is wrong with the filter, or that too many follow already.
    pub fn follow_calls(
        &self,
        who: &Principal,
        filter: &CallsFilter,
    ) -> Result<Follow, ControlError> {
        check(who.role, Action::Read)?;
        let filter = narrowed(who, filter.read()?)?;
        Follow::begin(self.calls.clone(), filter, who.clone())
    }

    /// The calls with this request id or call id, the newest last; whatever had ended before is covered.
    ///
    /// # Errors
    ///
    /// The id is none, or no node that answered knows it.
    pub async fn find_calls(&self, who: &Principal, id: &str) -> Result<Gathered, ControlError> {
        check(who.role, Action::Read)?;
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if id.is_empty() || id.len() > ID_MAX || !id.bytes().all(allowed) {
            let problem = "it is neither a request id nor a call id; give the value of x-request-id or \
                           x-mode-envoy-call-id of an answer";
            return Err(ControlError::invalid("id", problem));
        }
        let filter = CallFilter {
            id: id.to_owned(),
            tenant: authorize::narrowed(who, "")?.to_owned(),
            ..CallFilter::default()
        };
        let mut found = self.calls.newest(filter, EXPLAINED_MAX, true).await;
        if found.more {
            let note = format!("more calls have this id; the newest {EXPLAINED_MAX} are explained");
            found.warnings.push(note);
        }
        if found.calls.is_empty() {
            return Err(ControlError::not_found(
                "id",
                nobody_knows(&found.missing_nodes),
            ));
        }
        hide_places(who, &mut found.calls);
        Ok(found)
    }
}

// === impl CallsQuestion ===

impl CallsQuestion {
    fn filter(&self, now_ms: u64) -> Result<CallFilter, ControlError> {
        let to_ms = match self.to.as_str() {
            // A clock that is ahead of this one must not hide what it stamped.
            "" => u64::MAX,
            text => parse_time("to", text)?,
        };
        let from_ms = match self.from.as_str() {
            "" => to_ms.min(now_ms).saturating_sub(TEN_MINUTES_MS),
            text => parse_time("from", text)?,
        };
        if from_ms >= to_ms {
            let problem = "it is not before `to`; give an earlier one";
            return Err(ControlError::invalid("from", problem));
        }
        Ok(CallFilter {
            from_ms,
            to_ms,
            ..self.filter.read()?
        })
    }
}

// === impl CallsFilter ===

impl CallsFilter {
    fn read(&self) -> Result<CallFilter, ControlError> {
        for (field, text) in [
            ("key", &self.key),
            ("tenant", &self.tenant),
            ("route", &self.route),
        ] {
            if text.len() > TEXT_MAX {
                return Err(ControlError::invalid(field, "it is too long for a name"));
            }
        }
        let (status_from, status_to) = match self.status.as_str() {
            "" => (0, 0),
            text => status_range(text).ok_or_else(|| {
                let problem =
                    format!("`{text}` is not a status; write a class as 5xx or a code as 429");
                ControlError::invalid("status", problem)
            })?,
        };
        Ok(CallFilter {
            key: self.key.clone(),
            tenant: self.tenant.clone(),
            route: self.route.clone(),
            status_from,
            status_to,
            ..CallFilter::default()
        })
    }
}

// === free functions ===

/// The codes that a class or a code stands for, both included.
pub fn status_range(text: &str) -> Option<(u32, u32)> {
    if let Some(class) = text.strip_suffix("xx") {
        let class: u32 = class.parse().ok()?;
        return (1..=5)
            .contains(&class)
            .then_some((class * 100, class * 100 + 99));
    }
    let code = text.parse().ok()?;
    (100..=599).contains(&code).then_some((code, code))
}

fn nobody_knows(missing_nodes: &[u64]) -> String {
    let whoever =
        "no node knows such a call; it may be older than what is kept, or still be going on";
    if missing_nodes.is_empty() {
        return whoever.to_owned();
    }
    let nodes: Vec<_> = missing_nodes.iter().map(ToString::to_string).collect();
    format!(
        "{whoever}, or it is on node {}, which did not answer",
        nodes.join(", ")
    )
}

/// Records in the order of their beginnings.
fn by_time(calls: &mut [CallRecord]) {
    calls.sort_by(|a, b| (a.start_ms, &a.call_id).cmp(&(b.start_ms, &b.call_id)));
}

/// Where an attempt went is the business of who runs the cluster: a tenant's services are not the tenant's.
fn hide_places(who: &Principal, calls: &mut [CallRecord]) {
    if who.tenant.is_some() {
        let attempts = calls.iter_mut().flat_map(|call| &mut call.attempts);
        attempts.for_each(|attempt| attempt.endpoint.clear());
    }
}

/// A token of a tenant sees the tenant's calls alone.
fn narrowed(who: &Principal, filter: CallFilter) -> Result<CallFilter, ControlError> {
    let tenant = authorize::narrowed(who, &filter.tenant)?.to_owned();
    Ok(CallFilter { tenant, ..filter })
}

#[cfg(test)]
mod tests {
    use super::*;

    type Spoil = fn(&mut CallsQuestion);

    const NOW_MS: u64 = 1_772_357_430_000;

    #[test]
    fn a_status_is_a_class_or_a_code() {
        for (text, range) in [
            ("5xx", Some((500, 599))),
            ("429", Some((429, 429))),
            ("6xx", None),
            ("42", None),
            ("ok", None),
            ("xx", None),
        ] {
            assert_eq!(status_range(text), range, "{text}");
        }
    }

    #[test]
    fn a_question_without_times_is_about_the_last_ten_minutes() {
        let filter = CallsQuestion::default().filter(NOW_MS).unwrap();
        assert_eq!(filter.from_ms, NOW_MS - 600_000);
        assert!(filter.to_ms > NOW_MS);
    }

    #[test]
    fn each_fault_of_a_question_names_its_field() {
        let text = str::to_owned;
        let faults: [(&str, Spoil); 5] = [
            ("from", |q| q.from = "noon".to_owned()),
            ("to", |q| q.to = "noon".to_owned()),
            ("from", |q| {
                q.from = "2026-03-01T10:00:00Z".to_owned();
                q.to = "2026-03-01T09:00:00Z".to_owned();
            }),
            ("status", |q| q.filter.status = "fine".to_owned()),
            ("key", |q| q.filter.key = "k".repeat(300)),
        ];
        for (field, spoil) in faults {
            let mut question = CallsQuestion {
                to: text("2026-03-01T12:00:00Z"),
                ..CallsQuestion::default()
            };
            spoil(&mut question);
            let refused = question.filter(NOW_MS).unwrap_err().to_string();
            assert!(
                refused.starts_with(&format!("refused: {field}: ")),
                "{refused}"
            );
        }
    }
}
