//! Nodes that were removed while the cluster still needs them.

use mode_envoy_raft::{Caller, ProposeError};

use super::rig::{LONG, TestCluster, leader_of, put, within};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_node_whose_log_is_the_longest_of_those_left_is_elected_again() {
    let mut cluster = TestCluster::new(3);
    let nodes = cluster.start_all().await;
    let removed = leader_of(&nodes[0]).await;
    let others: Vec<u64> = (1..=3).filter(|id| *id != removed).collect();
    let (left, lost) = (others[0], others[1]);
    drop(nodes);
    // Without it, two of three must agree: the removed node, and the one that is left.
    cluster.stop(lost).await;
    let node = cluster.node(removed);
    node.remove_node(removed, &Caller::node(), LONG)
        .await
        .unwrap();
    cluster.stop(left).await;
    // It stands in one log only, which no other voter gets past.
    assert_eq!(put(&node, "alone").await, Err(ProposeError::Timeout));
    drop(node);
    cluster.stop(removed).await;

    let nodes = cluster.start_all_of(&[removed, left]).await;
    within(leader_of(&nodes[1])).await;
    put(&nodes[1], "acme").await.unwrap();
}
