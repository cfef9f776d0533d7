//! Whether this node serves, and if not, why not: what `/readyz` says.
//!
//! It serves once its start is over, unless a condition that others have set says why it should not.
//!
//! Invariant: a node that is not ready always gives at least one reason, each a sentence that an operator can act
//! on without reading a log.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use mode_envoy_raft::{Phase, Waiting};

/// How far this process is. It only moves forward.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Stage {
    /// Not serving yet; says what it does now.
    Starting(&'static str),
    /// Serving.
    Serving,
    /// Finishing what is in flight before it ends.
    Draining,
    /// Ending, since something it cannot do without is gone.
    Failed(String),
}

/// Says why this node had better get no traffic; nothing where all is well.
type Condition = Box<dyn Fn() -> Option<String> + Send>;

/// Whether this node serves. A cheap clone.
#[derive(Clone)]
pub struct Readiness {
    stage: Arc<Mutex<Stage>>,
    conditions: Arc<Mutex<Vec<Condition>>>,
    phase: watch::Receiver<Phase>,
}

// === impl Readiness ===

impl Readiness {
    /// Of a process that has just begun; `phase` is how far it is in becoming a member.
    pub fn new(phase: watch::Receiver<Phase>) -> Self {
        let stage = Stage::Starting("the process has just begun");
        Self {
            stage: Arc::new(Mutex::new(stage)),
            conditions: Arc::default(),
            phase,
        }
    }

    /// Moves on. A node that drains or has failed never serves again.
    pub fn set(&self, stage: Stage) {
        let mut now = self.stage.lock().unwrap_or_else(PoisonError::into_inner);
        let over = matches!(*now, Stage::Draining | Stage::Failed(_));
        if !over || matches!(stage, Stage::Failed(_)) {
            *now = stage;
        }
    }

    /// From now on `condition` is asked as well.
    pub fn require(&self, condition: impl Fn() -> Option<String> + Send + 'static) {
        self.conditions().push(Box::new(condition));
    }

    /// Why this node does not serve, a reason each; empty if it does.
    pub fn not_ready(&self) -> Vec<String> {
        let stage = self
            .stage
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        match stage {
            Stage::Serving => self.unmet(),
            Stage::Draining => vec!["draining: this node is about to end".to_owned()],
            Stage::Failed(reason) => vec![format!("failed: {reason}")],
            Stage::Starting(what) => {
                let mut reasons = starting(what, &self.phase.borrow());
                reasons.extend(self.unmet());
                reasons
            }
        }
    }

    fn unmet(&self) -> Vec<String> {
        self.conditions()
            .iter()
            .filter_map(|condition| condition())
            .collect()
    }

    fn conditions(&self) -> std::sync::MutexGuard<'_, Vec<Condition>> {
        self.conditions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Readiness")
            .field("stage", &self.stage)
            .finish_non_exhaustive()
    }
}

fn starting(what: &str, phase: &Phase) -> Vec<String> {
    match phase {
        Phase::Starting | Phase::Member => vec![format!("starting: {what}")],
        Phase::Replaying => vec!["starting: replaying the log".to_owned()],
        Phase::Joining { address, reason } if reason.is_empty() => {
            vec![format!("joining: asking {address}")]
        }
        Phase::Joining { reason, .. } => vec![format!("joining: {reason}")],
        Phase::Forming { waiting_for } if waiting_for.is_empty() => {
            vec!["forming: the peers are reached, the cluster is being formed".to_owned()]
        }
        Phase::Forming { waiting_for } => waiting_for.iter().map(waits).collect(),
    }
}

fn waits(peer: &Waiting) -> String {
    let Waiting {
        node_id,
        address,
        reason,
    } = peer;
    // Most reasons begin with the address that did not answer.
    if reason.contains(&**address) {
        format!("forming: node {node_id}: {reason}")
    } else {
        format!("forming: node {node_id} at {address}: {reason}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn while_forming_each_peer_that_is_not_reached_is_a_reason() {
        let waiting = |node_id, reason: &str| Waiting {
            node_id,
            address: format!("127.0.0.{node_id}:7071"),
            reason: reason.to_owned(),
        };
        let waiting_for = vec![
            waiting(2, "connection refused"),
            waiting(3, "127.0.0.3:7071 holds another secret"),
        ];
        let phase = watch::Sender::new(Phase::Forming { waiting_for });
        let readiness = Readiness::new(phase.subscribe());
        assert_eq!(
            readiness.not_ready(),
            [
                "forming: node 2 at 127.0.0.2:7071: connection refused",
                "forming: node 3: 127.0.0.3:7071 holds another secret"
            ]
        );
        phase.send_replace(Phase::Forming {
            waiting_for: Vec::new(),
        });
        assert_eq!(readiness.not_ready().len(), 1);
    }

    #[test]
    fn a_condition_that_is_not_met_is_a_reason_while_starting_and_while_serving() {
        let phase = watch::Sender::new(Phase::Member);
        let readiness = Readiness::new(phase.subscribe());
        let problem = Arc::new(Mutex::new(Some("cut off".to_owned())));
        let asked = Arc::clone(&problem);
        readiness.require(move || asked.lock().unwrap().clone());
        assert_eq!(readiness.not_ready().len(), 2);
        readiness.set(Stage::Serving);
        assert_eq!(readiness.not_ready(), ["cut off"]);
        *problem.lock().unwrap() = None;
        assert!(readiness.not_ready().is_empty());
    }

    #[test]
    fn a_node_that_drains_never_serves_again_but_may_fail() {
        let phase = watch::Sender::new(Phase::Member);
        let readiness = Readiness::new(phase.subscribe());
        assert_eq!(
            readiness.not_ready(),
            ["starting: the process has just begun"]
        );
        readiness.set(Stage::Serving);
        assert!(readiness.not_ready().is_empty());
        readiness.set(Stage::Draining);
        readiness.set(Stage::Serving);
        assert_eq!(
            readiness.not_ready(),
            ["draining: this node is about to end"]
        );
        readiness.set(Stage::Failed("the log's disk".to_owned()));
        assert_eq!(readiness.not_ready(), ["failed: the log's disk"]);
    }
}
