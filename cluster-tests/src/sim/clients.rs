//! Who uses the cluster: administrators who put, delete and read one object at a time, and an operator who changes
//! the set of voters.
//!
//! Invariant: what a client notes of an operation is what a person at its place would know. An answer that says that
//! nothing was written is believed, so that a node which says it wrongly is found out.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mode_envoy_model::catalog::Catalog;
use mode_envoy_model::command::{ChangeKind, Command, RejectedCode};
use mode_envoy_model::object::{Kind, Name, Object, ObjectRef};
use mode_envoy_model::service::{Endpoint, Service, Timeouts};
use mode_envoy_raft::sim::{Leaving, Member};
use mode_envoy_raft::{Caller, Handle, ProposeError};

use super::host::Nodes;
use super::linear::{Act, Op, Outcome};
use super::plan::{Kind as Plot, Plan};
use super::world::{host_name, pass};

/// Objects that the administrators quarrel about.
const OBJECTS: u64 = 3;

/// What clients have seen. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct Seen {
    inner: Arc<Mutex<History>>,
}

/// What clients have seen.
#[derive(Default)]
pub(crate) struct History {
    pub(crate) ops: Vec<Op>,
    /// The largest log index whose entry was acknowledged.
    pub(crate) acknowledged: u64,
    /// The largest revision that was acknowledged.
    pub(crate) revision: u64,
    /// A read that saw less than it had to.
    pub(crate) stale: Option<String>,
    /// Operations that were answered.
    pub(crate) answered: u64,
    /// Nodes that were removed.
    pub(crate) removed: BTreeSet<u64>,
    pub(crate) done: bool,
}

/// One administrator.
pub(crate) struct Admin {
    pub(crate) nodes: Nodes,
    pub(crate) seen: Seen,
    pub(crate) id: u64,
}

// === impl Seen ===

impl Seen {
    pub(crate) fn lock(&self) -> MutexGuard<'_, History> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what is asked for, as long as it has no answer.
    fn begin(&self, op: Op) -> usize {
        let mut history = self.lock();
        history.ops.push(op);
        history.ops.len() - 1
    }

    fn end(&self, at: usize, returned: u64, outcome: Outcome) {
        let mut history = self.lock();
        history.answered += u64::from(!matches!(outcome, Outcome::Unknown | Outcome::Nothing));
        if let Some(op) = history.ops.get_mut(at) {
            (op.returned, op.outcome) = (returned, outcome);
        }
    }
}

// === impl Admin ===

impl Admin {
    /// Works until it is told to stop.
    pub(crate) async fn run(self) -> turmoil::Result {
        pass(Duration::from_millis(400)).await;
        while !self.seen.lock().done {
            let world = self.nodes.world.clone();
            pass(Duration::from_millis(5) + world.time_below(Duration::from_millis(60))).await;
            let all: Vec<u64> = self.nodes.lock().keys().copied().collect();
            let Some(node) = world.pick(&all) else {
                continue;
            };
            let object = world.below(OBJECTS);
            let act = match world.below(10) {
                0..4 => Act::Put(world.next_moment()),
                4..6 => Act::Delete,
                _ => Act::Read,
            };
            self.operate(node, object, act).await;
        }
        Ok(())
    }

    /// Does one thing, and notes when it was asked for, when it was answered and what the answer was.
    pub(crate) async fn operate(&self, node: u64, object: u64, act: Act) -> bool {
        let Some((member, life)) = self.nodes.member(node) else {
            return false;
        };
        let world = &self.nodes.world;
        let (invoked, known) = (world.next_moment(), self.seen.lock().acknowledged);
        world.note(&format!(
            "client {} asks n{node}: {act:?} of s{object}",
            self.id
        ));
        let timeout = Duration::from_millis(300 + world.below(1_200));
        let at = self.seen.begin(Op {
            object,
            invoked,
            returned: u64::MAX,
            act,
            outcome: Outcome::Unknown,
        });
        let outcome = match act {
            Act::Read => {
                self.read(member.handle(), (node, object), known, timeout)
                    .await
            }
            Act::Put(value) => {
                let objects = vec![Object::Service(service(object, value))];
                let put = Command::Put {
                    objects,
                    dry_run: false,
                };
                self.write(member.handle(), put, timeout).await
            }
            Act::Delete => {
                let delete = Command::Delete(reference(object));
                self.write(member.handle(), delete, timeout).await
            }
        };
        drop(member);
        let outcome = match outcome {
            Ok(outcome) => outcome,
            // Whoever talks to a process that dies hears nothing; only one that ends in order says so.
            Err(ProposeError::ShuttingDown) if !self.ends_in_order(node, life) => Outcome::Unknown,
            Err(ProposeError::Timeout) => Outcome::Unknown,
            Err(ProposeError::Rejected(rejected)) if rejected.code == RejectedCode::NotFound => {
                Outcome::NotFound
            }
            Err(ProposeError::Rejected(rejected)) => Outcome::Refused(rejected.to_string()),
            Err(
                ProposeError::NoLeader | ProposeError::Unavailable(_) | ProposeError::ShuttingDown,
            ) => Outcome::Nothing,
        };
        let returned = world.next_moment();
        let id = self.id;
        world.note(&format!(
            "client {id} hears of {act:?} of s{object}: {outcome:?}"
        ));
        let certain = !matches!(outcome, Outcome::Unknown | Outcome::Nothing);
        self.seen.end(at, returned, outcome);
        certain
    }

    fn ends_in_order(&self, node: u64, life: u64) -> bool {
        let in_order = self
            .nodes
            .with(node, |slot| slot.in_order && slot.life == life);
        in_order == Some(true)
    }

    async fn read(
        &self,
        handle: &Handle,
        (node, object): (u64, u64),
        known: u64,
        timeout: Duration,
    ) -> Result<Outcome, ProposeError> {
        let index = handle.read_barrier(timeout).await?;
        let (applied, value) = (handle.applied_index(), value_of(&handle.catalog(), object));
        if index < known || applied < index {
            let what = format!(
                "entry {known} was acknowledged before a read on n{node}, whose barrier said {index} and whose state \
                 was at {applied}"
            );
            self.seen.lock().stale.get_or_insert(what);
        }
        Ok(Outcome::Value(value))
    }

    async fn write(
        &self,
        handle: &Handle,
        command: Command,
        timeout: Duration,
    ) -> Result<Outcome, ProposeError> {
        let caller = Caller::node();
        let accepted = handle.propose(command, &caller, timeout).await?;
        let mut seen = self.seen.lock();
        seen.acknowledged = seen.acknowledged.max(accepted.index);
        seen.revision = seen.revision.max(accepted.revision);
        Ok(match accepted.changes.first().map(|change| change.what) {
            Some(ChangeKind::Created) => Outcome::Created,
            Some(ChangeKind::Updated) => Outcome::Updated,
            Some(ChangeKind::Deleted) => Outcome::Deleted,
            Some(ChangeKind::Unchanged) | None => Outcome::Refused("it changed nothing".to_owned()),
        })
    }
}

/// Changes the set of voters, as the plan says.
pub(crate) async fn operate_members(nodes: Nodes, seen: Seen, plan: Plan) -> turmoil::Result {
    let world = nodes.world.clone();
    let mut spares: Vec<u64> = (plan.voters + 1..=plan.voters + plan.spares).collect();
    let pause = plan.chaos / (plan.changes + 2);
    for _ in 0..plan.changes {
        pass(pause / 2 + world.time_below(pause)).await;
        if seen.lock().done {
            break;
        }
        let change = async {
            match (plan.kind, spares.first()) {
                (Plot::Churn, _) => shuffle(&nodes, &spares).await.map(|()| None),
                (Plot::Faults, Some(&spare)) => replace(&nodes, spare).await.map(Some),
                (Plot::Faults, None) => Err("no spare is left".to_owned()),
            }
        };
        match tokio::time::timeout(Duration::from_secs(4), change).await {
            Ok(Ok(None)) => {}
            Ok(Ok(Some(gone))) => {
                seen.lock().removed.insert(gone);
                spares.remove(0);
            }
            Ok(Err(why)) => world.note(&format!("the voters do not change: {why}")),
            Err(_) => world.note("whether the voters change is unknown"),
        }
    }
    Ok(())
}

/// Other voters among all nodes; who does not vote learns.
async fn shuffle(nodes: &Nodes, spares: &[u64]) -> Result<(), String> {
    let leader = leader(nodes)?;
    let members = leader.probe().members;
    for spare in spares.iter().filter(|spare| !members.contains(spare)) {
        leader.add_learner(*spare, host_name(*spare)).await?;
    }
    let mut from: Vec<u64> = leader.probe().members.into_iter().collect();
    let size = if nodes.world.chance(80) { 5 } else { 3 };
    let mut voters = BTreeSet::new();
    while voters.len() < size
        && let Some(node) = nodes.world.pick(&from)
    {
        from.retain(|other| *other != node);
        voters.insert(node);
    }
    nodes.world.note(&format!("{voters:?} are to vote"));
    leader.change_voters(voters, Leaving::Stay).await.map(drop)
}

/// A spare takes the place of a voter, which leaves.
async fn replace(nodes: &Nodes, spare: u64) -> Result<u64, String> {
    let leader = leader(nodes)?;
    let probe = leader.probe();
    let [voters] = probe.voters.as_slice() else {
        return Err("another change is under way".to_owned());
    };
    leader.add_learner(spare, host_name(spare)).await?;
    let others: Vec<u64> = voters.iter().copied().filter(|v| *v != spare).collect();
    let gone = nodes.world.pick(&others).ok_or("nobody votes")?;
    let mut voters = voters.clone();
    voters.remove(&gone);
    voters.insert(spare);
    nodes
        .world
        .note(&format!("n{spare} is to vote in place of n{gone}"));
    leader.change_voters(voters, Leaving::Leave).await?;
    Ok(gone)
}

fn leader(nodes: &Nodes) -> Result<Member, String> {
    let all: Vec<u64> = nodes.lock().keys().copied().collect();
    let members = all.into_iter().filter_map(|node| nodes.member(node));
    let mut members = members.map(|(member, _)| member);
    let leader = members.find(|member| member.probe().leads);
    leader.ok_or_else(|| "nobody leads".to_owned())
}

/// The value of an object, as a node has it.
pub(crate) fn value_of(catalog: &Catalog, object: u64) -> Option<u64> {
    let service = catalog.service(&name(object))?;
    let url = service
        .value
        .endpoints
        .first()?
        .url
        .strip_prefix("http://v")?;
    url.strip_suffix(".test")?.parse().ok()
}

fn service(object: u64, value: u64) -> Service {
    Service {
        name: name(object),
        endpoints: vec![Endpoint {
            url: format!("http://v{value}.test").into(),
        }],
        timeouts: Timeouts::default(),
    }
}

fn reference(object: u64) -> ObjectRef {
    ObjectRef {
        kind: Kind::Service,
        tenant: None,
        name: name(object),
    }
}

fn name(object: u64) -> Name {
    format!("s{object}").into()
}
