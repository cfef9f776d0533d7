//! How usage is printed: the field names are promised to scripts, dimensions stand beside metrics in a row.

use mode_envoy_proto::admin::v1 as pb;
use serde::ser::{Serialize, SerializeMap as _, Serializer};

use super::super::output::Table;

/// An answer as JSON and YAML show it.
pub(super) struct ShownUsage<'a> {
    pub(super) found: &'a pb::QueryUsageResponse,
    pub(super) group_by: &'a [String],
}

struct ShownRow<'a> {
    row: &'a pb::UsageRow,
    group_by: &'a [String],
}

// === impl ShownUsage ===

impl Serialize for ShownUsage<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { found, group_by } = self;
        let rows: Vec<_> = found
            .rows
            .iter()
            .map(|row| ShownRow { row, group_by })
            .collect();
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("from", &found.from)?;
        map.serialize_entry("to", &found.to)?;
        map.serialize_entry("interval", &found.interval)?;
        map.serialize_entry("applied_index", &found.applied_index)?;
        map.serialize_entry("percentiles_from", &present(&found.percentiles_from))?;
        map.serialize_entry("percentiles_to", &present(&found.percentiles_to))?;
        map.serialize_entry("missing_nodes", &found.missing_nodes)?;
        map.serialize_entry("rows", &rows)?;
        map.end()
    }
}

// === impl ShownRow ===

impl Serialize for ShownRow<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let row = self.row;
        let mut map = serializer.serialize_map(None)?;
        if let Some(time) = present(&row.time) {
            map.serialize_entry("time", time)?;
        }
        for name in self.group_by {
            map.serialize_entry(name, dimension(row, name))?;
        }
        for (name, value) in integers(row) {
            map.serialize_entry(name, &value)?;
        }
        map.serialize_entry("cost_usd", &row.cost_usd)?;
        for (name, value) in latencies(row) {
            map.serialize_entry(name, &value)?;
        }
        map.serialize_entry("folded", &row.folded)?;
        map.end()
    }
}

// === free functions ===

/// An answer as columns for people: what fits on a screen.
pub(super) fn narrow(found: &pb::QueryUsageResponse, group_by: &[String]) -> Table {
    let metrics = [
        "calls", "errors", "rejected", "input", "output", "total", "cost_usd", "p50_ms", "p95_ms",
    ];
    let timed = found.interval != "total";
    let mut head = dimensions_head(group_by, timed);
    let texts = head.len();
    head.extend(metrics.map(str::to_owned));
    let row = |row: &pb::UsageRow| {
        let mut cells = dimensions(row, group_by, timed);
        let counts = [
            row.calls,
            row.errors,
            row.rejected,
            row.input_tokens,
            row.output_tokens,
            row.total_tokens,
        ];
        cells.extend(counts.map(|count| count.to_string()));
        cells.push(row.cost_usd.clone());
        cells.extend([row.latency_p50_ms, row.latency_p95_ms].map(latency));
        cells
    };
    Table {
        head,
        rows: found.rows.iter().map(row).collect(),
        texts,
    }
}

/// An answer as CSV: every metric.
pub(super) fn wide(found: &pb::QueryUsageResponse, group_by: &[String]) -> Table {
    let timed = found.interval != "total";
    let sample = pb::UsageRow::default();
    let mut head = dimensions_head(group_by, timed);
    let texts = head.len();
    head.extend(integers(&sample).map(|(name, _)| name.to_owned()));
    head.push("cost_usd".to_owned());
    head.extend(latencies(&sample).map(|(name, _)| name.to_owned()));
    head.push("folded".to_owned());
    let rows = found
        .rows
        .iter()
        .map(|row| cells(row, group_by, timed))
        .collect();
    Table { head, rows, texts }
}

fn cells(row: &pb::UsageRow, group_by: &[String], timed: bool) -> Vec<String> {
    let mut cells = dimensions(row, group_by, timed);
    cells.extend(integers(row).map(|(_, value)| value.to_string()));
    cells.push(row.cost_usd.clone());
    cells.extend(latencies(row).map(|(_, value)| latency(value)));
    cells.push(row.folded.to_string());
    cells
}

fn dimensions_head(group_by: &[String], timed: bool) -> Vec<String> {
    timed
        .then(|| "time".to_owned())
        .into_iter()
        .chain(group_by.iter().cloned())
        .collect()
}

fn dimensions(row: &pb::UsageRow, group_by: &[String], timed: bool) -> Vec<String> {
    let values = group_by.iter().map(|name| dimension(row, name).to_owned());
    timed
        .then(|| row.time.clone())
        .into_iter()
        .chain(values)
        .collect()
}

/// Empty where there is none.
fn latency(ms: Option<f64>) -> String {
    ms.map(|ms| ms.to_string()).unwrap_or_default()
}

fn dimension<'a>(row: &'a pb::UsageRow, name: &str) -> &'a str {
    row.dimensions.get(name).map_or("", String::as_str)
}

fn integers(row: &pb::UsageRow) -> [(&'static str, u64); 14] {
    [
        ("calls", row.calls),
        ("errors", row.errors),
        ("rejected", row.rejected),
        ("estimated_calls", row.estimated_calls),
        ("presumed_calls", row.presumed_calls),
        ("unpriced_attempts", row.unpriced_attempts),
        ("input_tokens", row.input_tokens),
        ("cached_input_tokens", row.cached_input_tokens),
        ("cache_write_tokens", row.cache_write_tokens),
        ("output_tokens", row.output_tokens),
        ("reasoning_tokens", row.reasoning_tokens),
        ("total_tokens", row.total_tokens),
        ("bytes_in", row.bytes_in),
        ("bytes_out", row.bytes_out),
    ]
}

fn latencies(row: &pb::UsageRow) -> [(&'static str, Option<f64>); 4] {
    [
        ("latency_p50_ms", row.latency_p50_ms),
        ("latency_p95_ms", row.latency_p95_ms),
        ("latency_p99_ms", row.latency_p99_ms),
        ("ttft_p50_ms", row.ttft_p50_ms),
    ]
}

fn present(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::super::super::output::{Format, render};
    use super::*;

    fn found() -> pb::QueryUsageResponse {
        let row = |key: &str, calls, p50| pb::UsageRow {
            time: "2026-03-01T09:00:00Z".to_owned(),
            dimensions: [("key".to_owned(), key.to_owned())].into(),
            calls,
            input_tokens: 35,
            cached_input_tokens: 20,
            output_tokens: 7,
            total_tokens: 42,
            cost_usd: "0.000000015".to_owned(),
            latency_p50_ms: p50,
            ..pb::UsageRow::default()
        };
        pb::QueryUsageResponse {
            from: "2026-03-01T09:00:00Z".to_owned(),
            to: "2026-03-01T10:00:00Z".to_owned(),
            interval: "hour".to_owned(),
            applied_index: 17,
            rows: vec![row("ci", 3, Some(1.5)), row("", 120, None)],
            missing_nodes: vec![3],
            percentiles_from: "2026-03-01T09:00:00Z".to_owned(),
            percentiles_to: String::new(),
        }
    }

    fn rendered(format: Format, found: &pb::QueryUsageResponse) -> String {
        let group_by = ["key".to_owned()];
        let table = if format == Format::Csv {
            wide(found, &group_by)
        } else {
            narrow(found, &group_by)
        };
        render(
            format,
            &table,
            &ShownUsage {
                found,
                group_by: &group_by,
            },
        )
    }

    #[test]
    fn usage_is_printed_as_the_golden_files_say() {
        assert_eq!(
            rendered(Format::Table, &found()),
            include_str!("golden/hour.txt")
        );
        assert_eq!(
            rendered(Format::Json, &found()),
            include_str!("golden/hour.json")
        );
        assert_eq!(
            rendered(Format::Csv, &found()),
            include_str!("golden/hour.csv")
        );
    }

    #[test]
    fn a_total_has_no_time() {
        let mut found = found();
        found.interval = "total".to_owned();
        for row in &mut found.rows {
            row.time.clear();
        }
        assert!(rendered(Format::Csv, &found).starts_with("key,calls,"));
        let json: serde_json::Value =
            serde_json::from_str(&rendered(Format::Json, &found)).unwrap();
        assert_eq!(json["rows"][0].get("time"), None);
        assert_eq!(json["rows"][1]["latency_p50_ms"], serde_json::Value::Null);
    }
}
