//! Load while nodes are killed, and the account afterwards: every call is one row, whatever died.
//!
//! Each call of a [`Plan`] has a (key, model) pair of its own, so a row of usage grouped by key and model is one call, and the
//! provider's own book says what that row must be. The invariants that [`Account::check`] holds the cluster to:
//!
//! * every call that the provider saw has exactly one row, and no row counts two calls;
//! * every row that is not presumed was seen by the provider, with exactly the tokens that it told;
//! * every node gives the same rows;
//! * a call fails only if its node was down at some time while it ran.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Write as _};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use self::drive::{Call, Down};
use crate::cluster::{Cluster, Node};
use crate::load;
use crate::upstream::{Seen, Upstream};
use crate::usage::{self, Row};

mod drive;

/// A call takes a while, so that some are open whenever a node dies.
const THINK: Duration = Duration::from_millis(15);

/// What befalls nodes during a load.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Harm {
    /// A random node is killed, and every third time all of them at once.
    Kill,
    /// The leader is stopped for longer than an election takes, and goes on as if nothing had happened.
    Freeze,
}

/// How much, and how often a node is harmed.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// API keys.
    pub keys: usize,
    /// Models.
    pub models: usize,
    /// Calls that begin in a second.
    pub per_second: u32,
    /// How long calls begin.
    pub time: Duration,
    /// What befalls nodes.
    pub harm: Harm,
    /// Between two harms.
    pub harm_every: Duration,
    /// Everything is chosen by it.
    pub seed: u64,
}

/// What happened.
#[derive(Debug)]
pub struct Account {
    plan: Plan,
    calls: Vec<Call>,
    downs: Vec<Down>,
    seen: Vec<Seen>,
    tables: Vec<Vec<Row>>,
}

// === impl Plan ===

impl Plan {
    /// 130 calls a second, a fifth of them streams, each with a pair of its own among 80 keys and 100 models; a random node
    /// dies every 10 s, or every 5 s of a short load, and every third time all of them do.
    ///
    /// # Errors
    ///
    /// The seed that was asked for is not a number.
    pub fn lasting(time: Duration) -> Result<Self> {
        let harm_every = Duration::from_secs(if time >= Duration::from_mins(1) {
            10
        } else {
            5
        });
        let seed = load::seed()?;
        Ok(Self {
            keys: 80,
            models: 100,
            per_second: 130,
            time,
            harm: Harm::Kill,
            harm_every,
            seed,
        })
    }
}

// === impl Account ===

impl Account {
    /// Runs a load on a cluster of three nodes of its own while they die, and holds the account to its invariants.
    ///
    /// # Errors
    ///
    /// Names the call that breaks one.
    pub async fn hold(binary: &str, plan: Plan) -> Result<()> {
        tell(&format!(
            "seed {} (MODE_ENVOY_TEST_SEED makes the same choices)",
            plan.seed
        ))?;
        let mut cluster = Cluster::start(binary, 3).await?;
        let upstream = Upstream::start().await?;
        let account = Self::take(&mut cluster, &upstream, plan).await?;
        tell(&account.to_string())?;
        account.check()?;
        upstream.check()?;
        cluster.finish().await
    }

    /// Sets a cluster up, loads it while nodes die, and collects what all sides say.
    ///
    /// # Errors
    ///
    /// The cluster did not come back.
    pub async fn take(cluster: &mut Cluster, upstream: &Upstream, plan: Plan) -> Result<Self> {
        upstream.slow(THINK);
        cluster
            .apply(&drive::document(upstream, plan.models))
            .await?;
        let keys = drive::make_keys(cluster, plan.keys).await?;
        let before = cluster.node(1).usage(&[]).await?;
        let from = usage::text(&before, "from")?.to_owned();

        let addresses: Vec<String> = cluster
            .nodes()
            .iter()
            .map(|n| n.gateway().to_owned())
            .collect();
        let load = drive::run_load(plan, keys, addresses);
        let harms = drive::harm_nodes(cluster.nodes_mut(), plan);
        let (calls, downs) = tokio::join!(Box::pin(load), Box::pin(harms));
        let (calls, downs) = (calls?, downs?);

        let after = cluster.node(1).usage(&[]).await?;
        let to = usage::text(&after, "to")?.to_owned();
        let mut tables = Vec::new();
        for node in cluster.nodes() {
            tables.push(table(node, &from, &to).await?);
        }
        Ok(Self {
            plan,
            calls,
            downs,
            seen: upstream.seen(),
            tables,
        })
    }

    /// Holds the account to its invariants.
    ///
    /// # Errors
    ///
    /// Names the call that breaks one.
    pub fn check(&self) -> Result<()> {
        self.check_clients()?;
        self.check_nodes()?;
        let rows = by_call(self.tables.first().context("no node was asked")?)?;
        let seen = self.seen_by_call()?;
        for (call, seen) in &seen {
            let counted = rows.contains_key(call);
            ensure!(
                counted,
                "{call:?} was seen by the provider and has no row: {seen:?}"
            );
        }
        let (mut told, mut counted) = ((0, 0), (0, 0));
        for (call, row) in &rows {
            ensure!(
                row.calls == 1,
                "{call:?} is one call, and its row counts {}",
                row.calls
            );
            ensure!(row.rejected == 0, "{call:?} was rejected");
            if row.presumed_calls > 0 {
                continue;
            }
            let seen = seen.get(call);
            let seen = seen.with_context(|| format!("{call:?} was not seen: {row:?}"))?;
            check_tokens(row, seen)?;
            told = (told.0 + seen.prompt_tokens, told.1 + seen.completion_tokens);
            counted = (counted.0 + row.input_tokens, counted.1 + row.output_tokens);
        }
        ensure!(
            told == counted,
            "the provider told {told:?} tokens, the rows add up to {counted:?}"
        );
        Ok(())
    }

    fn check_nodes(&self) -> Result<()> {
        let first = self.tables.first().context("no node was asked")?;
        for (index, table) in self.tables.iter().enumerate() {
            let (node, rows) = (index + 1, table.len());
            ensure!(
                rows == first.len(),
                "node {node} has {rows} rows, node 1 {}",
                first.len()
            );
            let other = table.iter().zip(first).find(|(a, b)| a != b);
            ensure!(
                other.is_none(),
                "node {node} and node 1 have other rows: {other:#?}"
            );
        }
        Ok(())
    }

    fn check_clients(&self) -> Result<()> {
        for call in &self.calls {
            let Some(failed) = &call.failed else { continue };
            let down = self.downs.iter().any(|down| {
                down.node == call.node && down.from <= call.ended && call.began <= down.until
            });
            ensure!(
                down,
                "{} failed on node {}, which was up: {failed}",
                call.label,
                call.node + 1
            );
        }
        let done = self
            .calls
            .iter()
            .filter(|call| call.failed.is_none())
            .count();
        let floor = 100 * self.plan.time.as_secs();
        ensure!(
            u64::try_from(done)? >= floor,
            "only {done} calls went well; the load asks for {floor}"
        );
        Ok(())
    }

    fn seen_by_call(&self) -> Result<BTreeMap<(String, String), &Seen>> {
        let mut calls = BTreeMap::new();
        for seen in &self.seen {
            let (key, model) = seen.label.split_once('/').context("a label of a call")?;
            let before = calls.insert((key.to_owned(), model.to_owned()), seen);
            ensure!(before.is_none(), "the provider saw {} twice", seen.label);
        }
        Ok(calls)
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let failed = self
            .calls
            .iter()
            .filter(|call| call.failed.is_some())
            .count();
        let finished = self.seen.iter().filter(|seen| seen.finished).count();
        let rows = self.tables.first().map_or(&[][..], Vec::as_slice);
        let presumed: u64 = rows.iter().map(|row| row.presumed_calls).sum();
        let killed: Vec<String> = self
            .downs
            .iter()
            .map(|down| {
                format!(
                    "node {} for {} ms",
                    down.node + 1,
                    (down.until - down.from).as_millis()
                )
            })
            .collect();
        write!(
            f,
            "seed {}: {} calls ({failed} failed on dead nodes), {} seen by the provider ({finished} to the end), {} rows \
             ({presumed} presumed); down were: {}",
            self.plan.seed,
            self.calls.len(),
            self.seen.len(),
            rows.len(),
            killed.join(", ")
        )
    }
}

// === free functions ===

/// A line that is shown whether the test fails or not.
fn tell(text: &str) -> Result<()> {
    writeln!(io::stderr(), "{text}").context("writing to standard error")
}

async fn table(node: &Node, from: &str, to: &str) -> Result<Vec<Row>> {
    let arguments = [
        "--from",
        from,
        "--to",
        to,
        "--group-by",
        "key,model",
        "--filter",
        "tenant=soak",
        "--linearizable",
    ];
    let answer = node.usage(&arguments).await?;
    let missing = &answer["missing_nodes"];
    let all = missing.is_null() || missing.as_array().is_some_and(Vec::is_empty);
    ensure!(all, "node {}'s answer lacks nodes {missing}", node.id());
    usage::rows(&answer)
}

fn check_tokens(row: &Row, seen: &Seen) -> Result<()> {
    ensure!(
        row.estimated_calls == 0,
        "{} was estimated: {row:?}, {seen:?}",
        seen.label
    );
    let (told, counted) = (
        (seen.prompt_tokens, seen.completion_tokens),
        (row.input_tokens, row.output_tokens),
    );
    ensure!(
        counted == told,
        "{} has other tokens than were told: {row:?}, {seen:?}",
        seen.label
    );
    Ok(())
}

fn by_call(rows: &[Row]) -> Result<BTreeMap<(String, String), &Row>> {
    let mut calls = BTreeMap::new();
    for row in rows {
        let call = (
            row.dimension("key").to_owned(),
            row.dimension("model").to_owned(),
        );
        // Questions about a key's models name no target, and are none of the load's calls.
        if call.1.is_empty() {
            continue;
        }
        let before = calls.insert(call, row);
        ensure!(
            before.is_none(),
            "two rows for one key and model: {row:?} and {before:?}"
        );
    }
    Ok(calls)
}
