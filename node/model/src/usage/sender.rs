//! One node's usage stream, as the node sees it: what to send next, and what an answer means.
//!
//! Pure; this is where exactly-once is decided on the sender's side.
//!
//! ```text
//! Unregistered --registered(positions from the state)--> Ready --compose--> Sent --Counted--> Ready
//!      ^------------------- fenced, or the log disagrees ---------------------/
//! ```
//!
//! Invariants:
//! * between Sent and its answer the same batch is sent again and again, never a different one under its number;
//! * positions come from the replicated state at registration, and move only with batches that it counted.

use std::collections::BTreeMap;

use crate::batch::Outcome;
use crate::ledger::ask::{Ask, LeaseUse};
use crate::usage::batch::UsageRow;
use crate::usage::batch::{Register, SeriesRef, SpoolRange, SpoolUuid, UsageBatch};
use crate::usage::series::SeriesKey;
use crate::usage::streams;

/// One node's usage stream.
#[derive(Debug)]
pub struct Stream {
    node: u64,
    spools: BTreeMap<u32, Position>,
    life: Life,
}

#[derive(Debug)]
struct Position {
    uuid: SpoolUuid,
    acked_to: u64,
}

#[derive(Debug)]
enum Life {
    Unregistered,
    Ready {
        incarnation: u64,
        seq: u64,
    },
    Sent {
        batch: UsageBatch,
        keys: Vec<SeriesKey>,
    },
}

/// What the stream needs next.
#[derive(Debug)]
pub enum Need<'a> {
    /// A new incarnation, following the one that the state has now.
    Register,
    /// A batch, if there is anything to count.
    Compose,
    /// An answer to this batch.
    Answer(&'a UsageBatch),
}

/// What an answer means.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Meaning {
    /// The ranges are counted, now or at an earlier send.
    Counted(Vec<SpoolRange>),
    /// Send again; the batch spells its series out now.
    SendAgain,
    /// Register again: the log and this node disagree on what is next.
    Register,
    /// The log refuses what this release believes to be sound.
    Refused,
}

// === impl Stream ===

impl Stream {
    /// A stream that must register first. Spools are told by worker.
    pub fn new(node: u64, spools: impl IntoIterator<Item = (u32, SpoolUuid)>) -> Self {
        let spools = spools.into_iter();
        let spools = spools
            .map(|(worker, uuid)| (worker, Position { uuid, acked_to: 1 }))
            .collect();
        Self {
            node,
            spools,
            life: Life::Unregistered,
        }
    }

    /// What to do next.
    pub fn need(&self) -> Need<'_> {
        match &self.life {
            Life::Unregistered => Need::Register,
            Life::Ready { .. } => Need::Compose,
            Life::Sent { batch, .. } => Need::Answer(batch),
        }
    }

    /// What starts a new incarnation. It is void if another one has started since the state was read.
    pub fn register(&self, state: Option<&streams::Stream>) -> Register {
        let uuid = |(&worker, spool): (&u32, &Position)| (worker, spool.uuid);
        Register {
            node: self.node,
            follows: state.map_or(0, |state| state.incarnation),
            spools: self.spools.iter().map(uuid).collect(),
        }
    }

    /// Takes over the positions that the state had when it applied our Register. If another Register came after
    /// it, or a spool is missing in it, the stream stays unregistered.
    pub fn registered(&mut self, incarnation: u64, state: Option<&streams::Stream>) {
        let Some(state) = state.filter(|state| state.incarnation == incarnation) else {
            return;
        };
        for (worker, spool) in &mut self.spools {
            match state.spools.get(worker) {
                Some(known) if known.uuid == spool.uuid => spool.acked_to = known.acked_to,
                _ => return,
            }
        }
        self.life = Life::Ready {
            incarnation,
            seq: state.next_seq,
        };
    }

    /// The first record of a worker's spool that is not counted.
    pub fn acked_to(&self, worker: u32) -> u64 {
        self.spools.get(&worker).map_or(1, |spool| spool.acked_to)
    }

    /// Whose spool a worker has.
    pub fn range(&self, worker: u32, to: u64) -> Option<SpoolRange> {
        let spool = self.spools.get(&worker)?;
        Some(SpoolRange {
            worker,
            uuid: spool.uuid,
            from: spool.acked_to,
            to,
        })
    }

    /// Binds rows, ranges and what is said of limits to the next number; a series that the log knows is sent by its own number. Only a
    /// stream that asked for it takes a batch.
    pub fn compose(
        &mut self,
        ranges: Vec<SpoolRange>,
        (keys, rows): (Vec<SeriesKey>, Vec<UsageRow>),
        (uses, asks): (Vec<LeaseUse>, Vec<Ask>),
        known: impl Fn(&SeriesKey) -> Option<u32>,
    ) {
        if let Life::Ready { incarnation, seq } = self.life {
            let refer = |key: &SeriesKey| match known(key) {
                Some(id) => SeriesRef::Known(id),
                None => SeriesRef::New(key.clone()),
            };
            let series = keys.iter().map(refer).collect();
            let batch = UsageBatch {
                node: self.node,
                incarnation,
                seq,
                ranges,
                series,
                rows,
                uses,
                asks,
            };
            self.life = Life::Sent { batch, keys };
        }
    }

    /// Takes an answer to the batch that was sent.
    pub fn answered(&mut self, outcome: &Outcome) -> Meaning {
        let Life::Sent { batch, keys } = &mut self.life else {
            return Meaning::Register;
        };
        match outcome {
            Outcome::Counted => self.counted(),
            // An earlier send of this very batch was counted; nobody else sends under our incarnation.
            Outcome::ExpectSeq(next) if batch.seq.checked_add(1) == Some(*next) => self.counted(),
            Outcome::Malformed if spell_out(batch, keys) => Meaning::SendAgain,
            Outcome::Malformed | Outcome::Unbacked(_) => {
                self.life = Life::Unregistered;
                Meaning::Refused
            }
            Outcome::ExpectSeq(_)
            | Outcome::Fenced
            | Outcome::RangeMismatch
            | Outcome::Closed
            | Outcome::Unfinished
            | Outcome::Changed { .. }
            | Outcome::Stale { .. }
            | Outcome::Registered { .. } => {
                self.life = Life::Unregistered;
                Meaning::Register
            }
        }
    }

    /// Forgets a spool that is counted to its end and gone.
    pub fn forget(&mut self, worker: u32) {
        self.spools.remove(&worker);
    }

    fn counted(&mut self) -> Meaning {
        let Life::Sent { batch, .. } = std::mem::replace(&mut self.life, Life::Unregistered) else {
            return Meaning::Register;
        };
        for range in &batch.ranges {
            if let Some(spool) = self.spools.get_mut(&range.worker) {
                spool.acked_to = range.to;
            }
        }
        self.life = Life::Ready {
            incarnation: batch.incarnation,
            seq: batch.seq.saturating_add(1),
        };
        Meaning::Counted(batch.ranges)
    }
}

/// A number may be gone from the dictionary by the time the batch is applied: then its dimensions are sent.
/// Whether that changed anything.
fn spell_out(batch: &mut UsageBatch, keys: &[SeriesKey]) -> bool {
    let mut changed = false;
    for (series, key) in batch.series.iter_mut().zip(keys) {
        if matches!(series, SeriesRef::Known(_)) {
            *series = SeriesRef::New(key.clone());
            changed = true;
        }
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: SpoolUuid = [7; 16];

    fn key() -> SeriesKey {
        let none = || "".into();
        SeriesKey {
            tenant: none(),
            team: none(),
            consumer: none(),
            key: none(),
            route: none(),
            api: none(),
            model: none(),
            provider: none(),
            upstream_model: none(),
            status_class: 2,
            folded: false,
        }
    }

    fn ready() -> Stream {
        let mut stream = Stream::new(1, [(0, UUID)]);
        let spool = streams::Spool {
            uuid: UUID,
            acked_to: 5,
        };
        let state = streams::Stream {
            incarnation: 30,
            next_seq: 1,
            spools: [(0_u32, spool)].into_iter().collect(),
        };
        stream.registered(30, Some(&state));
        stream
    }

    fn sent() -> Stream {
        let mut stream = ready();
        let range = stream.range(0, 9).unwrap();
        let key = key();
        let parts = (vec![key], Vec::new());
        stream.compose(vec![range], parts, Default::default(), |_| Some(3));
        stream
    }

    #[test]
    fn a_stream_registers_first_and_starts_where_the_state_says() {
        let mut stream = Stream::new(1, [(0, UUID)]);
        assert!(matches!(stream.need(), Need::Register));
        let register = stream.register(None);
        assert_eq!((register.follows, &*register.spools), (0, &[(0, UUID)][..]));
        stream.registered(30, None);
        assert!(matches!(stream.need(), Need::Register));
        assert!(matches!(ready().need(), Need::Compose));
        assert_eq!(ready().acked_to(0), 5);
    }

    #[test]
    fn a_register_that_another_one_followed_does_not_count() {
        let mut stream = Stream::new(1, [(0, UUID)]);
        let state = streams::Stream {
            incarnation: 31,
            next_seq: 1,
            ..Default::default()
        };
        stream.registered(30, Some(&state));
        assert!(matches!(stream.need(), Need::Register));
    }

    #[test]
    fn a_counted_batch_moves_the_position_and_the_number() {
        for outcome in [Outcome::Counted, Outcome::ExpectSeq(2)] {
            let mut stream = sent();
            let range = SpoolRange {
                worker: 0,
                uuid: UUID,
                from: 5,
                to: 9,
            };
            assert_eq!(stream.answered(&outcome), Meaning::Counted(vec![range]));
            assert_eq!(stream.acked_to(0), 9);
            assert!(matches!(
                stream.life,
                Life::Ready {
                    incarnation: 30,
                    seq: 2
                }
            ));
        }
    }

    #[test]
    fn a_disagreement_registers_again_and_moves_nothing() {
        for outcome in [
            Outcome::Fenced,
            Outcome::RangeMismatch,
            Outcome::ExpectSeq(7),
        ] {
            let mut stream = sent();
            assert_eq!(stream.answered(&outcome), Meaning::Register);
            assert_eq!(stream.acked_to(0), 5);
            assert!(matches!(stream.need(), Need::Register));
        }
    }

    #[test]
    fn a_number_that_the_log_forgot_is_spelled_out_once() {
        let mut stream = sent();
        assert_eq!(stream.answered(&Outcome::Malformed), Meaning::SendAgain);
        assert!(
            matches!(stream.need(), Need::Answer(b) if matches!(b.series[0], SeriesRef::New(_)))
        );
        assert_eq!(stream.answered(&Outcome::Malformed), Meaning::Refused);
    }
}
