//! What a node's spools hold, as somebody knows who looks on: each record that was written, at its number, and what it
//! counts.
//!
//! Invariants: books are written from the spools alone and outlive every crash; what a record counts is what the gateway
//! meant, not what the node makes of it.

use std::collections::{BTreeMap, BTreeSet};

use mode_envoy_node::usage::record::CallId;
use mode_envoy_node::usage::sim::{CARRY, CLOSE, OPEN};
use mode_envoy_storage::spool::{SpoolReader, SpoolRecord};

/// Records read at once.
const PAGE: usize = 256;

/// One try at a call.
pub(crate) type Attempt = (CallId, u8);

/// What records count, as far as the simulation looks.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Counted {
    pub(crate) calls: u64,
    pub(crate) rejected: u64,
    pub(crate) presumed: u64,
    pub(crate) attempts: u64,
    pub(crate) input: u64,
    pub(crate) output: u64,
}

/// All spools that one node ever had.
#[derive(Debug, Default)]
pub(crate) struct Books {
    /// By worker and identity.
    spools: BTreeMap<(u32, [u8; 16]), Book>,
    /// Tokens that an attempt reserved, while it is open.
    reserved: BTreeMap<Attempt, u64>,
    /// What the gateway has just ended, until its record is seen.
    ended: BTreeMap<Attempt, Counted>,
    /// How many attempts the gateway has open.
    pub(crate) open: u64,
    /// Whether the gateway only ends what is open.
    pub(crate) closing: bool,
    /// Whether the disk may have lost what was not durable since the last look.
    pub(crate) power_was_cut: bool,
    /// What is wrong, the first of it.
    pub(crate) fault: Option<String>,
}

/// One spool, from its first record on.
#[derive(Debug, Default)]
pub(crate) struct Book {
    records: Vec<SpoolRecord>,
    /// What all records up to this one count.
    sums: Vec<Counted>,
    /// The first record that no state ever counted.
    uncounted: u64,
}

// === impl Counted ===

impl Counted {
    pub(crate) const fn plus(self, other: Self) -> Self {
        Self {
            calls: self.calls + other.calls,
            rejected: self.rejected + other.rejected,
            presumed: self.presumed + other.presumed,
            attempts: self.attempts + other.attempts,
            input: self.input + other.input,
            output: self.output + other.output,
        }
    }
}

// === impl Book ===

impl Book {
    /// How many records it has.
    pub(crate) fn len(&self) -> u64 {
        self.records.len() as u64
    }

    /// What the records below a number count; none if there are not so many.
    pub(crate) fn below(&self, seq: u64) -> Option<Counted> {
        let records = usize::try_from(seq.checked_sub(1)?).ok()?;
        match records.checked_sub(1) {
            None => Some(Counted::default()),
            Some(last) => self.sums.get(last).copied(),
        }
    }

    /// What all records count.
    pub(crate) fn whole(&self) -> Counted {
        self.sums.last().copied().unwrap_or_default()
    }

    fn push(&mut self, record: SpoolRecord, counts: Counted) {
        self.sums.push(self.whole().plus(counts));
        self.records.push(record);
    }

    /// The attempts that have no Close, in the order in which they opened.
    fn open(&self) -> Vec<Attempt> {
        let mut open = Vec::new();
        for record in &self.records {
            let Some(attempt) = attempt_of(record) else {
                continue;
            };
            match record.kind {
                OPEN => open.push(attempt),
                CLOSE => open.retain(|other| *other != attempt),
                _ => {}
            }
        }
        open
    }
}

// === impl Books ===

impl Books {
    /// All spools.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, [u8; 16], &Book)> {
        self.spools
            .iter()
            .map(|((worker, uuid), book)| (*worker, *uuid, book))
    }

    /// Some state has counted a spool below this number.
    pub(crate) fn counted_below(&mut self, worker: u32, uuid: [u8; 16], seq: u64) {
        if let Some(book) = self.spools.get_mut(&(worker, uuid)) {
            book.uncounted = book.uncounted.max(seq);
        }
    }

    /// One spool.
    pub(crate) fn get(&self, worker: u32, uuid: [u8; 16]) -> Option<&Book> {
        self.spools.get(&(worker, uuid))
    }

    /// An attempt is about to begin.
    pub(crate) fn begins(&mut self, attempt: Attempt, reserved: u64) {
        self.reserved.insert(attempt, reserved);
    }

    /// An attempt is about to end, or a call to be refused.
    pub(crate) fn ends(&mut self, attempt: Attempt, counts: Counted) {
        self.ended.insert(attempt, counts);
    }

    /// The recorder refused; nothing may be written.
    pub(crate) fn is_not_written(&mut self, attempt: Attempt) {
        self.ended.remove(&attempt);
    }

    /// Reads what was written since the last look.
    pub(crate) fn follow(&mut self, worker: u32, spool: &mut SpoolReader) -> Result<(), String> {
        let uuid = spool.uuid();
        let from = self.spools.entry((worker, uuid)).or_default().len() + 1;
        for record in read_all(spool, from)? {
            let attempt = attempt_of(&record).ok_or("a record without a call")?;
            let counts = match record.kind {
                OPEN | CARRY => Counted::default(),
                CLOSE => self
                    .ended
                    .remove(&attempt)
                    .ok_or_else(|| format!("record {} closes what did not end", record.seq))?,
                kind => return Err(format!("record {} is of kind {kind}", record.seq)),
            };
            let book = self.spools.entry((worker, uuid)).or_default();
            book.push(record, counts);
        }
        match self.ended.keys().next() {
            None => Ok(()),
            Some(attempt) => Err(format!("the end of {attempt:?} is not in its spool")),
        }
    }

    /// Looks at the spools of a life that begins: what was durable is there, nothing else was changed, and each attempt
    /// that was open is presumed to have ended, once. How many calls are.
    pub(crate) fn settle(&mut self, spools: &mut [(u32, SpoolReader)]) -> Result<u64, String> {
        let power_was_cut = std::mem::take(&mut self.power_was_cut);
        let found: BTreeSet<_> = spools.iter().map(|(w, spool)| (*w, spool.uuid())).collect();
        for ((worker, uuid), book) in &mut self.spools {
            if found.contains(&(*worker, *uuid)) {
                continue;
            }
            // It was counted to its end and removed, or its power went before anything of it was durable.
            let (all, uncounted) = (book.len(), book.uncounted);
            if uncounted <= 1 && power_was_cut {
                *book = Book::default();
            } else if uncounted <= all {
                return Err(format!(
                    "the spool of worker {worker} is gone with {all} records, counted below {uncounted}"
                ));
            }
        }
        let mut presumed = 0;
        for (worker, spool) in spools {
            let (worker, uuid) = (*worker, spool.uuid());
            let at = |why| format!("worker {worker}: {why}");
            let tail = self.keep(worker, spool, power_was_cut).map_err(at)?;
            let book = self.spools.entry((worker, uuid)).or_default();
            let (kept, uncounted) = (book.len(), book.uncounted);
            if uncounted > kept + 1 {
                return Err(at(format!(
                    "{kept} records are left, counted below {uncounted}"
                )));
            }
            presumed += self.presume(worker, uuid, tail).map_err(at)?;
        }
        self.ended.clear();
        Ok(presumed)
    }

    /// Compares a spool with its book and cuts the book where they part; gives what the spool has beyond.
    fn keep(
        &mut self,
        worker: u32,
        spool: &mut SpoolReader,
        power_was_cut: bool,
    ) -> Result<Vec<SpoolRecord>, String> {
        let first = spool.first_seq();
        let mut records = read_all(spool, first)?;
        let book = self.spools.entry((worker, spool.uuid())).or_default();
        if first > book.len() + 1 {
            return Err(format!("it begins at {first}, of {} records", book.len()));
        }
        let known = usize::try_from(first - 1).unwrap_or(usize::MAX);
        let written = book.records.iter().skip(known);
        let same = records.iter().zip(written).take_while(|(a, b)| a == b);
        let same = same.count();
        let tail = records.split_off(same);
        let kept = known + same;
        if kept < book.records.len() && !power_was_cut {
            let (kept, all) = (kept, book.len());
            return Err(format!(
                "a killed process left {kept} of {all} records as they were"
            ));
        }
        book.records.truncate(kept);
        book.sums.truncate(kept);
        Ok(tail)
    }

    /// Checks the Closes of a recovery against what was open.
    fn presume(
        &mut self,
        worker: u32,
        uuid: [u8; 16],
        tail: Vec<SpoolRecord>,
    ) -> Result<u64, String> {
        let book = self.spools.entry((worker, uuid)).or_default();
        let mut open = book.open();
        let last = |open: &[Attempt], call| open.iter().filter(|a| a.0 == call).map(|a| a.1).max();
        let lasts: BTreeMap<Attempt, bool> = open
            .iter()
            .map(|attempt| (*attempt, last(&open, attempt.0) == Some(attempt.1)))
            .collect();
        let mut presumed = 0;
        for record in tail {
            let attempt = attempt_of(&record).filter(|_| record.kind == CLOSE);
            let at = attempt.and_then(|attempt| open.iter().position(|other| *other == attempt));
            let Some(attempt) = at.map(|at| open.remove(at)) else {
                return Err(format!("record {} presumes what is not open", record.seq));
            };
            let answers = u64::from(lasts.get(&attempt) == Some(&true));
            let counts = Counted {
                calls: answers,
                presumed: answers,
                attempts: 1,
                input: self.reserved.get(&attempt).copied().unwrap_or(0),
                ..Counted::default()
            };
            presumed += answers;
            book.push(record, counts);
        }
        match open.first() {
            None => Ok(presumed),
            Some(attempt) => Err(format!("{attempt:?} was open and is not presumed")),
        }
    }
}

/// All records from a number on.
fn read_all(spool: &mut SpoolReader, from: u64) -> Result<Vec<SpoolRecord>, String> {
    let mut records = Vec::new();
    let mut next = from;
    while next < spool.next_seq() {
        let page = spool.read(next, PAGE, usize::MAX);
        records.extend(page.map_err(|error| error.to_string())?);
        next = records.last().map_or(from, |last| last.seq + 1);
    }
    Ok(records)
}

/// Which attempt a record is about: it stands first in its payload.
fn attempt_of(record: &SpoolRecord) -> Option<Attempt> {
    let (call, rest) = record.payload.split_first_chunk()?;
    Some((CallId(*call), *rest.first()?))
}
