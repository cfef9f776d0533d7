//! `mode-envoy demo`: the product's main job on an embedded default; see [`crate::demo`].

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::demo::{self, Options};

/// Three nodes on this machine, an embedded model, live calls, the same usage table from each node.
#[derive(Args, Clone, Debug)]
pub(crate) struct DemoArgs {
    /// Stop after the tables; the exit status is 0 only if everything held.
    #[arg(long)]
    exit: bool,
    /// How many nodes to start.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=5))]
    nodes: u16,
    /// Where the nodes keep their data; a temporary directory, removed at the end, where absent.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Runs the demo to its end.
pub(crate) fn run(args: DemoArgs) -> ExitCode {
    let options = Options {
        exit: args.exit,
        nodes: args.nodes,
        dir: args.dir,
    };
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return demo::fail(&anyhow::anyhow!("starting the demo's runtime: {error}")),
    };
    match runtime.block_on(demo::run(options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => demo::fail(&error),
    }
}
