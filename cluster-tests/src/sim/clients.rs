//! Who uses the cluster: administrators who put, delete and read one object at a time, and an operator who changes
//! the set of voters.
//!
//! Invariant: what a client notes of an operation is what a person at its place would know. An answer that says that
//! nothing was written is believed, so that a node which says it wrongly is found out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mode_envoy_model::catalog::Catalog;
use mode_envoy_model::command::{ChangeKind, Command, RejectedCode};
use mode_envoy_model::object::{Kind, Name, Object, ObjectRef};
use mode_envoy_model::service::{Endpoint, Service, Timeouts};
use mode_envoy_raft::sim::Member;
use mode_envoy_raft::{Accepted, Caller, Handle, ProposeError};

use super::host::Nodes;
use super::linear::{Act, Op, Outcome};
use super::plan::{Kind as Plot, Plan};
use super::world::{address, pass};

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
    /// Checkpoints of leaders that were installed, by node and life.
    pub(crate) snapshots: BTreeMap<(u64, u64), u64>,
    pub(crate) done: bool,
}

/// A spare takes the place of a voter, as operators do it: it joins by a token, the voter is removed, and the membership
/// follows by itself.
struct Replacement {
    spare: u64,
    /// Who is to go, once that was said.
    gone: Option<u64>,
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
            if self.nodes.plan.kind == Plot::Faults && world.below(60) == 0 {
                self.hand_over(node).await;
                continue;
            }
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

    /// Has some voter lead.
    async fn hand_over(&self, node: u64) {
        let Some((member, _)) = self.nodes.member(node) else {
            return;
        };
        let voters: Vec<u64> = member.probe().voters.into_iter().flatten().collect();
        let world = &self.nodes.world;
        let Some(heir) = world.pick(&voters) else {
            return;
        };
        let moved = member
            .handle()
            .transfer_leader(heir, Duration::from_secs(2));
        let moved = moved.await.map_err(|error| error.to_string());
        world.note(&format!("client {} has n{heir} lead: {moved:?}", self.id));
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

/// Changes the members, as the plan says.
pub(crate) async fn operate_members(nodes: Nodes, seen: Seen, plan: Plan) -> turmoil::Result {
    let world = nodes.world.clone();
    let spares: Vec<u64> = (plan.voters + 1..=plan.voters + plan.spares).collect();
    let replacement = |spare: &u64| Replacement {
        spare: *spare,
        gone: None,
    };
    let mut replacements: Vec<Replacement> = spares.iter().map(replacement).collect();
    let pause = plan.chaos / (plan.changes + 2);
    for _ in 0..plan.changes {
        pass(pause / 2 + world.time_below(pause)).await;
        if seen.lock().done {
            break;
        }
        let change = async {
            match (plan.kind, replacements.first_mut()) {
                (Plot::Churn, _) => shuffle(&nodes, &spares).await.map(|()| false),
                (Plot::Faults, Some(next)) => next.advance(&nodes).await.map(|()| true),
                (Plot::Faults, None) => Err("no spare is left".to_owned()),
            }
        };
        match tokio::time::timeout(Duration::from_secs(4), change).await {
            Ok(Ok(false)) => {}
            Ok(Ok(true)) => drop(replacements.remove(0)),
            Ok(Err(why)) => world.note(&format!("the members do not change: {why}")),
            Err(_) => world.note("whether the members change is unknown"),
        }
    }
    Ok(())
}

/// Other voters among all nodes; who does not vote learns.
async fn shuffle(nodes: &Nodes, spares: &[u64]) -> Result<(), String> {
    let leader = leader(nodes)?;
    let members = leader.probe().members;
    for spare in spares.iter().filter(|spare| !members.contains(spare)) {
        leader.add_learner(*spare, address(*spare)).await?;
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
    leader.change_voters(voters).await.map(drop)
}

// === impl Replacement ===

impl Replacement {
    /// Goes on until both are decided; asking twice for the same changes nothing.
    async fn advance(&mut self, nodes: &Nodes) -> Result<(), String> {
        let token = [u8::try_from(self.spare).unwrap_or(u8::MAX); 32];
        let hour = 3_600_000;
        let make = Command::CreateJoinToken {
            hash: token,
            valid_ms: hour,
        };
        order(nodes, |_| make.clone()).await?;
        let join = |handle: &Handle| Command::Join {
            token,
            nonce: token,
            peer: address(self.spare),
            members: handle.member_addresses(),
        };
        let joined = order(nodes, join).await?;
        let id = joined.changes.first().map(|change| change.name.to_string());
        if id != Some(self.spare.to_string()) {
            return Err(format!("n{} got the id {id:?}", self.spare));
        }
        let gone = match self.gone {
            Some(gone) => gone,
            None => voter(nodes, self.spare)?,
        };
        self.gone = Some(gone);
        let spare = self.spare;
        let world = &nodes.world;
        world.note(&format!("n{spare} has joined, n{gone} is to go"));
        let remove = |handle: &Handle| Command::RemoveNode {
            node: gone,
            members: handle.member_addresses(),
        };
        order(nodes, remove).await.map(drop)
    }
}

/// Has a command decided, by whichever node; again, until it is certain that it was.
async fn order(nodes: &Nodes, command: impl Fn(&Handle) -> Command) -> Result<Accepted, String> {
    loop {
        pass(Duration::from_millis(50)).await;
        let all: Vec<u64> = nodes.lock().keys().copied().collect();
        let any = nodes.world.pick(&all).and_then(|node| nodes.member(node));
        let Some((member, _)) = any.filter(|(member, _)| !member.probe().members.is_empty()) else {
            continue;
        };
        let handle = member.handle();
        let (command, caller) = (command(handle), Caller::node());
        let asked = handle.propose(command, &caller, Duration::from_secs(1));
        match asked.await {
            Ok(accepted) => return Ok(accepted),
            Err(ProposeError::Rejected(rejected)) => return Err(rejected.to_string()),
            Err(_) => {}
        }
    }
}

/// Some voter, but not this one.
fn voter(nodes: &Nodes, but: u64) -> Result<u64, String> {
    let probe = leader(nodes)?.probe();
    let voters = probe.voters.into_iter().flatten();
    let others: Vec<u64> = voters.filter(|voter| *voter != but).collect();
    nodes
        .world
        .pick(&others)
        .ok_or_else(|| "nobody votes".to_owned())
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
        access: Vec::new(),
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
