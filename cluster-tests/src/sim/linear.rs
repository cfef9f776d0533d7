//! Whether a history of operations could have happened one after the other (Wing and Gong 1993), each at a moment
//! between its call and its answer; with Lowe's memory of what was tried (2017).
//!
//! An object is a register with a value or none. Objects do not depend on one another, so that each is checked by
//! itself. An operation whose outcome is unknown may have happened at any moment after its call, or never; one that
//! is said to have written nothing must not have happened at all.

use std::collections::{BTreeMap, HashSet};

/// How many placements are tried before the history is called too hard.
const STEPS: u64 = 2_000_000;

/// What was asked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Act {
    Put(u64),
    Delete,
    Read,
}

/// What was answered.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Outcome {
    Created,
    Updated,
    Deleted,
    /// There was nothing to delete.
    NotFound,
    Value(Option<u64>),
    /// It is open whether it happened.
    Unknown,
    /// It did not happen.
    Nothing,
    /// An answer that no sound cluster gives here.
    Refused(String),
}

/// One operation.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Op {
    pub(crate) object: u64,
    /// Moments are numbered in one count for all clients.
    pub(crate) invoked: u64,
    pub(crate) returned: u64,
    pub(crate) act: Act,
    pub(crate) outcome: Outcome,
}

/// A set of operations that are placed, one bit each.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct Placed(Vec<u64>);

/// The search for an order.
struct Search<'a> {
    ops: &'a [Op],
    seen: HashSet<(Placed, Option<u64>)>,
    steps: u64,
}

/// Checks every object.
///
/// # Errors
/// The object for which there is no order, and its operations.
pub(crate) fn check(history: &[Op]) -> Result<(), String> {
    let mut objects: BTreeMap<u64, Vec<Op>> = BTreeMap::new();
    for op in history {
        if let Outcome::Refused(why) = &op.outcome {
            return Err(format!("{op:?} was refused: {why}"));
        }
        let unread = op.act == Act::Read && op.outcome == Outcome::Unknown;
        if op.outcome != Outcome::Nothing && !unread {
            objects.entry(op.object).or_default().push(op.clone());
        }
    }
    for (object, mut ops) in objects {
        ops.sort_by_key(|op| op.invoked);
        check_object(&ops).map_err(|why| {
            let lines: Vec<String> = ops.iter().map(Op::line).collect();
            format!("s{object}: {why}\n{}", lines.join("\n"))
        })?;
    }
    Ok(())
}

fn check_object(ops: &[Op]) -> Result<(), String> {
    let mut search = Search {
        ops,
        seen: HashSet::new(),
        steps: 0,
    };
    search.run()
}

// === impl Op ===

impl Op {
    /// When it has to have happened, if at all.
    const fn deadline(&self) -> u64 {
        match self.outcome {
            Outcome::Unknown => u64::MAX,
            _ => self.returned,
        }
    }

    /// What the object is after this.
    const fn after(&self, before: Option<u64>) -> Option<u64> {
        match self.act {
            Act::Put(value) => Some(value),
            Act::Delete => None,
            Act::Read => before,
        }
    }

    /// Whether the answer fits to what the object was.
    fn fits(&self, before: Option<u64>) -> bool {
        match (self.act, &self.outcome) {
            (Act::Put(_) | Act::Delete, Outcome::Unknown) => true,
            (Act::Put(_), Outcome::Created) | (Act::Delete, Outcome::NotFound) => before.is_none(),
            (Act::Put(_), Outcome::Updated) | (Act::Delete, Outcome::Deleted) => before.is_some(),
            (Act::Read, Outcome::Value(value)) => *value == before,
            _ => false,
        }
    }

    fn line(&self) -> String {
        let until = match self.outcome {
            Outcome::Unknown => "…".to_owned(),
            _ => self.returned.to_string(),
        };
        format!(
            "  [{}, {until}] {:?} -> {:?}",
            self.invoked, self.act, self.outcome
        )
    }
}

// === impl Placed ===

impl Placed {
    fn none(len: usize) -> Self {
        Self(vec![0; len.div_ceil(64)])
    }

    fn has(&self, at: usize) -> bool {
        self.0[at / 64] & (1 << (at % 64)) != 0
    }

    fn flip(&mut self, at: usize) {
        self.0[at / 64] ^= 1 << (at % 64);
    }
}

// === impl Search ===

impl Search<'_> {
    /// Depth first, with a stack of its own: histories are longer than threads' stacks are deep.
    fn run(&mut self) -> Result<(), String> {
        let len = self.ops.len();
        let mut placed = Placed::none(len);
        let mut value = None;
        let mut stack: Vec<(usize, Option<u64>)> = Vec::new();
        let mut from = 0;
        let mut furthest = 0;
        loop {
            if self.is_done(&placed) {
                return Ok(());
            }
            self.steps += 1;
            if self.steps > STEPS {
                return Err("the history is too hard to check".to_owned());
            }
            let Some(turn) = self.next(&placed, value, from) else {
                let Some((turn, before)) = stack.pop() else {
                    return Err(format!("no order fits; {furthest} operations at most do"));
                };
                placed.flip(turn % len);
                (value, from) = (before, turn + 1);
                continue;
            };
            let after = self.ops[turn % len].after(value);
            placed.flip(turn % len);
            if self.seen.insert((placed.clone(), after)) {
                stack.push((turn, value));
                (value, from) = (after, 0);
                furthest = furthest.max(stack.len());
            } else {
                placed.flip(turn % len);
                from = turn + 1;
            }
        }
    }

    /// Whether all that must have happened has.
    fn is_done(&self, placed: &Placed) -> bool {
        let mut ops = self.ops.iter().enumerate();
        ops.all(|(at, op)| placed.has(at) || op.outcome == Outcome::Unknown)
    }

    /// The next operation that may come now: nothing that is not placed was answered before it was asked for. What
    /// certainly happened is tried before what may never have, which has its turn in a second round.
    fn next(&self, placed: &Placed, value: Option<u64>, from: usize) -> Option<usize> {
        let len = self.ops.len();
        let open = (0..len).filter(|at| !placed.has(*at));
        let first_deadline = open.map(|at| self.ops[at].deadline()).min()?;
        (from..2 * len).find(|turn| {
            let op = &self.ops[turn % len];
            (op.outcome == Outcome::Unknown) == (*turn >= len)
                && !placed.has(turn % len)
                && op.invoked <= first_deadline
                && op.fits(value)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(invoked: u64, returned: u64, act: Act, outcome: Outcome) -> Op {
        Op {
            object: 0,
            invoked,
            returned,
            act,
            outcome,
        }
    }

    fn read(invoked: u64, returned: u64, value: Option<u64>) -> Op {
        op(invoked, returned, Act::Read, Outcome::Value(value))
    }

    #[test]
    fn what_happens_one_after_the_other_is_accepted() {
        let history = [
            read(1, 2, None),
            op(3, 4, Act::Put(7), Outcome::Created),
            read(5, 6, Some(7)),
            op(7, 8, Act::Put(8), Outcome::Updated),
            op(9, 10, Act::Delete, Outcome::Deleted),
            op(11, 12, Act::Delete, Outcome::NotFound),
            read(13, 14, None),
        ];
        assert_eq!(check(&history), Ok(()));
    }

    #[test]
    fn what_overlaps_may_come_in_either_order() {
        let history = [
            op(1, 10, Act::Put(1), Outcome::Updated),
            op(2, 9, Act::Put(2), Outcome::Created),
            read(3, 8, Some(2)),
            read(11, 12, Some(1)),
        ];
        assert_eq!(check(&history), Ok(()));
    }

    #[test]
    fn a_read_of_what_was_overwritten_before_is_refused() {
        let history = [
            op(1, 2, Act::Put(1), Outcome::Created),
            op(3, 4, Act::Put(2), Outcome::Updated),
            read(5, 6, Some(1)),
        ];
        assert!(check(&history).unwrap_err().contains("no order fits"));
    }

    #[test]
    fn a_lost_write_is_refused() {
        let history = [op(1, 2, Act::Put(1), Outcome::Created), read(3, 4, None)];
        assert!(check(&history).is_err());
    }

    #[test]
    fn two_reads_that_go_back_in_time_are_refused() {
        let history = [
            op(1, 20, Act::Put(1), Outcome::Created),
            read(2, 3, Some(1)),
            read(4, 5, None),
        ];
        assert!(check(&history).is_err());
    }

    #[test]
    fn an_unknown_write_may_take_effect_late_or_never_but_only_once() {
        let unknown = op(1, 2, Act::Put(1), Outcome::Unknown);
        let late = [
            unknown.clone(),
            read(3, 4, None),
            op(5, 6, Act::Delete, Outcome::NotFound),
            read(7, 8, Some(1)),
        ];
        assert_eq!(check(&late), Ok(()));
        assert_eq!(check(&[unknown.clone(), read(3, 4, None)]), Ok(()));
        let twice = [
            unknown,
            read(3, 4, Some(1)),
            op(5, 6, Act::Delete, Outcome::Deleted),
            read(7, 8, Some(1)),
        ];
        assert!(check(&twice).is_err());
    }

    #[test]
    fn a_write_that_is_said_to_have_written_nothing_must_not_show() {
        let history = [op(1, 2, Act::Put(1), Outcome::Nothing), read(3, 4, Some(1))];
        assert!(check(&history).is_err());
    }

    #[test]
    fn objects_are_checked_apart() {
        let mut other = op(1, 2, Act::Put(5), Outcome::Created);
        other.object = 1;
        let history = [other, read(3, 4, None)];
        assert_eq!(check(&history), Ok(()));
    }

    #[test]
    fn many_unknown_writes_are_checked_in_reasonable_time() {
        let history = |writes: u64| -> Vec<Op> {
            let put = |n| op(n + 1, n + 2, Act::Put(n), Outcome::Unknown);
            let read = |n| read(100 + 2 * n, 101 + 2 * n, Some(n));
            (0..writes).map(put).chain((0..writes).map(read)).collect()
        };
        assert_eq!(check(&history(60)), Ok(()));
        let mut impossible = history(10);
        impossible.push(read(1_000, 1_001, Some(3)));
        assert!(check(&impossible).unwrap_err().contains("no order fits"));
    }
}
