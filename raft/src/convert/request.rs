//! Requests of clients: as a change set names the one that it carries out, and as a checkpoint remembers them.

use mode_envoy_model::command::{Change, ChangeKind};
use mode_envoy_model::limits;
use mode_envoy_model::requests::{Answered, ClientRequest};
use mode_envoy_proto::log::v1 as wire;

use super::outcome::change_kind;
use super::{
    DecodeError, Wire, fixed, none_if_empty, optional_text, read_list, required, text, unknown,
    write_list,
};

/// What a change set can come to: its events at most.
const CHANGES: usize = limits::EVENTS_PER_CHANGE_SET;

/// Of a version that drew none.
const NO_NONCE: [u8; 16] = [0; 16];

/// As the log holds them; peers tell each other reports in words of their own.
struct Changed(Change);

impl Wire for ClientRequest {
    type Message = wire::ClientRequest;

    fn to_wire(&self) -> Self::Message {
        wire::ClientRequest {
            id: self.id.to_vec(),
            body: self.body.to_vec(),
            nonce: match self.nonce {
                NO_NONCE => Vec::new(),
                nonce => nonce.to_vec(),
            },
        }
    }

    fn from_wire(message: Self::Message) -> Result<Self, DecodeError> {
        Ok(Self {
            id: fixed("ClientRequest.id", &message.id)?,
            body: fixed("ClientRequest.body", &message.body)?,
            nonce: match message.nonce.as_slice() {
                [] => NO_NONCE,
                nonce => fixed("ClientRequest.nonce", nonce)?,
            },
        })
    }
}

impl Wire for Answered {
    type Message = wire::AnsweredRequest;

    fn to_wire(&self) -> Self::Message {
        let changes: Vec<_> = self.changes.iter().cloned().map(Changed).collect();
        wire::AnsweredRequest {
            actor: text(&self.actor),
            request: Some(self.request.to_wire()),
            revision: self.revision,
            index: self.index,
            wall_ms: self.wall_ms,
            changes: write_list(&changes),
        }
    }

    fn from_wire(message: Self::Message) -> Result<Self, DecodeError> {
        let changes: Vec<Changed> = read_list("AnsweredRequest.changes", CHANGES, message.changes)?;
        Ok(Self {
            actor: message.actor.into(),
            request: required("AnsweredRequest.request", message.request)?,
            revision: message.revision,
            index: message.index,
            wall_ms: message.wall_ms,
            changes: changes.into_iter().map(|Changed(change)| change).collect(),
        })
    }
}

impl Wire for Changed {
    type Message = wire::ChangedObject;

    fn to_wire(&self) -> Self::Message {
        let Self(change) = self;
        let what = match change.what {
            ChangeKind::Created => "created",
            ChangeKind::Updated => "updated",
            ChangeKind::Unchanged => "unchanged",
            ChangeKind::Deleted => "deleted",
        };
        wire::ChangedObject {
            kind: text(change.kind),
            tenant: optional_text(change.tenant.as_ref()),
            name: text(&change.name),
            what: text(what),
        }
    }

    fn from_wire(message: Self::Message) -> Result<Self, DecodeError> {
        let what = match message.what.as_str() {
            "created" => ChangeKind::Created,
            "updated" => ChangeKind::Updated,
            "unchanged" => ChangeKind::Unchanged,
            "deleted" => ChangeKind::Deleted,
            other => return Err(unknown("ChangedObject.what", other)),
        };
        Ok(Self(Change {
            kind: change_kind(&message.kind)?,
            tenant: none_if_empty(message.tenant),
            name: message.name.into(),
            what,
        }))
    }
}
