//! The product's main job on an embedded default: real node processes on loopback, an example configuration, live
//! calls through every gateway, and the same usage table read from each node.
//!
//! The demo does nothing that a user could not type: it starts `serve` processes, runs the command line against
//! their admin addresses, and calls their gateways over HTTP. It checks what it shows: the tables must be equal, not
//! empty, and add up to what the answers reported; otherwise it ends with a status other than 0.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use tokio::signal::unix::{SignalKind, signal};

mod calls;
mod check;
mod directory;
mod example;
mod http;
mod nodes;
mod shop;

use self::directory::Directory;
use self::nodes::Nodes;

/// How to run the demo.
#[derive(Clone, Debug)]
pub struct Options {
    /// End after the tables.
    pub exit: bool,
    /// Number of nodes.
    pub nodes: u16,
    /// Where to keep data; temporary where absent.
    pub dir: Option<PathBuf>,
}

/// Runs the demo to its end, or until Ctrl-C.
///
/// # Errors
///
/// If something did not start, or did not hold.
pub async fn run(options: Options) -> Result<()> {
    let directory = Directory::open(options.dir.as_deref())?;
    let result = run_in(&options, &directory).await;
    if result.is_err() {
        directory.keep();
    }
    result
}

async fn run_in(options: &Options, directory: &Directory) -> Result<()> {
    let shop = shop::start()?;
    let shown = tokio::select! {
        shown = show(options, directory, shop.address()) => Some(shown?),
        told = told_to_end() => told.map(|()| None)?,
    };
    let Some((mut nodes, setup)) = shown else {
        return say("told to end before the tables; the nodes are gone");
    };
    if !options.exit {
        invite(&nodes, &setup)?;
        tokio::select! {
            ended = nodes.first_end() => bail!(
                "node {} ended by itself; its log is in {}",
                ended?,
                directory.path().display()
            ),
            told = told_to_end() => told?,
        }
        say("stopping the nodes")?;
    }
    nodes.stop().await
}

/// Waits for Ctrl-C or SIGTERM. The nodes are process groups of their own, so that neither reaches them.
async fn told_to_end() -> Result<()> {
    let mut term = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    tokio::select! {
        told = tokio::signal::ctrl_c() => told.context("listening for Ctrl-C"),
        _ = term.recv() => Ok(()),
    }
}

/// Says on standard error why the demo failed.
pub fn fail(error: &anyhow::Error) -> ExitCode {
    // Nothing is left to do where even standard error is gone.
    let _ = writeln!(io::stderr(), "demo failed: {error:#}");
    ExitCode::FAILURE
}

/// Starts the nodes, applies, calls, and shows what every node tells.
async fn show(
    options: &Options,
    directory: &Directory,
    shop: SocketAddr,
) -> Result<(Nodes, example::Setup)> {
    say(&format!(
        "starting {} nodes in {}",
        options.nodes,
        directory.path().display()
    ))?;
    let mut nodes = Nodes::start(options.nodes, directory)?;
    nodes.wait_ready().await?;
    say("every node is ready; they agree on one log")?;

    let setup = example::apply(&nodes, directory, shop).await?;
    say(
        "\nlive calls through every gateway (chat, streams, plain HTTP, and one that is refused):",
    )?;
    let mut expected = check::Expected::default();
    for node in nodes.iter() {
        let line = calls::make(node, &setup, &mut expected).await?;
        say(&format!("  node {}  {line}", node.id))?;
    }

    let tables = check::tables(&nodes).await?;
    for (node, table) in nodes.iter().zip(&tables) {
        say(&format!(
            "\n$ mode-envoy usage {} --admin {}",
            check::QUERY.join(" "),
            node.admin_url()
        ))?;
        say(table.text.trim_end())?;
    }
    check::hold(&tables, &expected)?;
    say(&format!(
        "\nall {} tables are equal; {} calls cost {} USD, as the answers' usage and the price table say",
        tables.len(),
        expected.calls(),
        expected.cost_usd()
    ))?;
    Ok((nodes, setup))
}

/// What the user may try while the nodes run.
fn invite(nodes: &Nodes, setup: &example::Setup) -> Result<()> {
    let (first, last) = (nodes.iter().next(), nodes.iter().last());
    let (Some(first), Some(last)) = (first, last) else {
        bail!("no node was started")
    };
    let binary = std::env::current_exe().context("finding this binary")?;
    say(&format!(
        "\nadmin     {}   (gRPC, /metrics, /readyz)\ntoken     {}\nAPI key   {}\n\ntry:\n  \
         curl -s http://{}/v1/chat/completions -H 'Authorization: Bearer {}' \
         -H 'content-type: application/json' \
         -d '{{\"model\":\"fast\",\"messages\":[{{\"role\":\"user\",\"content\":\"hello\"}}]}}'\n  \
         {} usage --group-by model --admin {} --token {}\n\n\
         Ctrl-C stops the nodes.",
        first.admin_url(),
        first.token()?,
        setup.key,
        first.gateway,
        setup.key,
        binary.display(),
        last.admin_url(),
        first.token()?,
    ))
}

/// One line for the person who watches.
fn say(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")
        .and_then(|()| out.flush())
        .context("writing to standard output")
}

/// The JSON value at `pointer`, or an error that shows what was there.
fn at<'a>(value: &'a serde_json::Value, pointer: &str) -> Result<&'a serde_json::Value> {
    let found = value.pointer(pointer);
    ensure!(found.is_some(), "no {pointer} in {value}");
    found.context("checked above")
}
