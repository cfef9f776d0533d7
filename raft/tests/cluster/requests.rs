//! Requests that a client named: carried out once, whoever leads, and whatever became of the answer.

use std::future::Future;
use std::pin::{Pin, pin};
use std::time::Duration;

use mode_envoy_model::command::{ChangeKind, Command, RejectedCode};
use mode_envoy_model::object::{Kind, ObjectRef};
use mode_envoy_model::requests::ClientRequest;
use mode_envoy_raft::{Accepted, Caller, ProposeError};

use super::rig::{self, LONG, Node, TestCluster, gated, put_tenant, tenant, within};

type Asked<'a> = Pin<&'a mut dyn Future<Output = Result<Accepted, ProposeError>>>;

fn caller(id: u8, body: u8) -> Caller {
    let request = Some(ClientRequest {
        id: [id; 32],
        body: [body; 32],
        nonce: [0; 16],
    });
    Caller {
        request,
        ..Caller::node()
    }
}

async fn ask(node: &Node, name: &str, id: u8) -> Result<Accepted, ProposeError> {
    node.propose(put_tenant(name), &caller(id, 1), LONG).await
}

fn delete(name: &str) -> Command {
    Command::Delete(ObjectRef {
        kind: Kind::Tenant,
        tenant: None,
        name: name.into(),
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_after_a_change_of_leader_is_answered_and_not_carried_out() {
    let mut cluster = TestCluster::new(3);
    let nodes = cluster.start_all().await;
    let leader = rig::leader_of(&nodes[0]).await;
    let first = ask(&nodes[0], "acme", 1).await.unwrap();
    // Something else happens, so that carrying it out again would be another change.
    let between = nodes[1].propose(delete("acme"), &caller(2, 2), LONG).await;
    assert_eq!(between.unwrap().revision, first.revision + 1);
    drop(nodes);
    cluster.stop(leader).await;

    for id in cluster.running() {
        let node = cluster.node(id);
        let again = within(ask(&node, "acme", 1)).await.unwrap();
        assert_eq!(again, first);
        node.read_barrier(LONG).await.unwrap();
        assert!(node.catalog().tenant("acme").is_none());
        let refused = node.propose(put_tenant("beta"), &caller(1, 9), LONG).await;
        let Err(ProposeError::Rejected(rejected)) = refused else {
            panic!("{refused:?}")
        };
        assert_eq!(rejected.code, RejectedCode::Exists);
        assert_eq!(rejected.violations[0].path, "x-request-id");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tries_that_arrive_together_are_carried_out_once() {
    let mut cluster = TestCluster::new(3);
    let nodes = cluster.start_all().await;
    let mut tries = tokio::task::JoinSet::new();
    for number in 0..30 {
        let node = nodes[number % 3].clone();
        tries.spawn(async move { ask(&node, "acme", 1).await.unwrap() });
    }
    let answers = within(tries.join_all()).await;
    assert!(
        answers
            .iter()
            .all(|a| a.revision == 1 && a.changes[0].what == ChangeKind::Created),
        "{answers:?}"
    );
    nodes[0].read_barrier(LONG).await.unwrap();
    assert_eq!(nodes[0].catalog().revision(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_retry_that_meets_the_first_try_in_one_entry_is_told_its_index() {
    let mut cluster = TestCluster::new(1);
    let node = cluster.start(1).await;
    let mut at_gate = cluster.at_gate.subscribe();
    cluster.gate.close();
    let mut before = tokio::task::JoinSet::new();
    let asking = node.clone();
    before.spawn(async move { asking.propose(put_tenant("other"), &gated(), LONG).await });
    within(at_gate.wait_for(|count| *count > 0)).await.unwrap();
    // The leader decides on another entry, so that these wait for the next one together.
    let mut first = pin!(ask(&node, "acme", 1));
    let mut again = pin!(ask(&node, "acme", 1));
    let mut same = pin!(rig::put(&node, "acme"));
    for asked in [first.as_mut() as Asked<'_>, again.as_mut(), same.as_mut()] {
        let waiting = tokio::time::timeout(Duration::ZERO, asked).await;
        assert!(waiting.is_err());
    }
    cluster.gate.open();
    let first = within(first).await.unwrap();
    assert!(first.index > 0);
    assert_eq!(within(again).await.unwrap(), first);
    // This one found what the entry would make, and changed nothing.
    let same = within(same).await.unwrap();
    assert_eq!((same.revision, same.index), (first.revision, first.index));
    assert_eq!(same.changes[0].what, ChangeKind::Unchanged);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_answered_is_remembered_through_checkpoints_and_restarts() {
    let mut cluster = TestCluster::new(1);
    cluster.checkpoint_every = 8;
    let node = cluster.start(1).await;
    let objects = vec![tenant("acme"), tenant("beta")];
    let both = Command::Put {
        objects,
        dry_run: false,
    };
    ask(&node, "acme", 1).await.unwrap();
    let first = node.propose(both.clone(), &caller(2, 2), LONG).await;
    let first = first.unwrap();
    let whats: Vec<_> = first.changes.iter().map(|change| change.what).collect();
    assert_eq!(whats, [ChangeKind::Unchanged, ChangeKind::Created]);
    for number in 0..20 {
        rig::put(&node, &format!("t{number}")).await.unwrap();
    }
    drop(node);
    cluster.stop(1).await;
    let node = cluster.start(1).await;
    let again = node.propose(both, &caller(2, 2), LONG).await.unwrap();
    assert_eq!(again, first);
}
