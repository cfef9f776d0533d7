//! A log driven call by call, and the states it went through.
//!
//! Invariant: the same calls give the same steps of the disk. The writer is held while a group of calls
//! is queued, so what it takes as one batch does not depend on timing.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, mpsc};

use bytes::Bytes;
use proptest::prelude::*;

use crate::testing::{FaultDisk, Op};
use crate::wal::{Done, Position, Record, Recovered, Wal, WalError, WalOptions};

pub(super) const DIR: &str = "/data/wal";

/// One call, relative to what the log holds when it is made.
#[derive(Clone, Debug)]
pub(super) enum Call {
    Append {
        count: u64,
        bytes: usize,
    },
    /// How many of the newest records go.
    Truncate {
        newest: u64,
    },
    /// How many of the oldest records go; may be more than there are.
    Purge {
        oldest: u64,
    },
    Vote,
    Committed,
}

/// What a log holds, without the committed position, which is lazy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct State {
    pub(super) records: BTreeMap<u64, Record>,
    pub(super) purged: Option<(Position, Bytes)>,
    pub(super) vote: Option<Bytes>,
}

/// What was asked of one opened log, and answered.
#[derive(Debug)]
pub(super) struct History {
    /// The state at first, and after each change.
    pub(super) states: Vec<State>,
    pub(super) answers: Arc<Mutex<Vec<Answer>>>,
    groups: Vec<Group>,
    committed: u64,
    /// Counts what is written, so that no two payloads are alike.
    term: u64,
}

/// A completion that was called.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answer {
    pub(super) ok: bool,
    /// The disk's steps by then.
    steps: u64,
    /// Which of the states the call led to.
    state: usize,
}

#[derive(Clone, Copy, Debug)]
struct Group {
    /// The disk's steps before the writer took it.
    steps: u64,
    /// The last state it leads to.
    state: usize,
    /// The committed position offered last.
    committed: u64,
    /// The one written behind it, when nothing else came; no sync covers that.
    lazily: u64,
}

/// What a crash may leave.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) acknowledged: usize,
    pub(super) asked: usize,
    pub(super) committed_from: u64,
    pub(super) committed_to: u64,
}

/// Groups of calls that the writer takes as one batch each.
pub(super) fn groups(most: usize) -> impl Strategy<Value = Vec<Vec<Call>>> {
    let call = prop_oneof![
        6 => (1_u64..8, prop_oneof![3 => 0_usize..300, 1 => 0_usize..5000])
            .prop_map(|(count, bytes)| Call::Append { count, bytes }),
        2 => (0_u64..9).prop_map(|newest| Call::Truncate { newest }),
        2 => (0_u64..20).prop_map(|oldest| Call::Purge { oldest }),
        2 => Just(Call::Vote),
        1 => Just(Call::Committed),
    ];
    let group = proptest::collection::vec(call, 1..4);
    proptest::collection::vec(group, 1..most)
}

pub(super) fn options() -> WalOptions {
    let mut options = WalOptions::new(DIR, [0xc1; 16], 1);
    options.segment_bytes = 32 * 1024;
    options.cache_bytes = 2 * 1024;
    options
}

pub(super) fn open(disk: &FaultDisk) -> Result<(Wal, Recovered), WalError> {
    Wal::open(Arc::new(disk.clone()), options())
}

/// The paths of a log's segments, in order.
pub(super) fn segments(disk: &FaultDisk) -> Vec<PathBuf> {
    use crate::disk::Disk;
    let names = disk.list(DIR.as_ref()).unwrap();
    let segments = names.into_iter().filter(|name| name.starts_with("log-"));
    segments.map(|name| PathBuf::from(DIR).join(name)).collect()
}

/// Waits for the completion of one call.
pub(super) fn wait(call: impl FnOnce(Done)) -> Result<(), WalError> {
    let (sender, receiver) = mpsc::channel();
    call(Box::new(move |result| sender.send(result).unwrap()));
    receiver.recv().unwrap()
}

/// The number of a committed position or a vote.
pub(super) fn number_of(bytes: Option<&Bytes>) -> u64 {
    bytes.map_or(0, |bytes| u64::from_le_bytes(bytes[..].try_into().unwrap()))
}

fn number(number: u64) -> Bytes {
    Bytes::copy_from_slice(&number.to_le_bytes())
}

// === impl State ===

impl State {
    /// What an opened log shows, by all its ways to ask.
    pub(super) fn of(wal: &Wal, recovered: &Recovered) -> Self {
        let records = wal.read(0, u64::MAX, usize::MAX).unwrap();
        let last = records.last().map(|record| record.position);
        assert_eq!(recovered.last, last.or(recovered.purged));
        assert_eq!(wal.last(), recovered.last);
        let first = records.first().map(|record| record.position.index);
        assert_eq!(wal.first_index(), first);
        assert_eq!(wal.purged(), recovered.purged);
        let purged = recovered.purged.zip(recovered.purged_payload.clone());
        let indexed = records.into_iter().map(|r| (r.position.index, r));
        Self {
            records: indexed.collect(),
            purged,
            vote: recovered.vote.clone(),
        }
    }

    fn next(&self) -> u64 {
        let last = self.records.last_key_value().map(|(index, _)| *index);
        last.or_else(|| self.purged.as_ref().map(|(upto, _)| upto.index))
            .map_or(1, |index| index + 1)
    }

    fn purged_index(&self) -> u64 {
        self.purged.as_ref().map_or(0, |(upto, _)| upto.index)
    }
}

// === impl History ===

impl History {
    pub(super) fn new(start: State, committed: u64, term: u64) -> Self {
        Self {
            states: vec![start],
            answers: Arc::default(),
            groups: vec![Group {
                steps: 0,
                state: 0,
                committed,
                lazily: committed,
            }],
            committed,
            term,
        }
    }

    /// The next life of a log that was closed in order.
    pub(super) fn go_on(&self) -> Self {
        let last = self.states.last().unwrap().clone();
        Self::new(last, self.committed, self.term)
    }

    pub(super) fn last_term(&self) -> u64 {
        self.term
    }

    /// Makes the calls of a group as one batch and waits for the answers; false if the log has failed.
    pub(super) fn drive(&mut self, disk: &FaultDisk, wal: &Wal, group: &[Call]) -> bool {
        let (entered, writer_waits) = mpsc::channel();
        let (release, released) = mpsc::channel::<()>();
        let gate = Box::new(move |result: Result<(), WalError>| {
            entered.send(result.is_ok()).unwrap();
            if result.is_ok() {
                // The error is the other end's going, which is the signal.
                let _ = released.recv();
            }
        });
        wal.append(vec![], gate);
        if !writer_waits.recv().unwrap() {
            return false;
        }
        let steps = disk.steps();
        for call in group {
            self.call(disk, wal, call);
        }
        self.groups.push(Group {
            steps,
            state: self.states.len() - 1,
            committed: self.committed,
            lazily: self.committed,
        });
        wait(|done| {
            wal.append(vec![], done);
            drop(release);
        })
        .is_ok()
    }

    /// Offers a committed position and nothing else, and waits until the writer has written it, unsynced.
    pub(super) fn commit_alone(&mut self, disk: &FaultDisk, wal: &Wal) {
        let before = disk.count(Op::Write);
        self.call(disk, wal, &Call::Committed);
        if let Some(last) = self.groups.last_mut() {
            last.lazily = self.committed;
        }
        while disk.count(Op::Write) == before {
            std::thread::yield_now();
        }
    }

    fn call(&mut self, disk: &FaultDisk, wal: &Wal, call: &Call) {
        let mut state = self.states.last().unwrap().clone();
        let next = state.next();
        self.term += 1;
        match *call {
            Call::Append { count, bytes } => {
                let records: Vec<_> = (next..next + count)
                    .map(|index| record(self.term, index, bytes))
                    .collect();
                for record in &records {
                    state.records.insert(record.position.index, record.clone());
                    self.states.push(state.clone());
                }
                wal.append(records, self.done(disk));
            }
            Call::Truncate { newest } => {
                let from = next.saturating_sub(newest).max(state.purged_index() + 1);
                if state.records.split_off(&from).is_empty() {
                    return;
                }
                self.states.push(state);
                wal.truncate(from, self.done(disk));
            }
            Call::Purge { oldest } => {
                let first = state.records.keys().next().copied().unwrap_or(next);
                let index = first + oldest - 1;
                if index <= state.purged_index() {
                    return;
                }
                let term = state.records.get(&index).map_or(0, |r| r.position.term);
                let upto = Position { term, index };
                state.records = state.records.split_off(&(index + 1));
                state.purged = Some((upto, number(self.term)));
                self.states.push(state);
                wal.purge(upto, number(self.term), self.done(disk));
            }
            Call::Vote => {
                state.vote = Some(number(self.term));
                self.states.push(state);
                wal.save_vote(number(self.term), self.done(disk));
            }
            Call::Committed => {
                self.committed = self.term;
                wal.save_committed(number(self.term));
            }
        }
    }

    fn done(&self, disk: &FaultDisk) -> Done {
        let (answers, disk, state) = (
            Arc::clone(&self.answers),
            disk.clone(),
            self.states.len() - 1,
        );
        Box::new(move |result| {
            answers.lock().unwrap().push(Answer {
                ok: result.is_ok(),
                steps: disk.steps(),
                state,
            });
        })
    }

    /// What may be found after a crash when the disk had done so many steps.
    pub(super) fn bounds(&self, steps: u64) -> Bounds {
        let answers = self.answers.lock().unwrap();
        let acknowledged = answers.iter().filter(|a| a.ok && a.steps <= steps);
        let taken: Vec<_> = self.groups.iter().filter(|g| g.steps <= steps).collect();
        let asked = taken.last().map_or(0, |group| group.state);
        // The batch of the group before the last was written whole before the last was taken.
        let committed_from = taken.iter().rev().nth(1).or_else(|| taken.last());
        Bounds {
            acknowledged: acknowledged.map(|a| a.state).max().unwrap_or(0),
            asked,
            committed_from: committed_from.map_or(0, |group| group.committed),
            committed_to: taken.last().map_or(0, |group| group.lazily),
        }
    }

    /// Fails unless a log holds one of the states within bounds.
    pub(super) fn check(&self, wal: &Wal, recovered: &Recovered, bounds: Bounds) -> State {
        let found = State::of(wal, recovered);
        let allowed = &self.states[bounds.acknowledged..=bounds.asked];
        assert!(
            allowed.contains(&found),
            "found {found:?}, which is none of {} states within {bounds:?}; the acknowledged one is {:?}",
            allowed.len(),
            allowed[0],
        );
        let committed = number_of(recovered.committed.as_ref());
        assert!(
            (bounds.committed_from..=bounds.committed_to).contains(&committed),
            "committed {committed} is not within {bounds:?}"
        );
        found
    }
}

/// A record whose payload tells its place.
pub(super) fn record(term: u64, index: u64, bytes: usize) -> Record {
    let seed = format!("{term}/{index};");
    let payload: Vec<u8> = seed.bytes().cycle().take(bytes).collect();
    Record {
        position: Position { term, index },
        payload: Bytes::from(payload),
    }
}
