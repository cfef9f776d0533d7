//! Collects what is wrong with a command; a refusal lists every fault found, up to a limit.

use crate::command::{Rejected, RejectedCode, Violation};
use crate::limits;

/// The faults found so far.
#[derive(Default)]
pub(super) struct Faults {
    code: Option<RejectedCode>,
    violations: Vec<Violation>,
    beyond: usize,
}

// === impl Faults ===

impl Faults {
    pub(super) fn add(&mut self, code: RejectedCode, violation: Violation) {
        if self.code.is_none_or(|old| gravity(code) > gravity(old)) {
            self.code = Some(code);
        }
        if self.is_full() {
            self.beyond += 1;
        } else {
            self.violations.push(violation);
        }
    }

    pub(super) fn add_all(&mut self, code: RejectedCode, violations: Vec<Violation>) {
        for violation in violations {
            self.add(code, violation);
        }
    }

    /// Whether more would only be counted, so that a long search may end.
    pub(super) const fn is_full(&self) -> bool {
        self.violations.len() >= limits::VIOLATIONS
    }

    pub(super) fn done(mut self) -> Result<(), Rejected> {
        let Some(code) = self.code else { return Ok(()) };
        if self.beyond > 0 {
            self.violations.push(Violation {
                path: "…".to_owned(),
                problem: format!("and {} more; mend these first", self.beyond),
            });
        }
        Err(Rejected {
            code,
            violations: self.violations,
        })
    }
}

/// A refusal with one fault.
pub(crate) fn refuse(
    code: RejectedCode,
    path: impl Into<String>,
    problem: impl Into<String>,
) -> Rejected {
    let violation = Violation {
        path: path.into(),
        problem: problem.into(),
    };
    Rejected {
        code,
        violations: vec![violation],
    }
}

/// Refuses what would make `count` pass `limit`.
pub(super) fn room(kind: &str, count: usize, limit: usize) -> Result<(), Rejected> {
    if count < limit {
        return Ok(());
    }
    let problem = format!("the cluster holds {limit} {kind} already, its limit; remove some first");
    Err(refuse(RejectedCode::Limit, kind, problem))
}

const fn gravity(code: RejectedCode) -> u8 {
    match code {
        RejectedCode::Conflict => 6,
        RejectedCode::Forbidden => 5,
        RejectedCode::Limit => 4,
        RejectedCode::Invalid => 3,
        RejectedCode::NotFound => 2,
        RejectedCode::Exists => 1,
        RejectedCode::InUse => 0,
    }
}
