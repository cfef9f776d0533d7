//! Answers that go on, and how many of them a token may have.

use std::time::Duration;

use mode_envoy_proto::admin::v1 as pb;
use mode_envoy_proto::admin::v1::audit_client::AuditClient;
use mode_envoy_proto::admin::v1::calls_client::CallsClient;
use mode_envoy_proto::admin::v1::cluster_client::ClusterClient;
use tonic::{Code, Status, Streaming};

use super::harness::{Node, with};
use crate::admin::streams::OF_ONE;

const DEADLINE: Duration = Duration::from_secs(20);

async fn follow(node: &Node, token: &str) -> Result<Streaming<pb::FollowCallsResponse>, Status> {
    let mut calls = CallsClient::new(node.channel().await);
    let asked = calls.follow_calls(with(token, pb::FollowCallsRequest::default()));
    asked.await.map(tonic::Response::into_inner)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_cannot_use_up_the_listener_with_answers_that_go_on() {
    let node = Node::founded().await;
    let viewer = node.token("viewer").await;
    let mut open = Vec::new();
    for _ in 0..OF_ONE {
        open.push(follow(&node, &viewer).await.unwrap());
    }
    let refused = follow(&node, &viewer).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    for part in ["this token has 8 answers open", "ask another node"] {
        assert!(refused.message().contains(part), "{}", refused.message());
    }
    let mut audit = AuditClient::new(node.channel().await);
    let records = || with(&viewer, pb::ReadRecordsRequest { local: true });
    let refused = audit.read_records(records()).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);

    // What is over at once is not touched by that, and neither is another token.
    let export = pb::ExportRequest::default();
    node.config()
        .await
        .export(with(&viewer, export))
        .await
        .unwrap();
    let mut cluster = ClusterClient::new(node.channel().await);
    let backup = with(&node.root, pb::BackupRequest { local: true });
    let mut backup = cluster.backup(backup).await.unwrap().into_inner();
    assert!(backup.message().await.unwrap().is_some());

    // A reader that goes away leaves its place.
    open.pop();
    let again = async {
        loop {
            match audit.read_records(records()).await {
                Ok(_) => return,
                Err(status) => assert_eq!(status.code(), Code::ResourceExhausted),
            }
        }
    };
    tokio::time::timeout(DEADLINE, again).await.unwrap();
}
