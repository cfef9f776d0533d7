//! The service `Calls`: who may ask, and what is said where there is nothing to tell.

use std::time::Duration;

use mode_envoy_proto::admin::v1 as pb;
use mode_envoy_proto::admin::v1::calls_client::CallsClient;
use mode_envoy_proto::admin::v1::tokens_client::TokensClient;
use tonic::Code;
use tonic::transport::Channel;

use super::harness::{Node, with};

async fn calls(node: &Node) -> CallsClient<Channel> {
    CallsClient::new(node.channel().await)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_viewer_may_ask_and_a_node_without_records_names_itself() {
    let node = Node::founded().await;
    let viewer = node.token("viewer").await;
    let mut calls = calls(&node).await;
    let question = pb::QueryCallsRequest::default;
    let refused = calls.query_calls(with("met-nobody", question())).await;
    assert_eq!(refused.unwrap_err().code(), Code::Unauthenticated);
    // The log of this node is never opened here.
    let answer = calls.query_calls(with(&viewer, question())).await.unwrap();
    assert_eq!(answer.into_inner().missing_nodes, [1]);

    let id = "no-such-call".to_owned();
    let explain = calls
        .explain(with(&viewer, pb::ExplainRequest { id }))
        .await;
    let refused = explain.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    assert!(
        refused.message().contains("node 1, which did not answer"),
        "{refused}"
    );
    let limit = pb::QueryCallsRequest {
        limit: 1_000_000,
        ..question()
    };
    let refused = calls.query_calls(with(&viewer, limit)).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    for id in ["", "two words", &"x".repeat(129)] {
        let id = id.to_owned();
        let refused = calls
            .explain(with(&viewer, pb::ExplainRequest { id }))
            .await;
        assert_eq!(refused.unwrap_err().code(), Code::InvalidArgument);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_whose_token_is_revoked_is_told_nothing_more() {
    let node = Node::founded().await;
    let viewer = node.token("viewer").await;
    let question = with(&viewer, pb::FollowCallsRequest::default());
    let mut followed = calls(&node)
        .await
        .follow_calls(question)
        .await
        .unwrap()
        .into_inner();
    let first = followed.message().await.unwrap().unwrap();
    assert_eq!((first.calls.len(), first.missing_nodes.len()), (0, 0));
    let name = "viewer".to_owned();
    TokensClient::new(node.channel().await)
        .revoke_token(with(&node.root, pb::RevokeTokenRequest { name }))
        .await
        .unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(20), followed.message()).await;
    assert_eq!(ended.unwrap().unwrap_err().code(), Code::Unauthenticated);
}
