//! How calls are printed: the field names are promised to scripts.

use mode_envoy_proto::admin::v1 as pb;
use serde::ser::{Serialize, SerializeMap as _, Serializer};

use self::refused::ShownRefused;
use super::super::output::{Format, Table, csv_line, json_line, yaml};

mod refused;

/// An answer as JSON and YAML show it.
pub(crate) struct ShownCalls<'a>(pub(crate) &'a pb::QueryCallsResponse);

/// One call.
pub(crate) struct ShownCall<'a>(pub(crate) &'a pb::Call);

struct ShownAttempt<'a>(&'a pb::Attempt);

// === impl ShownCalls ===

impl Serialize for ShownCalls<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let calls: Vec<_> = self.0.calls.iter().map(ShownCall).collect();
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("calls", &calls)?;
        map.serialize_entry("missing_nodes", &self.0.missing_nodes)?;
        map.serialize_entry("more", &self.0.more)?;
        map.end()
    }
}

// === impl ShownCall ===

impl Serialize for ShownCall<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let call = self.0;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("time", &call.time)?;
        map.serialize_entry("call_id", &call.call_id)?;
        map.serialize_entry("request_id", &call.request_id)?;
        map.serialize_entry("node", &call.node)?;
        for (name, text) in dimensions(call) {
            map.serialize_entry(name, text)?;
        }
        map.serialize_entry("method", &call.method)?;
        map.serialize_entry("path", &call.path)?;
        map.serialize_entry("status", &call.status)?;
        let attempts: Vec<_> = call.attempts.iter().map(ShownAttempt).collect();
        map.serialize_entry("attempts", &attempts)?;
        map.serialize_entry("latency_ms", &call.latency_ms)?;
        map.serialize_entry("ttft_ms", &call.ttft_ms)?;
        for (name, value) in integers(call) {
            map.serialize_entry(name, &value)?;
        }
        map.serialize_entry("usage_source", &present(&call.usage_source))?;
        map.serialize_entry("cost_usd", &call.cost_usd)?;
        map.serialize_entry("priced", &call.priced)?;
        map.serialize_entry("error", &present(&call.error))?;
        map.serialize_entry("reason", &present(&call.reason))?;
        map.serialize_entry("revision", &call.revision)?;
        map.serialize_entry("rejected", &call.rejected)?;
        map.serialize_entry("presumed", &call.presumed)?;
        map.serialize_entry("cut", &call.cut)?;
        map.serialize_entry("refused", &call.refused.as_ref().map(ShownRefused))?;
        map.end()
    }
}

// === impl ShownAttempt ===

impl Serialize for ShownAttempt<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let attempt = self.0;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("number", &attempt.number)?;
        map.serialize_entry("provider", &attempt.provider)?;
        map.serialize_entry("endpoint", &attempt.endpoint)?;
        map.serialize_entry("status", &attempt.status)?;
        map.serialize_entry("outcome", &attempt.outcome)?;
        map.serialize_entry("latency_ms", &attempt.latency_ms)?;
        map.end()
    }
}

// === free functions ===

/// An answer as columns: what fits a screen, or all of it as CSV.
pub(crate) fn columns(calls: &[pb::Call], format: Format) -> Table {
    if format == Format::Csv {
        wide(calls)
    } else {
        narrow(calls)
    }
}

/// One call on a line of its own.
pub(crate) fn line(call: &ShownCall<'_>, format: Format, first: bool) -> String {
    match format {
        Format::Json => json_line(call),
        Format::Yaml => yaml(&[call]),
        Format::Csv => {
            let table = wide(std::slice::from_ref(call.0));
            let head = if first {
                csv_line(&table.head)
            } else {
                String::new()
            };
            head + &table
                .rows
                .iter()
                .map(|row| csv_line(row))
                .collect::<String>()
        }
        Format::Table => {
            let cells = cells(call.0).map(|cell| {
                if cell.is_empty() {
                    "-".to_owned()
                } else {
                    cell
                }
            });
            cells.join("  ") + "\n"
        }
    }
}

const NARROW: [&str; 13] = [
    "time",
    "node",
    "status",
    "method",
    "path",
    "tenant",
    "key",
    "model",
    "error",
    "request_id",
    "latency_ms",
    "tokens",
    "cost_usd",
];

fn narrow(calls: &[pb::Call]) -> Table {
    Table {
        head: NARROW.map(str::to_owned).to_vec(),
        rows: calls.iter().map(|call| cells(call).to_vec()).collect(),
        texts: NARROW.len() - 3,
    }
}

fn cells(call: &pb::Call) -> [String; NARROW.len()] {
    let tokens = match call.usage_source.as_str() {
        "" => String::new(),
        _ => call.total_tokens.to_string(),
    };
    let cost = if call.priced {
        call.cost_usd.clone()
    } else {
        String::new()
    };
    let error = if !call.error.is_empty() {
        call.error.clone()
    } else if call.presumed || call.cut {
        call.reason.clone()
    } else {
        String::new()
    };
    [
        call.time.clone(),
        call.node.to_string(),
        call.status.to_string(),
        call.method.clone(),
        call.path.clone(),
        call.tenant.clone(),
        call.key.clone(),
        call.model.clone(),
        error,
        call.request_id.clone(),
        format!("{:.1}", call.latency_ms),
        tokens,
        cost,
    ]
}

fn wide(calls: &[pb::Call]) -> Table {
    let sample = pb::Call::default();
    let mut head = vec!["time", "call_id", "request_id", "node"];
    head.extend(dimensions(&sample).map(|(name, _)| name));
    head.extend([
        "method",
        "path",
        "status",
        "attempts",
        "latency_ms",
        "ttft_ms",
    ]);
    head.extend(integers(&sample).map(|(name, _)| name));
    head.extend([
        "usage_source",
        "cost_usd",
        "priced",
        "error",
        "reason",
        "revision",
        "rejected",
        "presumed",
        "cut",
        "refused",
    ]);
    Table {
        texts: head.len(),
        head: head.into_iter().map(str::to_owned).collect(),
        rows: calls.iter().map(wide_cells).collect(),
    }
}

fn wide_cells(call: &pb::Call) -> Vec<String> {
    let mut cells = vec![
        call.time.clone(),
        call.call_id.clone(),
        call.request_id.clone(),
        call.node.to_string(),
    ];
    cells.extend(dimensions(call).map(|(_, text)| text.to_owned()));
    cells.extend([
        call.method.clone(),
        call.path.clone(),
        call.status.to_string(),
        call.attempts.len().to_string(),
        call.latency_ms.to_string(),
        call.ttft_ms.map(|ms| ms.to_string()).unwrap_or_default(),
    ]);
    cells.extend(integers(call).map(|(_, value)| value.to_string()));
    cells.extend([
        call.usage_source.clone(),
        call.cost_usd.clone(),
        call.priced.to_string(),
        call.error.clone(),
        call.reason.clone(),
        call.revision.to_string(),
        call.rejected.to_string(),
        call.presumed.to_string(),
        call.cut.to_string(),
        // Which limit; the rest is for those who read objects.
        (call.refused.as_ref()).map_or_else(String::new, |by| by.limit.clone()),
    ]);
    cells
}

fn dimensions(call: &pb::Call) -> [(&'static str, &str); 9] {
    [
        ("tenant", &call.tenant),
        ("team", &call.team),
        ("consumer", &call.consumer),
        ("key", &call.key),
        ("route", &call.route),
        ("api", &call.api),
        ("model", &call.model),
        ("provider", &call.provider),
        ("upstream_model", &call.upstream_model),
    ]
}

fn integers(call: &pb::Call) -> [(&'static str, u64); 8] {
    [
        ("input_tokens", call.input_tokens),
        ("cached_input_tokens", call.cached_input_tokens),
        ("cache_write_tokens", call.cache_write_tokens),
        ("output_tokens", call.output_tokens),
        ("reasoning_tokens", call.reasoning_tokens),
        ("total_tokens", call.total_tokens),
        ("bytes_in", call.bytes_in),
        ("bytes_out", call.bytes_out),
    ]
}

fn present(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::super::super::output::render;
    use super::*;

    fn found() -> pb::QueryCallsResponse {
        let text = str::to_owned;
        let call = |id: &str, status, error: &str| pb::Call {
            call_id: id.repeat(16),
            request_id: text("order-17"),
            node: 2,
            time: text("2026-03-01T09:30:00.250Z"),
            method: text("POST"),
            path: text("/v1/chat/completions"),
            status,
            latency_ms: 12.34,
            cost_usd: text("0"),
            error: text(error),
            refused: (status == 429).then(|| pb::RefusedBy {
                limit: text("daily"),
                window_ends: text("2026-03-02T00:00:00Z"),
                ..pb::RefusedBy::default()
            }),
            ..pb::Call::default()
        };
        let answered = pb::Call {
            tenant: text("acme"),
            key: text("first"),
            model: text("fast"),
            usage_source: text("reported"),
            total_tokens: 42,
            cost_usd: text("0.000264"),
            priced: true,
            ttft_ms: Some(3.5),
            attempts: vec![pb::Attempt {
                number: 1,
                provider: text("up"),
                endpoint: text("http://127.0.0.1:1"),
                status: 200,
                outcome: text("answered"),
                latency_ms: 3.0,
            }],
            ..call("ab", 200, "")
        };
        pb::QueryCallsResponse {
            calls: vec![call("cd", 401, "unauthenticated"), answered],
            missing_nodes: vec![3],
            more: true,
            warnings: Vec::new(),
        }
    }

    #[test]
    fn calls_are_columns_for_people() {
        let found = found();
        let table = render(Format::Table, &columns(&found.calls, Format::Table), &());
        let lines: Vec<_> = table
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>())
            .collect();
        assert_eq!(lines[0].len(), NARROW.len());
        assert_eq!(
            lines[1].join(" "),
            "2026-03-01T09:30:00.250Z 2 401 POST /v1/chat/completions - - - unauthenticated order-17 12.3 - -"
        );
        assert_eq!(
            lines[2].join(" "),
            "2026-03-01T09:30:00.250Z 2 200 POST /v1/chat/completions acme first fast - order-17 12.3 42 0.000264"
        );
    }

    #[test]
    fn calls_are_objects_for_scripts_and_absent_values_are_null() {
        let found = found();
        let json = render(Format::Json, &Table::default(), &ShownCalls(&found));
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["missing_nodes"], serde_json::json!([3]));
        let call = &json["calls"][1];
        assert_eq!((&call["status"], &call["node"]), (&200.into(), &2.into()));
        assert_eq!(call["attempts"][0]["endpoint"], "http://127.0.0.1:1");
        assert!(call["error"].is_null() && json["calls"][0]["ttft_ms"].is_null());
        let csv = render(Format::Csv, &columns(&found.calls, Format::Csv), &());
        let mut lines = csv.lines();
        let head: Vec<_> = lines.next().unwrap().split(',').collect();
        let names: Vec<_> = call.as_object().unwrap().keys().collect();
        assert!(
            names.iter().all(|name| head.contains(&name.as_str())),
            "{head:?} {names:?}"
        );
        assert!(lines.all(|line| line.split(',').count() == head.len()));
    }

    #[test]
    fn a_followed_call_is_one_line() {
        let found = found();
        for format in [Format::Table, Format::Json] {
            let text = line(&ShownCall(&found.calls[0]), format, true);
            assert_eq!(text.matches('\n').count(), 1, "{text}");
        }
        let csv = line(&ShownCall(&found.calls[0]), Format::Csv, true);
        assert_eq!(csv.lines().count(), 2);
    }
}
