//! The answers of `usage`, as values that tests compare.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::Value;

/// One row of `usage -o json`.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct Row {
    /// Calls in all.
    pub calls: u64,
    /// Of these, ended with 400 or more, or cut.
    pub errors: u64,
    /// Of these, refused before any attempt.
    pub rejected: u64,
    /// Of these, with usage that was estimated.
    pub estimated_calls: u64,
    /// Of these, open when their node died.
    pub presumed_calls: u64,
    /// Tokens in.
    pub input_tokens: u64,
    /// Tokens out.
    pub output_tokens: u64,
    /// Their sum.
    pub total_tokens: u64,
    /// A decimal.
    pub cost_usd: String,
    /// Dimensions and the other metrics.
    #[serde(flatten)]
    pub rest: BTreeMap<String, Value>,
}

// === impl Row ===

impl Row {
    /// The value of a dimension; empty where it has none.
    pub fn dimension(&self, name: &str) -> &str {
        self.rest
            .get(name)
            .and_then(Value::as_str)
            .unwrap_or_default()
    }

    /// The cost in billionths of a dollar.
    ///
    /// # Errors
    ///
    /// It is no decimal of at most nine places.
    pub fn nano_usd(&self) -> Result<u64> {
        let (whole, places) = self
            .cost_usd
            .split_once('.')
            .unwrap_or((&self.cost_usd, ""));
        ensure!(
            places.len() <= 9,
            "{} has more than nine places",
            self.cost_usd
        );
        let text = format!("{whole}{places:0<9}");
        text.parse()
            .with_context(|| format!("{} is no decimal", self.cost_usd))
    }
}

// === free functions ===

/// The rows of an answer.
///
/// # Errors
///
/// It has none, or they lack a metric.
pub fn rows(answer: &Value) -> Result<Vec<Row>> {
    let rows = answer
        .get("rows")
        .with_context(|| format!("no rows in {answer}"))?;
    Vec::<Row>::deserialize(rows).with_context(|| format!("reading the rows of {answer}"))
}

/// The only row of an answer.
///
/// # Errors
///
/// There is none, or more than one.
pub fn row(answer: &Value) -> Result<Row> {
    let mut rows = rows(answer)?;
    ensure!(rows.len() == 1, "one row was expected in {answer}");
    rows.pop().context("counted above")
}

/// A text of an answer: `from`, `to`, `interval`.
///
/// # Errors
///
/// It is not there.
pub fn text<'a>(answer: &'a Value, field: &str) -> Result<&'a str> {
    answer[field]
        .as_str()
        .with_context(|| format!("no {field} in {answer}"))
}
