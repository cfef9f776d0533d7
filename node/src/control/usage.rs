//! Questions about usage: from what a caller writes to a query, and who may ask.

use mode_envoy_model::limits::QUERY_FILTERS;
use mode_envoy_model::usage::query::{Dimension, Interval, Query, QueryError};

use super::authorize::{self, Action, check};
use super::time::{now_ms, parse_time};
use super::{Control, ControlError, Principal};
use crate::usage::queries::{Answer, QueryFailure};

const HOUR_MS: u64 = 3_600_000;
const MINUTE_MS: u64 = 60_000;

/// A question as a caller writes it.
#[derive(Clone, Debug, Default)]
pub struct UsageQuestion {
    /// RFC 3339; empty: an hour before `to`.
    pub from: String,
    /// RFC 3339; empty: now.
    pub to: String,
    /// Empty: `total`.
    pub interval: String,
    /// Names of dimensions.
    pub group_by: Vec<String>,
    /// Names of dimensions, and values.
    pub filter: Vec<(String, String)>,
    /// Cover every call that ended before now, on every reachable node.
    pub linearizable: bool,
}

/// An answer, and the question it answers.
#[derive(Debug)]
pub struct UsageAnswer {
    /// The question.
    pub query: Query,
    /// The answer.
    pub answer: Answer,
}

// === impl Control ===

impl Control {
    /// Answers a question about usage.
    ///
    /// # Errors
    ///
    /// What is wrong with the question, or what keeps the cluster from a linearizable answer.
    pub async fn query_usage(
        &self,
        who: &Principal,
        question: &UsageQuestion,
    ) -> Result<UsageAnswer, ControlError> {
        check(who.role, Action::Read)?;
        let mut query = query(question, now_ms())?;
        if let Some(tenant) = &who.tenant {
            only_of(tenant, who, &mut query)?;
        }
        let answer = self.usage.run(query.clone(), question.linearizable).await;
        let answer = answer.map_err(|error| match error {
            QueryFailure::Query(error) => ControlError::invalid("query", error.to_string()),
            QueryFailure::NoQuorum(_) => ControlError::Unavailable(
                "a linearizable answer needs a quorum: most of the nodes must be up and reach one \
                 another; ask without --linearizable for what this node has"
                    .to_owned(),
            ),
            QueryFailure::Interrupted => ControlError::Unavailable(error.to_string()),
        })?;
        Ok(UsageAnswer { query, answer })
    }
}

// === free functions ===

/// Narrows a query to a tenant; naming another one is naming none.
fn only_of(tenant: &str, who: &Principal, query: &mut Query) -> Result<(), ControlError> {
    let named = query.filter.iter().filter(|(d, _)| *d == Dimension::Tenant);
    for (_, name) in named {
        authorize::check_named_tenant(who, name)?;
        if name.is_empty() {
            return Err(ControlError::not_found(
                "filter",
                "there are no calls without a tenant",
            ));
        }
    }
    query
        .filter
        .retain(|(dimension, _)| *dimension != Dimension::Tenant);
    query.filter.push((Dimension::Tenant, tenant.to_owned()));
    Ok(())
}

/// The query that a question asks; the range is rounded out to whole minutes.
fn query(question: &UsageQuestion, now_ms: u64) -> Result<Query, ControlError> {
    let to_ms = match question.to.as_str() {
        "" => now_ms,
        text => parse_time("to", text)?,
    };
    let from_ms = match question.from.as_str() {
        "" => to_ms.saturating_sub(HOUR_MS),
        text => parse_time("from", text)?,
    };
    let interval = match question.interval.as_str() {
        "" => Interval::Total,
        text => Interval::parse(text).map_err(|e| of_field("interval", &e))?,
    };
    let minute = |ms: u64, field| {
        u32::try_from(ms).map_err(|_| ControlError::invalid(field, "the time is too far off"))
    };
    Ok(Query {
        from_minute: minute(from_ms / MINUTE_MS, "from")?,
        to_minute: minute(to_ms.div_ceil(MINUTE_MS), "to")?,
        interval,
        group_by: group_by(question)?,
        filter: filter(question)?,
    })
}

fn group_by(question: &UsageQuestion) -> Result<Vec<Dimension>, ControlError> {
    let mut dimensions = Vec::new();
    for name in &question.group_by {
        let dimension = Dimension::parse(name).map_err(|e| of_field("group_by", &e))?;
        if dimensions.contains(&dimension) {
            let problem = format!("`{name}` is there twice; name each dimension once");
            return Err(ControlError::invalid("group_by", problem));
        }
        dimensions.push(dimension);
    }
    Ok(dimensions)
}

fn filter(question: &UsageQuestion) -> Result<Vec<(Dimension, String)>, ControlError> {
    if question.filter.len() > QUERY_FILTERS {
        let problem = format!("at most {QUERY_FILTERS} filters are taken; use fewer");
        return Err(ControlError::invalid("filter", problem));
    }
    let pairs = question.filter.iter();
    pairs
        .map(|(name, value)| Ok((Dimension::parse(name)?, value.clone())))
        .collect::<Result<_, QueryError>>()
        .map_err(|e| of_field("filter", &e))
}

fn of_field(field: &str, error: &QueryError) -> ControlError {
    ControlError::invalid(field, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    type Spoil = fn(&mut UsageQuestion);

    const NOW_MS: u64 = 1_772_357_430_000; // 2026-03-01T09:30:30Z

    #[test]
    fn a_question_without_times_is_about_the_last_hour_rounded_out() {
        let query = query(&UsageQuestion::default(), NOW_MS).unwrap();
        assert_eq!(
            (query.from_minute, query.to_minute),
            (29_539_230, 29_539_291)
        );
        assert_eq!(query.interval, Interval::Total);
    }

    #[test]
    fn a_question_is_read_field_by_field() {
        let text = |s: &str| s.to_owned();
        let query = query(
            &UsageQuestion {
                from: text("2026-03-01T00:00:00Z"),
                to: text("2026-03-01T12:00:00Z"),
                interval: text("hour"),
                group_by: vec![text("tenant"), text("node")],
                filter: vec![(text("status"), text("2xx"))],
                linearizable: false,
            },
            NOW_MS,
        )
        .unwrap();
        assert_eq!(query.to_minute - query.from_minute, 720);
        assert_eq!(query.group_by, [Dimension::Tenant, Dimension::Node]);
        assert_eq!(query.filter, [(Dimension::Status, text("2xx"))]);
    }

    #[test]
    fn each_fault_of_a_question_names_its_field() {
        let faults: [(&str, Spoil); 7] = [
            ("from", |q| q.from = "noon".to_owned()),
            ("to", |q| q.to = "noon".to_owned()),
            ("interval", |q| q.interval = "week".to_owned()),
            ("group_by", |q| q.group_by = vec!["city".to_owned()]),
            ("group_by", |q| q.group_by = vec!["key".to_owned(); 2]),
            ("filter", |q| {
                q.filter = vec![("city".to_owned(), "x".to_owned())];
            }),
            ("filter", |q| {
                q.filter = vec![("key".to_owned(), "x".to_owned()); 101];
            }),
        ];
        for (field, spoil) in faults {
            let mut question = UsageQuestion::default();
            spoil(&mut question);
            let refused = query(&question, NOW_MS).unwrap_err().to_string();
            assert!(
                refused.starts_with(&format!("refused: {field}: ")),
                "{refused}"
            );
        }
    }
}
