//! The exactness test at its full length: a minute of load, and a node dies every ten seconds.
//!
//! `survive.rs` runs the same for less long with every `cargo test`.

use std::time::Duration;

use anyhow::Result;
use mode_envoy_cluster_tests::soak::{Account, Plan};

const NODE: &str = env!("CARGO_BIN_EXE_mode-envoy-under-test");

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_call_of_a_minute_is_counted_exactly_once_while_nodes_die() -> Result<()> {
    Account::hold(NODE, Plan::lasting(Duration::from_mins(1))?).await
}
