//! Nodes that were removed while the cluster still needs them.

use mode_envoy_proto::log::v1 as log;
use mode_envoy_proto::peer::v1 as wire;
use mode_envoy_raft::channels::PeerChannels;
use mode_envoy_raft::identity::Identity;
use mode_envoy_raft::{Caller, ProposeError};
use tonic::transport::Channel;
use tonic::{Code, Status};
use wire::calls_client::CallsClient;
use wire::command::Kind as Asked;
use wire::forward_client::ForwardClient;
use wire::members_client::MembersClient;
use wire::propose_response::Result as Proposed;
use wire::raft_client::RaftClient;

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

/// What each service between members answers to a node, by the name of the question.
async fn refusals(
    channel: &Channel,
    envelope: &wire::Envelope,
) -> Vec<(&'static str, Option<Status>)> {
    let mut raft = RaftClient::new(channel.clone());
    let mut forward = ForwardClient::new(channel.clone());
    let mut calls = CallsClient::new(channel.clone());
    let mut members = MembersClient::new(channel.clone());
    let envelope = Some(envelope.clone());
    let offer = wire::SnapshotOffer {
        envelope: envelope.clone(),
        ..Default::default()
    };
    let offer = wire::InstallSnapshotRequest {
        kind: Some(wire::install_snapshot_request::Kind::Offer(offer)),
    };
    let offered = raft.install_snapshot(tokio_stream::iter([offer])).await;
    let offered = match offered {
        Ok(mut answers) => within(answers.get_mut().message()).await.err(),
        Err(refused) => Some(refused),
    };
    macro_rules! ask {
        ($client:ident, $call:ident, $request:ident $(, $rest:expr)?) => {{
            let request = wire::$request {
                envelope: envelope.clone(),
                $(..$rest)?
            };
            (
                stringify!($call),
                within($client.$call(request)).await.err(),
            )
        }};
    }
    vec![
        ("install_snapshot", offered),
        ask!(
            raft,
            append_entries,
            AppendEntriesRequest,
            Default::default()
        ),
        ask!(raft, vote, VoteRequest, Default::default()),
        ask!(forward, read_index, ReadIndexRequest),
        ask!(forward, flush_usage, FlushUsageRequest),
        ask!(calls, query_calls, QueryCallsRequest, Default::default()),
        ask!(calls, tail_calls, TailCallsRequest, Default::default()),
        ask!(
            members,
            transfer_leader,
            TransferLeaderRequest,
            Default::default()
        ),
        ask!(members, campaign, CampaignRequest, Default::default()),
        ask!(members, take_secret, TakeSecretRequest),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_node_is_told_so_may_hand_in_its_own_usage_and_is_heard_in_nothing_else() {
    let mut cluster = TestCluster::new(3);
    let nodes = cluster.start_all().await;
    let asked = leader_of(&nodes[0]).await;
    let removed = (1..=3).find(|id| *id != asked).unwrap();
    let node = cluster.node(asked);
    let identity = Identity::new(cluster.secret(), removed, Some(node.cluster_id()), None);
    let channel = PeerChannels::new(identity.unwrap()).channel(asked, cluster.address(asked));
    let envelope = wire::Envelope {
        cluster_id: node.cluster_id().to_vec(),
        from: removed,
        to: asked,
    };
    let mut forward = ForwardClient::new(channel.clone());
    let is_out = |told: &Status| told.message().contains("was removed from the cluster");

    let mut applied = node.watch_applied();
    node.remove_node(removed, &Caller::node(), LONG)
        .await
        .unwrap();
    loop {
        let question = wire::NodeStatusRequest {
            envelope: Some(envelope.clone()),
        };
        let told = within(forward.node_status(question)).await.unwrap();
        if told.into_inner().asker_removed {
            break;
        }
        within(applied.changed()).await.unwrap();
    }

    for (question, refused) in refusals(&channel, &envelope).await {
        let refused = refused.unwrap_or_else(|| panic!("{question} was answered"));
        assert_eq!(refused.code(), Code::PermissionDenied, "{question}");
        assert!(is_out(&refused), "{question}: {refused}");
    }
    let propose = |kind| wire::ProposeRequest {
        envelope: Some(envelope.clone()),
        proposal: Some(wire::Proposal { kind: Some(kind) }),
        actor: "cluster".to_owned(),
        deadline_ms: 10_000,
        ..Default::default()
    };
    let usage = |node| {
        let batch = log::UsageBatch {
            node,
            incarnation: 1,
            seq: 1,
            ..Default::default()
        };
        propose(wire::proposal::Kind::Usage(batch))
    };
    let abort = Asked::AbortRotation(wire::AbortRotation {});
    let command = propose(wire::proposal::Kind::Command(wire::Command {
        kind: Some(abort),
    }));
    for message in [command, usage(asked)] {
        let refused = within(forward.propose(message)).await.unwrap_err();
        assert!(is_out(&refused), "{refused}");
    }
    let counted = within(forward.propose(usage(removed))).await.unwrap();
    let counted = counted.into_inner().result;
    assert!(matches!(counted, Some(Proposed::Stream(_))), "{counted:?}");
}
