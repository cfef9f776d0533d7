//! Log matching: two logs that hold the same entry at a place hold the same entries before it.
//!
//! Checked by induction: whoever proposed it, an entry has one content and one predecessor, in every log, for good.

use std::collections::{BTreeMap, BTreeSet};

use mode_envoy_raft::sim::LogLine;

use super::{Running, Violation};

/// How many lines before the end are read again when a log has changed; if those differ, all of it is.
const TAIL: u64 = 24;

/// Who proposed an entry, and where: what names it.
type Name = (u64, u64, u64);

/// One node's log as it was last seen.
#[derive(Default)]
struct Known {
    life: u64,
    last: Option<LogLine>,
    /// A checkpoint has everything up to there.
    purged: u64,
    lines: BTreeMap<u64, LogLine>,
}

/// What is known of logs.
#[derive(Default)]
pub(crate) struct Logs {
    nodes: BTreeMap<u64, Known>,
    /// Of every entry that was ever seen: its content, and the name of the one before it.
    entries: BTreeMap<Name, (u64, Option<Name>)>,
}

// === impl Logs ===

impl Logs {
    /// One entry as the node has it.
    pub(super) fn line(&self, node: u64, index: u64) -> Option<&LogLine> {
        self.nodes.get(&node)?.lines.get(&index)
    }

    /// Who has an entry in its log, on its disk or not yet, or in a checkpoint.
    pub(super) fn holders(&self, line: &LogLine) -> BTreeSet<u64> {
        let has = |known: &Known| {
            known.purged >= line.index || known.lines.get(&line.index) == Some(line)
        };
        let nodes = self.nodes.iter().filter(|(_, known)| has(known));
        nodes.map(|(node, _)| *node).collect()
    }

    pub(super) fn check(&mut self, running: &Running) -> Result<(), Violation> {
        let Running {
            node, life, member, ..
        } = running;
        let known = self.nodes.entry(*node).or_default();
        let last = member.last();
        known.purged = member.purged();
        if known.life == *life && known.last == last {
            return Ok(());
        }
        let same_life = known.life == *life;
        let end = known.last.map_or(0, |last| last.index);
        let from = if same_life {
            end.saturating_sub(TAIL)
        } else {
            0
        };
        // A log that has failed belongs to a process that is about to end.
        let Ok(mut lines) = member.log(from) else {
            return Ok(());
        };
        let fits = |line: &LogLine| known.lines.get(&line.index) == Some(line);
        if from > 0 && !lines.first().is_some_and(fits) {
            lines = member.log(0).unwrap_or_default();
            known.lines.clear();
        }
        // A log that was let go of up to there begins later.
        let start = lines.first().map_or(0, |line| line.index);
        known.lines.split_off(&if from > 0 { start } else { 0 });
        (known.life, known.last) = (*life, last);
        let before = start.checked_sub(1).and_then(|at| known.lines.get(&at));
        let mut before = before.map(name);
        for line in lines {
            let entry = (line.hash, before);
            let known_entry = self.entries.entry(name(&line)).or_insert(entry);
            known_entry.1 = known_entry.1.or(before);
            let first = *known_entry;
            let same_before = first.1.is_none() || before.is_none() || first.1 == before;
            if first.0 != line.hash || !same_before {
                let what =
                    format!("n{node} has {line:?} after {before:?}; elsewhere it was {first:?}");
                return Err(Violation::new("logs match", what));
            }
            before = Some(name(&line));
            known.lines.insert(line.index, line);
        }
        Ok(())
    }
}

const fn name(line: &LogLine) -> Name {
    (line.index, line.term, line.node)
}
