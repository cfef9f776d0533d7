//! What people do while something breaks: calls through every gateway, changes and reads through every admin API.
//!
//! Invariants that the work itself holds the cluster to: a call that begins on a gateway which clients reach is answered with
//! 200; a change is acknowledged or refused, nothing else; a read that is answered holds every change that was acknowledged to
//! anybody before the read began. What was acknowledged is kept in the [`Ledger`], for the account at the end.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::task::JoinSet;

use crate::cluster::Node;
use crate::load::Pace;
use crate::members::Balancer;
use crate::program::Program;

/// Calls a second, over all gateways.
const CALLS: u32 = 30;
/// Between two changes, or two reads, of one person.
const PAUSE: Duration = Duration::from_millis(300);

/// What was acknowledged, and how often.
#[derive(Debug, Default)]
pub struct Ledger {
    acknowledged: Mutex<BTreeSet<String>>,
    refusals: Mutex<Vec<String>>,
    reads: AtomicU64,
    unconfirmed: AtomicU64,
}

/// One admin API, and whoever uses it.
#[derive(Clone, Debug)]
pub struct Person {
    id: u64,
    url: String,
    program: Program,
    ledger: Arc<Ledger>,
}

/// Work that goes on until it is ended; dropped, it is abandoned.
#[derive(Debug)]
pub struct Work {
    stop: Arc<AtomicBool>,
    people: JoinSet<Result<()>>,
    calls: JoinSet<Result<Vec<Result<()>>>>,
}

// === impl Ledger ===

impl Ledger {
    /// The names of all tenants whose making was acknowledged.
    pub fn acknowledged(&self) -> BTreeSet<String> {
        self.names().clone()
    }

    /// Why changes were refused so far.
    pub fn refusals(&self) -> Vec<String> {
        self.said().clone()
    }

    /// Reads that were answered, and those that were refused.
    pub fn reads(&self) -> (u64, u64) {
        (
            self.reads.load(Ordering::SeqCst),
            self.unconfirmed.load(Ordering::SeqCst),
        )
    }

    fn names(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.acknowledged
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn said(&self) -> MutexGuard<'_, Vec<String>> {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Person ===

impl Person {
    /// Somebody who uses a node's admin API.
    pub fn at(node: &Node, ledger: &Arc<Ledger>) -> Self {
        Self {
            id: node.id(),
            url: node.admin_url(),
            program: node.launch.program.clone(),
            ledger: Arc::clone(ledger),
        }
    }

    /// Asks for a tenant, once; whether it was acknowledged. The ledger keeps the name of one that was.
    ///
    /// # Errors
    ///
    /// It was neither acknowledged nor refused.
    pub async fn change(&self, name: &str) -> Result<bool> {
        let taken = self.apply(&format!("tenants: [{{name: {name}}}]")).await?;
        if taken {
            self.ledger.names().insert(name.to_owned());
        }
        Ok(taken)
    }

    /// Asks for what a document says, once; whether it was acknowledged. What was refused may have happened all the same.
    ///
    /// # Errors
    ///
    /// It was neither acknowledged nor refused.
    pub async fn apply(&self, document: &str) -> Result<bool> {
        let arguments = ["apply", "-f", "-", "--admin", &self.url];
        let output = self.program.run(&arguments, document).await?;
        match output.code {
            Some(0) => Ok(true),
            Some(1) if !output.stderr.trim().is_empty() => {
                let said = format!("node {}: {}", self.id, output.stderr.trim());
                self.ledger.said().push(said);
                Ok(false)
            }
            _ => bail!("a change through node {}: {output}", self.id),
        }
    }

    /// Reads what the cluster agrees on; whether the read was answered.
    ///
    /// # Errors
    ///
    /// The answer lacks a change that was acknowledged before.
    pub async fn read(&self) -> Result<bool> {
        let before = self.ledger.acknowledged();
        let arguments = ["export", "--admin", &self.url];
        let output = self.program.run(&arguments, "").await?;
        if output.code != Some(0) {
            output.fails(1)?;
            self.ledger.unconfirmed.fetch_add(1, Ordering::SeqCst);
            return Ok(false);
        }
        self.ledger.reads.fetch_add(1, Ordering::SeqCst);
        let missing = missing(&before, &output.stdout);
        ensure!(
            missing.is_empty(),
            "a read through node {} is stale: it lacks {missing:?}, acknowledged before it began",
            self.id
        );
        Ok(true)
    }

    async fn keep_changing(self, stop: Arc<AtomicBool>, round: usize) -> Result<()> {
        for number in 0_u32.. {
            Pace::every(PAUSE).tick().await;
            if stop.load(Ordering::SeqCst) {
                break;
            }
            self.change(&format!("t{}-{round}-{number:04}", self.id))
                .await?;
        }
        Ok(())
    }

    async fn keep_reading(self, stop: Arc<AtomicBool>) -> Result<()> {
        while !stop.load(Ordering::SeqCst) {
            self.read().await?;
            Pace::every(PAUSE).tick().await;
        }
        Ok(())
    }
}

// === impl Work ===

impl Work {
    /// Begins to call these nodes' gateways, and to use their admin APIs. `round` makes names that no other work makes.
    pub fn begin(nodes: &[&Node], ledger: &Arc<Ledger>, key: &str, round: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (mut people, mut calls) = (JoinSet::new(), JoinSet::new());
        let balancer = Balancer::default();
        for node in nodes {
            balancer.put_in(node);
            let person = Person::at(node, ledger);
            people.spawn(person.clone().keep_changing(Arc::clone(&stop), round));
            people.spawn(person.keep_reading(Arc::clone(&stop)));
        }
        let (key, until) = (key.to_owned(), Arc::clone(&stop));
        calls.spawn(async move { balancer.load(CALLS, &key, "remote", until).await });
        Self {
            stop,
            people,
            calls,
        }
    }

    /// Ends the work; how many calls there were.
    ///
    /// # Errors
    ///
    /// A call failed, or a read was stale.
    pub async fn end(mut self) -> Result<usize> {
        self.stop.store(true, Ordering::SeqCst);
        let mut made = 0;
        while let Some(calls) = self.calls.join_next().await {
            for call in calls.context("the load panicked")?? {
                call.context("a call failed though its node was reached")?;
                made += 1;
            }
        }
        while let Some(person) = self.people.join_next().await {
            person.context("somebody panicked")??;
        }
        Ok(made)
    }
}

// === free functions ===

/// The names that an export does not hold.
pub fn missing(names: &BTreeSet<String>, export: &str) -> Vec<String> {
    names
        .iter()
        .filter(|name| !export.contains(*name))
        .cloned()
        .collect()
}
