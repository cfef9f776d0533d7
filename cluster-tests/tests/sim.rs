//! Hundreds of simulated clusters, one for each seed; `just sim` runs them, `just sim SEED` shows one.
//!
//! Each seed has a process of its own, so that a run depends on nothing but its seed: not on what the threads and
//! the counters of its process have been used for before.

#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a trace is what one runs a seed for, and a test fails by panicking"
)]

use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use mode_envoy_cluster_tests::sim;

/// How many seeds a run of the suite takes, unless `SIM_SEEDS` says otherwise; `SIM_FROM` is the first of them, and they
/// are `SIM_STEP` apart. It ends at the first violation of the invariant `SIM_UNTIL`, if one is named (`sim-proof`).
const SEEDS: u64 = 200;

/// What a child's last line begins with.
const SUMMARY: &str = "seed ";

#[test]
fn whatever_goes_wrong_the_cluster_keeps_its_promises() {
    let first = number("SIM_FROM").unwrap_or(1);
    let seeds = number("SIM_SEEDS").unwrap_or(SEEDS);
    let step = number("SIM_STEP").unwrap_or(1);
    let summaries = run_all(&(0..seeds).map(|n| first + n * step).collect::<Vec<_>>());
    let is_sound = |summary: &&String| !summary.contains("VIOLATES");
    let violations: Vec<&String> = summaries.iter().filter(|s| !is_sound(s)).collect();
    let total = |at: usize| -> u64 {
        let sound = summaries.iter().filter(is_sound);
        let words = sound.filter_map(|s| s.split_whitespace().nth(at));
        words.filter_map(|word| word.parse::<u64>().ok()).sum()
    };
    let (committed, answered, snapshots) = (total(2), total(4), total(6));
    println!(
        "{seeds} seeds, {committed} entries committed, {answered} operations answered, {snapshots} snapshots installed"
    );
    assert!(violations.is_empty(), "{violations:#?}");
    // Runs in which nothing happens prove nothing.
    assert!(committed > 50 * seeds && answered > 20 * seeds && snapshots > seeds / 2);
}

#[test]
fn the_same_seed_is_the_same_run() {
    let seeds = [3, 14, 15, 92, 65];
    let (first, second) = (run_all(&seeds), run_all(&seeds));
    assert_eq!(first, second);
    assert!(
        first.iter().all(|summary| summary.contains("trace ")),
        "{first:?}"
    );
}

/// What a child process does, and `just sim SEED`.
#[test]
fn one_seed() {
    let Some(seed) = number("SIM_SEED") else {
        return;
    };
    let run = sim::run(seed, number("SIM_QUIET").is_none());
    println!("{run}");
    assert_eq!(run.violation, None);
}

/// The summaries of some seeds, in their order; one process for each processor at a time.
fn run_all(seeds: &[u64]) -> Vec<String> {
    let (next, summaries) = (
        AtomicU64::new(0),
        Mutex::new(vec![String::new(); seeds.len()]),
    );
    let found = AtomicBool::new(false);
    let until = std::env::var("SIM_UNTIL").map(|invariant| format!("VIOLATES {invariant}: "));
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let at = usize::try_from(next.fetch_add(1, Ordering::Relaxed)).unwrap();
                    let Some(&seed) = seeds.get(at) else { break };
                    if found.load(Ordering::Relaxed) {
                        break;
                    }
                    let summary = run_in_process(seed);
                    if summary.contains("VIOLATES") {
                        println!("{summary}");
                    }
                    if until.as_ref().is_ok_and(|until| summary.contains(until)) {
                        found.store(true, Ordering::Relaxed);
                    }
                    summaries.lock().unwrap()[at] = summary;
                }
            });
        }
    });
    summaries.into_inner().unwrap()
}

fn run_in_process(seed: u64) -> String {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["one_seed", "--exact", "--nocapture"])
        .env("SIM_SEED", seed.to_string())
        .env("SIM_QUIET", "1")
        .output()
        .unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    let Some(from) = stdout.find(&format!("{SUMMARY}{seed}")) else {
        let stderr = String::from_utf8_lossy(&output.stderr);
        return format!("{SUMMARY}{seed} VIOLATES the process lives: {stderr}");
    };
    let summary = stdout[from..].split("\ntest ").next().unwrap_or_default();
    summary.trim_end().to_owned()
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}
