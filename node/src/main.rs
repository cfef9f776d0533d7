//! The binary: see the library's [`mode_envoy_node`] for what it does.

use std::process::ExitCode;

use mimalloc::MiMalloc;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    mode_envoy_node::main()
}
