//! Who is a member, as `cluster status` tells it, and a client side that spares nodes which are about to go.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::cluster::Node;
use crate::http::{self, CHAT};
use crate::load::{self, Rng};
use crate::wait;

/// A change of the membership, on a machine that is busy with other tests.
const SETTLED: Duration = Duration::from_mins(1);

/// The roles of a cluster's nodes by id, as one node sees them.
///
/// # Errors
///
/// It tells none.
pub async fn roles(node: &Node) -> Result<BTreeMap<u64, String>> {
    let status = node.status().await?;
    let nodes = status["nodes"].as_array().context("no nodes")?;
    nodes
        .iter()
        .map(|node| {
            let id = node["id"].as_u64().context("no id")?;
            let role = node["role"].as_str().context("no role")?;
            Ok((id, role.to_owned()))
        })
        .collect()
}

/// Waits until these nodes vote, these only listen, and there is nobody else and a leader; who leads.
///
/// # Errors
///
/// It does not come to that.
pub async fn settled(node: &Node, voters: &[u64], learners: &[u64]) -> Result<u64> {
    let what = format!("nodes {voters:?} to vote and {learners:?} to listen");
    wait::until(&what, SETTLED, async || {
        let roles = roles(node).await?;
        let of = |learner: bool| -> Vec<u64> {
            let of = roles
                .iter()
                .filter(|(_, role)| (*role == "learner") == learner);
            of.map(|(id, _)| *id).collect()
        };
        ensure!(of(false) == voters && of(true) == learners, "{roles:?}");
        let leader = roles.iter().find(|(_, role)| *role == "leader");
        Ok(*leader.with_context(|| format!("no leader in {roles:?}"))?.0)
    })
    .await
}

/// The leader that a node knows.
///
/// # Errors
///
/// It knows none.
pub async fn leader(node: &Node) -> Result<u64> {
    let status: Value = node.status().await?;
    status["leader"]
        .as_u64()
        .with_context(|| format!("no leader in {status}"))
}

/// Gateways that calls are spread over, as a load balancer would, and how many calls each has open.
#[derive(Clone, Debug, Default)]
pub struct Balancer {
    inner: Arc<Mutex<BTreeMap<String, Backend>>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Backend {
    out: bool,
    open: usize,
}

// === impl Balancer ===

impl Balancer {
    /// Sends calls to a gateway from now on.
    pub fn put_in(&self, node: &Node) {
        self.with(|backends| backends.entry(node.gateway().to_owned()).or_default().out = false);
    }

    /// Sends it no more, and waits until what it has is answered.
    ///
    /// # Errors
    ///
    /// A call stays open.
    pub async fn take_out(&self, node: &Node) -> Result<()> {
        let gateway = node.gateway();
        self.with(|backends| backends.entry(gateway.to_owned()).or_default().out = true);
        let what = format!("the calls on {gateway} to end");
        wait::until(&what, SETTLED, async || {
            let open = self.with(|backends| backends.get(gateway).map_or(0, |b| b.open));
            ensure!(open == 0, "{open} are open");
            Ok(())
        })
        .await
    }

    /// Calls a model, `per_second`, until `stop` says so; what became of each.
    ///
    /// # Errors
    ///
    /// A call panicked.
    pub async fn load(
        &self,
        per_second: u32,
        key: &str,
        model: &str,
        stop: Arc<std::sync::atomic::AtomicBool>,
    ) -> Result<Vec<Result<()>>> {
        let mut rng = Rng::new(load::seed()?);
        let (key, model) = (key.to_owned(), model.to_owned());
        load::paced(per_second, Duration::from_mins(10), move |number| {
            if stop.load(std::sync::atomic::Ordering::SeqCst) {
                return None;
            }
            let gateway = self.choose(&mut rng)?;
            let body = http::chat(&model, &format!("call {number}"));
            let (key, balancer) = (key.clone(), self.clone());
            Some(async move {
                let answer = http::post(&gateway, CHAT, &key, &body).await;
                balancer.with(|backends| {
                    if let Some(backend) = backends.get_mut(&gateway) {
                        backend.open -= 1;
                    }
                });
                let answered = answer.and_then(|answer| answer.expect(200).map(drop));
                answered.with_context(|| format!("call {number} on {gateway}"))
            })
        })
        .await
    }

    fn choose(&self, rng: &mut Rng) -> Option<String> {
        self.with(|backends| {
            let mut there: Vec<_> = backends.iter_mut().filter(|(_, b)| !b.out).collect();
            if there.is_empty() {
                return None;
            }
            let chosen = rng.below(there.len());
            let (gateway, backend) = &mut there[chosen];
            backend.open += 1;
            Some(gateway.clone())
        })
    }

    fn with<T>(&self, f: impl FnOnce(&mut BTreeMap<String, Backend>) -> T) -> T {
        f(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
