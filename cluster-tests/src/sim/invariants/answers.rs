//! What was acknowledged is there: in every log in the end, and at once for a read that waited for the barrier.

use super::commits::Commits;
use super::{Running, Violation};
use crate::sim::clients::History;

const NAME: &str = "what is acknowledged is there";

/// A read behind the barrier saw less than had been acknowledged before it.
pub(super) fn check(seen: &History) -> Result<(), Violation> {
    match &seen.stale {
        None => Ok(()),
        Some(what) => Err(Violation::new(
            "a read sees what is acknowledged",
            what.clone(),
        )),
    }
}

/// In the end every node has applied what was acknowledged.
pub(super) fn check_end(
    running: &Running,
    seen: &History,
    commits: &Commits,
) -> Result<(), Violation> {
    let (node, applied) = (running.node, running.probe.applied);
    let revision = running.member.handle().catalog().revision();
    if applied < seen.acknowledged || revision < seen.revision {
        let what = format!(
            "n{node} stands at entry {applied} and revision {revision}; acknowledged were {} and {}",
            seen.acknowledged, seen.revision
        );
        return Err(Violation::new(NAME, what));
    }
    if seen.acknowledged > 0 && !commits.has(seen.acknowledged) {
        let what = format!(
            "entry {} was acknowledged and never applied",
            seen.acknowledged
        );
        return Err(Violation::new(NAME, what));
    }
    Ok(())
}
