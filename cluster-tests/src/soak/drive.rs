//! What happens during a soak: the setting, the calls, and the harm.

use std::fmt::Write as _;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::time::Instant;

use super::{Harm, Plan};
use crate::cluster::{Cluster, Node};
use crate::http::{self, CHAT};
use crate::load::{self, Pace, Rng};
use crate::upstream::{PROVIDER_KEY, Upstream};

/// A leader that is stopped for so long finds another one when it goes on: an election takes 3 s at most.
const FREEZE: Duration = Duration::from_secs(4);

/// A call as its client saw it.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) node: usize,
    pub(super) label: String,
    pub(super) began: Instant,
    pub(super) ended: Instant,
    pub(super) failed: Option<String>,
}

/// A time in which a node was not ready.
#[derive(Debug)]
pub(super) struct Down {
    pub(super) node: usize,
    pub(super) from: Instant,
    pub(super) until: Instant,
}

// === free functions ===

pub(super) fn document(upstream: &Upstream, models: usize) -> String {
    let mut text = format!(
        "tenants: [{{name: soak}}]\nconsumers: [{{name: load, tenant: soak}}]\nproviders:\n  - name: up\n    protocol: \
         openai\n    base_url: {}\n    keys: [{{value: {PROVIDER_KEY}}}]\nmodels:\n",
        upstream.base_url()
    );
    for model in 0..models {
        // Writing to a text does not fail.
        let _ = writeln!(
            text,
            "  - {{name: m{model:02}, targets: [{{provider: up, model: u{model:02}}}]}}"
        );
    }
    text
}

pub(super) async fn make_keys(cluster: &Cluster, count: usize) -> Result<Vec<String>> {
    let mut keys = Vec::with_capacity(count);
    for number in 0..count {
        let node = cluster.node(1 + number % cluster.nodes().len());
        keys.push(
            node.create_key("soak", "load", &format!("k{number:02}"))
                .await?,
        );
    }
    for key in &keys {
        cluster.wait_key(key).await?;
    }
    Ok(keys)
}

pub(super) async fn run_load(
    plan: Plan,
    keys: Vec<String>,
    addresses: Vec<String>,
) -> Result<Vec<Call>> {
    let mut rng = Rng::new(plan.seed);
    let mut pairs: Vec<(usize, usize)> = (0..plan.keys)
        .flat_map(|key| (0..plan.models).map(move |model| (key, model)))
        .collect();
    rng.shuffle(&mut pairs);
    let addresses = Arc::new(addresses);
    load::paced(plan.per_second, plan.time, move |number| {
        let (key, model) = *pairs.get(number)?;
        let node = rng.below(addresses.len());
        let stream = rng.below(5) == 0;
        Some(call(
            Arc::clone(&addresses),
            node,
            keys[key].clone(),
            (key, model),
            stream,
        ))
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
    let body = if stream {
        http::chat_stream(&name, &label)
    } else {
        http::chat(&name, &label)
    };
    let began = Instant::now();
    let answer = match http::post(&addresses[node], CHAT, &key, &body).await {
        Ok(answer) if stream => answer
            .expect(200)
            .and_then(|answer| answer.events().map(drop)),
        Ok(answer) => answer.expect(200).map(drop),
        Err(error) => Err(error),
    };
    let failed = answer.err().map(|error| format!("{error:#}"));
    Call {
        node,
        label,
        began,
        ended: Instant::now(),
        failed,
    }
}

/// Does harm now and then, and waits each time until every node is ready again.
pub(super) async fn harm_nodes(nodes: &mut [Node], plan: Plan) -> Result<Vec<Down>> {
    let mut rng = Rng::new(plan.seed ^ 0x6b69_6c6c);
    let mut pace = Pace::every(plan.harm_every);
    let end = Instant::now() + plan.time;
    let mut downs = Vec::new();
    for turn in 1_usize.. {
        pace.tick().await;
        if Instant::now() >= end {
            break;
        }
        let from = Instant::now();
        let harmed = match plan.harm {
            Harm::Kill => kill(nodes, turn, &mut rng).await?,
            Harm::Freeze => freeze(nodes).await?,
        };
        for index in harmed {
            nodes[index].wait_ready().await?;
            downs.push(Down {
                node: index,
                from,
                until: Instant::now(),
            });
        }
    }
    Ok(downs)
}

async fn kill(nodes: &mut [Node], turn: usize, rng: &mut Rng) -> Result<Range<usize>> {
    let one = rng.below(nodes.len());
    let dying = if turn.is_multiple_of(3) {
        0..nodes.len()
    } else {
        one..one + 1
    };
    for node in &mut nodes[dying.clone()] {
        node.kill().await?;
    }
    nodes[dying.clone()].iter_mut().try_for_each(Node::start)?;
    Ok(dying)
}

async fn freeze(nodes: &mut [Node]) -> Result<Range<usize>> {
    let status = nodes[0].status().await?;
    let leader = status["leader"]
        .as_u64()
        .with_context(|| format!("no leader in {status}"))?;
    let index = usize::try_from(leader)? - 1;
    nodes[index].freeze()?;
    Pace::every(FREEZE).tick().await;
    nodes[index].thaw()?;
    Ok(index..index + 1)
}
