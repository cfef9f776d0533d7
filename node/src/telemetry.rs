//! Logs: one structured line an event, to standard error.
//!
//! On a terminal they are text, else JSON; fields are fields, never parts of a sentence. Nothing secret is logged:
//! the types that hold secrets print as redacted.

use std::io::{IsTerminal as _, stderr};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::fmt;

use crate::config::{LogFormat, LogSettings};

/// The consensus library repeats at `error`, at each election, which peers are away. What an operator must know
/// of it (leaders that change, failures that end the node) is logged by this program.
const FILTER: &str = "info,openraft=off";

/// Why logs could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter does not parse.
    #[error("--log-level {filter}: give a level such as `info`, or `warn,mode_envoy_raft=debug`")]
    Filter {
        /// The filter.
        filter: String,
        /// What is wrong with it.
        #[source]
        source: ParseError,
    },
    /// Somebody else logs already.
    #[error("logs are set up already in this process")]
    Taken(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Starts to log. Once per process.
///
/// # Errors
///
/// The filter does not parse, or logs are set up already.
pub fn install(settings: &LogSettings) -> Result<(), TelemetryError> {
    let given = settings
        .filter
        .clone()
        .or_else(|| std::env::var(EnvFilter::DEFAULT_ENV).ok());
    let filter = given
        .filter(|given| !given.is_empty())
        .unwrap_or_else(|| FILTER.to_owned());
    let parsed =
        EnvFilter::try_new(&filter).map_err(|source| TelemetryError::Filter { filter, source })?;
    let terminal = stderr().is_terminal();
    let logs = fmt().with_env_filter(parsed).with_writer(stderr);
    let text = match settings.format {
        LogFormat::Auto => terminal,
        LogFormat::Json => false,
        LogFormat::Text => true,
    };
    let installed = if text {
        logs.with_ansi(terminal).try_init()
    } else {
        logs.json()
            .flatten_event(true)
            .with_current_span(false)
            .try_init()
    };
    installed.map_err(TelemetryError::Taken)
}
