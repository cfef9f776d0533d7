//! The demo's node processes: this very binary with `serve`, on loopback, each with a log file of its own.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::process::{Child, Command};
use tokio::time::Instant;

use super::directory::Directory;
use super::http;

/// From start to ready, on a slow machine.
const READY_WITHIN: Duration = Duration::from_mins(1);
/// From SIGTERM to exit.
const STOP_WITHIN: Duration = Duration::from_secs(45);
const POLL: Duration = Duration::from_millis(50);

/// The processes.
pub(crate) struct Nodes {
    nodes: Vec<Node>,
}

/// One process.
pub(crate) struct Node {
    pub(crate) id: u16,
    pub(crate) gateway: String,
    admin: String,
    data_dir: PathBuf,
    log: PathBuf,
    config_home: PathBuf,
    child: Child,
}

/// Addresses of a node to be.
struct Plan {
    id: u16,
    gateway: String,
    admin: String,
    peer: String,
}

// === impl Nodes ===

impl Nodes {
    /// Starts `count` processes that form one cluster.
    pub(crate) fn start(count: u16, directory: &Directory) -> Result<Self> {
        let plans = plan(count)?;
        let cluster = plans
            .iter()
            .map(|p| format!("{}={}", p.id, p.peer))
            .collect::<Vec<_>>()
            .join(",");
        let nodes = plans
            .into_iter()
            .map(|plan| Node::start(plan, &cluster, directory))
            .collect::<Result<Vec<_>>>()?;
        Ok(Self { nodes })
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter()
    }

    /// Waits until every node says that it is ready.
    pub(crate) async fn wait_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + READY_WITHIN;
        for node in &mut self.nodes {
            node.wait_ready(deadline).await?;
        }
        Ok(())
    }

    /// Asks every node to end, and expects each to end well.
    pub(crate) async fn stop(&mut self) -> Result<()> {
        for node in &self.nodes {
            node.terminate()?;
        }
        for node in &mut self.nodes {
            let status = tokio::time::timeout(STOP_WITHIN, node.child.wait())
                .await
                .with_context(|| format!("node {} did not end on SIGTERM", node.id))?
                .with_context(|| format!("waiting for node {}", node.id))?;
            ensure!(
                status.success(),
                "node {} ended with {status}\n{}",
                node.id,
                node.log_tail()
            );
        }
        Ok(())
    }

    /// Waits until some node ends, and returns its id.
    pub(crate) async fn first_end(&mut self) -> Result<u16> {
        loop {
            for node in &mut self.nodes {
                if node.child.try_wait().context("watching a node")?.is_some() {
                    return Ok(node.id);
                }
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

// === impl Node ===

impl Node {
    fn start(plan: Plan, cluster: &str, directory: &Directory) -> Result<Self> {
        let data_dir = directory.path().join(format!("node-{}", plan.id));
        let log = directory.path().join(format!("node-{}.log", plan.id));
        let file = File::create(&log).with_context(|| format!("making {}", log.display()))?;
        let mut command = own_binary(&directory.config_home())?;
        command
            .arg("serve")
            .args(["--node-id", &plan.id.to_string()])
            .arg("--data-dir")
            .arg(&data_dir)
            .args(["--gateway-addr", &plan.gateway])
            .args(["--admin-addr", &plan.admin])
            .args(["--peer-addr", &plan.peer])
            .args(["--initial-cluster", cluster])
            .args([
                "--heartbeat-ms",
                "300",
                "--election-min-ms",
                "1000",
                "--election-max-ms",
                "1400",
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file)
            .process_group(0)
            .kill_on_drop(true);
        let child = command
            .spawn()
            .with_context(|| format!("starting node {}", plan.id))?;
        Ok(Self {
            id: plan.id,
            gateway: plan.gateway,
            admin: plan.admin,
            data_dir,
            log,
            config_home: directory.config_home(),
            child,
        })
    }

    async fn wait_ready(&mut self, deadline: Instant) -> Result<()> {
        loop {
            let said = match http::get(&self.admin, "/readyz").await {
                Ok(answer) if answer.status == 200 => return Ok(()),
                Ok(answer) => answer.text(),
                Err(error) => format!("{error:#}"),
            };
            if let Some(status) = self.child.try_wait().context("watching a node")? {
                bail!("node {} ended with {status}\n{}", self.id, self.log_tail());
            }
            if Instant::now() >= deadline {
                bail!(
                    "node {} is not ready: {}\n{}",
                    self.id,
                    said.trim(),
                    self.log_tail()
                );
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Where the admin API listens.
    pub(crate) fn admin_url(&self) -> String {
        format!("http://{}", self.admin)
    }

    /// The first root token.
    pub(crate) fn token(&self) -> Result<String> {
        let file = self.data_dir.join("admin.token");
        let text = std::fs::read_to_string(&file)
            .with_context(|| format!("reading {}", file.display()))?;
        Ok(text.trim().to_owned())
    }

    /// Runs the command line against this node and returns what it printed.
    pub(crate) async fn cli(&self, arguments: &[&str]) -> Result<String> {
        let mut command = own_binary(&self.config_home)?;
        command
            .args(arguments)
            .args(["--admin", &self.admin_url()])
            .stdin(Stdio::null());
        let output = command
            .output()
            .await
            .with_context(|| format!("running {arguments:?}"))?;
        ensure!(
            output.status.success(),
            "mode-envoy {} ended with {}: {}",
            arguments.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
        String::from_utf8(output.stdout).context("reading what the command line printed")
    }

    fn terminate(&self) -> Result<()> {
        let Some(pid) = self.child.id().and_then(|id| i32::try_from(id).ok()) else {
            bail!("node {} has ended by itself\n{}", self.id, self.log_tail())
        };
        let Some(pid) = rustix::process::Pid::from_raw(pid) else {
            bail!("node {} has no process id", self.id)
        };
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)
            .with_context(|| format!("asking node {} to end", self.id))
    }

    /// The last lines of its log, for an error.
    fn log_tail(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

/// This binary, with a configuration directory apart from the user's.
fn own_binary(config_home: &Path) -> Result<Command> {
    let binary = std::env::current_exe().context("finding this binary")?;
    let mut command = Command::new(binary);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("MODE_ENVOY_") {
            command.env_remove(name);
        }
    }
    command.env("XDG_CONFIG_HOME", config_home);
    Ok(command)
}

/// The documented ports where they are free, others where not.
fn plan(count: u16) -> Result<Vec<Plan>> {
    // Held until all are chosen, so that no port is handed out twice.
    let mut held = Vec::new();
    (1..=count)
        .map(|id| {
            let step = (id - 1) * 100;
            Ok(Plan {
                id,
                gateway: choose(8080 + step, &mut held)?,
                admin: choose(7070 + step, &mut held)?,
                peer: choose(7071 + step, &mut held)?,
            })
        })
        .collect()
}

fn choose(preferred: u16, held: &mut Vec<TcpListener>) -> Result<String> {
    let listener = TcpListener::bind(("127.0.0.1", preferred))
        .or_else(|_| TcpListener::bind(("127.0.0.1", 0)))
        .context("finding a free port on 127.0.0.1")?;
    let address = listener
        .local_addr()
        .context("reading a listener's address")?
        .to_string();
    held.push(listener);
    Ok(address)
}
