//! What must hold at the end of the demo: every node tells the same table, and it adds up to what the answers said.

use anyhow::{Context, Result, ensure};
use mode_envoy_ai::price::{Price, cost, format_usd};
use mode_envoy_ai::usage::Usage;
use serde_json::Value;

use super::at;
use super::example::PRICES;
use super::nodes::{Node, Nodes};

/// The question that every node is asked.
pub(crate) const QUERY: [&str; 3] = [
    "--group-by",
    "tenant,consumer,model,route",
    "--linearizable",
];

/// One node's answer.
pub(crate) struct Table {
    pub(crate) text: String,
    rows: Value,
}

/// What the calls came to, by their own answers.
#[derive(Default)]
pub(crate) struct Expected {
    calls: u64,
    rejected: u64,
    input: u64,
    output: u64,
    nano_usd: u64,
}

// === impl Expected ===

impl Expected {
    /// A chat call with the usage that its answer told.
    pub(crate) fn tokens(&mut self, model: &str, usage: &Value) -> Result<()> {
        let count = |field: &str| {
            usage
                .get(field)
                .and_then(Value::as_u64)
                .with_context(|| format!("no {field} in {usage}"))
        };
        let told = Usage {
            input_uncached: count("prompt_tokens")?,
            output: count("completion_tokens")?,
            ..Usage::default()
        };
        let (_, input, output) = PRICES
            .iter()
            .find(|(name, ..)| *name == model)
            .context("a model without price")?;
        let price = Price {
            input: input.parse().context("reading the example's prices")?,
            output: output.parse().context("reading the example's prices")?,
            cached_input: None,
            cache_write: None,
        };
        self.calls += 1;
        self.input += told.input_uncached;
        self.output += told.output;
        self.nano_usd += cost(&told, &price);
        Ok(())
    }

    /// A call that has no tokens.
    pub(crate) fn plain(&mut self) {
        self.calls += 1;
    }

    /// A call that the gateway refused.
    pub(crate) fn refused(&mut self) {
        self.calls += 1;
        self.rejected += 1;
    }

    pub(crate) fn calls(&self) -> u64 {
        self.calls
    }

    pub(crate) fn cost_usd(&self) -> String {
        format_usd(self.nano_usd)
    }
}

/// Asks every node.
pub(crate) async fn tables(nodes: &Nodes) -> Result<Vec<Table>> {
    let mut tables = Vec::new();
    for node in nodes.iter() {
        tables.push(table(node).await?);
    }
    Ok(tables)
}

async fn table(node: &Node) -> Result<Table> {
    let text = node.cli(&[&["usage"], &QUERY[..]].concat()).await?;
    let json = node
        .cli(&[&["usage"], &QUERY[..], &["-o", "json"]].concat())
        .await?;
    let answer: Value = serde_json::from_str(&json).context("reading a usage answer")?;
    Ok(Table {
        text,
        rows: at(&answer, "/rows")?.clone(),
    })
}

/// Fails unless the tables are equal, not empty, and add up.
pub(crate) fn hold(tables: &[Table], expected: &Expected) -> Result<()> {
    let first = tables.first().context("no node was asked")?;
    for (index, table) in tables.iter().enumerate() {
        ensure!(
            table.rows == first.rows,
            "node {} tells another table than node 1",
            index + 1
        );
    }
    let rows = first.rows.as_array().context("rows are not a list")?;
    ensure!(!rows.is_empty(), "the usage table is empty");
    for (field, told) in [
        ("calls", expected.calls),
        ("rejected", expected.rejected),
        ("input_tokens", expected.input),
        ("output_tokens", expected.output),
    ] {
        let counted: u64 = rows
            .iter()
            .filter_map(|row| row.get(field).and_then(Value::as_u64))
            .sum();
        ensure!(
            counted == told,
            "{field}: the table says {counted}, the answers said {told}"
        );
    }
    let cost = rows.iter().map(nano_usd).sum::<Result<u64>>()?;
    ensure!(
        cost == expected.nano_usd,
        "cost: the table says {}, the answers and the price table {}",
        format_usd(cost),
        format_usd(expected.nano_usd)
    );
    Ok(())
}

fn nano_usd(row: &Value) -> Result<u64> {
    let text = row
        .get("cost_usd")
        .and_then(Value::as_str)
        .context("a row without cost_usd")?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let whole: u64 = whole
        .parse()
        .with_context(|| format!("reading the cost {text:?}"))?;
    let nano: u64 = format!("{fraction:0<9}")
        .parse()
        .with_context(|| format!("reading the cost {text:?}"))?;
    Ok(whole * 1_000_000_000 + nano)
}
