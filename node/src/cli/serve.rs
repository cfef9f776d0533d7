//! `mode-envoy serve`: settings from flags, environment and file, then the node until it ends.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use crate::app;
use crate::config::{ConfigError, Options, Settings};
use crate::descriptors;
use crate::supervisor::Chain;
use crate::telemetry;

/// Settings that do not fit together, as for every command line that is wrong.
const USAGE: u8 = 2;

/// Run a node: gateway, admin API, and its replica of the log.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ServeArgs {
    /// A settings file; its keys are the names of these flags
    #[arg(long, env = "MODE_ENVOY_CONFIG", value_name = "node.toml")]
    pub(crate) config: Option<PathBuf>,
    /// What the node is told.
    #[command(flatten)]
    pub(crate) options: Options,
}

/// Runs a node to its end.
pub(crate) fn run(args: ServeArgs) -> ExitCode {
    let settings = match settings(args) {
        Ok(settings) => settings,
        Err(error) => return refuse(&error),
    };
    if let Err(error) = telemetry::install(&settings.log) {
        return refuse(&error);
    }
    descriptors::take_all();
    match app::run(settings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{}", Chain(&error));
            ExitCode::FAILURE
        }
    }
}

fn settings(args: ServeArgs) -> Result<Settings, ConfigError> {
    let file = args.config.as_deref().map(Options::from_file).transpose()?;
    Settings::resolve(args.options.or(file.unwrap_or_default()))
}

fn refuse(error: &(dyn std::error::Error + 'static)) -> ExitCode {
    // Logs are not set up yet; if standard error is gone too, the status still tells.
    let _ = writeln!(io::stderr(), "mode-envoy serve: {}", Chain(error));
    ExitCode::from(USAGE)
}
