//! The rules of the tree that a machine can check, as ordinary tests.
//!
//! Each rule names the file and says what to do. A rule is changed here, in the open, or kept.

#![expect(
    clippy::unwrap_used,
    reason = "the helpers of a test may panic like the test itself"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

const MAX_LINES: usize = 800;
const LINES_THAT_NEED_A_REASON: usize = 500;

const THIS_FILE: &str = "cluster-tests/tests/tidy.rs";

/// The only files that may hold `unsafe`.
const UNSAFE_FILES: &[&str] = &["storage/src/spool/map.rs"];

/// The only places with timers in tests.
const TIMER_FILES: &[&str] = &["cluster-tests/src/wait.rs", "cluster-tests/src/load.rs"];

#[test]
fn every_rust_file_opens_with_a_doc_comment() {
    for (path, text) in rust_files() {
        assert!(
            text.starts_with("//!"),
            "{path}: open the file with `//!` saying why it exists and what it keeps true"
        );
    }
}

#[test]
fn files_stay_within_their_size() {
    let mut faults = Vec::new();
    for (path, text) in rust_files() {
        let (all, production) = (text.lines().count(), production(&text).lines().count());
        let doc: String = text.lines().take_while(|l| l.starts_with("//!")).collect();
        if all > MAX_LINES {
            faults.push(format!(
                "{path}: {all} lines, at most {MAX_LINES}: split it"
            ));
        } else if production > LINES_THAT_NEED_A_REASON && !doc.contains("Size:") {
            faults.push(format!(
                "{path}: {production} lines without tests: split it, or say why in its `//!` (`Size: …`)"
            ));
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn nothing_is_left_unfinished_or_switched_off() {
    let words = [
        "TODO",
        "FIXME",
        "XXX",
        "#[ignore",
        "todo!(",
        "unimplemented!(",
    ];
    expect_none_of(
        &words,
        |_, text| Some(text.to_owned()),
        "finish it or leave it out",
    );
}

#[test]
fn unsafe_code_stands_in_one_file() {
    let code = |path: &str, text: &str| {
        let lines = text.lines().filter(|l| !l.trim_start().starts_with("//"));
        (!UNSAFE_FILES.contains(&path)).then(|| lines.collect::<Vec<_>>().join("\n"))
    };
    expect_none_of(
        &["unsafe {", "unsafe fn", "unsafe impl"],
        code,
        "keep to UNSAFE_FILES",
    );
}

#[test]
fn tests_wait_for_values_and_never_sleep() {
    let tests = |path: &str, text: &str| {
        let whole = path.starts_with("cluster-tests/")
            || path.contains("/tests/")
            || path.ends_with("_test.rs")
            || path.ends_with("/tests.rs");
        let checked = if whole { text } else { tests_of(text) };
        (!TIMER_FILES.contains(&path)).then(|| checked.to_owned())
    };
    let advice = "wait for a value with wait.rs, or pace load with load.rs";
    expect_none_of(&["sleep(", "sleep_until("], tests, advice);
}

#[test]
fn bincode_has_one_user() {
    let others = |path: &str, text: &str| (path != "storage/src/codec.rs").then(|| text.to_owned());
    expect_none_of(
        &["bincode::"],
        others,
        "use storage's codec, which has limits and versions",
    );
}

#[test]
fn crates_depend_downwards_only() {
    let allowed: BTreeMap<&str, &[&str]> = BTreeMap::from([
        ("proto", &[] as &[_]),
        ("storage", &[]),
        ("model", &[]),
        ("ai", &[]),
        ("limits", &["model"]),
        ("raft", &["proto", "storage", "model"]),
        (
            "node",
            &["proto", "storage", "model", "ai", "limits", "raft"],
        ),
        (
            "cluster-tests",
            &["node", "proto", "storage", "model", "ai", "raft"],
        ),
    ]);
    for package in metadata().workspace_packages() {
        let name = short(&package.name);
        let may = allowed
            .get(name)
            .unwrap_or_else(|| panic!("{name}: add it to the map of levels"));
        for dependency in &package.dependencies {
            if dependency.name.starts_with("mode-envoy-") {
                let on = short(&dependency.name);
                assert!(
                    may.contains(&on),
                    "{name} must not depend on {on}: see ARCHITECTURE.md"
                );
            }
        }
    }
}

#[test]
fn pure_crates_stay_pure() {
    let banned = [
        "tokio", "hyper", "http", "tonic", "rand", "ring", "mio", "socket2",
    ];
    for package in metadata().workspace_packages() {
        if !["model", "ai", "limits"].contains(&short(&package.name)) {
            continue;
        }
        for dependency in &package.dependencies {
            assert!(
                !banned.contains(&dependency.name.as_str()),
                "{}: pure crates take values and time; {} does I/O or is random",
                package.name,
                dependency.name
            );
        }
    }
}

#[test]
fn every_architecture_decision_has_a_status() {
    let dir = root().join("docs/adr");
    let mut seen = 0;
    for entry in std::fs::read_dir(&dir).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(
            text.lines().any(|l| l.starts_with("Status: ")),
            "{}: say `Status: accepted` or `Status: superseded by NNNN`",
            path.display()
        );
        seen += 1;
    }
    assert!(seen > 0, "docs/adr is empty");
}

#[test]
fn metric_names_are_well_formed_and_declared_once() {
    let mut seen = BTreeSet::new();
    for (path, text) in rust_files()
        .into_iter()
        .filter(|(path, _)| path.ends_with("src/metrics.rs"))
    {
        for name in metric_names(&text) {
            assert!(
                name.bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'),
                "{path}: {name} is not a metric name"
            );
            assert!(
                seen.insert(name.to_owned()),
                "{path}: {name} is declared twice"
            );
        }
    }
    assert!(!seen.is_empty(), "no metrics.rs declares a metric");
    let elsewhere =
        |path: &str| !path.ends_with("src/metrics.rs") && !path.starts_with("cluster-tests/");
    for (path, text) in rust_files().into_iter().filter(|(path, _)| elsewhere(path)) {
        let stray = metric_names(production(&text)).next();
        assert!(
            stray.is_none(),
            "{path}: declare {stray:?} in its crate's metrics.rs"
        );
    }
}

/// Metric names in string literals; crate names and log targets look alike but end otherwise.
fn metric_names(text: &str) -> impl Iterator<Item = &str> {
    let crates = [
        "mode_envoy_node",
        "mode_envoy_raft",
        "mode_envoy_storage",
        "mode_envoy_model",
        "mode_envoy_ai",
        "mode_envoy_limits",
    ];
    let literals = text.split('"').filter(|s| s.starts_with("mode_envoy_"));
    literals.filter(move |s| {
        !crates
            .iter()
            .any(|name| s.starts_with(name) && !s[name.len()..].starts_with('_'))
    })
}

// === helpers ===

/// Fails with every file in whose `part` one of the words stands. This file, which must name them, is left out.
fn expect_none_of(words: &[&str], part: impl Fn(&str, &str) -> Option<String>, advice: &str) {
    let mut faults = Vec::new();
    for (path, text) in rust_files() {
        let Some(text) = part(&path, &text).filter(|_| path != THIS_FILE) else {
            continue;
        };
        let found = words.iter().filter(|word| text.contains(**word));
        faults.extend(found.map(|word| format!("{path}: {word}: {advice}")));
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_path_buf()
}

/// Every Rust file of the tree with its path from the root, sorted.
fn rust_files() -> Vec<(String, String)> {
    let mut found = Vec::new();
    collect(&root(), &mut found);
    found.sort();
    assert!(found.len() > 50, "the walk lost its way");
    found
}

fn collect(dir: &Path, found: &mut Vec<(String, String)>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            if name != "target" && !name.starts_with('.') {
                collect(&path, found);
            }
        } else if path.extension().is_some_and(|e| e == "rs") {
            let from_root = path
                .strip_prefix(root())
                .unwrap()
                .to_string_lossy()
                .into_owned();
            found.push((from_root, std::fs::read_to_string(&path).unwrap()));
        }
    }
}

fn production(text: &str) -> &str {
    text.split_once("#[cfg(test)]\nmod tests {")
        .map_or(text, |(before, _)| before)
}

fn tests_of(text: &str) -> &str {
    text.split_once("#[cfg(test)]\nmod tests {")
        .map_or("", |(_, after)| after)
}

fn metadata() -> cargo_metadata::Metadata {
    cargo_metadata::MetadataCommand::new()
        .manifest_path(root().join("Cargo.toml"))
        .no_deps()
        .other_options(vec!["--offline".to_owned()])
        .exec()
        .unwrap()
}

fn short(package: &str) -> &str {
    package.strip_prefix("mode-envoy-").unwrap_or(package)
}
