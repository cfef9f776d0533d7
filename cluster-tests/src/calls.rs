//! The answers of `calls` and `explain`, as values that tests compare, and a `calls --follow` that runs.

use std::process::Stdio;
use std::time::Duration;

use ::http::Request;
use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http_body_util::Full;
use serde::Deserialize;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, ChildStdout};
use tokio::time::timeout;

use crate::cluster::Node;
use crate::http::{self, Answer};

/// Until something is said.
const SAID: Duration = Duration::from_secs(30);

/// One call of `calls -o json`.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[expect(
    missing_docs,
    clippy::struct_excessive_bools,
    clippy::struct_field_names,
    reason = "the fields are those of the contract"
)]
pub struct Call {
    pub time: String,
    pub call_id: String,
    pub request_id: String,
    pub node: u64,
    pub tenant: String,
    pub consumer: String,
    pub key: String,
    pub route: String,
    pub model: String,
    pub provider: String,
    pub method: String,
    pub path: String,
    pub status: u16,
    pub attempts: Vec<Attempt>,
    pub latency_ms: f64,
    pub input_tokens: u64,
    pub output_tokens: u64,
    pub usage_source: Option<String>,
    pub cost_usd: String,
    pub priced: bool,
    pub error: Option<String>,
    pub reason: Option<String>,
    pub revision: u64,
    pub rejected: bool,
    pub presumed: bool,
    pub cut: bool,
}

/// One attempt of a call.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[expect(missing_docs, reason = "the fields are those of the contract")]
pub struct Attempt {
    pub number: u32,
    pub endpoint: String,
    pub status: u16,
    pub outcome: String,
}

/// A `calls --follow` that runs. Dropping it ends it.
#[derive(Debug)]
pub struct Following {
    child: Child,
    told: Lines<BufReader<ChildStdout>>,
    said: Lines<BufReader<ChildStderr>>,
    seen: Vec<Call>,
}

// === impl Following ===

impl Following {
    /// Follows the calls through a node.
    ///
    /// # Errors
    ///
    /// The command could not be started.
    pub fn start(node: &Node, words: &[&str]) -> Result<Self> {
        let mut child = node
            .launch
            .program
            .command()
            .args([
                "calls",
                "--follow",
                "-o",
                "json",
                "--admin",
                &node.admin_url(),
            ])
            .args(words)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("starting calls --follow")?;
        let told = child.stdout.take().context("a piped standard output")?;
        let said = child.stderr.take().context("a piped standard error")?;
        Ok(Self {
            child,
            told: BufReader::new(told).lines(),
            said: BufReader::new(said).lines(),
            seen: Vec::new(),
        })
    }

    /// Reads calls until one is as wanted.
    ///
    /// # Errors
    ///
    /// None came in time.
    pub async fn until(
        &mut self,
        within: Duration,
        wanted: impl Fn(&Call) -> bool,
    ) -> Result<Call> {
        timeout(within, async {
            loop {
                let line = self
                    .told
                    .next_line()
                    .await?
                    .context("the following ended")?;
                let call: Call =
                    serde_json::from_str(&line).with_context(|| format!("reading {line}"))?;
                self.seen.push(call.clone());
                if wanted(&call) {
                    return Ok(call);
                }
            }
        })
        .await
        .context("the call was not told in time")?
    }

    /// Reads what is said beside until a line has this in it.
    ///
    /// # Errors
    ///
    /// None had in time.
    pub async fn says(&mut self, text: &str) -> Result<()> {
        timeout(SAID, async {
            loop {
                let line = self
                    .said
                    .next_line()
                    .await?
                    .context("the following ended")?;
                if line.contains(text) {
                    return Ok(());
                }
            }
        })
        .await
        .with_context(|| format!("{text:?} was not said"))?
    }

    /// Ends it; every call that was told.
    ///
    /// # Errors
    ///
    /// It had ended before.
    pub async fn end(mut self) -> Result<Vec<Call>> {
        ensure!(self.child.try_wait()?.is_none(), "the following had ended");
        self.child.kill().await?;
        Ok(self.seen)
    }
}

// === free functions ===

/// The gateway's own id of the call that was answered.
pub fn call_id(answer: &Answer) -> String {
    answer.header("x-mode-envoy-call-id").to_owned()
}

/// The POST of a JSON body whose client labels it.
///
/// # Errors
///
/// The key, the path or the label cannot be sent.
pub fn labelled(path: &str, key: &str, body: &Value, label: &str) -> Result<Request<Full<Bytes>>> {
    let mut request = http::json_request(path, key, body)?;
    let label = label.parse().context("a label for a request")?;
    request.headers_mut().insert("x-request-id", label);
    Ok(request)
}

/// The calls of an answer.
///
/// # Errors
///
/// It has none, or they lack a field.
pub fn calls(answer: &Value) -> Result<Vec<Call>> {
    let calls = answer
        .get("calls")
        .with_context(|| format!("no calls in {answer}"))?;
    Vec::<Call>::deserialize(calls).with_context(|| format!("reading the calls of {answer}"))
}

/// The calls of an answer of `explain`, with their sentences.
///
/// # Errors
///
/// It has none, or they lack a field.
pub fn explanations(answer: &Value) -> Result<Vec<(Call, Vec<String>)>> {
    let list = answer["explanations"].as_array();
    let list = list.with_context(|| format!("no explanations in {answer}"))?;
    list.iter()
        .map(|one| {
            Ok((
                Call::deserialize(&one["call"])?,
                Vec::deserialize(&one["sentences"])?,
            ))
        })
        .collect()
}
