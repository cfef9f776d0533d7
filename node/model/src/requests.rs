//! Requests of clients that were carried out, so that a retry is answered as the first try was and changes nothing.
//!
//! A request is known by the token that asked and the hash of the id that its client gave it. What it asked for is kept
//! as a hash too, so that the same id for something else is noticed. Answers hold no secret: what a client was shown once
//! is derived again from its request.
//!
//! Invariants:
//! - an entry is written by the change set that carries the request out, so it is there exactly if the change is;
//! - entries live for [`limits::REQUEST_MS`] of the log's wall clock, and there are [`limits::REQUESTS`] at most with
//!   [`limits::REQUEST_LINES`] lines together: the oldest go first, the same on every replica.

use std::sync::Arc;

use imbl::OrdMap;

use crate::batch::ChangeSet;
use crate::catalog::Catalog;
use crate::command::{Change, ChangeKind, Command, Rejected, RejectedCode, Violation};
use crate::event::Event;
use crate::limits;
use crate::object::{Name, Object};

/// By what a client's request is known again.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ClientRequest {
    /// Hash of the id that the client gave it.
    pub id: [u8; 32],
    /// Keyed hash of what it asks for.
    pub body: [u8; 32],
    /// Drawn by the node that was asked. It tells apart what is carried out under one id at different times, so that no secret is
    /// made twice; a retry is answered with what is remembered of the first try. Zeros: of a version that drew none.
    pub nonce: [u8; 16],
}

/// A request that was carried out.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Answered {
    /// Name of the admin token that asked.
    pub actor: Name,
    /// The request.
    pub request: ClientRequest,
    /// The revision that it made.
    pub revision: u64,
    /// Index of its entry in the log.
    pub index: u64,
    /// The log's wall clock then; Unix milliseconds.
    pub wall_ms: u64,
    /// What it changed.
    pub changes: Vec<Change>,
}

type Key = (Name, [u8; 32]);

/// The requests that are remembered. A copy is cheap.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Requests {
    answered: OrdMap<Key, Arc<Answered>>,
    by_age: OrdMap<u64, Key>,
    lines: usize,
}

// === impl Requests ===

impl Requests {
    /// What this request was answered before; `None` if it is new.
    ///
    /// # Errors
    /// The same token gave the same id to another request.
    pub fn answer(
        &self,
        actor: &str,
        request: &ClientRequest,
    ) -> Result<Option<&Answered>, Rejected> {
        match self.answered.get(&(Name::from(actor), request.id)) {
            None => Ok(None),
            Some(known) if known.request.body == request.body => Ok(Some(known)),
            Some(known) => Err(Rejected {
                code: RejectedCode::Exists,
                violations: vec![Violation {
                    path: "x-request-id".to_owned(),
                    problem: format!(
                        "this id named another request, which made revision {}; give each request an id of its own, \
                         and the same one only to a retry",
                        known.revision
                    ),
                }],
            }),
        }
    }

    /// Every request, the oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Answered>> {
        self.by_age
            .values()
            .filter_map(|key| self.answered.get(key))
    }

    /// Takes note of a change set: remembers its request, if it has one, and forgets those of tokens that it revokes.
    /// `before` is the catalog that the change set makes a new revision of.
    pub fn note(&mut self, before: &Catalog, set: &ChangeSet, index: u64, wall_ms: u64) {
        if let Some(request) = set.request {
            self.remember(Answered {
                actor: Name::from(set.actor.as_str()),
                request,
                revision: before.revision().saturating_add(1),
                index,
                wall_ms,
                changes: before.changes_of(&set.events),
            });
        }
        for event in &set.events {
            if let Event::TokenRevoked(name) = event {
                self.forget(name);
            }
        }
    }

    /// Remembers a request; the oldest make room for it.
    pub(crate) fn remember(&mut self, answered: Answered) {
        let key = (Name::clone(&answered.actor), answered.request.id);
        self.remove(&key);
        self.lines += answered.changes.len();
        self.by_age.insert(answered.revision, key.clone());
        self.answered.insert(key, Arc::new(answered));
        while self.answered.len() > limits::REQUESTS || self.lines > limits::REQUEST_LINES {
            if !self.remove_oldest(|_| true) {
                return;
            }
        }
    }

    /// Drops what is older than an hour.
    pub(crate) fn expire(&mut self, wall_ms: u64) {
        let is_over =
            |oldest: &Answered| wall_ms.saturating_sub(oldest.wall_ms) >= limits::REQUEST_MS;
        while self.remove_oldest(is_over) {}
    }

    /// Drops the requests of a token that was revoked: another one may get its name.
    fn forget(&mut self, actor: &str) {
        let from = (Name::from(actor), [0; 32]);
        let of_actor = self.answered.range(from..);
        let keys: Vec<Key> = of_actor
            .map(|(key, _)| key.clone())
            .take_while(|key| *key.0 == *actor)
            .collect();
        for key in keys {
            self.remove(&key);
        }
    }

    fn remove_oldest(&mut self, goes: impl Fn(&Answered) -> bool) -> bool {
        let Some((_, key)) = self.by_age.get_min() else {
            return false;
        };
        let key = key.clone();
        if !self.answered.get(&key).is_some_and(|oldest| goes(oldest)) {
            return false;
        }
        self.remove(&key);
        true
    }

    fn remove(&mut self, key: &Key) {
        if let Some(old) = self.answered.remove(key) {
            self.lines = self.lines.saturating_sub(old.changes.len());
            self.by_age.remove(&old.revision);
        }
    }
}

// === impl Answered ===

impl Answered {
    /// The report of the command that was carried out, as it was the first time: the objects that it names and that are
    /// not among the changes were unchanged.
    pub fn report(&self, command: &Command) -> Vec<Change> {
        let (Command::Put { objects, .. } | Command::Prune { objects, .. }) = command else {
            return self.changes.clone();
        };
        let mut named: Vec<_> = objects.iter().map(Object::reference).collect();
        named.sort_by_key(|at| at.kind);
        let mut others: OrdMap<(&str, Option<&str>, &str), &Change> = self
            .changes
            .iter()
            .map(|change| (place(change), change))
            .collect();
        let mut report = Vec::with_capacity(named.len());
        for at in &named {
            let tenant = at.tenant.as_deref();
            let found = others.remove(&(at.kind.singular(), tenant, &*at.name));
            report.push(found.cloned().unwrap_or_else(|| Change {
                kind: at.kind.singular(),
                tenant: at.tenant.clone(),
                name: Name::clone(&at.name),
                what: ChangeKind::Unchanged,
            }));
        }
        let rest = self.changes.iter();
        report.extend(rest.filter(|c| others.contains_key(&place(c))).cloned());
        report
    }
}

fn place(change: &Change) -> (&'static str, Option<&str>, &str) {
    (change.kind, change.tenant.as_deref(), &change.name)
}
