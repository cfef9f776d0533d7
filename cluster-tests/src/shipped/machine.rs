//! A machine with a systemd of its own, started in a container above the files of this one: changes to them stay in memory.
//!
//! It shares the sandbox's network, so that a test calls what runs in it by `127.0.0.1`. No service of the machine below is started in
//! it: what an administrator has enabled there is not there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::process::{Child, Command};

use super::{CONTROL_GROUPS, unify_control_groups};
use crate::netns::sandbox::tool;
use crate::program::Output;
use crate::wait;

/// The sandbox has a `/run` of its own.
const DIR: &str = "/run/machine";
/// Until systemd has started what it is told to.
const BOOT: Duration = Duration::from_mins(1);
/// A command in it; a service may take a minute to stop.
const WITHIN: Duration = Duration::from_mins(2);

/// The machine; there is one in a sandbox.
#[derive(Debug)]
pub struct Machine {
    root: PathBuf,
    /// The process id of its first process.
    init: u32,
    container: Child,
}

// === impl Machine ===

impl Machine {
    /// Starts it.
    ///
    /// # Errors
    ///
    /// This machine has no systemd, or the sandbox does not allow one.
    pub async fn boot() -> Result<Self> {
        unify_control_groups()?;
        let root = mount()?;
        let mut container = Command::new("systemd-nspawn")
            .arg("--directory")
            .arg(&root)
            .args([
                "--quiet",
                "--register=no",
                "--keep-unit",
                "--link-journal=no",
            ])
            .args(["--console=pipe", "--boot", "--", "--unit=basic.target"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .context("starting systemd-nspawn: is it installed? (package systemd-container)")?;
        let nspawn = container.id().context("systemd-nspawn has ended")?;
        // Its first children only prepare.
        let init = wait::until("systemd to have started everything", BOOT, async || {
            let ended = container.try_wait()?;
            ensure!(ended.is_none(), "systemd-nspawn ended with {ended:?}");
            let init = child_of(nspawn)?;
            enter(init, "systemctl is-system-running").await?.ok()?;
            Ok(init)
        })
        .await?;
        Ok(Self {
            root,
            init,
            container,
        })
    }

    /// Switches it off, and takes away the control groups that it leaves.
    ///
    /// # Errors
    ///
    /// It does not end.
    pub async fn switch_off(mut self) -> Result<()> {
        // The answer may be cut by what was asked for.
        let _ = self.run("systemctl poweroff").await?;
        let ended = tokio::time::timeout(WITHIN, self.container.wait()).await;
        ended
            .context("the machine does not switch itself off")?
            .context("waiting for systemd-nspawn")?;
        let own = fs::read_to_string("/proc/self/cgroup").context("reading the own group")?;
        let own = own.lines().find_map(|line| line.strip_prefix("0::/"));
        let own = Path::new(CONTROL_GROUPS).join(own.unwrap_or_default());
        for left in ["payload", "supervisor"] {
            remove(&own.join(left));
        }
        Ok(())
    }

    /// A file of it, as the test sees it.
    pub fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// Runs a line of the shell in it, as root.
    ///
    /// # Errors
    ///
    /// It could not be run.
    pub async fn run(&self, line: &str) -> Result<Output> {
        enter(self.init, line).await
    }

    /// Runs a line of the shell in it, which must go well; what it printed.
    ///
    /// # Errors
    ///
    /// It failed.
    pub async fn ok(&self, line: &str) -> Result<String> {
        self.run(line).await?.ok()
    }

    /// A property of a service.
    ///
    /// # Errors
    ///
    /// systemd does not tell it.
    pub async fn property(&self, service: &str, name: &str) -> Result<String> {
        let line = format!("systemctl show --value --property {name} {service}");
        Ok(self.ok(&line).await?.trim().to_owned())
    }

    /// A field of `/proc/PID/status` of a service's main process.
    ///
    /// # Errors
    ///
    /// It does not run.
    pub async fn status(&self, service: &str, field: &str) -> Result<String> {
        let pid = self.property(service, "MainPID").await?;
        let status = self.ok(&format!("cat /proc/{pid}/status")).await?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        let value = line.with_context(|| format!("no {field} in {status}"))?;
        Ok(value.trim().to_owned())
    }
}

// === free functions ===

/// This machine's files, below an empty layer.
fn mount() -> Result<PathBuf> {
    let dir = Path::new(DIR);
    let (root, upper, work) = (dir.join("root"), dir.join("upper"), dir.join("work"));
    for path in [&root, &upper, &work] {
        fs::create_dir_all(path).with_context(|| format!("making {}", path.display()))?;
    }
    let layers = format!(
        "lowerdir=/,upperdir={},workdir={}",
        upper.display(),
        work.display()
    );
    let at = root.to_string_lossy();
    tool("mount", &["-t", "overlay", "-o", &layers, "overlay", &at])?;
    // What is enabled below, as waiting for networks that are not here.
    let enabled = root.join("etc/systemd/system");
    if enabled.exists() {
        fs::remove_dir_all(&enabled).with_context(|| format!("emptying {}", enabled.display()))?;
    }
    fs::create_dir_all(&enabled).with_context(|| format!("making {}", enabled.display()))?;
    Ok(root)
}

/// Runs a line of the shell in all namespaces of a process.
async fn enter(init: u32, line: &str) -> Result<Output> {
    let mut command = Command::new("nsenter");
    command
        .args(["--target", &init.to_string(), "--all", "--"])
        .args(["sh", "-ec", line]);
    Output::of(line.to_owned(), command, "", WITHIN).await
}

/// Removes a control group with those below it. One that is in use stays.
fn remove(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path());
        }
    }
    let _ = fs::remove_dir(group);
}

/// A child of a process.
fn child_of(parent: u32) -> Result<u32> {
    let wanted = format!("PPid:\t{parent}\n");
    for entry in fs::read_dir("/proc").context("reading /proc")? {
        let entry = entry?;
        let Ok(pid) = entry.file_name().to_string_lossy().parse() else {
            continue;
        };
        // A process that has ended meanwhile is none.
        let status = fs::read_to_string(entry.path().join("status")).unwrap_or_default();
        if status.contains(&wanted) {
            return Ok(pid);
        }
    }
    anyhow::bail!("process {parent} has no child")
}
