//! The history read: what changed, when and by whom, and the records themselves.
//!
//! Whether an object was created or updated is told by what was there before, so a listing walks the whole history and
//! keeps the page that is asked for. Pages are bounded: in revisions, and in changes that are listed of each.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use mode_envoy_model::batch::ChangeSet;
use mode_envoy_model::catalog::Catalog;
use mode_envoy_model::command::Change;
use mode_envoy_model::history::{BEGINNING, History, Record, RecordHash};
use mode_envoy_model::object::Kind;
use mode_envoy_raft::{MemberStatus, read_change_set};

use super::apply::in_background;
use super::authorize::{self, Action, check};
use super::{AsOf, Control, ControlError, Principal};

/// Revisions of one page.
const PAGE: usize = 500;
/// Changes of one revision that are listed; the others are counted.
const LISTED: usize = 100;
/// How long the members have to say what their newest record is.
const LOOK: Duration = Duration::from_secs(2);

/// Which part of the history is asked for; empty texts mean all.
#[derive(Clone, Debug, Default)]
pub struct HistoryQuestion {
    /// A declarative kind, or `key` or `token`.
    pub kind: String,
    /// Name of the object.
    pub name: String,
    /// Its owner.
    pub tenant: String,
    /// How many revisions.
    pub limit: u32,
    /// Only older ones than this; 0: from the newest.
    pub before_revision: u64,
    /// Answer from this node's state.
    pub local: bool,
}

/// Which changes an audit asks for.
#[derive(Clone, Copy, Debug, Default)]
pub struct AuditQuestion {
    /// Unix milliseconds.
    pub from_ms: u64,
    /// Unix milliseconds, exclusive; `None`: to the end.
    pub to_ms: Option<u64>,
    /// How many revisions.
    pub limit: u32,
    /// Only older ones than this; 0: from the newest.
    pub before_revision: u64,
    /// Answer from this node's state.
    pub local: bool,
}

/// One revision of the past.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Past {
    /// Which one.
    pub revision: u64,
    /// When it was accepted; Unix milliseconds.
    pub wall_ms: u64,
    /// Who asked.
    pub actor: String,
    /// What was asked for.
    pub origin: String,
    /// What it changed.
    pub changes: Vec<Change>,
    /// How many changes are not listed.
    pub omitted: u64,
    /// Hash of its record.
    pub hash: RecordHash,
}

/// Some revisions, the newest first.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct HistoryPage {
    /// The revisions.
    pub revisions: Vec<Past>,
    /// Of the catalog.
    pub revision: u64,
    /// The first that is recorded; 0: none is.
    pub since_revision: u64,
    /// Where the next page begins; 0: nothing is older.
    pub next_before_revision: u64,
}

/// Every record, the oldest first. Shares them with the state.
#[derive(Clone, Debug)]
pub struct Recorded(pub History);

// === impl Control ===

impl Control {
    /// Lists revisions and what they changed.
    ///
    /// # Errors
    ///
    /// There is no such kind, or the cluster did not confirm that this node is up to date.
    pub async fn history(
        &self,
        who: &Principal,
        question: HistoryQuestion,
    ) -> Result<HistoryPage, ControlError> {
        check(who.role, Action::Read)?;
        let kind = parse_kind(&question.kind)?;
        let (name, tenant) = (question.name, question.tenant);
        authorize::check_named_tenant(who, &tenant)?;
        let (asker, who) = (who, who.clone());
        let wanted = move |_: &Record, change: &Change| {
            authorize::sees_change(&who, change)
                && (kind.is_empty() || change.kind == kind)
                && (name.is_empty() || *change.name == *name)
                && (tenant.is_empty() || is_of(change, &tenant))
        };
        self.page(
            asker,
            (question.limit, question.before_revision),
            question.local,
            wanted,
        )
        .await
    }

    /// Lists administrative changes of a time.
    ///
    /// # Errors
    ///
    /// The cluster did not confirm that this node is up to date.
    pub async fn list_changes(
        &self,
        who: &Principal,
        question: AuditQuestion,
    ) -> Result<HistoryPage, ControlError> {
        check(who.role, Action::Read)?;
        let (asker, who) = (who, who.clone());
        let wanted = move |record: &Record, change: &Change| {
            authorize::sees_change(&who, change)
                && record.wall_ms >= question.from_ms
                && question.to_ms.is_none_or(|to| record.wall_ms < to)
        };
        self.page(
            asker,
            (question.limit, question.before_revision),
            question.local,
            wanted,
        )
        .await
    }

    /// Every record as it was agreed on.
    ///
    /// # Errors
    ///
    /// The cluster did not confirm that this node is up to date.
    pub async fn read_records(
        &self,
        who: &Principal,
        local: bool,
    ) -> Result<Recorded, ControlError> {
        check(who.role, Action::ReadCluster)?;
        self.up_to_date(who, local).await?;
        Ok(Recorded(self.handle.read(|state| state.history.clone())))
    }

    /// What each member says is its newest record.
    ///
    /// # Errors
    ///
    /// The role does not allow it.
    pub async fn list_heads(&self, who: &Principal) -> Result<Vec<MemberStatus>, ControlError> {
        check(who.role, Action::ReadCluster)?;
        Ok(self.handle.statuses(LOOK).await)
    }

    /// The catalog now, or the declared objects of a revision.
    pub(super) async fn catalog_of(
        &self,
        who: &Principal,
        at: AsOf,
    ) -> Result<Arc<Catalog>, ControlError> {
        self.up_to_date(who, at.local).await?;
        let revision = at.revision;
        if revision == 0 {
            return Ok(self.handle.catalog());
        }
        let (now, history) = self
            .handle
            .read(|state| (Arc::clone(&state.catalog), state.history.clone()));
        let turn = self.replay_turn().await?;
        in_background(move || {
            let _turn = turn;
            catalog_at(&now, &history, revision).map(Arc::new)
        })
        .await?
    }

    async fn page(
        &self,
        who: &Principal,
        (limit, before_revision): (u32, u64),
        local: bool,
        wanted: impl Fn(&Record, &Change) -> bool + Send + 'static,
    ) -> Result<HistoryPage, ControlError> {
        self.up_to_date(who, local).await?;
        let turn = self.replay_turn().await?;
        let (revision, history) = self
            .handle
            .read(|state| (state.catalog.revision(), state.history.clone()));
        let limit = usize::try_from(limit).unwrap_or(PAGE).clamp(1, PAGE);
        let before = Some(before_revision).filter(|before| *before > 0);
        let page = in_background(move || {
            // Held until the work is done, also where nobody waits for it any more.
            let _turn = turn;
            page_of(&history, limit, before, &wanted)
        })
        .await??;
        Ok(HistoryPage { revision, ..page })
    }
}

// === free functions ===

/// The catalog as it was at a revision, its declarative objects at least: a history that began with a checkpoint knows
/// no key or token from before.
pub(super) fn catalog_at(
    now: &Catalog,
    history: &History,
    revision: u64,
) -> Result<Catalog, ControlError> {
    check_revision(revision, now, history)?;
    // What there was before the first record is known where that is the first of all, or says so itself.
    if let Some(first) = history.first()
        && first.revision != 1
        && read(first)?.origin != BEGINNING
    {
        let problem = format!(
            "what there was before revision {} is not recorded, so no earlier state can be told",
            first.revision
        );
        return Err(ControlError::not_found("revision", problem));
    }
    let mut catalog = Catalog::empty();
    for record in history.records() {
        if record.revision > revision {
            break;
        }
        let set = read(record)?;
        set.events.iter().for_each(|event| catalog.evolve(event));
    }
    Ok(catalog)
}

fn check_revision(revision: u64, now: &Catalog, history: &History) -> Result<(), ControlError> {
    let newest = now.revision();
    let first = history.first().map_or(newest, |record| record.revision);
    let problem = if revision > newest {
        format!("there is no revision {revision} yet; the configuration is at {newest}")
    } else if revision < first {
        format!(
            "the history begins at revision {first}; what was before it is not recorded, so revision {revision} cannot \
             be told"
        )
    } else {
        return Ok(());
    };
    Err(ControlError::not_found("revision", problem))
}

fn page_of(
    history: &History,
    limit: usize,
    before: Option<u64>,
    wanted: &dyn Fn(&Record, &Change) -> bool,
) -> Result<HistoryPage, ControlError> {
    let mut catalog = Catalog::empty();
    let mut found = VecDeque::new();
    let mut older = false;
    for record in history.records() {
        if before.is_some_and(|before| record.revision >= before) {
            break;
        }
        let set = read(record)?;
        let past = past(record, &set, &mut catalog, wanted);
        found.extend(past);
        if found.len() > limit {
            found.pop_front();
            older = true;
        }
    }
    let oldest = found.front().map_or(0, |past: &Past| past.revision);
    Ok(HistoryPage {
        revisions: found.into_iter().rev().collect(),
        revision: 0,
        since_revision: history.first().map_or(0, |first| first.revision),
        next_before_revision: if older { oldest } else { 0 },
    })
}

/// What a record changed, of that which is wanted; the catalog goes on to its revision.
fn past(
    record: &Record,
    set: &ChangeSet,
    catalog: &mut Catalog,
    wanted: &dyn Fn(&Record, &Change) -> bool,
) -> Option<Past> {
    let mut changes = Vec::new();
    let mut omitted = 0;
    for event in &set.events {
        let change = catalog.change_of(event);
        catalog.evolve(event);
        if !wanted(record, &change) {
            continue;
        }
        if changes.len() < LISTED {
            changes.push(change);
        } else {
            omitted += 1;
        }
    }
    (!changes.is_empty()).then(|| Past {
        revision: record.revision,
        wall_ms: record.wall_ms,
        actor: set.actor.clone(),
        origin: set.origin.clone(),
        changes,
        omitted,
        hash: record.hash,
    })
}

fn read(record: &Record) -> Result<ChangeSet, ControlError> {
    read_change_set(&record.change_set).map_err(|error| {
        ControlError::Unavailable(format!("reading revision {}: {error}", record.revision))
    })
}

/// A tenant is its own.
fn is_of(change: &Change, tenant: &str) -> bool {
    match change.kind {
        "tenant" => &*change.name == tenant,
        _ => change.tenant.as_deref() == Some(tenant),
    }
}

/// The singular of a kind that the history knows; empty for all.
fn parse_kind(text: &str) -> Result<&'static str, ControlError> {
    match text {
        "" => Ok(""),
        "key" | "keys" => Ok("key"),
        "token" | "tokens" => Ok("token"),
        other => super::apply::parse_kind(other).map(Kind::singular),
    }
}

#[cfg(test)]
mod tests;
