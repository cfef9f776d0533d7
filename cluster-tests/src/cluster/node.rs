//! One node: a process, what it was started with, and how a test speaks to it.

use std::fs::OpenOptions;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::process::Child;

use super::READY;
use crate::http::{self, Answer};
use crate::program::{Output, Program};
use crate::wait;

/// From SIGTERM to the end; a drain may take 30 s.
const END: Duration = Duration::from_secs(45);

/// Timers for a machine that is busy with other tests, small segments so that a test fills several, and checkpoints often
/// enough that restarts begin from one. How full the disk of this machine is, is none of a test's business.
const SETTINGS: [&str; 12] = [
    "--disk-min-free-bytes",
    "0",
    "--heartbeat-ms",
    "300",
    "--election-min-ms",
    "1000",
    "--election-max-ms",
    "1400",
    "--wal-segment-bytes",
    "1048576",
    "--checkpoint-every",
    "200",
];

/// What a node is started with. A test that wants a node to be refused changes it.
#[derive(Clone, Debug)]
pub struct Launch {
    /// `--node-id`, where it is told.
    pub node_id: u64,
    /// Whether it is told its id; one that has joined knows it.
    pub told_id: bool,
    /// `--data-dir`.
    pub data_dir: PathBuf,
    /// `--gateway-addr`.
    pub gateway: String,
    /// `--admin-addr`.
    pub admin: String,
    /// `--peer-addr`.
    pub peer: String,
    /// `--initial-cluster`.
    pub initial_cluster: Option<String>,
    /// `--join` and `--join-token`; such a node is not told its id.
    pub join: Option<(String, String)>,
    /// `--cluster-secret-file`; `None` for the user's own.
    pub secret_file: Option<PathBuf>,
    /// `--advertise-peer`, where it is not what the node listens on.
    pub advertise_peer: Option<String>,
    /// `--gateway-workers`, each of which has a usage spool of its own.
    pub workers: usize,
    /// More words for `serve`; they win over the usual settings.
    pub more: Vec<String>,
    /// What starts the binary and becomes it, as `ip netns exec n1`; its own command line is added. Empty for nothing.
    pub starter: Vec<String>,
    /// Where its standard error goes.
    pub log: PathBuf,
    /// The binary.
    pub program: Program,
}

/// A node that may run.
#[derive(Debug)]
pub struct Node {
    /// What it is started with next time.
    pub launch: Launch,
    child: Option<Child>,
}

// === impl Launch ===

impl Launch {
    fn names(&self, setting: &[&str]) -> bool {
        let flag = setting.first();
        flag.is_some_and(|flag| self.more.iter().any(|own| own == flag))
    }
}

// === impl Node ===

impl Node {
    /// A node that does not run yet.
    pub const fn new(launch: Launch) -> Self {
        Self {
            launch,
            child: None,
        }
    }

    /// Its id.
    pub const fn id(&self) -> u64 {
        self.launch.node_id
    }

    /// The address that clients call.
    pub fn gateway(&self) -> &str {
        &self.launch.gateway
    }

    /// The address of its admin API.
    pub fn admin(&self) -> &str {
        &self.launch.admin
    }

    /// Starts the process.
    ///
    /// # Errors
    ///
    /// It runs already, or cannot be started.
    pub fn start(&mut self) -> Result<()> {
        ensure!(self.child.is_none(), "node {} runs already", self.id());
        let launch = &self.launch;
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&launch.log)
            .with_context(|| format!("opening {}", launch.log.display()))?;
        let mut command = launch.program.command_below(&launch.starter);
        command
            .arg("serve")
            .arg("--data-dir")
            .arg(&launch.data_dir)
            .args(["--gateway-addr", &launch.gateway])
            .args(["--admin-addr", &launch.admin])
            .args(["--peer-addr", &launch.peer])
            .args(["--gateway-workers", &launch.workers.to_string()])
            .args(&launch.more);
        for setting in SETTINGS.chunks(2).filter(|setting| !launch.names(setting)) {
            command.args(setting);
        }
        match &launch.join {
            Some((address, token)) => {
                command.args(["--join", address, "--join-token", token]);
            }
            None if launch.told_id => {
                command.args(["--node-id", &launch.node_id.to_string()]);
            }
            None => {}
        }
        if let Some(secret) = &launch.secret_file {
            command.arg("--cluster-secret-file").arg(secret);
        }
        if let Some(peer) = &launch.advertise_peer {
            command.args(["--advertise-peer", peer]);
        }
        if let Some(cluster) = &launch.initial_cluster {
            command.args(["--initial-cluster", cluster]);
        }
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        let child = command
            .spawn()
            .with_context(|| format!("starting node {}", self.id()))?;
        self.child = Some(child);
        Ok(())
    }

    /// Whether it was started and not seen to end.
    pub const fn is_started(&self) -> bool {
        self.child.is_some()
    }

    /// Everything it has said since its first start.
    pub fn log(&self) -> String {
        std::fs::read(&self.launch.log)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// Waits until `/readyz` is 200.
    ///
    /// # Errors
    ///
    /// It is not within [`READY`], or the process has ended.
    pub async fn wait_ready(&mut self) -> Result<()> {
        let what = format!("node {} to be ready", self.id());
        let admin = self.launch.admin.clone();
        let mut ended = None;
        wait::until(&what, READY, async || {
            if let Some(child) = &mut self.child
                && let Some(status) = child.try_wait()?
            {
                ended = Some(status);
                return Ok(());
            }
            http::get(&admin, "/readyz", None)
                .await?
                .expect(200)
                .map(drop)
        })
        .await?;
        match ended {
            None => Ok(()),
            Some(status) => {
                self.child = None;
                bail!(
                    "node {} ended with {status} while it was waited for",
                    self.id()
                )
            }
        }
    }

    /// Ends it at once, as a power cut would.
    ///
    /// # Errors
    ///
    /// It does not run.
    pub async fn kill(&mut self) -> Result<()> {
        let mut child = self.take_child()?;
        child
            .start_kill()
            .with_context(|| format!("killing node {}", self.id()))?;
        child
            .wait()
            .await
            .with_context(|| format!("waiting for node {}", self.id()))?;
        Ok(())
    }

    /// Asks it to end, and waits until it has; the exit code.
    ///
    /// # Errors
    ///
    /// It does not end.
    pub async fn term(&mut self) -> Result<Option<i32>> {
        self.ask_to_end()?;
        self.wait_end().await
    }

    /// Sends SIGTERM, if it runs.
    ///
    /// # Errors
    ///
    /// The signal could not be sent.
    pub fn ask_to_end(&self) -> Result<()> {
        self.signal(Signal::TERM)
    }

    /// Sends SIGHUP, as a terminal that is closed.
    ///
    /// # Errors
    ///
    /// The signal could not be sent.
    pub fn hang_up(&self) -> Result<()> {
        self.signal(Signal::HUP)
    }

    /// Asks it to end at once, without waiting for what a stop waits for: the second signal.
    ///
    /// # Errors
    ///
    /// The signals could not be sent.
    pub fn ask_to_end_at_once(&self) -> Result<()> {
        self.signal(Signal::TERM)?;
        self.signal(Signal::INT)
    }

    /// Stops it where it is, as a paused virtual machine.
    ///
    /// # Errors
    ///
    /// The signal could not be sent.
    pub fn freeze(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// Lets it go on after [`Node::freeze`].
    ///
    /// # Errors
    ///
    /// The signal could not be sent.
    pub fn thaw(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// Waits until it ends; the exit code, `None` where a signal ended it.
    ///
    /// # Errors
    ///
    /// It does not end.
    pub async fn wait_end(&mut self) -> Result<Option<i32>> {
        let mut child = self.take_child()?;
        let status = tokio::time::timeout(END, child.wait())
            .await
            .with_context(|| format!("node {} does not end", self.id()))??;
        Ok(status.code())
    }

    /// Runs the command line against this node.
    ///
    /// # Errors
    ///
    /// It could not be run.
    pub async fn cli(&self, arguments: &[&str]) -> Result<Output> {
        self.run(arguments, "").await
    }

    /// Runs the command line against this node with something on its standard input.
    ///
    /// # Errors
    ///
    /// It could not be run.
    pub async fn run(&self, arguments: &[&str], input: &str) -> Result<Output> {
        let url = self.admin_url();
        let arguments = [arguments, &["--admin", &url]].concat();
        self.launch.program.run(&arguments, input).await
    }

    /// Runs a command line, whose words have no spaces, that must go well; what it printed.
    ///
    /// # Errors
    ///
    /// It failed.
    pub async fn ok(&self, line: &str) -> Result<String> {
        let words: Vec<_> = line.split_whitespace().collect();
        self.cli(&words).await?.ok()
    }

    /// Runs a command line that must be refused; what it said.
    ///
    /// # Errors
    ///
    /// It ended with another exit code than 1.
    pub async fn refuses(&self, line: &str) -> Result<String> {
        let words: Vec<_> = line.split_whitespace().collect();
        self.cli(&words).await?.fails(1)
    }

    /// Applies a document, without waiting for other nodes; what was printed.
    ///
    /// # Errors
    ///
    /// It was refused.
    pub async fn apply(&self, document: &str) -> Result<String> {
        self.run(&["apply", "-f", "-"], document).await?.ok()
    }

    /// Applies a document that must be refused; what was said.
    ///
    /// # Errors
    ///
    /// It was taken.
    pub async fn refuses_document(&self, document: &str) -> Result<String> {
        self.run(&["apply", "-f", "-"], document).await?.fails(1)
    }

    /// The URL of its admin API.
    pub fn admin_url(&self) -> String {
        format!("http://{}", self.launch.admin)
    }

    /// The answer of `usage` as JSON.
    ///
    /// # Errors
    ///
    /// There was none.
    pub async fn usage(&self, arguments: &[&str]) -> Result<Value> {
        self.cli(&[&["usage", "-o", "json"], arguments].concat())
            .await?
            .json()
    }

    /// Makes a join token.
    ///
    /// # Errors
    ///
    /// It was refused.
    pub async fn join_token(&self, valid: &str) -> Result<String> {
        let line = format!("cluster add-node --expires {valid} -o json");
        let made: Value = serde_json::from_str(&self.ok(&line).await?)?;
        let token = made["join_token"]
            .as_str()
            .with_context(|| format!("no join_token in {made}"))?;
        ensure!(token.starts_with("mej-"), "a join token begins with mej-");
        Ok(token.to_owned())
    }

    /// The answer of `cluster status`.
    ///
    /// # Errors
    ///
    /// There was none.
    pub async fn status(&self) -> Result<Value> {
        self.cli(&["cluster", "status", "-o", "json"]).await?.json()
    }

    /// The revision that this node tells.
    ///
    /// # Errors
    ///
    /// It told none.
    pub async fn revision(&self) -> Result<u64> {
        let status = self.status().await?;
        status["revision"]
            .as_u64()
            .with_context(|| format!("no revision in {status}"))
    }

    /// Makes an API key; its secret.
    ///
    /// # Errors
    ///
    /// It was refused.
    pub async fn create_key(&self, tenant: &str, consumer: &str, name: &str) -> Result<String> {
        let line =
            format!("keys create --tenant {tenant} --consumer {consumer} --name {name} -o json");
        let made: Value = serde_json::from_str(&self.ok(&line).await?)?;
        let secret = made["secret"]
            .as_str()
            .with_context(|| format!("no secret in {made}"))?;
        ensure!(
            secret.starts_with("me-"),
            "a key's secret begins with me-, this one with {secret:.3}"
        );
        ensure!(
            made["name"] == name,
            "the new key is not called {name}: {made}"
        );
        ensure!(
            made["id"].as_str().is_some_and(|id| !id.is_empty()),
            "no id in {made}"
        );
        Ok(secret.to_owned())
    }

    /// Waits until this gateway answers the holder of a key with a status.
    ///
    /// # Errors
    ///
    /// It does not within 10 s.
    pub async fn wait_key(&self, key: &str, status: u16) -> Result<Answer> {
        let what = format!("node {} to answer a key with {status}", self.id());
        wait::until(&what, Duration::from_secs(10), async || {
            http::get(&self.launch.gateway, "/v1/models", Some(key))
                .await?
                .expect(status)
        })
        .await
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let Some(id) = self.child.as_ref().and_then(Child::id) else {
            return Ok(());
        };
        let pid = Pid::from_raw(i32::try_from(id)?).context("a process id")?;
        kill_process(pid, signal)
            .with_context(|| format!("sending {signal:?} to node {}", self.id()))
    }

    fn take_child(&mut self) -> Result<Child> {
        let id = self.id();
        self.child
            .take()
            .with_context(|| format!("node {id} does not run"))
    }
}
