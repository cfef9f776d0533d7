//! Which events a command comes to. Pure: the same catalog, command and time give the same decision.
//!
//! Law: after an accepted command the invariants hold, and the same command again yields no events.

use crate::catalog::faults::{Faults, refuse, room};
use crate::catalog::{Catalog, Founded};
use crate::command::{Change, ChangeKind, Command, Decision, Rejected, RejectedCode};
use crate::event::Event;
use crate::limits;
use crate::object::{Kind, Name, ObjectRef};
use crate::token::{Role, Token};

// === impl Catalog ===

impl Catalog {
    /// Decides a command on this revision, at a wall clock (Unix milliseconds). Whether the caller may give it is
    /// decided elsewhere.
    ///
    /// # Errors
    /// Every fault found; nothing is to be changed.
    pub fn decide(&self, command: &Command, now_ms: u64) -> Result<Decision, Rejected> {
        match command {
            Command::Found {
                cluster_id,
                wrapped_key,
                root,
            } => self.decide_found(*cluster_id, wrapped_key, root),
            Command::RaiseFormat { version } => self.decide_raise_format(*version),
            Command::Put { objects, dry_run } => self.decide_put(objects, *dry_run),
            Command::Prune {
                objects,
                confirmed,
                dry_run,
            } => self.decide_prune(objects, *confirmed, *dry_run),
            Command::Rollback {
                base_revision,
                back,
                dry_run,
                ..
            } => self.decide_rollback(*base_revision, back, *dry_run),
            Command::Delete(at) => self.decide_delete(at),
            Command::CreateKey(key) => self.decide_create_key(key, now_ms),
            Command::RotateKey {
                tenant,
                name,
                hash,
                grace_ms,
            } => {
                let key = self.find_key(tenant.as_deref(), name)?;
                self.decide_rotate_key(key, *hash, *grace_ms, now_ms)
            }
            Command::RevokeKey { tenant, name } => {
                let key = self.find_key(tenant.as_deref(), name)?;
                Ok(Self::decide_revoke_key(key))
            }
            Command::CreateToken(token) => self.decide_create_token(token),
            Command::RevokeToken { name } => self.decide_revoke_token(name),
            Command::CreateJoinToken { hash, valid_ms } => {
                self.decide_create_join_token(*hash, *valid_ms, now_ms)
            }
            Command::Join {
                token,
                nonce,
                peer,
                members,
            } => self.decide_join(token, *nonce, (peer, members), now_ms),
            Command::RemoveNode { node, members } => self.decide_remove_node(*node, members),
            Command::BeginRotation(new) => self.decide_begin_rotation(new),
            Command::AdvanceRotation { end, check } => self.decide_advance_rotation(*end, check),
            Command::AbortRotation => self.decide_abort_rotation(),
            Command::Reseal {
                generation,
                providers,
            } => Ok(self.decide_reseal(*generation, providers)),
        }
    }

    fn decide_found(
        &self,
        cluster_id: [u8; 16],
        wrapped_key: &[u8],
        root: &Token,
    ) -> Result<Decision, Rejected> {
        let id = hex(cluster_id);
        if let Some(Founded {
            cluster_id: ours, ..
        }) = &self.founded
        {
            if *ours == cluster_id {
                return Ok(decision(Vec::new(), cluster(&id, ChangeKind::Unchanged)));
            }
            let problem = format!(
                "this cluster is {} already; it cannot become {id}",
                hex(*ours)
            );
            return Err(refuse(RejectedCode::Exists, "cluster_id", problem));
        }
        check_founding(wrapped_key, root)?;
        let token = self.decide_create_token(root)?;
        let mut events = vec![Event::Founded {
            cluster_id,
            wrapped_key: wrapped_key.to_vec(),
        }];
        events.extend(token.events);
        let mut decision = decision(events, cluster(&id, ChangeKind::Created));
        decision.changes.extend(token.changes);
        Ok(decision)
    }

    fn decide_raise_format(&self, version: u32) -> Result<Decision, Rejected> {
        let change = |what| Change {
            kind: "format",
            tenant: None,
            name: Name::from(version.to_string()),
            what,
        };
        if version == self.format_version {
            return Ok(decision(Vec::new(), change(ChangeKind::Unchanged)));
        }
        if version < self.format_version {
            let problem = format!(
                "the cluster writes version {} and cannot go back",
                self.format_version
            );
            return Err(refuse(RejectedCode::Invalid, "version", problem));
        }
        if version > limits::FORMAT_VERSION {
            let problem = format!(
                "this node writes versions up to {}; upgrade every node first",
                limits::FORMAT_VERSION
            );
            return Err(refuse(RejectedCode::Invalid, "version", problem));
        }
        Ok(decision(
            vec![Event::FormatRaised { version }],
            change(ChangeKind::Updated),
        ))
    }

    fn decide_delete(&self, at: &ObjectRef) -> Result<Decision, Rejected> {
        let fits = match at.tenant {
            Some(_) => at.kind.takes_tenant(),
            None => !at.kind.has_tenant(),
        };
        if !fits {
            let problem = if at.kind.has_tenant() {
                format!("a {} belongs to a tenant; add `--tenant`", at.kind)
            } else {
                format!("a {} belongs to no tenant; leave `--tenant` out", at.kind)
            };
            return Err(refuse(RejectedCode::Invalid, "tenant", problem));
        }
        if self.object(at).is_none() {
            let problem = format!("there is no {at}; `get {}` lists what there is", at.kind);
            return Err(refuse(RejectedCode::NotFound, at.path(), problem));
        }
        if let Some(problem) = self.in_use(at) {
            return Err(refuse(RejectedCode::InUse, at.path(), problem));
        }
        let mut decision = decision(vec![deleted(at)], deletion(at));
        for token in self.tokens_of(at) {
            decision
                .events
                .push(Event::TokenRevoked(Name::clone(&token)));
            decision
                .changes
                .push(token_change(&token, ChangeKind::Deleted));
        }
        Ok(decision)
    }

    /// The tokens that go with a tenant.
    pub(super) fn tokens_of(&self, at: &ObjectRef) -> Vec<Name> {
        let is_of =
            |token: &Token| at.kind == Kind::Tenant && token.tenant.as_ref() == Some(&at.name);
        let tokens = self.tokens().filter(|token| is_of(&token.value));
        tokens.map(|token| Name::clone(&token.value.name)).collect()
    }

    fn decide_create_token(&self, token: &Token) -> Result<Decision, Rejected> {
        if let Some(stored) = self.token(&token.name) {
            // The same request again, after an answer that was lost.
            if (stored.value.hash, stored.value.role) == (token.hash, token.role)
                && stored.value.tenant == token.tenant
            {
                return Ok(decision(
                    Vec::new(),
                    token_change(&token.name, ChangeKind::Unchanged),
                ));
            }
            let problem = format!(
                "there is a token `{}` already; choose another name",
                token.name
            );
            return Err(refuse(RejectedCode::Exists, "name", problem));
        }
        let mut faults = Faults::default();
        faults.add_all(RejectedCode::Invalid, token.validate());
        faults.done()?;
        if let Some(tenant) = &token.tenant
            && self.tenant(tenant).is_none()
        {
            let problem = format!("there is no tenant {tenant}; apply one, or correct the name");
            return Err(refuse(RejectedCode::NotFound, "tenant", problem));
        }
        if self.token_by_hash.contains_key(&token.hash) {
            let problem = "another token has this secret; draw a new one";
            return Err(refuse(RejectedCode::Exists, "hash", problem));
        }
        room("tokens", self.tokens.len(), limits::TOKENS)?;
        let change = token_change(&token.name, ChangeKind::Created);
        Ok(decision(vec![Event::TokenPut(token.clone())], change))
    }

    fn decide_revoke_token(&self, name: &Name) -> Result<Decision, Rejected> {
        let Some(token) = self.token(name) else {
            let problem = format!("there is no token `{name}`; `tokens list` shows what there is");
            return Err(refuse(RejectedCode::NotFound, "name", problem));
        };
        let roots = self
            .tokens()
            .filter(|token| token.value.role == Role::Root)
            .count();
        if token.value.role == Role::Root && roots == 1 {
            let problem =
                format!("`{name}` is the last root token; create another root token first");
            return Err(refuse(RejectedCode::InUse, "name", problem));
        }
        let change = token_change(name, ChangeKind::Deleted);
        Ok(decision(
            vec![Event::TokenRevoked(Name::clone(name))],
            change,
        ))
    }
}

fn check_founding(wrapped_key: &[u8], root: &Token) -> Result<(), Rejected> {
    if !(1..=limits::WRAPPED_KEY).contains(&wrapped_key.len()) {
        let problem = format!(
            "the wrapped key must have 1 to {} bytes",
            limits::WRAPPED_KEY
        );
        return Err(refuse(RejectedCode::Invalid, "wrapped_key", problem));
    }
    if root.role != Role::Root {
        let problem = "the first token must have the role root";
        return Err(refuse(RejectedCode::Invalid, "root.role", problem));
    }
    Ok(())
}

pub(crate) fn decision(events: Vec<Event>, change: Change) -> Decision {
    Decision {
        events,
        changes: vec![change],
    }
}

fn cluster(id: &str, what: ChangeKind) -> Change {
    Change {
        kind: "cluster",
        tenant: None,
        name: Name::from(id),
        what,
    }
}

pub(super) fn token_change(name: &Name, what: ChangeKind) -> Change {
    Change {
        kind: "token",
        tenant: None,
        name: Name::clone(name),
        what,
    }
}

pub(super) fn deletion(at: &ObjectRef) -> Change {
    Change {
        kind: at.kind.singular(),
        tenant: at.tenant.clone(),
        name: Name::clone(&at.name),
        what: ChangeKind::Deleted,
    }
}

pub(super) fn deleted(at: &ObjectRef) -> Event {
    let name = Name::clone(&at.name);
    let tenant = at.tenant.clone().unwrap_or_default();
    match at.kind {
        Kind::Tenant => Event::TenantDeleted(name),
        Kind::Consumer => Event::ConsumerDeleted { tenant, name },
        Kind::Provider => Event::ProviderDeleted(name),
        Kind::Model => Event::ModelDeleted(name),
        Kind::Service => Event::ServiceDeleted(name),
        Kind::Route => Event::RouteDeleted { tenant, name },
        Kind::Limit => Event::LimitDeleted {
            tenant: at.tenant.clone(),
            name,
        },
    }
}

fn hex(id: [u8; 16]) -> String {
    format!("{:032x}", u128::from_be_bytes(id))
}
