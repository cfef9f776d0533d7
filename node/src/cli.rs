//! The command line. Apart from `serve`, `demo`, `check`, `certs` and what is done to
//! a backup's file, every verb is a call of the gRPC admin API.
//!
//! One file per verb: its arguments, its call, its answer. `output` is the one place that prints: data on standard
//! output, everything else on standard error. Exit codes: 0 done, 1 failed, 2 used wrongly or drift found
//! by `diff`.

pub(crate) mod client;
pub(crate) mod output;

mod apply;
mod audit;
mod calls;
mod certs;
mod check;
mod cluster;
mod delete;
mod demo;
mod diff;
mod explain;
mod export;
mod get;
mod history;
mod inputs;
mod keys;
mod limits;
mod rollback;
mod serve;
mod tokens;
mod usage;

use std::ffi::OsString;
use std::future::Future;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};

use self::client::Client;
use self::output::Format;

/// An API gateway and AI gateway in one binary, replicated by its own log.
#[derive(Debug, Parser)]
#[command(
    name = "mode-envoy",
    version,
    propagate_version = true,
    max_term_width = 120
)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    verb: Verb,
}

/// What every verb of the admin API takes.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Admin API")]
pub(crate) struct Global {
    /// Address of a node's admin listener; several, separated by commas, are tried in turn.
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "MODE_ENVOY_ADMIN",
        default_value = "http://127.0.0.1:7070",
        value_delimiter = ','
    )]
    pub(crate) admin: Vec<String>,
    /// Admin token; for a node on this machine, MODE_ENVOY_TOKEN_FILE or the context file name one otherwise.
    #[arg(
        long,
        global = true,
        value_name = "TOKEN",
        env = "MODE_ENVOY_TOKEN",
        hide_env_values = true
    )]
    pub(crate) token: Option<String>,
    /// Certificates (PEM) of who is trusted at an https address; the context file's, or the web's, otherwise.
    #[arg(long, global = true, value_name = "FILE", env = "MODE_ENVOY_CA")]
    pub(crate) ca: Option<PathBuf>,
    /// Names the change that this command makes, so that the same command again is a retry; 128 random bits, made up
    /// where absent.
    #[arg(long, global = true, value_name = "ID")]
    pub(crate) request_id: Option<String>,
    /// How to print the answer.
    #[arg(
        short,
        long,
        global = true,
        value_name = "FORMAT",
        value_enum,
        default_value_t
    )]
    pub(crate) output: Format,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run a node
    Serve(Box<serve::ServeArgs>),
    /// Three nodes on this machine, live calls, and the same usage from each
    Demo(demo::DemoArgs),
    /// Create and update objects from documents
    Apply(apply::ApplyArgs),
    /// What applying documents would change; ends with 2 where the cluster differs
    Diff(diff::DiffArgs),
    /// Check documents without a cluster
    Check(check::CheckArgs),
    /// Print the whole configuration as a document that `apply` takes back
    Export(export::ExportArgs),
    /// Print objects of one kind
    Get(get::GetArgs),
    /// Delete an object
    Delete(delete::DeleteArgs),
    /// Revisions of the configuration, and what they changed
    History(history::HistoryArgs),
    /// Make the declared configuration what it was at a revision
    Rollback(rollback::RollbackArgs),
    /// The hash-chained record of administrative changes
    Audit(audit::AuditArgs),
    /// API keys: what clients of the gateway authenticate with
    #[command(subcommand)]
    Keys(keys::KeysVerb),
    /// Admin tokens: what users of this command line authenticate with
    #[command(subcommand)]
    Tokens(tokens::TokensVerb),
    /// Calls, tokens, costs and latencies
    Usage(usage::UsageArgs),
    /// What is used of the limits, what is free, and which node has how much
    Limits(limits::LimitsArgs),
    /// Single calls, gathered from all nodes
    Calls(calls::CallsArgs),
    /// Why a call was answered as it was
    Explain(explain::ExplainArgs),
    /// The cluster itself
    #[command(subcommand)]
    Cluster(cluster::ClusterVerb),
    /// Secrets and certificates
    #[command(subcommand)]
    Certs(certs::CertsVerb),
}

/// How a verb ends: done, or failed having said why.
pub(crate) enum Ended {
    /// Exit code 0.
    Done,
    /// Exit code 1, where the answer itself says what is wrong.
    Failed,
    /// Exit code 2: the cluster is not what the documents say.
    Differs,
}

// === impl Global ===

impl Global {
    /// Runs a verb of the admin API.
    fn call<F, Fut>(&self, verb: F) -> ExitCode
    where
        F: FnOnce(Client) -> Fut,
        Fut: Future<Output = anyhow::Result<Ended>>,
    {
        ended(self.try_call(verb))
    }

    fn try_call<F, Fut>(&self, verb: F) -> anyhow::Result<Ended>
    where
        F: FnOnce(Client) -> Fut,
        Fut: Future<Output = anyhow::Result<Ended>>,
    {
        // An empty variable is the same as none.
        let ca = self.ca.as_deref().filter(|ca| !ca.as_os_str().is_empty());
        let mut client = Client::new(&self.admin, self.token.as_deref(), ca)?;
        if let Some(id) = &self.request_id {
            client = client.with_request_id(id)?;
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("starting the runtime of this command")?;
        runtime.block_on(verb(client))
    }
}

// === free functions ===

/// Runs what the command line asks for.
pub fn main() -> ExitCode {
    run(std::env::args_os())
}

/// Runs what `args` ask for; the first is the name of the program.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    match Cli::try_parse_from(args) {
        Ok(cli) => dispatch(cli),
        Err(error) => {
            let used_wrongly = error.use_stderr();
            // Help for a reader that has gone is no failure.
            let _ = error.print();
            if used_wrongly {
                ExitCode::from(2)
            } else {
                ExitCode::SUCCESS
            }
        }
    }
}

fn dispatch(cli: Cli) -> ExitCode {
    let Cli { global, verb } = cli;
    let format = global.output;
    match verb {
        Verb::Serve(args) => serve::run(*args),
        Verb::Demo(args) => demo::run(args),
        Verb::Check(args) => ended(check::run(&args, format)),
        Verb::Certs(verb) => ended(certs::run(verb, format)),
        Verb::Apply(args) => global.call(|client| apply::run(client, args, format)),
        Verb::Diff(args) => global.call(|client| diff::run(client, args, format)),
        Verb::History(args) => global.call(|client| history::run(client, args, format)),
        Verb::Rollback(args) => global.call(|client| rollback::run(client, args, format)),
        Verb::Audit(args) => global.call(|client| audit::run(client, args, format)),
        Verb::Export(args) => global.call(|client| export::run(client, args, format)),
        Verb::Get(args) => global.call(|client| get::run(client, args, format)),
        Verb::Delete(args) => global.call(|client| delete::run(client, args, format)),
        Verb::Keys(verb) => global.call(|client| keys::run(client, verb, format)),
        Verb::Tokens(verb) => global.call(|client| tokens::run(client, verb, format)),
        Verb::Usage(args) => global.call(|client| usage::run(client, args, format)),
        Verb::Limits(args) => global.call(|client| limits::run(client, args, format)),
        Verb::Calls(args) => calls::run(&global, args),
        Verb::Explain(args) => global.call(|client| explain::run(client, args, format)),
        Verb::Cluster(verb) => cluster::dispatch(&global, verb, format),
    }
}

fn ended(result: anyhow::Result<Ended>) -> ExitCode {
    match result {
        Ok(Ended::Done) => ExitCode::SUCCESS,
        Ok(Ended::Failed) => ExitCode::FAILURE,
        Ok(Ended::Differs) => ExitCode::from(2),
        Err(error) => {
            output::note(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests;
