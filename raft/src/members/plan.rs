//! The next step towards the membership that the log asks for. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::types::NodeId;

/// Voters beyond this make every write slower and nothing safer.
const VOTERS_MAX: usize = 5;

/// What the leader knows.
#[derive(Clone, Debug, Default)]
pub(crate) struct View {
    /// The leader itself.
    pub(crate) me: NodeId,
    /// Who votes; of a change that is under way, who is to vote.
    pub(crate) voters: BTreeSet<NodeId>,
    /// Whether a change of voters is under way.
    pub(crate) joint: bool,
    /// Everybody in the membership.
    pub(crate) nodes: BTreeSet<NodeId>,
    /// Who joined, and where.
    pub(crate) joined: BTreeMap<NodeId, String>,
    /// Who was removed.
    pub(crate) removed: BTreeSet<NodeId>,
    /// Who answers.
    pub(crate) reachable: BTreeSet<NodeId>,
    /// Who answers and has caught up.
    pub(crate) ready: BTreeSet<NodeId>,
}

/// What is to be done.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Step {
    /// Nothing: the membership is as it should be, as far as that is possible now.
    Nothing,
    /// Have the log sent to a node that joined.
    AddLearner(NodeId, String),
    /// Let these vote; who did and was removed leaves the membership.
    SetVoters(BTreeSet<NodeId>),
    /// Take nodes out that do not vote.
    RemoveLearners(BTreeSet<NodeId>),
    /// Give leadership to one of these.
    HandOver(BTreeSet<NodeId>),
    /// Most of these would have to answer.
    Wait(BTreeSet<NodeId>),
}

/// The next step.
pub(super) fn plan(view: &View) -> Step {
    // It leads for a moment more, until the others know that it has left; what is left to do is the next leader's.
    if !view.nodes.contains(&view.me) {
        return Step::Nothing;
    }
    if view.joint {
        // With another goal, a leader that does not stay would be out of the membership halfway between the two.
        return set_voters(view, view.voters.clone());
    }
    let missing = view
        .joined
        .iter()
        .find(|(id, _)| !view.nodes.contains(id) && !view.removed.contains(id));
    if let Some((id, peer)) = missing {
        return Step::AddLearner(*id, peer.clone());
    }
    let goal = goal(view);
    if goal.is_empty() {
        return Step::Nothing;
    }
    if view.voters.contains(&view.me) && !goal.contains(&view.me) {
        return let_the_leader_go(view, &goal);
    }
    if goal != view.voters {
        return set_voters(view, goal);
    }
    let gone: BTreeSet<NodeId> = view.nodes.intersection(&view.removed).copied().collect();
    if gone.is_empty() {
        Step::Nothing
    } else {
        Step::RemoveLearners(gone)
    }
}

/// Who should vote, going by the rule.
pub(crate) fn goal(view: &View) -> BTreeSet<NodeId> {
    let mut voters: BTreeSet<NodeId> = view.voters.difference(&view.removed).copied().collect();
    let candidates: Vec<NodeId> = view
        .nodes
        .iter()
        .copied()
        .filter(|id| !voters.contains(id) && !view.removed.contains(id) && view.ready.contains(id))
        .collect();
    let wanted = match voters.len() + candidates.len() {
        2 => 2,
        all => {
            let most = all.min(VOTERS_MAX);
            if most.is_multiple_of(2) {
                most.saturating_sub(1)
            } else {
                most
            }
        }
    };
    let room = wanted.saturating_sub(voters.len());
    voters.extend(candidates.into_iter().take(room));
    voters
}

/// Whether most of these answer.
fn most_answer(view: &View, voters: &BTreeSet<NodeId>) -> bool {
    let answer = voters.intersection(&view.reachable).count();
    answer > voters.len() / 2
}

fn set_voters(view: &View, voters: BTreeSet<NodeId>) -> Step {
    if most_answer(view, &voters) {
        Step::SetVoters(voters)
    } else {
        Step::Wait(voters)
    }
}

/// A leader that was removed hands over to a voter that stays, once there is one.
fn let_the_leader_go(view: &View, goal: &BTreeSet<NodeId>) -> Step {
    let stay: BTreeSet<NodeId> = goal.intersection(&view.voters).copied().collect();
    let heirs: BTreeSet<NodeId> = stay.intersection(&view.reachable).copied().collect();
    if !heirs.is_empty() {
        return Step::HandOver(heirs);
    }
    if !stay.is_empty() {
        return Step::Wait(stay);
    }
    let mut both = goal.clone();
    both.insert(view.me);
    set_voters(view, both)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set<const N: usize>(ids: [NodeId; N]) -> BTreeSet<NodeId> {
        ids.into()
    }

    /// Everybody answers and has caught up; the lowest voter leads.
    fn view<const V: usize, const L: usize>(voters: [NodeId; V], learners: [NodeId; L]) -> View {
        let voters = set(voters);
        let nodes: BTreeSet<NodeId> = voters.iter().copied().chain(learners).collect();
        View {
            me: *voters.first().unwrap(),
            voters,
            reachable: nodes.clone(),
            ready: nodes.clone(),
            nodes,
            ..View::default()
        }
    }

    /// Does steps until nothing is to be done; the voters and nodes then, and the steps.
    fn settle(mut view: View) -> (BTreeSet<NodeId>, BTreeSet<NodeId>, Vec<Step>) {
        let mut steps = Vec::new();
        loop {
            let step = plan(&view);
            assert!(steps.len() < 20, "{steps:?}");
            match &step {
                Step::Nothing | Step::Wait(_) => return (view.voters, view.nodes, steps),
                Step::AddLearner(id, _) => {
                    for known in [&mut view.nodes, &mut view.reachable, &mut view.ready] {
                        known.insert(*id);
                    }
                }
                Step::SetVoters(voters) => {
                    let left: Vec<_> = view.voters.difference(voters).copied().collect();
                    view.nodes.retain(|id| !left.contains(id));
                    view.voters.clone_from(voters);
                    view.joint = false;
                }
                Step::RemoveLearners(gone) => view.nodes.retain(|id| !gone.contains(id)),
                Step::HandOver(heirs) => view.me = *heirs.first().unwrap(),
            }
            steps.push(step);
        }
    }

    #[test]
    fn the_number_of_voters_is_odd_and_five_at_most_but_two_of_two_vote() {
        for (size, voters) in [(1, 1), (2, 2), (3, 3), (4, 3), (5, 5), (6, 5), (9, 5)] {
            let mut view = view([1], []);
            view.joined = (2..=size).map(|id| (id, format!("h{id}:1"))).collect();
            let (got, nodes, _) = settle(view);
            assert_eq!(got, (1..=voters).collect(), "of {size}");
            assert_eq!(nodes, (1..=size).collect(), "of {size}");
        }
        // Whoever formed a cluster of four or of nine voters keeps them.
        for size in [4, 9] {
            let mut formed = view([1], []);
            formed.voters = (1..=size).collect();
            formed.nodes.clone_from(&formed.voters);
            formed.reachable.clone_from(&formed.voters);
            assert_eq!(plan(&formed), Step::Nothing);
        }
    }

    #[test]
    fn a_learner_takes_the_place_of_a_voter_in_one_change() {
        let mut replaced = view([1, 2, 3], [4]);
        replaced.removed = set([3]);
        let (voters, nodes, steps) = settle(replaced);
        assert_eq!((voters, nodes), (set([1, 2, 4]), set([1, 2, 4])));
        assert_eq!(steps, [Step::SetVoters(set([1, 2, 4]))]);
    }

    #[test]
    fn a_leader_that_is_out_of_the_membership_leaves_the_rest_to_the_next_one() {
        let mut left = view([2, 3, 4], []);
        left.joined = [(5, "h5:1".to_owned())].into();
        assert!(matches!(plan(&left), Step::AddLearner(5, _)));
        left.me = 1;
        assert_eq!(plan(&left), Step::Nothing);
    }

    #[test]
    fn a_leader_that_goes_hands_over_first() {
        let mut going = view([1, 2, 3], [4]);
        going.removed = set([1]);
        let (voters, _, steps) = settle(going.clone());
        assert_eq!(voters, set([2, 3, 4]));
        assert_eq!(steps[0], Step::HandOver(set([2, 3])));
        going.reachable = set([1, 3, 4]);
        assert_eq!(plan(&going), Step::HandOver(set([3])));

        // Where nobody else votes, somebody must first.
        let mut last = view([1], [2]);
        last.removed = set([1]);
        let (voters, nodes, steps) = settle(last);
        assert_eq!((voters, nodes), (set([2]), set([2])));
        assert_eq!(
            steps,
            [
                Step::SetVoters(set([1, 2])),
                Step::HandOver(set([2])),
                Step::SetVoters(set([2]))
            ]
        );
    }

    #[test]
    fn a_learner_that_is_behind_or_silent_does_not_vote() {
        let mut behind = view([1, 2], [4]);
        behind.ready = set([1, 2]);
        assert_eq!(plan(&behind), Step::Nothing);
        behind.ready = set([1, 2, 4]);
        assert_eq!(plan(&behind), Step::SetVoters(set([1, 2, 4])));
    }

    #[test]
    fn voters_are_not_changed_to_a_set_that_could_not_decide() {
        let mut cut = view([1, 2, 3], []);
        cut.removed = set([2]);
        cut.reachable = set([1, 2]);
        assert_eq!(plan(&cut), Step::Wait(set([1, 3])));
    }

    #[test]
    fn a_change_that_a_leader_left_half_done_is_finished_before_another_begins() {
        let mut half = view([2, 3, 4], [1]);
        half.joint = true;
        half.removed = set([1]);
        half.joined = BTreeMap::from([(5, "h5:1".to_owned())]);
        assert_eq!(plan(&half), Step::SetVoters(set([2, 3, 4])));
    }

    #[test]
    fn a_leader_that_goes_finishes_what_it_found_half_done_although_another_node_could_vote_now() {
        let mut half = view([1, 3], [2, 4]);
        half.me = 2;
        half.joint = true;
        half.removed = set([2]);
        assert_eq!(plan(&half), Step::SetVoters(set([1, 3])));
    }

    #[test]
    fn a_learner_that_was_removed_leaves_the_membership() {
        let mut gone = view([1, 2, 3], [4, 5]);
        gone.removed = set([4]);
        gone.ready = set([1, 2, 3]);
        assert_eq!(plan(&gone), Step::RemoveLearners(set([4])));
        // Nor does one that was removed before it was ever added come in.
        let mut never = view([1, 2, 3], []);
        never.removed = set([4]);
        never.joined = BTreeMap::from([(4, "h4:1".to_owned())]);
        assert_eq!(plan(&never), Step::Nothing);
    }
}
