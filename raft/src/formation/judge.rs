//! What the answers of the other nodes mean. Pure: the stage on disk and the answers in, the next step out.
//!
//! Invariants:
//! * A step forward needs an answer of every other node. One that is absent is waited for.
//! * A refusal or a contradiction ends the start, whoever else is absent: waiting would not cure it.

use std::collections::BTreeMap;

use mode_envoy_proto::peer::v1::{FormResponse, NodeState};

use super::{FormationError, Waiting};
use crate::data_dir::Stage;
use crate::identity::ClusterId;

/// A peer's text of a refusal is shown up to this many characters.
const REFUSAL_CHARS_MAX: usize = 1024;

/// One node's answer.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) node_id: u64,
    pub(super) address: String,
    pub(super) reply: Reply,
}

/// What it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// Nothing, or nothing that can be understood; why.
    Absent(String),
    /// It will not take part; why.
    Refuses(String),
    /// It has no cluster.
    Fresh,
    /// It has persisted this id.
    Forming(ClusterId),
    /// This cluster exists, and these ids have lived in it.
    Member(ClusterId, Vec<u64>),
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Ask again; these are missing.
    Wait(Vec<Waiting>),
    /// Every node is here and fresh: make a cluster id and persist it.
    BeginForming,
    /// Every node has persisted the cluster id: the cluster exists.
    BecomeMember,
}

// === impl Reply ===

impl Reply {
    /// Reads the response of node `node_id`.
    pub(super) fn of_response(response: FormResponse, node_id: u64) -> Self {
        if response.node_id != node_id {
            return Self::Absent(format!("it says that it is node {}", response.node_id));
        }
        if !response.refusal.is_empty() {
            return Self::Refuses(response.refusal.chars().take(REFUSAL_CHARS_MAX).collect());
        }
        let cluster_id = ClusterId::try_from(response.cluster_id.as_slice());
        match (response.state(), cluster_id) {
            (NodeState::Fresh, _) => Self::Fresh,
            (NodeState::Forming, Ok(cluster_id)) => Self::Forming(cluster_id),
            (NodeState::Member, Ok(cluster_id)) => Self::Member(cluster_id, response.members),
            _ => Self::Absent(
                "its answer cannot be understood; it may be of another version".to_owned(),
            ),
        }
    }
}

/// Decides for a node that is not formed yet: fresh, or forming as the lowest id.
///
/// # Errors
/// [`FormationError`], where waiting would not help.
pub(super) fn judge(
    node_id: u64,
    stage: &Stage,
    members: &BTreeMap<u64, String>,
    answers: Vec<Answer>,
) -> Result<Next, FormationError> {
    let ours = match *stage {
        Stage::Fresh => None,
        Stage::Forming { cluster_id } | Stage::Member { cluster_id, .. } => Some(cluster_id),
    };
    let lowest = members.keys().next() == Some(&node_id);
    let mut waiting = Vec::new();
    for answer in answers {
        if let Some(reason) = missing(node_id, ours, lowest, &answer)? {
            waiting.push(Waiting {
                node_id: answer.node_id,
                address: answer.address,
                reason,
            });
        }
    }
    if waiting.is_empty() && !lowest {
        let first = members.iter().next();
        waiting.extend(first.map(|(&node_id, address)| Waiting {
            node_id,
            address: address.clone(),
            reason: "the node with the lowest id has not sent the cluster's id yet".to_owned(),
        }));
    }
    Ok(match ours {
        _ if !waiting.is_empty() => Next::Wait(waiting),
        None => Next::BeginForming,
        Some(_) => Next::BecomeMember,
    })
}

/// Why this node counts as missing; `None` where it does not.
fn missing(
    node_id: u64,
    ours: Option<ClusterId>,
    lowest: bool,
    answer: &Answer,
) -> Result<Option<String>, FormationError> {
    let peer = answer.node_id;
    let other_cluster = |theirs: ClusterId| FormationError::OtherCluster {
        peer,
        address: answer.address.clone(),
        theirs,
        ours,
    };
    match (&answer.reply, ours) {
        (Reply::Absent(reason), _) => Ok(Some(reason.clone())),
        (Reply::Refuses(reason), _) => Err(FormationError::Refused {
            node_id: peer,
            address: answer.address.clone(),
            reason: reason.clone(),
        }),
        (Reply::Fresh, None) => Ok(None),
        (Reply::Fresh, Some(_)) => Ok(Some("it has not persisted the cluster's id".to_owned())),
        (Reply::Forming(theirs) | Reply::Member(theirs, _), Some(ours)) if *theirs == ours => {
            Ok(None)
        }
        (Reply::Forming(theirs) | Reply::Member(theirs, _), Some(_)) => Err(other_cluster(*theirs)),
        // Only the lowest makes ids. Another node that has one got it from a directory that this node has lost.
        (Reply::Forming(theirs), None) if lowest => Err(other_cluster(*theirs)),
        (Reply::Forming(_), None) => Ok(None),
        (&Reply::Member(cluster_id, ref lived), None) if lived.contains(&node_id) => {
            Err(FormationError::Lived {
                node_id,
                peer,
                cluster_id,
            })
        }
        (&Reply::Member(cluster_id, _), None) => Err(FormationError::Unknown {
            node_id,
            peer,
            cluster_id,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const X: ClusterId = [1; 16];
    const Y: ClusterId = [2; 16];

    fn of_three(node_id: u64, stage: Stage, replies: [Reply; 2]) -> Result<Next, FormationError> {
        let members: BTreeMap<u64, String> = (1..=3).map(|id| (id, format!("h:{id}"))).collect();
        let others = (1..=3).filter(|id| *id != node_id);
        let answers = others
            .zip(replies)
            .map(|(node_id, reply)| Answer {
                node_id,
                address: format!("h:{node_id}"),
                reply,
            })
            .collect();
        judge(node_id, &stage, &members, answers)
    }

    fn absent() -> Reply {
        Reply::Absent("why".to_owned())
    }

    fn waits_for(next: Result<Next, FormationError>) -> Vec<u64> {
        match next.unwrap() {
            Next::Wait(waiting) => waiting.iter().map(|w| w.node_id).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_lowest_makes_an_id_only_when_all_others_are_fresh() {
        let fresh = |replies| of_three(1, Stage::Fresh, replies);
        assert_eq!(
            fresh([Reply::Fresh, Reply::Fresh]).unwrap(),
            Next::BeginForming
        );
        assert_eq!(waits_for(fresh([Reply::Fresh, absent()])), [3]);
        assert_eq!(waits_for(fresh([absent(), absent()])), [2, 3]);
    }

    #[test]
    fn the_lowest_declares_the_cluster_only_when_all_others_have_persisted_its_id() {
        let forming = |replies| of_three(1, Stage::Forming { cluster_id: X }, replies);
        let member = Reply::Member(X, vec![1, 2, 3]);
        assert_eq!(
            forming([Reply::Forming(X), Reply::Forming(X)]).unwrap(),
            Next::BecomeMember
        );
        assert_eq!(
            forming([Reply::Forming(X), member]).unwrap(),
            Next::BecomeMember
        );
        assert_eq!(waits_for(forming([Reply::Forming(X), Reply::Fresh])), [3]);
        assert_eq!(waits_for(forming([absent(), Reply::Forming(X)])), [2]);
        let error = forming([absent(), Reply::Forming(Y)]).unwrap_err();
        assert!(matches!(
            error,
            FormationError::OtherCluster {
                peer: 3,
                theirs: Y,
                ours: Some(X),
                ..
            }
        ));
    }

    #[test]
    fn another_node_waits_for_the_lowest_whatever_the_others_say() {
        let fresh = |replies| of_three(3, Stage::Fresh, replies);
        assert_eq!(waits_for(fresh([Reply::Fresh, Reply::Fresh])), [1]);
        assert_eq!(
            waits_for(fresh([Reply::Forming(X), Reply::Forming(X)])),
            [1]
        );
        assert_eq!(waits_for(fresh([Reply::Fresh, absent()])), [2]);
    }

    #[test]
    fn a_fresh_node_never_enters_a_cluster_that_exists() {
        let lived = Reply::Member(X, vec![1, 2, 3]);
        for node_id in 1..=3 {
            let error = of_three(node_id, Stage::Fresh, [absent(), lived.clone()]).unwrap_err();
            let text = error.to_string();
            assert!(matches!(error, FormationError::Lived { .. }), "{text}");
            assert!(
                text.contains(&format!("cluster remove-node {node_id}")),
                "{text}"
            );
        }
        let error =
            of_three(3, Stage::Fresh, [absent(), Reply::Member(X, vec![1, 2])]).unwrap_err();
        assert!(matches!(
            error,
            FormationError::Unknown {
                node_id: 3,
                peer: 2,
                ..
            }
        ));
    }

    #[test]
    fn a_lowest_node_that_lost_its_directory_does_not_make_a_second_id() {
        let error = of_three(1, Stage::Fresh, [absent(), Reply::Forming(X)]).unwrap_err();
        assert!(matches!(
            error,
            FormationError::OtherCluster { ours: None, .. }
        ));
    }

    #[test]
    fn a_refusal_ends_the_start_even_while_others_are_absent() {
        let error =
            of_three(2, Stage::Fresh, [absent(), Reply::Refuses("no".to_owned())]).unwrap_err();
        assert!(matches!(error, FormationError::Refused { node_id: 3, .. }));
    }

    #[test]
    fn a_response_that_cannot_be_understood_counts_as_absent() {
        let response = |state: NodeState, cluster_id: &[u8], node_id| FormResponse {
            state: state.into(),
            cluster_id: cluster_id.to_vec(),
            node_id,
            ..FormResponse::default()
        };
        let read = |response| Reply::of_response(response, 2);
        assert_eq!(read(response(NodeState::Forming, &X, 2)), Reply::Forming(X));
        for odd in [
            response(NodeState::Forming, &X[1..], 2),
            response(NodeState::Member, &[], 2),
            response(NodeState::Unspecified, &X, 2),
            response(NodeState::Forming, &X, 3),
            FormResponse {
                state: 99,
                node_id: 2,
                ..FormResponse::default()
            },
        ] {
            assert!(matches!(read(odd), Reply::Absent(_)));
        }
    }

    #[test]
    fn a_cluster_of_one_forms_without_asking() {
        let members = BTreeMap::from([(1, "h:1".to_owned())]);
        let next = |stage: &Stage| judge(1, stage, &members, Vec::new()).unwrap();
        assert_eq!(next(&Stage::Fresh), Next::BeginForming);
        assert_eq!(next(&Stage::Forming { cluster_id: X }), Next::BecomeMember);
    }
}
