//! Members of real clusters in one process: real files, real TLS on loopback, the crate's public API only.

#[path = "cluster/removal.rs"]
mod removal;
#[path = "cluster/requests.rs"]
mod requests;
#[path = "cluster/rig.rs"]
mod rig;
#[path = "cluster/rotation.rs"]
mod rotation;
#[path = "cluster/snapshots.rs"]
mod snapshots;

use std::time::Duration;

use mode_envoy_model::batch::Outcome;
use mode_envoy_model::command::{ChangeKind, Command, RejectedCode};
use mode_envoy_model::object::{Kind, ObjectRef};
use mode_envoy_proto::peer::v1::{QueryCallsRequest, TailCallsRequest};
use mode_envoy_raft::{Caller, MemberRole, ProposeError, StartError};
use tokio::task::JoinSet;

use rig::{
    LONG, Node, TestCluster, batch, found, gated, leader_of, put, put_tenant, register, stranger,
    tenant, within,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_of_one_has_its_state_back_after_a_restart() {
    let mut cluster = TestCluster::new(1);
    let node = cluster.start(1).await;
    let id = node.cluster_id();
    node.propose(found(id), &Caller::node(), LONG)
        .await
        .unwrap();
    let accepted = put(&node, "acme").await.unwrap();
    assert_eq!(
        (accepted.revision, accepted.changes[0].what),
        (2, ChangeKind::Created)
    );
    node.wait_applied(accepted.index, LONG).await.unwrap();
    let before = node.read(Clone::clone);
    drop(node);
    cluster.stop(1).await;

    let node = cluster.start(1).await;
    node.read_barrier(LONG).await.unwrap();
    assert_eq!(node.cluster_id(), id);
    assert!(node.read(|state| state.catalog == before.catalog));
    let again = node
        .propose(found(id), &Caller::node(), LONG)
        .await
        .unwrap();
    assert_eq!((again.revision, again.index), (2, 0));
    assert_eq!(again.changes[0].what, ChangeKind::Unchanged);
    let wall_ms = before.wall_ms;
    let next = put(&node, "other").await.unwrap();
    node.wait_applied(next.index, LONG).await.unwrap();
    assert_eq!(next.revision, 3);
    assert!(node.wall_ms() >= wall_ms);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_begins_at_the_checkpoint_and_replays_what_came_after() {
    let mut cluster = TestCluster::new(1);
    cluster.checkpoint_every = 8;
    let node = cluster.start(1).await;
    let incarnation = node.register(register(1), LONG).await.unwrap();
    for number in 1..=20 {
        put(&node, &format!("t{number}")).await.unwrap();
        let counted = node
            .count(batch(1, incarnation, number), LONG)
            .await
            .unwrap();
        assert_eq!(counted, Outcome::Counted);
    }
    let index = node.read_barrier(LONG).await.unwrap();
    let before = node.read(Clone::clone);
    drop(node);
    cluster.stop(1).await;
    assert!(
        cluster
            .dir(1)
            .join("checkpoint/chunks")
            .read_dir()
            .unwrap()
            .count()
            > 2
    );

    let node = cluster.start(1).await;
    node.wait_applied(index, LONG).await.unwrap();
    node.read_barrier(LONG).await.unwrap();
    assert!(node.read(|state| *state == before));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proposals_that_arrive_together_share_entries() {
    let mut cluster = TestCluster::new(1);
    let node = cluster.start(1).await;
    let start = node.read_barrier(LONG).await.unwrap();
    let mut proposals = JoinSet::new();
    for number in 0..300 {
        let node = node.clone();
        proposals.spawn(async move { put(&node, &format!("t{number}")).await.unwrap().revision });
    }
    let mut revisions = within(proposals.join_all()).await;
    revisions.sort_unstable();
    assert_eq!(revisions, (1..=300).collect::<Vec<u64>>());
    let entries = node.read_barrier(LONG).await.unwrap() - start;
    assert!(entries < 150, "{entries} entries for 300 proposals");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_changes_nothing_writes_nothing() {
    let mut cluster = TestCluster::new(1);
    let node = cluster.start(1).await;
    put(&node, "acme").await.unwrap();
    let index = node.read_barrier(LONG).await.unwrap();

    let dry = Command::Put {
        objects: vec![tenant("new")],
        dry_run: true,
    };
    let dry = node.propose(dry, &Caller::node(), LONG).await.unwrap();
    assert_eq!(
        (dry.revision, dry.index, dry.changes[0].what),
        (1, 0, ChangeKind::Created)
    );
    let same = put(&node, "acme").await.unwrap();
    assert_eq!(
        (same.revision, same.index, same.changes[0].what),
        (1, 0, ChangeKind::Unchanged)
    );
    let absent = ObjectRef {
        kind: Kind::Tenant,
        tenant: None,
        name: "nobody".into(),
    };
    let refused = node
        .propose(Command::Delete(absent), &Caller::node(), LONG)
        .await;
    let Err(ProposeError::Rejected(rejected)) = refused else {
        panic!("{refused:?}")
    };
    assert_eq!(rejected.code, RejectedCode::NotFound);
    let refused = node.propose(put_tenant("mine"), &stranger(), LONG).await;
    let Err(ProposeError::Rejected(rejected)) = refused else {
        panic!("{refused:?}")
    };
    assert_eq!(rejected.code, RejectedCode::Forbidden);

    assert_eq!(node.read_barrier(LONG).await.unwrap(), index);
    assert!(node.catalog().tenant("new").is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_agree_whichever_is_asked() {
    let mut cluster = TestCluster::new(3);
    let nodes = cluster.start_all().await;
    for (number, node) in nodes.iter().enumerate() {
        let name = format!("t{number}");
        put(node, &name).await.unwrap();
        for other in &nodes {
            other.read_barrier(LONG).await.unwrap();
            assert!(other.catalog().tenant(&name).is_some());
        }
    }
    let again = put(&nodes[1], "t0").await.unwrap();
    assert_eq!((again.revision, again.index), (3, 0));
    for node in &nodes {
        let refused = node.propose(put_tenant("mine"), &stranger(), LONG).await;
        assert!(
            matches!(refused, Err(ProposeError::Rejected(r)) if r.code == RejectedCode::Forbidden)
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn usage_counts_once_through_every_node() {
    let mut cluster = TestCluster::new(3);
    let nodes = cluster.start_all().await;
    for node in &nodes {
        let id = node.node_id();
        let incarnation = node.register(register(id), LONG).await.unwrap();
        let first = batch(id, incarnation, 1);
        assert_eq!(
            node.count(first.clone(), LONG).await.unwrap(),
            Outcome::Counted
        );
        assert_eq!(
            node.count(first, LONG).await.unwrap(),
            Outcome::ExpectSeq(2)
        );
        let old = batch(id, incarnation - 1, 2);
        assert_eq!(node.count(old, LONG).await.unwrap(), Outcome::Fenced);
    }
    for node in &nodes {
        node.read_barrier(LONG).await.unwrap();
        assert_eq!(rig::calls(node), 3);
    }
    let missing = nodes[0].flush_others(LONG).await;
    assert!(missing.is_empty());
    assert_eq!(cluster.flushes(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_stops_is_missed_and_catches_up_when_it_returns() {
    let mut cluster = TestCluster::new(3);
    let nodes = cluster.start_all().await;
    let leader = leader_of(&nodes[0]).await;
    let follower = nodes
        .iter()
        .map(Node::node_id)
        .find(|id| *id != leader)
        .unwrap();
    drop(nodes);
    cluster.stop(follower).await;

    let asked = cluster.node(leader);
    put(&asked, "acme").await.unwrap();
    let statuses = asked.statuses(Duration::from_secs(1)).await;
    let seen: Vec<_> = statuses.iter().map(|s| (s.id, s.reachable)).collect();
    assert_eq!(seen, [1, 2, 3].map(|id| (id, id != follower)));
    let role = |id| statuses.iter().find(|s| s.id == id).map(|s| s.role);
    assert_eq!(role(leader), Some(MemberRole::Leader));
    assert_eq!(role(follower), Some(MemberRole::Follower));
    assert_eq!(asked.flush_others(Duration::from_secs(1)).await, [follower]);

    let returned = cluster.start(follower).await;
    returned.read_barrier(LONG).await.unwrap();
    assert!(returned.catalog().tenant("acme").is_some());
    let (ours, theirs) = (asked.read(Clone::clone), returned.read(Clone::clone));
    assert!(ours == theirs);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn call_records_are_told_by_members_that_run_and_by_nobody_else() {
    let mut cluster = TestCluster::new(2);
    let nodes = cluster.start_all().await;
    let ask = |node: u64| nodes[0].query_calls(node, QueryCallsRequest::default(), LONG);
    let tail = |node: u64| nodes[0].tail_calls(node, TailCallsRequest::default(), LONG);
    assert!(within(ask(2)).await.is_some() && within(tail(2)).await.is_some());
    assert!(within(ask(9)).await.is_none());
    cluster.stop(2).await;
    assert!(within(ask(2)).await.is_none() && within(tail(2)).await.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_leader_is_replaced_and_nothing_acknowledged_is_lost() {
    let mut cluster = TestCluster::new(3);
    let nodes = cluster.start_all().await;
    put(&nodes[0], "before").await.unwrap();
    let leader = leader_of(&nodes[0]).await;
    drop(nodes);
    cluster.stop(leader).await;

    for id in cluster.running() {
        let node = cluster.node(id);
        put(&node, &format!("after-{id}")).await.unwrap();
        node.read_barrier(LONG).await.unwrap();
        assert!(node.catalog().tenant("before").is_some());
        assert_ne!(leader_of(&node).await, leader);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_majority_a_write_fails_in_time_and_reads_here_go_on() {
    let mut cluster = TestCluster::new(3);
    let nodes = cluster.start_all().await;
    put(&nodes[0], "acme").await.unwrap();
    nodes[0].read_barrier(LONG).await.unwrap();
    drop(nodes);
    cluster.stop(2).await;
    cluster.stop(3).await;

    let node = cluster.node(1);
    let refused = within(put_within(&node, "other", Duration::from_secs(3))).await;
    assert!(
        !matches!(refused, Ok(_) | Err(ProposeError::Rejected(_))),
        "{refused:?}"
    );
    assert!(node.read_barrier(Duration::from_millis(500)).await.is_err());
    assert!(node.catalog().tenant("acme").is_some());
    assert!(node.catalog().tenant("other").is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_node_that_ends_does_not_say_that_nothing_was_written_of_what_the_leader_has() {
    let mut cluster = TestCluster::new(3);
    let nodes = cluster.start_all().await;
    let leader = leader_of(&nodes[0]).await;
    let follower = (1..=3).find(|id| *id != leader).unwrap();
    let mut at_gate = cluster.at_gate.subscribe();
    cluster.gate.close();
    let node = cluster.node(follower);
    let mut asked = JoinSet::new();
    asked.spawn(async move { node.propose(put_tenant("acme"), &gated(), LONG).await });
    within(at_gate.wait_for(|count| *count > 0)).await.unwrap();
    cluster.stop(follower).await;
    let answer = within(asked.join_next()).await.unwrap().unwrap();
    assert_eq!(answer, Err(ProposeError::Timeout));
    cluster.gate.open();
    let mut catalog = cluster.node(leader).watch_catalog();
    let written = catalog.wait_for(|catalog| catalog.tenant("acme").is_some());
    within(written).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_lost_its_log_does_not_come_back_under_its_id() {
    let mut cluster = TestCluster::new(1);
    let node = cluster.start(1).await;
    put(&node, "acme").await.unwrap();
    drop(node);
    cluster.stop(1).await;
    std::fs::remove_dir_all(cluster.dir(1).join("wal")).unwrap();
    let refused = cluster.try_start(1).await;
    let Err(StartError::LogLost { node_id: 1, .. }) = refused else {
        panic!("{refused:?}")
    };
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handle_outlives_its_node_and_says_so() {
    let mut cluster = TestCluster::new(1);
    let node = cluster.start(1).await;
    put(&node, "acme").await.unwrap();
    cluster.stop(1).await;
    let refused = put(&node, "other").await;
    assert_eq!(refused, Err(ProposeError::ShuttingDown));
    assert_eq!(
        node.read_barrier(LONG).await,
        Err(ProposeError::ShuttingDown)
    );
    assert!(node.catalog().tenant("acme").is_some());
    assert_eq!(*node.failed().borrow(), None);
}

async fn put_within(
    node: &Node,
    name: &str,
    timeout: Duration,
) -> Result<mode_envoy_raft::Accepted, ProposeError> {
    node.propose(put_tenant(name), &Caller::node(), timeout)
        .await
}
