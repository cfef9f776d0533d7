//! Puts proposals into the log, many to an entry: the consensus library syncs once per entry, so an entry is a batch.
//!
//! ```text
//! callers --queue--> drain <= 512, <= 1 MiB --decide on catalog + what is queued--> one entry in flight --> answers
//! ```
//!
//! Invariants:
//! - A command is decided on the applied catalog plus the events queued before it in the same entry. Nothing else is
//!   in flight then, so a change set is stale only after a change of leader or a lost answer; it is decided again.
//! - A leadership begins by confirming itself and applying all of its log; then its clocks begin.
//! - Every answer comes from a confirmed leader: by the entry that was committed, else by a read index.
//! - Nothing enters the log that a replica could not read back: sizes and counts are checked before.

mod entry;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use mode_envoy_model::batch::Outcome;
use openraft::error::{ClientWriteError, Fatal, RaftError};
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::time::Instant;

use crate::apply::SharedState;
use crate::clock::{Clock, Now};
use crate::contact::{BootMs, Contact};
use crate::convert::Proposal;
use crate::machine;
use crate::proposal::{Accepted, Authorize, Caller, ProposeError};
use crate::reads::{ReadError, ReadIndex};
use crate::tasks::Tasks;
use crate::types::{Applied, LogId, NodeId, Raft};

use entry::{Drafted, EntryDraft, Queued};

/// Proposals that are decided together.
const DRAIN: usize = 512;
/// Proposals that wait; whoever comes then waits for a place.
const QUEUE: usize = 4_096;
/// How long an entry may take to be applied before its outcome is called unknown.
const WRITE: Duration = Duration::from_secs(5);
/// How often a change set that turned out stale is decided again.
const ATTEMPTS: u32 = 3;

/// An answer of the leader.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Reply {
    /// To a command.
    Accepted(Accepted),
    /// To a register or a usage batch.
    Stream(Outcome),
}

/// Why there is no answer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Refusal {
    /// This node does not lead; nothing was written.
    NotLeader(Option<NodeId>),
    /// Nothing was written, and asking again may help.
    Unsent(String),
    /// The last word.
    Final(ProposeError),
}

pub(crate) type Answer = Result<Reply, Refusal>;

/// A proposal in the queue.
struct Request {
    proposal: Proposal,
    caller: Caller,
    answer: oneshot::Sender<Answer>,
    attempts: u32,
    hold: Hold,
}

/// Who has a proposal in hand: it is either decided by the task or withdrawn by its caller, never both.
#[derive(Clone, Debug, Default)]
struct Hold(Arc<AtomicU8>);

const WAITING: u8 = 0;
const TAKEN: u8 = 1;
const WITHDRAWN: u8 = 2;

/// Hands proposals to this node's proposing task. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Proposer {
    queue: mpsc::Sender<Request>,
}

/// What a node needs to lead.
pub(crate) struct Leader {
    pub(crate) node_id: NodeId,
    pub(crate) raft: Raft,
    pub(crate) state: SharedState,
    pub(crate) reads: ReadIndex,
    pub(crate) contact: Contact,
    /// A leader that has heard no quorum for so long proposes nothing.
    pub(crate) silence: Duration,
    /// Nothing is written while leadership is handed over.
    pub(crate) turn: Arc<Mutex<()>>,
}

/// The proposing task.
struct Driver {
    own: Leader,
    authorize: Authorize,
    queue: mpsc::Receiver<Request>,
    waiting: VecDeque<Request>,
    leadership: Option<Leadership>,
    began: Instant,
}

/// A term in which this node leads and has applied what came before.
struct Leadership {
    term: u64,
    clock: Clock,
}

// === impl Proposer ===

impl Proposer {
    /// Starts the proposing task of this node.
    pub(crate) fn start(tasks: &Tasks, own: Leader, authorize: Authorize) -> Self {
        let (sender, queue) = mpsc::channel(QUEUE);
        let driver = Driver {
            own,
            authorize,
            queue,
            waiting: VecDeque::new(),
            leadership: None,
            began: Instant::now(),
        };
        tasks.spawn("proposer", driver.run());
        Self { queue: sender }
    }

    /// Proposes on this node, if it leads. A caller that stops waiting takes its proposal out of the queue; one that is
    /// still there at `deadline` was not written.
    pub(crate) async fn propose(
        &self,
        proposal: Proposal,
        caller: Caller,
        deadline: Instant,
    ) -> Answer {
        let ended = || Refusal::Final(ProposeError::ShuttingDown);
        let (answer, receiver) = oneshot::channel();
        let request = Request {
            proposal,
            caller,
            answer,
            attempts: 0,
            hold: Hold::default(),
        };
        let hold = request.hold.clone();
        let asked = async {
            self.queue.send(request).await.map_err(|_| ended())?;
            // The task ends with entries in flight only when the node does, so their outcome is unknown.
            receiver
                .await
                .unwrap_or(Err(Refusal::Final(ProposeError::Timeout)))
        };
        match tokio::time::timeout_at(deadline, asked).await {
            Ok(answer) => answer,
            Err(_) if hold.passes_to(WITHDRAWN) => Err(Refusal::Unsent(
                "the leader waits for a majority to answer".to_owned(),
            )),
            Err(_) => Err(Refusal::Final(ProposeError::Timeout)),
        }
    }
}

// === impl Driver ===

impl Driver {
    async fn run(mut self) {
        let turn = Arc::clone(&self.own.turn);
        while self.fill().await {
            let _our_turn = turn.lock().await;
            self.waiting.retain(|request| !request.answer.is_closed());
            if let Err(refusal) = self.lead().await {
                self.refuse_all(&refusal);
                continue;
            }
            let draft = self.draft();
            self.settle(draft).await;
        }
    }

    /// Waits for work; `false` when there will be none.
    async fn fill(&mut self) -> bool {
        if self.waiting.is_empty() {
            match self.queue.recv().await {
                Some(request) => self.waiting.push_back(request),
                None => return false,
            }
        }
        while self.waiting.len() < DRAIN
            && let Ok(request) = self.queue.try_recv()
        {
            self.waiting.push_back(request);
        }
        true
    }

    /// Makes sure that this node leads, and that its state is as new as its log.
    async fn lead(&mut self) -> Result<(), Refusal> {
        let (leader, term) = {
            let metrics = self.own.raft.metrics();
            let metrics = metrics.borrow();
            (metrics.current_leader, metrics.current_term)
        };
        if leader != Some(self.own.node_id) {
            self.leadership = None;
            return Err(Refusal::NotLeader(leader));
        }
        if self.own.is_cut_off() {
            return Err(Refusal::Unsent("no majority answers the leader".to_owned()));
        }
        if self
            .leadership
            .as_ref()
            .is_some_and(|leadership| leadership.term == term)
        {
            return Ok(());
        }
        let index = self.own.reads.get().await.map_err(unconfirmed)?;
        self.wait_applied(index).await?;
        let clock = Clock::begin(self.own.state.stamp(), self.now());
        self.leadership = Some(Leadership { term, clock });
        tracing::info!(term, "this node leads");
        Ok(())
    }

    async fn wait_applied(&self, index: u64) -> Result<(), Refusal> {
        let mut applied = self.own.state.watch_applied();
        let reached = applied.wait_for(|at| *at >= index);
        match tokio::time::timeout(WRITE, reached).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(Refusal::Unsent(format!(
                "log entry {index} is not applied yet"
            ))),
        }
    }

    /// Decides what waits, until the entry is full.
    fn draft(&mut self) -> EntryDraft<Request> {
        let now = self.now();
        let stamp = self
            .leadership
            .as_mut()
            .map(|l| l.clock.stamp(now))
            .unwrap_or_default();
        // As one: an entry of an unknown fate may be applied at any moment.
        let mut draft = self.own.state.read(|state| EntryDraft::new(state, stamp));
        while let Some(request) = self.waiting.pop_front() {
            if !request.hold.passes_to(TAKEN) {
                continue;
            }
            match draft.add(&request.proposal, &request.caller, &self.authorize) {
                Drafted::Queued(queued) => draft.queued.push((request, queued)),
                Drafted::Answer(answer) => draft.answers.push((request, answer)),
                Drafted::Full => {
                    request.hold.is_waiting_again();
                    self.waiting.push_front(request);
                    break;
                }
            }
        }
        draft
    }

    /// Writes the entry, if there is anything to write, and answers.
    async fn settle(&mut self, mut draft: EntryDraft<Request>) {
        let answers = draft.take_answers();
        let queued = std::mem::take(&mut draft.queued);
        let confirmed = if queued.is_empty() {
            let read = self.own.reads.get().await;
            read.map(|_| None).map_err(unconfirmed)
        } else {
            self.write_queued(draft, queued).await.map(Some)
        };
        if confirmed.is_err() {
            self.leadership = None;
        }
        let index = confirmed.as_ref().ok().copied().flatten();
        for (request, answer) in answers.with_entry(index) {
            match &confirmed {
                Ok(_) => request.answer(answer.map_err(Refusal::Final)),
                // These wrote nothing, so they may be asked again whatever became of the entry.
                Err(Refusal::NotLeader(leader)) => {
                    request.answer(Err(Refusal::NotLeader(*leader)));
                }
                Err(_) => request.answer(Err(Refusal::Unsent("leadership is unconfirmed".into()))),
            }
        }
    }

    /// The index of the entry, where every change set in it is in force as it was decided.
    async fn write_queued(
        &mut self,
        draft: EntryDraft<Request>,
        queued: Vec<(Request, Queued)>,
    ) -> Result<u64, Refusal> {
        match self.write(draft).await {
            Ok((at, applied)) => {
                if self.answer_written(queued, at, applied) {
                    return Ok(at.index);
                }
                // Answers that rest on a change set which turned out void are void as well.
                Err(Refusal::Unsent(
                    "the configuration has just changed".to_owned(),
                ))
            }
            Err(refusal) => {
                for (request, _) in queued {
                    request.answer(Err(refusal.clone()));
                }
                Err(refusal)
            }
        }
    }

    async fn write(&self, draft: EntryDraft<Request>) -> Result<(LogId, Applied), Refusal> {
        let payload = draft.into_payload();
        let unknown = || Refusal::Final(ProposeError::Timeout);
        let Ok(written) = tokio::time::timeout(WRITE, self.own.raft.client_write(payload)).await
        else {
            return Err(unknown());
        };
        match written {
            Ok(response) => Ok((response.log_id, response.data)),
            // The library says so only of an entry that it did not append, or that it has removed again.
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(to))) => {
                Err(Refusal::NotLeader(to.leader_id))
            }
            // The node is ending; whether a quorum has the entry, its next life will tell.
            Err(RaftError::Fatal(Fatal::Stopped)) => Err(unknown()),
            Err(error) => {
                tracing::error!(%error, "writing to the log failed");
                Err(unknown())
            }
        }
    }

    /// Whether every change set is in force as it was decided.
    fn answer_written(
        &mut self,
        queued: Vec<(Request, Queued)>,
        at: LogId,
        applied: Applied,
    ) -> bool {
        let mut again = Vec::new();
        let current = !applied
            .outcomes
            .iter()
            .any(|outcome| matches!(outcome, Outcome::Stale { .. }));
        for ((mut request, queued), outcome) in queued.into_iter().zip(applied.outcomes) {
            let stale = matches!(outcome, Outcome::Stale { .. });
            if stale && request.attempts + 1 < ATTEMPTS {
                request.attempts += 1;
                request.hold.is_waiting_again();
                again.push(request);
            } else {
                request.answer(answer_of(queued, at.index, outcome));
            }
        }
        for request in again.into_iter().rev() {
            self.waiting.push_front(request);
        }
        current
    }

    fn refuse_all(&mut self, refusal: &Refusal) {
        for request in self.waiting.drain(..) {
            request.answer(Err(refusal.clone()));
        }
    }

    fn now(&self) -> Now {
        Now {
            monotonic: self.began.elapsed(),
            wall_ms: machine::wall_ms(self.own.node_id),
        }
    }
}

// === impl Leader ===

impl Leader {
    /// Whether no quorum has been heard for longer than an election takes. One that was never heard may be about to be.
    fn is_cut_off(&self) -> bool {
        let last = self.contact.last();
        last.is_some_and(|last| BootMs::now().since(last) > self.silence)
    }
}

// === impl Hold ===

impl Hold {
    /// Nothing came of it, so that it may be withdrawn.
    fn is_waiting_again(&self) {
        self.0.store(WAITING, Ordering::Release);
    }

    /// Whether it was waiting until now.
    fn passes_to(&self, holder: u8) -> bool {
        let (order, failed) = (Ordering::AcqRel, Ordering::Acquire);
        self.0
            .compare_exchange(WAITING, holder, order, failed)
            .is_ok()
    }
}

// === impl Request ===

impl Request {
    fn answer(self, answer: Answer) {
        // A caller that gave up reads the state to learn what happened.
        let _ = self.answer.send(answer);
    }
}

fn answer_of(queued: Queued, index: u64, outcome: Outcome) -> Answer {
    match (queued, outcome) {
        (Queued::ChangeSet(changes), Outcome::Changed { revision }) => {
            Ok(Reply::Accepted(Accepted {
                revision,
                index,
                changes,
            }))
        }
        (Queued::ChangeSet(_), Outcome::Stale { .. }) => Err(Refusal::Unsent(
            "the configuration changed each time while this was decided".to_owned(),
        )),
        (Queued::ChangeSet(_), other) => {
            let reason = format!("the replicas found the change set unsound ({other:?})");
            Err(Refusal::Final(ProposeError::Unavailable(reason)))
        }
        (Queued::Stream, outcome) => Ok(Reply::Stream(outcome)),
    }
}

fn unconfirmed(error: ReadError) -> Refusal {
    match error {
        ReadError::NotLeader(leader) => Refusal::NotLeader(leader),
        ReadError::Unconfirmed(reason) => Refusal::Unsent(reason),
        ReadError::Ended => Refusal::Final(ProposeError::ShuttingDown),
    }
}
