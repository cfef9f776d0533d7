//! Load while nodes are killed, and the account afterwards: every call is one row, whatever died.
//!
//! Each call has a (key, model) pair of its own, so a row of usage grouped by key and model is one call, and the
//! provider's own book says what that row must be. The invariants that [`Account::check`] holds the cluster to:
//!
//! * every call that the provider saw has exactly one row, and no row counts two calls;
//! * every row that is not presumed was seen by the provider, with exactly the tokens that it told;
//! * every node gives the same rows;
//! * a call fails only if its node was down at some time while it ran.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::time::Instant;

use crate::cluster::{Cluster, Node};
use crate::http::{self, CHAT};
use crate::load::{self, Pace, Rng};
use crate::upstream::{PROVIDER_KEY, Seen, Upstream};
use crate::usage::{self, Row};

/// How much, and how often a node dies.
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
    /// Between two kills.
    pub kill_every: Duration,
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

/// A call as its client saw it.
#[derive(Debug)]
struct Call {
    node: usize,
    label: String,
    began: Instant,
    ended: Instant,
    failed: Option<String>,
}

/// A time in which a node was not ready.
#[derive(Debug)]
struct Down {
    node: usize,
    from: Instant,
    until: Instant,
}

// === impl Account ===

impl Account {
    /// Sets a cluster up, loads it while nodes die, and collects what all sides say.
    ///
    /// # Errors
    ///
    /// The cluster did not come back.
    pub async fn take(cluster: &mut Cluster, upstream: &Upstream, plan: Plan) -> Result<Self> {
        cluster.apply(&document(upstream, plan.models)).await?;
        let keys = make_keys(cluster, plan.keys).await?;
        let before = cluster.node(1).usage(&[]).await?;
        let from = usage::text(&before, "from")?.to_owned();

        let addresses: Vec<String> = cluster.nodes().iter().map(|n| n.gateway().to_owned()).collect();
        let load = run_load(plan, keys, addresses);
        let kills = kill_nodes(cluster.nodes_mut(), plan);
        let (calls, downs) = tokio::join!(Box::pin(load), Box::pin(kills));
        let (calls, downs) = (calls?, downs?);

        let after = cluster.node(1).usage(&[]).await?;
        let to = usage::text(&after, "to")?.to_owned();
        let mut tables = Vec::new();
        for node in cluster.nodes() {
            tables.push(table(node, &from, &to).await?);
        }
        Ok(Self { plan, calls, downs, seen: upstream.seen(), tables })
    }

    /// Holds the account to its invariants.
    ///
    /// # Errors
    ///
    /// Names the call that breaks one.
    pub fn check(&self) -> Result<()> {
        self.check_clients()?;
        let first = self.tables.first().context("no node was asked")?;
        for (index, table) in self.tables.iter().enumerate() {
            ensure!(table.len() == first.len(), "node {} has {} rows, node 1 {}", index + 1, table.len(), first.len());
            let other = table.iter().zip(first).find(|(a, b)| a != b);
            ensure!(other.is_none(), "node {} and node 1 have other rows: {other:#?}", index + 1);
        }
        let rows = by_call(first)?;
        let seen = self.seen_by_call()?;
        for (call, seen) in &seen {
            ensure!(rows.contains_key(call), "{call:?} was seen by the provider and has no row: {seen:?}");
        }
        let (mut told, mut counted) = ((0, 0), (0, 0));
        for (call, row) in &rows {
            ensure!(row.calls == 1, "{call:?} is one call, and its row counts {}", row.calls);
            ensure!(row.rejected == 0, "{call:?} was rejected");
            if row.presumed_calls > 0 {
                continue;
            }
            let seen = seen.get(call);
            let seen = seen.with_context(|| format!("{call:?} has a row and was not seen: {row:?}"))?;
            ensure!(row.estimated_calls == 0, "{call:?} was estimated: {row:?}, {seen:?}");
            told = (told.0 + seen.prompt_tokens, told.1 + seen.completion_tokens);
            counted = (counted.0 + row.input_tokens, counted.1 + row.output_tokens);
            ensure!(
                (row.input_tokens, row.output_tokens) == (seen.prompt_tokens, seen.completion_tokens),
                "{call:?} has other tokens than the provider told: {row:?}, {seen:?}"
            );
        }
        ensure!(told == counted, "the provider told {told:?} tokens, the rows add up to {counted:?}");
        Ok(())
    }

    fn check_clients(&self) -> Result<()> {
        for call in &self.calls {
            let Some(failed) = &call.failed else { continue };
            let down = self.downs.iter().any(|down| {
                down.node == call.node && down.from <= call.ended && call.began <= down.until
            });
            ensure!(down, "{} failed on node {}, which was up: {failed}", call.label, call.node + 1);
        }
        let done = self.calls.iter().filter(|call| call.failed.is_none()).count();
        let floor = 100 * self.plan.time.as_secs();
        ensure!(u64::try_from(done)? >= floor, "only {done} calls went well; the load asks for {floor}");
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
        let failed = self.calls.iter().filter(|call| call.failed.is_some()).count();
        let finished = self.seen.iter().filter(|seen| seen.finished).count();
        let rows = self.tables.first().map_or(&[][..], Vec::as_slice);
        let presumed: u64 = rows.iter().map(|row| row.presumed_calls).sum();
        let killed: Vec<String> = self
            .downs
            .iter()
            .map(|down| format!("{} for {} ms", down.node + 1, (down.until - down.from).as_millis()))
            .collect();
        write!(
            f,
            "seed {}: {} calls ({failed} failed on dead nodes), {} seen by the provider ({finished} to the end), {} rows \
             ({presumed} presumed); killed nodes {}",
            self.plan.seed,
            self.calls.len(),
            self.seen.len(),
            rows.len(),
            killed.join(", ")
        )
    }
}

// === free functions ===

fn document(upstream: &Upstream, models: usize) -> String {
    use std::fmt::Write as _;
    let mut text = format!(
        "tenants: [{{name: soak}}]\nconsumers: [{{name: load, tenant: soak}}]\nproviders:\n  - name: up\n    protocol: \
         openai\n    base_url: {}\n    keys: [{{value: {PROVIDER_KEY}}}]\nmodels:\n",
        upstream.base_url()
    );
    for model in 0..models {
        // Writing to a text does not fail.
        let _ = writeln!(text, "  - {{name: m{model:02}, targets: [{{provider: up, model: u{model:02}}}]}}");
    }
    text
}

async fn make_keys(cluster: &Cluster, count: usize) -> Result<Vec<String>> {
    let mut keys = Vec::with_capacity(count);
    for number in 0..count {
        let node = cluster.node(1 + number % cluster.nodes().len());
        keys.push(node.create_key("soak", "load", &format!("k{number:02}")).await?);
    }
    for key in &keys {
        cluster.wait_key(key).await?;
    }
    Ok(keys)
}

async fn run_load(plan: Plan, keys: Vec<String>, addresses: Vec<String>) -> Result<Vec<Call>> {
    let mut rng = Rng::new(plan.seed);
    let mut pairs: Vec<(usize, usize)> =
        (0..plan.keys).flat_map(|key| (0..plan.models).map(move |model| (key, model))).collect();
    rng.shuffle(&mut pairs);
    let addresses = Arc::new(addresses);
    load::paced(plan.per_second, plan.time, move |number| {
        let (key, model) = *pairs.get(number)?;
        let node = rng.below(addresses.len());
        let stream = rng.below(5) == 0;
        Some(call(Arc::clone(&addresses), node, keys[key].clone(), (key, model), stream))
    })
    .await
}

async fn call(
    addresses: Arc<Vec<String>>,
    node: usize,
    key: String,
    (number, model): (usize, usize),
    stream: bool,
) -> Call {
    let label = format!("k{number:02}/m{model:02}");
    let name = format!("m{model:02}");
    let body = if stream { http::chat_stream(&name, &label) } else { http::chat(&name, &label) };
    let began = Instant::now();
    let answer = match http::post(&addresses[node], CHAT, &key, &body).await {
        Ok(answer) if stream => answer.expect(200).and_then(|answer| answer.events().map(drop)),
        Ok(answer) => answer.expect(200).map(drop),
        Err(error) => Err(error),
    };
    let failed = answer.err().map(|error| format!("{error:#}"));
    Call { node, label, began, ended: Instant::now(), failed }
}

/// Kills a random node now and then, starts it again at once, and waits until it is ready.
async fn kill_nodes(nodes: &mut [Node], plan: Plan) -> Result<Vec<Down>> {
    let mut rng = Rng::new(plan.seed ^ 0x6b69_6c6c);
    let mut pace = Pace::every(plan.kill_every);
    let end = Instant::now() + plan.time;
    let mut downs = Vec::new();
    loop {
        pace.tick().await;
        if Instant::now() >= end {
            return Ok(downs);
        }
        let index = rng.below(nodes.len());
        let node = nodes.get_mut(index).context("a node to kill")?;
        let from = Instant::now();
        node.kill().await?;
        node.start()?;
        node.wait_ready().await?;
        downs.push(Down { node: index, from, until: Instant::now() });
    }
}

async fn table(node: &Node, from: &str, to: &str) -> Result<Vec<Row>> {
    let arguments =
        ["--from", from, "--to", to, "--group-by", "key,model", "--filter", "tenant=soak", "--linearizable"];
    let answer = node.usage(&arguments).await?;
    let missing = &answer["missing_nodes"];
    let all = missing.is_null() || missing.as_array().is_some_and(Vec::is_empty);
    ensure!(all, "node {}'s answer lacks nodes {missing}", node.id());
    usage::rows(&answer)
}

fn by_call(rows: &[Row]) -> Result<BTreeMap<(String, String), &Row>> {
    let mut calls = BTreeMap::new();
    for row in rows {
        let call = (row.dimension("key").to_owned(), row.dimension("model").to_owned());
        // Questions about a key's models name no target, and are none of the load's calls.
        if call.1.is_empty() {
            continue;
        }
        let before = calls.insert(call, row);
        ensure!(before.is_none(), "two rows for one key and model: {row:?} and {before:?}");
    }
    Ok(calls)
}
