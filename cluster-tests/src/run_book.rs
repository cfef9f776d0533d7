//! The run-books of `docs/operating.md`, followed to the letter: their blocks are run by bash as they stand.
//!
//! A block has a name, in a comment before it (`<!-- run-book: NAME -->`), and may be indented, as in a list. What an operator puts
//! in (`$DATA`, `$PEER`, ...) a test gives as variables. Invariants: a block finds `mode-envoy` on its path, sees no settings of
//! the user, and stops at its first failure; a process that a block started ends with the value.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{Child, Command};

use crate::cluster::{Cluster, Node};

/// Any block but one that serves.
const WITHIN: Duration = Duration::from_mins(2);
/// From SIGTERM to the end; a drain may take 30 s.
const END: Duration = Duration::from_secs(45);

/// The run-books, and the person at the terminal who follows them.
#[derive(Debug)]
pub struct RunBook {
    blocks: BTreeMap<String, String>,
    binary: PathBuf,
    config_home: PathBuf,
    dir: PathBuf,
    variables: BTreeMap<String, String>,
}

/// A block that serves.
#[derive(Debug)]
pub struct Serving {
    child: Child,
}

// === impl RunBook ===

impl RunBook {
    /// Reads a document, for a person who sees the configuration of a cluster's user.
    ///
    /// # Errors
    ///
    /// It cannot be read, or has a marker without a block.
    pub fn open(document: &Path, binary: &str, cluster: &Cluster) -> Result<Self> {
        let text = std::fs::read_to_string(document)
            .with_context(|| format!("reading {}", document.display()))?;
        let dir = cluster.dir().join("terminal");
        let bin = dir.join("bin");
        std::fs::create_dir_all(&bin)?;
        std::os::unix::fs::symlink(binary, bin.join("mode-envoy"))?;
        let mut book = Self {
            blocks: blocks(&text)?,
            binary: bin,
            config_home: cluster.program().config_home().to_owned(),
            dir,
            variables: BTreeMap::new(),
        };
        // For a machine that is busy with other tests, and whose disk is none of a test's business.
        for (name, value) in [
            ("GATEWAY_WORKERS", "2"),
            ("DISK_MIN_FREE_BYTES", "0"),
            ("HEARTBEAT_MS", "300"),
            ("ELECTION_MIN_MS", "1000"),
            ("ELECTION_MAX_MS", "1400"),
        ] {
            book.set(&format!("MODE_ENVOY_{name}"), value);
        }
        Ok(book)
    }

    /// Gives a variable to the blocks from now on.
    pub fn set(&mut self, name: &str, value: &str) {
        self.variables.insert(name.to_owned(), value.to_owned());
    }

    /// Speaks to a node from now on.
    pub fn ask(&mut self, node: &Node) {
        self.set("MODE_ENVOY_ADMIN", &node.admin_url());
    }

    /// Sits at the machine of a node that is to be started: its directory, its addresses.
    ///
    /// # Errors
    ///
    /// Its directory is no text.
    pub fn sit_at(&mut self, node: &Node) -> Result<()> {
        let launch = &node.launch;
        let dir = launch.data_dir.to_str().context("a path")?.to_owned();
        self.set("DATA", &dir);
        self.set("PEER", &launch.peer);
        self.set("MODE_ENVOY_GATEWAY_ADDR", &launch.gateway);
        self.set("MODE_ENVOY_ADMIN_ADDR", &launch.admin);
        Ok(())
    }

    /// Runs a block to its end; what it printed.
    ///
    /// # Errors
    ///
    /// There is no such block, or it failed.
    pub async fn run(&self, name: &str) -> Result<String> {
        let mut command = self.command(name)?;
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let running = command.kill_on_drop(true).output();
        let output = tokio::time::timeout(WITHIN, running)
            .await
            .with_context(|| format!("the block {name} does not end"))??;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "the block {name} ended with {}: {said}",
            output.status
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs a block that serves, whose log goes where that of this node does.
    ///
    /// # Errors
    ///
    /// There is no such block, or bash cannot be started.
    pub fn serve(&self, name: &str, node: &Node) -> Result<Serving> {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&node.launch.log)?;
        let mut command = self.command(name)?;
        command.stdout(Stdio::null()).stderr(log).process_group(0);
        let child = command.kill_on_drop(true).spawn()?;
        Ok(Serving { child })
    }

    fn command(&self, name: &str) -> Result<Command> {
        let known = || self.blocks.keys().collect::<Vec<_>>();
        let lines = self
            .blocks
            .get(name)
            .with_context(|| format!("no run-book has a block {name}; there are {:?}", known()))?;
        let path = std::env::var("PATH").context("reading PATH")?;
        let mut command = Command::new("bash");
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("MODE_ENVOY_") || text == "RUST_LOG" {
                command.env_remove(name);
            }
        }
        command
            .args(["-euo", "pipefail", "-c", lines])
            .current_dir(&self.dir)
            .env("PATH", format!("{}:{path}", self.binary.display()))
            .env("HOME", &self.config_home)
            .env("XDG_CONFIG_HOME", &self.config_home)
            .envs(&self.variables)
            .stdin(Stdio::null());
        Ok(command)
    }
}

// === impl Serving ===

impl Serving {
    /// Ends it as a service manager would; it must end in order.
    ///
    /// # Errors
    ///
    /// It does not end, or not with status 0.
    pub async fn term(mut self) -> Result<()> {
        self.signal(Signal::TERM)?;
        let status = tokio::time::timeout(END, self.child.wait())
            .await
            .context("what a block started does not end")??;
        // Bash may have become the node, or wait for it and tell of the signal.
        ensure!(
            status.success() || std::os::unix::process::ExitStatusExt::signal(&status) == Some(15),
            "what a block started ended with {status}"
        );
        Ok(())
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let id = self.child.id().context("what a block started has ended")?;
        let group = Pid::from_raw(i32::try_from(id)?).context("a process id")?;
        Ok(kill_process_group(group, signal)?)
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // Where the test failed half-way. A group that is gone is what is wanted.
        let _ = self.signal(Signal::KILL);
    }
}

// === free functions ===

/// The blocks after the markers, by the markers' names, without their indentation.
fn blocks(document: &str) -> Result<BTreeMap<String, String>> {
    let mut blocks = BTreeMap::new();
    let mut lines = document.lines();
    while let Some(line) = lines.next() {
        let text = line.trim_start();
        let Some(name) = text
            .strip_prefix("<!-- run-book: ")
            .and_then(|rest| rest.strip_suffix(" -->"))
        else {
            continue;
        };
        let indent = &line[..line.len() - text.len()];
        let plain = |line: &'_ str| line.strip_prefix(indent).unwrap_or(line).to_owned();
        let opens = lines.next().map(plain);
        ensure!(
            opens.as_deref() == Some("```sh"),
            "no block after the marker {name}"
        );
        let mut block = String::new();
        loop {
            match lines.next().map(plain) {
                Some(line) if line == "```" => break,
                Some(line) => block.extend([line.as_str(), "\n"]),
                None => bail!("the block {name} has no end"),
            }
        }
        let before = blocks.insert(name.to_owned(), block);
        ensure!(before.is_none(), "there are two blocks {name}");
    }
    Ok(blocks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_found_by_name_also_in_lists() {
        let document = "text\n<!-- run-book: one -->\n```sh\na\n  b\n```\n1. list\n\n   <!-- run-book: two -->\n   ```sh\n   c\n   ```\n";
        let found = blocks(document).unwrap();
        assert_eq!(found["one"], "a\n  b\n");
        assert_eq!(found["two"], "c\n");
        assert!(blocks("<!-- run-book: x -->\ntext").is_err());
        assert!(blocks("<!-- run-book: x -->\n```sh\na\n").is_err());
    }
}
