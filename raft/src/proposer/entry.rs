//! One entry while it is put together: what it will hold, and the catalog as it will be then.

use std::sync::Arc;

use bytes::Bytes;
use mode_envoy_model::batch::ChangeSet;
use mode_envoy_model::catalog::Catalog;
use mode_envoy_model::command::{Change, Command, Rejected, RejectedCode, Violation};
use mode_envoy_model::growth::Growth;
use mode_envoy_model::limits;
use mode_envoy_model::requests::Requests;
use mode_envoy_model::state::State;
use mode_envoy_model::usage::batch::{Register, UsageBatch};
use mode_envoy_proto::log::v1 as wire;
use prost::Message as _;
use wire::item::Kind;

use super::Reply;
use crate::clock::Stamp;
use crate::convert::{Proposal, Wire as _};
use crate::proposal::{Accepted, Authorize, Caller, ProposeError};
use crate::types::Payload;

/// An entry takes proposals up to this size.
const ENTRY_BYTES: usize = 1 << 20;
/// A single proposal may be larger, and has an entry of its own then. Peers take messages of 8 MiB.
const PROPOSAL_BYTES: usize = 4 << 20;

/// An entry that is being put together; `R` is who waits for an answer.
pub(super) struct EntryDraft<R> {
    /// Who waits for the entry, in the order of its items.
    pub(super) queued: Vec<(R, Queued)>,
    /// Who is answered without one, once this node is known to lead.
    pub(super) answers: Vec<(R, Result<Reply, ProposeError>)>,
    catalog: Arc<Catalog>,
    /// The revision that is applied already.
    applied: u64,
    requests: Requests,
    growth: Growth,
    stamp: Stamp,
    items: Vec<wire::Item>,
    bytes: usize,
}

/// Answers that need no item of their own, of which some rest on the items of others.
pub(super) struct Answers<R> {
    given: Vec<(R, Result<Reply, ProposeError>)>,
    applied: u64,
}

/// What an item's outcome will be turned into an answer with.
pub(super) enum Queued {
    /// The report of a command.
    ChangeSet(Vec<Change>),
    /// The outcome is the answer.
    Stream,
}

/// What became of a proposal.
pub(super) enum Drafted {
    /// It is an item of the entry.
    Queued(Queued),
    /// It needs no item.
    Answer(Result<Reply, ProposeError>),
    /// It does not fit into this entry.
    Full,
}

// === impl EntryDraft ===

impl<R> EntryDraft<R> {
    /// Empty, on the applied state.
    pub(super) fn new(state: &State, stamp: Stamp) -> Self {
        Self {
            queued: Vec::new(),
            answers: Vec::new(),
            applied: state.catalog.revision(),
            catalog: Arc::clone(&state.catalog),
            requests: state.requests.clone(),
            growth: state.growth.clone(),
            stamp,
            items: Vec::new(),
            bytes: 0,
        }
    }

    /// Decides a proposal; only one that is queued changes the draft.
    pub(super) fn add(
        &mut self,
        proposal: &Proposal,
        caller: &Caller,
        authorize: &Authorize,
    ) -> Drafted {
        match proposal {
            Proposal::Command(command) => self.add_command(command, caller, authorize),
            Proposal::Register(register) => match check_register(register) {
                Ok(()) => self.push(Kind::Register(register.to_wire()), Queued::Stream),
                Err(rejected) => refused(rejected),
            },
            Proposal::Usage(batch) => match check_usage(batch) {
                Ok(()) => self.push(Kind::Usage(batch.to_wire()), Queued::Stream),
                Err(rejected) => refused(rejected),
            },
            Proposal::Final(done) => match within("ends", done.ends.len(), limits::SPOOLS) {
                Ok(()) => self.push(Kind::Final(done.to_wire()), Queued::Stream),
                Err(rejected) => refused(rejected),
            },
            Proposal::Evict(evict) => self.push(Kind::Evict(evict.to_wire()), Queued::Stream),
        }
    }

    /// Takes out who is answered without an item of the entry.
    pub(super) fn take_answers(&mut self) -> Answers<R> {
        Answers {
            given: std::mem::take(&mut self.answers),
            applied: self.applied,
        }
    }

    /// The entry's bytes.
    pub(super) fn into_payload(self) -> Payload {
        let batch = wire::Batch {
            lease_clock_ms: self.stamp.lease_clock_ms,
            wall_ms: self.stamp.wall_ms,
            items: self.items,
        };
        Payload(Bytes::from(batch.encode_to_vec()))
    }

    fn add_command(
        &mut self,
        command: &Command,
        caller: &Caller,
        authorize: &Authorize,
    ) -> Drafted {
        if let Err(rejected) = authorize(&self.catalog, caller, command) {
            return refused(rejected);
        }
        match self.answered_before(command, caller) {
            Ok(None) => {}
            Ok(Some(accepted)) => return Drafted::Answer(Ok(Reply::Accepted(accepted))),
            Err(rejected) => return refused(rejected),
        }
        let token = caller
            .token_hash
            .and_then(|hash| self.catalog.token_by_hash(&hash));
        let tenant = token.and_then(|token| token.tenant.as_deref());
        let decision = self
            .catalog
            .decide_within(tenant, command, self.stamp.wall_ms);
        let decision = match decision {
            Ok(decision) => decision,
            Err(rejected) => return refused(rejected),
        };
        let dry_run = matches!(command, Command::Put { dry_run: true, .. });
        if dry_run || decision.events.is_empty() {
            let revision = self.catalog.revision();
            let accepted = Accepted {
                revision,
                index: 0,
                changes: decision.changes,
            };
            return Drafted::Answer(Ok(Reply::Accepted(accepted)));
        }
        let set = ChangeSet {
            base_revision: self.catalog.revision(),
            actor: caller.actor.clone(),
            origin: command.origin(),
            events: decision.events,
            request: caller.request,
            encoded: Arc::default(),
        };
        let wall_ms = self.stamp.wall_ms;
        let message = set.to_wire();
        let bytes = message.encoded_len() as u64;
        if let Some(tenant) = tenant
            && let Err(rejected) = self.growth.check(tenant, bytes, wall_ms)
        {
            return refused(rejected);
        }
        let drafted = self.push(
            Kind::ChangeSet(message),
            Queued::ChangeSet(decision.changes),
        );
        if matches!(drafted, Drafted::Queued(_)) {
            self.requests.note(&self.catalog, &set, 0, wall_ms);
            self.growth.note(&self.catalog, &set.actor, bytes, wall_ms);
            Arc::make_mut(&mut self.catalog).apply_change_set(&set);
        }
        drafted
    }

    /// What the same request of the same client came to before, in the log or in this entry.
    fn answered_before(
        &self,
        command: &Command,
        caller: &Caller,
    ) -> Result<Option<Accepted>, Rejected> {
        let Some(request) = &caller.request else {
            return Ok(None);
        };
        let known = self.requests.answer(&caller.actor, request)?;
        Ok(known.map(|known| Accepted {
            revision: known.revision,
            index: known.index,
            changes: known.report(command),
        }))
    }

    fn push(&mut self, kind: Kind, queued: Queued) -> Drafted {
        let item = wire::Item { kind: Some(kind) };
        let bytes = item.encoded_len();
        if bytes > PROPOSAL_BYTES {
            return refused(too_large("", bytes, PROPOSAL_BYTES, "bytes"));
        }
        if !self.items.is_empty() && self.bytes + bytes > ENTRY_BYTES {
            return Drafted::Full;
        }
        self.items.push(item);
        self.bytes += bytes;
        Drafted::Queued(queued)
    }
}

// === impl Answers ===

impl<R> Answers<R> {
    /// The answers, where the entry was written at `index`; those that rest on it name it, so that whoever reads next waits
    /// for it.
    pub(super) fn with_entry(
        self,
        index: Option<u64>,
    ) -> impl Iterator<Item = (R, Result<Reply, ProposeError>)> {
        let applied = self.applied;
        self.given.into_iter().map(move |(who, mut answer)| {
            if let (Ok(Reply::Accepted(accepted)), Some(index)) = (&mut answer, index)
                && accepted.index == 0
                && accepted.revision > applied
            {
                accepted.index = index;
            }
            (who, answer)
        })
    }
}

fn refused(rejected: Rejected) -> Drafted {
    Drafted::Answer(Err(ProposeError::Rejected(rejected)))
}

fn check_register(register: &Register) -> Result<(), Rejected> {
    within("spools", register.spools.len(), limits::SPOOLS)
}

fn check_usage(batch: &UsageBatch) -> Result<(), Rejected> {
    within("ranges", batch.ranges.len(), limits::SPOOLS)?;
    within("series", batch.series.len(), limits::BATCH_SERIES)?;
    within("rows", batch.rows.len(), limits::BATCH_ROWS)?;
    within("uses", batch.uses.len(), limits::BATCH_USES)?;
    within("asks", batch.asks.len(), limits::BATCH_ASKS)?;
    let items = batch.asks.iter().map(|ask| ask.items.len()).sum();
    within("items of asks", items, limits::BATCH_ASK_ITEMS)
}

fn within(path: &str, got: usize, max: usize) -> Result<(), Rejected> {
    if got > max {
        Err(too_large(path, got, max, "elements"))
    } else {
        Ok(())
    }
}

fn too_large(path: &str, got: usize, max: usize, unit: &str) -> Rejected {
    let problem =
        format!("{got} {unit} in one proposal, {max} are allowed: send it in several parts");
    Rejected {
        code: RejectedCode::Limit,
        violations: vec![Violation {
            path: path.to_owned(),
            problem,
        }],
    }
}

#[cfg(test)]
mod tests {
    use mode_envoy_model::batch::{Batch, Item};
    use mode_envoy_model::object::{Name, Object};
    use mode_envoy_model::tenant::Tenant;
    use mode_envoy_model::usage::batch::{SeriesRef, SpoolRange};
    use mode_envoy_model::usage::series::SeriesKey;

    use super::*;
    use crate::convert::decode_batch;

    fn draft() -> EntryDraft<()> {
        EntryDraft::new(
            &State::new(),
            Stamp {
                lease_clock_ms: 1,
                wall_ms: 2,
            },
        )
    }

    fn put(names: impl IntoIterator<Item = String>) -> Proposal {
        let tenant = |name: String| {
            Object::Tenant(Tenant {
                name: name.into(),
                hosts: Vec::new(),
            })
        };
        let objects = names.into_iter().map(tenant).collect();
        Proposal::Command(Command::Put {
            objects,
            dry_run: false,
        })
    }

    fn add(draft: &mut EntryDraft<()>, proposal: &Proposal) -> Drafted {
        let anyone: Authorize = Arc::new(|_, _, _| Ok(()));
        draft.add(proposal, &Caller::node(), &anyone)
    }

    /// More than an entry takes, less than a proposal may have.
    fn many_series() -> UsageBatch {
        let empty = || Name::from("");
        let series = |number: usize| {
            SeriesRef::New(SeriesKey {
                tenant: format!("{number:0>100}").into(),
                team: empty(),
                consumer: empty(),
                key: empty(),
                route: empty(),
                api: empty(),
                model: empty(),
                provider: empty(),
                upstream_model: empty(),
                status_class: 2,
                folded: false,
            })
        };
        UsageBatch {
            node: 1,
            incarnation: 1,
            seq: 1,
            ranges: Vec::new(),
            series: (0..limits::BATCH_SERIES).map(series).collect(),
            rows: Vec::new(),
            uses: Vec::new(),
            asks: Vec::new(),
        }
    }

    fn written(draft: EntryDraft<()>) -> Batch {
        decode_batch(&draft.into_payload().0).unwrap()
    }

    #[test]
    fn a_command_is_decided_on_what_is_queued_before_it() {
        let mut draft = draft();
        let proposal = put(["acme".to_owned()]);
        assert!(matches!(add(&mut draft, &proposal), Drafted::Queued(_)));
        let again = add(&mut draft, &proposal);
        let Drafted::Answer(Ok(Reply::Accepted(accepted))) = again else {
            panic!()
        };
        assert_eq!((accepted.revision, accepted.index), (1, 0));
        assert!(matches!(
            add(&mut draft, &put(["other".to_owned()])),
            Drafted::Queued(_)
        ));
        let batch = written(draft);
        let bases: Vec<_> = batch
            .items
            .iter()
            .map(|item| {
                if let Item::ChangeSet(set) = item {
                    set.base_revision
                } else {
                    99
                }
            })
            .collect();
        assert_eq!(bases, [0, 1]);
        assert_eq!((batch.lease_clock_ms, batch.wall_ms), (1, 2));
    }

    #[test]
    fn a_full_entry_takes_no_more_and_a_large_proposal_has_its_own() {
        let large = Proposal::Usage(many_series());
        let mut draft = draft();
        assert!(matches!(add(&mut draft, &large), Drafted::Queued(_)));
        let next = put(["next".to_owned()]);
        assert!(matches!(add(&mut draft, &next), Drafted::Full));
        assert_eq!(written(draft).items.len(), 1);
    }

    #[test]
    fn what_replicas_could_not_read_back_is_refused() {
        let range = SpoolRange {
            worker: 0,
            uuid: [0; 16],
            from: 1,
            to: 1,
        };
        let batch = UsageBatch {
            node: 1,
            incarnation: 1,
            seq: 1,
            ranges: vec![range; limits::SPOOLS + 1],
            series: Vec::new(),
            rows: Vec::new(),
            uses: Vec::new(),
            asks: Vec::new(),
        };
        let mut draft = draft();
        let drafted = add(&mut draft, &Proposal::Usage(batch));
        let Drafted::Answer(Err(ProposeError::Rejected(rejected))) = drafted else {
            panic!()
        };
        assert_eq!(rejected.code, RejectedCode::Limit);
    }
}
