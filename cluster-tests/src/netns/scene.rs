//! A cluster whose nodes are in namespaces of their own, what is done to it, and the account at the end.
//!
//! The account, whatever happened: every node has the same configuration and every change that was acknowledged; the chain of
//! its changes is whole on all of them; usage on every node is exactly what the provider saw; no node had a panic.

use std::io::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::task::JoinSet;

use super::net::Net;
use super::work::{Ledger, Person, Work, missing};
use crate::cluster::Cluster;
use crate::load::Pace;
use crate::members;
use crate::upstream::Upstream;
use crate::{usage, wait};

/// Until everything is as it should be after a fault.
const SETTLED: Duration = Duration::from_secs(40);
/// A node answers within 5 s.
const ANSWERED: Duration = Duration::from_secs(6);

/// A cluster, its network, and its provider.
#[derive(Debug)]
pub struct Scene {
    /// The nodes.
    pub cluster: Cluster,
    /// Who hears whom.
    pub net: Net,
    upstream: Upstream,
    ledger: Arc<Ledger>,
    key: String,
    rounds: usize,
    asked: usize,
}

// === impl Scene ===

impl Scene {
    /// Starts `count` nodes which serve a model.
    ///
    /// # Errors
    ///
    /// The network cannot be made, or a node does not start.
    pub async fn start(binary: &str, count: usize) -> Result<Self> {
        Self::start_with(binary, count, |_| Ok(())).await
    }

    /// Starts `count` nodes which serve a model, after `prepare` has changed how they are started.
    ///
    /// # Errors
    ///
    /// The network cannot be made, or a node does not start.
    pub async fn start_with(
        binary: &str,
        count: usize,
        prepare: impl FnOnce(&mut Cluster) -> Result<()>,
    ) -> Result<Self> {
        let net = Net::build(count)?;
        let upstream = Upstream::start_at(net.host()).await?;
        let mut cluster = Cluster::plan_apart(binary, u64::try_from(count)?, &net)?;
        prepare(&mut cluster)?;
        cluster.start_all()?;
        cluster.wait_ready().await?;
        cluster.apply(&upstream.document(&["remote"])).await?;
        let key = cluster.key("acme", "mobile-app", "first").await?;
        Ok(Self {
            cluster,
            net,
            upstream,
            ledger: Arc::default(),
            key,
            rounds: 0,
            asked: 0,
        })
    }

    /// The API key of its clients.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The provider of its model.
    pub const fn upstream(&self) -> &Upstream {
        &self.upstream
    }

    /// What was acknowledged so far.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Somebody who uses a node's admin API.
    pub fn person(&self, id: usize) -> Person {
        Person::at(self.cluster.node(id), &self.ledger)
    }

    /// Begins calls, changes and reads through these nodes.
    pub fn work(&mut self, ids: &[usize]) -> Work {
        self.rounds += 1;
        let nodes: Vec<_> = ids.iter().map(|id| self.cluster.node(*id)).collect();
        Work::begin(&nodes, &self.ledger, &self.key, self.rounds)
    }

    /// Who leads, then the others.
    ///
    /// # Errors
    ///
    /// Nobody leads.
    pub async fn leader_first(&self) -> Result<Vec<usize>> {
        let node = self.cluster.node(1);
        let leader = wait::until("a leader", SETTLED, async || members::leader(node).await).await?;
        let leader = usize::try_from(leader)?;
        let others = (1..=self.cluster.nodes().len()).filter(|id| *id != leader);
        Ok(std::iter::once(leader).chain(others).collect())
    }

    /// Waits until a change through a node is acknowledged, and tells how long that took.
    ///
    /// # Errors
    ///
    /// None is, within that time.
    pub async fn change_through(&mut self, id: usize, within: Duration) -> Result<Duration> {
        let (person, began) = (self.person(id), Instant::now());
        let what = format!("a change through node {id} to be acknowledged");
        wait::until(&what, within, async || {
            self.asked += 1;
            let taken = person.change(&format!("s{:04}", self.asked)).await?;
            ensure!(
                taken,
                "refused: {:?}",
                self.ledger.refusals().last().map(String::as_str)
            );
            Ok(())
        })
        .await?;
        tell(&format!("{what}: {} ms", began.elapsed().as_millis()))?;
        Ok(began.elapsed())
    }

    /// Changes through these nodes, asked for at once, must not be acknowledged: they are refused, or still asked for after the
    /// time in which a node answers.
    ///
    /// # Errors
    ///
    /// One is acknowledged.
    pub async fn no_change_through(&mut self, ids: &[usize]) -> Result<()> {
        let mut asked = JoinSet::new();
        for id in ids {
            self.asked += 1;
            let (id, person, name) = (*id, self.person(*id), format!("u{:04}", self.asked));
            asked.spawn(async move {
                let change = person.change(&name);
                // Whoever asks goes on asking while the outcome is not known.
                if let Ok(taken) = tokio::time::timeout(ANSWERED, change).await {
                    ensure!(!taken?, "node {id} acknowledged {name} on its own");
                }
                Ok(())
            });
        }
        while let Some(answer) = asked.join_next().await {
            answer.context("asking for a change panicked")??;
        }
        Ok(())
    }

    /// Holds the cluster to its account.
    ///
    /// # Errors
    ///
    /// Names what is not as it should be.
    pub async fn account(&mut self) -> Result<()> {
        self.cluster.wait_ready().await?;
        for id in 1..=self.cluster.nodes().len() {
            self.change_through(id, SETTLED).await?;
        }
        let names = self.ledger.acknowledged();
        let mut first: Option<String> = None;
        for node in self.cluster.nodes() {
            let export = node.ok("export").await?;
            let missing = missing(&names, &export);
            ensure!(
                missing.is_empty(),
                "node {} lacks what was acknowledged: {missing:?}",
                node.id()
            );
            let first = first.get_or_insert_with(|| export.clone());
            ensure!(
                *first == export,
                "node {} and node 1 differ: {export} and {first}",
                node.id()
            );
        }
        self.cluster.node(1).ok("audit --verify").await?;
        self.count_usage().await?;
        let (reads, unconfirmed) = self.ledger.reads();
        for said in self.ledger.refusals() {
            tell(&said)?;
        }
        tell(&format!(
            "{} calls, {} changes acknowledged and {} refused, {reads} reads answered and {unconfirmed} refused",
            self.upstream.seen().len(),
            names.len(),
            self.ledger.refusals().len()
        ))
    }

    /// Ends it: every node ends in order, and had no panic.
    ///
    /// # Errors
    ///
    /// A node does not, or the provider has a complaint.
    pub async fn finish(self) -> Result<()> {
        self.upstream.check()?;
        self.cluster.finish().await
    }

    async fn count_usage(&self) -> Result<()> {
        let seen = self.upstream.seen();
        let sum = |count: fn(&crate::upstream::Seen) -> u64| seen.iter().map(count).sum::<u64>();
        let told = (
            u64::try_from(seen.len())?,
            sum(|seen| seen.prompt_tokens),
            sum(|seen| seen.completion_tokens),
        );
        let question = ["--filter", "model=remote", "--linearizable"];
        for node in self.cluster.nodes() {
            let what = format!("node {} to count {told:?}", node.id());
            wait::until(&what, SETTLED, async || {
                let row = usage::row(&node.usage(&question).await?)?;
                let counted = (row.calls, row.input_tokens, row.output_tokens);
                ensure!(counted == told, "{row:?}");
                ensure!((row.errors, row.presumed_calls) == (0, 0), "{row:?}");
                Ok(())
            })
            .await?;
        }
        Ok(())
    }
}

// === free functions ===

/// Lets a fault last.
pub async fn lasting(time: Duration) {
    Pace::every(time).tick().await;
}

/// A line that is shown whether the test fails or not.
///
/// # Errors
///
/// Standard error is gone.
pub fn tell(text: &str) -> Result<()> {
    writeln!(std::io::stderr(), "{text}").context("writing to standard error")
}
