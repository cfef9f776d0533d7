//! The product's binary under a name of this crate, so that `cargo test` builds it for the tests that run it.

use std::process::ExitCode;

fn main() -> ExitCode {
    mode_envoy_node::main()
}
