//! A test in namespaces of its own: the test's binary is started again below `unshare`.
//!
//! Invariants: a test that does not run is not a test that passes (the inner run leaves a mark, and without it the outer run
//! fails); a machine that does not allow namespaces is told so in a sentence; when the outer process dies, by whatever
//! signal, everything below dies with it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

/// Set in the inner run: the file that it writes when the test has passed.
const MARK: &str = "MODE_ENVOY_TEST_SANDBOX";

/// Threads of the runtime: clients and upstreams must not wait for one another.
const THREADS: usize = 2;

/// What `unshare` is told. The inner run is the first process of its process namespace, so that all others end with it.
const UNSHARE: [&str; 6] = [
    "--net",
    "--mount",
    "--pid",
    "--fork",
    "--kill-child",
    "--mount-proc",
];

/// Runs a test, whose function has this name, in namespaces of its own.
///
/// # Errors
///
/// The test failed, or this machine allows no namespaces.
pub fn run(name: &str, test: impl AsyncFnOnce() -> Result<()>) -> Result<()> {
    match std::env::var_os(MARK) {
        Some(mark) => inside(&PathBuf::from(mark), test),
        None => outside(name),
    }
}

/// The same for a test that needs more than namespaces: owners of files, control groups, a system of its own.
///
/// # Errors
///
/// The test failed, or was not started by root.
pub fn run_as_root(name: &str, test: impl AsyncFnOnce() -> Result<()>) -> Result<()> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "{name} makes files of other users, containers or a system: run it as root"
    );
    run(name, test)
}

/// Runs a tool of the system to its end; what it printed.
///
/// # Errors
///
/// It is not there, or failed.
pub fn tool(program: &str, arguments: &[&str]) -> Result<String> {
    let line = format!("{program} {}", arguments.join(" "));
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .with_context(|| {
            format!("starting {line}: is it installed? (packages iproute2, util-linux)")
        })?;
    ensure!(
        output.status.success(),
        "{line} ended with {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn inside(mark: &Path, test: impl AsyncFnOnce() -> Result<()>) -> Result<()> {
    // Names of network namespaces are files here; these are this sandbox's own.
    tool("mount", &["-t", "tmpfs", "tmpfs", "/run"])?;
    tool("ip", &["link", "set", "lo", "up"])?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .enable_all()
        .build()
        .context("starting a runtime")?;
    runtime.block_on(test())?;
    std::fs::write(mark, "passed").with_context(|| format!("writing {}", mark.display()))
}

fn outside(name: &str) -> Result<()> {
    let namespaces = namespaces();
    let allowed = [namespaces.clone(), vec!["true"]].concat();
    tool("unshare", &allowed).context(
        "this test needs network, mount and process namespaces of its own, which this machine does not allow: run it as root, \
         or where unprivileged user namespaces are allowed",
    )?;
    let dir = tempfile::tempdir().context("making a directory for the mark of a sandbox")?;
    let mark = dir.path().join("passed");
    let itself = std::env::current_exe().context("finding the test's own binary")?;
    // The first word's process is the one that `unshare` becomes; it is killed when this one dies.
    let status = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "--", "unshare"])
        .args(namespaces)
        .arg("--")
        .arg(itself)
        .args([name, "--exact", "--nocapture"])
        .env(MARK, &mark)
        .stdin(Stdio::null())
        .status()
        .context("starting the test in its sandbox")?;
    ensure!(
        status.success(),
        "{name} failed in its sandbox, as it says above ({status})"
    );
    ensure!(
        mark.exists(),
        "{name} did not run in its sandbox: is that the name of the test's function?"
    );
    Ok(())
}

/// Root has what it needs; others get it in a user namespace, if the machine allows that.
fn namespaces() -> Vec<&'static str> {
    let mut words = UNSHARE.to_vec();
    if !rustix::process::geteuid().is_root() {
        words.push("--map-root-user");
    }
    words
}
