//! Running the product's binary, apart from the user's own configuration, and other commands to their end.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// The command line answers within seconds, or says why not.
const WITHIN: Duration = Duration::from_mins(1);

/// The binary, and the configuration directory that it sees.
#[derive(Clone, Debug)]
pub struct Program {
    binary: PathBuf,
    config_home: PathBuf,
    token_file: Option<PathBuf>,
    starter: Vec<String>,
}

/// What a finished command left.
#[derive(Clone, Debug)]
pub struct Output {
    command: String,
    /// The exit code; `None` where a signal ended it.
    pub code: Option<i32>,
    /// What it printed as data.
    pub stdout: String,
    /// What it said beside.
    pub stderr: String,
}

// === impl Program ===

impl Program {
    /// The binary at this path, with a configuration directory of its own.
    pub fn new(binary: &str, config_home: PathBuf) -> Self {
        Self {
            binary: PathBuf::from(binary),
            config_home,
            token_file: None,
            starter: Vec::new(),
        }
    }

    /// The same, always started by another program, as by `chroot DIR`. Paths are then as it sees them.
    #[must_use]
    pub fn with_starter(self, starter: Vec<String>) -> Self {
        Self { starter, ..self }
    }

    /// The same, told where its admin token is: beyond loopback it does not look for one.
    #[must_use]
    pub fn with_token_file(self, path: PathBuf) -> Self {
        Self {
            token_file: Some(path),
            ..self
        }
    }

    /// The configuration directory that it sees.
    pub fn config_home(&self) -> &Path {
        &self.config_home
    }

    /// A command that sees nothing of the user's settings.
    pub fn command(&self) -> Command {
        self.command_below(&[])
    }

    /// The same, started by another program: the words of its command line, to which this one's is added.
    pub fn command_below(&self, starter: &[String]) -> Command {
        let mut starters = starter.iter().chain(&self.starter);
        let mut command = match starters.next() {
            None => Command::new(&self.binary),
            Some(first) => {
                let mut command = Command::new(first);
                command.args(starters).arg(&self.binary);
                command
            }
        };
        for (name, _) in std::env::vars_os() {
            let name_text = name.to_string_lossy();
            if name_text.starts_with("MODE_ENVOY_") || name_text == "RUST_LOG" {
                command.env_remove(name);
            }
        }
        command
            .env("XDG_CONFIG_HOME", &self.config_home)
            .env("HOME", &self.config_home)
            .kill_on_drop(true);
        if let Some(token_file) = &self.token_file {
            command.env("MODE_ENVOY_TOKEN_FILE", token_file);
        }
        command
    }

    /// Runs it to its end.
    ///
    /// # Errors
    ///
    /// It could not be started, or does not end.
    pub async fn run(&self, arguments: &[&str], input: &str) -> Result<Output> {
        self.run_with(arguments, input, &[]).await
    }

    /// Runs it to its end with variables of its own.
    ///
    /// # Errors
    ///
    /// It could not be started, or does not end.
    pub async fn run_with(
        &self,
        arguments: &[&str],
        input: &str,
        variables: &[(&str, &str)],
    ) -> Result<Output> {
        let name = format!("mode-envoy {}", arguments.join(" "));
        let mut command = self.command();
        command.args(arguments).envs(variables.iter().copied());
        Output::of(name, command, input, WITHIN).await
    }
}

// === impl Output ===

impl Output {
    /// Runs a command, which is told as `name`, to its end.
    ///
    /// # Errors
    ///
    /// It could not be started, or does not end within that time.
    pub async fn of(
        name: String,
        mut command: Command,
        input: &str,
        within: Duration,
    ) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {name}"))?;
        let mut stdin = child.stdin.take().context("a piped standard input")?;
        let feed = async move {
            // A command that does not read its input closes it early.
            let _ = stdin.write_all(input.as_bytes()).await;
            drop(stdin);
        };
        let (output, ()) =
            tokio::join!(tokio::time::timeout(within, child.wait_with_output()), feed);
        let output = output
            .with_context(|| format!("{name} did not end within {} s", within.as_secs()))?
            .with_context(|| format!("running {name}"))?;
        Ok(Self {
            command: name,
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// What it printed, if it went well.
    ///
    /// # Errors
    ///
    /// It ended with another code than 0.
    pub fn ok(self) -> Result<String> {
        ensure!(self.code == Some(0), "{self}");
        Ok(self.stdout)
    }

    /// What it printed, as JSON, if it went well.
    ///
    /// # Errors
    ///
    /// It ended with another code than 0, or printed no JSON.
    pub fn json(self) -> Result<Value> {
        let command = self.command.clone();
        let text = self.ok()?;
        serde_json::from_str(&text)
            .with_context(|| format!("reading what {command} printed: {text}"))
    }

    /// What it said, if it ended with this code.
    ///
    /// # Errors
    ///
    /// It ended with another.
    pub fn fails(self, code: i32) -> Result<String> {
        ensure!(self.code == Some(code), "expected exit code {code}: {self}");
        ensure!(
            !self.stderr.trim().is_empty(),
            "{self} does not say why it failed"
        );
        Ok(self.stderr)
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            command,
            code,
            stdout,
            stderr,
        } = self;
        write!(
            f,
            "{command} ended with {code:?}; it printed {stdout:?} and said {stderr:?}"
        )
    }
}
