//! The log against a model, over random calls and openings.

use std::collections::BTreeMap;

use bytes::Bytes;
use mode_envoy_storage::wal::{Position, Record, Recovered, Wal};
use proptest::prelude::*;

use crate::files::copy_dir;
use crate::wal_fixture::{all, open, record, wait};

/// One call.
#[derive(Clone, Debug)]
enum Call {
    Append {
        count: u64,
        bytes: usize,
        new_term: bool,
    },
    /// How many of the newest records go.
    Truncate {
        newest: u64,
    },
    /// How many of the oldest records go; may be more than there are.
    Purge {
        oldest: u64,
    },
    Vote(u64),
    Committed(u64),
    Reopen,
    /// The files are copied as they are, as a killed process leaves them, and the copy is opened.
    Kill,
}

/// What a log holds.
#[derive(Clone, Debug, Default)]
struct Model {
    records: BTreeMap<u64, Record>,
    purged: Option<Position>,
    vote: Option<u64>,
    committed: Option<u64>,
    term: u64,
}

fn calls() -> impl Strategy<Value = Vec<Call>> {
    let call = prop_oneof![
        6 => (1_u64..12, 0_usize..3000, any::<bool>())
            .prop_map(|(count, bytes, new_term)| Call::Append { count, bytes, new_term }),
        2 => (0_u64..15).prop_map(|newest| Call::Truncate { newest }),
        2 => (0_u64..40).prop_map(|oldest| Call::Purge { oldest }),
        1 => any::<u64>().prop_map(Call::Vote),
        1 => any::<u64>().prop_map(Call::Committed),
        1 => Just(Call::Reopen),
        1 => Just(Call::Kill),
    ];
    proptest::collection::vec(call, 1..30)
}

impl Model {
    fn next(&self) -> u64 {
        let last = self.records.last_key_value().map(|(index, _)| *index);
        last.or_else(|| self.purged.map(|purged| purged.index))
            .map_or(0, |index| index + 1)
    }

    fn last(&self) -> Option<Position> {
        self.records
            .last_key_value()
            .map(|(_, record)| record.position)
            .or(self.purged)
    }

    /// Applies a call to the model and to the log.
    fn call(&mut self, wal: &Wal, call: &Call) {
        match *call {
            Call::Append {
                count,
                bytes,
                new_term,
            } => {
                self.term += u64::from(new_term);
                let next = self.next();
                let records: Vec<_> = (next..next + count)
                    .map(|index| record(self.term, index, bytes))
                    .collect();
                self.records
                    .extend(records.iter().map(|r| (r.position.index, r.clone())));
                wal.append(records, Box::new(|result| result.unwrap()));
            }
            Call::Truncate { newest } => {
                let from = self.next().saturating_sub(newest);
                if self.purged.is_some_and(|purged| from <= purged.index) {
                    wait(|done| wal.truncate(from, done)).unwrap_err();
                    return;
                }
                self.records.retain(|index, _| *index < from);
                wal.truncate(from, Box::new(|result| result.unwrap()));
            }
            Call::Purge { oldest } => {
                let first = self
                    .records
                    .keys()
                    .next()
                    .copied()
                    .unwrap_or_else(|| self.next());
                let Some(index) = (first + oldest).checked_sub(1) else {
                    return;
                };
                let term = self
                    .records
                    .get(&index)
                    .map_or(self.term, |r| r.position.term);
                let upto = Position { term, index };
                if self.purged.is_none_or(|purged| purged.index < index) {
                    self.purged = Some(upto);
                    self.records.retain(|kept, _| *kept > index);
                }
                let opaque = Bytes::from(format!("{upto:?}"));
                wal.purge(upto, opaque, Box::new(|result| result.unwrap()));
            }
            Call::Vote(vote) => {
                self.vote = Some(vote);
                wal.save_vote(number(vote), Box::new(|result| result.unwrap()));
            }
            Call::Committed(committed) => {
                self.committed = Some(committed);
                wal.save_committed(number(committed));
            }
            Call::Reopen => {}
            // The first is answered when all is durable, the second when purged files are gone too.
            Call::Kill => {
                wait(|done| wal.append(vec![], done)).unwrap();
                wait(|done| wal.append(vec![], done)).unwrap();
            }
        }
    }

    fn check_recovered(&self, recovered: &Recovered) {
        assert_eq!(recovered.vote, self.vote.map(number));
        assert_eq!(recovered.purged, self.purged);
        assert_eq!(recovered.last, self.last());
        let payload = self.purged.map(|upto| Bytes::from(format!("{upto:?}")));
        assert_eq!(recovered.purged_payload, payload);
    }

    fn check(&self, wal: &Wal) {
        let expected: Vec<_> = self.records.values().cloned().collect();
        assert_eq!(all(wal), expected);
        assert_eq!(wal.last(), self.last());
        assert_eq!(wal.purged(), self.purged);
        assert_eq!(wal.first_index(), self.records.keys().next().copied());
    }
}

fn number(number: u64) -> Bytes {
    Bytes::copy_from_slice(&number.to_le_bytes())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20, ..ProptestConfig::default() })]

    #[test]
    fn a_log_holds_what_the_model_holds(calls in calls()) {
        let mut dir = tempfile::tempdir().unwrap();
        let mut model = Model::default();
        let (mut wal, _) = open(dir.path());
        for call in calls.iter().chain([&Call::Kill, &Call::Reopen]) {
            model.call(&wal, call);
            if matches!(call, Call::Kill) {
                let copy = tempfile::tempdir().unwrap();
                copy_dir(dir.path(), copy.path());
                let (opened, recovered) = open(copy.path());
                (wal, dir) = (opened, copy);
                // The committed position is written lazily: an older one may be found.
                if recovered.committed != model.committed.map(number) {
                    wal.save_committed(number(0));
                    model.committed = Some(0);
                }
                model.check_recovered(&recovered);
            }
            if matches!(call, Call::Reopen) {
                wal.close();
                let (opened, recovered) = open(dir.path());
                wal = opened;
                assert_eq!(recovered.committed, model.committed.map(number));
                model.check_recovered(&recovered);
            }
            model.check(&wal);
        }
    }
}
