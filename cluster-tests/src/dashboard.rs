//! The Grafana dashboard, made from the metrics that the program declares.
//!
//! Every declared metric has a panel, in the row of its component, and no panel shows anything else: a metric that is added or renamed
//! changes the dashboard, and the test that compares it with the file in `deploy/` says so.

use serde_json::{Value, json};

/// A metric as it is declared.
#[derive(Clone, Copy, Debug)]
pub struct Declared<'a> {
    /// `mode_envoy_<component>_<thing>_<unit>`.
    pub name: &'a str,
    /// It only grows.
    pub counter: bool,
    /// What it counts: a sentence.
    pub help: &'a str,
}

/// Components in the order of their rows, with the titles; others follow by name.
const ROWS: [(&str, &str); 9] = [
    ("gateway", "Traffic"),
    ("upstream", "Upstreams"),
    ("usage", "Usage"),
    ("limit", "Limits"),
    ("raft", "Consensus"),
    ("catalog", "Configuration"),
    ("table", "Configuration in force"),
    ("node", "Node"),
    ("wal", "Log on disk"),
];

/// Panels of one line.
const COLUMNS: usize = 3;
const WIDTH: usize = 24 / COLUMNS;
const HEIGHT: usize = 7;

/// The dashboard as Grafana imports it.
pub fn dashboard(metrics: &[Declared<'_>]) -> Value {
    let mut panels = Vec::new();
    let (mut y, mut id) = (0, 1);
    for (title, members) in rows(metrics) {
        panels.push(json!({
            "id": id, "type": "row", "title": title, "collapsed": false, "panels": [],
            "gridPos": {"h": 1, "w": 24, "x": 0, "y": y},
        }));
        (id, y) = (id + 1, y + 1);
        for (at, metric) in members.iter().enumerate() {
            let place = (at % COLUMNS * WIDTH, y + at / COLUMNS * HEIGHT);
            panels.push(panel(id, metric, place));
            id += 1;
        }
        y += members.len().div_ceil(COLUMNS) * HEIGHT;
    }
    json!({
        "title": "Mode Envoy",
        "uid": "mode-envoy",
        "tags": ["mode-envoy"],
        "editable": true,
        "schemaVersion": 39,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [data_source(), instances()]},
        "panels": panels,
    })
}

fn rows<'m>(metrics: &[Declared<'m>]) -> Vec<(String, Vec<Declared<'m>>)> {
    let mut rows: Vec<(String, Vec<Declared<'m>>)> = Vec::new();
    let known = |component: &str| ROWS.iter().position(|(name, _)| *name == component);
    let mut sorted = metrics.to_vec();
    sorted.sort_by_key(|metric| {
        let component = component(metric.name);
        (
            known(component).unwrap_or(ROWS.len()),
            component,
            metric.name,
        )
    });
    for metric in sorted {
        let component = component(metric.name);
        let title = known(component).map_or_else(|| capital(component), |at| ROWS[at].1.to_owned());
        match rows.last_mut() {
            Some((last, members)) if *last == title => members.push(metric),
            _ => rows.push((title, vec![metric])),
        }
    }
    rows
}

fn panel(id: usize, metric: &Declared<'_>, (x, y): (usize, usize)) -> Value {
    let selector = format!("{}{{instance=~\"$instance\"}}", metric.name);
    let (expr, unit) = if metric.counter {
        (
            format!("rate({selector}[$__rate_interval])"),
            counter_unit(metric.name),
        )
    } else {
        (selector, gauge_unit(metric.name))
    };
    json!({
        "id": id,
        "type": "timeseries",
        "title": title(metric.name),
        "description": metric.help,
        "datasource": {"type": "prometheus", "uid": "${source}"},
        "gridPos": {"h": HEIGHT, "w": WIDTH, "x": x, "y": y},
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi", "sort": "desc"}},
        "targets": [{"refId": "A", "expr": expr, "legendFormat": "__auto"}],
    })
}

fn data_source() -> Value {
    json!({"name": "source", "label": "Data source", "type": "datasource", "query": "prometheus"})
}

fn instances() -> Value {
    json!({
        "name": "instance", "label": "Node", "type": "query",
        "datasource": {"type": "prometheus", "uid": "${source}"},
        "query": "label_values(mode_envoy_node_ready, instance)",
        "refresh": 2, "multi": true, "includeAll": true, "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    })
}

fn component(name: &str) -> &str {
    let rest = name.strip_prefix("mode_envoy_").unwrap_or(name);
    rest.split('_').next().unwrap_or(rest)
}

/// `mode_envoy_usage_spool_bytes` reads "Usage spool bytes".
fn title(name: &str) -> String {
    let rest = name.strip_prefix("mode_envoy_").unwrap_or(name);
    let rest = rest.strip_suffix("_total").unwrap_or(rest);
    capital(&rest.replace('_', " "))
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| {
        first.to_uppercase().chain(letters).collect()
    })
}

fn counter_unit(name: &str) -> &'static str {
    if name.ends_with("_bytes_total") {
        "Bps"
    } else {
        "cps"
    }
}

fn gauge_unit(name: &str) -> &'static str {
    match name.rsplit('_').next() {
        Some("bytes") => "bytes",
        Some("seconds") => "s",
        Some("percent") => "percent",
        Some("ratio") => "percentunit",
        _ => "short",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_is_shown_as_a_rate_and_a_gauge_as_it_is() {
        let metrics = [
            Declared {
                name: "mode_envoy_wal_written_bytes_total",
                counter: true,
                help: "Bytes.",
            },
            Declared {
                name: "mode_envoy_gateway_connections",
                counter: false,
                help: "Open ones.",
            },
        ];
        let made = dashboard(&metrics);
        let titles: Vec<_> = made["panels"]
            .as_array()
            .unwrap()
            .iter()
            .map(|p| &p["title"])
            .collect();
        assert_eq!(
            titles,
            [
                "Traffic",
                "Gateway connections",
                "Log on disk",
                "Wal written bytes"
            ]
        );
        assert_eq!(
            made["panels"][1]["targets"][0]["expr"],
            "mode_envoy_gateway_connections{instance=~\"$instance\"}"
        );
        let rate = &made["panels"][3];
        assert_eq!(
            rate["targets"][0]["expr"],
            "rate(mode_envoy_wal_written_bytes_total{instance=~\"$instance\"}[$__rate_interval])"
        );
        assert_eq!(rate["fieldConfig"]["defaults"]["unit"], "Bps");
    }

    #[test]
    fn panels_do_not_overlap() {
        let names: Vec<_> = (0..7).map(|n| format!("mode_envoy_raft_x{n}")).collect();
        let metrics: Vec<_> = names
            .iter()
            .map(|name| Declared {
                name,
                counter: false,
                help: "A.",
            })
            .collect();
        let made = dashboard(&metrics);
        let mut places: Vec<_> = made["panels"]
            .as_array()
            .unwrap()
            .iter()
            .map(|p| {
                (
                    p["gridPos"]["y"].as_u64().unwrap(),
                    p["gridPos"]["x"].as_u64().unwrap(),
                )
            })
            .collect();
        let all = places.len();
        places.dedup();
        assert_eq!(places.len(), all);
        assert!(places.is_sorted());
    }
}
