//! Answers to proposals: reports, refusals, and what became of a usage batch.

use mode_envoy_model::batch::Outcome;
use mode_envoy_model::command::{Change, ChangeKind, Rejected, RejectedCode, Violation};
use mode_envoy_model::limits;
use mode_envoy_model::object::Kind;
use mode_envoy_proto::peer::v1 as wire;

use super::{
    DecodeError, Wire, none_if_empty, optional_text, read_list, text, unknown, write_list,
};
use crate::proposal::Accepted;

impl Wire for Change {
    type Message = wire::Change;

    fn to_wire(&self) -> Self::Message {
        let what = match self.what {
            ChangeKind::Created => "created",
            ChangeKind::Updated => "updated",
            ChangeKind::Unchanged => "unchanged",
            ChangeKind::Deleted => "deleted",
        };
        wire::Change {
            kind: text(self.kind),
            tenant: optional_text(self.tenant.as_ref()),
            name: text(&self.name),
            what: text(what),
        }
    }

    fn from_wire(message: Self::Message) -> Result<Self, DecodeError> {
        let what = match message.what.as_str() {
            "created" => ChangeKind::Created,
            "updated" => ChangeKind::Updated,
            "unchanged" => ChangeKind::Unchanged,
            "deleted" => ChangeKind::Deleted,
            other => return Err(unknown("Change.what", other)),
        };
        Ok(Self {
            kind: change_kind(&message.kind)?,
            tenant: none_if_empty(message.tenant),
            name: message.name.into(),
            what,
        })
    }
}

impl Wire for Accepted {
    type Message = wire::Accepted;

    fn to_wire(&self) -> Self::Message {
        wire::Accepted {
            revision: self.revision,
            index: self.index,
            changes: write_list(&self.changes),
        }
    }

    fn from_wire(message: Self::Message) -> Result<Self, DecodeError> {
        Ok(Self {
            revision: message.revision,
            index: message.index,
            changes: read_list("Accepted.changes", limits::PUT_OBJECTS, message.changes)?,
        })
    }
}

impl Wire for Violation {
    type Message = wire::Violation;

    fn to_wire(&self) -> Self::Message {
        wire::Violation {
            path: self.path.clone(),
            problem: self.problem.clone(),
        }
    }

    fn from_wire(message: Self::Message) -> Result<Self, DecodeError> {
        Ok(Self {
            path: message.path,
            problem: message.problem,
        })
    }
}

impl Wire for Rejected {
    type Message = wire::Rejected;

    fn to_wire(&self) -> Self::Message {
        let code = match self.code {
            RejectedCode::Invalid => "invalid",
            RejectedCode::NotFound => "not_found",
            RejectedCode::Exists => "exists",
            RejectedCode::InUse => "in_use",
            RejectedCode::Limit => "limit",
            RejectedCode::Forbidden => "forbidden",
            RejectedCode::Conflict => "conflict",
        };
        wire::Rejected {
            violations: write_list(&self.violations),
            code: text(code),
        }
    }

    fn from_wire(message: Self::Message) -> Result<Self, DecodeError> {
        let code = match message.code.as_str() {
            "invalid" => RejectedCode::Invalid,
            "not_found" => RejectedCode::NotFound,
            "exists" => RejectedCode::Exists,
            "in_use" => RejectedCode::InUse,
            "limit" => RejectedCode::Limit,
            "forbidden" => RejectedCode::Forbidden,
            "conflict" => RejectedCode::Conflict,
            other => return Err(unknown("Rejected.code", other)),
        };
        // A refusal lists at most VIOLATIONS and one line that counts the rest.
        let violations = read_list(
            "Rejected.violations",
            limits::VIOLATIONS + 1,
            message.violations,
        )?;
        Ok(Self { code, violations })
    }
}

/// What became of a register or a usage batch. The outcomes of change sets do not travel: they become
/// [`Accepted`] where they are decided.
impl Wire for Outcome {
    type Message = wire::StreamOutcome;

    fn to_wire(&self) -> Self::Message {
        let (what, value) = match self {
            Self::Changed { revision } => ("changed", *revision),
            Self::Stale { revision } => ("stale", *revision),
            Self::Registered { incarnation } => ("registered", *incarnation),
            Self::Counted => ("counted", 0),
            Self::Fenced => ("fenced", 0),
            Self::ExpectSeq(seq) => ("expect_seq", *seq),
            Self::RangeMismatch => ("range_mismatch", 0),
            Self::Malformed => ("malformed", 0),
            Self::Unbacked(lease) => ("unbacked", *lease),
            Self::Closed => ("closed", 0),
            Self::Unfinished => ("unfinished", 0),
        };
        wire::StreamOutcome {
            what: text(what),
            value,
        }
    }

    fn from_wire(message: Self::Message) -> Result<Self, DecodeError> {
        Ok(match message.what.as_str() {
            "changed" => Self::Changed {
                revision: message.value,
            },
            "stale" => Self::Stale {
                revision: message.value,
            },
            "registered" => Self::Registered {
                incarnation: message.value,
            },
            "counted" => Self::Counted,
            "fenced" => Self::Fenced,
            "expect_seq" => Self::ExpectSeq(message.value),
            "range_mismatch" => Self::RangeMismatch,
            "malformed" => Self::Malformed,
            "unbacked" => Self::Unbacked(message.value),
            "closed" => Self::Closed,
            "unfinished" => Self::Unfinished,
            other => return Err(unknown("StreamOutcome.what", other)),
        })
    }
}

/// A report's kind: an object's, or one of those with commands of their own.
pub(super) fn change_kind(text: &str) -> Result<&'static str, DecodeError> {
    const OTHERS: [&str; 7] = [
        "key",
        "token",
        "cluster",
        "format",
        "node",
        "join_token",
        "secret",
    ];
    Kind::ALL
        .into_iter()
        .map(Kind::singular)
        .chain(OTHERS)
        .find(|known| *known == text)
        .ok_or_else(|| unknown("Change.kind", text))
}
