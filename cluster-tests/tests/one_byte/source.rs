//! A node's directory with every kind of file in it, stopped in order, and what the node answered.

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use mode_envoy_cluster_tests::cluster::{Cluster, Node};
use mode_envoy_cluster_tests::http::{self, CHAT};
use mode_envoy_cluster_tests::one_byte::{Image, Kind};
use mode_envoy_cluster_tests::upstream::Upstream;
use serde_json::Value;

use crate::NODE;

/// A range that lies around the test whenever it runs.
const ALWAYS: [&str; 4] = [
    "--from",
    "2026-01-01T00:00:00Z",
    "--to",
    "2036-01-01T00:00:00Z",
];
/// Small files, so that there are several of each, and a node that is there soon.
const SMALL: [&str; 14] = [
    "--checkpoint-every",
    "8",
    "--log-keep",
    "32",
    "--usage-spool-bytes",
    "2097152",
    "--call-log-bytes",
    "1048576",
    "--heartbeat-ms",
    "20",
    "--election-min-ms",
    "60",
    "--election-max-ms",
    "100",
];
/// Large changes, together several segments of the log.
const ROUNDS: usize = 30;
/// Objects of one large change.
const MODELS: usize = 300;
/// How long a model's name at its provider is.
const NAME: usize = 220;
/// Calls that are counted, and as many that are not.
const CALLS: u64 = 30;
/// What such a directory must hold at least.
const KINDS: [(Kind, usize); 11] = [
    (Kind::Identity, 1),
    (Kind::Contact, 1),
    (Kind::Secret, 1),
    (Kind::Access, 1),
    (Kind::Mark, 1),
    (Kind::Log, 2),
    (Kind::Manifest, 2),
    (Kind::Chunk, 6),
    (Kind::Spool, 2),
    (Kind::Calls, 2),
    (Kind::Projection, 3),
];

/// A cluster of one that was stopped, and its files.
pub(crate) struct Source {
    pub(crate) cluster: Cluster,
    pub(crate) _upstream: Upstream,
    pub(crate) image: Image,
    pub(crate) secret: PathBuf,
    /// A key that is taken, and one that was revoked.
    pub(crate) keys: [String; 2],
    /// How many calls were made.
    pub(crate) calls: u64,
}

/// What a user sees of a node.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Answers {
    pub(crate) printed: Vec<(String, String)>,
    /// How many calls of the model are counted.
    pub(crate) counted: u64,
    pub(crate) calls: Vec<String>,
    /// What is said of calls that are missing.
    pub(crate) warned: String,
}

// === impl Source ===

impl Source {
    /// Two runs of a node that ends with usage that is not counted yet.
    pub(crate) async fn make() -> Result<Self> {
        let mut cluster = Cluster::plan(NODE, 1)?;
        small(&mut cluster);
        cluster.start_all()?;
        cluster.wait_ready().await?;
        let upstream = Upstream::start().await?;
        cluster.apply(&upstream.document(&["remote"])).await?;
        let key = cluster.key("acme", "mobile-app", "first").await?;
        let revoked = cluster.key("acme", "mobile-app", "second").await?;
        let node = cluster.node(1);
        node.ok("keys revoke --tenant acme second").await?;
        node.ok("tokens create --name watcher --role viewer")
            .await?;
        node.ok("cluster rotate-secret").await?;
        for round in 0..ROUNDS {
            node.apply(&large(round)).await?;
        }
        call(node, &key, "counted").await?;
        node.usage(&["--linearizable"]).await?;
        ensure!(cluster.node_mut(1).term().await? == Some(0), "a first end");

        cluster.start_all()?;
        cluster.wait_ready().await?;
        let node = cluster.node(1);
        node.apply("tenants: [{name: last}]").await?;
        node.usage(&["--linearizable"]).await?;
        call(node, &key, "not counted").await?;
        node.ask_to_end_at_once()?;
        let node = cluster.node_mut(1);
        ensure!(node.wait_end().await? == Some(0), "a second end");
        let image = Image::read(&node.launch.data_dir)?;
        for (kind, least) in KINDS {
            let count = image
                .parts()
                .iter()
                .filter(|part| part.kind == kind)
                .count();
            let names = || {
                image
                    .parts()
                    .iter()
                    .map(|part| (&part.path, part.bytes.len()))
            };
            ensure!(
                count >= least,
                "{count} files of the kind {kind:?} in {:?}",
                names().collect::<Vec<_>>()
            );
        }
        let secret = node.launch.secret_file.clone().context("a secret")?;
        Ok(Self {
            cluster,
            _upstream: upstream,
            image,
            secret,
            keys: [key, revoked],
            calls: 2 * CALLS,
        })
    }

    /// A place for a copy of the node, with addresses of its own.
    pub(crate) fn stand(&self) -> Result<Cluster> {
        let mut stand = Cluster::plan(NODE, 1)?;
        small(&mut stand);
        let launch = &mut stand.node_mut(1).launch;
        launch.secret_file = Some(self.secret.clone());
        Ok(stand)
    }

    /// What a copy of the node answers. Asked once: the last questions are calls themselves.
    pub(crate) async fn answers(&self, node: &Node) -> Result<Answers> {
        let counted = [
            &["usage", "--linearizable", "-o", "json"][..],
            &["--group-by", "tenant,key,model,status", "--interval", "day"],
            &ALWAYS,
        ];
        let counted = rows(node, &counted.concat()).await?;
        let local: Vec<_> = "usage -o json --group-by key,status --since 2h"
            .split(' ')
            .collect();
        let calls = [&["calls", "-o", "json", "--limit", "1000"][..], &ALWAYS].concat();
        let (local, export, held, history, audit, verified, keys, tokens, calls) = tokio::try_join!(
            rows(node, &local),
            printed(node, "export"),
            printed(node, "export --local"),
            printed(node, "history --limit 500"),
            printed(node, "audit --limit 500 -o json"),
            printed(node, "audit --verify"),
            printed(node, "keys list --tenant acme -o json"),
            printed(node, "tokens list -o json"),
            node.cli(&calls),
        )?;
        let warned = calls.stderr.clone();
        let calls = calls.json()?;
        let calls = calls["calls"].as_array().context("no calls")?;
        let mut calls: Vec<_> = calls.iter().map(Value::to_string).collect();
        calls.sort();
        for (key, status) in self.keys.iter().zip([200, 401]) {
            http::get(node.gateway(), "/v1/models", Some(key))
                .await?
                .expect(status)?;
        }
        // The provider refuses every key but the one that was stored.
        let body = http::chat("remote", "afterwards");
        http::post(node.gateway(), CHAT, &self.keys[0], &body)
            .await?
            .expect(200)?;
        let rows = counted.1.as_array().context("no rows")?;
        let of_model = rows.iter().filter(|row| row["model"] == "remote");
        Ok(Answers {
            counted: of_model.filter_map(|row| row["calls"].as_u64()).sum(),
            printed: vec![
                (counted.0, format!("{:#}", counted.1)),
                (local.0, format!("{:#}", local.1)),
                export,
                held,
                history,
                audit,
                (verified.0, without_addresses(&verified.1)),
                keys,
                tokens,
            ],
            calls,
            warned,
        })
    }
}

// === impl Answers ===

impl Answers {
    /// Whether this is what was answered before the damage, but for call records where they may be missing and that is said.
    pub(crate) fn agrees(&self, before: &Self, calls_may_miss: bool) -> Result<()> {
        for (one, other) in self.printed.iter().zip(&before.printed) {
            ensure!(one == other, "another answer: {one:#?}\nnot {other:#?}");
        }
        if self.calls == before.calls {
            return Ok(());
        }
        let strange = self.calls.iter().find(|call| !before.calls.contains(call));
        ensure!(strange.is_none(), "a call that never was: {strange:?}");
        ensure!(
            calls_may_miss && self.warned.contains("damaged blocks of the call log"),
            "{} calls of {}, and it is said {:?}",
            self.calls.len(),
            before.calls.len(),
            self.warned
        );
        Ok(())
    }
}

// === free functions ===

fn small(cluster: &mut Cluster) {
    let launch = &mut cluster.node_mut(1).launch;
    launch.more = SMALL.map(str::to_owned).to_vec();
    launch.initial_cluster = None;
    launch.told_id = false;
}

fn large(round: usize) -> String {
    let mut document = "models:\n".to_owned();
    for model in 0..MODELS {
        let long = format!("{model}-{round}-").repeat(NAME);
        let long = &long[..NAME];
        let _ = writeln!(
            document,
            "  - {{name: m{model:04}, targets: [{{provider: up, model: {long}}}]}}"
        );
    }
    document
}

async fn call(node: &Node, key: &str, label: &str) -> Result<()> {
    for number in 0..CALLS {
        let body = http::chat("remote", &format!("{label} {number}"));
        http::post(node.gateway(), CHAT, key, &body)
            .await?
            .expect(200)?;
    }
    Ok(())
}

async fn printed(node: &Node, line: &str) -> Result<(String, String)> {
    Ok((line.to_owned(), node.ok(line).await?))
}

/// What is counted; the time of the answer is another at each.
async fn rows(node: &Node, question: &[&str]) -> Result<(String, Value)> {
    let answer = node.cli(question).await?.json()?;
    Ok((question.join(" "), answer["rows"].clone()))
}

/// A copy runs elsewhere.
fn without_addresses(text: &str) -> String {
    text.lines()
        .filter(|line| !line.contains("127."))
        .collect::<Vec<_>>()
        .join("\n")
}
