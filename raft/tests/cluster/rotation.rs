//! The cluster secret's replacement, where two begin it at once or nothing comes of it.

use std::pin::pin;
use std::time::Duration;

use mode_envoy_model::rotation::Rotation;
use mode_envoy_raft::{Accepted, Caller, ClusterSecret, ProposeError};
use tokio::task::JoinSet;

use super::rig::{LONG, Node, TestCluster, found, gated, within};

async fn begin(
    node: &Node,
    next: &ClusterSecret,
    caller: &Caller,
    timeout: Duration,
) -> Result<Option<Accepted>, ProposeError> {
    let rotation = Rotation {
        check: next.check(&node.cluster_id()),
        wrapped_key: [2; 40].into(),
        old_wrapped_key: [3; 40].into(),
        generation: 1,
        old_root: [5; 32],
        new_root: [6; 32],
        switched: false,
    };
    let old = node.secrets().current();
    node.begin_rotation((&old, next), rotation, caller, timeout)
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_second_rotation_does_not_lose_the_new_secret_of_the_first() {
    let mut cluster = TestCluster::new(1);
    let node = cluster.start(1).await;
    let id = node.cluster_id();
    let founded = node.propose(found(id), &Caller::node(), LONG).await;
    node.wait_applied(founded.unwrap().index, LONG)
        .await
        .unwrap();
    let [first, second] = [(); 2].map(|()| ClusterSecret::generate().unwrap());

    let mut at_gate = cluster.at_gate.subscribe();
    cluster.gate.close();
    let mut asked = JoinSet::new();
    let (asking, next) = (node.clone(), first.clone());
    asked.spawn(async move { begin(&asking, &next, &gated(), LONG).await });
    within(at_gate.wait_for(|count| *count > 0)).await.unwrap();
    let node_itself = Caller::node();
    let mut late = pin!(begin(&node, &second, &node_itself, LONG));
    // It is asked, and waits for its turn.
    let waiting = tokio::time::timeout(Duration::ZERO, late.as_mut()).await;
    assert!(waiting.is_err());
    cluster.gate.open();
    let begun = within(asked.join_next()).await.unwrap().unwrap();
    assert!(matches!(begun, Ok(Some(_))), "{begun:?}");
    assert_eq!(within(late).await, Ok(None));

    let mut catalog = node.watch_catalog();
    let over = catalog.wait_for(|catalog| catalog.rotation().is_none());
    within(over).await.unwrap();
    assert_eq!(node.secrets().current().check(&id), first.check(&id));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_new_secret_of_which_nothing_came_is_forgotten_although_the_log_stays_as_it_is() {
    let mut cluster = TestCluster::new(1);
    let node = cluster.start(1).await;
    let next = ClusterSecret::generate().unwrap();
    cluster.gate.close();
    let begun = begin(&node, &next, &gated(), Duration::from_millis(500)).await;
    assert_eq!(begun, Err(ProposeError::Timeout));
    assert!(node.secrets().other().is_some(), "it may begin still");
    cluster.gate.refuse();
    let mut steps = node.secrets().watch();
    while node.secrets().other().is_some() {
        within(steps.changed()).await.unwrap();
    }
    assert!(!cluster.dir(1).join("cluster.secret.next").exists());
}
