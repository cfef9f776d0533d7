//! What stands in `deploy/` is true of this program: its metrics, its flags, its documents.
//!
//! The dashboard is generated (`REWRITE=1 cargo test -p mode-envoy-cluster-tests --test deploy`); everything else is written by hand and
//! held against the program here.

#![expect(
    clippy::panic,
    reason = "the helpers of a test may panic like the test itself"
)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use mode_envoy_cluster_tests::dashboard::{Declared, dashboard};
use mode_envoy_node::metrics::{ALL, MetricKind};
use serde::Deserialize;

#[derive(Deserialize)]
struct Rules {
    groups: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    name: String,
    rules: Vec<Rule>,
}

#[derive(Deserialize)]
struct Rule {
    alert: String,
    expr: String,
    labels: Labels,
    annotations: Annotations,
}

#[derive(Deserialize)]
struct Labels {
    severity: String,
}

#[derive(Deserialize)]
struct Annotations {
    summary: String,
    runbook: String,
}

#[test]
fn the_dashboard_shows_every_metric_and_nothing_else() {
    let metrics: Vec<_> = ALL
        .iter()
        .map(|(name, kind, help)| Declared {
            name,
            counter: *kind == MetricKind::Counter,
            help,
        })
        .collect();
    let made = format!(
        "{}\n",
        serde_json::to_string_pretty(&dashboard(&metrics)).unwrap()
    );
    let path = deploy().join("grafana/mode-envoy.json");
    if std::env::var_os("REWRITE").is_some() {
        std::fs::write(&path, &made).unwrap();
    }
    assert!(
        read("grafana/mode-envoy.json") == made,
        "{} is not what the declared metrics make: run `REWRITE=1 cargo test -p mode-envoy-cluster-tests --test deploy`",
        path.display()
    );
}

#[test]
fn every_alert_asks_for_metrics_that_exist_and_names_a_section_of_the_manual() {
    let rules: Rules = yaml("prometheus/rules.yaml");
    let declared: BTreeSet<_> = ALL.iter().map(|(name, ..)| *name).collect();
    let manual = std::fs::read_to_string(deploy().join("../docs/operating.md")).unwrap();
    let anchors: BTreeSet<_> = manual
        .lines()
        .filter_map(|line| {
            line.strip_prefix("## ")
                .or_else(|| line.strip_prefix("### "))
        })
        .map(anchor)
        .collect();
    let mut alerts = BTreeSet::new();
    for group in &rules.groups {
        assert!(!group.rules.is_empty(), "group {} is empty", group.name);
        for rule in &group.rules {
            let alert = &rule.alert;
            assert!(alerts.insert(alert), "{alert} is there twice");
            for name in metrics_in(&rule.expr) {
                assert!(
                    declared.contains(name),
                    "{alert} asks for {name}, which no metrics.rs declares"
                );
            }
            assert!(
                ["page", "warn"].contains(&&*rule.labels.severity),
                "{alert}"
            );
            assert!(rule.annotations.summary.ends_with('.'), "{alert}");
            let section = rule.annotations.runbook.strip_prefix("docs/operating.md#");
            assert!(
                section.is_some_and(|section| anchors.contains(section)),
                "{alert}: docs/operating.md has no section {:?}",
                rule.annotations.runbook
            );
        }
    }
}

#[test]
fn every_setting_in_the_deployment_files_is_one_of_serve() {
    let help = Command::new(env!("CARGO_BIN_EXE_mode-envoy-under-test"))
        .args(["serve", "--help"])
        .output()
        .unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let known: BTreeSet<_> = words(&help, "MODE_ENVOY_").collect();
    let cli = ["MODE_ENVOY_TOKEN_FILE", "MODE_ENVOY_ADMIN"];
    for file in [
        "docker/compose.yaml",
        "docker/Dockerfile",
        "systemd/mode-envoy.service",
    ] {
        let text = read(file);
        for name in words(&text, "MODE_ENVOY_") {
            assert!(
                known.contains(name) || cli.contains(&name),
                "{file}: `serve` has no {name}"
            );
        }
    }
    let settings = read("systemd/node.toml");
    let keys = settings.lines().filter_map(|line| line.split_once(" = "));
    for (key, _) in keys {
        let name = format!("MODE_ENVOY_{}", key.replace('-', "_").to_uppercase());
        assert!(
            known.contains(&*name),
            "systemd/node.toml: `serve` has no --{key}"
        );
    }
}

// === helpers ===

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

fn read(file: &str) -> String {
    let path = deploy().join(file);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn yaml<T: for<'de> Deserialize<'de>>(file: &str) -> T {
    serde_saphyr::from_str(&read(file)).unwrap_or_else(|e| panic!("{file}: {e}"))
}

fn metrics_in(expr: &str) -> impl Iterator<Item = &str> {
    words(expr, "mode_envoy_")
}

/// Words of letters, digits and underscores that begin with `prefix`.
fn words<'t>(text: &'t str, prefix: &'t str) -> impl Iterator<Item = &'t str> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .filter(move |word| word.starts_with(prefix) && word.len() > prefix.len())
}

/// As Markdown renderers name the anchor of a heading.
fn anchor(heading: &str) -> String {
    heading
        .to_lowercase()
        .chars()
        .filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}
