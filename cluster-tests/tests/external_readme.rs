//! The README's second screen, typed as it stands.
//!
//! The blocks after its `readme-test` markers are fed to one bash, in order and at once, with `mode-envoy` on its path and
//! a home of its own. The lines use curl and sed and fixed ports, so this test is one of the external ones.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};

const NODE: &str = env!("CARGO_BIN_EXE_mode-envoy-under-test");
const END: Duration = Duration::from_mins(2);
const PORTS: [u16; 9] = [8080, 7070, 7071, 8180, 7170, 7171, 8280, 7270, 7271];

/// A bash in a group of processes of its own, which ends with the value.
struct Shell {
    child: Child,
    dir: TempDir,
}

#[tokio::test]
async fn the_second_screen_works_as_typed() -> Result<()> {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let readme = std::fs::read_to_string(&readme)
        .with_context(|| format!("reading {}", readme.display()))?;
    let blocks = blocks(&readme)?;
    let names: Vec<_> = blocks.iter().map(|(name, _)| name.as_str()).collect();
    ensure!(
        names == ["serve", "apply", "call"],
        "the README's blocks are {names:?}"
    );
    for port in PORTS {
        let free = std::net::TcpListener::bind(("127.0.0.1", port));
        free.with_context(|| {
            format!("the README's nodes need port {port} of 127.0.0.1; stop what listens there")
        })?;
    }

    let mut shell = Shell::start()?;
    for (_, lines) in &blocks {
        shell.write(lines).await?;
    }
    // Ends what the first block put into the background; `wait` tells how each of them ended.
    shell.write("for job in $(jobs -p); do kill $job; done; for job in $(jobs -p); do wait $job; done\n").await?;
    let (code, out) = shell.end().await?;
    ensure!(
        code == Some(0),
        "the README's lines end with {code:?}: {out}"
    );
    for expected in [
        // The answer of the embedded model, from node two.
        "Hello from node two",
        "\"chat.completion\"",
        // The usage table, from node three.
        "mobile-app",
        "fast",
        // The cluster's status, from node one.
        "leader",
        "follower",
        "127.0.0.1:7271",
    ] {
        ensure!(
            out.contains(expected),
            "the README's lines do not print {expected:?}: {out}"
        );
    }
    Ok(())
}

// === impl Shell ===

impl Shell {
    fn start() -> Result<Self> {
        let dir = TempDir::with_prefix("mode-envoy-readme-").context("making a directory")?;
        let bin = dir.path().join("bin");
        std::fs::create_dir(&bin)?;
        std::os::unix::fs::symlink(NODE, bin.join("mode-envoy"))?;
        let path = std::env::var("PATH").context("reading PATH")?;
        let out = std::fs::File::create(dir.path().join("out"))?;
        let mut command = Command::new("bash");
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("MODE_ENVOY_") {
                command.env_remove(name);
            }
        }
        let child = command
            .args(["-e", "-o", "pipefail", "-s"])
            .current_dir(dir.path())
            .env("PATH", format!("{}:{path}", bin.display()))
            .env("HOME", dir.path())
            .env("XDG_CONFIG_HOME", dir.path().join("config"))
            .stdin(Stdio::piped())
            .stdout(out.try_clone()?)
            .stderr(out)
            .process_group(0)
            .spawn()
            .context("starting bash")?;
        Ok(Self { child, dir })
    }

    async fn write(&mut self, lines: &str) -> Result<()> {
        let stdin = self.child.stdin.as_mut().context("bash's standard input")?;
        let written = stdin.write_all(lines.as_bytes()).await;
        written.with_context(|| format!("bash has ended: {}", self.out()))
    }

    /// Lets bash come to its end; its exit code and everything that was printed.
    async fn end(mut self) -> Result<(Option<i32>, String)> {
        drop(self.child.stdin.take());
        let status = tokio::time::timeout(END, self.child.wait()).await;
        let status = status.with_context(|| format!("bash does not end: {}", self.out()))??;
        Ok((status.code(), self.out()))
    }

    fn out(&self) -> String {
        let bytes = std::fs::read(self.dir.path().join("out")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        // Its nodes too, if the test failed half-way. A group that is gone is what is wanted.
        let id = self.child.id().and_then(|id| i32::try_from(id).ok());
        if let Some(group) = id.and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
    }
}

// === free functions ===

/// The fenced blocks after the markers, with the markers' names.
fn blocks(readme: &str) -> Result<Vec<(String, String)>> {
    let mut blocks = Vec::new();
    let mut lines = readme.lines();
    while let Some(line) = lines.next() {
        let Some(name) = line
            .strip_prefix("<!-- readme-test: ")
            .and_then(|rest| rest.strip_suffix(" -->"))
        else {
            continue;
        };
        ensure!(
            lines.next() == Some("```sh"),
            "no block after the marker {name}"
        );
        let mut block = String::new();
        loop {
            match lines.next() {
                Some("```") => break,
                Some(line) => block.extend([line, "\n"]),
                None => bail!("the block {name} has no end"),
            }
        }
        blocks.push((name.to_owned(), block));
    }
    Ok(blocks)
}
