//! Proposals: what a follower forwards to the leader.

use mode_envoy_model::batch::{Evict, Final};
use mode_envoy_model::catalog::WayBack;
use mode_envoy_model::command::Command;
use mode_envoy_model::limits;
use mode_envoy_model::object::{Kind as ObjectKind, Object, ObjectRef};
use mode_envoy_model::provider::Resealed;
use mode_envoy_model::token::Token;
use mode_envoy_model::usage::batch::{Register, UsageBatch};
use mode_envoy_proto::log::v1 as log;
use mode_envoy_proto::peer::v1 as wire;

use super::event::object_name;
use super::{
    DecodeError, Wire, fixed, members, missing, none_if_empty, optional_text, read_list, required,
    text, unknown, write_list,
};

/// What may be proposed for the log.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Proposal {
    /// Decided by the leader.
    Command(Command),
    /// Taken as it is.
    Register(Register),
    /// Taken as it is.
    Usage(UsageBatch),
    /// Taken as it is.
    Final(Final),
    /// Taken as it is.
    Evict(Evict),
}

impl Wire for Proposal {
    type Message = wire::Proposal;

    fn to_wire(&self) -> Self::Message {
        use wire::proposal::Kind;
        let kind = match self {
            Self::Command(command) => Kind::Command(command.to_wire()),
            Self::Register(register) => Kind::Register(register.to_wire()),
            Self::Usage(batch) => Kind::Usage(batch.to_wire()),
            Self::Final(done) => Kind::Final(done.to_wire()),
            Self::Evict(evict) => Kind::Evict(evict.to_wire()),
        };
        wire::Proposal { kind: Some(kind) }
    }

    fn from_wire(message: Self::Message) -> Result<Self, DecodeError> {
        use wire::proposal::Kind;
        Ok(
            match message.kind.ok_or_else(|| missing("Proposal.kind"))? {
                Kind::Command(command) => Self::Command(Wire::from_wire(command)?),
                Kind::Register(register) => Self::Register(Wire::from_wire(register)?),
                Kind::Usage(batch) => Self::Usage(Wire::from_wire(batch)?),
                Kind::Final(done) => Self::Final(Wire::from_wire(done)?),
                Kind::Evict(evict) => Self::Evict(Wire::from_wire(evict)?),
            },
        )
    }
}

impl Wire for Object {
    type Message = wire::Object;

    fn to_wire(&self) -> Self::Message {
        use wire::object::Kind;
        let kind = match self {
            Self::Tenant(o) => Kind::Tenant(o.to_wire()),
            Self::Consumer(o) => Kind::Consumer(o.to_wire()),
            Self::Provider(o) => Kind::Provider(o.to_wire()),
            Self::Model(o) => Kind::Model(o.to_wire()),
            Self::Service(o) => Kind::Service(o.to_wire()),
            Self::Route(o) => Kind::Route(o.to_wire()),
            Self::Limit(o) => Kind::Limit(o.to_wire()),
        };
        wire::Object { kind: Some(kind) }
    }

    fn from_wire(message: Self::Message) -> Result<Self, DecodeError> {
        use wire::object::Kind;
        Ok(match message.kind.ok_or_else(|| missing("Object.kind"))? {
            Kind::Tenant(o) => Self::Tenant(Wire::from_wire(o)?),
            Kind::Consumer(o) => Self::Consumer(Wire::from_wire(o)?),
            Kind::Provider(o) => Self::Provider(Wire::from_wire(o)?),
            Kind::Model(o) => Self::Model(Wire::from_wire(o)?),
            Kind::Service(o) => Self::Service(Wire::from_wire(o)?),
            Kind::Route(o) => Self::Route(Wire::from_wire(o)?),
            Kind::Limit(o) => Self::Limit(Wire::from_wire(o)?),
        })
    }
}

impl Wire for ObjectRef {
    type Message = wire::Delete;

    fn to_wire(&self) -> Self::Message {
        wire::Delete {
            kind: text(self.kind.singular()),
            tenant: optional_text(self.tenant.as_ref()),
            name: text(&self.name),
        }
    }

    fn from_wire(message: Self::Message) -> Result<Self, DecodeError> {
        Ok(Self {
            kind: ObjectKind::parse(&message.kind)
                .ok_or_else(|| unknown("Delete.kind", &message.kind))?,
            tenant: none_if_empty(message.tenant),
            name: message.name.into(),
        })
    }
}

impl Wire for Command {
    type Message = wire::Command;

    fn to_wire(&self) -> Self::Message {
        use wire::command::Kind;
        let kind = match self {
            Self::Found {
                cluster_id,
                wrapped_key,
                root,
            } => Kind::Found(write_found(cluster_id, wrapped_key, root)),
            Self::RaiseFormat { version } => {
                Kind::RaiseFormat(wire::RaiseFormat { version: *version })
            }
            Self::Put { objects, dry_run } => Kind::Put(wire::Put {
                objects: write_list(objects),
                dry_run: *dry_run,
            }),
            Self::Prune {
                objects,
                confirmed,
                dry_run,
            } => Kind::Prune(wire::Prune {
                objects: write_list(objects),
                confirmed: *confirmed,
                dry_run: *dry_run,
            }),
            Self::Rollback {
                revision,
                base_revision,
                back,
                dry_run,
            } => Kind::Rollback(write_rollback(*revision, *base_revision, back, *dry_run)),
            Self::Delete(at) => Kind::Delete(at.to_wire()),
            Self::CreateKey(key) => Kind::CreateKey(key.to_wire()),
            Self::RotateKey {
                tenant,
                name,
                hash,
                grace_ms,
            } => Kind::RotateKey(wire::RotateKey {
                tenant: optional_text(tenant.as_ref()),
                name: text(name),
                hash: hash.to_vec(),
                grace_ms: *grace_ms,
            }),
            Self::RevokeKey { tenant, name } => Kind::RevokeKey(object_name(tenant.as_ref(), name)),
            Self::CreateToken(token) => Kind::CreateToken(token.to_wire()),
            Self::RevokeToken { name } => Kind::RevokeToken(object_name(None, name)),
            Self::CreateJoinToken { hash, valid_ms } => {
                let (hash, valid_ms) = (hash.to_vec(), *valid_ms);
                Kind::CreateJoinToken(wire::CreateJoinToken { hash, valid_ms })
            }
            Self::Join {
                token,
                nonce,
                peer,
                members,
            } => Kind::Join(members::write_join(token, nonce, (peer, members))),
            Self::RemoveNode { node, members } => Kind::RemoveNode(wire::RemoveNode {
                node: *node,
                members: members::write_peers(members),
            }),
            Self::BeginRotation(new) => Kind::BeginRotation(new.to_wire()),
            Self::AdvanceRotation { end, check } => {
                Kind::AdvanceRotation(write_advance(*end, check))
            }
            Self::AbortRotation => Kind::AbortRotation(wire::AbortRotation {}),
            Self::Reseal {
                generation,
                providers,
            } => Kind::Reseal(write_reseal(*generation, providers)),
        };
        wire::Command { kind: Some(kind) }
    }

    fn from_wire(message: Self::Message) -> Result<Self, DecodeError> {
        use wire::command::Kind;
        Ok(match message.kind.ok_or_else(|| missing("Command.kind"))? {
            Kind::Found(found) => read_found(found)?,
            Kind::RaiseFormat(raise) => Self::RaiseFormat {
                version: raise.version,
            },
            Kind::Put(put) => Self::Put {
                objects: read_list("Put.objects", limits::PUT_OBJECTS, put.objects)?,
                dry_run: put.dry_run,
            },
            Kind::Prune(prune) => Self::Prune {
                objects: read_list("Prune.objects", limits::PUT_OBJECTS, prune.objects)?,
                confirmed: prune.confirmed,
                dry_run: prune.dry_run,
            },
            Kind::Rollback(rollback) => Self::Rollback {
                revision: rollback.revision,
                base_revision: rollback.base_revision,
                back: WayBack {
                    put: read_list("Rollback.put", limits::PUT_OBJECTS, rollback.put)?,
                    delete: read_list("Rollback.delete", limits::PUT_OBJECTS, rollback.delete)?,
                },
                dry_run: rollback.dry_run,
            },
            Kind::Delete(at) => Self::Delete(Wire::from_wire(at)?),
            Kind::CreateKey(key) => Self::CreateKey(Wire::from_wire(key)?),
            Kind::RotateKey(rotate) => Self::RotateKey {
                tenant: none_if_empty(rotate.tenant),
                name: rotate.name.into(),
                hash: fixed("RotateKey.hash", &rotate.hash)?,
                grace_ms: rotate.grace_ms,
            },
            Kind::RevokeKey(at) => Self::RevokeKey {
                tenant: none_if_empty(at.tenant),
                name: at.name.into(),
            },
            Kind::CreateToken(token) => Self::CreateToken(Wire::from_wire(token)?),
            Kind::RevokeToken(at) => Self::RevokeToken {
                name: at.name.into(),
            },
            Kind::CreateJoinToken(create) => Self::CreateJoinToken {
                hash: fixed("CreateJoinToken.hash", &create.hash)?,
                valid_ms: create.valid_ms,
            },
            Kind::Join(join) => Self::Join {
                token: fixed("Join.token_hash", &join.token_hash)?,
                nonce: fixed("Join.nonce_hash", &join.nonce_hash)?,
                peer: join.peer,
                members: members::read_peers("Join.members", join.members)?,
            },
            Kind::RemoveNode(remove) => Self::RemoveNode {
                node: remove.node,
                members: members::read_peers("RemoveNode.members", remove.members)?,
            },
            Kind::BeginRotation(new) => Self::BeginRotation(Wire::from_wire(new)?),
            Kind::AdvanceRotation(advance) => Self::AdvanceRotation {
                end: advance.end,
                check: fixed("AdvanceRotation.check", &advance.check)?,
            },
            Kind::AbortRotation(_) => Self::AbortRotation,
            Kind::Reseal(reseal) => Self::Reseal {
                generation: reseal.generation,
                providers: read_list(
                    "Reseal.providers",
                    limits::RESEALED_PROVIDERS,
                    reseal.providers,
                )?,
            },
        })
    }
}

fn write_found(cluster_id: &[u8; 16], wrapped_key: &[u8], root: &Token) -> wire::Found {
    wire::Found {
        founded: Some(log::Founded {
            cluster_id: cluster_id.to_vec(),
            wrapped_key: wrapped_key.to_vec(),
            generation: 0,
        }),
        root: Some(root.to_wire()),
    }
}

fn write_rollback(
    revision: u64,
    base_revision: u64,
    back: &WayBack,
    dry_run: bool,
) -> wire::Rollback {
    wire::Rollback {
        revision,
        base_revision,
        put: write_list(&back.put),
        delete: write_list(&back.delete),
        dry_run,
    }
}

fn write_advance(end: bool, check: &[u8; 32]) -> wire::AdvanceRotation {
    let check = check.to_vec();
    wire::AdvanceRotation { end, check }
}

fn write_reseal(generation: u32, providers: &[Resealed]) -> wire::Reseal {
    wire::Reseal {
        generation,
        providers: write_list(providers),
    }
}

fn read_found(found: wire::Found) -> Result<Command, DecodeError> {
    let founded = found.founded.ok_or_else(|| missing("Found.founded"))?;
    Ok(Command::Found {
        cluster_id: fixed("Founded.cluster_id", &founded.cluster_id)?,
        wrapped_key: founded.wrapped_key,
        root: required("Found.root", found.root)?,
    })
}
