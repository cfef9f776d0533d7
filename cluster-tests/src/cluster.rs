//! A cluster of real processes on loopback addresses of its own.
//!
//! A cluster can also have each of its nodes in a network namespace of its own ([`crate::netns`]).
//!
//! Invariants: no two live clusters of this machine share an address (each holds a claim on its 127.a.b.0/24 by a
//! listener); nodes see no settings of the user; every process ends with its [`Node`]; a cluster that is dropped
//! without [`Cluster::finish`] prints the ends of its nodes' logs, since then a test has failed.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::netns::net::Net;
use crate::program::Program;

mod node;

pub use self::node::{Launch, Node};

/// Until a cluster has formed or a node is back, on a machine that is busy with something else too.
pub const READY: Duration = Duration::from_mins(1);

const GATEWAY_PORT: u16 = 8080;
const ADMIN_PORT: u16 = 7070;
const PEER_PORT: u16 = 7071;
const CLAIM_PORT: u16 = 7069;
const LOG_LINES: usize = 60;

/// Nodes with one secret, which know each other by `--initial-cluster`.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Node>,
    program: Program,
    dir: TempDir,
    network: String,
    finished: bool,
    _claim: Option<TcpListener>,
}

// === impl Cluster ===

impl Cluster {
    /// Starts `count` nodes with ids from 1 and waits until each is ready.
    ///
    /// # Errors
    ///
    /// A node did not start.
    pub async fn start(binary: &str, count: u64) -> Result<Self> {
        let mut cluster = Self::plan(binary, count)?;
        cluster.start_all()?;
        cluster.wait_ready().await?;
        Ok(cluster)
    }

    /// Makes everything ready for `count` nodes, and starts none.
    ///
    /// # Errors
    ///
    /// There is no room for its files or addresses.
    pub fn plan(binary: &str, count: u64) -> Result<Self> {
        let (claim, network) = claim_network()?;
        Self::plan_on(network, Some(claim), binary, count)
    }

    /// Makes everything ready for `count` nodes, each in its namespace of a network, and starts none.
    ///
    /// # Errors
    ///
    /// There is no room for its files.
    pub fn plan_apart(binary: &str, count: u64, net: &Net) -> Result<Self> {
        let mut cluster = Self::plan_on(net.network(), None, binary, count)?;
        // The first root token is the same on all nodes: it comes from their secret.
        let token = cluster.dir.path().join("data-1/admin.token");
        let program = cluster.program.clone().with_token_file(token);
        for (index, node) in cluster.nodes.iter_mut().enumerate() {
            node.launch.starter = net.starter(index + 1);
            node.launch.program = program.clone();
            let beyond_loopback = ["--insecure", "gateway", "--insecure", "admin"];
            node.launch.more.extend(beyond_loopback.map(str::to_owned));
        }
        cluster.program = program;
        Ok(cluster)
    }

    fn plan_on(
        network: String,
        claim: Option<TcpListener>,
        binary: &str,
        count: u64,
    ) -> Result<Self> {
        let dir = TempDir::with_prefix("mode-envoy-test-").context("making a test's directory")?;
        let program = Program::new(binary, dir.path().join("config"));
        let secret_file = dir.path().join("secret");
        write_secret(&secret_file)?;
        let peers: Vec<String> = (1..=count)
            .map(|id| format!("{id}={network}.{id}:{PEER_PORT}"))
            .collect();
        let nodes = (1..=count)
            .map(|id| {
                Node::new(Launch {
                    node_id: id,
                    told_id: true,
                    join: None,
                    data_dir: dir.path().join(format!("data-{id}")),
                    gateway: format!("{network}.{id}:{GATEWAY_PORT}"),
                    admin: format!("{network}.{id}:{ADMIN_PORT}"),
                    peer: format!("{network}.{id}:{PEER_PORT}"),
                    initial_cluster: Some(peers.join(",")),
                    secret_file: Some(secret_file.clone()),
                    advertise_peer: None,
                    workers: 2,
                    more: Vec::new(),
                    starter: Vec::new(),
                    log: dir.path().join(format!("node-{id}.log")),
                    program: program.clone(),
                })
            })
            .collect();
        Ok(Self {
            nodes,
            program,
            dir,
            network,
            finished: false,
            _claim: claim,
        })
    }

    /// Makes everything ready for a node that joins by a member's peer address with a token, and does not start it. It is the
    /// next one by number, as the cluster will number it if no token was wasted.
    pub fn plan_joiner(&mut self, address: &str, token: &str) -> &mut Node {
        let id = u64::try_from(self.nodes.len())
            .unwrap_or(u64::MAX)
            .saturating_add(1);
        let (network, dir) = (&self.network, self.dir.path());
        self.nodes.push(Node::new(Launch {
            node_id: id,
            told_id: false,
            join: Some((address.to_owned(), token.to_owned())),
            data_dir: dir.join(format!("data-{id}")),
            gateway: format!("{network}.{id}:{GATEWAY_PORT}"),
            admin: format!("{network}.{id}:{ADMIN_PORT}"),
            peer: format!("{network}.{id}:{PEER_PORT}"),
            initial_cluster: None,
            secret_file: None,
            advertise_peer: None,
            workers: 2,
            more: Vec::new(),
            starter: Vec::new(),
            log: dir.join(format!("node-{id}.log")),
            program: self.program.clone(),
        }));
        let last = self.nodes.len() - 1;
        &mut self.nodes[last]
    }

    /// Forgets the last node, which has ended, and its files: the next one has its number and its addresses.
    pub fn forget_last(&mut self) {
        if let Some(node) = self.nodes.pop() {
            // What is not there need not go.
            let _ = std::fs::remove_dir_all(&node.launch.data_dir);
            let _ = std::fs::remove_file(&node.launch.log);
        }
    }

    /// Has one more node join by way of member `by`, and waits until it serves; its number.
    ///
    /// # Errors
    ///
    /// It did not join.
    pub async fn join(&mut self, by: usize) -> Result<usize> {
        let token = self.node(by).join_token("1h").await?;
        let address = self.node(by).launch.peer.clone();
        let node = self.plan_joiner(&address, &token);
        node.start()?;
        node.wait_ready().await?;
        usize::try_from(node.id()).context("a small number")
    }

    /// Starts every node that does not run.
    ///
    /// # Errors
    ///
    /// A process could not be started.
    pub fn start_all(&mut self) -> Result<()> {
        self.nodes
            .iter_mut()
            .filter(|node| !node.is_started())
            .try_for_each(Node::start)
    }

    /// Waits until every node is ready.
    ///
    /// # Errors
    ///
    /// One is not, within [`READY`].
    pub async fn wait_ready(&mut self) -> Result<()> {
        for node in &mut self.nodes {
            node.wait_ready().await?;
        }
        Ok(())
    }

    /// Its nodes, by id.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Its nodes, by id.
    pub fn nodes_mut(&mut self) -> &mut [Node] {
        &mut self.nodes
    }

    /// The node of an id.
    ///
    /// # Panics
    ///
    /// There is none: the test is wrong.
    pub fn node(&self, id: usize) -> &Node {
        &self.nodes[id - 1]
    }

    /// The node of an id.
    ///
    /// # Panics
    ///
    /// There is none: the test is wrong.
    pub fn node_mut(&mut self, id: usize) -> &mut Node {
        &mut self.nodes[id - 1]
    }

    /// A directory for the test's own files.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The binary, as this cluster's user would run it.
    pub const fn program(&self) -> &Program {
        &self.program
    }

    /// Writes a file into the test's directory and returns its path.
    ///
    /// # Errors
    ///
    /// The file could not be written.
    pub fn file(&self, name: &str, text: &str) -> Result<String> {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        Ok(path.to_string_lossy().into_owned())
    }

    /// Applies a document on the first node and waits until it is in force on all.
    ///
    /// # Errors
    ///
    /// It was refused.
    pub async fn apply(&self, document: &str) -> Result<String> {
        self.node(1)
            .run(&["apply", "-f", "-", "--wait"], document)
            .await?
            .ok()
    }

    /// Makes a key through the first node and waits until every gateway takes it.
    ///
    /// # Errors
    ///
    /// It was refused.
    pub async fn key(&self, tenant: &str, consumer: &str, name: &str) -> Result<String> {
        let key = self.node(1).create_key(tenant, consumer, name).await?;
        self.wait_key(&key).await?;
        Ok(key)
    }

    /// Waits until every gateway takes a key.
    ///
    /// # Errors
    ///
    /// One does not.
    pub async fn wait_key(&self, key: &str) -> Result<()> {
        for node in self.nodes.iter().filter(|node| node.is_started()) {
            node.wait_key(key, 200).await?;
        }
        Ok(())
    }

    /// Ends the test's cluster in order: every running node must end with status 0 on SIGTERM.
    ///
    /// # Errors
    ///
    /// A node did not, or had a panic on its way.
    pub async fn finish(mut self) -> Result<()> {
        for node in &self.nodes {
            node.ask_to_end()?;
        }
        for node in &mut self.nodes {
            if node.is_started() {
                let code = node.wait_end().await?;
                ensure!(
                    code == Some(0),
                    "node {} ended with {code:?} on SIGTERM",
                    node.id()
                );
            }
            let log = node.log();
            let panicked = log.lines().find(|line| line.contains("panicked at"));
            ensure!(
                panicked.is_none(),
                "node {} had a panic: {panicked:?}",
                node.id()
            );
        }
        self.finished = true;
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        let mut out = std::io::stderr().lock();
        for node in &self.nodes {
            let log = node.log();
            let lines: Vec<_> = log.lines().collect();
            let tail = lines[lines.len().saturating_sub(LOG_LINES)..].join("\n");
            // Nothing is left to do where even standard error is gone.
            let _ = writeln!(out, "--- the end of node {}'s log ---\n{tail}", node.id());
        }
    }
}

// === free functions ===

/// A network of 254 loopback addresses that nobody else uses while the listener lives, as `127.a.b`.
fn claim_network() -> Result<(TcpListener, String)> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let start = std::process::id().wrapping_mul(31);
    for _ in 0..1000 {
        let number = start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        // 127.0.0.0/16 is where the user's own programs listen.
        let network = format!("127.{}.{}", 1 + (number / 256) % 254, number % 256);
        if let Ok(listener) = TcpListener::bind(format!("{network}.254:{CLAIM_PORT}")) {
            return Ok((listener, network));
        }
    }
    anyhow::bail!(
        "no free loopback network for a test cluster; this needs Linux, where 127.0.0.0/8 is loopback"
    )
}

/// Writes a fresh cluster secret: 32 random bytes in hex.
///
/// # Errors
///
/// The file could not be written.
pub fn write_secret(path: &PathBuf) -> Result<()> {
    let mut bytes = [0; 32];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut random| random.read_exact(&mut bytes))
        .context("drawing a secret")?;
    let hex = bytes
        .iter()
        .fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
    let mut options = std::fs::OpenOptions::new();
    std::os::unix::fs::OpenOptionsExt::mode(options.write(true).create_new(true), 0o600)
        .open(path)
        .and_then(|mut file| file.write_all(hex.as_bytes()))
        .with_context(|| format!("writing {}", path.display()))
}
