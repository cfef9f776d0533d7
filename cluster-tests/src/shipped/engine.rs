//! A container engine with an empty store of its own: podman, and podman-compose for `deploy/docker/compose.yaml`.
//!
//! It keeps images, containers and volumes in memory and makes its networks in the sandbox's namespace, so that the machine's own
//! engine, if there is one, knows nothing of it. Limits of processes are the sandbox's where it may not raise them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Resource, getrlimit};
use serde_json::Value;
use tokio::process::Command;

use super::{deploy, root, unify_control_groups};
use crate::netns::sandbox::tool;
use crate::program::Output;

/// The sandbox has a `/run` of its own.
const DIR: &str = "/run/engine";
/// A cluster that goes up or down; a node may drain for 30 s.
const WITHIN: Duration = Duration::from_mins(3);
/// What the compose file asks for.
const FILES: u64 = 262_144;

/// The engine; there is one in a sandbox.
#[derive(Debug)]
pub struct Engine {
    dir: PathBuf,
}

// === impl Engine ===

impl Engine {
    /// Makes one whose store is empty.
    ///
    /// # Errors
    ///
    /// The sandbox does not allow it.
    pub fn prepare() -> Result<Self> {
        unify_control_groups()?;
        // Its locks have a fixed name.
        tool("mount", &["-t", "tmpfs", "tmpfs", "/dev/shm"])?;
        let dir = PathBuf::from(DIR);
        fs::create_dir_all(&dir).with_context(|| format!("making {DIR}"))?;
        for (name, text) in [
            ("containers.conf", settings()),
            ("storage.conf", store()),
            ("limits.yaml", limits()),
        ] {
            let path = dir.join(name);
            fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        }
        Ok(Self { dir })
    }

    /// Builds the image `mode-envoy` of a static binary, as `deploy/build-image.sh` does.
    ///
    /// # Errors
    ///
    /// It cannot be built.
    pub async fn build(&self, binary: &Path) -> Result<()> {
        let script = deploy("build-image.sh");
        let mut command = self.command(&script.to_string_lossy());
        command.env("BUILDER", "podman").env("MODE_ENVOY", binary);
        let built = Output::of("deploy/build-image.sh".to_owned(), command, "", WITHIN);
        built.await?.ok().map(drop)
    }

    /// Runs podman; what it printed.
    ///
    /// # Errors
    ///
    /// It failed.
    pub async fn podman(&self, line: &str) -> Result<String> {
        let mut command = self.command("podman");
        command.args(line.split_whitespace());
        let output = Output::of(format!("podman {line}"), command, "", WITHIN);
        output.await?.ok()
    }

    /// What podman tells about an image or a container, as JSON.
    ///
    /// # Errors
    ///
    /// There is none of that name.
    pub async fn inspect(&self, name: &str) -> Result<Value> {
        let text = self.podman(&format!("inspect {name}")).await?;
        let mut told: Vec<Value> = serde_json::from_str(&text)
            .with_context(|| format!("reading what podman says of {name}"))?;
        told.pop()
            .with_context(|| format!("podman says nothing of {name}"))
    }

    /// Runs podman-compose with the compose file as it stands.
    ///
    /// # Errors
    ///
    /// It could not be run.
    pub async fn compose(&self, line: &str, input: &str) -> Result<Output> {
        let venv = std::env::var_os("MODE_ENVOY_EXTERNAL_VENV")
            .map_or_else(|| root().join("target/external-venv"), PathBuf::from);
        let mut command = self.command(&venv.join("bin/podman-compose").to_string_lossy());
        command
            .arg("--file")
            .arg(deploy("docker/compose.yaml"))
            .arg("--file")
            .arg(self.dir.join("limits.yaml"))
            .args(line.split_whitespace());
        Output::of(format!("podman-compose {line}"), command, input, WITHIN).await
    }

    /// Runs the command line in the container of a service; several times as fast as through podman-compose.
    ///
    /// # Errors
    ///
    /// It could not be run.
    pub async fn exec(&self, service: &str, line: &str, input: &str) -> Result<Output> {
        let mut command = self.command("podman");
        command
            .args(["exec", "--interactive", &container(service), "/mode-envoy"])
            .args(line.split_whitespace());
        Output::of(
            format!("{service}: mode-envoy {line}"),
            command,
            input,
            WITHIN,
        )
        .await
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(&self.dir)
            .env("CONTAINERS_CONF", self.dir.join("containers.conf"))
            .env("CONTAINERS_STORAGE_CONF", self.dir.join("storage.conf"));
        command
    }
}

// === free functions ===

/// The container of a service.
pub fn container(service: &str) -> String {
    format!("mode-envoy_{service}_1")
}

/// No control groups, since it may not own any here; networks by the engine's own tools, whatever else is installed.
fn settings() -> String {
    let (files, processes) = most();
    format!(
        "[containers]\ncgroups = \"disabled\"\ndefault_ulimits = [\"nofile={files}:{files}\", \"nproc={processes}:{processes}\"]\n\
         [engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\n\
         [network]\nnetwork_backend = \"netavark\"\n"
    )
}

/// A whole copy for each layer and container: large, and it works on every file system.
fn store() -> String {
    format!("[storage]\ndriver = \"vfs\"\ngraphroot = \"{DIR}/store\"\nrunroot = \"{DIR}/run\"\n")
}

/// What the compose file asks for, as far as this sandbox may give it.
fn limits() -> String {
    let (files, processes) = most();
    let nodes = (1..=3)
        .map(|id| format!("  node{id}: {{ulimits: {{nofile: {files}, nproc: {processes}}}}}\n"));
    format!("services:\n{}", nodes.collect::<String>())
}

/// Open files and processes.
fn most() -> (u64, u64) {
    let hard = |resource, most: u64| {
        getrlimit(resource)
            .maximum
            .map_or(most, |own| own.min(most))
    };
    (hard(Resource::Nofile, FILES), hard(Resource::Nproc, FILES))
}
